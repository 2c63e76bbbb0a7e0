"""Baselines on the backbone, data and schedule of the ablations, judged on the set `pasted`.

`python -m training.baselines --data ROOT --pasted DIR --out RUNS [--rows NAME ...] [--seeds 0 1 2]`
trains each of the rows with each seed (finished ones are taken from RUNS) and writes
RUNS/baselines.json and RUNS/baselines.md: mean and half range over the seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from training.baselines.measure import ROWS, markdown, measure
from training.judging import Study


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return Study('baselines', ROWS, measure, markdown).run(__doc__, argv)


if __name__ == '__main__':
    sys.exit(main())
