"""Why a pixel has its score: the nearest codevectors, how far they are, and what they stand for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vq_anomaly_ros.detection.atlas import Atlas
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.calibration_file import CalibrationFile
from vq_anomaly_ros.detection.codevectors import FeatureSession
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.detection.spreads import (
    SHARES,
    Spread,
    SpreadCounts,
    distance_of,
    nearest_of_class,
    read_spreads,
)
from vq_anomaly_ros.images import Frame

NEAREST = 5
CALIBRATION, THIS_FRAME = 'calibration', 'this frame'


class ExplanationError(ValueError):
    """A pixel that cannot be explained; the message says why and what to do."""


@dataclass(frozen=True)
class NearCodevector:
    """One of the nearest codevectors of a position.

    index: as in `codes`; number: within its class; cosine: -1..1; distance: |z - e|, 0..2; spreads:
    the distance over the median one of normal positions of the class; farther: share of those that
    are nearer, 0..0.999; both None where the class's spread is unknown. patches: how many the
    atlas has; used: share of the positions of its class that chose it there, None without atlas.
    """

    index: int
    class_name: str
    number: int
    cosine: float
    distance: float
    spreads: float | None = None
    farther: float | None = None
    patches: int = 0
    used: float | None = None


@dataclass(frozen=True)
class Explanation:
    """What is known of one pixel of a frame.

    point: x, y in pixels of the frame; size: (height, width) of the frame; position: row, column in
    the score map; score: calibrated; raw_score; looks_like: the class of the position, None where
    the model has none; score_in_class: share of the calibration's pixels of that class that scored
    lower, None where it does not know the class well enough; obstacle: the one whose box holds the
    pixel; codevectors: the nearest, of all classes; spread_of: what their unit was learnt on;
    patches_of: what the atlas was made of; note: why something is missing, else ''.
    """

    point: tuple[float, float]
    size: tuple[int, int]
    position: tuple[int, int]
    method: str
    score: float
    raw_score: float
    anomalous: bool
    looks_like: str | None
    score_in_class: float | None
    obstacle: Obstacle | None
    codevectors: tuple[NearCodevector, ...] = ()
    spread_of: str | None = None
    patches_of: str | None = None
    note: str = ''

    @property
    def sentence(self) -> str:
        """What a person is told first."""
        rare = 1 - self.score
        how = f'one normal pixel in {1 / rare:,.0f}' if rare >= 1e-5 else 'fewer than 1 in 100,000'
        told = f'Score {self.score:.5f}: {how} scores higher.'
        if self.looks_like is not None:
            told += f' It looks most like {self.looks_like}.'
        if self.codevectors:
            told += f' {_of_nearest(self.codevectors[0])}'
        return told

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe fields and the sentence."""
        return {**_plain(dataclasses.asdict(self)), 'sentence': self.sentence}


