from pathlib import Path

import cv2
import numpy as np
import pytest

from vq_anomaly_ros.replay.video import VideoWriter


@pytest.mark.parametrize(
    ('size', 'written'),
    [((48, 64), (48, 64)), ((49, 65), (48, 64)), ((2000, 1000), (960, 480)), ((1, 3), (16, 16))],
)
def test_sizes_are_even_and_bounded(
    tmp_path: Path, size: tuple[int, int], written: tuple[int, int]
) -> None:
    with VideoWriter(tmp_path / 'video.webm', 10.0) as writer:
        writer.write(np.full((*size, 3), 128, np.uint8))
    found, pixels = cv2.VideoCapture(str(tmp_path / 'video.webm')).read()
    assert found
    assert pixels.shape == (*written, 3)


def test_later_frames_of_another_size_are_fitted(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / 'video.webm', 10.0) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.write(np.full((96, 96, 3), 255, np.uint8))
    video = cv2.VideoCapture(str(tmp_path / 'video.webm'))
    assert [round(float(video.read()[1].mean()) / 255) for _ in range(2)] == [0, 1]


def test_the_file_is_webm_that_browsers_know(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with VideoWriter(tmp_path / 'video.webm', 10.0) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    data = (tmp_path / 'video.webm').read_bytes()
    assert data.startswith(b'\x1a\x45\xdf\xa3')
    assert b'webm' in data[:64]
    assert b'V_VP8' in data
    assert capfd.readouterr().err == ''


def test_without_frames_there_is_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / 'video.webm', 10.0):
        pass
    assert list(tmp_path.iterdir()) == []
