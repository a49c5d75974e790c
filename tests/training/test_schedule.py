from __future__ import annotations

import pytest
import torch

from segdeploy.training.recipe import Recipe, Schedule
from segdeploy.training.schedule import scheduler

STEPS = 40


def rates(schedule: Schedule) -> list[float]:
    recipe = Recipe(schedule=schedule, learning_rate=0.1, warmup_share=0.25)
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    moving = scheduler(recipe, optimiser, steps=STEPS)
    found = []
    for _ in range(STEPS):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        moving.step()
    return found


@pytest.mark.parametrize("schedule", list(Schedule))
def test_the_rate_rises_to_its_largest_in_the_warm_up_and_never_again(schedule: Schedule) -> None:
    found = rates(schedule)
    top = found.index(max(found))
    assert max(found) == pytest.approx(0.1)
    assert 0.2 * STEPS <= top <= 0.3 * STEPS
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


def test_each_schedule_ends_where_it_should() -> None:
    assert rates(Schedule.CONSTANT)[-1] == pytest.approx(0.1)
    assert rates(Schedule.COSINE)[-1] < 0.001
    assert rates(Schedule.ONE_CYCLE)[-1] < 0.001
    steps = rates(Schedule.STEP)
    assert [steps[i] for i in (20, 30, 39)] == pytest.approx([0.1, 0.01, 0.001])
