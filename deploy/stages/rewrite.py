"""Rewrite a graph: the same with less work, from image to mask, or for images of any size."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.calibration.json_record import record_of
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


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What ``rewrite`` leaves in a file's metadata: places changed by each, and multiply-adds."""

    sites: dict[str, int]
    macs_before: int
    macs_after: int


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
    record = _Record(
        sites=sites, macs_before=onnx_cost(original).macs, macs_after=onnx_cost(model).macs
    )
    text = json.dumps(asdict(record), sort_keys=True)
    own = {METADATA_KEY: text, "parent_sha256": source.sha256}
    set_metadata(model, metadata(model) | own)
    save_model(model, output)
    return describe(output, model=model)


def summary(artifact: Artifact) -> str:
    """What the rewrites changed, for example ``36 recurrent-sum; 21.4 -> 17.1 GMACs``.

    ``nothing to rewrite`` where none found a place.
    """
    record = _record(artifact)
    if record is None or not any(record.sites.values()):
        return "nothing to rewrite"
    done = [f"{count} {name}" for name, count in record.sites.items() if count]
    before, after = record.macs_before, record.macs_after
    return f"{', '.join(done)}; {before / 1e9:.3f} -> {after / 1e9:.3f} GMACs"


def changed_sites(artifact: Artifact) -> int:
    """How many places the rewrites changed, over all of them."""
    record = _record(artifact)
    return 0 if record is None else sum(record.sites.values())


def _record(artifact: Artifact) -> _Record | None:
    """What ``rewrite`` left in a file; nothing in a file it did not write.

    Raises:
        InputError: not what ``rewrite`` writes.
    """
    text = metadata(load_model(artifact.path)).get(METADATA_KEY)
    if text is None:
        return None
    try:
        return record_of(parse_json(text), _Record, complete=True)
    except ValueError as error:
        raise InputError(
            f"{artifact.path}: the metadata {METADATA_KEY!r} is {text!r:.60}, not what `segdeploy "
            f"rewrite` writes ({error}); rewrite the model again"
        ) from error


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