def _plain(value: Any) -> Any:
    """JSON-safe: tuples as lists, floats to six places."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def _of_nearest(nearest: NearCodevector) -> str:
    what = f'The nearest codevector is number {nearest.number} of {nearest.class_name}'
    if nearest.spreads is None or nearest.farther is None:
        return f'{what}, at a cosine of {nearest.cosine:.2f}.'
    more = 'more than ' if nearest.farther >= SHARES[-1] else ''
    return (
        f'{what}, {nearest.spreads:.1f} times as far as usual: {more}{nearest.farther:.1%} of '
        f'normal {nearest.class_name} is nearer to its own.'
    )


@dataclass
class Explainer:
    """Explains pixels of a model's frames; the model is cut open at the first question.

    calibration, file: those of the detector; atlas: of the same model, None for none; threads: of
    the CPU runtime. Not for use by several threads at once.
    """

    model: ModelFile
    calibration: Calibration
    file: CalibrationFile | None = None
    atlas: Atlas | None = None
    threads: int = 1
    _session: FeatureSession | None = field(default=None, init=False)
    _problem: str = field(default='', init=False)

    def explain(
        self, frame: Frame, detection: Detection, point: tuple[float, float]
    ) -> Explanation:
        """Explain the pixel (x, y) of a frame; see `place`, `compared`."""
        return self.compared(self.place(frame, detection, point), frame)

    def place(self, frame: Frame, detection: Detection, point: tuple[float, float]) -> Explanation:
        """What is known of a pixel (x, y) of a frame without another run of the network.

        detection: of that frame, by a detector of the same model; its obstacles may be told in
        pixels of another size. Raises ExplanationError for a pixel outside of the frame.
        """
        position = _position(point, frame.size, detection.raw_score.shape)
        raw = float(detection.raw_score[position])
        place = _position(point, frame.size, detection.score.shape)
        label = _label(self.model, detection, place)
        return Explanation(
            point=(float(point[0]), float(point[1])),
            size=frame.size,
            position=position,
            method=self.model.info.method,
            score=float(self.calibration.apply(np.array(raw, np.float32))),
            raw_score=raw,
            anomalous=bool(detection.anomaly_mask[place]),
            looks_like=label,
            score_in_class=self._in_class(label, raw),
            obstacle=_obstacle_at(place, detection.obstacles),
        )

    def _in_class(self, label: str | None, raw: float) -> float | None:
        table = None if self.file is None or label is None else self.file.classes.get(label)
        return None if table is None else float(table.apply(np.array(raw, np.float32)))

    def compared(self, known: Explanation, frame: Frame) -> Explanation:
        """The same with the nearest codevectors; frame: of any size, the network's will do."""
        if not self.model.info.codevectors_per_class:
            note = f'a model of the method {known.method} has no codevectors'
            return dataclasses.replace(known, note=note)
        session = self._opened()
        if session is None:
            return dataclasses.replace(known, note=self._problem)
        cosines = session.cosines(frame)
        spreads, source = self._spreads(cosines)
        at = cosines[:, known.position[0], known.position[1]]
        found = tuple(
            self._near(int(index), float(at[index]), spreads)
            for index in np.argsort(-at, kind='stable')[:NEAREST]
        )
        atlas = None if self.atlas is None else self.atlas.source
        return dataclasses.replace(known, codevectors=found, spread_of=source, patches_of=atlas)

    def _opened(self) -> FeatureSession | None:
        if self._session is None and not self._problem:
            try:
                self._session = FeatureSession(self.model, self.threads)
            except (EngineError, ModelFileError) as error:
                self._problem = str(error)
        return self._session

    def _spreads(self, cosines: np.ndarray) -> tuple[dict[str, Spread], str]:
        """The classes' spreads: of the calibration's drives, else of this frame's own positions."""
        if self.file is not None and self.file.spreads:
            return read_spreads(self.file.spreads), CALIBRATION
        counts = SpreadCounts(self.model.info.classes)
        counts.add(*nearest_of_class(cosines, len(self.model.info.classes)))
        return counts.spreads(), THIS_FRAME

    def _near(self, index: int, cosine: float, spreads: dict[str, Spread]) -> NearCodevector:
        info = self.model.info
        class_id, number = divmod(index, info.codevectors_per_class)
        distance = float(distance_of(np.array(cosine)))
        spread = spreads.get(info.classes[class_id])
        return NearCodevector(
            index=index,
            class_name=info.classes[class_id],
            number=number,
            cosine=cosine,
            distance=distance,
            spreads=None if spread is None else distance / spread.unit,
            farther=None if spread is None else spread.farther(distance),
            patches=0 if self.atlas is None else int(self.atlas.filled[index].sum()),
            used=None if self.atlas is None else float(self.atlas.shares[index]),
        )


def worst_pixel(detection: Detection, size: tuple[int, int]) -> tuple[float, float]:
    """x, y in pixels of a frame of `size` of the middle of the position that scores highest."""
    rows, columns = detection.raw_score.shape
    row, column = np.unravel_index(int(detection.raw_score.argmax()), (rows, columns))
    return (float(column) + 0.5) * size[1] / columns, (float(row) + 0.5) * size[0] / rows


def _position(
    point: tuple[float, float], frame: tuple[int, int], size: tuple[int, ...]
) -> tuple[int, int]:
    """Row and column of a map of `size` that the pixel lies in."""
    x, y = point
    height, width = frame
    if not (0 <= x < width and 0 <= y < height):
        raise ExplanationError(
            f'the pixel ({x:g}, {y:g}) is outside of the picture of {width}x{height}; give x from '
            f'0 to {width - 1} and y from 0 to {height - 1}'
        )
    return int(y * size[0] / height), int(x * size[1] / width)


def _label(model: ModelFile, detection: Detection, place: tuple[int, int]) -> str | None:
    if detection.labels is None:
        return None
    label = int(detection.labels[place])
    return model.info.classes[label] if label < len(model.info.classes) else None


def _obstacle_at(place: tuple[int, int], obstacles: tuple[Obstacle, ...]) -> Obstacle | None:
    """The smallest obstacle whose box holds the place; both in pixels of the published size."""
    row, column = place
    found = [
        one
        for one in obstacles
        if one.box[0] <= column < one.box[0] + one.box[2]
        and one.box[1] <= row < one.box[1] + one.box[3]
    ]
    return min(found, key=lambda one: one.area, default=None)
