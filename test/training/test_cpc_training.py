"""CPC is trained, killed and resumed by the command; what it reads; rubbish is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from training.backbones import frozen_teacher, normalise
from training.data.folders import FolderError
from training.data.pictures import normal_pictures
from training.methods.cpc.model import ImageNetEncoder, imagenet_range
from training.methods.cpc.task import Config, CpcData, CpcTask, Crops, normalised
from training.train import ConfigError, config_from, main, read_any_config, read_config, train
from vq_anomaly_ros.replay import bags


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A category with six good pictures to train on."""
    for part in ('train/good', 'test/good'):
        folder = tmp_path / 'product' / part
        folder.mkdir(parents=True)
        for number in range(6):
            rng = np.random.default_rng(number)
            blocks = rng.integers(0, 256, (8, 12), dtype=np.uint8)
            cv2.imwrite(str(folder / f'{number}.png'), blocks.repeat(10, 0).repeat(10, 1))
    return tmp_path


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / 'last.ckpt', weights_only=False)['state_dict']
    return dict(state)


def test_training_learns_and_a_killed_run_goes_on_as_it_would_have(
    tiny_cpc: Config, root: Path, tmp_path: Path
) -> None:
    train(tiny_cpc, root, tmp_path / 'whole', progress=False)
    train(dataclasses.replace(tiny_cpc, epochs=1), root, tmp_path / 'parts', progress=False)
    train(tiny_cpc, root, tmp_path / 'parts', progress=False)
    whole, parts = weights(tmp_path / 'whole'), weights(tmp_path / 'parts')
    assert read_any_config(str(tmp_path / 'whole/config.yaml'), []) == tiny_cpc
    assert yaml.safe_load((tmp_path / 'whole/config.yaml').read_text())['method'] == 'cpc'
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-5, rtol=1e-4)


def test_a_run_begins_with_another_and_with_nothing_that_is_no_cpc(
    tiny_cpc: Config, root: Path, tmp_path: Path
) -> None:
    train(dataclasses.replace(tiny_cpc, epochs=1), root, tmp_path / 'before', progress=False)
    start = tmp_path / 'before/last.ckpt'
    config = dataclasses.replace(tiny_cpc, epochs=1, start_from=str(start), learning_rate=0.0)
    train(config, root, tmp_path / 'after', progress=False)
    before, after = weights(tmp_path / 'before'), weights(tmp_path / 'after')
    assert all(torch.equal(before[name], after[name]) for name in before)
    torch.save({'state_dict': {'net.codevectors': torch.zeros(1)}}, tmp_path / 'other.ckpt')
    other = dataclasses.replace(config, start_from=str(tmp_path / 'other.ckpt'))
    with pytest.raises(ConfigError, match='nothing of it fits: it is of another method'):
        train(other, root, tmp_path / 'out', progress=False)


def test_the_loss_falls_on_pictures_that_can_be_predicted(tiny_cpc: Config) -> None:
    """Columns of one grey each: the row before says all of the next."""
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_cpc, directions=1, learning_rate=1e-2)
    task = CpcTask(config)
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    optimiser = torch.optim.Adam(task.parameters(), lr=config.learning_rate)
    losses = []
    for step in range(200):
        rng = np.random.default_rng(step)
        columns = rng.integers(0, 256, (6, 1, 6), dtype=np.uint8).repeat(48, 1).repeat(8, 2)
        batch = torch.from_numpy(columns[..., None].repeat(3, -1))
        loss = task.training_step(batch, step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:5]), losses[::20]


def test_crops_are_new_in_each_pass_and_the_same_for_everybody(tiny_cpc: Config) -> None:
    pictures = [np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)]
    crops, others = Crops(pictures, tiny_cpc), Crops(pictures, tiny_cpc)
    first = crops[0]
    assert first.shape == (48, 48, 3) and np.array_equal(first, others[0])
    assert not np.array_equal(first, crops[1]), 'item 1 is the first of the second pass'


