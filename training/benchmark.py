"""Measure model files on data sets: `python -m training.benchmark --model M... --data DIR...`.

Every model is run on every set under one protocol, as the vehicle runs it (the same engines, no
torch). Pictures are stretched to the model's input size, scores and class scores are upsampled
bilinearly to the label's size before they are judged; the class is the argmax of upsampled class
scores. Each row carries where it comes from: protocol, weights, outlier data, commit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.data import folders, layouts
from training.data.folders import (
    AnomalyFolder,
    FolderError,
    LabelledImage,
    MvtecCategory,
    SegmentationFolder,
)
from training.sheets import ContactSheets
from training.tables import Row, markdown, write_text
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import Engine, EngineError, open_engine
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError
from vq_anomaly_ros.metrics import (
    ANOMALY_TRACK,
    OBSTACLE_TRACK,
    PROTOCOLS,
    IndustrialEvaluation,
    MetricError,
    Protocol,
    Result,
    SegmentationEvaluation,
    anomaly_evaluation,
    find_protocol,
)
from vq_anomaly_ros.replay.files import OutputError, staged

Image = NDArray[np.uint8]
Dataset = AnomalyFolder | SegmentationFolder | MvtecCategory
Advance = Callable[[], None]

TRACKS = {'anomaly': ANOMALY_TRACK, 'obstacle': OBSTACLE_TRACK}
# Pictures looked at to tell anomaly labels from class labels before anything is measured.
_LABELS_PROBED = 20
_INTERRUPTED = 130


class BenchmarkError(ValueError):
    """A model, a data set and a protocol that do not go together."""


@dataclass(frozen=True)
class Measurement:
    """How to measure: what of a model, under which protocol, and where sheets go, if anywhere."""

    protocol: Protocol
    backend: str = 'auto'
    threads: int = 2
    seed: int = 0
    split: str | None = None
    sheets: Path | None = None

    @property
    def output(self) -> str:
        """The output of the model that is judged."""
        return 'class_scores' if self.protocol.task == 'segmentation' else 'score'


def read_dataset(root: Path, measurement: Measurement) -> Dataset:
    """Read a folder in the format that the protocol judges; BenchmarkError where it is another.

    Public data sets are read in the layouts of their authors (training/data/layouts.py).
    """
    task = measurement.protocol.task
    if task != 'industrial' and layouts.locate(root) is not None:
        if task == 'anomaly':
            return layouts.read_anomaly_set(root, measurement.split)
        return layouts.read_segmentation_set(root, measurement.split)
    found = folders.find_format(root)
    fitting = {'anomaly': ('flat',), 'segmentation': ('flat', 'splits'), 'industrial': ('mvtec',)}
    if found not in fitting[task]:
        kinds = {'flat': 'pooled', 'splits': 'segmentation', 'mvtec': 'industrial'}
        raise BenchmarkError(
            f'{root}: is not in the format that the protocol {measurement.protocol.name} judges; '
            f'use --protocol {kinds[found]} or a folder with '
            f'{"train/good/ and test/good/" if task == "industrial" else "images/ and labels/"}'
        )
    if task == 'anomaly':
        return folders.read_anomaly_folder(root)
    if task == 'segmentation':
        return folders.read_segmentation_folder(root, measurement.split or 'test')
    return folders.read_mvtec_category(root)


def check_classes(model: ModelFile, data: SegmentationFolder) -> NDArray[np.int16]:
    """Return the table from label ids to the model's classes; an error where they do not meet.

    Ignored ids are judged as little as void ones: both become 255.
    """
    names = model.info.classes
    if not names:
        raise BenchmarkError(
            f'{model.path}: the method {model.info.method} has no classes to judge; '
            'use a protocol of anomaly scores'
        )
    if data.classes is None and len(names) > 2 and _looks_like_anomalies(data.samples):
        raise BenchmarkError(
            f'{data.root}: its labels are 0, 1 and 255 only, anomalies rather than '
            f'{len(names)} classes; use --protocol pooled, or name the classes in classes.yaml'
        )
    table = folders.class_table(data.classes, names, data.root)
    table[table == folders.IGNORED] = folders.VOID
    return table


def _looks_like_anomalies(samples: Sequence[LabelledImage]) -> bool:
    try:
        for sample in samples[:_LABELS_PROBED]:
            folders.load_anomaly_labels(sample.label)
    except FolderError:
        return False
    return True


class Predictor:
    """An opened engine as a function of pictures of any size."""

    def __init__(self, model: ModelFile, measurement: Measurement) -> None:
        self.model = model
        self._output = measurement.output
        self.engine: Engine = open_engine(
            model, measurement.backend, (self._output,), threads=measurement.threads
        )

    def run(self, image: Image) -> NDArray[np.float32]:
        """Run on uint8 [H, W, 3] BGR: score [h/s, w/s] or class scores [C, h/s, w/s], raw.

        The array belongs to the engine and is valid until the next run.
        """
        height, width = self.model.info.input_size
        stretched = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        cv2.cvtColor(stretched, cv2.COLOR_BGR2RGB, dst=self.engine.input_buffer(1)[0])
        return np.asarray(self.engine.infer(1)[self._output][0])

    def score(self, image: Image, size: tuple[int, int]) -> NDArray[np.float32]:
        """Raw score, float32 [H, W], upsampled bilinearly to `size` (height, width)."""
        return upsample(self.run(image), size)

    def classes(self, image: Image, size: tuple[int, int]) -> Image:
        """Classes, uint8 [H, W]: the argmax of class scores upsampled bilinearly to `size`."""
        return upsampled_argmax(self.run(image), size)


def size_of(image: Image) -> tuple[int, int]:
    """Height and width of a picture, which its labels share."""
    return image.shape[0], image.shape[1]


def upsample(score: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a map [h, w] to `size` (height, width) with bilinear interpolation."""
    return np.asarray(cv2.resize(score, size[::-1], interpolation=cv2.INTER_LINEAR))


