"""What `calibrate` learns of many drives, each by itself, kept until the calibration is written."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle  # of files that this module wrote, into a folder of the user's own
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.replay import fleet, report
from vq_anomaly_ros.replay.calibrate import EXPECTED_ERRORS, CalibrateConfig, learn
from vq_anomaly_ros.replay.files import write_bytes, write_text
from vq_anomaly_ros.replay.fleet import FleetError, Tick, Workers
from vq_anomaly_ros.replay.learnt_drive import LearntDrive
from vq_anomaly_ros.replay.progress import progress_bar


@dataclass(frozen=True)
class _Part:
    """A drive: its name, what to learn it with, where what is learnt is kept, and of what it is."""

    name: str
    config: CalibrateConfig
    kept: Path
    stamp: str

    @property
    def is_done(self) -> bool:
        """Whether it was learnt so before."""
        stamp = self.kept.with_suffix('.json')
        known = self.kept.is_file() and stamp.is_file()
        return known and stamp.read_text(encoding='utf-8') == self.stamp


def parts_folder(out: Path) -> Path:
    """Where what was learnt for a calibration file is kept until it is written."""
    return out.with_name(f'{out.name}.parts')


def learn_fleet(
    config: CalibrateConfig,
    folder: Path,
    workers: Workers,
    fresh: bool = False,
    console: Console | None = None,
) -> tuple[list[LearntDrive], dict[str, str]]:
    """Learn from many drives, several at once.

    Args:
        config: threads: of each process, 0 shares the cores out.
        folder: keeps what was learnt, and is looked into for what is there already.
        workers: who works.
        fresh: learn all anew.
        console: for the progress bar.

    Returns:
        What was learnt, in the order of the bags, and why bags failed, by their names.

    Raises:
        One of calibrate.EXPECTED_ERRORS, FleetError: nothing can be learnt.
    """
    workers = dataclasses.replace(workers, expected=EXPECTED_ERRORS)
    threads = workers.threads(config.threads, len(config.bags))
    parts = _parts(dataclasses.replace(config, threads=threads), folder)
    failed: dict[str, str] = {}
    todo = [part for part in parts if fresh or not part.is_done]
    with progress_bar(console) as progress:
        total = sum(part.config.frames for part in todo)
        task = progress.add_task(f'{len(parts) - len(todo)} of {len(parts)} bags', total=total)

        def tick(frames: int) -> None:
            progress.advance(task, frames)

        for number, outcome in enumerate(fleet.run(work, todo, workers, tick), 1):
            part = todo[outcome.index]
            if outcome.error:
                failed[part.kept.stem] = outcome.error
                progress.console.print(f'{part.name} failed: {outcome.error}', style='red')
            if workers.ray is not None:
                tick(part.config.frames)
            done = len(parts) - len(todo) + number
            progress.update(task, description=f'{done} of {len(parts)} bags')
    if len(failed) == len(parts):
        raise FleetError('not one bag could be learnt from: ' + '; '.join(failed.values()))
    return [_read(part) for part in parts if part.kept.stem not in failed], failed


def work(part: _Part, tick: Tick) -> None:
    """Learn one drive and keep it; in a process of its own."""
    (drive,) = learn(part.config, tick)
    write_bytes(part.kept, pickle.dumps(drive))
    write_text(part.kept.with_suffix('.json'), part.stamp)


def forget(folder: Path) -> None:
    """Remove what was kept."""
    shutil.rmtree(folder, ignore_errors=True)


# What pickled arrays and paths name, in numpy 1 and 2.
_OF_ARRAYS = {
    ('collections', 'deque'),
    ('numpy', 'dtype'),
    ('numpy', 'ndarray'),
    ('numpy._core.multiarray', '_reconstruct'),
    ('numpy._core.multiarray', 'scalar'),
    ('numpy._core.numeric', '_frombuffer'),
    ('numpy.core.multiarray', '_reconstruct'),
    ('numpy.core.multiarray', 'scalar'),
    ('numpy.core.numeric', '_frombuffer'),
}


def _parts(config: CalibrateConfig, folder: Path) -> list[_Part]:
    sha256 = model_file.read(config.model).sha256
    taken: set[str] = set()
    return [_part(bag, config, folder, taken, sha256) for bag in config.bags]


def _part(bag: Path, config: CalibrateConfig, folder: Path, taken: set[str], sha256: str) -> _Part:
    one = dataclasses.replace(config, bags=(bag,))
    fields = {
        'model_sha256': sha256,
        'version': report.package_version(),
        'bag_files': fleet.state_of(bag),
        'topic': config.topic,
        'backend': config.backend,
        'region': str(config.region),
        'find_ego': config.find_ego,
    }
    name = fleet.unused_name(bag.name, taken)
    return _Part(bag.name, one, folder / f'{name}.pickle', json.dumps(fields, sort_keys=True))


class _Plain(pickle.Unpickler):  # nosec B301
    """Makes objects of this package and arrays, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle.Unpickler; UnpicklingError for what `calibrate` never writes."""
        own = module.startswith('vq_anomaly_ros.') and name[:1].isupper()
        if own or (module, name) in _OF_ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'{module}.{name} does not belong there')


def _read(part: _Part) -> LearntDrive:
    try:
        drive = _Plain(io.BytesIO(part.kept.read_bytes())).load()
    except Exception as error:  # unpickling raises anything
        raise FleetError(
            f'{part.kept}: what was learnt cannot be read ({error!r}); remove it, or use --fresh'
        ) from error
    if not isinstance(drive, LearntDrive):
        raise FleetError(f'{part.kept}: is nothing that was learnt of a drive; remove it')
    return drive
