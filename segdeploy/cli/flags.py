"""Flags that several verbs share, and what their values may be. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from segdeploy.cli.grammar import Parser
from segdeploy.deploy.system.flag_values import count as count
from segdeploy.deploy.system.flag_values import level, memory_size
from segdeploy.deploy.system.flag_values import not_negative as not_negative
from segdeploy.deploy.system.flag_values import positive as positive
from segdeploy.deploy.system.flag_values import positive_int as positive_int

ARCHITECTURES = (
    "r2u_net",
    "unet_plus_plus",
    "u_net",
    "attention_u_net",
    "r2_attention_u_net",
    "u_net_bilinear",
)
METHODS = ("entropy", "percentile", "mse", "minmax")
RUNTIMES = ("onnxruntime", "openvino", "onnxruntime-cuda", "onnxruntime-tensorrt")
AUTO = "auto"
REWRITES = (
    "recurrent-sum",
    "dead-channels",
    "upsample-convolution",
    "image-interface",
    "any-size",
)
INTERFACES = ("image-interface", "any-size")
"""Rewrites that change how a model is called, and take one of any precision."""

OUTPUT_KINDS = ("sigmoid", "softmax", "sigmoid-logits", "softmax-logits", "logits", "argmax")
ENGINES = ("local", "ray")
HINTS = ("latency", "throughput")
LAYOUTS = ("auto", "dsb2018", "isic2018", "split-folders", "drive", "paired")
TARGETS = (
    "openvino-cpu",
    "openvino-cpu-no-vnni",
    "ort-arm",
    "ort-x86",
    "ort-x86-no-vnni",
    "tensorrt",
)

Group = argparse.ArgumentParser | argparse._ArgumentGroup


def checkpoint_flags(verb: Group, *, required: bool = True) -> None:
    """The checkpoint and what its keys cannot tell."""
    checkpoint_flag(verb, required=required)
    checkpoint_details(verb)


def checkpoint_flag(verb: Group, *, required: bool) -> None:
    """A trained network."""
    verb.add_argument(
        "-c",
        "--checkpoint",
        type=Path,
        required=required,
        help="trained .pth, .pt, .pkl, .ckpt or .safetensors"
        + ("" if required else " (default: bundled)"),
    )


def checkpoint_details(verb: Group) -> None:
    """What the keys of a checkpoint cannot tell."""
    network_flags(verb)
    output_contract_flags(verb)
    verb.add_argument(
        "--head", type=int, choices=(1, 2, 3, 4), help="UNet++ head to take (default: deepest)"
    )
    verb.add_argument(
        "--logits",
        action=argparse.BooleanOptionalAction,
        help="whether the network the checkpoint was trained in returned logits; recorded only, "
        "the exported model ends in probabilities either way (default: as its project's does)",
    )


def network_flags(verb: Group) -> None:
    """The network of a checkpoint, and its input contract."""
    verb.add_argument("--arch", choices=ARCHITECTURES, help="network (default: told by the keys)")
    verb.add_argument(
        "--recurrence",
        type=positive_int,
        help="R2U-Net's t (default: as stored, else its project's: 2, in a .pkl 3)",
    )
    verb.add_argument(
        "--weights",
        metavar="NAME",
        help="which network of a file that holds several, as ema beside model (default: the only "
        "one)",
    )
    preprocess_flag(
        verb,
        default="as stored, else that of the project the keys belong to; published models: 96x96 "
        "BGR, mean and std 0.5",
    )


def preprocess_flag(verb: Group, *, default: str | None) -> None:
    """The input contract: how an image becomes what the network was trained on.

    Args:
        verb: that takes it.
        default: in words; ``None`` makes it required.
    """
    shown = "" if default is None else f" (default: {default})"
    verb.add_argument(
        "--preprocess",
        required=default is None,
        metavar="NAME|FILE.json",
        help="input contract: published (BGR, -1 to 1), imagenet, zero-one, minus-one-one, pixels "
        "(RGB, 0 to 255), as a project trains (unet-zoo, leejunhyun, 4uiiurz1), or a file" + shown,
    )


def output_contract_flags(verb: Group) -> None:
    """What the channels of a network's output mean."""
    verb.add_argument(
        "--classes",
        type=class_names,
        metavar="NAMES",
        help="name of each output channel, between commas: background,cell,gland (default: as "
        "stored, else by number)",
    )
    verb.add_argument(
        "--output-kind",
        choices=OUTPUT_KINDS,
        help="what the output holds; sigmoid: each channel a label of its own, which may overlap; "
        "softmax: each pixel of one class, the first usually the background; the same as logits; "
        "or numbers of classes (default: as stored or told by the last operator, else sigmoid)",
    )
    verb.add_argument(
        "--ignore-index",
        type=count,
        metavar="VALUE",
        help="of label maps: pixels of this value count nowhere, as 255 (default: all count)",
    )
    verb.add_argument(
        "--output-contract",
        type=Path,
        metavar="FILE.json",
        help="activation, classes, colours and ignored_index in a file, instead of those flags",
    )


