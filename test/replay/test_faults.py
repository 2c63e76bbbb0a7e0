"""Camera faults: defined by their levels, growing with severity, in place over a drive."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vq_anomaly_ros.images import as_frame, compressed_fields
from vq_anomaly_ros.replay import bags, faults
from vq_anomaly_ros.replay.faults import FAULTS, FROZEN, Damage, damaged, faulty


@pytest.fixture(scope='module')
def street() -> np.ndarray:
    """A picture with edges, colours and texture, uint8 BGR [180, 320, 3]."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(40, 200, (9, 16, 3), dtype=np.uint8), (320, 180))
    picture = np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)
    cv2.rectangle(picture, (100, 90), (150, 140), (20, 20, 160), -1)
    return picture


def change(picture: np.ndarray, fault: str, severity: int) -> float:
    return float(np.abs(faulty(picture, fault, severity).astype(float) - picture).mean())


@pytest.mark.parametrize('fault', FAULTS)
def test_each_severity_changes_more_than_the_one_before(street: np.ndarray, fault: str) -> None:
    before = street.copy()
    changes = [change(street, fault, severity) for severity in faults.SEVERITIES]
    assert changes == sorted(changes) and changes[0] > 0.2, changes
    assert changes[4] > 2 * changes[0]
    assert np.array_equal(street, before), 'the picture itself stays as it is'
    assert faulty(street, fault, 3).dtype == np.uint8


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(FAULTS)),
    st.integers(1, 5),
    st.tuples(st.integers(24, 200), st.integers(24, 200)),
    st.integers(0, 3),
)
def test_any_size_gives_the_same_size_and_the_same_bits_again(
    fault: str, severity: int, size: tuple[int, int], seed: int
) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    once, again = (faulty(picture, fault, severity, 7, seed) for _ in range(2))
    assert once.shape == picture.shape and np.array_equal(once, again)


@pytest.mark.parametrize('fault', FAULTS)
def test_only_noise_is_new_in_each_frame(street: np.ndarray, fault: str) -> None:
    first, second = (faulty(street, fault, 3, frame) for frame in (0, 1))
    assert np.array_equal(first, second) == (fault != 'noise')


@pytest.mark.parametrize('fault', ['dirt', 'drops', 'occlusion', 'dead_rows'])
def test_seeds_put_things_elsewhere(street: np.ndarray, fault: str) -> None:
    assert not np.array_equal(faulty(street, fault, 3, seed=1), faulty(street, fault, 3, seed=2))


@pytest.mark.parametrize(
    ('fault', 'severity'), [(f, s) for f in ('dirt', 'drops') for s in (1, 3, 5)]
)
def test_spots_cover_the_share_that_the_table_says(fault: str, severity: int) -> None:
    size, rng = (360, 640), np.random.default_rng(0)
    share = FAULTS[fault].levels[severity - 1]
    cover = faults._spots(size, share, rng, (0.02, 0.06), soft=0.2)
    assert share <= cover.mean() + 0.01 and cover.mean() < share + 0.05


def test_closed_forms(street: np.ndarray) -> None:
    white, grey = np.full((40, 60, 3), 255, np.uint8), np.full((40, 60, 3), 100, np.uint8)
    assert (faulty(white, 'overexposure', 1) == 255).all()
    # Two stops less in linear light: 100 * (1 / 2^2.7)^(1 / 2.2).
    assert faulty(grey, 'underexposure', 3)[0, 0, 0] == round(100 * 2 ** (-2.7 / 2.2))
    cast = faulty(grey, 'colour_cast', 3)[0, 0]
    assert sorted(cast) == [round(100 / 1.5), 100, 150]
    noisy = faulty(np.full((200, 300, 3), 128, np.uint8), 'noise', 2).astype(float)
    assert noisy.std() == pytest.approx(12.0, rel=0.03) and abs(noisy.mean() - 128) < 0.2
    rows = faulty(np.full((400, 50, 3), 128, np.uint8), 'dead_rows', 3)
    stuck = (rows != 128).all(axis=(1, 2))
    assert 0.05 < stuck.mean() <= 0.08, 'bands may lie on one another'
    flat = faulty(grey, 'blur', 5)
    assert np.array_equal(flat, grey), 'blur of one colour is that colour'


