"""Damaged messages and files raise their own error or none; what finds defects finds them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.images import ENCODINGS
from vq_anomaly_ros.trials import fuzz
from vq_anomaly_ros.trials.fuzz_targets import TARGETS, Target, check_image, mutated

COUNTS = {'image': 2000, 'compressed': 1000}


@pytest.mark.parametrize('name', TARGETS)
def test_nothing_but_its_own_error_comes_out(name: str) -> None:
    """In a process of its own, as the command runs it: looks at the memory are cheap there."""
    count = COUNTS.get(name, 150)
    row = fuzz.run(name, 1, count)
    assert row['found'] == []
    assert row['inputs'] == count


@pytest.mark.parametrize('name', TARGETS)
def test_seeds_are_valid_and_most_inputs_are_not(name: str, tmp_path: Path) -> None:
    seeds = fuzz.inputs(TARGETS[name], tmp_path)
    assert seeds
    for seed in seeds:
        TARGETS[name].check(seed)
    made = [fuzz.made_input(seeds, name, 0, number) for number in range(50)]
    assert made == [fuzz.made_input(seeds, name, 0, number) for number in range(50)]
    assert sum(one not in seeds for one in made) > 40


def test_image_seeds_know_almost_every_encoding(tmp_path: Path) -> None:
    seeds = fuzz.inputs(TARGETS['image'], tmp_path)
    known = {json.loads(seed.partition(b'\n')[0])['encoding'] for seed in seeds}
    assert set(ENCODINGS) - known <= {'rgba16', 'bgra16'}


@given(
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1),
    st.sampled_from([*ENCODINGS, '', 'rgb']), st.integers(0, 255), st.integers(8, 16),
    st.binary(max_size=4096),
)  # fmt: skip
def test_any_fields_of_an_image(
    height: int, width: int, step: int, encoding: str, bigendian: int, bits: int, data: bytes
) -> None:
    fields = {
        'height': height, 'width': width, 'step': step, 'encoding': encoding,
        'is_bigendian': bigendian, 'bits': bits,
    }  # fmt: skip
    check_image(json.dumps(fields).encode() + b'\n' + data)


@given(
    st.sampled_from(ENCODINGS), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3),
    st.integers(-3, 3), st.randoms(use_true_random=False),
)  # fmt: skip
def test_data_a_little_too_long_or_short(
    encoding: str, height: int, width: int, padding: int, off: int, chance: random.Random
) -> None:
    step = 4 * width + padding
    fields = {
        'height': height, 'width': width, 'step': step, 'encoding': encoding,
        'is_bigendian': 0, 'bits': 12,
    }  # fmt: skip
    data = chance.randbytes(max(0, 3 * step * height + off))
    check_image(json.dumps(fields).encode() + b'\n' + data)


@given(st.binary(max_size=200), st.integers())
def test_any_seed_can_be_changed(seed: bytes, number: int) -> None:
    assert isinstance(mutated(seed, random.Random(number)), bytes)


def throws(data: bytes) -> None:
    if data[:1] == b'a':
        raise KeyError('a defect')


def test_a_defect_is_found_with_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target('throws', lambda folder: [b'abcdefgh', b'zbcdefgh'], throws)
    monkeypatch.setitem(TARGETS, 'throws', target)
    progress = tmp_path / 'progress'
    progress.write_bytes(bytes(8))
    monkeypatch.setattr(fuzz, '_memory_in_use', lambda: 0.0)
    found = fuzz.run_here('throws', 0, 0, 100, progress)['found']
    assert len(found) == 10 and 'KeyError' in found[0]['error']
    row = {'target': 'throws', 'found': found[:1], 'rss_growth_mb': 0.0}
    fuzz.keep_found([row], 0, tmp_path / 'found')
    data = (tmp_path / 'found' / 'throws' / str(found[0]['number'])).read_bytes()
    assert data[:1] == b'a'
    assert not fuzz.holds(row)
    assert not fuzz.holds({'found': [], 'rss_growth_mb': fuzz.MOST_GROWTH_MB})


@pytest.mark.parametrize('leaks', [True, False])
def test_what_is_given_back_is_no_leak(
    leaks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bytearray] = []

    def check(data: bytes) -> None:
        if not leaks:
            kept.clear()
        kept.append(bytearray(b'x' * 2_000_000 if leaks or len(data) % 2 else b''))

    target = Target('keeps', lambda folder: [b'abcdefgh', b'zbcdefghi'], check)
    monkeypatch.setitem(TARGETS, 'keeps', target)
    progress = tmp_path / 'progress'
    progress.write_bytes(bytes(8))
    before, after = fuzz.run_here('keeps', 0, 0, 25, progress)['rss_mb']
    assert (after - before > 15) if leaks else (after - before < 8)


@pytest.fixture
def pretend_child(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A child that ends in some way at the inputs named, instead of a process."""

    def pretend(ends: dict[int, str]) -> None:
        def child(name: str, seed: int, first: int, count: int, progress: Path) -> Any:
            for number in range(first, first + count):
                progress.write_bytes(number.to_bytes(8, 'little'))
                if number in ends:
                    return {}, ends[number]
            progress.write_bytes((first + count).to_bytes(8, 'little'))
            return {'found': [], 'rss_mb': [10.0, 11.0]}, ''

        monkeypatch.setattr(fuzz, '_child', child)

    return pretend


def test_after_a_crash_and_a_hang_the_rest_is_run(pretend_child: Callable[..., None]) -> None:
    pretend_child({5: 'crash: exit code -11', 19: 'hangs'})
    row = fuzz.run('image', 0, 20)
    assert [(one['number'], one['error']) for one in row['found']] == [
        (5, 'crash: exit code -11'), (19, 'hangs'),
    ]  # fmt: skip
    assert row['inputs'] == 20


def test_children_run_and_are_counted(tmp_path: Path) -> None:
    out = tmp_path / 'rows.json'
    arguments = ['compressed', '--messages', '50', '--json', str(out), '--found', str(tmp_path)]
    assert fuzz.main(arguments) == 0
    (row,) = json.loads(out.read_text())['targets']
    assert (row['target'], row['inputs'], row['found']) == ('compressed', 50, [])