def adoption_flags(verb: Group) -> None:
    """What the graph of another exporter's file cannot tell, beside its contracts."""
    verb.add_argument(
        "--size",
        type=positive_int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the input, where the model leaves it open (default: the model's, the contract's)",
    )
    verb.add_argument(
        "--output-name",
        metavar="NAME",
        help="which output is the mask (default: the only one, the deepest of several alike)",
    )


def module_flag(verb: Group) -> None:
    """A network that is none of the known ones."""
    verb.add_argument(
        "--module",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="your own function that makes the network, found from the working folder: YOUR CODE "
        "RUNS; the checkpoint is of its weights, from which tensors alone are read. Its contracts "
        "are stated with --preprocess, --classes and --output-kind",
    )


def class_names(given: str) -> tuple[str, ...]:
    """Names between commas.

    Example:
        >>> class_names("background, cell")
        ('background', 'cell')
    """
    return tuple(name.strip() for name in given.split(","))


def range_flag(verb: Group, *, of: str, default: str) -> None:
    """Which levels of 16 bits become 0 and 255.

    Args:
        verb: of these flags.
        of: which images.
        default: what happens without it.
    """
    verb.add_argument(
        "--range",
        dest="levels",
        type=level,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=f"of {of}: levels that become 0 and 255, those beyond them as well; 0 65535 is all of "
        f"them (default: {default})",
    )


def source_flags(verb: Group) -> None:
    """What files hold that are not one 8-bit picture."""
    range_flag(
        verb,
        of="images of 16 bits, for a network that takes 8",
        default="as the input contract says",
    )
    verb.add_argument(
        "--page",
        type=count,
        nargs="+",
        metavar="N",
        help="of files of several pages (OME-TIFF, GIF): which is the image, from 0; for a network "
        "that takes bands one for each (default: files of one page)",
    )


def output_flag(
    verb: Group, help_text: str, *, required: bool = False, default: Path | None = None
) -> None:
    """Where to write."""
    verb.add_argument(
        "-o", "--output", type=Path, required=required, default=default, help=help_text
    )


def overwrite_flag(verb: Group, what: str = "what is there under the name of -o") -> None:
    """Leave to replace something."""
    verb.add_argument("--overwrite", action="store_true", help=f"replace {what}")


# Prepared folders mean one thing everywhere. Calibration, and whatever else looks at values inside
# a network, takes the train split of --calib-data; without it that of --data; without both the
# bundled sample's. What is reported is of the test split of --data, else of the bundled sample.
# Training takes the train and val splits of --data, and so does the short training of `align dump`.


def evaluation_data(verb: Group) -> None:
    """Images to report on."""
    verb.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="prepared folder, its test split (default: bundled sample)",
    )


def calibration_data(verb: Group, *, count_help: str = "default: all") -> None:
    """Images to calibrate on."""
    verb.add_argument(
        "--calib-data",
        type=Path,
        metavar="FOLDER",
        help="prepared folder, its train split (default: that of --data, else bundled sample)",
    )
    verb.add_argument(
        "--num-samples",
        type=positive_int,
        help=f"calibration images, drawn by seed ({count_help})",
    )


def calibration_alone(verb: Parser, *, count_help: str = "default: all") -> None:
    """Images to calibrate on, for a verb that reports on none."""
    calibration_data(verb, count_help=count_help)
    verb.add_argument(
        "--data", type=Path, metavar="FOLDER", help="prepared folder, where --calib-data is none"
    )
    verb.stand_in("calib_data", for_it="data")
    seed_flag(verb)


def method_flag(verb: Group) -> None:
    """How ranges are found."""
    verb.add_argument(
        "--method", choices=METHODS, default="entropy", help="range search (default: entropy, KL)"
    )


def exclude_flag(verb: Group) -> None:
    """Layers to keep in float."""
    verb.add_argument(
        "--exclude", nargs="+", default=[], metavar="LAYER", help="layers to keep in float"
    )


def runtime_flag(verb: Group, *, default: str = "what each file suits and is here") -> None:
    """Runtimes to run on."""
    verb.add_argument(
        "--runtime",
        choices=(AUTO, *RUNTIMES),
        nargs="+",
        help=f"auto: measure, and take the fastest here (default: {default})",
    )


