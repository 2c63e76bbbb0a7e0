"""Two runs beside each other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from vq_anomaly_ros.replay.comparison import ComparisonError, compare, read_summary
from vq_anomaly_ros.replay.frame_results import FrameRow
from vq_anomaly_ros.replay.frame_series import FRAMES, write_frames

SUMMARY = {
    'anomaly_fraction': 0.25,
    'frames': 7,
    'rarity': {'p50': 2.0, 'max': None},
    'share_above': {'1e-3': 0.5},
    'engine': 'A',
    'settings': {'bags': 'a', 'threads': 1},
}


def rows(rarities: list[float], source: str = 'a') -> list[FrameRow]:
    return [
        FrameRow(10**9 * place, source, '/image_raw', rarity, 0.0, None, None)
        for place, rarity in enumerate(rarities)
    ]


def other_run(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / 'summary.json').write_text(json.dumps({**SUMMARY, **changes}))
    return folder


def test_numbers_that_both_have_and_settings_that_differ(tmp_path: Path) -> None:
    other = other_run(
        tmp_path / 'before',
        anomaly_fraction=0.125,
        engine='B',
        settings={'bags': 'a', 'topic': 't'},
    )
    found = compare(SUMMARY, rows([1.0]), other)
    assert [(n.name, n.here, n.there, n.difference) for n in found.first] == [
        ('frames', 7.0, 7.0, 0.0),
        ('anomaly_fraction', 0.25, 0.125, 0.125),
        ('rarity.p50', 2.0, 2.0, 0.0),
    ]
    assert [number.name for number in found.others] == ['share_above.1e-3']
    assert found.settings == (
        ('engine', 'A', 'B'),
        ('settings threads', '1', '–'),
        ('settings topic', '–', 't'),
    )
    assert (found.name, found.rarity, found.changed) == ('before', None, ())


@pytest.mark.parametrize('source', ['a', 'the_same_drive_with_fog'])
def test_frames_are_matched_by_their_stamps(tmp_path: Path, source: str) -> None:
    other = other_run(tmp_path / 'before')
    write_frames(rows([1.0, 3.0, 2.0], source), other / FRAMES)
    found = compare(SUMMARY, rows([1.0, 2.5, 4.0, 5.0]), other / 'summary.json')
    assert found.rarity is not None
    np.testing.assert_array_equal(found.rarity, [1.0, 3.0, 2.0, np.nan])
    changed = [(one.place, one.here, one.there) for one in found.changed]
    assert changed == [(2, 4.0, 2.0), (1, 2.5, 3.0)]


def test_frames_of_another_drive_are_not_compared(tmp_path: Path) -> None:
    other = other_run(tmp_path / 'before')
    late = [dataclasses.replace(row, stamp_ns=row.stamp_ns + 1) for row in rows([1.0, 2.0])]
    write_frames(late, other / FRAMES)
    assert compare(SUMMARY, rows([1.0, 2.0]), other).rarity is None


@pytest.mark.parametrize(
    ('text', 'said'),
    [(None, 'cannot be read'), ('{', 'is no JSON'), ('[]', 'is no summary'), ('{}', 'no summary')],
)
def test_what_is_no_run_is_told(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / 'summary.json').write_text(text)
    with pytest.raises(ComparisonError, match=rf'summary\.json: .*{said}.*give the summary'):
        read_summary(tmp_path)
