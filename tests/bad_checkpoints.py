"""Checkpoint files that must be refused, each made by a small function; none is stored."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.networks import build_network

Build = Callable[[Path], Path]
State = dict[str, Tensor]

FIRST = "conv0_0.conv.0.weight"


def unet(**options: Any) -> State:
    """A state dict of UNet++ that loads."""
    chosen = {"width": 2, "deep_supervision": False} | options
    return dict(build_network(Architecture.UNET_PLUS_PLUS, **chosen).state_dict())


def r2u(**options: Any) -> State:
    """A state dict of R2U-Net that loads."""
    return dict(build_network(Architecture.R2U_NET, **({"width": 2} | options)).state_dict())


# --- files -------------------------------------------------------------------------------------


def file(content: bytes, name: str = "x.pth") -> Build:
    """A file of these bytes."""

    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def at(name: str, make: Callable[[Path], object]) -> Build:
    """What a function puts at a path."""

    def build(folder: Path) -> Path:
        make(folder / name)
        return folder / name

    return build


def locked(path: Path) -> None:
    """A file nobody may read."""
    torch.save(unet(), path)
    path.chmod(0)


# --- pickles -----------------------------------------------------------------------------------


def saved(make: Callable[[], object], name: str = "x.pth", *, legacy: bool = False) -> Build:
    """What ``torch.save`` makes of a value."""

    def build(folder: Path) -> Path:
        torch.save(make(), folder / name, _use_new_zipfile_serialization=not legacy)
        return folder / name

    return build


class Creates:
    """Unpickling it creates a file called ``created``, or calls whatever it is given."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


def code(way: str, *, legacy: bool = False, bare: bool = False) -> Build:
    """A checkpoint that runs code when it is unpickled without care."""

    def build(folder: Path) -> Path:
        target = str(folder / "created")
        call = {
            "system": Creates(os.system, f"touch {target}"),
            "eval": Creates(eval, f"open({target!r}, 'w')"),
            "exec": Creates(exec, f"open({target!r}, 'w')"),
            "open": Creates(open, target, "w"),
            "mkdir": Creates(os.mkdir, target),
        }[way]
        path = folder / "x.pth"
        if bare:
            path.write_bytes(pickle.dumps(call, protocol=2))
        else:
            torch.save(unet() | {"hook": call}, path, _use_new_zipfile_serialization=not legacy)
        return path

    return build


def module() -> nn.Module:
    """A whole network, not its weights."""
    return build_network(Architecture.UNET_PLUS_PLUS, width=1, deep_supervision=False)


def torchscript(path: Path) -> None:
    """A TorchScript archive."""
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def archive(
    edit: Callable[[str, bytes], tuple[str, bytes]],
    *,
    compression: int = zipfile.ZIP_STORED,
    more: Mapping[str, bytes] = {},
) -> Build:
    """A valid ``.pth`` whose members were edited and written again."""

    def build(folder: Path) -> Path:
        plain = io.BytesIO()
        torch.save(unet(), plain)
        path = folder / "x.pth"
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", compression) as output:
            for member in source.infolist():
                output.writestr(*edit(member.filename, source.read(member)))
            for name, content in more.items():
                output.writestr(name, content)
        return path

    return build


def same(name: str, content: bytes) -> tuple[str, bytes]:
    """An edit that changes nothing."""
    return name, content


def lying(*, inflating: bool) -> Build:
    """A valid ``.pth`` with one more storage: 4 MB that inflate to 4 GB, or claim to be 1 TB."""

    def build(folder: Path) -> Path:
        path = folder / "x.pth"
        torch.save(unet(), path)
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
        with zipfile.ZipFile(path, "a") as output:
            output.writestr("x/data/1000", block * 4000 + packer.flush())
            member = output.getinfo("x/data/1000")
            member.file_size = 4000 << 20 if inflating else 1 << 40
            member.compress_type = zipfile.ZIP_DEFLATED if inflating else zipfile.ZIP_STORED
        return path

    return build


def claiming(name: str, content: bytes) -> tuple[str, bytes]:
    """A pickle that says of a storage that it has 2**30 values more than it has."""
    assert not name.endswith("data.pkl") or b"K\x36" in content
    return name, content.replace(b"K\x36", b"J\x36\x00\x00\x40") if "data.pkl" in name else content


def endless_key(name: str, content: bytes) -> tuple[str, bytes]:
    """A pickle of 200 bytes: a dictionary whose key is a pair of pairs, 40 deep."""
    if not name.endswith("data.pkl"):
        return name, content
    pairs = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(40))
    return name, b"\x80\x02}K\x01\x85" + pairs + b"K\x01s."


def cyclic() -> object:
    """A dictionary that holds itself where the weights are looked for."""
    content: dict[str, object] = {"epoch": 1}
    content["state_dict"] = content
    return content


def many_keys() -> object:
    """Twenty thousand names."""
    return {f"key{index}": index for index in range(20_000)}


# --- tensors -----------------------------------------------------------------------------------


def with_tensor(key: str, change: Callable[[Tensor], Tensor], **options: Any) -> Build:
    """UNet++ with one tensor changed."""

    def make() -> object:
        state = unet(**options)
        return state | {key: change(state[key])}

    return saved(make)


def cast(dtype: torch.dtype) -> Build:
    """UNet++ with all of its floats in another type."""

    def make() -> object:
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in unet().items()}

    return saved(make)


def filled(value: float) -> Callable[[Tensor], Tensor]:
    """A tensor with one value replaced."""

    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[0] = value
        return changed

    return change


def quantized(tensor: Tensor) -> Tensor:
    """The tensor in PyTorch's own int8."""
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def without(keys: str) -> Build:
    """UNet++ without the tensors that begin so."""
    return saved(lambda: {k: v for k, v in unet().items() if not k.startswith(keys)})


def plain_unet() -> object:
    """Keys as a plain U-Net has them."""
    names = ("inc.double_conv.0", "down1.maxpool_conv.1.double_conv.0", "outc.conv")
    return {f"{name}.weight": torch.zeros(2, 2, 3, 3) for name in names}


def resnet() -> object:
    """Keys as a ResNet has them."""
    names = ("conv1", "layer1.0.conv1", "layer1.0.conv2", "fc")
    return OrderedDict((f"{name}.weight", torch.zeros(2, 2, 3, 3)) for name in names)


def views() -> object:
    """Shapes of a UNet++ of width 3000, each a view of one stored value."""
    with torch.device("meta"):
        state = unet(width=3000)
    one = torch.zeros(())
    return {key: one.expand(value.shape) for key, value in state.items()}


# --- safetensors -------------------------------------------------------------------------------


def safe(state: Callable[[], State], **metadata: str) -> Build:
    """A safetensors file with metadata."""

    def build(folder: Path) -> Path:
        path = folder / "x.safetensors"
        path.write_bytes(save(state(), metadata=metadata))
        return path

    return build


def header(text: bytes | Mapping[str, object], data: bytes = b"", length: int = -1) -> Build:
    """A safetensors file of this header."""
    content = text if isinstance(text, bytes) else json.dumps(text).encode()
    size = len(content) if length < 0 else length
    return file(size.to_bytes(8, "little") + content + data, "x.safetensors")


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, object]:
    """One tensor in such a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def contract(**fields: object) -> str:
    """The input contract with fields replaced, as metadata holds it."""
    return json.dumps(json.loads(Preprocess(size=(32, 32)).to_json()) | fields)
