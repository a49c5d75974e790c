"""Contracts by name: for any size, and for any number of channels where all are treated alike."""

from __future__ import annotations

import pytest

from segdeploy.deploy.data.presets import ANY_CHANNELS, PRESETS, preset
from segdeploy.deploy.system.errors import InputError


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_size_that_is_asked_for(name: str) -> None:
    assert preset(name, (64, 80)).size == (64, 80)
    assert preset(name) == PRESETS[name]


def test_projects_state_their_own_size() -> None:
    assert preset("leejunhyun").size == (256, 256)
    assert preset("4uiiurz1").size == preset("unet-zoo").size == (96, 96)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("channels", "order"), [(1, "GREY"), (4, "BANDS")])
def test_values_alike_fit_any_number_of_channels(name: str, channels: int, order: str) -> None:
    if name in ANY_CHANNELS:
        found = preset(name, channels=channels)
        assert (found.channel_order, found.channels) == (order, channels)
        assert set(found.mean) == set(PRESETS[name].mean)
        return
    with pytest.raises(InputError, match=f"the network takes {channels}; choose from zero-one"):
        preset(name, channels=channels)
