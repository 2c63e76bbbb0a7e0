"""fuzz: damaged messages and files against the code that reads them, by the million.

Each target runs in a process of its own: a crash or a hang of native code is found, too, and the
next input tried. Input number i of a seed is always the same, so that a finding is its number;
its bytes go to --found, to become a regression test.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import mmap
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from vq_anomaly_ros.machine import return_memory
from vq_anomaly_ros.replay.files import OutputError, write_bytes, write_text
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.trials.detector_process import usage
from vq_anomaly_ros.trials.fuzz_targets import TARGETS, Target, mutated
from vq_anomaly_ros.trials.machine_kind import machine_kind

MODULE = 'vq_anomaly_ros.trials.fuzz'
# One input takes a millisecond or two.
_HANG_S = 60.0
# Of one target: a defect that every third input shows need not be told a thousand times.
_MOST_FOUND = 10
# Looks at the memory in each of the two parts that are compared.
_SAMPLES = 50
# A leak of 16 bytes an input would be found in half a million of them.
MOST_GROWTH_MB = 8.0


def inputs(target: Target, folder: Path) -> Sequence[bytes]:
    """The seeds of a target; `folder` is its to write into."""
    folder.mkdir(parents=True, exist_ok=True)
    return target.seeds(folder)


def made_input(seeds: Sequence[bytes], name: str, seed: int, number: int) -> bytes:
    """Input `number` of a target: the same at every call."""
    chance = random.Random(f'{seed}/{name}/{number}')  # noqa: S311  no secret
    return mutated(chance.choice(seeds), chance)


def run_here(name: str, seed: int, first: int, count: int, progress: Path) -> dict[str, Any]:
    """Run inputs in this process, which writes its number of the moment into a file."""
    target = TARGETS[name]
    found: list[dict[str, Any]] = []
    # Memory of the second fifth and of the last: what a few large inputs took and gave back is no
    # leak, so it is the least of each that counts.
    fifth, rss = max(1, count // 5), {1: math.inf, 4: math.inf}
    with (
        tempfile.TemporaryDirectory(prefix='fuzz.') as folder,
        progress.open('r+b') as file,
        mmap.mmap(file.fileno(), 8) as place,
    ):
        seeds = inputs(target, Path(folder))
        gc.collect()
        gc.freeze()  # each look at the memory collects, and need not look through the libraries
        for number in range(first, first + count):
            place[:] = number.to_bytes(8, 'little')
            try:
                target.check(made_input(seeds, name, seed, number))
            except Exception:
                if len(found) < _MOST_FOUND:
                    found.append({'number': number, 'error': traceback.format_exc()})
            part, into = divmod(number - first, fifth)
            if part in rss and not into % max(1, fifth // _SAMPLES):
                rss[part] = min(rss[part], _memory_in_use())
        place[:] = (first + count).to_bytes(8, 'little')
    after = min(rss[4], _memory_in_use())
    before = rss[1] if math.isfinite(rss[1]) else after
    return {'found': found, 'rss_mb': [round(before, 1), round(after, 1)]}


def _memory_in_use() -> float:
    """Memory of this process, MB, without what the C library keeps for later."""
    return_memory()
    return usage(os.getpid()).rss_mb


def run(name: str, seed: int, count: int) -> dict[str, Any]:
    """Run inputs in processes of their own; returns the row of the target."""
    start = time.monotonic()
    found: list[dict[str, Any]] = []
    growth = 0.0
    first = 0
    with tempfile.TemporaryDirectory(prefix='fuzz.') as folder:
        progress = Path(folder) / 'progress'
        while first < count and len(found) < _MOST_FOUND:
            progress.write_bytes(first.to_bytes(8, 'little'))
            told, ended = _child(name, seed, first, count - first, progress)
            found += told.get('found', [])
            before, after = told.get('rss_mb', (0.0, 0.0))
            growth = max(growth, after - before)
            first = int.from_bytes(progress.read_bytes(), 'little')
            if ended:
                found.append({'number': first, 'error': ended})
                first += 1
    return {
        'target': name,
        'inputs': first,
        'found': found,
        'rss_growth_mb': round(growth, 1),
        'seconds': round(time.monotonic() - start, 1),
    }


def _child(
    name: str, seed: int, first: int, count: int, progress: Path
) -> tuple[dict[str, Any], str]:
    """Run the rest in a child; returns what it told, and how it ended where that was not well."""
    arguments = [str(word) for word in (name, seed, first, count, progress)]
    out = progress.with_name('told')
    with out.open('wb') as file:
        child = subprocess.Popen(
            [sys.executable, '-m', MODULE, '--child', *arguments], stdout=file,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        hung = not _wait(child, progress)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
    if hung:
        return {}, f'hangs: not through in {_HANG_S:g} s'
    if child.returncode:
        return {}, f'crash: exit code {child.returncode}'
    told: dict[str, Any] = json.loads(out.read_text())
    return told, ''


def _wait(child: subprocess.Popen[bytes], progress: Path) -> bool:
    """Wait for the child's end; False where it is at one input for too long."""
    last, since = b'', time.monotonic()
    while child.poll() is None:
        now = progress.read_bytes()
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() > since + _HANG_S:
            return False
        time.sleep(0.05)
    return True


