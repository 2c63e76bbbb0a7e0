"""Many bags, each evaluated by itself, and one report over all.

Every bag gets a folder of its own below OUT/bags with all that evaluate_bag writes of one bag; the
report over all is made of what these kept, to the bit that of one pass. A bag that was evaluated
already, by the same model with the same settings, is not evaluated again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.detector import calibration_file_of, calibration_of
from vq_anomaly_ros.detection.model_file import ModelFile
from vq_anomaly_ros.replay import bags, fleet, report
from vq_anomaly_ros.replay.bags import BagError
from vq_anomaly_ros.replay.comparison import read_summary
from vq_anomaly_ros.replay.evaluate_bag import (
    EXPECTED_ERRORS,
    EvaluationConfig,
    evaluate,
    settings_of,
)
from vq_anomaly_ros.replay.files import staged, write_text
from vq_anomaly_ros.replay.fleet import FleetError, Tick, Workers
from vq_anomaly_ros.replay.frame_results import DriveStatistics
from vq_anomaly_ros.replay.progress import progress_bar
from vq_anomaly_ros.replay.report import BagLine

FOLDER = 'bags'
_STAMP = 'evaluated.json'


@dataclass(frozen=True)
class _Bag:
    """A bag, its name in the report, its folder, and what says that it was evaluated so before."""

    name: str
    config: EvaluationConfig
    stamp: str

    @property
    def is_done(self) -> bool:
        """Whether its folder holds the results of just this."""
        stamp = self.config.out / _STAMP
        return stamp.is_file() and stamp.read_text(encoding='utf-8') == self.stamp

    @property
    def frames(self) -> int:
        """How many there are to evaluate; 0 for a bag that cannot be read."""
        try:
            topic = bags.choose_topic(self.config.bags[0], self.config.topic)
            return int(bags.image_topics(self.config.bags[0])[topic][1])
        except BagError:
            return 0


def evaluate_fleet(
    config: EvaluationConfig,
    workers: Workers,
    fresh: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Evaluate the bags of `config`, several at once; write the report over all.

    Args:
        config: out: gets report.html, summary.json, frames.json and FOLDER; rerun: a file beside
            this one a bag; threads: of each process, 0 shares the cores out.
        workers: who works.
        fresh: evaluate also what was evaluated before.
        console: for the progress bar.

    Returns:
        The summary; its 'failed_bags' say which bags are not in it, and why.

    Raises:
        One of EXPECTED_ERRORS, FleetError: nothing can be evaluated.
    """
    if config.compare is not None:
        read_summary(config.compare)
    model = model_file.read(config.model)
    run = _run(config, model)
    _check_conditions(config, run)
    workers = dataclasses.replace(workers, expected=EXPECTED_ERRORS)
    threads = workers.threads(config.threads, len(config.bags))
    todo = bags_of(dataclasses.replace(config, threads=threads), model)
    errors = _evaluated(todo, workers, fresh, console)
    if len(errors) == len(todo):
        raise FleetError('not one bag could be evaluated: ' + '; '.join(errors.values()))
    with staged(config.out) as folder:
        return _merged(todo, errors, run, folder)


def work(config: EvaluationConfig, tick: Tick) -> None:
    """Evaluate one bag; in a process of its own."""
    evaluate(config, tick=tick)


def _evaluated(
    todo: Sequence[_Bag], workers: Workers, fresh: bool, console: Console | None
) -> dict[int, str]:
    """Evaluate what is not done yet; why bags failed, by their place."""
    errors: dict[int, str] = {}
    open_bags = [place for place, bag in enumerate(todo) if fresh or not bag.is_done]
    with progress_bar(console) as progress:
        total = sum(todo[place].frames for place in open_bags)
        done = len(todo) - len(open_bags)
        task = progress.add_task(_progress(done, todo, errors), total=total)
        configs = [todo[place].config for place in open_bags]

        def tick(frames: int) -> None:
            progress.advance(task, frames)

        for outcome in fleet.run(work, configs, workers, tick):
            bag = todo[open_bags[outcome.index]]
            if outcome.error:
                errors[open_bags[outcome.index]] = outcome.error
                progress.console.print(f'{bag.name} failed: {outcome.error}', style='red')
            else:
                write_text(bag.config.out / _STAMP, bag.stamp)
            done += 1
            if workers.ray is not None:
                tick(bag.frames)
            progress.update(task, description=_progress(done, todo, errors))
    return errors


