"""calibrate: bags in, a calibration out that node and evaluate_bag take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vq_anomaly_ros.detection import calibration_file, model_file
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.calibrate import main
from vq_anomaly_ros.replay.evaluate_bag import main as evaluate

FRAMES = 25
TOPIC = '/front/image_raw'


def write_bag(path: Path, pictures: list[np.ndarray]) -> Path:
    with bags.BagWriter(path) as writer:
        for index, pixels in enumerate(pictures):
            writer.write_image(TOPIC, 10**9 + index * 10**8, pixels, 'bgr8', 'camera')
    return path


@pytest.fixture(scope='module')
def drive(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., np.ndarray]) -> Path:
    pictures = [picture(seed, 96, 160) for seed in range(FRAMES)]
    return write_bag(tmp_path_factory.mktemp('bags') / 'quiet', pictures)


def calibrate(drive: Path, model: Path, out: Path, *more: str) -> int:
    return main([str(drive), '--model', str(model), '--out', str(out), *more])


def test_a_calibration_is_written_and_used(
    tmp_path: Path, drive: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'quiet.json'
    assert calibrate(drive, tiny_model, out, '--target-fpr', '0.02', '--polluted', '0.01') == 0
    assert 'asked for   held out' in capsys.readouterr().out
    file = calibration_file.read(out)
    file.check_model(model_file.read(tiny_model).info, 'here')
    assert [(bag.name, bag.topic, bag.frames) for bag in file.bags] == [('quiet', TOPIC, FRAMES)]
    assert (file.polluted, file.overall.pixels) == (0.01, FRAMES * 16 * 32)
    assert {rate.target for rate in file.realised if rate.per == 'pixel'} >= {0.02, 0.01}
    report = tmp_path / 'report'
    options = ['--out', str(report), '--no-video', '--target-fpr', '0.02']
    bag = [str(drive), '--model', str(tiny_model), *options]
    assert evaluate([*bag, '--calibration', str(out)]) == 0
    summary = json.loads((report / 'summary.json').read_text())
    assert summary['calibration']['source'] == 'quiet'
    assert summary['anomaly_fraction'] == pytest.approx(0.02, rel=0.3)


def test_the_calibration_of_another_model_is_refused(
    tmp_path: Path, drive: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'quiet.json'
    assert calibrate(drive, tiny_model, out) == 0
    fields = json.loads(out.read_text())
    fields['model']['weights_sha256'] = '0' * 64
    out.write_text(json.dumps(fields))
    bag = [str(drive), '--model', str(tiny_model), '--out', str(tmp_path / 'report')]
    assert evaluate([*bag, '--calibration', str(out)]) == 2
    assert 'calibrate the model that is in use' in capsys.readouterr().err
    assert not (tmp_path / 'report').exists()


@pytest.mark.parametrize(
    ('pictures', 'more', 'word'),
    [
        (3, [], 'are too few to calibrate on'),
        (-FRAMES, [], 'are the same picture'),
        (FRAMES, ['--target-fpr', '2'], 'is out of range'),
        (FRAMES, ['--topic', '/rear/image_raw'], 'no image topic /rear/image_raw'),
    ],
)
def test_rubbish_leaves_no_file(
    tmp_path: Path,
    tiny_model: Path,
    picture: Callable[..., np.ndarray],
    capsys: pytest.CaptureFixture[str],
    pictures: int,
    more: list[str],
    word: str,
) -> None:
    shown = [picture(seed if pictures > 0 else 0, 64, 128) for seed in range(abs(pictures))]
    bag = write_bag(tmp_path / 'bag', shown)
    assert calibrate(bag, tiny_model, tmp_path / 'new' / 'c.json', *more) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()
