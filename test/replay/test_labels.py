from pathlib import Path

import cv2
import numpy as np
import pytest

from vq_anomaly_ros.replay.labels import LabelError, LabelFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'labels' / 'semantic').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'labels' / '12.png'), np.full((3, 4), 1, np.uint8))
    cv2.imwrite(str(tmp_path / 'labels' / 'semantic' / '12.png'), np.full((3, 4), 7, np.uint8))
    cv2.imwrite(str(tmp_path / 'labels' / 'semantic' / 'b.png'), np.full((3, 4), 9, np.uint8))
    return tmp_path / 'labels'


def test_the_stem_is_the_stamp_or_what_the_bag_says(folder: Path, tmp_path: Path) -> None:
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'frames.json').write_text('{"34": "b"}')
    labels = LabelFolder(folder)
    truth = labels.of(tmp_path, 12)
    assert truth is not None and truth.anomaly is not None and truth.classes is not None
    assert (truth.anomaly[0, 0], truth.classes[0, 0]) == (1, 7)
    mapped = labels.of(tmp_path / 'bag', 34)
    assert mapped is not None and mapped.anomaly is None and mapped.classes is not None
    assert mapped.classes[0, 0] == 9
    # Stamps of two bags may be the same: each has its own map.
    assert labels.of(tmp_path, 34) is None


def test_folders_that_hold_no_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match='no such folder'):
        LabelFolder(tmp_path / 'nowhere')
    with pytest.raises(LabelError, match='neither'):
        LabelFolder(tmp_path)


@pytest.mark.parametrize('text', ['{', '[]', '{"1": 2}'])
def test_a_broken_map_is_named(folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / 'frames.json').write_text(text)
    with pytest.raises(LabelError, match=r'frames\.json: is no'):
        LabelFolder(folder).of(tmp_path, 12)


def test_pictures_that_are_no_labels_are_named(folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(folder / '12.png'), np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(LabelError, match=r'12\.png: labels are PNGs of one 8-bit channel'):
        LabelFolder(folder).of(tmp_path, 12)
    (folder / '12.png').write_bytes(b'no picture')
    with pytest.raises(LabelError, match=r'12\.png: cannot be decoded'):
        LabelFolder(folder).of(tmp_path, 12)
