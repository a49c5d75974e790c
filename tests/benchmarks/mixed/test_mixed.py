"""Mixed precision: the number of float layers is found, kept through interruptions, and in time."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from tiny import TINY, exported, quantized

from segdeploy.api.data import Data
from segdeploy.api.mixed_precision import mixed_precision
from segdeploy.api.quantize import quantize
from segdeploy.api.recovery import folder_of
from segdeploy.benchmarks.mixed.search import MixedResult, MixedSearch, fewest_within, next_count
from segdeploy.benchmarks.mixed.state import RecoveryTrial, SearchState, Trial
from segdeploy.benchmarks.parity.evidence import ParityReport, compare
from segdeploy.calibration.table import CalibrationTable
from segdeploy.cli.main import main
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model, metadata
from segdeploy.deploy.quantize.activations import float_region
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.recovery.candidate import Candidate, Workshop
from segdeploy.deploy.recovery.methods import Recovery
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.profiles import ORT_X86

MAX_DROP = 0.5
MakeImageSet = Callable[[Path, list[str]], Path]
SPLITS = ["train"] * 4 + ["val"] * 4 + ["test"] * 3


@given(total=st.integers(1, 300), data=st.data())
def test_the_fewest_is_found_in_few_trials_and_none_is_repeated(
    total: int, data: st.DataObject
) -> None:
    needed = data.draw(st.integers(0, total + 1))  # one more than there are: never within
    tried: dict[int, bool] = {}
    while (count := next_count(tried, total)) is not None:
        assert 0 <= count <= total
        assert count not in tried
        tried[count] = count >= needed
    assert fewest_within(tried) == (needed if needed <= total else None)
    assert len(tried) <= 3 + 2 * math.log2(total + 1)


@given(kept=st.lists(st.booleans(), min_size=2, max_size=40))
def test_what_is_chosen_was_tried_and_one_layer_less_lost_too_much(kept: list[bool]) -> None:
    kept[-1] = True
    tried: dict[int, bool] = {}
    while (count := next_count(tried, len(kept) - 1)) is not None:
        tried[count] = kept[count]
    chosen = fewest_within(tried)
    assert chosen is not None
    assert tried[chosen]
    assert chosen == 0 or tried[chosen - 1] is False


def node(operator: str, inputs: str, output: str) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], name=output)


def test_what_only_float_layers_read_stays_in_float_with_them() -> None:
    nodes = [
        node("Conv", "image w", "a"),
        node("Relu", "a", "r"),
        node("MaxPool", "r", "pool"),
        node("Conv", "pool w", "b"),
        node("Concat", "r b", "joined"),
        node("Conv", "joined w", "c"),
        node("Add", "c b", "sum"),
    ]
    graph = onnx.GraphProto(node=nodes)
    graph.output.append(helper.make_empty_tensor_value_info("sum"))

    def region(*layers: str) -> tuple[str, ...]:
        return float_region(graph, layers, kernels=ORT_X86.kernels)

    assert region() == ()
    assert region("a") == ("a",)
    assert region("b") == ("pool", "b")
    assert region("c") == ("joined", "c")
    assert region("a", "b", "c") == ("a", "pool", "b", "joined", "c")  # the output reads "sum"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A calibrated tiny network and its image set."""

    root: Path
    checkpoint: Path
    source: Artifact
    table: CalibrationTable
    calibration: Path


@pytest.fixture(scope="module")
def job(
    tmp_path_factory: pytest.TempPathFactory,
    _tiny_unet: UNetPlusPlus,
    make_image_set: MakeImageSet,
) -> Job:
    folder = tmp_path_factory.mktemp("mixed")
    root = make_image_set(folder / "images", SPLITS)
    source = simplify(exported(_tiny_unet, folder, head=2), folder / "net.sim.onnx")
    table = calibrate(source, open_set(root, "train"), preprocess=TINY, threads=1)
    table.write(folder / "net.calib.json")
    return Job(
        root=root,
        checkpoint=folder / "net.safetensors",
        source=source,
        table=table,
        calibration=folder / "net.calib.json",
    )


def float_layers(path: Path) -> list[str]:
    return [name for name in metadata(load_model(path))["float_layers"].split(",") if name]


def float_convolutions(path: Path) -> int:
    graph = load_model(path).graph
    convolutions = {node.name for node in graph.node if node.op_type == "Conv"}
    return len(convolutions & set(float_layers(path)))


