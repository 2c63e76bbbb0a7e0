"""How long one way of doing something takes against another, on a machine with more to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

_CALLS = 5  # of each way in a round

Way = Callable[[], object]


def in_turns(ways: Mapping[str, Way], rounds: int, calls: int = _CALLS) -> dict[str, list[float]]:
    """Milliseconds of `rounds` x `calls` calls of each way, by its name.

    In every round each way runs `calls` times in a row, after one call that is not counted: what
    ran before has taken its place in the caches. What slows the machine down for a while slows all
    of them down.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            way()
            for _ in range(calls):
                start = time.perf_counter()
                way()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def median_ms(way: Way, calls: int) -> float:
    """Median time of a call, milliseconds, after one that is not counted."""
    return median(in_turns({'': way}, 1, calls)[''])
