"""Measure model files on data sets: `python -m training.benchmark --model M... --data DIR...`.

Every model is run on every set, as the vehicle runs it (the same engines, no torch). Each set is
judged under its own protocol, `DIR:PROTOCOL` or `DIR:smiyc:obstacle`, or under `--protocol`.
Pictures are stretched to the model's input size, scores and class scores are upsampled bilinearly
to the label's size before they are judged; the class is the argmax of upsampled class scores. A set
of coarser classes is judged by them. Each row carries where it comes from: protocol, weights,
outlier data, commit, and with `--timing` the time of a frame.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.card import CardError, with_table
from training.data import folders
from training.data.folders import AnomalyFolder, FolderError, MvtecCategory, SegmentationFolder
from training.judged_classes import JudgedClasses, judged_classes
from training.measurement import (
    TRACKS,
    BenchmarkError,
    Dataset,
    Measurement,
    named_set,
    protocol_of,
    read_dataset,
)
from training.predictor import Image, Predictor, size_of, upsampled_argmax
from training.sheets import ContactSheets
from training.tables import Row, markdown
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError
from vq_anomaly_ros.metrics import (
    PROTOCOLS,
    IndustrialEvaluation,
    MetricError,
    Result,
    SegmentationEvaluation,
    anomaly_evaluation,
)
from vq_anomaly_ros.replay.files import OutputError, staged, write_text

__all__ = ['Measurement', 'Predictor', 'main', 'measure', 'upsampled_argmax']

Advance = Callable[[], None]
Judge = Callable[[ContactSheets | None, Advance], Result]
Job = tuple[Dataset, Measurement]

_INTERRUPTED = 130
_ROUNDS = 5  # of `--timing`
_PICTURES = ('.png', '.svg')


def measure_anomalies(
    predictor: Predictor,
    data: AnomalyFolder,
    measurement: Measurement,
    sheets: ContactSheets | None = None,
    advance: Advance = lambda: None,
) -> Result:
    """Judge anomaly scores on an anomaly folder under a protocol of that task."""
    evaluation = anomaly_evaluation(measurement.protocol, measurement.seed)
    for sample in data.samples:
        image = folders.load_picture(sample)
        labels = folders.load_anomaly_labels(sample.label, data.coding)
        folders.check_same_size(sample.image, image, sample.label, labels)
        score = predictor.score(image, size_of(image))
        with _naming(sample.image):
            evaluation.add(score, labels)
        if sheets is not None:
            sheets.add_scores(sample.image.stem, image, score, labels)
        advance()
    return evaluation.result()


def measure_classes(
    predictor: Predictor,
    data: SegmentationFolder,
    judged: JudgedClasses,
    measurement: Measurement,
    sheets: ContactSheets | None = None,
    advance: Advance = lambda: None,
) -> Result:
    """Judge the classes of a model, or coarser ones, on one split of a segmentation folder."""
    evaluation = SegmentationEvaluation(len(judged.names), seed=measurement.seed)
    for sample in data.samples:
        image = folders.load_image(sample.image)
        labels = folders.load_class_ids(sample.label, judged.table)
        folders.check_same_size(sample.image, image, sample.label, labels)
        predicted = predictor.classes(image, size_of(image), judged.members)
        evaluation.add(predicted, labels)
        if sheets is not None:
            found, truth = judged.shown_as[predicted], judged.shown_as[labels]
            sheets.add_classes(sample.image.stem, image, found, truth)
        advance()
    return evaluation.result()


def measure_defects(
    predictor: Predictor,
    data: MvtecCategory,
    measurement: Measurement,
    sheets: ContactSheets | None = None,
    advance: Advance = lambda: None,
) -> Result:
    """Judge defect scores on the test pictures of one category in the MVTec layout."""
    evaluation = IndustrialEvaluation(measurement.seed)
    for sample in data.test:
        image = folders.load_image(sample.image)
        labels: Image = np.zeros(image.shape[:2], np.uint8)
        if sample.mask is not None:
            labels = folders.load_mask(sample.mask)
            folders.check_same_size(sample.image, image, sample.mask, labels)
        score = predictor.score(image, size_of(image))
        with _naming(sample.image):
            evaluation.add(score, labels, defective=sample.mask is not None)
        if sheets is not None:
            name = f'{sample.kind} {sample.image.stem}'
            sheets.add_scores(name, image, score, labels)
        advance()
    return evaluation.result()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the picture's name in front of what is wrong with its scores or labels."""
    try:
        yield
    except MetricError as error:
        raise BenchmarkError(f'{path}: {error}') from error


