"""The soak: what counts as a change, and a short one of the real node."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from rich.console import Console

from vq_anomaly_ros.node import transport
from vq_anomaly_ros.replay.processes import ProcessError
from vq_anomaly_ros.trials import soak
from vq_anomaly_ros.trials.peer import own_domain
from vq_anomaly_ros.trials.stage import Load, Stage

END: dict[str, float] = {
    'rss_mb': 300.0, 'threads': 20, 'descriptors': 30, 'latency_p50_ms': 30.0, 'published_hz': 40.0,
}  # fmt: skip
ROW: dict[str, Any] = {'first': END, 'last': END, 'samples': [{'failed': 0}]}


@pytest.mark.parametrize(
    ('name', 'noise', 'change'),
    [
        ('rss_mb', 305.0, 307.0),
        ('threads', 21, 22),
        ('descriptors', 29, 31),
        ('latency_p50_ms', 37.0, 38.0),
        ('published_hz', 37.0, 35.0),
    ],
)
def test_what_changed_is_told_and_noise_is_not(name: str, noise: float, change: float) -> None:
    assert soak.problems(ROW) == []
    assert soak.problems({**ROW, 'last': {**END, name: noise}}) == []
    (told,) = soak.problems({**ROW, 'last': {**END, name: change}})
    assert told.startswith(f'{name}: ')


def test_failed_frames_are_told() -> None:
    row = copy.deepcopy(ROW)
    row['samples'].append({'failed': 2})
    assert soak.problems(row) == ['2 frames failed']


def test_the_warm_up_is_left_out_and_the_ends_are_compared() -> None:
    samples = [{name: float(number) for name in soak.NOISE} for number in range(60)]
    ends = soak._compared(samples)
    assert ends['first']['rss_mb'] == pytest.approx((3 + 12) / 2)
    assert ends['last']['rss_mb'] == pytest.approx((50 + 59) / 2)


def test_a_short_soak_of_the_real_node(tiny_model: Path, tmp_path: Path) -> None:
    with own_domain() as (peer, environment):
        stage = Stage(peer.node.context, environment, tmp_path)
        row = soak.soak(stage, str(tiny_model), Load(2, (90, 160), 10.0), 3.0, Console(quiet=True))
    assert len(row['samples']) >= 2
    assert row['samples'][-1]['failed'] == 0
    assert row['samples'][-1]['published'] > row['samples'][0]['published'] > 0
    assert row['last']['threads'] > 5


@pytest.mark.parametrize('option', [('--seconds', '1'), ('--rate', 'nan'), ('--cameras', '0')])
def test_nonsense_is_refused(option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        soak.main(option)
    assert ended.value.code == 2


def test_a_sender_that_ends_is_told_at_once(tiny_model: Path, tmp_path: Path) -> None:
    with own_domain() as (peer, environment):
        stage = Stage(peer.node.context, environment, tmp_path)
        load = Load(1, (90, 160), 0.0)  # which no sender takes
        with pytest.raises(ProcessError, match='--rate'):
            soak.soak(stage, str(tiny_model), load, 60.0, Console(quiet=True))


def test_the_sender_takes_the_longest_soak(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        transport.main(['send', '--seconds', str(soak._LONGEST + soak.SLACK), '--rate', 'none'])
    assert '--seconds' not in capsys.readouterr().err.partition('error:')[2]
    with pytest.raises(SystemExit):
        soak.main(['--seconds', str(soak._LONGEST + 1)])
    assert '30 days' in capsys.readouterr().err
