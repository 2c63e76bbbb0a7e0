"""Every shipped configuration is one, and its sizes fit its network."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.methods.ccl.task import Config as CclConfig
from training.methods.ccl.task import check_sizes
from training.methods.codebook.task import Config
from training.methods.cpc.task import Config as CpcConfig
from training.train import CONFIGS, read_any_config, read_config

ALL = sorted(path.stem for path in CONFIGS.glob('*.yaml'))


def of_method(kind: type) -> list[str]:
    return [name for name in ALL if isinstance(read_any_config(name, []), kind)]


NAMES = of_method(Config)


@pytest.mark.parametrize('name', of_method(CpcConfig))
def test_crops_of_cpc_fit_their_pictures_and_hold_whole_patches(name: str) -> None:
    config = read_any_config(name, [])
    assert isinstance(config, CpcConfig)
    for crop, size in zip(config.crop, config.input_size, strict=True):
        assert crop <= size and (crop - config.patch) % config.stride == 0


@pytest.mark.parametrize('name', of_method(CclConfig))
def test_maps_of_ccl_can_be_halved_and_doubled(name: str) -> None:
    config = read_any_config(name, [])
    assert isinstance(config, CclConfig)
    check_sizes(config)


@pytest.mark.parametrize('name', NAMES)
def test_a_shipped_configuration_can_be_run(name: str) -> None:
    config = read_config(name, [])
    coarsest = 32 if config.blocks == 16 else 16
    for size in (*config.input_size, *config.crop):
        assert int(size) % coarsest == 0
    assert len(config.repeats) <= len(config.datasets)
    assert config.heights[0] <= config.heights[1]
    assert config.smooth % 2 == 1
    assert config.batch_size % max(config.devices, 1) == 0
    assert not config.start_from or Path(config.start_from).parts[0] == 'models'


def test_the_big_run_has_the_steps_that_its_comment_says() -> None:
    config = read_config('cityscapes', [])
    assert config.epochs * (2975 // config.batch_size) == pytest.approx(80_000, rel=0.01)
    assert len(config.classes) == len(config.palette) == 19
