"""Many bags at once: results equal to one pass, failures named, nothing done twice."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from vq_anomaly_ros.detection import calibration_file, model_file
from vq_anomaly_ros.machine import usable_cores
from vq_anomaly_ros.replay import bags, evaluate_fleet, fleet
from vq_anomaly_ros.replay.calibrate import CalibrateConfig
from vq_anomaly_ros.replay.calibrate import calibrate as calibrate_in_one_pass
from vq_anomaly_ros.replay.calibrate import main as calibrate
from vq_anomaly_ros.replay.evaluate_bag import EvaluationConfig, evaluate, main
from vq_anomaly_ros.replay.fleet import FleetError, Outcome, Workers

TOPIC = '/front/image_raw'
PATIENCE = 120.0


@pytest.fixture(scope='module')
def drives(
    tmp_path_factory: pytest.TempPathFactory, road_drive: Callable[..., list[np.ndarray]]
) -> list[Path]:
    """Two labelled bags."""
    folder = tmp_path_factory.mktemp('fleet')
    (folder / 'labels').mkdir()
    paths = []
    for number, name in enumerate(('drive', 'other')):
        path = folder / name
        with bags.BagWriter(path) as writer:
            for place, pixels in enumerate(road_drive(20 * number, 16)):
                stamp = (10 * number + 1) * 10**9 + place * 10**8
                writer.write_image(TOPIC, stamp, pixels, 'bgr8')
                anomaly = np.zeros(pixels.shape[:2], np.uint8)
                anomaly[30:60, 40 + place : 90] = 1
                cv2.imwrite(str(folder / 'labels' / f'{stamp}.png'), anomaly)
        paths.append(path)
    return paths


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / 'broken'
    path.mkdir()
    (path / 'metadata.yaml').write_text('rubbish')
    return path


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that other processes find, with work for them."""
    (tmp_path / 'fleet_tasks.py').write_text(
        'import os, signal\n'
        'def work(argument, tick):\n'
        '    tick(argument)\n'
        '    if argument == 3: raise ValueError("three is too many")\n'
        '    if argument == 4: os.kill(os.getpid(), signal.SIGKILL)\n'
        '    if argument == 5: os._exit(7)\n'
        '    if argument == 6: return {}["six"]\n'
        '    return argument ** 2\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return importlib.import_module('fleet_tasks')


def test_failures_and_deaths_are_named_and_the_others_finish(tasks: ModuleType) -> None:
    told: list[int] = []
    workers = Workers(jobs=3, expected=(ValueError,))
    found = sorted(
        fleet.run(tasks.work, range(1, 7), workers, told.append), key=lambda one: one.index
    )
    assert found[:3] == [Outcome(0, 1), Outcome(1, 4), Outcome(2, error='three is too many')]
    assert found[3].error == 'its process was ended by the signal 9 (out of memory?)'
    assert found[4].error == 'its process was ended with the code 7'
    assert "KeyError in fleet_tasks.py:7: 'six'" in found[5].error
    assert sum(told) == sum(range(1, 7))


@pytest.mark.parametrize(
    ('jobs', 'threads', 'drives', 'expected'), [(2, 0, 5, 2), (9, 0, 3, 3), (1, 3, 5, 1)]
)
def test_cores_are_shared_out(jobs: int, threads: int, drives: int, expected: int) -> None:
    workers = Workers(jobs)
    assert workers.at_once(drives) == expected
    assert workers.threads(threads, drives) == (threads or max(1, usable_cores() // expected))


def test_bags_of_one_name_get_folders_of_their_own() -> None:
    taken: set[str] = set()
    names = [fleet.unused_name(name, taken) for name in ('a', 'b', 'a', 'a-2', 'a')]
    assert names == ['a', 'b', 'a-2', 'a-2-2', 'a-3']


def plain(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what differs from run to run, or with the way it was made."""
    ways = ('created', 'latency_ms', 'made_by', 'bags', 'failed_bags', 'settings')
    return {name: value for name, value in summary.items() if name not in ways}


def rows_of(folder: Path) -> Any:
    content = json.loads((folder / 'frames.json').read_text())
    for drive in content['drives']:
        drive['frames'].pop('latency_ms')
    # Drives of one name and topic lie in one run of frames, or in two.
    return [
        frame
        for drive in content['drives']
        for frame in zip(*drive['frames'].values(), strict=True)
    ]


def arguments(drives: list[Path], model: Path, out: Path, *more: str) -> list[str]:
    named = [str(drive) for drive in drives]
    return [*named, '--model', str(model), '--out', str(out), '--no-video', '--threads', '1', *more]


def test_many_bags_equal_one_pass_and_nothing_is_done_twice(
    tmp_path: Path,
    drives: list[Path],
    broken: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = drives[0].parent / 'labels'
    config = EvaluationConfig(
        tuple(drives), tmp_path / 'one', tiny_model, labels=labels, threads=1, video=False
    )
    expected = evaluate(config)
    out = tmp_path / 'many'
    options = ['--labels', str(labels), '--jobs', '2', '--fail-if', 'bags.failed>9']
    run = arguments([drives[0], broken, drives[1]], tiny_model, out, *options)
    assert main(run) == 2
    assert 'NOT EVALUATED: broken: ' in (told := capsys.readouterr().out)
    assert 'damaged or incomplete' in told
    summary = json.loads((out / 'summary.json').read_text())
    assert (summary['bags'], summary['failed']) == ({'evaluated': 2, 'failed': 1}, [])
    assert plain({**summary, 'sources': expected['sources']}) == plain(expected)
    assert rows_of(out) == rows_of(tmp_path / 'one')
    page = (out / 'report.html').read_text()
    links = [f'bags/{name}/report.html' for name in ('drive', 'other')]
    assert all(f'href="{link}"' in page and (out / link).is_file() for link in links)
    assert 'FAILED' in page and not (out / 'output').exists()

    results = [out / 'bags' / name / 'summary.json' for name in ('drive', 'other')]
    before = [path.stat().st_mtime_ns for path in results]
    assert main(run) == 2
    assert [path.stat().st_mtime_ns for path in results] == before
    model = model_file.read(tiny_model)
    same = dataclasses.replace(config, out=out)
    for changes, done in (({}, True), ({'target_fpr': 0.01}, False), ({'labels': None}, False)):
        again = evaluate_fleet.bags_of(dataclasses.replace(same, **changes), model)
        assert [bag.is_done for bag in again] == [done, done]


def test_not_one_bag_is_an_error_and_no_report(
    tmp_path: Path, broken: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments([broken, broken], tiny_model, tmp_path / 'out')) == 2
    assert 'not one bag could be evaluated: ' in capsys.readouterr().err
    assert not (tmp_path / 'out' / 'report.html').exists()
    misspelt = arguments([broken, broken], tiny_model, tmp_path / 'out', '--fail-if', 'bags.sad>0')
    assert main(misspelt) == 2
    assert 'the summary has no number bags.sad' in capsys.readouterr().err


def test_an_interrupted_fleet_goes_on_where_it_was(
    tmp_path: Path, drives: list[Path], picture: Callable[..., np.ndarray], tiny_model: Path
) -> None:
    long, out = tmp_path / 'long', tmp_path / 'out'
    with bags.BagWriter(long) as writer:
        pixels = picture(0, 540, 960)
        for place in range(40):
            image = np.roll(pixels, 20 * place, 1)
            writer.write_image(TOPIC, 10**9 + place * 10**8, image, 'bgr8')
    command = [sys.executable, '-m', 'vq_anomaly_ros.replay.evaluate_bag']
    run = [*command, *arguments([drives[0], long], tiny_model, out, '--jobs', '1')]
    process = subprocess.Popen(run, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    limit = time.monotonic() + PATIENCE
    while not list(out.glob('bags/long/.unfinished-*/fresh/*')) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert 'bags that were finished are kept and not evaluated again' in errors
    assert 'Traceback' not in errors
    assert not (out / 'summary.json').exists()
    assert not list(out.rglob('.unfinished-*')), 'a process was left behind, or its files'
    done = out / 'bags' / 'drive' / 'summary.json'
    before = done.stat().st_mtime_ns
    assert main(run[3:]) == 0
    assert done.stat().st_mtime_ns == before
    assert json.loads((out / 'summary.json').read_text())['frames'] == 56


def test_a_calibration_of_many_bags_equals_that_of_one_pass(
    tmp_path: Path,
    drives: list[Path],
    broken: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = calibrate_in_one_pass(CalibrateConfig(tuple(drives), tiny_model, threads=1))
    out = tmp_path / 'c.json'
    options = ['--model', str(tiny_model), '--out', str(out), '--threads', '1', '--jobs', '2']
    named = [str(drive) for drive in (*drives, broken)]
    assert calibrate([*named, *options]) == 2
    assert 'NOT IN IT: broken: ' in capsys.readouterr().out
    found = calibration_file.read(out)
    assert found.to_dict() == expected.to_dict()
    kept = tmp_path / 'c.json.parts'
    parts = sorted(path.name for path in kept.iterdir())
    assert parts == ['drive.json', 'drive.pickle', 'other.json', 'other.pickle']
    before = (kept / 'drive.pickle').stat().st_mtime_ns
    (kept / 'other.pickle').write_bytes(b'rubbish')
    assert calibrate([*named[:2], *options]) == 2
    assert 'remove it, or use --fresh' in capsys.readouterr().err
    (kept / 'other.pickle').write_bytes(pickle.dumps(Stranger()))
    assert calibrate([*named[:2], *options]) == 2
    assert 'os.mkdir does not belong there' in capsys.readouterr().err.replace('posix', 'os')
    assert not Path(Stranger.TARGET).exists()
    assert (kept / 'drive.pickle').stat().st_mtime_ns == before
    assert calibrate([*named[:2], *options, '--fresh']) == 0
    assert not kept.exists()
    assert dataclasses.replace(calibration_file.read(out), date='').drift == expected.drift


class Stranger:
    """Makes a folder when it is unpickled."""

    TARGET = 'unpickled_by_a_test'

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.TARGET,)


def test_without_ray_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(FleetError, match=r'the package ray is not installed .* leave --ray out'):
        list(fleet.run(print, [1], Workers(ray='auto')))


def test_two_workers_of_a_ray_cluster(
    tmp_path: Path, drives: list[Path], broken: Path, tiny_model: Path
) -> None:
    pytest.importorskip('ray', reason='ray is not installed: it is no part of the test suite')
    expected = evaluate(
        EvaluationConfig(tuple(drives), tmp_path / 'one', tiny_model, threads=1, video=False)
    )
    out = tmp_path / 'many'
    options = ['--ray', 'local', '--jobs', '2']
    assert main(arguments([*drives, broken], tiny_model, out, *options)) == 2
    summary = json.loads((out / 'summary.json').read_text())
    assert [bag['name'] for bag in summary['failed_bags']] == ['broken']
    assert plain({**summary, 'sources': expected['sources']}) == plain(expected)
    assert rows_of(out) == rows_of(tmp_path / 'one')
    calibration = tmp_path / 'c.json'
    more = ['--model', str(tiny_model), '--out', str(calibration), '--threads', '1']
    assert calibrate([*map(str, drives), *more, *options]) == 0
    alone = calibrate_in_one_pass(CalibrateConfig(tuple(drives), tiny_model, threads=1))
    assert calibration_file.read(calibration).to_dict() == alone.to_dict()


def test_a_cluster_that_is_not_there_is_told() -> None:
    pytest.importorskip('ray', reason='ray is not installed: it is no part of the test suite')
    with pytest.raises(FleetError, match='there is no such cluster'):
        list(fleet.run(print, [1], Workers(ray='auto')))
