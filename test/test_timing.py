"""Ways are timed in turns."""

from __future__ import annotations

from vq_anomaly_ros.timing import in_turns


def test_ways_take_turns_and_the_first_call_of_a_turn_does_not_count() -> None:
    calls: list[str] = []
    ways = {name: lambda name=name: calls.append(name) for name in ('a', 'b')}
    times = in_turns(ways, rounds=2, calls=3)
    assert ''.join(calls) == 'aaaabbbb' * 2
    assert {name: len(found) for name, found in times.items()} == {'a': 6, 'b': 6}
