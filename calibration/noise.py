"""Signal and noise of a tensor and its quantized form, in sums that add up over images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.errors import CalibrationError


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Power of a reference and of what was added to it; adding two gives that of both together.

    Attributes:
        signal: sum of the squared reference.
        noise: sum of the squared differences.
    """

    signal: float
    noise: float

    @classmethod
    def between(cls, reference: NDArray[Any], candidate: NDArray[Any]) -> Noise:
        """Compare two arrays of one shape, in float64.

        Example:
            >>> Noise.between(np.array([1.0, -2.0, 4.0]), np.array([1.5, -2.5, 4.0]))
            Noise(signal=21.0, noise=0.5)

        Raises:
            CalibrationError: shapes that differ, or values that are not finite.
        """
        if reference.shape != candidate.shape:
            raise CalibrationError(
                f"a tensor of shape {reference.shape} beside one of {candidate.shape}; "
                "expected the same"
            )
        wanted = reference.astype(np.float64).reshape(-1)
        error = candidate.astype(np.float64).reshape(-1) - wanted
        found = cls(signal=float(wanted @ wanted), noise=float(error @ error))
        if not (math.isfinite(found.signal) and math.isfinite(found.noise)):
            raise CalibrationError("values hold NaN or Inf; expected finite numbers")
        return found

    @property
    def sqnr_db(self) -> float | None:
        """Signal-to-quantization-noise ratio; ``None`` where no noise or no signal is.

        Example:
            >>> round(Noise(signal=21.0, noise=0.5).sqnr_db, 2)  # 10 log10(42)
            16.23
        """
        if self.signal <= 0 or self.noise <= 0:
            return None
        return 10 * math.log10(self.signal / self.noise)

    def __add__(self, other: Noise) -> Noise:
        return Noise(signal=self.signal + other.signal, noise=self.noise + other.noise)


SILENCE = Noise(signal=0.0, noise=0.0)
"""Of no values: adding it changes nothing."""
