"""Only plain files of a bounded size are read, and nothing blocks."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from vq_anomaly_ros.file_sizes import read_bounded


def test_up_to_the_bound_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / 'file'
    for size in (0, 1, 99, 100):
        path.write_bytes(bytes(range(size)))
        assert read_bounded(path, 100) == bytes(range(size))
    path.write_bytes(bytes(101))
    with pytest.raises(OSError, match='it has more than 100 bytes'):
        read_bounded(path, 100)


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    for path, why in (
        (pipe, 'no plain file'),
        (Path('/dev/zero'), 'no plain file'),
        (tmp_path, 'Is a directory'),
        (tmp_path / 'nothing', 'No such file'),
    ):
        with pytest.raises(OSError, match=why):
            read_bounded(path, 100)


def test_a_file_that_grows_meanwhile_is_no_more_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'file'
    path.write_bytes(bytes(100))
    fstat = os.fstat

    def grow(handle: int) -> os.stat_result:
        found = fstat(handle)
        if threading.current_thread() is threading.main_thread() and path.exists():
            with path.open('ab') as file:
                file.write(b'x')
        return found

    monkeypatch.setattr(os, 'fstat', grow)
    with pytest.raises(OSError, match='more than 100'):
        read_bounded(path, 100)
