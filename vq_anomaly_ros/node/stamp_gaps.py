"""How many frames of a camera were lost before they came, by the gaps of their stamps.

A camera stamps its frames at a steady rate: two neighbours that are k periods apart lost k - 1
frames between them. Plain Python.
"""

from __future__ import annotations

from collections import deque

# The period is the lower quartile of the last steps, for gaps only make steps longer. After so many
# gaps in a row the steps say that the rate has changed.
_STEPS = 15
_NEW_RATE = _STEPS - _STEPS // 4
_FEWEST = 5
# A camera that was silent for longer was off, or the bag was paused.
_LONGEST_GAP = 2_000_000_000
_LATEST = 1.5  # periods; a step that is longer is a gap


class StampGaps:
    """Takes the stamps of one camera in the order of their arrival.

    lost: the estimate. It is too low where most frames are lost, for then the rate itself is not
    seen; a camera that changes its rate, stops or jumps back in time adds nothing.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.lost = 0
        self._steps: deque[int] = deque(maxlen=_STEPS)
        self._pending: list[int] = []
        self._latest: int | None = None

    def note(self, stamp_ns: int) -> None:
        """Take the stamp of a frame that came, nanoseconds."""
        before, self._latest = self._latest, stamp_ns
        if before is None:
            return
        step = stamp_ns - before
        if not 0 < step <= _LONGEST_GAP:
            self._pending.clear()
            return
        if len(self._steps) >= _FEWEST:
            self._judge(step / sorted(self._steps)[len(self._steps) // 4])
        self._steps.append(step)

    def _judge(self, periods: float) -> None:
        """Count a gap once the rate has proved to be the same behind it."""
        if periods > _LATEST:
            self._pending.append(round(periods) - 1)
            return
        if len(self._pending) < _NEW_RATE:
            self.lost += sum(self._pending)
        self._pending.clear()
