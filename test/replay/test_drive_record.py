"""What is kept of drives makes the reports that the drives themselves would have made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay.drive_record import RECORD, DriveRecord
from vq_anomaly_ros.replay.frame_results import DriveStatistics, DroppedFrame, FrameResult
from vq_anomaly_ros.replay.frame_series import FRAMES, FramesError, read_frames, write_frames
from vq_anomaly_ros.replay.gallery import Picture
from vq_anomaly_ros.replay.labels import Truth

CLASSES = ('road', 'tree', 'car')


def result(seed: int, source: str) -> FrameResult:
    rng = np.random.default_rng(seed)
    score = rng.random((12, 20), np.float32)
    labels = rng.integers(0, 3, (12, 20), np.uint8)
    mask = np.where(score > 0.95, np.uint8(255), np.uint8(0))
    raw = rng.random((6, 10), np.float32)
    truth = Truth(rng.integers(0, 2, (24, 40), np.uint8), rng.integers(0, 4, (24, 40), np.uint8))
    return FrameResult(
        seed * 100_000_000,
        source,
        '/image_raw',
        Frame(np.zeros((24, 40), np.uint8), 'mono'),
        Detection(labels, score, mask, raw, None),
        rng.random() if seed % 3 else None,
        truth if seed % 2 else None,
    )


def drive(seeds: range, source: str) -> DriveRecord:
    record = DriveRecord(DriveStatistics(CLASSES, labelled=True))
    for seed in seeds:
        row = record.statistics.add(result(seed, source))
        objects = ({'box': [1.25, 2, 3, 4], 'looks_like': None},)
        record.pictures.append(Picture(row, {'camera': f'data:{seed}'}, objects, (12, 20)))
    record.statistics.drop(DroppedFrame(seeds[-1], source, '/image_raw', 'no image'))
    return record


def save(record: DriveRecord, folder: Path) -> None:
    folder.mkdir()
    write_frames(record.statistics.rows, folder / FRAMES)
    record.save(folder / RECORD)


def test_saved_drives_together_equal_one_pass_over_both(tmp_path: Path) -> None:
    save(drive(range(1, 8), 'a'), tmp_path / 'a')
    save(drive(range(20, 25), 'b'), tmp_path / 'b')
    merged = DriveRecord(DriveStatistics(CLASSES, labelled=True))
    for name in 'ab':
        merged.add_saved(tmp_path / name)
    one = DriveStatistics(CLASSES, labelled=True)
    for seeds, source in ((range(1, 8), 'a'), (range(20, 25), 'b')):
        for seed in seeds:
            one.add(result(seed, source))
        one.drop(DroppedFrame(seeds[-1], source, '/image_raw', 'no image'))
    assert json.dumps(merged.statistics.summary()) == json.dumps(one.summary())
    assert merged.statistics.labels is not None and one.labels is not None
    for found, expected in zip(
        merged.statistics.labels.exceedances, one.labels.exceedances, strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert [p.row.stamp_ns for p in merged.pictures] == [row.stamp_ns for row in one.rows]
    assert all(
        picture.row is row
        for picture, row in zip(merged.pictures, merged.statistics.rows, strict=True)
    )
    assert merged.pictures[0].objects[0]['box'] == [1.25, 2, 3, 4]


def test_frames_keep_all_their_digits(tmp_path: Path) -> None:
    rows = drive(range(1, 6), 'a').statistics.rows + drive(range(3), 'b').statistics.rows
    write_frames(rows, tmp_path / FRAMES)
    for found, expected in zip(read_frames(tmp_path / FRAMES), rows, strict=True):
        plain = [dataclasses.asdict(row) for row in (found, expected)]
        np.testing.assert_array_equal(*(fields.pop('class_shares') for fields in plain))
        assert plain[0] == plain[1]


def test_columns_of_another_version_are_left_aside(tmp_path: Path) -> None:
    write_frames(drive(range(2), 'a').statistics.rows, tmp_path / FRAMES)
    content = json.loads((tmp_path / FRAMES).read_text())
    content['drives'][0]['frames']['mood'] = ['good', 'bad']
    del content['drives'][0]['frames']['above']
    (tmp_path / FRAMES).write_text(json.dumps(content))
    assert [row.above for row in read_frames(tmp_path / FRAMES)] == [None, None]


@pytest.mark.parametrize('text', ['', '[]', '{"format": 2}', '{"format": 1, "drives": [{}]}'])
def test_what_is_no_file_of_frames_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / FRAMES).write_text(text)
    with pytest.raises(FramesError, match=r'frames\.json: .*; evaluate the bag again'):
        read_frames(tmp_path / FRAMES)
    with pytest.raises(FramesError, match='cannot be read'):
        read_frames(tmp_path / 'nothing.json')


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    save(drive(range(3), 'a'), tmp_path / 'a')
    (tmp_path / 'a' / RECORD / 'labels.npz').unlink()
    with pytest.raises(FramesError, match=r'record/ is missing or damaged'):
        DriveRecord(DriveStatistics(CLASSES, labelled=True)).add_saved(tmp_path / 'a')
