"""Every reader of a text format, as a function of bytes that keeps one contract.

For any bytes a reader returns a value or raises one of our own errors with a message of one
printable line. Where there is a writer, what it writes of the value reads back as the same.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from segdeploy.benchmarks.literature.file import load_rows
from segdeploy.benchmarks.mixed.state import SearchState
from segdeploy.benchmarks.parity.predictions import read_predictions
from segdeploy.benchmarks.report.compare import compare_reports
from segdeploy.benchmarks.report.compare_page import warnings
from segdeploy.benchmarks.report.files import read_report, verdict_text, write_report
from segdeploy.benchmarks.report.markdown import markdown
from segdeploy.benchmarks.report.verdict import reasons, word_of
from segdeploy.calibration.collection import load_collection, save_collection
from segdeploy.calibration.errors import LONGEST_MESSAGE, CalibrationError
from segdeploy.calibration.exchange import (
    from_onnxruntime,
    from_tensorrt,
    to_onnxruntime,
    to_tensorrt,
)
from segdeploy.calibration.files import read_text
from segdeploy.calibration.table import CalibrationTable
from segdeploy.cli.config import take_config
from segdeploy.cli.parser import build_parser
from segdeploy.cli.train import recipe_of
from segdeploy.deploy.adoption.foreign_file import load_foreign
from segdeploy.deploy.data.image_levels import decode
from segdeploy.deploy.data.image_opening import opened_image
from segdeploy.deploy.data.layouts.pattern import pattern_layout
from segdeploy.deploy.data.layouts.run_lengths import decoded_runs, read_tables
from segdeploy.deploy.data.mask_files import (
    Foreground,
    Reading,
    read_binary,
    read_label_map,
    read_mask,
)
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.data.prepared_files import Prepared, write_splits
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.data.splits import read_splits
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.conventions import CONFIG, NESTED_UNET, contract_of_family
from segdeploy.deploy.models.families import Detected, Family, describe_misfit, detect
from segdeploy.deploy.models.networks import build_network
from segdeploy.deploy.models.state_dicts import find, weights_in
from segdeploy.deploy.onnx_model.normalise import normalise
from segdeploy.deploy.packaging import text_protobuf
from segdeploy.deploy.packaging.ascend.aipp import read_aipp
from segdeploy.deploy.packaging.package import read_manifest
from segdeploy.deploy.packaging.triton.model import read_config
from segdeploy.deploy.prediction.journal import JOURNAL, Journal
from segdeploy.deploy.prediction.settings import Write, is_own_file
from segdeploy.deploy.prediction.sources import sources_of
from segdeploy.deploy.system.checksums import read_checksums
from segdeploy.deploy.system.errors import InputError, SegdeployError, one_line
from segdeploy.deploy.system.yaml_text import read_yaml
from segdeploy.pipeline.workspace import MANIFEST, Workspace
from segdeploy.training.align.dump import INDEX, TENSORS, Dump, read_dump, write_dump
from segdeploy.training.align.history import read_curve
from segdeploy.training.state import state_in

IMAGE_CONTRACTS = (
    Preprocess(),
    Preprocess(channel_order="GREY", mean=(0,), std=(1,)),
    Preprocess(source_bits=16),
    Preprocess(channel_order="GREY", mean=(0,), std=(1,), source_bits=16, source_pages=(1,)),
    Preprocess(channel_order="BANDS", mean=(0,) * 5, std=(1,) * 5, source_bits=16),
    Preprocess(channel_order="BANDS", mean=(0,) * 4, std=(1,) * 4),
)

OWN_ERRORS = (CalibrationError, SegdeployError)
CORPUS = Path(__file__).with_name("corpus")


@dataclass(frozen=True)
class Target:
    """A reader under its contract.

    Attributes:
        name: of the target, and of the folder of its seeds.
        read: the bytes; raises what it raises.
        share: of the inputs of a long run, where a single one takes long.
    """

    name: str
    read: Callable[[bytes], None]
    share: float = 1.0

    def __call__(self, data: bytes) -> bool:
        """Whether the input was accepted; an ``AssertionError`` where the contract is broken."""
        try:
            self.read(data)
        except OWN_ERRORS as error:
            require_one_line(str(error))
            return False
        return True

    def seeds(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())}


def require_one_line(message: str) -> None:
    assert message.strip(), "an error without a message"
    assert message.isprintable(), f"not one printable line: {message!r}"
    assert len(message) <= LONGEST_MESSAGE + 100, f"a message of {len(message)} characters"
    assert "Traceback" not in message


TARGETS: dict[str, Target] = {}


def target(read: Callable[[bytes], None]) -> Callable[[bytes], None]:
    TARGETS[read.__name__] = Target(read.__name__, read)
    return read


@functools.cache
def scratch(owner: int) -> Path:
    """A folder of this process; a forked one has its own."""
    del owner
    folder = tempfile.mkdtemp(prefix="segdeploy-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def emptied() -> Path:
    folder = scratch(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def written(data: bytes, name: str) -> Path:
    path = emptied() / name
    path.write_bytes(data)
    return path


def text_of(data: bytes) -> str:
    """As the readers of files see it."""
    return read_text(written(data, "file.txt"))


@target
def foreign_model(data: bytes) -> None:
    model = load_foreign(written(data, "theirs.onnx"))
    assert not model.functions
    once = model.SerializeToString(deterministic=True)
    normalise(model)
    assert model.SerializeToString(deterministic=True) == once


@target
def calibration_table(data: bytes) -> None:
    path = written(data, "net.calib.json")
    table = CalibrationTable.read(path)
    table.write(path)
    assert CalibrationTable.read(path) == table


@target
def onnxruntime_cache(data: bytes) -> None:
    ranges = from_onnxruntime(text_of(data), source="cache.json")
    text = to_onnxruntime(ranges)  # rounds to float32
    assert to_onnxruntime(from_onnxruntime(text, source="again")) == text


@target
def tensorrt_cache(data: bytes) -> None:
    ranges = from_tensorrt(text_of(data), source="net.cache")
    assert from_tensorrt(to_tensorrt(ranges), source="again") == ranges


@target
def splits(data: bytes) -> None:
    path = written(data, "splits.csv")
    found = read_splits(path)
    if found:
        rows = [
            Prepared(image_id=name, split=split, width=1, height=1) for name, split in found.items()
        ]
        write_splits(rows, path)
        assert read_splits(path) == found


@target
def run_lengths(data: bytes) -> None:
    for listed in read_tables([written(data, "runs.csv")]).values():
        for where, text in listed.objects:
            assert decoded_runs(text, (20, 30), where=where).shape == (20, 30)


@target
def image(data: bytes) -> None:
    """As each kind of input contract takes it; refused where none does."""
    refused: InputError | None = None
    taken = False
    for contract in IMAGE_CONTRACTS:
        try:
            found = decode(Path("image"), contract, content=data).pixels
        except InputError as error:
            require_one_line(str(error))
            refused = error
            continue
        taken = True
        assert (found.dtype, found.shape[2]) == (contract.level_type, contract.channels)
        assert min(found.shape) > 0
    if not taken:
        assert refused is not None
        raise refused


@target
def mask(data: bytes) -> None:
    path = written(data, "mask.png")
    found = read_binary(path, image_path=path, size=mask_size(path))
    assert found.grey.dtype == np.uint8
    assert found.objects is None or found.objects > 0
    again = io.BytesIO()
    Image.fromarray(found.grey).save(again, format="PNG")
    path = written(again.getvalue(), "again.png")
    if found.reading is not Reading.GREY:
        assert np.array_equal(read_mask(path, image_path=path, size=mask_size(path)), found.grey)


CLASSES = OutputContract(
    activation=Activation.SOFTMAX,
    classes=("ground", "a", "b"),
    colours=((0, 0, 0), (255, 0, 0), (0, 255, 0)),
    ignored_index=255,
)


@target
def label_map(data: bytes) -> None:
    path = written(data, "mask.png")
    found = read_label_map(path, image_path=path, size=mask_size(path), output=CLASSES)
    assert set(np.unique(found).tolist()) <= {0, 1, 2, 255}


def mask_size(path: Path) -> tuple[int, int]:
    """Of what a header says; large ones would only take long."""
    with opened_image(path) as image:
        if image.width * image.height > 1 << 16:
            raise InputError("too large for a test")
        return image.height, image.width


@target
def foreground_words(data: bytes) -> None:
    try:
        Foreground.parse(text_of(data).split())
    except ValueError as error:
        raise InputError(one_line(error)) from error


@target
def layout_patterns(data: bytes) -> None:
    images, _, masks = text_of(data).partition("\n")
    pattern_layout(images, masks)


def flags(verb: str, path: Path) -> Any:
    parser, words = build_parser(), [*verb.split(), "--config", str(path)]
    take_config(words, parser)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parser.parse_args(words)
    except SystemExit as error:  # flags that are missing, or that exclude each other
        raise InputError("refused by argparse") from error


@target
def config(data: bytes) -> None:
    options = vars(flags("run", written(data, "flags.yaml")))
    assert options["verb"] == "run"
    assert options["config"].name == "flags.yaml"


@target
def yaml_file(data: bytes) -> None:
    json.dumps(read_yaml(written(data, "file.yaml"), what="file"), skipkeys=True)


@target
def recipe(data: bytes) -> None:
    found = recipe_of(flags("train --data set -o out", written(data, "recipe.yaml")))
    assert json.loads(found.to_json())["arch"] == found.arch.value


@target
def manifest(data: bytes) -> None:
    folder = written(data, MANIFEST).parent
    inputs = {"segdeploy": "0", "arch": "unet_plus_plus"}
    space = Workspace.open(folder, inputs, overwrite=False)
    for entry in space.entries.values():
        assert space.path(entry.file).parent == folder
    space.write()
    assert Workspace.open(folder, inputs, overwrite=False) == space


@functools.cache
def other_report() -> Any:
    return read_report(CORPUS / "report" / "small.json")


@target
def report(data: bytes) -> None:
    path = written(data, "report.json")
    found = read_report(path)
    verdict_text(found)
    assert markdown(found, word=word_of(found), verdict=reasons(found))
    for pair in ((found, other_report()), (other_report(), found)):
        json.dumps(warnings(compare_reports(*pair)))


def report_pages(data: bytes) -> None:
    path = written(data, "report.json")
    found = read_report(path)
    write_report(found, path.parent)
    assert read_report(path) == found


TARGETS["report_pages"] = Target("report_pages", report_pages, share=0.002)


@target
def journal(data: bytes) -> None:
    folder = written(data, JOURNAL).parent
    with contextlib.closing(Journal(folder)) as found:
        rows = [found.row(name) for name in found._places]
    for row in rows:
        assert row is not None
        assert all(is_own_file(file, row.name) for file in row.outputs)
    (folder / JOURNAL).unlink(missing_ok=True)
    with contextlib.closing(Journal(folder)) as again:
        for row in rows:
            again.append(row)
    with contextlib.closing(Journal(folder)) as again:
        assert [again.row(name) for name in again._places] == rows


@target
def preprocess(data: bytes) -> None:
    contract = Preprocess.from_json(text_of(data), source="contract.json")
    assert Preprocess.from_json(contract.to_json(), source="again") == contract


@target
def image_list(data: bytes) -> None:
    path = written(data, "list.txt")
    output = path.parent / "out"
    for source in sources_of([f"@{path}"], output=output, writes=list(Write)):
        for write in Write:
            assert output in Path(os.path.normpath(output / write.file(source.name))).parents


@target
def mixed_state(data: bytes) -> None:
    path = written(data, "net.search.json")
    state = SearchState.open(path, fingerprint="f" * 64)
    if state.ranked:
        assert set(state.ranking()) == set(state.noise[0])
    for trial in state.trials.values():
        assert trial.words()
        trial.within(0.5)
    state.write()
    assert SearchState.open(path, fingerprint="f" * 64) == state


DUMPED = {"inputs/image": np.zeros((1, 1), np.float32), "loss/mean": np.ones(1, np.float32)}


@functools.cache
def dumped_tensors() -> bytes:
    folder = emptied()
    write_dump(Dump(source="", tensors=DUMPED, settings={}, environment={}), folder)
    return (folder / TENSORS).read_bytes()


@target
def align_index(data: bytes) -> None:
    tensors = dumped_tensors()
    folder = written(data, INDEX).parent
    (folder / TENSORS).write_bytes(tensors)
    dump = read_dump(folder)
    write_dump(dump, folder)
    again = read_dump(folder)
    assert (again.settings, again.environment) == (dump.settings, dump.environment)
    assert list(again.tensors) == list(dump.tensors)


@target
def align_history(data: bytes) -> None:
    curve = read_curve(written(data, "history.csv"), "val_iou")
    assert all(map(math.isfinite, (*curve.positions, *curve.values)))
    curve.at(curve.positions[:1])


@target
def checksums(data: bytes) -> None:
    listed = read_checksums(written(data, "checksums.sha256"))
    text = "".join(f"{digest}  {path}\n" for path, digest in listed.items())
    again = text.encode("utf-8", "surrogateescape")
    assert read_checksums(written(again, "again.sha256")) == listed


@target
def package_manifest(data: bytes) -> None:
    stated = read_manifest(written(data, "package.json").parent)
    assert isinstance(stated.target, str)


@target
def published_rows(data: bytes) -> None:
    rows = load_rows(written(data, "rows.yaml"))
    assert len({row.name for row in rows}) == len(rows)


@target
def predictions_order(data: bytes) -> None:
    path = written(data, "order.txt")
    folder = path.parent / "outputs"
    folder.mkdir()
    for number in range(2):
        np.save(folder / f"out_{number}.npy", np.zeros((1, 1), np.float32))
    found = read_predictions(folder, ["a", "b"], size=(1, 1), order=path)
    assert [found.probability(place).shape for place in (0, 1)] == [(1, 1, 1)] * 2


@target
def aipp_config(data: bytes) -> None:
    text = text_of(data)
    assert read_aipp(text, source="aipp.cfg").text() == text


@target
def triton_config(data: bytes) -> None:
    found = read_config(written(data, "config.pbtxt"))
    again = read_config(written(text_protobuf.text_of(found).encode(), "config.pbtxt"))
    assert again.SerializeToString(deterministic=True) == found.SerializeToString(
        deterministic=True
    )


@target
def calibration_state(data: bytes) -> None:
    path = written(data, "state.npz")
    found = load_collection(path, fingerprint="f")
    save_collection(found, path, fingerprint="f")
    assert load_collection(path, fingerprint="f") == found


def decoded(data: bytes) -> Any:
    """What a decoder of checkpoints may return, told by JSON.

    A list that begins with "tensor" is a tensor of that shape, "sparse" and "meta" likewise; keys
    are texts, but "int:5" and "none:" stand for others.
    """
    try:
        return _decoded(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise InputError("no input of this target") from error


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {_key(key): _decoded(item) for key, item in value.items()}
    if isinstance(value, list) and value and value[0] in ("tensor", "sparse", "meta"):
        sides = [side for side in value[1:] if type(side) is int and 0 <= side < 1 << 20]
        shape = sides[:5]
        tensor = torch.zeros(1).expand(shape) if shape else torch.zeros(())
        if value[0] == "sparse":
            return torch.sparse_coo_tensor(size=tuple(shape), check_invariants=True)
        return tensor.to("meta") if value[0] == "meta" else tensor
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def _key(key: str) -> Any:
    if key.startswith("int:") and key[4:].isdecimal() and len(key) < 20:
        return int(key[4:])
    return None if key == "none:" else key


@functools.cache
def expected_shapes(arch: Architecture) -> Any:
    with torch.device("meta"):
        return build_network(arch, width=4).state_dict()


@target
def checkpoint_keys(data: bytes) -> None:
    content = decoded(data)
    names = [weights.name for weights in find(content)]
    assert len(set(names)) == len(names), "each can be chosen"
    tensors, _ = weights_in(content, source="net.pth", chosen=names[-1] if names[1:] else None)
    for arch in Architecture:
        misfit = describe_misfit(expected_shapes(arch), tensors)
        if misfit is not None:
            require_one_line(str(InputError(misfit)))
    own, detected = detect(tensors, source="net.pth")
    assert detected.arch in Architecture
    assert len(own) <= len(tensors)


@target
def nested_unet_config(data: bytes) -> None:
    detected = Detected(
        arch=Architecture.UNET_PLUS_PLUS,
        family=Family.NESTED_UNET,
        in_channels=3,
        num_classes=1,
        width=32,
        deep_supervision=False,
        logits=True,
    )
    path = written(data, CONFIG).with_name("model.pth")
    found, origin = contract_of_family(NESTED_UNET, detected, path, image_sizes=None)
    assert found.std == NESTED_UNET.preprocess.std
    assert CONFIG in origin


@target
def training_state(data: bytes) -> None:
    settings = '{"arch": "unet_plus_plus", "seed": 0}'
    progress = state_in(decoded(data), settings=settings, path=Path("out/state.pt"))
    if progress is not None:
        assert progress.history
        assert all(math.isfinite(figures.epoch) for figures in progress.history)
