"""What several tests of training share."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from training.ablation import SCHEDULE
from training.methods.ccl.task import Config as CclConfig
from training.methods.codebook.task import Config
from training.methods.cpc.task import Config as CpcConfig

# Processes that share the tests out share the cores: threads that wait for one another would wait
# for the other's, too.
if 'PYTEST_XDIST_WORKER' in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def tiny_schedule() -> Config:
    """The schedule of the ablations at a size that trains in seconds."""
    return dataclasses.replace(
        SCHEDULE,
        input_size=(64, 96),
        crop=(64, 96),
        heights=(64, 80),
        epochs=1,
        batch_size=2,
        workers=0,
        precision='32-true',
    )


@pytest.fixture(scope='session')
def tiny_cpc() -> CpcConfig:
    """CPC on the pictures of `product`, at a size that trains in seconds."""
    return CpcConfig(
        datasets=('product',),
        input_size=(64, 96),
        crop=(48, 48),
        patch=16,
        stride=8,
        widths=(4, 6),
        steps=2,
        epochs=2,
        batch_size=3,
        precision='32-true',
        workers=0,
    )


@pytest.fixture(scope='session')
def tiny_ccl() -> CclConfig:
    """CCL on the pictures of `bolt` and `nut`, at a size that trains in seconds."""
    return CclConfig(
        datasets=('bolt', 'nut'),
        input_size=(32, 64),
        strides=(4, 8),
        width=16,
        views=1,
        positions=8,
        steady=1.0,
        epochs=2,
        batch_size=4,
        precision='32-true',
    )


@pytest.fixture(scope='session')
def two_categories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `bolt` and `nut` in the MVTec layout: four to train on, four to judge each."""
    root = tmp_path_factory.mktemp('categories')
    mask = np.zeros((64, 128), np.uint8)
    mask[16:40, 32:64] = 255
    for name, light in (('bolt', 0), ('nut', 128)):
        for part in ('train/good', 'test/good', 'test/hole', 'ground_truth/hole'):
            (root / name / part).mkdir(parents=True)
        for number in range(6):
            rng = np.random.default_rng(number + light)
            blocks = rng.integers(light, light + 128, (8, 16), dtype=np.uint8)
            picture = blocks.repeat(8, 0).repeat(8, 1)
            part = 'train' if number < 4 else 'test'
            cv2.imwrite(str(root / name / part / f'good/{number}.png'), picture)
            if part == 'test':
                holed = np.where(mask > 0, np.uint8(255 - light), picture)
                cv2.imwrite(str(root / name / f'test/hole/{number}.png'), holed)
                cv2.imwrite(str(root / name / f'ground_truth/hole/{number}_mask.png'), mask)
    return root
