"""A camera of the trial's own: it appears, sends what it is told to, and vanishes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vq_anomaly_ros.node.messages import image_message, stamp_ns
from vq_anomaly_ros.trials.peer import PATIENCE, Peer, expect

NANOSECONDS = 1_000_000_000
SIZE = (40, 80)
FINE = 100
# A frame is sent again where no answer came meanwhile: discovery may not be through.
_AGAIN = 0.5


@cache
def frame(grey: int, size: tuple[int, int] = SIZE, encoding: str = 'bgr8') -> Image:
    """An even frame, size (h, w), of one grey value, 0..255; the same message at every call."""
    channels = () if encoding == 'mono8' else (3,)
    return image_message(Header(), np.full((*size, *channels), grey, np.uint8), encoding)


class Camera:
    """Publishes frames under a namespace, and listens to what the detector says of them.

    sent: how many.
    """

    def __init__(self, peer: Peer, name: str) -> None:
        """Appear."""
        self.name = name
        self.sent = 0
        self._peer = peer
        self._publisher: Publisher | None = None
        self._scores = peer.collect(Image, f'{name}/anomaly/score', depth=50)
        self.appear()

    def appear(self) -> None:
        """Offer the topic."""
        if self._publisher is None:
            topic = f'{self.name}/image_raw'
            self._publisher = self._peer.node.create_publisher(Image, topic, 10)

    def vanish(self) -> None:
        """Take the topic back."""
        if self._publisher is not None:
            self._peer.node.destroy_publisher(self._publisher)
            self._publisher = None

    def send(self, message: Image | None = None, stamp: int | None = None) -> int:
        """Publish a frame, a good one by default; returns its stamp, nanoseconds, now by default.

        Two frames differ in their first byte: a camera whose pictures stay the same is warned of. A
        camera that has vanished sends nothing.
        """
        message = frame(FINE) if message is None else message
        stamp = time.time_ns() if stamp is None else stamp
        header = Header()
        header.stamp.sec, header.stamp.nanosec = divmod(stamp, NANOSECONDS)
        message.header = header
        message.data[0] = self.sent % 256
        if self._publisher is not None:
            self._publisher.publish(message)
            self.sent += 1
        return stamp

    @contextmanager
    def streaming(self, rate: float, message: Image | None = None) -> Iterator[None]:
        """Send at a rate, Hz, while the peer spins in the block."""
        timer = self._peer.node.create_timer(1 / rate, lambda: self.send(message))
        try:
            yield
        finally:
            self._peer.node.destroy_timer(timer)

    def forget(self) -> None:
        """Forget the answers that have come."""
        self._scores.clear()

    def answered(self, stamp: int) -> bool:
        """Whether the frame of this stamp is among those whose answers have come."""
        return any(stamp_ns(score.header) == stamp for score in self._scores)

    def expect_answer(self, what: str, message: Image | None = None) -> float:
        """Send a frame until one is answered; returns the seconds that took.

        Raises TrialError, which says `what`, where none comes.
        """
        start = time.monotonic()
        stamps: list[int] = []

        def answer() -> Any:
            return any(map(self.answered, stamps))

        while time.monotonic() < start + PATIENCE:
            self.forget()
            stamps.append(self.send(message))
            if self._peer.spin_until(answer, _AGAIN):
                return time.monotonic() - start
        expect(False, f'{self.name} is not answered {what}')
        return PATIENCE
