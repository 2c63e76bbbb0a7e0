"""The file that `calibrate` writes: what scores a model gives on uneventful drives.

One JSON file for one model (its weights): the table of all pixels, a table a class, the scores of
whole frames, the rates of false alarms that came out on frames held out, and what a drift monitor
and the regions of interest know of the same drives.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vq_anomaly_ros.detection.calibration import Calibration, CalibrationError, check_target_fpr
from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.file_sizes import read_bounded

FORMAT = 'vq_anomaly_ros calibration'
FORMAT_VERSION = 1
# A file of the shipped models has 150 kB; nobody's is this large.
LARGEST_FILE = 16 * 2**20
# A frame is judged by the raw score that this share of its pixels reaches.
FRAME_SHARE = 1e-3
REMEDY = 'write it again with `calibrate`'

Unit = Literal['pixel', 'frame']


@dataclass(frozen=True)
class CalibratedBag:
    """A drive of a calibration: name of the bag, image topic, number of frames taken from it."""

    name: str
    topic: str
    frames: int


@dataclass(frozen=True)
class RealisedRate:
    """How often normal pixels or frames raised an alarm that was set on other frames.

    per: 'pixel' or 'frame'; target: the rate that was asked for, in (0, 1); rate: what came out on
    frames held out, 0..1; low, high: another drive of the same kind and length has a rate between
    them with the probability `level`, 0..1 (block bootstrap).
    """

    per: Unit
    target: float
    rate: float
    low: float
    high: float
    level: float = 0.95

    def __post_init__(self) -> None:
        """Raise CalibrationError for what is no rate."""
        known = self.per in get_args(Unit) and 0 < self.target < 1 and 0 < self.level < 1
        if not (known and 0 <= self.low <= self.high <= 1 and 0 <= self.rate <= 1):
            raise CalibrationError(f'a realised rate makes no sense ({self}): {REMEDY}')


@dataclass(frozen=True, eq=False)
class FrameTable:
    """Scores of normal frames as wholes: float32 [K], ascending raw scores, see `frame_score`.

    frames: how many there were; score: those of all of them, or of evenly chosen ones.
    """

    score: np.ndarray
    frames: int

    def __post_init__(self) -> None:
        """Check the scores and keep a read-only copy."""
        score = np.array(self.score, np.float32)
        known = score.ndim == 1 and 0 < score.size <= self.frames
        if not known or not np.isfinite(score).all() or (np.diff(score) < 0).any():
            raise CalibrationError(f'the table of frame scores is unusable: {REMEDY}')
        score.setflags(write=False)
        object.__setattr__(self, 'score', score)

    @property
    def smallest_rate(self) -> float:
        """The lowest rate of false alarms a frame that these frames can vouch for."""
        return 1 / (self.score.size + 1)

    def threshold(self, target: float) -> float:
        """Raw frame score that a new normal frame exceeds with the probability `target` at most.

        The k-th smallest of n scores, k = ceil((n + 1)(1 - target)): exact where frames may change
        places (Vovk et al., Algorithmic Learning in a Random World, 2005, section 2.2).
        Raises CalibrationError where there are too few frames for it.
        """
        check_target_fpr(target)
        # what a person writes as 0.05 shall not need one frame more by its last bit
        place = math.ceil((self.score.size + 1) * (1 - target) - 1e-9)
        if place > self.score.size:
            raise CalibrationError(
                f'{self.frames} frames of the calibration cannot vouch for a rate of {target:g} '
                f'false alarms a frame: ask for {self.smallest_rate:.2g} or more, or calibrate on '
                'longer drives'
            )
        return float(self.score[max(place, 1) - 1])


def frame_score(raw: np.ndarray) -> float:
    """The raw score that a thousandth (FRAME_SHARE) of a frame's pixels reaches.

    raw: float32, the raw scores of the pixels that count, any shape, at least one.
    """
    flat = raw.reshape(-1)
    place = flat.size - max(1, math.ceil(FRAME_SHARE * flat.size))
    return float(np.partition(flat, place)[place])


@dataclass(frozen=True)
class CalibrationFile:
    """All that a calibration says; made by `calibrate`, read by node and evaluate_bag.

    model_name, method, weights_sha256: of the model that scored; polluted: share of the frames,
    0..1, that was allowed to hold unnoticed anomalies; overall: table of all pixels; classes:
    table of the pixels that the model gave this class, for the classes with enough of them;
    realised: rates on frames held out; drift: baseline of the drift monitor, its owner is
    `detection.drift`; regions: what `detection.region` found on the drives, by image topic;
    spreads: how far normal positions lie from codevectors, by class, see `detection.spreads`.
    """

    model_name: str
    method: str
    weights_sha256: str
    date: str
    bags: tuple[CalibratedBag, ...]
    polluted: float
    overall: Calibration
    frame_table: FrameTable
    classes: dict[str, Calibration] = field(default_factory=dict)
    realised: tuple[RealisedRate, ...] = ()
    drift: dict[str, Any] | None = None
    regions: dict[str, Any] | None = None
    spreads: dict[str, Any] | None = None

    @property
    def frames(self) -> int:
        """Number of frames of all bags."""
        return sum(bag.frames for bag in self.bags)

    @property
    def watches_codes(self) -> bool:
        """Whether the limits of the drift monitor ask for the codevectors that are in use."""
        baselines = (self.drift or {}).values()
        return any(isinstance(one, dict) and one.get('codes') is not None for one in baselines)

    @property
    def sha256(self) -> str:
        """Hash of the content, to tell one calibration from another in reports."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def check_model(self, info: ModelInfo, where: str) -> None:
        """Raise CalibrationError, naming `where` it lies, unless it was made with these weights."""
        if self.weights_sha256 == info.weights_sha256:
            return
        raise CalibrationError(
            f'{where}: this calibration belongs to the model {self.model_name!r} with the weights '
            f'{self.weights_sha256[:12]}, not to {info.name!r} with the weights '
            f'{info.weights_sha256[:12]}: calibrate the model that is in use'
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe fields, from which from_dict makes the same calibration."""
        return {
            'format': FORMAT,
            'format_version': FORMAT_VERSION,
            'model': {
                'name': self.model_name,
                'method': self.method,
                'weights_sha256': self.weights_sha256,
            },
            'date': self.date,
            'bags': [vars(bag) for bag in self.bags],
            'frames': self.frames,
            'pixels': self.overall.pixels,
            'polluted': self.polluted,
            'overall': self.overall.to_dict(),
            'classes': {name: table.to_dict() for name, table in self.classes.items()},
            'frame_scores': self.frame_table.score.tolist(),
            'realised': [vars(rate) for rate in self.realised],
            'drift': self.drift,
            'regions': self.regions,
            'spreads': self.spreads,
        }

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + '\n'


def from_dict(fields: dict[str, Any]) -> CalibrationFile:
    """The calibration that to_dict wrote; raises CalibrationError where something is amiss."""
    if not isinstance(fields, dict) or fields.get('format') != FORMAT:
        raise CalibrationError('this is no calibration: give a file that `calibrate` wrote')
    if fields.get('format_version') != FORMAT_VERSION:
        raise CalibrationError(
            f'the calibration has the format version {fields.get("format_version")!r} where this '
            f'package reads {FORMAT_VERSION}: {REMEDY}'
        )
    for name, (check, expected) in _FIELDS.items():
        if not check(fields.get(name)):
            raise CalibrationError(f'the field {name!r} is not {expected}: {REMEDY}')
    try:
        return _calibration(fields)
    except CalibrationError:
        raise
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise CalibrationError(f'its content makes no sense ({error!r}): {REMEDY}') from error


def _calibration(fields: dict[str, Any]) -> CalibrationFile:
    model = {name: str(model_field) for name, model_field in fields['model'].items()}
    bags = tuple(CalibratedBag(**bag) for bag in fields['bags'])
    return CalibrationFile(
        model_name=model['name'],
        method=model['method'],
        weights_sha256=model['weights_sha256'],
        date=fields['date'],
        bags=bags,
        polluted=float(fields['polluted']),
        overall=Calibration.from_dict(fields['overall']),
        frame_table=FrameTable(fields['frame_scores'], sum(bag.frames for bag in bags)),
        classes={name: Calibration.from_dict(table) for name, table in fields['classes'].items()},
        realised=tuple(RealisedRate(**rate) for rate in fields['realised']),
        drift=fields.get('drift'),
        regions=fields.get('regions'),
        spreads=fields.get('spreads'),
    )


def read(path: Path) -> CalibrationFile:
    """Read a calibration file; raises CalibrationError that names the file, cause and remedy."""
    try:
        if not path.is_file():
            raise CalibrationError('there is no such file: make one with `calibrate`')
        text = read_bounded(path, LARGEST_FILE).decode('utf-8')
        return from_dict(json.loads(text, parse_constant=_no_number))
    except CalibrationError as error:
        raise CalibrationError(f'{path}: {error}') from error
    except OSError as error:
        cause = error.strerror or error
        raise CalibrationError(
            f'{path}: cannot be read ({cause}); check its permissions'
        ) from error
    # a cut file, one that is no text, one nested too deep
    except (ValueError, RecursionError) as error:
        raise CalibrationError(
            f'{path}: is damaged or no JSON ({error}); copy it again or {REMEDY}'
        ) from error


def _no_number(name: str) -> float:
    raise CalibrationError(f'it holds {name} where a number is due: {REMEDY}')


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_model(value: Any) -> bool:
    return isinstance(value, dict) and {'name', 'method', 'weights_sha256'} <= set(value)


def _is_counted(value: Any) -> bool:
    return _is_objects(value) and all(
        isinstance(bag.get('frames'), int) and bag['frames'] > 0 for bag in value
    )


def _is_section(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _is_tables(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(table, dict) for table in value.values())


# field of the file -> (test of the JSON value, what it has to be)
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'model': (_is_model, 'an object with name, method and weights_sha256'),
    'date': (lambda value: isinstance(value, str), 'a date'),
    'bags': (lambda value: _is_counted(value) and bool(value), 'a list of bags with their frames'),
    'polluted': (_is_share, 'a share of 0 or more and below 1'),
    'overall': (lambda value: isinstance(value, dict), 'a table'),
    'classes': (_is_tables, 'an object of tables'),
    'frame_scores': (lambda value: isinstance(value, list), 'a list of scores'),
    'realised': (_is_objects, 'a list of rates'),
    'drift': (_is_section, 'an object or null'),
    'regions': (_is_section, 'an object or null'),
    'spreads': (_is_section, 'an object or null'),
}


def thinned(scores: Sequence[float] | np.ndarray, most: int = 5000) -> np.ndarray:
    """The scores of frames for a FrameTable: float32 [K] ascending, K <= most, evenly chosen."""
    ordered = np.sort(np.asarray(scores, np.float32))
    if ordered.size <= most:
        return ordered
    return ordered[np.round(np.linspace(0, ordered.size - 1, most)).astype(np.int64)]
