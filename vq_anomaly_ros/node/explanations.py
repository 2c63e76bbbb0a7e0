"""Answers to `explain_at`: a pixel of a camera's newest frames, explained on a thread of its own.

An explanation costs a second run of the network; frames do not wait for it.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from geometry_msgs.msg import PointStamped
from std_msgs.msg import Header

from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.explanation import Explainer, Explanation, ExplanationError
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.node.messages import stamp_ns

_WAITING = 8  # questions; more are refused


class Seen(NamedTuple):
    """A frame that may be asked about."""

    header: Header
    frame: Frame
    detection: Detection


class Question(NamedTuple):
    """A pixel of a frame of a camera; point: x, y."""

    camera: str
    seen: Seen
    point: tuple[float, float]


class Explanations:
    """The newest frames of each camera, and a thread that answers questions about them."""

    def __init__(
        self,
        explainer: Explainer,
        cameras: tuple[str, ...],
        frames: int,
        answer: Callable[[str, Header, Frame, Explanation], None],
        refuse: Callable[[str, Header, str], None],
    ) -> None:
        """Keep `frames` frames a camera.

        answer, refuse: called with the camera, the header of the frame (of the question where
        there is none), and the frame and its explanation, or why there is none; on the thread, or
        on that of ask.
        """
        self._explainer = explainer
        self._seen: dict[str, deque[Seen]] = {camera: deque(maxlen=frames) for camera in cameras}
        self._answer, self._refuse = answer, refuse
        self._questions: queue.Queue[Question | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def remember(self, camera: str, header: Header, frame: Frame, detection: Detection) -> None:
        """Keep a frame; called with each."""
        self._seen[camera].append(Seen(header, frame, detection))

    def ask(self, camera: str, message: PointStamped) -> None:
        """Take a question in: a pixel of the frame with this stamp, with stamp 0 of the newest."""
        found = self._frame_of(camera, message.header)
        if isinstance(found, str):
            self._refuse(camera, message.header, found)
            return
        point = float(message.point.x), float(message.point.y)
        try:
            self._questions.put_nowait(Question(camera, found, point))
        except queue.Full:
            self._refuse(camera, message.header, f'{_WAITING} questions wait already; ask later')

    def start(self) -> None:
        """Answer from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name='explanations', daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Answer no more, forget the frames; returns when the answer in work is out."""
        if self._thread is None:
            return
        self._drain()
        self._questions.put(None)
        self._thread.join()
        self._thread = None
        for seen in self._seen.values():
            seen.clear()

    def _frame_of(self, camera: str, header: Header) -> Seen | str:
        """The frame that is asked about, or why it is not there."""
        seen = list(self._seen[camera])
        if not seen:
            return 'no frame has come yet, or none is kept (parameter explain_frames)'
        asked = stamp_ns(header)
        if asked == 0:
            return seen[-1]
        for one in seen:
            if stamp_ns(one.header) == asked:
                return one
        first, last = stamp_ns(seen[0].header), stamp_ns(seen[-1].header)
        return (
            f'the frame with the stamp {asked} ns is not among the {len(seen)} that are kept, '
            f'{first} to {last}; ask with the stamp 0 for the newest, or raise explain_frames'
        )

    def _drain(self) -> None:
        while True:
            try:
                self._questions.get_nowait()
            except queue.Empty:
                return

    def _work(self) -> None:
        while (question := self._questions.get()) is not None:
            camera, seen, point = question
            try:
                told = self._explainer.explain(seen.frame, seen.detection, point)
                self._answer(camera, seen.header, seen.frame, told)
            except ExplanationError as error:
                self._refuse(camera, seen.header, str(error))
            # whatever the runtime raises must not end the answers
            except Exception as error:
                self._refuse(camera, seen.header, f'it failed: {type(error).__name__}: {error}')
