"""Baselines on the backbone, data and schedule of the ablations, judged on the set `pasted`.

`python -m training.baselines --data ROOT --pasted DIR --out RUNS [--rows NAME ...] [--seeds 0 1 2]`
trains each of the rows with each seed (finished ones are taken from RUNS) and writes
RUNS/baselines.json and RUNS/baselines.md: mean and half range over the seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.backbones import BackboneError
from training.baselines.measure import ROWS, markdown, measure
from training.judging import Figures, keep_table
from training.tables import write_text
from training.train import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='training.baselines',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('--data', type=Path, required=True, help='folder of the data sets')
    add('--pasted', type=Path, required=True, help='folder that training.pasted made')
    add('--out', type=Path, required=True, help='folder of the runs')
    add('--rows', nargs='+', choices=ROWS, default=ROWS, metavar='NAME', help=', '.join(ROWS))
    add('--seeds', nargs='+', type=int, default=[0, 1, 2])
    add('--json', type=Path, metavar='F', help='write the rows there, too')
    add('--page', type=Path, metavar='P', help='page whose table between markers is replaced')
    options = parser.parse_args(argv)
    keep_freed_memory()
    rows: list[Figures] = []
    try:
        for seed in options.seeds:
            for name in options.rows:
                rows.append(measure(name, seed, options.data, options.pasted, options.out))
                print('\n'.join(markdown(rows[-1:]).splitlines()[2:]), flush=True)
        rows.sort(key=lambda row: ROWS.index(row['row']))
        table = markdown(rows)
        write_text(options.out / 'baselines.md', table)
        keep_table(rows, table, 'baselines', options.out / 'baselines.json', None)
        keep_table(rows, table, 'baselines', options.json, options.page)
    except (BackboneError, OSError, ValueError) as error:
        print(f'training.baselines: {error}', file=sys.stderr)
        return 2
    print(markdown(rows), end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
