"""How the learning rate goes through a training."""

from __future__ import annotations

import math


def one_cycle(progress: float, warm_up: float) -> float:
    """Factor of the learning rate at `progress` in [0, 1]: a cosine up, then a cosine to 0.

    After Smith 2018. A function of the progress alone, so that a run may be resumed for longer.
    """
    if progress < warm_up:
        return 0.04 + 0.96 * 0.5 * (1.0 - math.cos(math.pi * progress / warm_up))
    rest = min((progress - warm_up) / (1.0 - warm_up), 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * rest))
