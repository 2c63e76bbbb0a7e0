"""Parity of a model file with the trained network: the gate of the export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq_anomaly_ros.detection.engines import Engine, open_engine
from vq_anomaly_ros.detection.model_file import ModelFile

Outputs = Mapping[str, NDArray[Any]]
SCORE_TOLERANCE = 1e-3  # of the score range
LABEL_AGREEMENT = 0.999
ENGINES = ('openvino', 'onnxruntime')


class ParityError(RuntimeError):
    """A runtime that does not compute what the trained network computes."""


@dataclass(frozen=True)
class Agreement:
    """What one runtime gave against the trained network, over all pictures."""

    engine: str
    pictures: int
    score_difference: float  # largest, as a share of the score range
    where: tuple[int, int, int]  # picture, row, column of the largest difference
    labels_equal: float  # share of positions; 1 for methods without classes


def compare(
    engine: str, reference: Outputs, found: Outputs, score_range: tuple[float, float]
) -> Agreement:
    """Scores and labels [N, h, w] of a runtime against those of the trained network."""
    difference = np.abs(found['score'].astype(np.float64) - reference['score'])
    difference /= score_range[1] - score_range[0]
    difference = np.where(np.isfinite(difference), difference, np.inf)
    picture, row, column = np.unravel_index(int(difference.argmax()), difference.shape)
    equal = 1.0
    if 'labels' in reference:
        equal = float(np.mean(found['labels'] == reference['labels']))
    return Agreement(
        engine,
        len(difference),
        float(difference.max()),
        (int(picture), int(row), int(column)),
        equal,
    )


def require(agreement: Agreement) -> None:
    """Raise ParityError, saying where, when an agreement is below the gate."""
    if agreement.score_difference > SCORE_TOLERANCE:
        picture, row, column = agreement.where
        raise ParityError(
            f'{agreement.engine}: the score of picture {picture} at row {row}, column {column} '
            f'differs by {agreement.score_difference:.2e} of the score range '
            f'(allowed {SCORE_TOLERANCE:.0e}); compare the graph with the network from there'
        )
    if agreement.labels_equal < LABEL_AGREEMENT:
        raise ParityError(
            f'{agreement.engine}: only {agreement.labels_equal:.4%} of the labels are equal '
            f'(needed {LABEL_AGREEMENT:.1%}); compare the class scores of graph and network'
        )


def check(
    model: ModelFile,
    pictures: NDArray[np.uint8],
    network: Callable[[NDArray[np.uint8]], Outputs],
    engines: Sequence[str] = ENGINES,
) -> dict[str, Any]:
    """Run `pictures` (uint8 [N, h, w, 3]) through the network and every engine; the report.

    Each engine sees the pictures one by one and once as a batch. Raises ParityError.
    """
    names = [name for name in ('score', 'labels') if name in model.info.output_layouts()]
    reference = network(pictures)
    report: dict[str, Any] = {}
    for name in engines:
        engine = open_engine(model, name, names)
        try:
            alone = _run(engine, pictures, 1)
            batch = _run(engine, pictures[:4], min(4, len(pictures)))
        finally:
            engine.close()
        agreement = compare(name, reference, alone, model.info.score_range)
        require(agreement)
        first = {key: values[: len(batch['score'])] for key, values in reference.items()}
        require(compare(f'{name} (batch)', first, batch, model.info.score_range))
        report[name] = asdict(agreement) | {'runtime': engine.description}
    return report


def _run(engine: Engine, pictures: NDArray[np.uint8], batch: int) -> dict[str, NDArray[Any]]:
    parts: list[dict[str, NDArray[Any]]] = []
    for start in range(0, len(pictures) - batch + 1, batch):
        engine.input_buffer(batch)[:] = pictures[start : start + batch]
        parts.append({key: values.copy() for key, values in engine.infer(batch).items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
