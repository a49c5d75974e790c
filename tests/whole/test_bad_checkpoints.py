"""Checkpoints that are damaged, hostile or of another network: each refused in one clean line."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from bad_checkpoints import (
    FIRST,
    Build,
    archive,
    at,
    cast,
    claiming,
    code,
    contract,
    cyclic,
    endless_key,
    entry,
    file,
    filled,
    header,
    locked,
    lying,
    many_keys,
    module,
    plain_unet,
    quantized,
    r2u,
    resnet,
    safe,
    same,
    saved,
    torchscript,
    unet,
    views,
    with_tensor,
    without,
)
from bad_input import assert_refused, device, loop, nothing, run_command

from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.system.errors import InputError

ALL = ("export", "run", "parity", "train", "predict", "benchmark")


@dataclass(frozen=True)
class Case:
    """One bad file, the verbs it goes through, and what they must say."""

    name: str
    build: Build
    message: str
    verbs: tuple[str, ...] = ("export",)
    exit_code: int = 3


CASES = (
    Case("missing", at("x.pth", nothing), "x.pth does not exist; expected a file", ALL),
    Case(
        "folder",
        at("x.pth", Path.mkdir),
        "x.pth (is a folder; expected a file|holds no finished run)",  # the latter from predict
        ALL,
    ),
    Case("link loop", at("x.pth", loop), "x.pth cannot be reached .*expected a file", ALL),
    Case("pipe", at("x.pth", os.mkfifo), "x.pth is a pipe or a device; expected a file", ALL),
    Case("device", at("x.pth", device), "x.pth is a pipe or a device"),
    Case("locked", at("x.pth", locked), "may not be read by this user; change its permissions"),
    Case("endless name", lambda folder: folder / ("x" * 300 + ".pth"), "cannot be reached"),
    Case("empty .pth", file(b""), "x.pth cannot be read", ALL),
    Case(
        "empty .safetensors", file(b"", "x.safetensors"), "cannot be read .*header too small", ALL
    ),
    Case("zeros", file(bytes(4096)), "x.pth cannot be read"),
    Case("zeros .safetensors", file(bytes(4096), "x.safetensors"), "cannot be read"),
    Case("text", file(b"not a checkpoint\n" * 20), "cannot be read"),
    Case("wrong suffix", file(b"x", "x.h5"), "ends in '.h5'; expected one of .safetensors"),
    Case("no suffix", file(b"x", "x"), "ends in ''; expected one of"),
    Case("escapes in its words", file(b"\x1b[2J\x07", "x.safetensors"), "cannot be read"),
    Case("os.system", code("system"), "would execute code.*save plain weights", ALL),
    Case("os.system, legacy", code("system", legacy=True), "would execute code"),
    Case("os.system, bare pickle", code("system", bare=True), "would execute code"),
    Case("eval", code("eval"), "would execute code"),
    Case("exec", code("exec", legacy=True), "would execute code"),
    Case("open", code("open"), "would execute code"),
    Case("mkdir", code("mkdir", bare=True), "would execute code"),
    Case("whole module", saved(module), "holds Python objects besides tensors"),
    Case("whole module, legacy", saved(module, legacy=True), "holds Python objects"),
    Case("TorchScript", at("x.pt", torchscript), "is a TorchScript archive.*save the weights", ALL),
    Case("compressed", archive(same, compression=zipfile.ZIP_DEFLATED), "is compressed, which"),
    Case("lzma", archive(same, compression=zipfile.ZIP_LZMA), "is compressed, which"),
    Case("inflates to 4 GB", lying(inflating=True), "x/data/1000 in it is compressed", ALL),
    Case("claims 1 TB", lying(inflating=False), "claims more bytes of contents than it has"),
    Case("names that climb", archive(lambda n, c: ("../../" + n, c)), "cannot be read"),
    Case("absolute names", archive(lambda n, c: ("/tmp/" + n, c)), "cannot be read"),
    Case(
        "no pickle inside", archive(lambda n, c: (n.replace("data.pkl", "d"), c)), "cannot be read"
    ),
    Case(
        "other archive", archive(lambda n, c: ("word/" + n.replace("/", "_"), c)), "cannot be read"
    ),
    Case("storages that claim more", archive(claiming), "cannot be read"),
    Case("endless key", archive(endless_key), "cannot be read .it claims more than 10"),
    Case("cycle", saved(cyclic), "holds no tensors .its keys: epoch, state_dict"),
    Case("20000 names", saved(many_keys), "key5 and 19994 more"),
    Case("number keys", saved(lambda: {1: torch.zeros(2)}), "keys that are no text .its keys: int"),
    Case("mixed keys", saved(lambda: unet() | {7: torch.zeros(2)}), "under keys that are no text"),  # type: ignore[operator]  # on purpose
    Case(
        "values that are no tensors", saved(lambda: dict.fromkeys(unet(), 1.0)), "holds no tensors"
    ),
    Case("a tensor", saved(lambda: torch.zeros(3)), "holds a Tensor, not a state dict"),
    Case("a list", saved(lambda: [torch.zeros(3)]), "holds a list, not a state dict"),
    Case("nothing", saved(lambda: None), "holds a NoneType, not a state dict"),
    Case(
        "endless prefix", saved(lambda: {"module." * 50_000: torch.zeros(1)}), "neither R2U-Net nor"
    ),
    Case(
        "endless name of a tensor", saved(lambda: {"k" * 10**6: torch.zeros(1)}), "neither R2U-Net"
    ),
    Case("lines in a name", saved(lambda: {"a\n\x1b[2Jb": torch.zeros(1)}), r"keys are a \?\[2Jb;"),
    Case("ResNet", saved(resnet), "neither R2U-Net nor UNet", ALL),
    Case("plain U-Net", saved(plain_unet), "neither R2U-Net nor UNet"),
    Case("both networks", saved(lambda: unet() | r2u()), "does not fit unet.*unexpected keys"),
    Case("lacks the first layer", without(FIRST), f"lacks the convolution weight '{FIRST}'"),
    Case("lacks a block", without("conv1_1"), "does not fit .*12 missing keys: conv1_1"),
    Case("lacks the head", without("final"), "lacks the convolution weight 'final.weight'"),
    Case(
        "a head too many",
        saved(lambda: unet() | {"final5.weight": torch.zeros(1, 2, 1, 1)}),
        "final4",
    ),
    Case(
        "1 channel",
        saved(lambda: unet(in_channels=1)),
        "takes images of 1 channel, and .* contract is of 3; .*--preprocess",
        ALL,
    ),
    Case("4 channels", saved(lambda: r2u(in_channels=4)), "takes images of 4 channels"),
    Case("256 classes", saved(lambda: unet(num_classes=256)), "expected at most 255"),
    Case("width 0", with_tensor(FIRST, lambda t: t[:0]), "lacks the convolution weight"),
    Case(
        "kernel of 5",
        with_tensor(FIRST, lambda t: torch.zeros(2, 3, 5, 5)),
        r"expected \(2, 3, 3, 3\)",
    ),
    Case("width 3000 in one value", saved(views), "claims .* bytes of tensors and has"),
    Case("flat weight", with_tensor(FIRST, torch.flatten), "lacks the convolution weight"),
    Case("NaN", with_tensor(FIRST, filled(torch.nan)), f"tensor '{FIRST}' holds NaN or Inf", ALL),
    Case("Inf", with_tensor("conv0_0.conv.1.running_var", filled(torch.inf)), "holds NaN or Inf"),
    Case("beyond float32", with_tensor(FIRST, lambda t: t.double() + 1e300), "holds NaN or Inf"),
    Case("int8", cast(torch.int8), "conv0_0.conv.0.weight is int8, expected float64, float32"),
    Case("bool", cast(torch.bool), "is bool, expected float64"),
    Case("complex", cast(torch.complex64), "is complex64, expected float64"),
    Case("float8", cast(torch.float8_e4m3fn), "is float8_e4m3fn, expected float64"),
    Case("quantized", with_tensor(FIRST, quantized), "is quantized or sparse; save the float"),
    Case("sparse", with_tensor(FIRST, torch.Tensor.to_sparse), "is quantized or sparse"),
    Case("meta", with_tensor(FIRST, lambda t: t.to("meta")), "is on device meta and has no values"),
    Case(
        "complex counter",
        with_tensor("conv0_0.conv.1.num_batches_tracked", lambda t: t + 0j),
        "is complex64",
    ),
    Case("header of 2**60 bytes", header({}, length=2**60), "cannot be read .*header too large"),
    Case("header longer than the file", header({}, length=5000), "cannot be read"),
    Case("header is no JSON", header(b"hello world"), "cannot be read .*invalid JSON"),
    Case("header is a list", header(b"[1]"), "cannot be read"),
    Case("header without end", header(b"[" * 100_000), "cannot be read"),
    Case("header is no UTF-8", header(b"\xff\xfe{}"), "cannot be read"),
    Case("10**15 values", header({"a": entry([10**15], [0, 4])}, bytes(4)), "cannot be read"),
    Case("2**64 values", header({"a": entry([2**62, 4], [0, 0])}), "cannot be read .*overflow"),
    Case("negative shape", header({"a": entry([-1], [0, 4])}, bytes(4)), "cannot be read"),
    Case(
        "overlapping",
        header({k: entry([1], [0, 4]) for k in "ab"}, bytes(4)),
        "cannot be read .*offset",
    ),
    Case("beyond the end", header({"a": entry([4], [0, 16])}, bytes(4)), "cannot be read"),
    Case("gap", header({"a": entry([1], [4, 8])}, bytes(8)), "cannot be read"),
    Case("unknown type", header({"a": entry([1], [0, 4], "F33")}, bytes(4)), "cannot be read"),
    Case(
        "type of 4 bits",
        header({FIRST: entry([2, 1, 1, 1], [0, 1], "F4")}, b"x"),
        "cannot be read .*f4",
    ),
    Case("no tensors", header({}), "holds no tensors"),
    Case(
        "a name twice",
        header(
            b'{"a":%b,"a":%b}' % ((json.dumps(entry([1], [0, 4])).encode(),) * 2),
            bytes(4),
        ),
        "cannot be read .*'a' stands twice",
    ),
    Case(
        "empty shape of 2**62", header({FIRST: entry([2**62, 3, 0, 3], [0, 0])}), "lacks the conv"
    ),
    Case(
        "recurrence 10**9", safe(r2u, recurrence=str(10**9)), "expected a number from 1 to 32", ALL
    ),
    Case("recurrence of 5000 digits", safe(r2u, recurrence="1" * 5000), "from 1 to 32"),
    Case("recurrence two", safe(r2u, recurrence="two"), "recurrence 'two'; expected a number"),
    Case("recurrence -1", safe(r2u, recurrence="-1"), "recurrence '-1'; expected a number"),
    Case("contract {}", safe(unet, preprocess="{}"), "does not hold a preprocessing contract", ALL),
    Case(
        "contract no JSON", safe(unet, preprocess="96x96"), "does not hold a preprocessing contract"
    ),
    Case(
        "contract without end", safe(unet, preprocess="[" * 10**5), "does not hold a preprocessing"
    ),
    Case("size 0", safe(unet, preprocess=contract(size=[0, 0])), "x.safetensors: .*holds no pixel"),
    Case(
        "size 10**6",
        safe(unet, preprocess=contract(size=[10**6] * 2)),
        "1000000x1000000 .*beyond 4096",
        ALL,
    ),
    Case("size 10**400", safe(unet, preprocess=contract(size=[10**400] * 2)), "19 digits"),
    Case(
        "size in words", safe(unet, preprocess=contract(size=["a", "b"])), "expected a whole number"
    ),
    Case("std 0", safe(unet, preprocess=contract(std=[0.5, 0, 0.5])), "std above zero"),
    Case(
        "std NaN",
        safe(unet, preprocess=contract(std=[0.5, float("nan"), 0.5])),
        "NaN .*expected finite",
        ALL,
    ),
    Case("std 1e-300", safe(unet, preprocess=contract(std=[0.5, 1e-300, 0.5])), "std above zero"),
    Case(
        "std Infinity",
        safe(unet, preprocess=contract(std=[float("inf")] * 3)),
        "Infinity .*expected finite",
    ),
    Case("std in words", safe(unet, preprocess=contract(std=["a"] * 3)), "x.safetensors"),
    Case("scale 1e300", safe(unet, preprocess=contract(scale=1e300)), "finite numbers"),
    Case("scale 0", safe(unet, preprocess=contract(scale=0)), "above zero"),
    Case(
        "scale null", safe(unet, preprocess=contract(scale=None)), "does not hold a preprocessing"
    ),
    Case(
        "mean of 10**5",
        safe(unet, preprocess=contract(mean=[0.5] * 10**5)),
        "mean holds 100000 values",
    ),
    Case(
        "order of 10**5",
        safe(unet, preprocess=contract(channel_order="B" * 10**5)),
        "expected one of GREY, RGB, BGR, BANDS",
    ),
    Case(
        "unknown field", safe(unet, preprocess=contract(code="x")), "does not hold a preprocessing"
    ),
)


@pytest.fixture(scope="module")
def good(
    tmp_path_factory: pytest.TempPathFactory,
    make_image_set: Callable[[Path, list[str]], Path],
    small_onnx: Callable[..., Path],
) -> Path:
    """A folder with an image set and a model that are as they should be."""
    folder = tmp_path_factory.mktemp("good")
    make_image_set(folder / "set", ["train", "train", "val", "test"])
    small_onnx(folder / "good.onnx")
    return folder


def command(verb: str, path: Path, good: Path) -> list[object]:
    """The command line that gives a checkpoint to a verb."""
    output = path.parent / "output"
    data = ("--data", good / "set")
    model = ("-m", good / "good.onnx")
    return {
        "export": [verb, "-c", path, "-o", output],
        "run": [verb, "-c", path, *data, "-o", output],
        "parity": [verb, *model, "--reference", path, *data],
        "train": [verb, *data, "--pretrained", path, "-o", output, "--epochs", 1],
        "predict": [verb, path, good / "set" / "images", "-o", output],
        "benchmark": [verb, *model, "--reference", path, *data],
    }[verb]


@pytest.mark.parametrize(
    ("case", "verb"),
    [pytest.param(case, verb, id=f"{case.name}-{verb}") for case in CASES for verb in case.verbs],
)
def test_refused_in_one_line(case: Case, verb: str, good: Path, tmp_path: Path) -> None:
    if case.name == "locked" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = case.build(tmp_path)
    assert_refused(
        run_command(command(verb, path, good), tmp_path), code=case.exit_code, message=case.message
    )


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_every_prefix_is_refused(kind: str, tmp_path: Path) -> None:
    name = "x.safetensors" if kind == "safetensors" else "x.pth"
    build = safe(unet) if kind == "safetensors" else saved(unet, legacy=kind == "legacy")
    path = build(tmp_path)
    content = path.read_bytes()
    size = len(content)
    lengths = {*range(16), *range(0, size, size // 40), *range(size - 16, size)}
    for length in lengths:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=f"{name} (cannot be read|holds Python)") as caught:
            load_checkpoint(path)
        assert len(str(caught.value).splitlines()) == 1
    path.write_bytes(content)
    assert load_checkpoint(path).detected.width == 2
