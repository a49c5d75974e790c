"""No file that is written names the user, the machine, its folders or its environment."""

from __future__ import annotations

import base64
import io
import os
import re
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from tiny import TINY

import segdeploy
from segdeploy.cli.main import main
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.models.checkpoint import save_checkpoint
from segdeploy.deploy.packaging.registry import PACKAGE_TARGETS

PERSON, HOST, TOKEN = "SECRETUSER", "SECRETHOST", "SECRETTOKEN"
ENVIRONMENT = {
    **dict.fromkeys(("USER", "LOGNAME", "USERNAME"), PERSON),
    **dict.fromkeys(("HOSTNAME", "HOST"), HOST),
    **dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "OMP_DISPLAY_NAME"), TOKEN),
}
NAME = "unet_plus_plus_l1"
SPLITS = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
TARGET_NEEDS: dict[str, tuple[str, ...]] = {
    "tensorrt": ("--calibration", "{work}/one/table.json"),
    "ascend": ("--calib-data", "{data}", "--data", "{data}"),
    "vacc": ("--calib-data", "{data}", "--data", "{data}"),
}
COMMANDS = {
    "run": "run -c {away}/net.safetensors --head 1 --data={data} -o {run} --target ort-x86 "
    "--runtime onnxruntime --max-drop 100 --duration 0.01 --warmup 0 --batch 1 --threads 1",
    "compare": "report --compare {run} {run} -o {work}/compare",
    "export": "export -c {away}/net.safetensors --head 1 -o {work}/one/net.onnx",
    "adopt": "adopt {work}/one/net.onnx --preprocess {away}/contract.json --data {data} "
    "-o {work}/one/ours.onnx",
    "simplify": "simplify -m {work}/one/net.onnx -o {work}/one/sim.onnx",
    "convert": "convert -m {model} -o {work}/one/half.onnx",
    "rewrite": "rewrite -m {model} -o {work}/one/mask.onnx --rewrites image-interface any-size",
    "calibrate": "calibrate -m {model} -o {work}/one/table.json --calib-data {data} --threads 1 "
    "--method minmax --export onnxruntime tensorrt",
    "quantize": "quantize -m {model} -o {work}/one/int8.onnx --calibration {work}/one/table.json "
    "--data {data} --reference {away}/net.safetensors --head 1 --max-drop 50 --threads 1",
    "debug": "debug -m {model} --calibration {work}/one/table.json --calib-data {data} "
    "--num-samples 1 -o {work}/one/debug.json --threads 1",
    "prepare": "data prepare {data} -o {work}/prepared",
    "predict": "predict {model} {away}/images -o {work}/predicted --threads 1 "
    "--write mask probability probability-npy overlay labels",
    "predict list": "predict {model} @{away}/list.txt -o {work}/listed --threads 1",
    "train": "train --data {data} -o {work}/trained --width 4 --epochs 1 --batch 4 --threads 1 "
    "--workers 1 --pretrained {away}/net.safetensors --tensorboard",
    "dump": "align dump -c {away}/net.safetensors --data {data} --steps 1 -o {work}/dump "
    "--threads 1",
    "curves": "align curves {away}/history.csv {away}/history.csv --plot {work}/one/curves.svg",
    "masks": "benchmark -m {model} --runtime onnxruntime --end-to-end {data}/images "
    "-o {work}/masks --duration 0.01 --warmup 0 --threads 1",
    **{
        f"package {name}": f"package --target {name} -m {{model}} -o {{work}}/packages/{name} "
        + " ".join(TARGET_NEEDS.get(name, ()))
        for name in PACKAGE_TARGETS
    },
}
"""Every command that writes; all paths are absolute, and the inputs lie outside the work folder."""
EXIT_CODES = {"predict": 3, "predict list": 3}


