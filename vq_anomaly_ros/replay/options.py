"""Options that several commands share."""

from __future__ import annotations

import argparse

# As the node's parameter.
_MOST_THREADS = 256


def threads(text: str) -> int:
    """Return a number of threads from the command line, 0 to 256."""
    if not (text.isascii() and text.isdigit() and int(text) <= _MOST_THREADS):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no number of threads; give 0 to {_MOST_THREADS}'
        )
    return int(text)