def upsampled_argmax(class_scores: NDArray[np.float32], size: tuple[int, int]) -> Image:
    """Argmax over C of class scores [C, h, w] resized to `size`: uint8 [H, W], first of equals.

    One class at a time, so that memory does not grow with their number.
    """
    best = upsample(class_scores[0], size)
    classes = np.zeros(size, np.uint8)
    for index in range(1, len(class_scores)):
        scores = upsample(class_scores[index], size)
        better = scores > best
        best[better] = scores[better]
        classes[better] = index
    return classes


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
    measurement: Measurement,
    sheets: ContactSheets | None = None,
    advance: Advance = lambda: None,
) -> Result:
    """Judge the classes of a model on one split of a segmentation folder."""
    table = check_classes(predictor.model, data)
    evaluation = SegmentationEvaluation(len(predictor.model.info.classes), seed=measurement.seed)
    for sample in data.samples:
        image = folders.load_image(sample.image)
        labels = folders.load_class_ids(sample.label, table)
        folders.check_same_size(sample.image, image, sample.label, labels)
        predicted = predictor.classes(image, size_of(image))
        evaluation.add(predicted, labels)
        if sheets is not None:
            sheets.add_classes(sample.image.stem, image, predicted, labels.astype(np.uint8))
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
    if measurement.sheets is None:
        result = _measured(predictor, data, measurement, None, advance)
    else:
        stem = f'{predictor.model.path.stem}_{data.name.replace("/", "_")}'
        with staged(measurement.sheets) as folder:
            sheets = ContactSheets(folder, stem, predictor.model.info)
            result = _measured(predictor, data, measurement, sheets, advance)
            sheets.close()
    return row(predictor, data, measurement, result)


def _measured(
    predictor: Predictor,
    data: Dataset,
    measurement: Measurement,
    sheets: ContactSheets | None,
    advance: Advance,
) -> Result:
    if isinstance(data, AnomalyFolder):
        return measure_anomalies(predictor, data, measurement, sheets, advance)
    if isinstance(data, SegmentationFolder):
        return measure_classes(predictor, data, measurement, sheets, advance)
    return measure_defects(predictor, data, measurement, sheets, advance)


