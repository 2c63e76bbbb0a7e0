"""Sets of coarser classes than the model's: their scores, their figures, what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from training.benchmark import main
from training.data import street
from training.data.folders import read_segmentation_folder
from training.data.street import CAMVID_CLASSES
from training.judged_classes import judged_classes
from training.measurement import Measurement
from training.predictor import Predictor, upsampled_argmax
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.metrics import PROTOCOLS

SIZE = (90, 150)
CLASSES = ('tree', 'road', 'building', 'sky')  # of the model
COARSE = ('drivable', 'far objects', 'sky')  # of the set
MEMBERS = ((1,), (2, 0), (3,))


@pytest.fixture
def model(make_tiny_model, tmp_path) -> Path:
    return make_tiny_model(tmp_path / 'street.onnx', name='street', classes=CLASSES)


@pytest.fixture
def region(tmp_path, picture) -> Path:
    """A segmentation folder of three pictures with coarse classes; 9 is void."""
    folder = tmp_path / 'region'
    rng = np.random.default_rng(1)
    for part in ('images', 'labels'):
        (folder / 'test' / part).mkdir(parents=True)
    for seed in range(3):
        labels = np.kron(rng.integers(0, 3, (9, 15)), np.ones((10, 10))).astype(np.uint8)
        labels[:7] = 9
        cv2.imwrite(str(folder / 'test' / 'images' / f'{seed}.png'), picture(seed, *SIZE))
        cv2.imwrite(str(folder / 'test' / 'labels' / f'{seed}.png'), labels)
    name_classes(folder, COARSE)
    return folder


def name_classes(folder: Path, names) -> None:
    (folder / 'classes.yaml').write_text(f'classes: {json.dumps(list(names))}\nvoid: [9]\n')


def run(*arguments) -> int:
    fixed = ('--protocol', 'segmentation', '--backend', 'onnxruntime')
    return main([str(argument) for argument in (*arguments, *fixed)])


def coarse_by_hand(model: Path, image: np.ndarray) -> np.ndarray:
    """Highest upsampled class score of each coarse class's members, then the argmax."""
    measurement = Measurement(PROTOCOLS['segmentation'], 'onnxruntime')
    predictor = Predictor(model_file.read(model), measurement)
    maps = [cv2.resize(one, SIZE[::-1]) for one in predictor.run(image)]
    return np.stack([np.max([maps[i] for i in group], axis=0) for group in MEMBERS]).argmax(axis=0)


def test_coarse_classes_are_judged_by_the_best_of_their_members(region, model, tmp_path, capsys):
    out = tmp_path / 'rows.json'
    assert run('--model', model, '--data', region, '--json', out) == 0
    (row,) = json.loads(out.read_text())
    truth, found = [], []
    for index in range(3):
        labels = cv2.imread(str(region / 'test' / 'labels' / f'{index}.png'), -1)
        image = cv2.imread(str(region / 'test' / 'images' / f'{index}.png'))
        truth.append(labels[labels != 9])
        found.append(coarse_by_hand(model, image)[labels != 9])
    iou = jaccard_score(np.concatenate(truth), np.concatenate(found), average=None)
    assert list(row['per_class']) == list(COARSE)
    np.testing.assert_allclose(list(row['per_class'].values()), iou, atol=1e-9)
    assert row['metrics']['miou'] == pytest.approx(iou.mean(), abs=1e-9)
    described = 'coarse: road -> drivable; building, tree -> far objects; sky'
    assert row['provenance']['classes'] == described
    assert described in capsys.readouterr().out


def test_equal_classes_stay_those_of_the_model(region, model, tmp_path, capsys):
    name_classes(region, CLASSES)
    out = tmp_path / 'rows.json'
    assert run('--model', model, '--data', region, '--json', out) == 0
    (row,) = json.loads(out.read_text())
    assert set(row['per_class']) <= set(CLASSES)
    assert 'coarse' not in row['provenance']['classes']
    assert 'coarse' not in capsys.readouterr().out


def test_a_class_of_two_coarse_ones_counts_as_the_one_it_mainly_is(region, model, monkeypatch):
    monkeypatch.setitem(street.COARSE, 'drivable', ('road', 'tree'))
    monkeypatch.setitem(street.COARSE, 'far objects', ('building', 'tree'))
    found = {}
    for mainly in ('drivable', 'far objects'):
        monkeypatch.setitem(street.MAINLY, 'tree', mainly)
        monkeypatch.setitem(street.MAINLY, 'building', 'far objects')
        judged = judged_classes(model_file.read(model), read_segmentation_folder(region))
        found[mainly] = judged.members
    assert found == {
        'drivable': ((1, 0), (2,), (3,)),
        'far objects': ((1,), (2, 0), (3,)),
    }


@pytest.mark.parametrize(
    ('names', 'what'),
    [
        (('drivable', 'far objects', 'moon'), 'unknown to either'),
        (('drivable', 'road', 'sky'), 'one class of the model in two of the set'),
        (('drivable', 'vehicles', 'sky'), 'members that the model lacks'),
        (('road', 'tree', 'sky'), "some of the model's classes only"),
    ],
)
def test_sets_of_neither_kind_are_refused(region, model, names, what, capsys):
    name_classes(region, names)
    assert run('--model', model, '--data', region) == 2, what
    assert 'choose a set and a model of the same classes' in capsys.readouterr().err


def test_sheets_show_coarse_classes_in_colours_of_the_model(region, model, tiny_info, tmp_path):
    name_classes(region, COARSE)
    for path in (region / 'test' / 'labels').iterdir():
        cv2.imwrite(str(path), np.full(SIZE, 2, np.uint8))  # sky everywhere
    assert run('--model', model, '--data', region, '--sheet', tmp_path / 'sheets') == 0
    (page,) = (tmp_path / 'sheets').iterdir()
    truth = cv2.imread(str(page))[20:200, 2 * 484 + 20 : 2 * 484 + 400]
    colour = tiny_info.palette[CLASSES.index('sky')][::-1]
    assert np.abs(truth.astype(int) - colour).mean() < 6


def test_argmax_over_coarse_classes_takes_the_first_of_equals():
    scores = np.random.default_rng(0).integers(0, 3, (4, 6, 8)).astype(np.float32)
    maps = [cv2.resize(plane, (21, 17)) for plane in scores]
    stacked = np.stack([np.max([maps[i] for i in group], axis=0) for group in MEMBERS])
    found = upsampled_argmax(scores, (17, 21), MEMBERS)
    np.testing.assert_array_equal(found, stacked.argmax(axis=0))


def test_idd_lite_goes_with_camvid(shared_data, make_tiny_model, tmp_path):
    """Every class of IDD-Lite is made of classes of CamVid, and each of these is in one."""
    palette = tuple((i, i, i) for i in range(len(CAMVID_CLASSES)))
    model = model_of_classes(make_tiny_model, tmp_path, CAMVID_CLASSES, palette)
    judged = judged_classes(model, read_segmentation_folder(shared_data / 'idd_lite' / 'val'))
    assert len(judged.names) == 7
    assert sorted(index for group in judged.members for index in group) == list(range(11))


def model_of_classes(make_tiny_model, tmp_path, classes, palette) -> model_file.ModelFile:
    """The description of a model with other classes; its graph is that of the tiny one."""
    model = model_file.read(make_tiny_model(tmp_path / 'model.onnx'))
    info = dataclasses.replace(model.info, classes=classes, palette=palette)
    return dataclasses.replace(model, info=info)
