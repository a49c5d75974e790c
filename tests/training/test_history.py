from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from segdeploy.deploy.system.errors import RunError
from segdeploy.training.history import Board, EpochFigures, best_of, write_curves, write_history


def epoch(number: int, iou: float) -> EpochFigures:
    return EpochFigures(
        epoch=number,
        train_loss=1 / number,
        val_loss=1.5 / number,
        val_iou=iou,
        learning_rate=1e-3,
        images_per_s=10.0,
        seconds=2.0,
    )


HISTORY = [epoch(1, 50.0), epoch(2, 80.0), epoch(3, 80.0), epoch(4, 79.0)]


def test_the_best_epoch_is_the_first_of_equals() -> None:
    assert best_of(HISTORY).epoch == 2
    assert best_of(HISTORY, since=3).epoch == 3
    assert best_of(HISTORY, since=9).epoch == 4


def test_the_history_is_read_back_as_it_was(tmp_path: Path) -> None:
    write_history(HISTORY[:2], tmp_path)
    write_history(HISTORY, tmp_path)
    with (tmp_path / "history.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == [vars(e) for e in HISTORY]
    assert [p.name for p in tmp_path.iterdir()] == ["history.csv"]


def test_curves_are_drawn_where_matplotlib_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    assert write_curves(HISTORY, tmp_path)
    with Image.open(tmp_path / "curves.png") as image:
        colours = image.convert("RGB").getcolors(1 << 20)
        assert image.width > 800
    assert colours is not None
    assert len(colours) > 50
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not write_curves(HISTORY, tmp_path / "without")


def test_tensorboard_gets_every_figure_only_where_it_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for enabled in (False, True):
        board = Board(tmp_path, enabled=enabled)
        for figures in HISTORY:
            board.add(figures)
        board.close()
        assert (tmp_path / "tensorboard").exists() == enabled
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert re.fullmatch(r"events\.out\.tfevents\.[0-9.]+", file.name)  # not the machine's name
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(vars(HISTORY[0])) - {"epoch"}
    assert [(e.step, e.value) for e in events.Scalars("val_iou")] == [
        (figures.epoch, figures.val_iou) for figures in HISTORY
    ]


def test_tensorboard_that_is_missing_is_an_error_with_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(RunError, match=r"pip install 'segdeploy\[plots\]'"):
        Board(tmp_path, enabled=True)
