"""Rewrite a graph: the same with less work, from image to mask, or for images of any size."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.onnx_model.file import (
    contract_in,
    describe,
    load_model,
    metadata,
    require_fp32,
    save_model,
    set_metadata,
)
from segdeploy.deploy.onnx_model.graph import Rewritten
from segdeploy.deploy.rewrites.any_size import any_size
from segdeploy.deploy.rewrites.dead_channels import dead_channels
from segdeploy.deploy.rewrites.image_interface import image_interface
from segdeploy.deploy.rewrites.recurrent_sum import recurrent_sum
from segdeploy.deploy.rewrites.upsample_convolution import upsample_convolution
from segdeploy.deploy.system.errors import InputError, UsageError

Activity = Mapping[str, NDArray[np.float32]]

METADATA_KEY = "rewrites"


class RewriteName(str, Enum):
    """The rewrites by their command-line names, in the order they are applied."""

    RECURRENT_SUM = "recurrent-sum"
    DEAD_CHANNELS = "dead-channels"
    UPSAMPLE_CONVOLUTION = "upsample-convolution"
    IMAGE_INTERFACE = "image-interface"
    ANY_SIZE = "any-size"


LESS_WORK = (
    RewriteName.RECURRENT_SUM,
    RewriteName.DEAD_CHANNELS,
    RewriteName.UPSAMPLE_CONVOLUTION,
)
"""The rewrites of a float32 graph that keep its inputs and outputs."""

OF_ANY_PRECISION = {RewriteName.IMAGE_INTERFACE, RewriteName.ANY_SIZE}


def rewrite(
    source: Artifact,
    output: Path,
    *,
    names: Collection[RewriteName] = LESS_WORK,
    activity: Activity | None = None,
) -> Artifact:
    """Apply rewrites to a model; one that finds nothing leaves it alone.

    How many places each one changed, and the MACs before and after, stand in the file's metadata;
    ``summary`` puts them into words.

    Args:
        source: an ONNX file; float32 for all but the image interface and any size.
        output: where to write.
        names: which to apply; always in the order of ``RewriteName``.
        activity: what ``deploy.rewrites.channel_activity`` found on ``source``; needed
            for dead channels.

    Raises:
        InputError: the source is not float32, has no ends that an image interface fits, or may
            fix the size of its input.
        UsageError: dead channels without activity.
        OSError: the output cannot be written.
    """
    if set(names) - OF_ANY_PRECISION:
        require_fp32(source, "graphs are rewritten")
    if RewriteName.DEAD_CHANNELS in names and activity is None:
        raise UsageError("dead-channels needs calibration images to see which channels are silent")
    original = load_model(source.path)
    model = original
    sites: dict[str, int] = {}
    for name in RewriteName:
        if name in names:
            result = _applied(name, model, activity or {})
            model, sites[name.value] = result.model, result.sites
    record = {
        "sites": sites,
        "macs_before": onnx_cost(original).macs,
        "macs_after": onnx_cost(model).macs,
    }
    own = {METADATA_KEY: json.dumps(record, sort_keys=True), "parent_sha256": source.sha256}
    set_metadata(model, metadata(model) | own)
    save_model(model, output)
    return describe(output, model=model)


def summary(artifact: Artifact) -> str:
    """What the rewrites changed, for example ``36 recurrent-sum; 21.4 -> 17.1 GMACs``.

    ``nothing to rewrite`` where none found a place.
    """
    record = _record(artifact)
    done = [f"{count} {name}" for name, count in record.get("sites", {}).items() if count]
    if not done:
        return "nothing to rewrite"
    before, after = record["macs_before"], record["macs_after"]
    return f"{', '.join(done)}; {before / 1e9:.3f} -> {after / 1e9:.3f} GMACs"


def changed_sites(artifact: Artifact) -> int:
    """How many places the rewrites changed, over all of them."""
    return sum(_record(artifact).get("sites", {}).values())


def _record(artifact: Artifact) -> dict[str, Any]:
    """What ``rewrite`` left in a file; nothing in a file it did not write.

    Raises:
        InputError: not what ``rewrite`` writes.
    """
    text = metadata(load_model(artifact.path)).get(METADATA_KEY, "{}")
    try:
        found = parse_json(text)
    except ValueError as error:
        raise _no_record(artifact, text) from error
    if not found:
        return {}
    if not isinstance(found, dict) or set(found) != {"sites", "macs_before", "macs_after"}:
        raise _no_record(artifact, text)
    sites = found["sites"]
    counts = [*sites.values()] if isinstance(sites, dict) else [None]
    if not all(type(n) is int for n in (*counts, found["macs_before"], found["macs_after"])):
        raise _no_record(artifact, text)
    return found


def _no_record(artifact: Artifact, text: str) -> InputError:
    return InputError(
        f"{artifact.path}: the metadata {METADATA_KEY!r} is {text!r:.60}, not what `segdeploy "
        "rewrite` writes; rewrite the model again"
    )


def _applied(name: RewriteName, model: onnx.ModelProto, activity: Activity) -> Rewritten:
    if name is RewriteName.DEAD_CHANNELS:
        return dead_channels(model, activity)
    if name is RewriteName.ANY_SIZE:
        return any_size(model)
    if name is RewriteName.IMAGE_INTERFACE:
        return image_interface(model, contract_in(model, source="the model"))
    plain = {
        RewriteName.RECURRENT_SUM: recurrent_sum,
        RewriteName.UPSAMPLE_CONVOLUTION: upsample_convolution,
    }
    return plain[name](model)
