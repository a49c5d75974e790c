"""What a package says of its models' output: the classes, and what makes them of the values."""

from __future__ import annotations

from typing import Any

from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY, OutputContract

ARGMAX, THRESHOLD = "argmax", "threshold"
"""Post-processing by name: of classes that exclude each other, and of labels of their own."""


def stated_output(contract: OutputContract) -> dict[str, Any]:
    """What the manifest states under ``output``; nothing of the one label of the published models.

    Example:
        >>> stated_output(OutputContract(classes=("nucleus",)))
        {}
        >>> both = stated_output(OutputContract(classes=("cell", "wall")))["output"]
        >>> both["post_processing"], both["threshold"], both["classes"][1]
        ('threshold', 0.5, {'channel': 1, 'name': 'wall', 'colour': [0, 128, 0]})
    """
    if contract.binary and contract == OutputContract(classes=contract.classes):
        return {}
    decision: dict[str, Any] = {"post_processing": ARGMAX}
    if not contract.exclusive:
        decision = {"post_processing": THRESHOLD, "threshold": FOREGROUND_PROBABILITY}
    classes = zip(contract.classes, contract.palette, strict=True)
    return {
        "output": {
            "activation": contract.activation.value,
            **decision,
            "classes": [
                {"channel": channel, "name": name, "colour": list(colour)}
                for channel, (name, colour) in enumerate(classes)
            ],
            "ignored_index": contract.ignored_index,
        }
    }


def section(output: dict[str, Any]) -> str:
    """The README's table of classes, and what decides between them.

    Args:
        output: the manifest's.
    """
    rows = [
        f"| {each['channel']} | {each['name']} | {', '.join(map(str, each['colour']))} |\n"
        for each in output["classes"]
    ]
    decided = (
        f"A pixel's class is the channel of the largest of its {len(rows)} values: argmax over the "
        "channels, of equal values the first."
        if output["post_processing"] == ARGMAX
        else "Each channel is a label of its own, and labels may overlap: a pixel belongs to every "
        f"one whose value is at least {output['threshold']}."
    )
    ignored = output["ignored_index"]
    if ignored is not None:
        decided += f" Pixels of value {ignored} in a label map count nowhere."
    head = "## The classes\n\n| channel | class | red, green, blue |\n| --- | --- | --- |\n"
    return f"{head}{''.join(rows)}\n{decided}\n"
