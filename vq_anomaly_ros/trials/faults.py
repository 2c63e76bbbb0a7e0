"""node_trials: the real node over real DDS while all kinds of things befall it.

Every trial starts a node of its own with three cameras, and asserts afterwards that each camera is
answered, the account of its frames is whole, the diagnostics are calm, and no thread or descriptor
is left.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from vq_anomaly_ros.replay.files import OutputError, write_text
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.processes import ProcessError
from vq_anomaly_ros.trials import disturbances, hardships, loopback
from vq_anomaly_ros.trials.harness import Trial, run
from vq_anomaly_ros.trials.machine_kind import machine_kind
from vq_anomaly_ros.trials.peer import own_domain
from vq_anomaly_ros.trials.stage import Stage

MODULE = 'vq_anomaly_ros.trials.faults'
PARTED = hardships.network_is_parted.__name__
TRIALS: dict[str, Trial] = {
    trial.name: trial for trial in (*disturbances.TRIALS, *hardships.TRIALS)
}


def run_all(names: Sequence[str], scale: float, console: Console) -> list[dict[str, Any]]:
    """Run trials by their names; returns their rows."""
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix='trials.') as folder,
        own_domain(by_udp=loopback.is_own()) as (peer, environment),
    ):
        stage = Stage(peer.node.context, environment, Path(folder))
        for name in names:
            with console.status(TRIALS[name].title):
                rows.append(run(TRIALS[name], stage, scale))
            said = rows[-1].get('why', '').partition('\n')[0]
            console.print(f'{rows[-1]["outcome"]:<8} {name} {said}', soft_wrap=True)
    return rows


def _run_parted(scale: float) -> list[dict[str, Any]]:
    """Run the trial of the network in a process that has one of its own."""
    with tempfile.TemporaryDirectory(prefix='trials.') as folder:
        out = Path(folder) / 'rows.json'
        arguments = [PARTED, '--scale', str(scale), '--json', str(out)]
        done = subprocess.run([*loopback.own_network(), sys.executable, '-m', MODULE, *arguments])
        if done.returncode not in (0, 1):
            raise ProcessError(f'the trial {PARTED} ended with exit code {done.returncode}')
        rows: list[dict[str, Any]] = json.loads(out.read_text())['trials']
        return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials; see --help. Returns 0 where all held, 1 where one failed, 2 for bad input."""
    options = _parser().parse_args(arguments)
    console = Console()
    names = [name for name in options.trials or TRIALS if name != PARTED]
    try:
        with interruptible():
            if loopback.is_own():
                loopback.set_up(True)
                rows = run_all([PARTED], options.scale, console)
            else:
                rows = run_all(names, options.scale, console)
                if PARTED in (options.trials or TRIALS):
                    rows += _run_parted(options.scale)
        if options.json is not None:
            told = {'machine': machine_kind(), 'scale': options.scale, 'trials': rows}
            write_text(options.json, json.dumps(told, indent=1) + '\n')
    except (OutputError, ProcessError) as error:
        print(f'node_trials: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('node_trials: interrupted; nothing was written', file=sys.stderr)
        return 130
    return int(any(row['outcome'] == 'failed' for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('node_trials', description=__doc__)
    add = parser.add_argument
    listed = ', '.join(TRIALS)
    add('trials', nargs='*', type=_trial, metavar='TRIAL', help=f'of {listed}; default: all')
    add('--scale', type=_scale, default=1.0, help='how much of each, 1 as recorded')
    add('--json', type=Path, help='write the rows there')
    return parser


def _trial(name: str) -> str:
    if name not in TRIALS:
        raise argparse.ArgumentTypeError(f'{name!r} is none of {", ".join(TRIALS)}')
    return name


def _scale(text: str) -> float:
    scale = float(text)
    if not 0.01 <= scale <= 100:
        raise argparse.ArgumentTypeError(f'{text}: give 0.01 to 100')
    return scale


if __name__ == '__main__':
    sys.exit(main())
