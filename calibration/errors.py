"""The one error this package raises on purpose."""

from __future__ import annotations


class CalibrationError(ValueError):
    """What was given cannot be calibrated, read or quantized; the message says what and why."""
