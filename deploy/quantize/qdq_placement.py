"""Where Q and DQ stand, as far as it departs from the target's rule.

The rule puts a pair in front of every node that the target computes on integers, lets a Concat
share one scale while that costs little, and leaves out a second pair behind what only moves
integers. On one device, for one network, another placement may be faster: ``benchmarks.tune``
measures which.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

import onnx

from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.system.errors import InputError, one_line


@dataclass(frozen=True, kw_only=True)
class QdqPlacement:
    """What departs from the rule; the default departs in nothing.

    Attributes:
        in_float: nodes that stay in float.
        own_scales: Concats whose inputs and output do not share a scale.
        one_scale: Concats and Adds whose inputs and output share one, whatever it costs. A tensor
            without negative values still shares with none that has them.
        paired: tensors that get a pair, though what makes them only passes integers on.
        unpaired: tensors that get none, where what makes them passes integers of their scale on.
        rounded: tensors that get a pair, though nothing that reads them computes on integers.

    Every list is sorted and free of repetitions, so that equal placements are equal.

    Example:
        >>> both = QdqPlacement(in_float=("up2", "up1")) | QdqPlacement(own_scales=("cat",))
        >>> both.to_json()
        '{"in_float": ["up1", "up2"], "own_scales": ["cat"]}'
        >>> QdqPlacement().to_json(), both == QdqPlacement.from_json(both.to_json())
        ('{}', True)

    Raises:
        ValueError: a Concat that shares a scale and does not, or a tensor with a pair and without.
    """

    in_float: tuple[str, ...] = ()
    own_scales: tuple[str, ...] = ()
    one_scale: tuple[str, ...] = ()
    paired: tuple[str, ...] = ()
    unpaired: tuple[str, ...] = ()
    rounded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, tuple(sorted(set(getattr(self, field.name)))))
        for one, other in (("own_scales", "one_scale"), ("paired", "unpaired")):
            if both := set(getattr(self, one)) & set(getattr(self, other)):
                raise ValueError(f"{sorted(both)[0]!r} stands in {one} and in {other}")

    def __bool__(self) -> bool:
        """Whether anything departs from the rule."""
        return any(asdict(self).values())

    @property
    def places(self) -> int:
        """Nodes and tensors at which it departs."""
        return sum(map(len, asdict(self).values()))

    def __or__(self, other: QdqPlacement) -> QdqPlacement:
        """Both departures.

        Raises:
            ValueError: they contradict each other.
        """
        return QdqPlacement(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def __sub__(self, other: QdqPlacement) -> QdqPlacement:
        """Without the departures of another."""
        return QdqPlacement(
            **{
                f.name: tuple(set(getattr(self, f.name)) - set(getattr(other, f.name)))
                for f in fields(self)
            }
        )

    def to_json(self) -> str:
        """One line, with what departs alone: equal placements give equal text."""
        return json.dumps({name: list(held) for name, held in asdict(self).items() if held})

    @classmethod
    def from_json(cls, text: str) -> QdqPlacement:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: the text is no placement.
        """
        found = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or not found.keys() <= known:
            raise ValueError(f"{text:.80} is no placement; its keys are {', '.join(sorted(known))}")
        for name, held in found.items():
            if not isinstance(held, list) or not all(isinstance(each, str) for each in held):
                raise ValueError(f"{name} of a placement is no list of names")
        return cls(**{name: tuple(held) for name, held in found.items()})

    def require_known(self, graph: onnx.GraphProto) -> None:
        """Refuse names that the graph does not have.

        Raises:
            InputError: the first of them.
        """
        nodes, tensors = {node.name for node in graph.node}, set(GraphIndex(graph).tensors)
        for field in fields(self):
            of_nodes = field.name in ("in_float", "own_scales", "one_scale")
            unknown = set(getattr(self, field.name)) - (nodes if of_nodes else tensors)
            if unknown:
                raise InputError(
                    f"the placement's {field.name} names {one_line(min(unknown), limit=80)!r}, "
                    f"which is no {'node' if of_nodes else 'tensor'} of this model; it was found "
                    "for another one: tune this model"
                )
