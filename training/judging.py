"""How small runs are judged: anomaly scores on a validation set, classes on a held-out split.

Ablations and baselines use the same functions, so their tables can be read side by side. Pictures
are stretched to the input size of the network and scores upsampled to the size of the labels,
bilinearly both, as a model file is judged by training.benchmark.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.backbones import BackboneError
from training.data.folders import (
    class_table,
    load_anomaly_labels,
    load_class_ids,
    load_image,
    read_anomaly_folder,
    read_segmentation_folder,
)
from training.predictor import size_of, upsample, upsampled_argmax
from training.studies import add_result_options, keep_results
from training.train import keep_freed_memory
from vq_anomaly_ros.metrics import PixelScores, confusion, mean_iou
from vq_anomaly_ros.replay.files import write_text

Figures = dict[str, Any]
_FIGURES = 'figures.json'  # of a finished run
_FOLDERS = {
    'data': 'folder of the data sets',
    'pasted': 'folder that training.pasted made',
}
AnomalyScores = Callable[[Tensor], Mapping[str, Tensor]]
ClassScores = Callable[[Tensor], Tensor]


def network_input(bgr: NDArray[np.uint8], size: Sequence[int]) -> Tensor:
    """A picture, uint8 BGR [H, W, 3], as a network of input size (h, w) takes it.

    uint8 RGB [1, h, w, 3]; linear interpolation without antialiasing, as on the vehicle.
    """
    height, width = size
    stretched = cv2.resize(bgr, (int(width), int(height)), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(cv2.cvtColor(stretched, cv2.COLOR_BGR2RGB))[None]


def anomaly_figures(
    folder: Path, size: Sequence[int], scores: AnomalyScores
) -> dict[str, dict[str, float]]:
    """{name of the score: {'ap', 'fpr95'}}, fractions of 1, over all pixels of an anomaly folder.

    `scores` gives maps [1, h, w] by name, higher = more anomalous, of a picture as `network_input`
    makes it. Raises FolderError where the folder is none.
    """
    evaluations: dict[str, PixelScores] = {}
    with torch.inference_mode():
        for sample in read_anomaly_folder(folder).samples:
            labels = load_anomaly_labels(sample.label)
            for name, score in scores(network_input(load_image(sample.image), size)).items():
                one = evaluations.setdefault(name, PixelScores())
                one.add(upsample(score[0].numpy(), size_of(labels)), labels)
    figures = {name: one.result() for name, one in evaluations.items()}
    return {name: {'ap': m.ap, 'fpr95': m.fpr95} for name, m in figures.items()}


def class_miou(
    split: Path, classes: Sequence[str], size: Sequence[int], class_scores: ClassScores
) -> float:
    """Mean IoU (a fraction of 1) over a split of a segmentation folder, void left out.

    `class_scores` gives [1, C, h, w], higher = more likely, of a picture as `network_input` makes
    it; the labels are the argmax of the upsampled scores. Raises FolderError where the split is
    none or has other classes.
    """
    folder = read_segmentation_folder(split)
    table = class_table(folder.classes, classes, split)
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    with torch.inference_mode():
        for sample in folder.samples:
            labels = load_class_ids(sample.label, table).astype(np.uint8)
            scores = class_scores(network_input(load_image(sample.image), size))[0].numpy()
            found = upsampled_argmax(scores, size_of(labels))
            matrix += confusion(found, labels, len(classes))
    return float(mean_iou(matrix))


def kept_figures(run: Path, make: Callable[[], Figures]) -> Figures:
    """The figures of a finished run, read from RUN/figures.json; else made and kept there."""
    kept = run / _FIGURES
    if not is_finished(run):
        write_text(kept, json.dumps(make(), indent=1) + '\n')
    figures: Figures = json.loads(kept.read_text())
    return figures


def is_finished(run: Path) -> bool:
    """Whether the figures of a run are kept."""
    return (run / _FIGURES).exists()


def run_folder(runs: Path, name: str, seed: int) -> Path:
    """Where the run of a row with a seed is kept."""
    return runs / f'{name.replace(" ", "_").replace("+", "plus")}-{seed}'


def by_row(rows: Sequence[Figures]) -> dict[str, list[Figures]]:
    """{row: the figures of its seeds}, rows in the order in which they come."""
    grouped: dict[str, list[Figures]] = {}
    for figures in rows:
        grouped.setdefault(figures['row'], []).append(figures)
    return grouped


def spread(values: Sequence[float]) -> str:
    """Per cent: mean, and half of the range where there are several."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f'{mean:.1f}'
    return f'{mean:.1f} ± {50 * (max(values) - min(values)):.1f}'


@dataclass(frozen=True)
class Study:
    """Rows that are trained and judged with several seeds, and the table of them.

    name: of the module training.NAME, of the JSON and of the markers in a page; measure: row, seed,
    the folders of `folders`, runs -> figures; lines: of a row's own table, printed when it ends
    (default: all); folders: what the command is given besides --out, by name and description.
    """

    name: str
    rows: Sequence[str]
    measure: Callable[..., Figures]
    markdown: Callable[[Sequence[Figures]], str]
    lines: int | None = None
    folders: Mapping[str, str] = field(default_factory=lambda: dict(_FOLDERS))
    seeds: Sequence[int] = (0, 1, 2)

    def run(self, description: str | None, argv: Sequence[str] | None) -> int:
        """Command line; returns the exit code."""
        options = self._parser(description).parse_args(argv)
        keep_freed_memory()
        rows: list[Figures] = []
        try:
            for seed in options.seeds:
                for name in options.rows:
                    if options.finished and not is_finished(run_folder(options.out, name, seed)):
                        continue
                    given = [getattr(options, folder) for folder in self.folders]
                    rows.append(self.measure(name, seed, *given, options.out))
                    own = self.markdown(rows[-1:]).splitlines()[2:][: self.lines]
                    print('\n'.join(own), flush=True)
            if not rows:
                raise ValueError(f'{options.out}: no row of these is finished there')
            rows.sort(key=lambda row: self.rows.index(row['row']))
            table = self.markdown(rows)
            self._keep(rows, table, options)
        except (BackboneError, OSError, ValueError) as error:
            print(f'training.{self.name}: {error}', file=sys.stderr)
            return 2
        print(table, end='')
        return 0

    def _keep(self, rows: Sequence[Figures], table: str, options: argparse.Namespace) -> None:
        """The rows as JSON and the table as Markdown, in the folder of the runs and where asked."""
        write_text(options.out / f'{self.name}.json', json.dumps(rows, indent=1) + '\n')
        write_text(options.out / f'{self.name}.md', table)
        keep_results(rows, table, self.name, options)

    def _parser(self, description: str | None) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            prog=f'training.{self.name}',
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add, known = parser.add_argument, list(self.rows)
        for folder, meaning in self.folders.items():
            add(f'--{folder}', type=Path, required=True, help=meaning)
        add('--out', type=Path, required=True, help='folder of the runs')
        add(
            '--rows', nargs='+', choices=known, default=known, metavar='NAME', help=', '.join(known)
        )
        add('--seeds', nargs='+', type=int, default=list(self.seeds))
        add('--finished', action='store_true', help='train nothing: a table of what --out has')
        add_result_options(parser, 'write the rows there, too')
        return parser