@pytest.fixture(scope="module")
def machine(
    tmp_path_factory: pytest.TempPathFactory,
    _tiny_unet: UNetPlusPlus,
    make_image_set: Callable[[Path, list[str]], Path],
    no_cold_start: None,
) -> Iterator[Path]:
    """A user's folder with inputs in ``archive`` and, in ``work``, all that commands wrote."""
    root = tmp_path_factory.mktemp("machine") / PERSON
    away, work = root / "archive", root / "work"
    for folder in (root / "home", root / "tmp", away / "images", work / "one"):
        folder.mkdir(parents=True)
    save_checkpoint(_tiny_unet, away / "net.safetensors", preprocess=TINY)
    (away / "contract.json").write_text(TINY.to_json())
    data = make_image_set(away / "cells", SPLITS)
    (away / "images/good.png").write_bytes((data / "images/cells_00.png").read_bytes())
    (away / "images/bad.png").write_bytes(b"no image")
    (away / "list.txt").write_text("".join(f"{away}/images/{n}.png\n" for n in ("bad", "none")))
    (away / "history.csv").write_text("epoch,train_loss\n1,0.5\n2,0.25\n")
    places = {"away": away, "work": work, "data": data, "run": work / "run"}
    places["model"] = work / f"run/{NAME}.sim.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        folders = {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp")}
        for name, value in {**ENVIRONMENT, **folders}.items():
            patch.setenv(name, value)
        patch.setattr(tempfile, "tempdir", str(root / "tmp"))
        patch.setattr(socket, "gethostname", lambda: HOST)
        for name, command in COMMANDS.items():
            found = main([word.format(**places) for word in command.split()])
            assert found == EXIT_CODES.get(name, 0), name
        yield root


def private(root: Path) -> tuple[bytes, ...]:
    """What no file may hold: made-up names, and those of the machine the tests run on."""
    python, package = Path(os.__file__).parent, Path(segdeploy.__file__).parents[1]
    own = (PERSON, HOST, TOKEN, root, python, package, Path(tempfile.gettempdir()))
    return tuple(str(name).encode() for name in own)


def layers(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file, and what is packed in them."""
    yield name, content
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from layers(f"{name}: {member}", archive.read(member))
    if content.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(content)) as image:
            image.load()  # text may stand behind the pixels
            yield f"{name}: text", repr(image.info).encode()
    for found in re.finditer(rb"base64,([A-Za-z0-9+/=]+)", content):
        yield from layers(f"{name}: picture", base64.b64decode(found[1]))


def leaks(folder: Path, names: tuple[bytes, ...]) -> set[str]:
    """Every place below a folder, file names too, that holds one of the names."""
    found = set()
    for path in folder.rglob("*"):
        where = path.relative_to(folder).as_posix()
        pieces = [(f"the name {where}", where.encode())]
        pieces += layers(where, path.read_bytes()) if path.is_file() else ()
        found |= {place for place, content in pieces if any(name in content for name in names)}
    return found


def test_what_is_written_names_neither_user_nor_machine(machine: Path) -> None:
    assert leaks(machine / "work", private(machine)) == set()


def test_every_kind_of_file_was_looked_at(machine: Path) -> None:
    kinds = {path.suffix for path in (machine / "work").rglob("*") if path.is_file()}
    assert kinds >= {
        *(".onnx", ".safetensors", ".pt", ".json", ".jsonl", ".csv", ".md", ".html", ".png"),
        *(".svg", ".npy", ".npz", ".sh", ".py", ".xml", ".bin", ".cache", ".pbtxt", ".sha256"),
    }


def test_the_report_says_how_it_was_made(machine: Path) -> None:
    page = (machine / "work/run/report.md").read_text()
    assert "segdeploy run -c net.safetensors --head 1 --data=cells -o run --target" in page


def test_the_search_finds_what_is_packed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner", f"{PERSON} " * 50)
    Image.new("L", (2, 2)).save(tmp_path / "b.png", icc_profile=HOST.encode() * 20)
    (tmp_path / TOKEN).touch()
    picture = base64.b64encode((tmp_path / "b.png").read_bytes())
    (tmp_path / "c.html").write_bytes(b'<img src="data:image/png;base64,' + picture + b'">')
    assert leaks(tmp_path, private(tmp_path / "none")) == {
        *("a.npz: inner", "b.png: text", f"the name {TOKEN}", "c.html: picture: text"),
    }
