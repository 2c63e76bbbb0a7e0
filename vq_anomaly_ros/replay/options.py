"""Options that several commands share."""

from __future__ import annotations

import argparse

# As the node's parameters.
_MOST_THREADS = 256
_MOST_PERSISTENCE = 100
_MOST_GROWTH = 20.0
_MOST_SMOOTHING = 0.95


def threads(text: str) -> int:
    """Return a number of threads from the command line, 0 to 256."""
    if not (text.isascii() and text.isdigit() and int(text) <= _MOST_THREADS):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no number of threads; give 0 to {_MOST_THREADS}'
        )
    return int(text)


def persistence(text: str) -> int:
    """Return a number of frames from the command line, 1 to 100."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_PERSISTENCE):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no number of frames; give 1 to {_MOST_PERSISTENCE}'
        )
    return int(text)


def growth(text: str) -> float:
    """Return how a least size grows, from the command line, 0 to 20."""
    return _number(text, _MOST_GROWTH)


def smoothing(text: str) -> float:
    """Return the weight of earlier frames from the command line, 0 to 0.95."""
    return _number(text, _MOST_SMOOTHING)


def _number(text: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f'{text!r} is no such number; give 0 to {most:g}')
    return value
