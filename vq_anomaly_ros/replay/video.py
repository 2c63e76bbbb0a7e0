"""Videos that browsers play, written with OpenCV alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

_LONGEST_SIDE = 960


class VideoError(RuntimeError):
    """The video cannot be written; the message names the file, the cause and the remedy."""


class VideoWriter:
    """Write a WebM file that browsers play; a context manager. Playable once it is left.

    The wheels of OpenCV carry no H.264 encoder and browsers play no MPEG-4 part 2. VP8, not VP9: at
    the same quality OpenCV's (fixed) settings of VP9 take five times as long for half the size.
    """

    def __init__(self, path: Path, rate: float) -> None:
        """Prepare to write to `path` (.webm) at `rate` pictures a second."""
        self.path = path
        self.rate = rate
        self.frames = 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, picture: np.ndarray) -> None:
        """Append uint8 BGR [H, W, 3], shrunk to at most 960 pixels a side, at even sizes.

        The first picture sets the size; later ones are stretched to it.

        Raises:
            VideoError: this OpenCV cannot write VP8.
        """
        if self._writer is None:
            self._size = _video_size(picture.shape[1], picture.shape[0])
            self._writer = self._opened()
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(picture)
        self.frames += 1

    def _opened(self) -> cv2.VideoWriter:
        with _quiet_stderr():
            code = cv2.VideoWriter.fourcc(*'VP80')
            writer = cv2.VideoWriter(str(self.path), cv2.CAP_FFMPEG, code, self.rate, self._size)
        if not writer.isOpened():
            raise VideoError(
                f'{self.path}: this OpenCV ({cv2.__version__}) has no VP8 encoder; install '
                'opencv-python-headless from PyPI or leave the video out with --no-video'
            )
        return writer


def _video_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, _LONGEST_SIDE / max(width, height))
    # Even, as chroma has half the resolution; OpenCV writes no readable WebM of a few pixels.
    even = [max(16, int(side * scale) // 2 * 2) for side in (width, height)]
    return even[0], even[1]


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hide what native code prints: OpenCV warns of its own choice of a tag for VP8 in WebM."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open('wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
