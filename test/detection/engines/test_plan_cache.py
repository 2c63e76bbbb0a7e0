"""Plans on disk: used for exactly what they were built for, whatever happens to the folder."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vq_anomaly_ros.detection.engines.plan_cache import (
    FORMAT,
    PlanCache,
    PlanError,
    PlanKey,
    default_folder,
)

KEY = PlanKey(
    model='m' * 64,
    graph_sha256='g' * 64,
    library='tensorrt 10.3.0.30',
    device='Orin',
    compute_capability=(8, 7),
    size=(720, 1280),
    batch=1,
    outputs=('score', 'camera_labels'),
    precision='fp16',
    settings='strongly typed, workspace 512 MB',
)
PLAN = bytes(range(256)) * 40


def quiet(seconds: float) -> None:
    pass


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / 'plans')


def files(cache: PlanCache, ending: str) -> list[Path]:
    return sorted(cache.folder.glob(f'*.{ending}'))


def test_what_is_stored_comes_back(cache: PlanCache) -> None:
    assert cache.load(KEY) is None
    path = cache.store(KEY, PLAN, {'seconds': 3.5})
    assert cache.load(KEY) == PLAN == path.read_bytes()
    described = json.loads(files(cache, 'json')[0].read_text())
    assert described['device'] == 'Orin' and described['notes'] == {'seconds': 3.5}
    cache.note(KEY, {'verified': True})
    assert cache.load(KEY) == PLAN
    described = json.loads(files(cache, 'json')[0].read_text())
    assert described['notes'] == {'seconds': 3.5, 'verified': True}
    assert cache.folder.stat().st_mode & 0o777 == 0o700


CHANGES = {
    'model': 'n' * 64,
    'graph_sha256': 'h' * 64,
    'library': 'tensorrt 10.13.3.9',
    'device': 'Thor',
    'compute_capability': (10, 1),
    'size': (1080, 1920),
    'batch': 2,
    'outputs': ('score',),
    'precision': 'fp32',
    'settings': 'strongly typed, workspace 256 MB',
    'format': FORMAT + 1,
}


def test_every_part_of_the_key_is_covered() -> None:
    assert set(CHANGES) == {field.name for field in dataclasses.fields(PlanKey)}


@pytest.mark.parametrize('name', CHANGES)
def test_a_plan_of_anything_else_is_not_used(cache: PlanCache, name: str) -> None:
    cache.store(KEY, PLAN, {})
    other = dataclasses.replace(KEY, **{name: CHANGES[name]})
    assert other.digest != KEY.digest
    assert cache.load(other) is None
    # And were the files renamed by hand, what is written in them would say so.
    files(cache, 'json')[0].rename(cache.folder / f'{other.digest}.json')
    (plan,) = files(cache, 'plan')
    plan.rename(cache.folder / plan.name.replace(KEY.digest, other.digest))
    with pytest.raises(PlanError, match=f'built for another {name}'):
        cache.load(other)
    assert not files(cache, 'plan'), 'what cannot be used is removed'
    assert cache.load(other) is None


def test_a_plan_that_was_cut_anywhere_is_dropped(cache: PlanCache) -> None:
    for cut in range(0, len(PLAN), 1000):
        path = cache.store(KEY, PLAN, {})
        path.write_bytes(PLAN[:cut])
        with pytest.raises(PlanError, match='bytes where'):
            cache.load(KEY)
        assert cache.load(KEY) is None


def test_a_flipped_bit_is_noticed(cache: PlanCache) -> None:
    path = cache.store(KEY, PLAN, {})
    path.write_bytes(PLAN[:500] + bytes([PLAN[500] ^ 1]) + PLAN[501:])
    with pytest.raises(PlanError, match='not those that were written'):
        cache.load(KEY)


@pytest.mark.parametrize('text', ['', '{', '[]', '{}', 'null', '\xff'])
def test_a_description_that_is_none(cache: PlanCache, text: str) -> None:
    cache.store(KEY, PLAN, {})
    files(cache, 'json')[0].write_text(text)
    with pytest.raises(PlanError):
        cache.load(KEY)
    assert cache.load(KEY) is None


@pytest.mark.parametrize('name', ['/etc/passwd', '../x.12345678.plan', 'x.plan', 3, None])
def test_a_description_that_names_a_file_elsewhere(cache: PlanCache, name: object) -> None:
    cache.store(KEY, PLAN, {})
    (sidecar,) = files(cache, 'json')
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {'plan': name}))
    with pytest.raises(PlanError, match='names no plan of its own'):
        cache.load(KEY)


def test_a_new_plan_replaces_the_one_before(cache: PlanCache) -> None:
    cache.store(KEY, PLAN, {})
    cache.store(KEY, PLAN[::-1], {})
    assert cache.load(KEY) == PLAN[::-1] and len(files(cache, 'plan')) == 1


def test_a_description_without_its_plan(cache: PlanCache) -> None:
    cache.store(KEY, PLAN, {}).unlink()
    with pytest.raises(PlanError, match='cannot be read'):
        cache.load(KEY)
    assert cache.load(KEY) is None


@pytest.mark.skipif(os.getuid() == 0, reason='root may write everywhere')
def test_a_folder_that_is_read_only(cache: PlanCache) -> None:
    cache.folder.mkdir()
    cache.folder.chmod(0o500)
    with pytest.raises(PlanError, match=r'cannot be written.*VQ_ANOMALY_PLANS'):
        cache.store(KEY, PLAN, {})


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    cache = PlanCache(tmp_path / 'file' / 'plans')
    with pytest.raises(PlanError, match='cannot be written'):
        cache.store(KEY, PLAN, {})
    with pytest.raises(PlanError, match='cannot be used'), cache.locked(KEY, quiet):
        pass
    assert cache.load(KEY) is None


def test_a_folder_that_others_may_write_into(cache: PlanCache) -> None:
    cache.store(KEY, PLAN, {})
    cache.folder.chmod(0o777)
    with pytest.raises(PlanError, match='can be written by others; chmod 700'):
        cache.load(KEY)


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full here')
def test_a_full_disk_leaves_nothing(cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(KEY, PLAN, {})
    fsync = os.fsync

    def full(handle: int) -> None:
        with Path('/dev/full').open('wb', buffering=0) as file:
            file.write(b'x')
        fsync(handle)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(PlanError, match='No space left on device'):
        cache.store(KEY, PLAN[::-1], {})
    monkeypatch.undo()
    assert not list(cache.folder.glob('.*.part'))
    assert cache.load(KEY) == PLAN, 'the one before is there'


def test_leftovers_of_a_killed_writer_are_removed(cache: PlanCache) -> None:
    cache.folder.mkdir(mode=0o700)
    mine, other = (cache.folder / f'.{name}.x1.part' for name in (KEY.digest, 'f' * 32))
    mine.write_text('half')
    other.write_text('of another key, perhaps at work')
    cache.store(KEY, PLAN, {})
    assert not mine.exists() and other.exists()


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from test_plan_cache import KEY, quiet
from vq_anomaly_ros.detection.engines.plan_cache import PlanCache, PlanError
cache = PlanCache(Path(sys.argv[1]))
plans = [bytes([n]) * 300_000 for n in range(4)]
random.seed(1)
found = set()
for kill in range(50):
    child = os.fork()
    if not child:
        for plan in plans * 1000:
            with cache.locked(KEY, quiet):
                cache.store(KEY, plan, {})
    time.sleep(random.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with cache.locked(KEY, quiet):
        try:
            plan = cache.load(KEY)
        except PlanError:
            plan = 'dropped'
            assert cache.load(KEY) is None
    assert plan in (None, 'dropped', *plans), 'a broken plan was handed out'
    assert plan in plans or 'whole' not in found, 'what there was stays until there is another'
    found.add('whole' if plan in plans else plan)
print(sorted(map(str, found)))
"""


