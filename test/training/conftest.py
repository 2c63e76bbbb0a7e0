"""What several tests of training share."""

from __future__ import annotations

import dataclasses

import pytest

from training.ablation import SCHEDULE
from training.methods.codebook.task import Config
from training.methods.cpc.task import Config as CpcConfig


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
