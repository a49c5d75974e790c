"""Files of other exporters are read whole, from their own folder alone, and never without end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import foreign_onnx
import numpy as np
import onnx
import pytest
from bad_onnx import decides, functions
from foreign_onnx import FOREIGN, foreign
from onnx import TensorProto, helper, numpy_helper

from segdeploy.deploy.adoption.foreign_file import MOST_NODES, load_foreign
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.system.errors import InputError


@pytest.fixture
def ours(tmp_path: Path, small_onnx: Callable[..., Path]) -> Path:
    return small_onnx(tmp_path / "ours.onnx")


@pytest.fixture
def beside(ours: Path, tmp_path: Path) -> Path:
    """A model whose weights are in ``theirs.onnx.data``."""
    (tmp_path / "model").mkdir()
    return foreign("weights beside", ours, tmp_path / "model" / "theirs.onnx")


def weights_of(model: onnx.ModelProto) -> dict[str, bytes]:
    return {
        tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer
    }


@pytest.mark.parametrize("name", ["weights beside", "functions", "functions, weights beside"])
def test_weights_and_functions_come_in(name: str, ours: Path, tmp_path: Path) -> None:
    found = load_foreign(foreign(name, ours, tmp_path / "theirs.onnx"))
    assert weights_of(found) == weights_of(load_model(ours))
    assert not found.functions
    assert {node.domain for node in found.graph.node} == {""}


def test_a_file_of_ours_is_read_as_ever(ours: Path) -> None:
    assert load_foreign(ours) == load_model(ours)


def test_functions_in_functions_are_what_they_compute(ours: Path, tmp_path: Path) -> None:
    path = foreign("functions", ours, tmp_path / "theirs.onnx")
    relus = [node for node in load_foreign(path).graph.node if node.op_type == "Relu"]
    assert len(relus) == 3 + 2  # two of the three have become two each


Change = Callable[[onnx.TensorProto], None]


def elsewhere(**entries: str | None) -> Change:
    """Other places for a tensor's bytes; ``None`` removes an entry."""

    def change(tensor: onnx.TensorProto) -> None:
        found = {entry.key: entry.value for entry in tensor.external_data} | entries
        del tensor.external_data[:]
        for key, value in found.items():
            if value is not None:
                tensor.external_data.add(key=key, value=value)

    return change


def taller(tensor: onnx.TensorProto) -> None:
    """More values than the file has."""
    tensor.dims[0] *= 1000


def of_text(tensor: onnx.TensorProto) -> None:
    """A type without whole bytes."""
    tensor.data_type = TensorProto.STRING


OUTSIDE: dict[str, tuple[Change, str]] = {
    "up the tree": (elsewhere(location="../secret"), "outside its own folder, in '../secret'"),
    "up and back": (elsewhere(location="../model/../secret"), "outside its own folder"),
    "at the root": (elsewhere(location="/etc/passwd"), "outside its own folder, in '/etc/passwd'"),
    "by a link": (elsewhere(location="link"), "outside its own folder, in 'link'"),
    "by a linked folder": (elsewhere(location="up/secret"), "outside its own folder"),
    "absolute, in the folder": (elsewhere(location="{folder}/theirs.onnx.data"), "outside its own"),
    "nowhere": (elsewhere(location=""), "outside its own folder, in ''"),
    "no location": (elsewhere(location=None), "outside its own folder"),
    "missing": (elsewhere(location="gone.bin"), "gone.bin does not exist; expected it beside"),
    "a folder": (elsewhere(location="inner"), "is a folder; expected it beside the model"),
    "links in a loop": (elsewhere(location="loop"), "cannot be reached|outside its own folder"),
    "a NUL": (elsewhere(location="a\0b"), "cannot be reached"),
    "too far in": (elsewhere(offset="999999"), "at 999999 of 'theirs.onnx.data', which states"),
    "before the file": (elsewhere(offset="-1"), "'-1' bytes; expected a whole number"),
    "no number": (elsewhere(length="many"), "'many' bytes; expected a whole number"),
    "another length": (elsewhere(length="4"), "which states 4 and has"),
    "too tall": (taller, "of another export"),
    "of text": (of_text, "expected numbers of whole bytes"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_weights_elsewhere_are_refused(name: str, beside: Path) -> None:
    change, message = OUTSIDE[name]
    folder = beside.parent
    (folder.parent / "secret").write_bytes(bytes(1 << 20))
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "up").symlink_to(folder.parent)
    (folder / "loop").symlink_to("loop")
    (folder / "inner").mkdir()
    model = onnx.load(beside, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    change(tensor)
    for entry in tensor.external_data:
        entry.value = entry.value.replace("{folder}", str(folder))
    beside.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=message) as caught:
        load_foreign(beside)
    assert str(caught.value).isprintable()


def test_weights_of_a_constant_in_a_function_come_from_the_folder_alone(
    ours: Path, tmp_path: Path
) -> None:
    path = foreign("functions", ours, tmp_path / "theirs.onnx")
    model = onnx.load(path)
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    made = helper.make_node("Constant", [], ["k"])
    made.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    model.functions[0].node.append(made)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="outside its own folder, in '/etc/passwd'"):
        load_foreign(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (functions(1, itself=True), "its function 'F0' calls itself"),
        (functions(40), f"its function 'F[0-9]+' makes more than {MOST_NODES} nodes"),
        (decides(1), "decides at run time what is computed"),
    ],
    ids=["itself", "2**40 calls", "If"],
)
def test_what_never_ends_is_refused(change: foreign_onnx.Change, message: str, ours: Path) -> None:
    model = onnx.load(ours)
    change(model)
    ours.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=message):
        load_foreign(ours)


def test_two_functions_that_call_each_other_are_refused(ours: Path) -> None:
    model = onnx.load(ours)
    FOREIGN["functions"].change(model)
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "twice", "lib"
    ours.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="calls itself"):
        load_foreign(ours)


def test_a_function_that_decides_is_refused_before_it_is_inlined(ours: Path) -> None:
    model = onnx.load(ours)
    FOREIGN["functions"].change(model)
    inner = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Relu", ["a"], ["o"])], "b", [], [inner])
    node = model.functions[0].node[0]
    node.op_type = "If"
    for key in ("then_branch", "else_branch"):
        node.attribute.append(helper.make_attribute(key, branch))
    ours.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="decides at run time"):
        load_foreign(ours)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_the_beginning_of_a_file_is_refused_or_lacks_metadata_alone(
    share: float, ours: Path
) -> None:
    content = ours.read_bytes()
    whole = load_foreign(ours)
    ours.write_bytes(content[: int(share * len(content))])
    try:
        assert load_foreign(ours).graph == whole.graph
    except InputError as error:
        if not re.search("is not a valid ONNX file|has no output", str(error)):
            raise


def test_values_are_those_of_the_file(beside: Path) -> None:
    expected = {t.name: numpy_helper.to_array(t) for t in onnx.load(beside).graph.initializer}
    found = {t.name: numpy_helper.to_array(t) for t in load_foreign(beside).graph.initializer}
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(values, found[name])
