"""Many drives at once: a process each on this machine, or tasks on a Ray cluster.

A drive that fails, or whose process dies, is named; the others are finished.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from vq_anomaly_ros.machine import usable_cores

Tick = Callable[[int], None]
# What is done for one drive: its argument, and a function to be told of frames that are through;
# returns what can be pickled. A function of a module, so that other processes find it.
Work = Callable[[Any, Tick], Any]

_POLL_S = 0.2
_PATIENCE_S = 20.0  # for a process that ends itself: it takes back what it has half written
_MOST_JOBS = 1024


class FleetError(RuntimeError):
    """The drives cannot be given out at all; the message says why and what to do."""


@dataclass(frozen=True)
class Outcome:
    """What came of the drive with this place in the list: a value, or why there is none."""

    index: int
    value: Any = None
    error: str = ''


@dataclass(frozen=True)
class Workers:
    """Who works.

    jobs: processes at a time on this machine, 0 for one a core; ray: address of a cluster ('auto',
    'local', 'host:port') or None; expected: errors that a person can mend, told in their sentence.
    """

    jobs: int = 0
    ray: str | None = None
    expected: tuple[type[Exception], ...] = ()

    def at_once(self, drives: int) -> int:
        """How many processes of this machine work at a time on so many drives."""
        return max(1, min(drives, self.jobs or usable_cores()))

    def threads(self, asked: int, drives: int) -> int:
        """Threads of each: as asked for, else the cores shared out."""
        if asked or self.ray is not None:
            return asked or 1
        return max(1, usable_cores() // self.at_once(drives))


def unused_name(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it where it is taken; takes it."""
    number, chosen = 1, name
    while chosen in taken:
        number += 1
        chosen = f'{name}-{number}'
    taken.add(chosen)
    return chosen


def state_of(path: Path | None) -> list[list[str | int]]:
    """Names, sizes and times of a file, or of all files in a folder: whether they are the same."""
    if path is None or not path.exists():
        return []
    files = [path] if path.is_file() else sorted(p for p in path.rglob('*') if p.is_file())
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def add_fleet_options(parser: argparse.ArgumentParser) -> None:
    """Add --jobs and --ray to a command that takes many bags."""
    add = parser.add_argument
    add('--jobs', type=_jobs, default=0, help='bags at a time; 0 is one a core of this machine')
    add('--ray', metavar='ADDRESS', help='of a Ray cluster that does it: auto, local, host:port')


def _jobs(text: str) -> int:
    if not text.isdigit() or int(text) > _MOST_JOBS:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of jobs; give 0 to {_MOST_JOBS}')
    return int(text)


def run(
    work: Work, arguments: Sequence[Any], workers: Workers, tick: Tick = lambda frames: None
) -> Iterator[Outcome]:
    """Do the work for each argument; yield the outcomes as they come, in any order.

    Args:
        work: see Work.
        arguments: one a drive; can be pickled.
        workers: who works.
        tick: told of frames that are through, of all drives; never by a Ray cluster.

    Raises:
        FleetError: the cluster is not there.
    """
    if workers.ray is not None:
        yield from _on_ray(work, arguments, workers)
    else:
        yield from _in_processes(work, arguments, workers, tick)


def _outcome(
    work: Work, index: int, argument: Any, expected: tuple[type[Exception], ...], tick: Tick
) -> Outcome:
    """Do the work for one; any error becomes a sentence."""
    try:
        return Outcome(index, work(argument, tick))
    except expected as error:
        return Outcome(index, error=str(error))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f'{Path(place.filename).name}:{place.lineno}'
        return Outcome(index, error=f'{type(error).__name__} in {where}: {error}')


