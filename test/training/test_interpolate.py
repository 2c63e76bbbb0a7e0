"""Weights between a run and its start; unused codevectors split until none is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training import interpolate
from training.data.street import Example
from training.interpolate import (
    counts_of,
    interpolated,
    measure_norms,
    split_unused,
)
from training.methods.codebook import coarse
from training.methods.codebook.task import CodebookTask, Config, StreetData

SMALL = Config(
    classes=('road', 'tree', 'car'),
    codevectors=4,
    dimension=8,
    channels=16,
    fine_channels=12,
    blocks=11,
    crop=(64, 96),
    input_size=(64, 96),
)


def task(seed: int) -> CodebookTask:
    torch.manual_seed(seed)
    return CodebookTask(SMALL, pretrained=False)


@pytest.mark.parametrize('share', [0.0, 0.25, 1.0])
def test_weights_lie_on_the_line(share: float) -> None:
    first, last = task(0), task(1)
    expected = {
        name: (1 - share) * first.state_dict()[name] + share * value
        for name, value in last.state_dict().items()
        if value.is_floating_point()
    }
    found = interpolated(first, last, share).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)


def test_norms_have_the_statistics_of_the_batches_and_frozen_ones_stay() -> None:
    one = task(0)
    one.config = dataclasses.replace(SMALL, frozen_blocks=1)
    generator = torch.Generator().manual_seed(0)
    batches = [
        torch.randint(0, 255, (2, 64, 96, 3), dtype=torch.uint8, generator=generator)
        for _ in range(3)
    ]
    stem = one.net.backbone.stem[1].running_mean.clone()
    measure_norms(one, batches)
    assert not one.net.training
    assert torch.equal(one.net.backbone.stem[1].running_mean, stem)
    norm = one.net.fusion.lateral[0][1]
    seen: list[torch.Tensor] = []
    one.net.fusion.lateral[0][0].register_forward_hook(lambda m, i, out: seen.append(out))
    one.net.train()
    one.net.backbone.freeze(1)
    mean = norm.running_mean.clone()
    with torch.no_grad():
        for batch in batches:
            one.net.encode(batch)
    expected = torch.stack([out.mean(dim=(0, 2, 3)) for out in seen]).mean(dim=0)
    torch.testing.assert_close(mean, expected, atol=1e-4, rtol=1e-3)


def test_coarse_codevectors_are_those_of_the_backbone_between() -> None:
    one = CodebookTask(
        dataclasses.replace(SMALL, coarse=3, remember_weight=1.0), pretrained=False
    ).eval()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 96, 3), np.uint8)
    example = Example(image, np.zeros((64, 96), np.uint8))

    class Pictures(StreetData):
        def some(self, most: int | None = None) -> Iterator[Example]:
            return iter([example])

    one.fit_coarse(Pictures(one.config, Path()), one.net.backbone)
    expected = coarse.CoarseCodebook(3, 112, one.config.coarse_distance)
    coarse.fit(expected, one.net.backbone, [example], (64, 96), one.config.seed)
    assert one.net.coarse is not None
    torch.testing.assert_close(one.net.coarse.state_dict(), expected.state_dict())
    assert expected.codes.any()


def test_no_codevector_stays_unused_and_what_was_known_stays_known() -> None:
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(3, 2, 8), dim=-1)
    features = F.normalize(
        centres.flatten(0, 1).repeat_interleave(400, 0) + 0.1 * torch.randn(2400, 8), dim=1
    )
    away = F.normalize(-centres.sum(dim=(0, 1)), dim=0)
    codevectors = 3.0 * torch.stack([centres[:, 0], centres[:, 1], *[away.expand(3, 8)] * 2], 1)
    before = codevectors.clone()
    assert (counts_of(codevectors, features) == 0).sum() == 6
    moved = split_unused(codevectors, features)
    assert moved >= 6 and (counts_of(codevectors, features) > 0).all()
    for old, new in ((before, codevectors),):
        near = [(features @ F.normalize(c, dim=-1).flatten(0, 1).T).amax(dim=1) for c in (old, new)]
        assert (near[1] - near[0]).abs().max() < 0.06


def test_classes_that_nothing_chose_stay() -> None:
    codevectors = torch.eye(4).view(2, 2, 4).clone()
    features = torch.eye(4)[:1].repeat(50, 1) + 0.01 * torch.randn(50, 4)
    split_unused(codevectors, F.normalize(features, dim=1))
    assert torch.equal(codevectors[1], torch.eye(4).view(2, 2, 4)[1])


def test_rubbish_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ['--data', str(tmp_path), '--out', str(tmp_path / 'new')]
    assert interpolate.main([str(tmp_path), *arguments]) == 2
    assert 'no last.ckpt in it' in capsys.readouterr().err
    assert interpolate.main([str(tmp_path), *arguments, '--share', '1.5']) == 2
    assert 'give 0 to 1' in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()


def test_a_run_that_began_with_nothing_has_no_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(interpolate, 'load_task', lambda run: task(0))
    with pytest.raises(interpolate.ConfigError, match='began with no model file'):
        interpolate.interpolate(tmp_path, tmp_path, tmp_path / 'new', 0.5)
    assert np.all([not path.exists() for path in [tmp_path / 'new']])
