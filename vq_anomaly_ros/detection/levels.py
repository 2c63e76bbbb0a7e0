"""OK, WARN, ERROR: a level with its sentence, and a level that does not flicker."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Level(IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


class Judgement(NamedTuple):
    """A level and the sentence that goes with it."""

    level: Level
    message: str


class Hysteresis:
    """A level that rises at once and falls only after several better judgements in a row."""

    def __init__(self, calm: int = 3, message: str = 'running') -> None:
        """Start at OK; `calm` is the number of better judgements that lower the level."""
        self._calm = calm
        self._better = 0
        self._current = Judgement(Level.OK, message)

    def update(self, judgement: Judgement) -> Judgement:
        """Take the newest judgement; return the one to report."""
        if judgement.level >= self._current.level:
            self._current, self._better = judgement, 0
            return judgement
        self._better += 1
        if self._better >= self._calm:
            self._current, self._better = judgement, 0
            return judgement
        return Judgement(self._current.level, f'recovering: {self._current.message}')
