"""Which image topic of a bag is meant: found, or listed and asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vq_anomaly_ros.replay import bags


def ask_for_topic(bag: Path, topic: str | None) -> str | None:
    """Return `topic`, or where it is None the one that a person at a terminal chooses.

    None where there is nothing to ask: one camera only, no terminal, or no bag to look into; the
    reader of the bag then says what is wrong. Says on stderr which topic was taken of several.
    """
    if topic is not None or not bag.exists():
        return topic
    cameras = bags.camera_topics(bag)
    if len(cameras) == 1 and len(bags.image_topics(bag)) > 1:
        print(f'{bag}: taking {next(iter(cameras))}; name another with --topic', file=sys.stderr)
    if len(cameras) < 2:
        return None
    lines = [f'  {n}  {describe(bag, name)}' for n, name in enumerate(cameras, start=1)]
    print(f'{bag}: several cameras', *lines, sep='\n', file=sys.stderr)
    if not sys.stdin.isatty():
        return None
    print('number of the topic: ', end='', file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip()
    if not answer.isdigit() or not 1 <= int(answer) <= len(cameras):
        raise bags.BagError(f'{answer!r} is none of 1 to {len(cameras)}; choose with --topic')
    return list(cameras)[int(answer) - 1]


def ask_for_topic_of(found: Sequence[Path], topic: str | None) -> str | None:
    """As ask_for_topic, of the first of several bags that can be read."""
    for bag in found:
        try:
            return ask_for_topic(bag, topic)
        except bags.BagError:
            if len(found) == 1:
                raise
    return topic


def describe(bag: Path, topic: str) -> str:
    """Return a line about an image topic: name, encoding, size, number of images and rate."""
    kind, count = bags.image_topics(bag)[topic]
    first = next(bags.read_raw(bag, [topic]), None)
    if first is None:
        return f'{topic}  {kind}, empty'
    message = bags.deserialize(first)
    if kind == bags.IMAGE:
        what = f'{message.encoding} {message.width}x{message.height}'
    else:
        what = message.format.strip()
    rate = bags.frame_rate(bag, topic)
    return f'{topic}  {what}, {count} images at {rate:.1f} Hz'
