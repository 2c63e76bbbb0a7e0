"""CCL is trained, killed and resumed by the command; what it reads; rubbish is named."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from training.data.folders import FolderError
from training.data.pictures import stretched_pictures
from training.methods.ccl.data import CclData
from training.methods.ccl.task import CclTask, Config
from training.train import main, read_any_config, train
from vq_anomaly_ros.replay import bags


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / 'last.ckpt', weights_only=False)['state_dict']
    return {name: value for name, value in state.items() if '.teacher.' not in name}


def test_a_killed_run_goes_on_as_it_would_have(
    tiny_ccl: Config, two_categories: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_ccl, feature_cache=str(tmp_path / 'kept'))
    train(config, two_categories, tmp_path / 'whole', progress=False)
    train(dataclasses.replace(config, epochs=1), two_categories, tmp_path / 'parts', progress=False)
    train(config, two_categories, tmp_path / 'parts', progress=False)
    whole, parts = weights(tmp_path / 'whole'), weights(tmp_path / 'parts')
    assert read_any_config(str(tmp_path / 'whole/config.yaml'), []) == config
    assert yaml.safe_load((tmp_path / 'whole/config.yaml').read_text())['method'] == 'ccl'
    assert len(list((tmp_path / 'kept').glob('*.pt'))) == 2
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-4, rtol=1e-3)


def test_a_category_is_added_to_what_was_trained_before(
    tiny_ccl: Config, two_categories: Path, tmp_path: Path
) -> None:
    """Nothing is learnt here, so what stands in the checkpoint is what the start was."""
    first, second = tiny_ccl.datasets
    before = dataclasses.replace(tiny_ccl, datasets=(first,), epochs=1)
    train(before, two_categories, tmp_path / 'before', progress=False)
    after = dataclasses.replace(
        tiny_ccl, datasets=(first, second), epochs=1, start_from=str(tmp_path / 'before/last.ckpt'),
        learning_rate=0.0, projection_rate=0.0,
    )  # fmt: skip
    train(after, two_categories, tmp_path / 'after', progress=False)
    learnt, kept = weights(tmp_path / 'before'), weights(tmp_path / 'after')
    kernels = [name for name in learnt if learnt[name].ndim == 4]
    assert kernels
    for name in kernels:
        assert torch.equal(learnt[name], kept[name]), name
    anew = dataclasses.replace(after, start_from='')
    train(anew, two_categories, tmp_path / 'anew', progress=False)
    assert not torch.equal(learnt[kernels[-1]], weights(tmp_path / 'anew')[kernels[-1]])


def test_views_are_kept_or_made_anew(
    tiny_ccl: Config, two_categories: Path, tmp_path: Path
) -> None:
    kept = CclData(tiny_ccl, two_categories)
    kept.setup()
    maps, other, labels = next(iter(kept.train_dataloader()))
    assert [one.shape[:2] for one in maps] == [(4, 24), (4, 40)]
    assert sorted(labels.tolist()) == [0, 0, 1, 1]
    assert other is not None and not torch.equal(maps[0], other[0])
    fresh = CclData(dataclasses.replace(tiny_ccl, views=0), two_categories)
    fresh.setup()
    pictures, others, same = next(iter(fresh.train_dataloader()))
    assert pictures.shape == others.shape == (4, 32, 64, 3) and torch.equal(same, labels)
    task = CclTask(tiny_ccl)
    for one, again in zip(maps, task.net.teach(pictures), strict=True):
        torch.testing.assert_close(one.float(), again, atol=0.02, rtol=0.02)


def taught(task: CclTask, labels: list[int], seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, len(labels), 32, 64, 3)
    one, other = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return one, other, torch.tensor(labels)


@pytest.mark.parametrize('base', ['reverse', 'reconstruct'])
def test_the_losses_fall_and_each_has_its_switch(tiny_ccl: Config, base: str) -> None:
    torch.manual_seed(0)
    task = CclTask(dataclasses.replace(tiny_ccl, base=base, noise=0.0))
    batch = taught(task, [0, 1, 0, 1])
    maps = tuple(task.net.teach(view) for view in batch[:2])
    optimisers: Any = task.configure_optimizers()
    found = []
    for _ in range(25):
        losses = task.losses((*maps, batch[2]))
        for optimiser in optimisers:
            optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        for optimiser in optimisers:
            optimiser.step()
        found.append({name: loss.item() for name, loss in losses.items()})
    assert set(found[0]) == {'distillation', 'local', 'global'}
    for name in ('distillation', 'local'):
        assert found[-1][name] < 0.9 * found[0][name], name
    for switched, left in (('local_weight', 'global'), ('global_weight', 'local')):
        task.config = dataclasses.replace(task.config, **{switched: 0.0})
        assert set(task.losses(batch)) == {'distillation', left}
        task.config = dataclasses.replace(task.config, **{switched: 1.0})


def test_a_batch_of_one_class_is_distilled_alone(tiny_ccl: Config) -> None:
    task = CclTask(tiny_ccl)
    losses = task.losses(taught(task, [1, 1, 1]))
    assert set(losses) == {'distillation'} and torch.isfinite(losses['distillation'])
    some = task.losses(taught(task, [0, 1, 1]))
    assert all(torch.isfinite(one) for one in some.values()) and some['local'] > 0


def test_a_single_category_trains_and_says_what_is_left_out(
    tiny_ccl: Config, two_categories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = dataclasses.replace(tiny_ccl, datasets=('nut',), epochs=1)
    train(alone, two_categories, tmp_path / 'run', progress=False)
    assert 'all pictures are of one class (nut): global and local' in capsys.readouterr().err
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / 'run').values())


def test_labels_come_from_topics_and_bags(tiny_ccl: Config, tmp_path: Path) -> None:
    """Two drives of two cameras: the bag or the topic is the class."""
    for number, name in enumerate(('monday', 'tuesday')):
        with bags.BagWriter(tmp_path / name) as writer:
            for stamp in range(4):
                for camera in ('front', 'rear'):
                    grey = np.full((48, 64, 3), 20 * stamp + 90 * number, np.uint8)
                    writer.write_image(f'/{camera}/image_raw', (stamp + 1) * 10**9, grey, 'rgb8')
    frames = list(stretched_pictures(tmp_path / 'monday', 2, (64, 128)))
    assert [topic for topic, _ in frames] == ['/front/image_raw'] * 2 + ['/rear/image_raw'] * 2
    assert [int(picture[0, 0, 0]) for _, picture in frames] == [0, 40, 0, 40]
    for labels, classes in (
        ('dataset', ('monday', 'tuesday')),
        ('topic', ('/front/image_raw', '/rear/image_raw')),
        ('pseudo', ('pseudo 0', 'pseudo 1')),
    ):
        config = dataclasses.replace(
            tiny_ccl, datasets=('monday', 'tuesday'), labels=labels, pseudo_classes=2
        )
        data = CclData(config, tmp_path)
        data.setup()
        assert data.classes == classes and len(data.labels) == 16


def test_what_cannot_be_trained_on_is_named(
    tiny_ccl: Config, two_categories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two_categories / 'nut/test', tmp_path / 'empty/test')
    shutil.copytree(two_categories / 'nut/ground_truth', tmp_path / 'empty/ground_truth')
    (tmp_path / 'empty/train').mkdir()
    with pytest.raises(FolderError, match=r'empty: holds no normal picture to train on'):
        CclData(dataclasses.replace(tiny_ccl, datasets=('empty',)), tmp_path).setup()
    small = ('datasets=[bolt]', 'views=1', 'strides=[4, 8]', 'input_size=[32, 64]')
    command = ['ccl', '--data', str(two_categories), '--out', str(tmp_path / 'run')]
    for change, said in (
        ('datasets=[nothing]', 'nothing: neither a category'),
        ('input_size=[200, 250]', 'both sides must be multiples of 16'),
        ('strides=[8, 32]', 'must be two or more, each twice'),
        ('base=autoencoder', "base 'autoencoder': must be reverse or reconstruct"),
        ('teacher=vit', 'no backbone is called vit'),
        ('labels=town', "labels cannot be 'town'"),
        ('start_from=models/street.onnx', 'only codebook begins with a model file'),
    ):
        more = [part for one in (*small, change) for part in ('--set', one)]
        assert main([*command, *more]) == 2, change
        assert said in capsys.readouterr().err
