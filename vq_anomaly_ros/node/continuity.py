"""What changes from one frame of a camera to the next and should not. Plain Python."""

from __future__ import annotations

from typing import NamedTuple


class FrameKind(NamedTuple):
    """What is said of every frame: encoding (or format), height and width in pixels."""

    encoding: str
    height: int
    width: int

    def __str__(self) -> str:
        return f'{self.width}x{self.height} {self.encoding}'


class Continuity:
    """Watches the stamps and the kind of one camera's frames."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.jumps_back = 0
        self.changes = 0
        self._latest: int | None = None
        self._kind: FrameKind | None = None

    def note(self, stamp_ns: int, kind: FrameKind) -> dict[str, str]:
        """Take the next frame; return {what: sentence} for what is odd about it.

        A stamp that jumps back (a looping bag, a clock that was set, two drivers on one topic) and
        a new size or encoding are told; the frame is used all the same.
        """
        odd: dict[str, str] = {}
        if self._latest is not None and stamp_ns < self._latest:
            self.jumps_back += 1
            seconds = (self._latest - stamp_ns) / 1e9
            odd['stamp'] = (
                f'the stamp jumps back by {seconds:.3f} s: a bag that begins again, a clock that '
                'was set, or two publishers on the topic'
            )
        if self._kind is not None and kind != self._kind:
            self.changes += 1
            odd['kind'] = f'the frames changed from {self._kind} to {kind}'
        self._latest, self._kind = stamp_ns, kind
        return odd