def measure(
    predictor: Predictor, data: Dataset, measurement: Measurement, advance: Advance = lambda: None
) -> Row:
    """Measure one model on one set: a row of the table, with its provenance."""
    judge, judged = _judge(predictor, data, measurement)
    if measurement.sheets is None:
        result = judge(None, advance)
    else:
        stem = f'{predictor.model.path.stem}_{data.name.replace("/", "_")}'
        with staged(measurement.sheets) as folder:
            sheets = ContactSheets(folder, stem, predictor.model.info)
            result = judge(sheets, advance)
            sheets.close()
    return row(predictor, data, measurement, result, judged)


def _judge(
    predictor: Predictor, data: Dataset, measurement: Measurement
) -> tuple[Judge, JudgedClasses | None]:
    """What judges a set of this kind, and by which classes, if by any."""
    if isinstance(data, AnomalyFolder):
        return partial(measure_anomalies, predictor, data, measurement), None
    if isinstance(data, MvtecCategory):
        return partial(measure_defects, predictor, data, measurement), None
    judged = judged_classes(predictor.model, data)
    return partial(measure_classes, predictor, data, judged, measurement), judged


def row(
    predictor: Predictor,
    data: Dataset,
    measurement: Measurement,
    result: Result,
    judged: JudgedClasses | None = None,
) -> Row:
    """Return a result as a JSON row: metrics as fractions of 1, and all that they depend on.

    `seed` is that of the bootstrap, `commit` that of the model's export. `judged` are the classes
    of a segmentation folder.
    """
    info = predictor.model.info
    return {
        'model': info.name,
        'data': data.name,
        'protocol': measurement.protocol.name,
        'images': result.images,
        'outliers': ', '.join(info.outlier_data) or 'none',
        'seed': measurement.seed,
        'commit': info.commit,
        'metrics': result.metrics,
        'interval': {name: list(ends) for name, ends in result.interval.items()},
        'per_class': _per_class(judged.names, result) if judged else {},
        'not_measured': result.reasons,
        'provenance': {
            'file': predictor.model.path.name,
            'sha256': predictor.model.sha256,
            'weights_sha256': info.weights_sha256,
            'method': info.method,
            'training_data': list(info.training_data),
            'input_size': list(info.input_size),
            'score_kind': info.score_kind,
            'engine': predictor.engine.description,
            'settings': measurement.protocol.settings(),
            'left_out': data.left_out if isinstance(data, AnomalyFolder) else 0,
            **({'classes': judged.description} if judged else {}),
        },
    }


def _per_class(names: Sequence[str], result: Result) -> dict[str, float]:
    """IoU by class, those that occur."""
    pairs = zip(names, result.per_class, strict=True)
    return {name: value for name, value in pairs if np.isfinite(value)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.benchmark',
        description='Measure model files on data sets, each under its protocol.',
    )
    add = parser.add_argument
    add('--model', nargs='+', required=True, metavar='M', help='model files, or shipped names')
    data_help = 'data sets; PROTOCOL and TRACK of one set come before --protocol and --track'
    add('--data', nargs='+', required=True, metavar='DIR[:PROTOCOL[:TRACK]]', help=data_help)
    add('--protocol', choices=list(PROTOCOLS), help='how figures of the other sets are computed')
    add('--track', choices=list(TRACKS), default='anomaly', help='smiyc: sizes of components')
    split_help = 'of sets with splits (default: test; val where test labels are not public)'
    add('--split', choices=folders.SPLITS, help=split_help)
    add('--json', type=Path, metavar='F', help='write the rows there')
    add('--markdown', type=Path, metavar='F', help='write the table there (always printed)')
    page_help = 'replace the table of a page there, between markers named as the file of --json'
    add('--page', type=Path, metavar='P', help=page_help)
    add('--sheet', type=Path, metavar='DIR', help='write contact sheets for looking at there')
    timing_help = f'time a frame against the bare trunk, in N rounds (default: {_ROUNDS})'
    add('--timing', nargs='?', type=_count, const=_ROUNDS, metavar='N', help=timing_help)
    picture_help = 'draw accuracy against time there (.png or .svg); times where --timing does not'
    add('--picture', type=Path, metavar='F', help=picture_help)
    add('--backend', default='auto', help='auto, openvino or onnxruntime (default: auto)')
    add('--threads', type=int, default=2, help='threads of the engine (default: 2)')
    add('--seed', type=int, default=0, help='seed of the bootstrap intervals (default: 0)')
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of rounds; use 1 or more')
    return int(text)


