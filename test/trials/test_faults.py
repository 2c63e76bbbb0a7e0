"""The real node outlives what befalls it: the trials of `trials.faults`, a little of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from rich.console import Console

from vq_anomaly_ros.trials import faults, lifecycle, loopback
from vq_anomaly_ros.trials.detector_process import Usage
from vq_anomaly_ros.trials.harness import Setting, SkippedError, Trial, run
from vq_anomaly_ros.trials.peer import expect, own_domain
from vq_anomaly_ros.trials.stage import Stage

SCALE = 0.1
# A hung engine has tests of its own (test_hang), rates and rubbish, too.
ELSEWHERE = {'engine_throws', 'engine_returns_nan', 'engine_hangs', 'clocks_jump'}


@pytest.fixture(scope='module')
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with own_domain() as (peer, environment):
        yield Stage(peer.node.context, environment, tmp_path_factory.mktemp('trials'))


@pytest.mark.parametrize(
    'name', [n for n, trial in faults.TRIALS.items() if trial.in_tests and n not in ELSEWHERE]
)
def test_the_node_outlives(stage: Stage, name: str) -> None:
    row = run(faults.TRIALS[name], stage, SCALE, settle=False)
    assert row['outcome'] == 'held', row['why']
    counts = row['counts']
    assert counts['received'] == sum(
        counts[n] for n in ('published', 'superseded', 'rejected', 'failed', 'in_flight')
    )
    assert counts['published'] > 0


def not_hold(setting: Setting) -> None:
    expect(False, 'it did not hold')


def skip(setting: Setting) -> None:
    raise SkippedError('not on this machine')


@pytest.mark.parametrize(('befall', 'outcome'), [(not_hold, 'failed'), (skip, 'skipped')])
def test_what_does_not_hold_is_told(stage: Stage, befall: Any, outcome: str) -> None:
    row = run(Trial('a trial', befall), stage, SCALE, settle=False)
    assert row['outcome'] == outcome
    assert row['why'] in ('it did not hold', 'not on this machine')


def test_lifecycle_cycles_under_load_leave_nothing(stage: Stage) -> None:
    row = lifecycle.cycle(stage, 20, Console(quiet=True), cameras=2)
    # Of so few cycles memory says little: what grows by cycle is measured with 1,000.
    assert row['threads'][1] <= row['threads'][0]
    assert row['descriptors'][1] <= row['descriptors'][0]
    assert row['rss_growth_mb'] < 20


def test_one_reading_of_memory_is_no_growth_and_a_slope_is() -> None:
    def taken(memory: list[float]) -> dict[str, Any]:
        return lifecycle._compared([Usage(one, 20, 25, 0.0) for one in memory])

    even = [250.0] * 99
    assert taken([*even, 260.0])['rss_growth_mb'] == 0
    assert taken([240.0, *even])['rss_growth_mb'] == 0
    slope = taken([200 + 0.1 * number for number in range(1000)])
    assert slope['rss_growth_mb'] == pytest.approx(90, abs=0.2)
    assert slope['rss_mb_over_time'][::10] == [200.0, 250.0]


def test_what_grew_is_told() -> None:
    row = {'rss_growth_mb': 4.9, 'threads': [20, 20], 'descriptors': [25, 24]}
    assert lifecycle.problems(row) == []
    row = {'rss_growth_mb': 5.0, 'threads': [20, 21], 'descriptors': [25, 26]}
    assert len(lifecycle.problems(row)) == 3


def test_the_machines_own_network_is_left_alone() -> None:
    assert not loopback.is_own()
    with pytest.raises(OSError, match="the machine's"):
        loopback.set_up(False)


@pytest.mark.parametrize('arguments', [['nonsense'], ['--scale', '0'], ['--scale', 'nan']])
def test_bad_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        faults.main(arguments)
    assert ended.value.code == 2
    assert 'error: argument' in capsys.readouterr().err


def test_rows_are_written(tmp_path: Path) -> None:
    out = tmp_path / 'rows.json'
    assert faults.main(['bursts', '--scale', '0.05', '--json', str(out)]) == 0
    told = json.loads(out.read_text())
    assert [(row['trial'], row['outcome']) for row in told['trials']] == [('bursts', 'held')]
    assert told['machine']['cores'] > 0
