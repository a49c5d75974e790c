"""What the calculator behind the published "GFLOPs" counts, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PublishedRule:
    """What the published figure counts besides convolutions, for each element."""

    per_bias: int
    per_batch_norm: int
    per_upsampled: int

    def words(self) -> str:
        """The rule for a reader.

        Example:
            >>> PublishedRule(per_bias=0, per_batch_norm=4, per_upsampled=1).words()
            'convolutions without bias, 4 per BatchNorm element, 1 per upsampled element'
        """
        bias = "with" if self.per_bias else "without"
        return (
            f"convolutions {bias} bias, {self.per_batch_norm} per BatchNorm element, "
            f"{self.per_upsampled} per upsampled element"
        )


PUBLISHED_RULES = {
    "r2u_net": PublishedRule(per_bias=0, per_batch_norm=4, per_upsampled=1),
    "unet_plus_plus": PublishedRule(per_bias=1, per_batch_norm=2, per_upsampled=11),
}