def _jobs(options: argparse.Namespace) -> list[Job]:
    """Read every set, and say by which protocol it is judged."""
    named = [named_set(text) for text in options.data]
    protocols = [protocol_of(one, options.protocol, options.track) for one in named]
    if options.track != 'anomaly' and all(one.components is None for one in protocols):
        raise BenchmarkError(
            f'--track {options.track} belongs to component metrics, which the protocol '
            f'{protocols[0].name} has not; leave it out or use --protocol smiyc'
        )
    jobs = []
    for one, protocol in zip(named, protocols, strict=True):
        measurement = Measurement(
            protocol, options.backend, options.threads, options.seed, options.split, options.sheet
        )
        jobs.append((read_dataset(one.folder, measurement), measurement))
    return jobs


def run(
    models: Sequence[ModelFile],
    jobs: Sequence[Job],
    console: Console,
    done: Callable[[Row], None],
) -> None:
    """Measure every model on every set, with a progress bar; `done` gets each row at once."""
    columns = (
        TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        for model in models:
            with ExitStack() as opened:
                predictors: dict[str, Predictor] = {}
                for data, measurement in jobs:
                    if measurement.output not in predictors:
                        predictor = Predictor(model, measurement)
                        opened.callback(predictor.engine.close)
                        predictors[measurement.output] = predictor
                    title = f'{model.info.name} on {data.name}'
                    advance = partial(progress.advance, progress.add_task(title, total=_size(data)))
                    done(measure(predictors[measurement.output], data, measurement, advance))


def _size(data: Dataset) -> int:
    """How many pictures are judged."""
    return len(data.test) if isinstance(data, MvtecCategory) else len(data.samples)


def _benchmark(options: argparse.Namespace, rows: list[Row]) -> None:
    """Read everything first, so that what does not fit is said before hours of measuring."""
    if options.picture and options.picture.suffix.lower() not in _PICTURES:
        raise BenchmarkError(
            f'{options.picture}: is no name of a picture; let it end in {" or ".join(_PICTURES)}'
        )
    if options.page and not options.json:
        raise BenchmarkError('--page: its table is named as the file of --json; give both')
    if options.page:
        _page('', options)  # markers that are missing are missed at once
    jobs = _jobs(options)
    for data, _ in jobs:
        if isinstance(data, AnomalyFolder) and data.left_out:
            print(f'{data.root}: {data.left_out} pictures without labels left out', file=sys.stderr)
    models = [model_file.read(model_file.find_model(name)) for name in options.model]
    for data, _ in jobs:
        if isinstance(data, SegmentationFolder):
            for model in models:
                judged_classes(model, data)
    console = Console(stderr=True)
    timings = _timings(models, options, console)

    def done(one: Row) -> None:
        if timings:
            one['provenance']['timing'] = timings[one['provenance']['sha256']]
        rows.append(one)
        _write(rows, options)

    run(models, jobs, console, done)


def _timings(
    models: Sequence[ModelFile], options: argparse.Namespace, console: Console
) -> Mapping[str, Mapping[str, Any]]:
    """The times of each model by its sha256, where they are asked for."""
    if options.timing is None and options.picture is None:
        return {}
    # Imported here: the trunk is exported with torch, which nothing else of the command needs.
    from training.timing import time_models

    rounds = options.timing or _ROUNDS
    with console.status('timing the models and the bare trunk'):
        return time_models(models, options.backend, options.threads, rounds)


def _write(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Write the rows so far wherever they were asked for."""
    if options.json:
        write_text(options.json, json.dumps(rows, indent=2, allow_nan=False) + '\n')
    if options.markdown:
        write_text(options.markdown, markdown(rows))
    if options.page:
        write_text(options.page, _page(markdown(rows), options))
    if options.picture:
        # Imported here: matplotlib takes a second to import.
        from training.accuracy_picture import draw

        draw(rows, options.picture)


def _page(table: str, options: argparse.Namespace) -> str:
    """The page with another table; CardError where it has no markers."""
    try:
        before = options.page.read_text(encoding='utf-8')
    except OSError as error:
        raise BenchmarkError(f'{options.page}: cannot be read: {error.strerror}') from error
    return with_table(before, table, options.json.stem)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 2 for an error, 130 where it was interrupted."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    code = 0
    try:
        _benchmark(options, rows)
    except (
        BenchmarkError, CardError, EngineError, FolderError, MetricError, ModelFileError,
        OutputError,
    ) as error:  # fmt: skip
        print(f'error: {error}', file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print(f'interrupted; the {len(rows)} finished rows are kept', file=sys.stderr)
        code = _INTERRUPTED
    if rows:
        print(markdown(rows), end='')
    return code


if __name__ == '__main__':
    sys.exit(main())
