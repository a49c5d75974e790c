"""Images of any size into pieces and back: tiles cover, weights sum to one, nothing moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdeploy.deploy.data.placement import resized_values
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.prediction.fitting import (
    Canvas,
    Plan,
    plan_of,
    tile_starts,
    tile_weights,
)
from segdeploy.deploy.prediction.settings import Fit, Settings, Write
from segdeploy.deploy.system.errors import UsageError

MODEL = (16, 32)
CONTRACT = Preprocess(size=MODEL)
FEW = settings(max_examples=40, deadline=None)
AXES = st.tuples(st.integers(1, 40), st.integers(0, 39), st.integers(0, 200)).map(
    lambda drawn: (drawn[0], min(drawn[1], drawn[0] - 1), drawn[0] + drawn[2])
)
"""Tile, overlap below it, length not below it."""


@st.composite
def plans(draw: st.DrawFn) -> tuple[Plan, Settings]:
    size = (draw(st.integers(1, 70)), draw(st.integers(1, 70)))
    fit = draw(st.sampled_from(Fit))
    chosen = Settings(
        fit=fit,
        overlap=draw(st.integers(0, 15)) if fit is Fit.TILE else 0,
        scale=1.0 if fit is Fit.RESIZE else draw(st.sampled_from([0.3, 1.0, 1.7])),
    )
    return plan_of(size, chosen, CONTRACT), chosen


class TestTiles:
    @FEW
    @given(AXES)
    def test_they_cover_the_axis_and_overlap_enough(self, axis: tuple[int, int, int]) -> None:
        tile, overlap, length = axis
        starts = tile_starts(length, tile, overlap)
        assert starts[0] == 0
        assert starts[-1] + tile == length
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (steps <= tile - overlap).all()
        assert len(starts) == 1 + -(-(length - tile) // (tile - overlap)), "no more than needed"

    @FEW
    @given(AXES)
    def test_weights_sum_to_one_in_every_pixel(self, axis: tuple[int, int, int]) -> None:
        tile, overlap, length = axis
        starts = tile_starts(length, tile, overlap)
        total = np.zeros(length)
        for start, weights in zip(starts, tile_weights(length, tile, starts), strict=True):
            assert weights.shape == (tile,)
            assert (weights > 0).all()
            total[start : start + tile] += weights
        assert np.allclose(total, 1, atol=1e-6)

    @FEW
    @given(AXES)
    def test_a_tile_fades_out_towards_its_neighbours(self, axis: tuple[int, int, int]) -> None:
        tile, _, length = axis
        starts = tile_starts(length, tile, tile // 2)
        weights = tile_weights(length, tile, starts)
        for left, right, first, second in zip(
            starts, starts[1:], weights, weights[1:], strict=False
        ):
            shared = left + tile - right
            if len(starts) == 2 and shared > 1:
                assert (np.diff(first[tile - shared :]) < 0).all()
                assert (np.diff(second[:shared]) > 0).all()


class TestPlans:
    @FEW
    @given(plans(), st.integers(0, 99))
    def test_what_is_cut_comes_together_again(
        self, drawn: tuple[Plan, Settings], seed: int
    ) -> None:
        """A model that gives back its input gives back the scaled image."""
        plan, _ = drawn
        image = np.random.default_rng(seed).integers(0, 256, (*plan.image, 3), np.uint8)
        filled = plan.filled_image(image, CONTRACT)
        assert filled.shape == (*plan.filled, 3)
        canvas = Canvas(plan, 3)
        for piece in plan.pieces(filled):
            assert piece.shape == (*plan.piece, 3)
            assert not canvas.full
            canvas.add(piece.transpose(2, 0, 1).astype(np.float32) / 255)
        assert canvas.full
        height, width = plan.scaled
        found = canvas.probability()
        assert (found.shape, found.dtype) == ((3, *plan.image), np.float32)
        for channel, plane in enumerate(found):
            scaled = filled[:height, :width, channel].astype(np.float32) / 255
            assert np.allclose(plane, resized_values(scaled, plan.image), atol=1e-5)

    @pytest.mark.parametrize("aspect", ["longer", "shorter"])
    def test_a_kept_aspect_is_undone_on_the_way_back(self, aspect: str) -> None:
        contract = replace(CONTRACT, aspect=aspect)
        image = np.full((40, 20, 3), 200, np.uint8)
        plan = plan_of((40, 20), Settings(), contract)
        (piece,) = plan.pieces(plan.filled_image(image, contract))
        assert np.array_equal(contract.normalise(piece), contract.apply(image))
        canvas = Canvas(plan)
        canvas.add((piece[..., :1].transpose(2, 0, 1) == 200).astype(np.float32))
        found = canvas.probability()[0]
        if aspect == "longer":  # the whole image was shown, and what was padded is gone
            assert (found > 0.999).all()
        else:  # the middle was shown, and what was cropped belongs to no class
            assert (found[15:25] > 0.999).all()
            assert (found[:10] == 0).all()

    @FEW
    @given(plans())
    def test_sizes_are_those_the_model_takes(self, drawn: tuple[Plan, Settings]) -> None:
        plan, chosen = drawn
        if chosen.fit is Fit.PAD:
            assert plan.count == 1
            assert all(side % 16 == 0 for side in plan.piece)
            assert all(0 <= p - s < 16 for p, s in zip(plan.piece, plan.scaled, strict=True)), (
                "no more is filled up than needed"
            )
        else:
            assert plan.piece == MODEL
        if chosen.fit is not Fit.RESIZE and chosen.scale == 1:
            assert plan.scaled == plan.image

    @pytest.mark.parametrize("antialias", [False, True])
    def test_resize_is_the_input_contract_to_the_last_bit(self, antialias: bool) -> None:
        contract = Preprocess(size=MODEL, antialias=antialias)
        image = np.random.default_rng(1).integers(0, 256, (53, 41, 3), np.uint8)
        plan = plan_of((53, 41), Settings(), contract)
        (piece,) = plan.pieces(plan.filled_image(image, contract))
        assert np.array_equal(contract.normalise(piece), contract.apply(image))

    def test_what_is_filled_up_mirrors_the_image(self) -> None:
        image = np.arange(3 * 5, dtype=np.uint8).reshape(3, 5)[..., None].repeat(3, axis=2)
        filled = plan_of((3, 5), Settings(fit=Fit.PAD), CONTRACT).filled_image(image, CONTRACT)
        assert filled[0, :10, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1]
        assert filled[:6, 0, 0].tolist() == [0, 5, 10, 5, 0, 5]


class TestResized:
    @FEW
    @given(st.integers(9, 40), st.integers(9, 40), st.integers(0, 99))
    def test_enlarging_is_bilinear_with_half_pixel_centres(
        self, height: int, width: int, seed: int
    ) -> None:
        probability = np.random.default_rng(seed).random((9, 8), np.float32)
        rows = (np.arange(height) + 0.5) * 9 / height - 0.5
        columns = (np.arange(width) + 0.5) * 8 / width - 0.5
        across = np.stack([np.interp(columns, np.arange(8), row) for row in probability])
        expected = np.stack([np.interp(rows, np.arange(9), column) for column in across.T]).T
        assert np.allclose(resized_values(probability, (height, width)), expected, atol=1e-5)

    @pytest.mark.parametrize("size", [(3, 2), (40, 50)])
    def test_a_constant_stays_constant(self, size: tuple[int, int]) -> None:
        assert np.allclose(resized_values(np.full((8, 8), 0.3, np.float32), size), 0.3)


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"overlap": 3}, "--overlap is for --fit tile"),
            ({"fit": Fit.TILE, "overlap": -1}, "expected 0 or more"),
            ({"scale": 2.0}, "--scale is for --fit pad or tile"),
            ({"fit": Fit.PAD, "scale": 0.0}, "a number above 0"),
            ({"writes": ()}, "name each thing"),
            ({"writes": (Write.LABELS, Write.MASK)}, "name each thing"),
        ],
    )
    def test_contradictions_are_refused(self, wrong: dict[str, object], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            Settings(**wrong)  # type: ignore[arg-type]  # wrong on purpose