def losing(*, until: int) -> Callable[[Artifact], ParityReport]:
    """A judge that sees one IoU point lost a layer, as long as too few are in float."""

    def judge(artifact: Artifact) -> ParityReport:
        truth = np.ones((3, 10, 10), bool)
        reference = np.full(truth.shape, 0.9, np.float32)
        candidate = reference.copy()
        missing = max(0, until - float_convolutions(artifact.path))
        candidate.reshape(3, -1)[:, :missing] = 0.1
        names = ["a", "b", "c"]
        return compare("r", "c", reference, candidate, truth, max_drop=MAX_DROP, image_names=names)

    return judge


def searching(
    job: Job,
    output: Path,
    judge: Callable[[Artifact], ParityReport],
    methods: tuple[Recovery, ...] = (),
) -> MixedSearch:
    return MixedSearch(
        plain=Candidate(source=job.source, table=job.table),
        output=output,
        workshop=Workshop(
            images=open_set(job.root, "train"),
            preprocess=TINY,
            profile=ORT_X86,
            exclude=(),
            table_sha256="ab" * 32,
            seed=0,
            threads=1,
            folder=output.parent,
            progress=lambda items, label: items,
        ),
        methods=methods,
        images=list(open_set(job.root, "val").inputs(TINY)[:2]),
        judge=judge,
        max_drop=MAX_DROP,
        time_budget_s=1000,
    )


def begun(output: Path) -> SearchState:
    return SearchState.open(output.with_name("state.json"), fingerprint="f")


def run(search: MixedSearch) -> MixedResult:
    return search.run(begun(search.output), started=time.monotonic())


def test_the_fewest_worst_layers_go_to_float(job: Job, tmp_path: Path) -> None:
    search = searching(job, tmp_path / "net.int8.onnx", losing(until=3))
    result = run(search)
    assert result.within
    assert result.finished
    assert result.chosen.layers == len(result.layers) == float_convolutions(search.output) == 3
    assert result.layers == begun(search.output).ranking()[:3]
    assert [trial.layers for trial in result.trials] == [0, 1, 2, 3, 4]
    assert not search.output.with_name(search.output.name + ".trial").exists()


def test_plain_int8_within_the_budget_needs_no_ranking(job: Job, tmp_path: Path) -> None:
    search = searching(job, tmp_path / "net.int8.onnx", losing(until=0))
    result = run(search)
    assert (result.within, result.finished, result.layers) == (True, True, ())
    assert not begun(search.output).noise
    plain = quantized(job.source, tmp_path / "plain.onnx", job.table)
    assert search.output.read_bytes() == plain.path.read_bytes()


def test_every_layer_in_float_and_still_too_much_lost(job: Job, tmp_path: Path) -> None:
    result = run(searching(job, tmp_path / "net.int8.onnx", losing(until=1000)))
    assert not result.within
    assert result.finished
    assert max(trial.layers for trial in result.trials) == len(
        [node for node in load_model(job.source.path).graph.node if node.op_type == "Conv"]
    )


