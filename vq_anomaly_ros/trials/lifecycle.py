"""lifecycle_trial: configure, activate, deactivate, clean up, again and again while cameras send.

Behind a warm-up of a tenth, memory, threads and descriptors of the first tenth of the cycles are
compared with those of the last. Beside it stands what a publisher that is made and destroyed costs
in rclpy and below with no node of ours around it: a camera has a dozen.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rich.console import Console
from std_msgs.msg import String

from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.trials.bench_cameras import names_of
from vq_anomaly_ros.trials.camera import Camera
from vq_anomaly_ros.trials.detector_process import Usage, usage
from vq_anomaly_ros.trials.moody_model import BACKEND, write_moody_model
from vq_anomaly_ros.trials.one_trial import OneTrial
from vq_anomaly_ros.trials.peer import Peer, expect
from vq_anomaly_ros.trials.stage import Stage

MOST_GROWTH_MB = 5.0
_CYCLE = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
)
_RATE = 20.0
_PUBLISHERS = 2000
_POINTS = 20


def cycle(
    stage: Stage,
    cycles: int,
    console: Console,
    cameras: int = 1,
    model: str = '',
    backend: str = BACKEND,
) -> dict[str, Any]:
    """Run so many cycles; returns what the process took before and after.

    model: name or path; '' for the small one of the trials. Raises TrialError where a transition
    fails or a camera is not answered at the end, ProcessError where the node ends.
    """
    path = model or str(write_moody_model(stage.folder / 'moody.onnx'))
    with ExitStack() as stack:
        peer = stage.peer(stack)
        names = names_of(cameras)
        values = {'model': path, 'backend': backend, 'autostart': False, 'cameras': names}
        node = stage.node(stack, peer, **values)
        senders = [Camera(peer, name) for name in names]
        for camera in senders:
            stack.enter_context(camera.streaming(_RATE))
        taken: list[Usage] = []
        warm = max(1, cycles // 10)
        with progress_bar(console) as progress:
            for number in progress.track(range(warm + cycles), description='lifecycle'):
                for transition in _CYCLE:
                    change_state(peer, transition)
                if number >= warm - 1:
                    taken.append(node.usage())
        for transition in _CYCLE[:2]:
            change_state(peer, transition)
        for camera in senders:
            camera.expect_answer('after the last cycle')
        expect('Traceback' not in node.output, f'a traceback in the log:\n{node.output}')
        return {
            'cycles': cycles,
            'backend': backend,
            'model': Path(path).stem,
            'cameras': cameras,
            'frames_sent': sum(camera.sent for camera in senders),
            **_compared(taken),
            'bare_publisher_kb': round(bare_publisher(peer), 3),
        }


def _compared(taken: Sequence[Usage]) -> dict[str, Any]:
    """What the first and the last tenth of the cycles took: the median, of memory.

    One reading is no figure: allocators give back now and then.
    """
    part = math.ceil(len(taken) / 10)
    ends = taken[:part], taken[-part:]
    memory = [round(median(one.rss_mb for one in some), 1) for some in ends]
    points = taken[:: max(1, len(taken) // _POINTS)]
    return {
        'rss_mb': memory,
        'rss_growth_mb': round(memory[1] - memory[0], 1),
        'rss_mb_over_time': [round(one.rss_mb, 1) for one in points],
        'threads': [max(one.threads for one in some) for some in ends],
        'descriptors': [max(one.descriptors for one in some) for some in ends],
    }


def bare_publisher(peer: Peer, count: int = _PUBLISHERS) -> float:
    """Memory in kB that stays behind for each publisher made and destroyed, in this process."""
    rss = []
    for number in range(count + count // 5):
        if number == count // 5:
            rss.append(usage(os.getpid()).rss_mb)
        peer.node.destroy_publisher(peer.node.create_publisher(String, '/bare', 1))
    return 1024 * (usage(os.getpid()).rss_mb - rss[0]) / count


def change_state(peer: Peer, transition: int) -> None:
    """Ask the node for a transition; TrialError where it fails."""
    service = '/anomaly_detector/change_state'
    done = peer.call(ChangeState, service, transition=Transition(id=transition))
    expect(done.success, f'the transition {transition} failed')


def problems(row: dict[str, Any]) -> list[str]:
    """Say what of a row is not as it should be."""
    found = []
    if row['rss_growth_mb'] >= MOST_GROWTH_MB:
        found.append(f'memory grew by {row["rss_growth_mb"]} MB')
    for name in ('threads', 'descriptors'):
        before, after = row[name]
        if after > before:
            found.append(f'{name}: {before} before, {after} after')
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cycles; returns 0 where nothing grew, 1 where it did or a cycle failed."""
    parser = argparse.ArgumentParser('lifecycle_trial', description=__doc__)
    add = parser.add_argument
    add('--cycles', type=int, default=1000, help='beside a tenth to warm up')
    add('--cameras', type=int, choices=range(1, 17), default=1, metavar='N', help='that send')
    add('--model', default='', help='name or path; by default a small one of its own')
    add('--backend', default=BACKEND, help='of the node')
    add('--json', type=Path, help='write the row there')
    options = parser.parse_args(arguments)
    if options.cycles < 1:
        parser.error('--cycles: give 1 or more')
    console = Console()

    def measure(stage: Stage) -> dict[str, Any]:
        return cycle(
            stage, options.cycles, console, options.cameras, options.model, options.backend
        )

    trial = OneTrial('lifecycle_trial', 'lifecycle', measure, problems, dict)
    return trial.run(options.json, console)


if __name__ == '__main__':
    sys.exit(main())
