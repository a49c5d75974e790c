"""What a network takes and gives: the input and the output contract, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Everything that has to be known of a network that says nothing of itself.

    Example:
        >>> four = OutputContract(activation="softmax", classes=("bg", "a", "b", "c"))
        >>> Contract(preprocess=Preprocess(size=(64, 64)), output=four).output.channels
        4

    Attributes:
        preprocess: how an image becomes its input.
        output: what its channels mean; ``None`` takes what the network's last operator tells, or
            one label of its own where it has one channel.
    """

    preprocess: Preprocess
    output: OutputContract | None = None