def test_an_interruption_leaves_the_best_in_place_and_a_rerun_goes_on(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "net.int8.onnx"
    calls: list[int] = []

    def interrupted(artifact: Artifact) -> ParityReport:
        calls.append(float_convolutions(artifact.path))
        if len(calls) == 5:  # after 0, 1, 2 and 4
            raise KeyboardInterrupt
        return losing(until=3)(artifact)

    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        run(searching(job, output, interrupted))
    assert float_convolutions(output) == 4
    assert f"best so far, in place: {output}, 4 layers in float" in caplog.text
    assert not output.with_name(output.name + ".trial").exists()
    again: list[int] = []

    def noting(artifact: Artifact) -> ParityReport:
        again.append(float_convolutions(artifact.path))
        return losing(until=3)(artifact)

    output.unlink()  # a rerun brings the file back, too
    result = run(searching(job, output, noting))
    assert again == [3]
    whole = tmp_path / "whole" / "net.int8.onnx"
    whole.parent.mkdir()
    assert run(searching(job, whole, losing(until=3))).layers == result.layers
    assert output.read_bytes() == whole.read_bytes()


def test_without_time_the_nearest_is_in_place_and_it_is_not_called_finished(
    job: Job, tmp_path: Path
) -> None:
    search = searching(job, tmp_path / "net.int8.onnx", losing(until=3))
    result = dataclasses.replace(search, time_budget_s=1e-9).run(
        begun(search.output), started=time.monotonic()
    )
    assert (result.within, result.finished, result.layers) == (False, False, ())
    assert float_convolutions(search.output) == 0
    assert run(search).chosen.layers == 3, "the same search with time goes on"


def test_time_that_ends_inside_the_ranking_ends_it(job: Job, tmp_path: Path) -> None:
    search = searching(job, tmp_path / "net.int8.onnx", losing(until=3))

    def slow(items: Iterable[Any], label: str) -> Iterable[Any]:
        for item in items:
            time.sleep(0.3)
            yield item

    workshop = dataclasses.replace(search.workshop, progress=slow)
    limited = dataclasses.replace(search, time_budget_s=1.0, workshop=workshop)
    started = time.monotonic()
    result = limited.run(begun(search.output), started=started)
    assert not result.finished
    assert not begun(search.output).trials.keys() - {0}


def losing_until(applied: str | None) -> Callable[[Artifact], ParityReport]:
    """A judge that sees two points lost until a step of recovery is in the file."""

    def judge(artifact: Artifact) -> ParityReport:
        said = metadata(load_model(artifact.path)).get("learnt", "")
        recovered = applied is not None and f'"{applied}"' in said
        return losing(until=0 if recovered else 2)(artifact)

    return judge


def test_recovery_comes_before_floats_and_stops_within_the_budget(job: Job, tmp_path: Path) -> None:
    output = tmp_path / "net.int8.onnx"
    methods = (Recovery.EQUALISE, Recovery.BIASES, Recovery.RANGES)
    search = searching(job, output, losing_until("biases"), methods)
    result = run(search)
    assert (result.within, result.finished, result.layers) == (True, True, ())
    assert [(each.method, each.kept) for each in result.recovery] == [
        (Recovery.EQUALISE, False),
        (Recovery.BIASES, True),
    ]
    assert "nothing to change" in result.recovery[0].words() or result.recovery[0].after
    said = json.loads(metadata(load_model(output))["learnt"])
    assert said["applied"] == ["biases"]
    once = output.read_bytes()
    output.unlink()  # a rerun remembers what was kept, and applies it again
    assert run(search).artifact.path.read_bytes() == once


def test_recovery_that_does_not_help_is_left_out_and_layers_go_to_float(
    job: Job, tmp_path: Path
) -> None:
    search = searching(job, tmp_path / "net.int8.onnx", losing_until(None), (Recovery.BIASES,))
    result = run(search)
    assert [each.kept for each in result.recovery] == [False]
    assert result.chosen.layers == 2
    assert "learnt" not in metadata(load_model(search.output))


def test_the_command_recovers_what_it_is_told(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.int8.onnx"
    flags = ("--recover", "biases", "--data", str(job.root), "--threads", "1")
    assert main(command(job, output, *flags)) == 0
    assert json.loads(metadata(load_model(output))["learnt"])["applied"] == ["biases"]
    assert [path.name for path in tmp_path.iterdir()] == ["net.int8.onnx"]
    assert main(command(job, tmp_path / "other.onnx", "--recover", "biases")) == 2
    assert "--recover needs --data" in capsys.readouterr().err


def test_an_interrupted_search_goes_on_only_with_the_images_it_learnt_from(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def opened(path: Path, *, fingerprint: str) -> SearchState:
        found.append(fingerprint)
        raise KeyboardInterrupt

    monkeypatch.setattr(SearchState, "open", opened)
    for data in (Data(job.root), Data(job.root), Data(job.root, num_samples=2)):
        with pytest.raises(KeyboardInterrupt):
            mixed_precision(
                job.source,
                job.table,
                max_drop=1.0,
                reference=job.source,
                data=data,
                out=tmp_path / "net.int8.onnx",
            )
    assert found[0] == found[1] != found[2]


def test_what_learns_is_given_images_to_learn_from(job: Job, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--recover needs --data"):
        quantize(job.source, job.table, recover="biases", out=tmp_path / "net.int8.onnx")


def test_what_an_interrupted_recovery_left_allows_nothing_to_be_replaced(
    job: Job, tmp_path: Path
) -> None:
    output = tmp_path / "net.int8.onnx"
    folder_of(output).mkdir()
    before = quantize(job.source, job.table, out=output).path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        quantize(job.source, job.table, recover="biases", data=job.root, out=output)
    assert output.read_bytes() == before


def trial(**changes: Any) -> Trial:
    figures = {"layers": 2, "delta": 0.0, "low": -0.1, "high": 0.1, "seconds": 1.0}
    return Trial(**figures | {"disagreement_percent": 0.0, "collapsed": False} | changes)


def test_the_interval_decides_and_a_collapse_is_never_within() -> None:
    assert trial(low=-0.02).within(0.02)
    assert not trial(delta=0.5, low=-0.021).within(0.02)
    assert not trial(low=0.0, collapsed=True).within(0.02)


def test_state_comes_back_as_it_was_and_only_for_the_same_inputs(tmp_path: Path) -> None:
    state = SearchState(
        path=tmp_path / "s.json",
        fingerprint="f",
        noise=[{"a": 0.1, "b": 0.3}, {"a": 0.4, "b": 0.1}],
        ranked=True,
        trials={2: trial()},
        recovery=[
            RecoveryTrial(method=Recovery.BIASES, before=trial(), after=trial(low=0.0), kept=True),
            RecoveryTrial(method=Recovery.RANGES, before=trial(), after=None, kept=False),
        ],
    )
    state.write()
    assert SearchState.open(state.path, fingerprint="f") == state
    assert state.ranking() == ("a", "b")
    assert not SearchState.open(state.path, fingerprint="g").trials
    state.path.write_text('{"schema_version": 2}')
    with pytest.raises(InputError, match=r"s\.json does not hold a search"):
        SearchState.open(state.path, fingerprint="f")


def command(job: Job, output: Path, *more: str) -> list[str]:
    model, table = str(job.source.path), str(job.calibration)
    return ["quantize", "-m", model, "--calibration", table, "-o", str(output), *more]


def test_the_command_searches_on_val_and_reports_test(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.int8.onnx"
    budget = ("--max-drop", "0", "--time-budget", "5m", "--threads", "1")
    measured = ("--data", str(job.root), "--reference", str(job.source.path), "--recover", "none")
    code = main(command(job, output, *budget, *measured, "--format", "json"))
    found = capsys.readouterr()
    result = json.loads(found.out)
    assert code == (0 if result["within"] else 1) == 0
    assert result["val"]["low"] >= 0
    assert result["test"]["layers"] == len(result["float_layers"])
    assert float_convolutions(output) == len(result["float_layers"]) > 0
    assert "test split, 3 images: delta" in found.err
    assert "--exclude " in found.err
    assert [path.name for path in tmp_path.iterdir()] == ["net.int8.onnx"]
    again = tmp_path / "again.onnx"  # the flag that is printed makes the same file
    flag = found.err.split("--exclude ")[1].splitlines()[0].split()
    assert main(command(job, again, "--exclude", *flag)) == 0
    assert again.read_bytes() == output.read_bytes()


def test_the_command_says_when_plain_int8_is_enough(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = ("--data", str(job.root), "--reference", str(job.source.path))
    output = tmp_path / "net.int8.onnx"
    assert main(command(job, output, "--max-drop", "100", "--threads", "1", *measured)) == 0
    assert "all layers in int8 keep the budget of 100 points" in capsys.readouterr().out
    assert float_layers(output) == []


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--time-budget", "10m"], 2, "--time-budget: only a search with --max-drop takes it"),
        (["--max-drop", "0.02"], 2, "--max-drop needs --data and --reference"),
        (["--max-drop", "0.02", "--data", "{root}"], 2, "--max-drop needs --reference"),
        (["--recover", "none", "biases", "--data", "{root}"], 2, "--recover none stands alone"),
        (["--max-drop", "1", "--data", "{no_val}", "--reference", "{m}"], 3, "has no val split"),
        (
            ["--max-drop", "1", "--data", "{no_train}", "--reference", "{m}", "--recover=biases"],
            3,
            "split 'train' holds no",
        ),
        (["--max-drop", "1", "--data", "nowhere", "--reference", "{m}"], 3, "splits.csv"),
        (["--max-drop", "1", "--data", "{root}", "--reference", "no.onnx"], 3, "no.onnx"),
        (["--max-drop", "1", "--data", "{root}", "--reference", "no.pth"], 3, "no.pth"),
    ],
)
def test_a_newcomers_mistakes_are_one_line(
    job: Job,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_image_set: MakeImageSet,
    flags: list[str],
    code: int,
    words: str,
) -> None:
    no_val = make_image_set(tmp_path / "no_val", ["train", "test"])
    no_train = make_image_set(tmp_path / "no_train", ["val", "test"])
    folders = {"root": job.root, "no_val": no_val, "no_train": no_train}
    given = [f.format(**folders, m=job.source.path) for f in flags]
    assert main(command(job, tmp_path / "net.int8.onnx", *given)) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "net.int8.onnx").exists()


@pytest.mark.parametrize("text", ["0m", "ten", "-5m", "5 m", "m"])
def test_a_time_budget_is_a_time(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command(job, tmp_path / "net.int8.onnx", f"--time-budget={text}"))
    assert stopped.value.code == 2
    assert "write 90s, 10m or 1h" in capsys.readouterr().err