def max_drop_flag(verb: Group) -> None:
    """The gate's budget."""
    verb.add_argument(
        "--max-drop",
        type=not_negative,
        default=0.2,
        help="largest loss of IoU that passes, percentage points; the whole 95 %% interval of the "
        "change must be within it; of mIoU with several classes (default: 0.2)",
    )


def max_drop_class_flag(verb: Group) -> None:
    """The gate's budget of each class."""
    verb.add_argument(
        "--max-drop-class",
        type=not_negative,
        help="with several classes, the same for the IoU of each of them (default: no class may be "
        "lost altogether)",
    )


def timing_flags(verb: Group) -> None:
    """How long to time."""
    verb.add_argument("--warmup", type=count, default=5, help="untimed calls (default: 5)")
    verb.add_argument(
        "--duration", type=positive, default=2.0, help="seconds for each row (default: 2)"
    )


def sweep_flags(verb: Group) -> None:
    """Settings that a benchmark goes through."""
    group = verb.add_argument_group(
        "settings", "every batch is measured with every number of threads and of streams"
    )
    group.add_argument(
        "--hint",
        choices=HINTS,
        help="latency: one call at a time; throughput: every stream busy (default: latency; with "
        "--end-to-end throughput)",
    )
    for flag, what in (
        ("--batch", "images a call (default: 1 8; with --end-to-end 1)"),
        ("--threads", "in all (default: all this process may use)"),
        ("--streams", "calls at once, for throughput (default: one for each thread)"),
    ):
        group.add_argument(flag, type=positive_int, nargs="+", metavar="N", help=what)
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of layers that are not quantized (default: fp32)",
    )


def end_to_end_flags(verb: Group) -> None:
    """From image files to mask files."""
    group = verb.add_argument_group(
        "end to end", "image files in, mask files out; decoding, inference and encoding overlap"
    )
    group.add_argument(
        "--end-to-end",
        type=Path,
        metavar="FOLDER",
        help="measure this, and not the calls alone, on a folder of images of any size",
    )
    output_flag(group, "folder for masks of the images' size (default: they are thrown away)")
    overwrite_flag(group, "masks that the folder holds")


def engine_flags(verb: Group, *, engine: str, workers: str) -> None:
    """Where images are worked on, and by how many, with what a verb says of both."""
    verb.add_argument("--workers", type=positive_int, help=workers)
    verb.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help=engine)


def threads_flag(verb: Group) -> None:
    """Threads of a runtime."""
    verb.add_argument("--threads", type=positive_int, help="default: all this process may use")


def time_limit_flag(verb: Group) -> None:
    """How long a backend may take before it counts as failed."""
    verb.add_argument(
        "--time-limit",
        type=positive,
        default=60.0,
        metavar="SECONDS",
        help="a runtime that takes longer to load a model, or for one call, is stopped and its row "
        "has failed; each runs in a process of its own, so that a crash ends no other "
        "(default: 60)",
    )


def seed_flag(verb: Group) -> None:
    """Seed of whatever is random."""
    verb.add_argument("--seed", type=count, default=0, help="default: 0")


def max_memory_flag(verb: Group) -> None:
    """How much memory a command may take."""
    verb.add_argument(
        "--max-memory",
        type=memory_size,
        metavar="SIZE",
        help="end with exit code 4 when the command and what it started hold more resident memory: "
        "512M, 2G; what was finished is kept, so that the same command goes on (default: no limit)",
    )


UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def tune_flags(verb: Parser, *, judged: str) -> None:
    """The flags of a search for where Q and DQ stand; ``judged`` says by what accuracy is."""
    group = verb.add_argument_group(
        "placement measured on this machine",
        "with --tune: where Q and DQ stand is tried out on the target's runtime, timed in blocks\n"
        "beside the untuned file; what is proven faster and as accurate stays. The file is never\n"
        f"slower than the untuned one. Accuracy is judged by {judged}.\n"
        "An interrupted search goes on when started again.",
    )
    group.add_argument("--tune", type=duration, metavar="TIME", help="time for it: 90s, 5m, 1h")
    group.add_argument(
        "--device-file",
        type=Path,
        metavar="FILE",
        help="what is known of devices, to begin with what paid before; can be shipped "
        "(default: segdeploy-device.json beside the output)",
    )


def duration(text: str) -> float:
    """Seconds of a time such as ``90s``, ``10m`` or ``1.5h``; a plain number is seconds.

    Example:
        >>> duration("10m"), duration("90")
        (600.0, 90.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0; write 90s, 10m or 1h")
    return float(found[1]) * UNITS_S[found[2]]