def _progress(done: int, todo: Sequence[_Bag], errors: dict[int, str]) -> str:
    failed = f', {len(errors)} failed' if errors else ''
    return f'{done} of {len(todo)} bags{failed}'


def _merged(
    todo: Sequence[_Bag], errors: dict[int, str], run: report.Run, folder: Path
) -> dict[str, Any]:
    """Write the report over all bags that did not fail; return the summary."""
    record = report.new_record(run)
    lines = []
    for place, bag in enumerate(todo):
        link = f'{FOLDER}/{bag.config.out.name}/{report.REPORT}'
        if place in errors:
            lines.append(BagLine(bag.name, error=errors[place]))
            continue
        record.add_saved(bag.config.out)
        lines.append(BagLine(bag.name, link, read_summary(bag.config.out)))
    known = [line.summary for line in lines if line.summary is not None]
    engines = list(dict.fromkeys(str(summary['engine']) for summary in known))
    run = dataclasses.replace(run, bags=tuple(lines), engine=', '.join(engines))
    return report.write_record(record, folder, run)


def bags_of(config: EvaluationConfig, model: ModelFile) -> list[_Bag]:
    """The bags of a configuration, each with its own, in their order."""
    found: list[_Bag] = []
    taken: set[str] = set()
    for bag in config.bags:
        folder = fleet.unused_name(bag.name, taken)
        rerun = config.rerun
        if rerun is not None:
            rerun = rerun.with_name(f'{rerun.stem}-{folder}{rerun.suffix}')
        one = dataclasses.replace(
            config,
            bags=(bag,),
            out=config.out / FOLDER / folder,
            conditions=(),
            compare=None,
            rerun=rerun,
            keep_record=True,
        )
        found.append(_Bag(bag.name, one, _stamp(one, model)))
    return found


def _stamp(config: EvaluationConfig, model: ModelFile) -> str:
    """All that the results of a bag depend on, as JSON."""
    fields: dict[str, Any] = {
        f.name: str(getattr(config, f.name)) for f in dataclasses.fields(config)
    }
    fields |= {
        'model_sha256': model.sha256,
        'version': report.package_version(),
        'bag_files': fleet.state_of(config.bags[0]),
        'calibration_sha256': _sha256(config.calibration),
        'labels_files': fleet.state_of(config.labels),
    }
    return json.dumps(fields, sort_keys=True, indent=1) + '\n'


def _sha256(path: Path | None) -> str:
    if path is None or not path.is_file():
        return ''
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(config: EvaluationConfig, model: ModelFile) -> report.Run:
    names = tuple(bag.name for bag in config.bags)
    file = calibration_file_of(model, config.calibration)
    return report.Run(
        title=f'Anomalies in {len(names)} bags',
        sources=names,
        made_by='Every bag was evaluated by itself, every frame of it in order.',
        model=model,
        calibration=calibration_of(model, file),
        target_fpr=config.target_fpr,
        engine='',
        rate=1.0,
        latency='of the detector, from frame to labels, score and mask',
        labelled=config.labels is not None,
        video=False,
        settings=settings_of(config, [config.topic] if config.topic else []),
        conditions=config.conditions,
        calibration_file=file,
        compare=config.compare,
        bags=tuple(BagLine(name) for name in names),
    )


def _check_conditions(config: EvaluationConfig, run: report.Run) -> None:
    """Find a misspelt name before the first bag is opened."""
    statistics = DriveStatistics(run.model.info.classes, labelled=config.labels is not None)
    empty = report.summarise(statistics, run)
    for condition in config.conditions:
        condition.check_name(empty)