def run_all(
    names: Sequence[str], messages: int, files: int, seed: int, console: Console
) -> list[dict[str, Any]]:
    """Share the numbers of messages and files among the targets; returns their rows."""
    rows = []
    for name in names:
        kind = TARGETS[name].files
        sharing = sum(TARGETS[other].files == kind for other in names)
        count = -(-(files if kind else messages) // sharing)
        with console.status(f'{name}: {count} inputs'):
            rows.append(run(name, seed, count))
        row = rows[-1]
        said = f'{len(row["found"])} found, memory grew by {row["rss_growth_mb"]} MB'
        console.print(f'{name:<12} {row["inputs"]} inputs in {row["seconds"]} s: {said}')
    return rows


def keep_found(rows: Sequence[dict[str, Any]], seed: int, folder: Path) -> None:
    """Write the bytes of what was found, by target and number."""
    with tempfile.TemporaryDirectory(prefix='fuzz.') as scratch:
        for row in rows:
            if row['found']:
                seeds = inputs(TARGETS[row['target']], Path(scratch) / row['target'])
            for finding in row['found']:
                data = made_input(seeds, row['target'], seed, finding['number'])
                write_bytes(folder / row['target'] / str(finding['number']), data)


def holds(row: dict[str, Any]) -> bool:
    """Whether nothing was found and nothing leaks."""
    return not row['found'] and row['rss_growth_mb'] < MOST_GROWTH_MB


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; returns 0 where nothing was found, 1 where something was, 2 for bad input."""
    options = _parser().parse_args(arguments)
    if options.child:
        name, seed, first, count, progress = options.child
        print(json.dumps(run_here(name, int(seed), int(first), int(count), Path(progress))))
        return 0
    names = options.targets or list(TARGETS)
    console = Console()
    try:
        with interruptible():
            rows = run_all(names, options.messages, options.files, options.seed, console)
        keep_found(rows, options.seed, options.found)
        if options.json is not None:
            told = {'machine': machine_kind(), 'seed': options.seed, 'targets': rows}
            write_text(options.json, json.dumps(told, indent=1) + '\n')
    except OutputError as error:
        print(f'fuzz: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('fuzz: interrupted; nothing was written', file=sys.stderr)
        return 130
    return int(not all(map(holds, rows)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('fuzz', description=__doc__)
    add = parser.add_argument
    listed = ', '.join(TARGETS)
    add('targets', nargs='*', type=_target, metavar='TARGET', help=f'of {listed}; default: all')
    add('--messages', type=_count, default=1_000_000, help='in all')
    add('--files', type=_count, default=100_000, help='in all')
    add('--seed', type=int, default=0, help='other inputs with another one')
    add('--found', type=Path, default=Path('out/fuzz'), help='folder for inputs that show a defect')
    add('--json', type=Path, help='write the rows there')
    add('--child', nargs=5, help=argparse.SUPPRESS)
    return parser


def _target(name: str) -> str:
    if name not in TARGETS:
        raise argparse.ArgumentTypeError(f'{name!r} is none of {", ".join(TARGETS)}')
    return name


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f'{text}: give 1 or more')
    return count


if __name__ == '__main__':
    sys.exit(main())
