"""soak: the node with cameras for an hour, or for days; what it takes at the end as at the start.

Memory, threads, descriptors and latency are sampled every few seconds; the last sixth of the time
is compared with the first one behind a warm-up.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vq_anomaly_ros.trials.bench_cameras import await_answers, names_of, subscribe
from vq_anomaly_ros.trials.detector_process import DetectorProcess, counts_of
from vq_anomaly_ros.trials.one_trial import OneTrial
from vq_anomaly_ros.trials.peer import expect
from vq_anomaly_ros.trials.stage import Load, Stage

_SAMPLES = 360
_LONGEST = 30 * 86400.0  # s
SLACK = 120.0  # that the cameras send longer
# What is compared, and how much more than at the start is still noise: a share, and in its unit.
NOISE: dict[str, tuple[float, float]] = {
    'rss_mb': (0.02, 3.0),
    'threads': (0.0, 1.0),
    'descriptors': (0.0, 0.0),
    'latency_p50_ms': (0.25, 5.0),
    'published_hz': (0.1, 0.2),
}


def soak(stage: Stage, model: str, load: Load, seconds: float, console: Console) -> dict[str, Any]:
    """Run the node under a load; returns the samples and what they come to.

    Raises TrialError where an account is not whole or the node no longer answers, ProcessError
    where a process ends.
    """
    cameras = names_of(load.cameras)
    with ExitStack() as stack:
        peer = stage.peer(stack)
        node = stage.node(stack, peer, model=model, cameras=cameras, output_size=load.output_size)
        node.wait_for()
        subscribe(peer, cameras)
        sender = stage.send(stack, load, seconds + SLACK)
        await_answers(peer, node, sender, cameras)
        samples = []
        start = time.monotonic()
        with console.status('soaking') as status:
            while (now := time.monotonic() - start) < seconds:
                peer.spin_for(max(1.0, seconds / _SAMPLES))
                sender.check()
                samples.append({'s': round(now, 1), **_sample(node, cameras)})
                status.update(f'soaking: {now:.0f} of {seconds:.0f} s, {samples[-1]}')
        expect('Traceback' not in node.output, f'a traceback in the log:\n{node.output}')
        return {'seconds': seconds, **asdict(load), **_compared(samples), 'samples': samples}


def _sample(node: DetectorProcess, cameras: Sequence[str]) -> dict[str, Any]:
    taken = node.usage()
    statuses = node.diagnostics()[1]
    counts = [counts_of(statuses[camera]) for camera in cameras]
    figures = [statuses[camera].figures for camera in cameras]
    return {
        'rss_mb': round(taken.rss_mb, 1),
        'threads': taken.threads,
        'descriptors': taken.descriptors,
        'latency_p50_ms': max(float(one['latency p50 ms']) for one in figures),
        'published_hz': round(sum(float(one['fps']) for one in figures), 2),
        'failed': sum(one.failed + one.rejected for one in counts),
        'published': sum(one.published for one in counts),
    }


def _compared(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the first sixth behind a warm-up of a twentieth, and of the last sixth."""
    warm = math.ceil(len(samples) / 20)
    part = max(1, len(samples) // 6)
    ends = {'first': samples[warm : warm + part], 'last': samples[-part:]}
    return {
        end: {name: float(np.median([one[name] for one in some])) for name in NOISE}
        for end, some in ends.items()
    }


def problems(row: dict[str, Any]) -> list[str]:
    """Say what is not at the end as it was at the start; a lower rate counts, a higher does not."""
    found = []
    for name, (share, absolute) in NOISE.items():
        first, last = row['first'][name], row['last'][name]
        change = first - last if name == 'published_hz' else last - first
        if change > max(share * first, absolute):
            found.append(f'{name}: {first:g} at the start, {last:g} at the end')
    if failed := row['samples'][-1]['failed']:
        found.append(f'{failed} frames failed')
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak; returns 0 where nothing changed, 1 where something did."""
    parser = argparse.ArgumentParser('soak', description=__doc__)
    add = parser.add_argument
    add('--seconds', type=float, default=3600.0, help='how long')
    add('--model', default='street-small', help='name or path')
    add('--cameras', type=int, default=4, help='of 1280x720')
    add('--rate', type=float, default=10.0, help='of each camera, Hz')
    add('--json', type=Path, help='write the row there')
    options = parser.parse_args(arguments)
    if not (
        10 <= options.seconds <= _LONGEST and 1 <= options.cameras <= 16 and 0 < options.rate <= 120
    ):
        parser.error('give 10 seconds to 30 days, 1 to 16 cameras, a rate up to 120 Hz')
    console = Console()
    load = Load(options.cameras, (720, 1280), options.rate)

    def measure(stage: Stage) -> dict[str, Any]:
        return soak(stage, options.model, load, options.seconds, console)

    trial = OneTrial('soak', 'soak', measure, problems, _ends)
    return trial.run(options.json, console)


def _ends(row: dict[str, Any]) -> dict[str, Any]:
    return {'first': row['first'], 'last': row['last']}


if __name__ == '__main__':
    sys.exit(main())