def row(predictor: Predictor, data: Dataset, measurement: Measurement, result: Result) -> Row:
    """Return a result as a JSON row: metrics as fractions of 1, and all that they depend on.

    `seed` is that of the bootstrap, `commit` that of the model's export.
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
        'per_class': _per_class(info.classes, result),
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
        },
    }


def _per_class(names: Sequence[str], result: Result) -> dict[str, float]:
    """IoU by class, those that occur."""
    pairs = zip(names, result.per_class, strict=False)
    return {name: value for name, value in pairs if np.isfinite(value)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.benchmark',
        description='Measure model files on data sets under one protocol.',
    )
    add = parser.add_argument
    add('--model', nargs='+', required=True, metavar='M', help='model files, or shipped names')
    add('--data', nargs='+', required=True, type=Path, metavar='DIR', help='data sets')
    add('--protocol', required=True, choices=list(PROTOCOLS), help='how figures are computed')
    add('--track', choices=list(TRACKS), default='anomaly', help='smiyc: sizes of components')
    split_help = 'of sets with splits (default: test; val where test labels are not public)'
    add('--split', choices=folders.SPLITS, help=split_help)
    add('--json', type=Path, metavar='F', help='write the rows there')
    add('--markdown', type=Path, metavar='F', help='write the table there (always printed)')
    add('--sheet', type=Path, metavar='DIR', help='write contact sheets for looking at there')
    add('--backend', default='auto', help='auto, openvino or onnxruntime (default: auto)')
    add('--threads', type=int, default=2, help='threads of the engine (default: 2)')
    add('--seed', type=int, default=0, help='seed of the bootstrap intervals (default: 0)')
    return parser


def _measurement(options: argparse.Namespace) -> Measurement:
    protocol = find_protocol(options.protocol)
    if protocol.components is not None:
        protocol = dataclasses.replace(protocol, components=TRACKS[options.track])
    elif options.track != 'anomaly':
        raise BenchmarkError(
            f'--track {options.track} belongs to component metrics, which the protocol '
            f'{protocol.name} has not; leave it out or use --protocol smiyc'
        )
    return Measurement(
        protocol, options.backend, options.threads, options.seed, options.split, options.sheet
    )


def run(
    models: Sequence[ModelFile],
    datasets: Sequence[Dataset],
    measurement: Measurement,
    console: Console,
    done: Callable[[Row], None],
) -> None:
    """Measure every model on every set, with a progress bar; `done` gets each row at once."""
    columns = (
        TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        for model in models:
            predictor = Predictor(model, measurement)
            try:
                for data in datasets:
                    title = f'{model.info.name} on {data.name}'
                    task = progress.add_task(title, total=_pictures(data))
                    done(measure(predictor, data, measurement, partial(progress.advance, task)))
            finally:
                predictor.engine.close()


def _pictures(data: Dataset) -> int:
    return len(data.test) if isinstance(data, MvtecCategory) else len(data.samples)


def _benchmark(options: argparse.Namespace, rows: list[Row]) -> None:
    """Read everything first, so that what does not fit is said before hours of measuring."""
    measurement = _measurement(options)
    datasets = [read_dataset(root, measurement) for root in options.data]
    for data in datasets:
        if isinstance(data, AnomalyFolder) and data.left_out:
            print(f'{data.root}: {data.left_out} pictures without labels left out', file=sys.stderr)
    models = [model_file.read(model_file.find_model(name)) for name in options.model]
    for data in datasets:
        if isinstance(data, SegmentationFolder):
            for model in models:
                check_classes(model, data)

    def done(one: Row) -> None:
        rows.append(one)
        if options.json:
            write_text(options.json, json.dumps(rows, indent=2, allow_nan=False) + '\n')
        if options.markdown:
            write_text(options.markdown, markdown(rows))

    run(models, datasets, measurement, Console(stderr=True), done)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 2 for an error, 130 where it was interrupted."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    code = 0
    try:
        _benchmark(options, rows)
    except (
        BenchmarkError, EngineError, FolderError, MetricError, ModelFileError, OutputError
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
