"""How small runs are judged: anomaly scores on a validation set, classes on a held-out split.

Ablations and baselines use the same functions, so their tables can be read side by side. Pictures
are stretched to the input size of the network and scores upsampled to the size of the labels,
bilinearly both, as a model file is judged by training.benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.card import with_table
from training.data.folders import (
    class_table,
    load_anomaly_labels,
    load_class_ids,
    load_image,
    read_anomaly_folder,
    read_segmentation_folder,
)
from training.tables import write_text
from vq_anomaly_ros.metrics import PixelScores, confusion, mean_iou

Figures = dict[str, Any]
AnomalyScores = Callable[[Tensor], Mapping[str, Tensor]]
ClassScores = Callable[[Tensor], Tensor]


def network_input(bgr: NDArray[np.uint8], size: Sequence[int]) -> Tensor:
    """A picture, uint8 BGR [H, W, 3], as a network of input size (h, w) takes it.

    uint8 RGB [1, h, w, 3]; linear interpolation without antialiasing, as on the vehicle.
    """
    height, width = size
    stretched = cv2.resize(bgr, (int(width), int(height)), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(cv2.cvtColor(stretched, cv2.COLOR_BGR2RGB))[None]


def upsampled(score: Tensor, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A score map [h, w] at the size `shape` of the labels, bilinear: float32 [H, W]."""
    found = cv2.resize(score.numpy(), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(found, np.float32)


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
                one.add(upsampled(score[0], labels.shape), labels)
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
            scores = class_scores(network_input(load_image(sample.image), size))[0]
            found = np.stack([upsampled(one, labels.shape) for one in scores]).argmax(axis=0)
            matrix += confusion(found.astype(np.uint8), labels, len(classes))
    return float(mean_iou(matrix))


def kept_figures(run: Path, make: Callable[[], Figures]) -> Figures:
    """The figures of a finished run, read from RUN/figures.json; else made and kept there."""
    kept = run / 'figures.json'
    if not kept.exists():
        write_text(kept, json.dumps(make(), indent=1) + '\n')
    figures: Figures = json.loads(kept.read_text())
    return figures


def keep_table(
    rows: Sequence[Figures], table: str, name: str, rows_file: Path | None, page: Path | None
) -> None:
    """Write rows as JSON and put their table between the markers `name` of a page, where asked.

    Raises CardError where the page has no such markers, OutputError where it cannot be written.
    """
    if rows_file is not None:
        write_text(rows_file, json.dumps(rows, indent=1) + '\n')
    if page is not None:
        write_text(page, with_table(page.read_text(), table, name))


def run_folder(runs: Path, name: str, seed: int) -> Path:
    """Where the run of a row with a seed is kept."""
    return runs / f'{name.replace(" ", "_").replace("+", "plus")}-{seed}'


def spread(values: Sequence[float]) -> str:
    """Per cent: mean, and half of the range where there are several."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f'{mean:.1f}'
    return f'{mean:.1f} ± {50 * (max(values) - min(values)):.1f}'