def test_unknown_faults_are_refused(street: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'rust' of severity 3 is unknown: use one of blur, dirt"):
        faulty(street, 'rust', 3)
    with pytest.raises(ValueError, match='severity 6'):
        faulty(street, 'fog', 6)


def frames(count: int) -> list[tuple[int, np.ndarray]]:
    return [
        (n * 100_000_000 + 5, np.full((32, 48, 3), 10 * n + 20, np.uint8)) for n in range(count)
    ]


def test_a_damage_begins_and_ends_by_header_time() -> None:
    found = list(damaged(iter(frames(10)), Damage('overexposure', 5, after=0.3, until=0.6)))
    changed = [not np.array_equal(a[1], b[1]) for a, b in zip(found, frames(10), strict=True)]
    assert changed == [False] * 3 + [True] * 3 + [False] * 4
    assert [stamp for stamp, _ in found] == [stamp for stamp, _ in frames(10)]


def test_a_frozen_stream_repeats_the_frame_before() -> None:
    found = [
        int(p[0, 0, 0]) for _, p in damaged(iter(frames(6)), Damage(FROZEN, after=0.2, until=0.4))
    ]
    assert found == [20, 30, 30, 30, 60, 70]
    assert [int(p[0, 0, 0]) for _, p in damaged(iter(frames(3)), Damage(FROZEN))] == [20, 20, 20]


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    path = tmp_path / 'drive'
    with bags.BagWriter(path) as writer:
        for stamp, picture in frames(5):
            writer.write_image('/front/image_raw', stamp + 10**18, picture, 'bgr8')
    return path


def test_a_bag_becomes_a_faulty_one(drive: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'faulty'
    arguments = [str(drive), str(out), '--fault', 'fog', '--severity', '4', '--after', '0.2']
    assert faults.main(arguments) == 0
    assert f'{out}: 5 frames' in capsys.readouterr().out
    found = [(stamp, as_frame(m).pixels) for stamp, _, m in bags.read_images(out, None)]
    assert [stamp for stamp, _ in found] == [stamp + 10**18 for stamp, _ in frames(5)]
    same = [np.array_equal(a[1], b[1]) for a, b in zip(found, frames(5), strict=True)]
    assert same == [True, True, False, False, False]
    assert faults.main(arguments) == 2, 'a bag is not replaced unasked'
    assert 'exists already' in capsys.readouterr().err
    assert faults.main([*arguments, '--overwrite']) == 0


def test_compressed_images_stay_compressed(tmp_path: Path) -> None:
    source, out = tmp_path / 'drive', tmp_path / 'faulty'
    with bags.BagWriter(source) as writer:
        for stamp, picture in frames(3):
            data = compressed_fields(picture, 'jpeg', 90)['data']
            writer.write_compressed('/front/image_raw/compressed', stamp + 10**18, data, 'jpeg')
    assert faults.main([str(source), str(out), '--fault', FROZEN, '--storage', 'sqlite3']) == 0
    found = list(bags.read_images(out, None))
    assert {topic for _, topic, _ in found} == {'/front/image_raw/compressed'} and len(found) == 3


def test_rubbish_is_named_and_nothing_is_left(tmp_path: Path, capsys) -> None:
    assert faults.main([str(tmp_path / 'none'), str(tmp_path / 'out'), '--fault', 'fog']) == 2
    assert str(tmp_path / 'none') in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
    assert faults.main([]) == 2 and '--fault' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        faults.main(['a', 'b', '--fault', 'rust'])


def test_the_table_lists_all(capsys) -> None:
    assert faults.main(['--list']) == 0
    said = capsys.readouterr().out
    for name, fault in FAULTS.items():
        assert f'| {name} | {fault.meaning} |' in said
    assert FROZEN in said
