"""calibrate: bags in, a calibration out that node and evaluate_bag take."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vq_anomaly_ros.detection import calibration_file, model_file
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.drift import STATISTICS, Baseline
from vq_anomaly_ros.images import as_frame
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.calibrate import main
from vq_anomaly_ros.replay.evaluate_bag import main as evaluate
from vq_anomaly_ros.replay.faults import faulty

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
    assert 'raw score above   held out' in capsys.readouterr().out
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


def test_the_limits_of_drift_are_learnt_and_watched(
    tmp_path: Path,
    tiny_model: Path,
    road_drive: Callable[..., list[np.ndarray]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    quiet = write_bag(tmp_path / 'quiet', road_drive(0, 120))
    out = tmp_path / 'c.json'
    assert calibrate(quiet, tiny_model, out) == 0
    assert 'drift monitor  limits learnt' in capsys.readouterr().out
    file = calibration_file.read(out)
    assert file.drift is not None and list(file.drift) == [TOPIC]
    assert file.watches_codes
    baseline = Baseline.from_dict(file.drift[TOPIC])
    assert (baseline.frames, set(baseline.limits)) == (120, set(STATISTICS))

    pictures = road_drive(120, 40)
    dark = [*pictures[:20], *(faulty(one, 'underexposure', 3) for one in pictures[20:])]
    for name, shown in {'same': pictures, 'dark': dark}.items():
        bag = write_bag(tmp_path / name, shown)
        options = ['--out', str(tmp_path / f'of_{name}'), '--no-video', '--calibration', str(out)]
        assert evaluate([str(bag), '--model', str(tiny_model), *options]) == 0
    same, told = (
        json.loads((tmp_path / f'of_{name}' / 'summary.json').read_text())
        for name in ('same', 'dark')
    )
    assert (same['events'], same['drift']['warn_frames']) == ([], 0)
    assert 0 < same['drift']['brightness_excess'] < 1 < told['drift']['brightness_excess']
    assert told['drift']['warn_frames'] + told['drift']['error_frames'] > 10
    first = told['events'][0]
    onset = 10**9 + 20 * 10**8
    assert (first['topic'], first['kind']) == (TOPIC, 'drift')
    assert onset <= first['stamp_ns'] <= onset + 2 * 10**9
    output = tmp_path / 'of_dark' / 'output'
    written = [json.loads(bags.deserialize(raw).data) for raw in events_of(output)]
    assert [one['stamp_ns'] for one in written] == [one['stamp_ns'] for one in told['events']]
    pictures_told = list(bags.read_images(output, '/front/anomaly/event_image'))
    assert [stamp_ns for stamp_ns, _, _ in pictures_told] == [one['stamp_ns'] for one in written]


def events_of(output: Path) -> Iterator[bags.RawMessage]:
    return bags.read_raw(output, ['/front/anomaly/events'])


def test_a_drive_that_cannot_teach_drift_calibrates_scores_all_the_same(
    tmp_path: Path,
    tiny_model: Path,
    picture: Callable[..., np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = write_bag(tmp_path / 'few', [picture(seed % 5, 64, 128) for seed in range(FRAMES)])
    assert calibrate(few, tiny_model, tmp_path / 'c.json') == 0
    told = capsys.readouterr()
    assert f'{TOPIC}: no limits of drift: 5 different frames' in told.err
    assert 'only frozen frames will be told' in told.out
    assert calibration_file.read(tmp_path / 'c.json').drift is None


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


def test_a_region_is_calibrated_and_kept(
    tmp_path: Path, drive: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'lower.json'
    assert calibrate(drive, tiny_model, out, '--region', '0,0.5 1,0.5 1,1 0,1') == 0
    told = capsys.readouterr().out
    assert f'{TOPIC}  region: 0,0.5 1,0.5 1,1 0,1; the vehicle itself: not seen' in told
    file = calibration_file.read(out)
    assert file.regions == {TOPIC: {'region': '0,0.5 1,0.5 1,1 0,1', 'ego': []}}
    assert file.overall.pixels == pytest.approx(FRAMES * 16 * 32 / 2, rel=0.1)


@pytest.mark.parametrize(
    ('region', 'problem'),
    [('0,0 1,1', '2 corners'), ('0,0 2,0 1,1', 'outside of the picture')],
)
def test_a_region_that_is_none_is_refused(
    tmp_path: Path,
    drive: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    region: str,
    problem: str,
) -> None:
    assert calibrate(drive, tiny_model, tmp_path / 'c.json', '--region', region) == 2
    assert problem in capsys.readouterr().err


def test_a_pixel_is_compared_with_its_class_if_asked(
    tmp_path: Path, drive: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each class that has a table keeps the target rate by itself."""
    out = tmp_path / 'quiet.json'
    assert calibrate(drive, tiny_model, out) == 0
    file = calibration_file.read(out)
    # The drive is too short for tables of classes: the roads get one by hand.
    road = dataclasses.replace(file.overall, raw=file.overall.raw + np.float32(0.1))
    by_hand = dataclasses.replace(file, classes={**file.classes, 'road': road})
    out.write_text(by_hand.to_json())
    frames = [as_frame(message) for _, _, message in bags.read_images(drive, None)]
    config = DetectorConfig(tiny_model, output_size='network', calibration=out, by_class=True)
    with Detector(config) as detector:
        found = detector.detect(frames)
    for name, table in by_hand.classes.items():
        index = detector.info.classes.index(name)
        for one in found:
            assert one.labels is not None
            of_class = one.labels == index
            expected = table.apply(one.raw_score[of_class])
            np.testing.assert_array_equal(one.score[of_class], expected)
    bag = [str(drive), '--model', str(tiny_model), '--out', str(tmp_path / 'report')]
    assert evaluate([*bag, '--by-class']) == 2
    assert 'class by class only with a calibration' in capsys.readouterr().err