class _Process:
    """One drive in a process of its own."""

    def __init__(
        self,
        work: Work,
        index: int,
        argument: Any,
        expected: tuple[type[Exception], ...],
        frames: Any,
    ) -> None:
        # Runtimes with threads do not survive a fork.
        context = multiprocessing.get_context('spawn')
        self.index = index
        self.receiver, sender = context.Pipe(duplex=False)
        parts = (sender, work, index, argument, expected, frames)
        self.process = context.Process(target=_child, args=parts)
        self.process.start()
        sender.close()

    def outcome(self) -> Outcome:
        """What it sent before it ended, or how it ended."""
        with suppress(EOFError, OSError):
            sent: Outcome = self.receiver.recv()
            return sent
        self.process.join(_PATIENCE_S)
        code = self.process.exitcode
        how = f'by the signal {-code}' if code is not None and code < 0 else f'with the code {code}'
        hint = ' (out of memory?)' if code == -signal.SIGKILL else ''
        return Outcome(self.index, error=f'its process was ended {how}{hint}')

    def end(self) -> None:
        """End it as Ctrl-C would, then less gently."""
        self.process.terminate()
        self.process.join(_PATIENCE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _child(
    sender: connection.Connection,
    work: Work,
    index: int,
    argument: Any,
    expected: tuple[type[Exception], ...],
    frames: Any,
) -> None:
    """In the process: work, and send the outcome."""
    # Ctrl-C comes to every process of a terminal; this one is ended by the one that started it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)

    def tick(count: int) -> None:
        with frames.get_lock():
            frames.value += count

    with suppress(KeyboardInterrupt):
        sender.send(_outcome(work, index, argument, expected, tick))


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _in_processes(
    work: Work, arguments: Sequence[Any], workers: Workers, tick: Tick
) -> Iterator[Outcome]:
    frames = multiprocessing.get_context('spawn').Value('q', 0)
    told = 0
    waiting = list(enumerate(arguments))
    running: list[_Process] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers.at_once(len(arguments)):
                index, argument = waiting.pop(0)
                running.append(_Process(work, index, argument, workers.expected, frames))
            ready = connection.wait([one.receiver for one in running], _POLL_S)
            done = frames.value
            tick(done - told)
            told = done
            for one in [one for one in running if one.receiver in ready]:
                yield one.outcome()
                one.process.join(_PATIENCE_S)
                running.remove(one)
    finally:
        for one in running:
            one.end()


def _on_ray(work: Work, arguments: Sequence[Any], workers: Workers) -> Iterator[Outcome]:
    try:
        import ray
    except ImportError as error:
        raise FleetError(
            f'--ray {workers.ray}: the package ray is not installed ({error}); install it into the '
            'environment (pip install ray) or leave --ray out'
        ) from error
    address = None if workers.ray == 'local' else workers.ray
    paths = [str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')]
    environment = {'PYTHONPATH': os.pathsep.join(path for path in paths if path)}
    try:
        ray.init(
            address=address,
            num_cpus=workers.jobs or None if address is None else None,
            runtime_env={'env_vars': environment},
            log_to_driver=False,
            logging_level='error',
            include_dashboard=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        cause = ' '.join(str(error).split())[:200]
        raise FleetError(
            f'--ray {workers.ray}: there is no such cluster ({cause}); start one with '
            '`ray start --head`, give its address, or leave --ray out'
        ) from error
    try:
        remote = ray.remote(num_cpus=1, max_retries=1)(_on_worker)
        pending = {
            remote.remote(work, index, argument, workers.expected): index
            for index, argument in enumerate(arguments)
        }
        while pending:
            (first,), _ = ray.wait(list(pending), num_returns=1)
            index = pending.pop(first)
            try:
                yield ray.get(first)
            except ray.exceptions.RayError as error:
                cause = ' '.join(str(error).split())[-300:]
                yield Outcome(index, error=f'its Ray task failed: {cause}')
    finally:
        ray.shutdown()


def _on_worker(
    work: Work, index: int, argument: Any, expected: tuple[type[Exception], ...]
) -> Outcome:
    """On a worker of the cluster."""
    return _outcome(work, index, argument, expected, lambda frames: None)
