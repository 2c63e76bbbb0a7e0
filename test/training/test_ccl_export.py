"""A CCL run becomes a model file that detector and benchmark run like any other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from training import benchmark, export
from training.methods.ccl.task import Config
from training.train import train
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay import bags, evaluate_bag


@pytest.fixture(scope='module', params=['reverse', 'reconstruct'])
def exported(
    request: pytest.FixtureRequest,
    tiny_ccl: Config,
    two_categories: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The bolts and nuts as categories for the one base, as drives for the other."""
    folder = tmp_path_factory.mktemp('run')
    config = dataclasses.replace(tiny_ccl, name='watch', base=request.param, epochs=1)
    data = two_categories
    if request.param == 'reconstruct':
        for name in config.datasets:
            write_drive(folder / name, data / name / 'train/good')
        data = folder
    train(config, data, folder / 'run', progress=False)
    return export.export(folder / 'run', folder / 'watch.onnx', data).path


def write_drive(bag: Path, *folders: Path) -> None:
    """The pictures of folders as a bag, one a second."""
    pictures = [path for folder in folders for path in sorted(folder.glob('*.png'))]
    with bags.BagWriter(bag) as writer:
        for number, path in enumerate(pictures):
            picture = cv2.imread(str(path))
            writer.write_image('/front/image_raw', (number + 1) * 10**9, picture, 'bgr8')


def test_the_model_file_says_what_it_is(exported: Path) -> None:
    info = model_file.read(exported).info
    assert (info.method, info.classes, info.stride) == ('ccl', (), 4)
    assert info.training_data == ('bolt', 'nut') and info.score_range == (0.0, 2.0)
    assert 'efficientnet-lite0 at strides 4, 8' in info.score_kind
    assert 'local + global contrast by dataset' in info.score_kind
    assert set(info.parity) == {'openvino', 'onnxruntime'}
    assert exported.stat().st_size < 12 * 2**20


def test_the_detector_runs_it_without_classes(exported: Path, two_categories: Path) -> None:
    picture = cv2.imread(str(two_categories / 'nut/test/good/4.png'))
    with Detector(DetectorConfig(exported, output_size='camera')) as detector:
        (found,) = detector.detect([Frame(picture, 'bgr')])
        (again,) = detector.detect([Frame(picture, 'bgr')])
    assert found.labels is None and found.score.shape == (64, 128)
    assert found.score.min() >= 0.0 and found.score.max() <= 1.0
    assert np.array_equal(found.score, again.score)


def test_the_benchmark_judges_it_as_industrial(
    exported: Path, two_categories: Path, tmp_path: Path
) -> None:
    rows = tmp_path / 'rows.json'
    command = ['--model', str(exported), '--data', f'{two_categories / "nut"}:industrial']
    assert benchmark.main([*command, '--json', str(rows)]) == 0
    (row,) = json.loads(rows.read_text())
    assert row['provenance']['method'] == 'ccl' and row['images'] == 4
    assert set(row['metrics']) >= {'image_auroc', 'pixel_auroc', 'pro', 'ap'}


def test_evaluate_bag_reports_the_anomalies_of_a_drive(
    exported: Path, two_categories: Path, tmp_path: Path
) -> None:
    good, defective = two_categories / 'bolt/train/good', two_categories / 'bolt/test/hole'
    write_drive(tmp_path / 'drive', good, defective)
    command = [str(tmp_path / 'drive'), '--model', str(exported), '--target-fpr', '0.01']
    assert evaluate_bag.main([*command, '--out', str(tmp_path / 'out'), '--no-video']) == 0
    summary = json.loads((tmp_path / 'out/summary.json').read_text())
    assert summary['frames'] == 6 and 0 <= summary['anomaly_fraction'] <= 1
    assert (tmp_path / 'out/report.html').exists()
