"""Recordings for the rerun viewer: read back by rerun itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.evaluate_bag import main

STAMP = 1_700_000_000_000_000_000


@pytest.fixture
def drive(tmp_path: Path, picture: Any) -> Path:
    with bags.BagWriter(tmp_path / 'drive') as writer:
        for number in range(3):
            writer.write_image('/front/image_raw', STAMP + number, picture(number), 'bgr8')
    return tmp_path / 'drive'


def run(drive: Path, model: Path, rrd: Path) -> int:
    out = rrd.parent / 'out'
    options = ['--model', str(model), '--out', str(out), '--no-video', '--rerun', str(rrd)]
    return main([str(drive), *options])


def rerun(*arguments: str) -> str:
    """What rerun's own command says of a file."""
    command = [sys.executable, '-m', 'rerun', 'rrd', *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_recording_holds_every_frame(tmp_path: Path, drive: Path, tiny_model: Path) -> None:
    pytest.importorskip('rerun', reason='rerun-sdk is not installed')
    rrd = tmp_path / 'new' / 'drive.rrd'
    assert run(drive, tiny_model, rrd) == 0
    rerun('verify', str(rrd))
    printed = rerun('print', '-vvv', str(rrd))
    for entity in ('picture', 'overlay', 'score', 'classes', 'curves/rarity', 'timing/latency_ms'):
        assert f'/front/{entity}' in printed
    assert '2023-11-14' in printed  # the stamps
    assert 'AnnotationContext' in printed and 'frame' in printed
    assert {path.name for path in rrd.parent.iterdir()} == {'drive.rrd', 'out'}


def test_an_error_leaves_an_earlier_recording(
    tmp_path: Path, drive: Path, tiny_model: Path
) -> None:
    pytest.importorskip('rerun', reason='rerun-sdk is not installed')
    rrd = tmp_path / 'drive.rrd'
    rrd.write_bytes(b'earlier')
    (storage,) = drive.glob('*.mcap')
    storage.write_bytes(storage.read_bytes()[:30000])
    assert run(drive, tiny_model, rrd) == 2
    assert rrd.read_bytes() == b'earlier'
    assert {path.name for path in tmp_path.iterdir()} <= {'drive', 'drive.rrd', 'out'}


def test_without_rerun_it_is_said_what_to_install(
    tmp_path: Path,
    drive: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, 'rerun', None)
    assert run(drive, tiny_model, tmp_path / 'drive.rrd') == 2
    assert 'rerun-sdk is not installed' in capsys.readouterr().err
    assert not (tmp_path / 'drive.rrd').exists()