def test_pictures_come_from_categories_folders_bags_and_videos(root: Path) -> None:
    assert len(list(normal_pictures(root / 'product'))) == 6
    folder = root / 'product/train/good'
    names = [path.stem for path in normal_pictures(folder, every=2) if isinstance(path, Path)]
    assert names == ['0', '2', '4']
    with bags.BagWriter(root / 'drive') as writer:
        for number in range(5):
            grey = np.full((48, 64, 3), 20 * number, np.uint8)
            writer.write_image('/front/image_raw', (number + 1) * 10**9, grey, 'rgb8')
    frames = list(normal_pictures(root / 'drive', every=2))
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 40, 80]
    video = cv2.VideoWriter(str(root / 'drive.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 10, (64, 48))
    for number in range(4):
        video.write(np.full((48, 64, 3), 60 * number, np.uint8))
    video.release()
    assert len(list(normal_pictures(root / 'drive.avi', every=3))) == 2


def test_data_that_cannot_be_trained_on_are_named(tiny_cpc: Config, root: Path) -> None:
    (root / 'empty').mkdir()
    with pytest.raises(FolderError, match='neither a category'):
        CpcData(dataclasses.replace(tiny_cpc, datasets=('empty',)), root).setup()
    with pytest.raises(FolderError, match='do not fit into pictures of'):
        CpcData(dataclasses.replace(tiny_cpc, crop=(80, 48)), root).setup()
    (root / 'broken').mkdir()
    (root / 'broken/1.png').write_bytes(b'no picture')
    with pytest.raises(FolderError, match=r'1\.png: is no readable picture'):
        CpcData(dataclasses.replace(tiny_cpc, datasets=('broken',)), root).setup()


def test_configurations_know_their_method(root: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(ConfigError, match='no method is called cpd; known: codebook, cpc'):
        config_from({'method': 'cpd'}, 'c.yaml')
    with pytest.raises(ConfigError, match='no setting is called void_labels'):
        config_from({'method': 'cpc', 'void_labels': True}, 'c.yaml')
    with pytest.raises(ConfigError, match='of another method than codebook'):
        read_config('cpc', [])
    command = ['codebook', '--config', 'cpc', '--data', str(root), '--out', str(tmp_path / 'run')]
    assert main(command) == 2
    assert 'is a configuration of cpc, not of codebook' in capsys.readouterr().err
    more = ['--set', 'datasets=[nothing]', '--set', 'workers=0']
    assert main(['cpc', '--data', str(root), '--out', str(tmp_path / 'run'), *more]) == 2
    assert 'nothing: neither a category' in capsys.readouterr().err


def test_a_category_without_training_pictures_is_named(tiny_cpc: Config, root: Path) -> None:
    for path in (root / 'product/train/good').iterdir():
        path.unlink()
    with pytest.raises(FolderError, match='train/good'):
        CpcData(tiny_cpc, root).setup()
    (root / 'product/train/good').rmdir()
    with pytest.raises(FolderError, match='holds no normal picture to train on'):
        CpcData(tiny_cpc, root).setup()


def test_one_picture_alone_can_be_trained_on(tiny_cpc: Config, root: Path, tmp_path: Path) -> None:
    for path in sorted((root / 'product/train/good').iterdir())[1:]:
        path.unlink()
    train(tiny_cpc, root, tmp_path / 'run', progress=False)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / 'run').values())


def test_crops_without_a_patch_that_is_predicted_are_refused(tiny_cpc: Config, root: Path) -> None:
    with pytest.raises(FolderError, match='choose a crop of 32 or more'):
        CpcData(dataclasses.replace(tiny_cpc, crop=(24, 48)), root).setup()


def test_small_grey_and_16_bit_pictures_are_stretched(tiny_cpc: Config, tmp_path: Path) -> None:
    """Smaller than a patch: stretched like any other; 16 bits: the upper byte."""
    folder = tmp_path / 'odd'
    folder.mkdir()
    ramp = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)
    cv2.imwrite(str(folder / '0.png'), ramp)
    cv2.imwrite(str(folder / '1.png'), ramp.astype(np.uint16) * 256 + 255)
    cv2.imwrite(str(folder / '2.png'), np.dstack([ramp, ramp, ramp]))
    data = CpcData(dataclasses.replace(tiny_cpc, datasets=('odd',)), tmp_path)
    data.setup()
    assert [picture.shape for picture in data.pictures] == [(64, 96, 3)] * 3
    for other in data.pictures[1:]:
        np.testing.assert_array_equal(other, data.pictures[0])


def test_states_of_a_camera_change_a_crop_and_none_leaves_it(tiny_cpc: Config) -> None:
    pictures = [np.random.default_rng(0).integers(60, 200, (64, 96, 3), dtype=np.uint8)]
    plain = Crops(pictures, dataclasses.replace(tiny_cpc, colour=0.0))
    seen = Crops(pictures, dataclasses.replace(tiny_cpc, colour=0.0, camera=1.0))
    changed = [not np.array_equal(plain[n], seen[n]) for n in range(40)]
    assert 0.8 < np.mean(changed) < 1.0, 'one crop in sixteen has no state'
    assert np.array_equal(seen[3], seen[3])


def test_crops_at_fixed_places_lie_in_the_corners(tiny_cpc: Config) -> None:
    row, column = np.mgrid[0:96, 0:96].astype(np.uint8)
    pictures = [np.dstack([row, column, row])]
    config = dataclasses.replace(tiny_cpc, colour=0.0, fixed_crops=True)
    corners = {tuple(Crops(pictures, config)[n][0, 0, :2].tolist()) for n in range(40)}
    assert corners == {(0, 0), (0, 48), (48, 0), (48, 48)}


def test_a_random_encoder_stays_as_it_was_drawn(
    tiny_cpc: Config, root: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_cpc, random_encoder=True, one_cycle=True)
    torch.manual_seed(config.seed)
    first = train(dataclasses.replace(config, epochs=1), root, tmp_path / 'a', progress=False)
    more = train(config, root, tmp_path / 'b', progress=False)
    one, other = weights(first.parent), weights(more.parent)
    for name, value in one.items():
        assert torch.equal(value, other[name]) == name.startswith('net.encoder'), name
    assert one['net.encoder.blocks.0.second.weight'].abs().max() > 0


def test_an_imagenet_encoder_stays_what_it_is_whatever_else_is_in_the_batch(
    tiny_cpc: Config, root: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_cpc, patch=32, imagenet_encoder=True, epochs=1)
    run = train(config, root, tmp_path / 'run', progress=False)
    encoder = ImageNetEncoder()
    kept = {name.removeprefix('net.encoder.'): one for name, one in weights(run.parent).items()}
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, kept[name]), name
    patches = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    z = encoder.train()(patches)
    assert z.shape == (5, encoder.dimension)
    torch.testing.assert_close(z[1:2], encoder(patches[1:2]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(z.mean(dim=1), torch.zeros(5), atol=1e-5, rtol=0)


def test_patches_come_to_a_backbone_in_its_own_range() -> None:
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    trunk = frozen_teacher('efficientnet-lite0', 8)
    expected = normalise(pixels, trunk)
    torch.testing.assert_close(imagenet_range(normalised(pixels), trunk), expected)