def test_fifty_kills_at_random_moments_never_give_a_broken_plan(tmp_path: Path) -> None:
    root = Path(__file__).resolve()
    path = os.pathsep.join([str(root.parents[3]), str(root.parent)])
    ended = subprocess.run(
        [sys.executable, '-c', KILLED, str(tmp_path / 'plans')],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, 'PYTHONPATH': path},
    )
    assert ended.returncode == 0, ended.stderr
    assert 'whole' in ended.stdout, 'not all were killed before the first plan'


def test_of_two_one_waits_and_the_lock_of_a_dead_process_is_free(cache: PlanCache) -> None:
    order, waits = [], []

    def second() -> None:
        with cache.locked(KEY, waits.append):
            order.append('second')

    with cache.locked(KEY, quiet):
        thread = threading.Thread(target=second)
        thread.start()
        while not waits:
            time.sleep(0.01)
        order.append('first')
    thread.join(timeout=10)
    assert order == ['first', 'second']
    other = dataclasses.replace(KEY, batch=4)
    with cache.locked(KEY, quiet), cache.locked(other, waits.append):
        order.append('another key waits for nobody')


def test_the_folder_is_the_users_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('VQ_ANOMALY_PLANS', '/opt/plans')
    assert default_folder() == Path('/opt/plans')
    monkeypatch.delenv('VQ_ANOMALY_PLANS')
    monkeypatch.setenv('XDG_CACHE_HOME', '/var/cache/me')
    assert default_folder() == Path('/var/cache/me/vq_anomaly_ros/plans')
