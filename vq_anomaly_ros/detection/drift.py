"""Is the camera still the one that was calibrated? What the last frames look like, and limits.

The last frames of a camera give a value for each of STATISTICS (`frame_signs` says what is read off
a frame). A `Baseline` holds the range of these values on a calibration drive and the limits that
follow from it; a `DriftMonitor` compares and gives OK, WARN or ERROR.

Limits, of the range low..high around the median m over all windows of the drive: WARN above
m + slack * max(high - m, least) and below m - slack * max(m - low, least), ERROR at twice the
distance. `slack` says how far other stretches of the same road may leave the range of the stretch
that was seen; `least` keeps a drive without variation from having no range at all. Both stand in
STATISTICS, docs/drift.md says what they were chosen on.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vq_anomaly_ros.detection.calibration import CalibrationError
from vq_anomaly_ros.detection.frame_signs import CELLS, FrameSigns
from vq_anomaly_ros.detection.levels import Hysteresis, Judgement, Level

WINDOW = 10  # frames
FEWEST = 5  # frames that are judged
FEWEST_LEARNT = 10  # different frames that make a baseline
FROZEN = 'frozen'  # the name of what needs no baseline: the same frame again and again
_GAP_NS = 5_000_000_000  # after such a pause what was seen before says nothing
_CALM = 2 * WINDOW  # better frames that lower the level
_FROZEN_S = 0.5
_FROZEN_FRAMES = 3
_COMPRESSED = '/compressed'
_STRETCH = 100  # frames that a learner keeps or drops together
_MOST_FRAMES = 4000
# A frame counts for `pattern` that differs from the last counted one by so much of what is usual.
_MOVED = 0.7
_BLIND_MARGIN = 1.0  # of a cell's range
_LEAST_CELL = 0.2  # log of grey levels
_SMALLEST_SHARE = 1e-4
_SHARES = (0.02, 0.05, *np.arange(0.1, 1.0, 0.1).round(1).tolist(), 0.95, 0.98, 0.99, 0.995, 0.999)


class DriftError(CalibrationError):
    """A baseline that cannot be learnt or read; the message says why and what to do."""


class Rule(NamedTuple):
    """Slack below and above (None: that side is no drift), least range, and what a sign may be."""

    below: float | None
    above: float | None
    least: float
    low: str
    high: str


STATISTICS: dict[str, Rule] = {
    'brightness': Rule(5, 5, 4.0, 'darker than on the calibration drive', 'brighter'),
    'texture': Rule(3, 3, 0.05, 'little contrast: fog, dirt, dark', 'unusual contrast or edges'),
    'sharpness': Rule(5, 3, 0.12, 'out of focus', 'fine structure or noise'),
    'grain': Rule(None, 2, 0.05, '', 'noise where the picture is smooth'),
    'red': Rule(4, 4, 0.015, 'too little red', 'too much red'),
    'blue': Rule(4, 4, 0.015, 'too little blue', 'too much blue'),
    'lines': Rule(None, 3, 0.1, '', 'whole rows stand out'),
    'pattern': Rule(None, 3, 0.02, '', 'something stays in place: dirt, drops, dead rows'),
    'blind': Rule(None, 3, 1 / 30, '', 'parts of the picture show nothing'),
    'alarms': Rule(None, 2.5, 0.1, '', 'more alarms than calibrated'),
    'raised': Rule(None, 3, 0.1, '', 'more high scores than calibrated'),
    'scores': Rule(None, 4, 0.003, '', 'scores are distributed differently'),
    'codes': Rule(None, 5, 0.01, '', 'other codevectors are used'),
}
"""brightness, texture, sharpness, grain, red, blue, lines: means over the window (`FrameSigns`).
pattern: share of the energy of the edges that is the same in all counted frames, about 0..1;
blind: share of the cells whose texture lies below their range on the drive; alarms, raised: log10
of the share of the score map above the score that 1/1000, 1/100 of the drive exceeds; scores,
codes: Jensen-Shannon divergence (nats) of raw scores, of codevectors in use, from the drive."""


class Limit(NamedTuple):
    """Median on the calibration drive and where WARN begins; None where that side is no drift."""

    median: float
    low: float | None
    high: float | None

    def excess(self, value: float) -> float:
        """Distance from the median: 1 where WARN begins, 2 where ERROR does; 0 without limit."""
        reach = self.high if value > self.median else self.low
        return 0.0 if reach is None else (value - self.median) / (reach - self.median)

    def level(self, value: float) -> Level:
        """OK within the limits, WARN outside, ERROR at twice their distance from the median."""
        excess = self.excess(value)
        return Level.ERROR if excess > 2 else Level.WARN if excess > 1 else Level.OK


@dataclass(frozen=True, eq=False)
class Reference:
    """What the values of a window are relative to.

    scores: float64 [B], share of the positions of the drive in each bin; codes: float64 [K] or
    None; still: change of the edges below which a frame does not count for `pattern`; cells: float
    CELLS, texture below which a cell is blind.
    """

    scores: np.ndarray
    codes: np.ndarray | None
    still: float
    cells: np.ndarray
    bins: np.ndarray = field(init=False)
    tails: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        """Derive the coarse bins of `scores` and where 1/100 and 1/1000 of the drive begin."""
        below = np.cumsum(self.scores)
        first = [int(np.searchsorted(below, share * (1 - 1e-9))) + 1 for share in _SHARES]
        bins = np.unique([0, *(place for place in first if place < len(self.scores))])
        object.__setattr__(self, 'bins', bins)
        object.__setattr__(self, 'tails', (first[-1], first[-3]))


@dataclass(frozen=True, eq=False)
class Baseline:
    """What a drift monitor knows of a calibration drive.

    frozen_s: longest run of identical frames, s; frames: how many were learnt from.
    """

    reference: Reference
    limits: dict[str, Limit]
    frozen_s: float
    frames: int

    def check(self, bins: int) -> None:
        """Raise DriftError unless its scores are in so many bins, as those of the model are."""
        if (found := len(self.reference.scores)) != bins:
            raise DriftError(
                f'the baseline of the drift monitor has {found} bins of scores where the model has '
                f'{bins}: calibrate the model that is in use'
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe fields, from which from_dict makes the same baseline."""
        reference = self.reference
        return {
            'frames': self.frames,
            'frozen_s': self.frozen_s,
            'still': reference.still,
            'scores': reference.scores.tolist(),
            'codes': None if reference.codes is None else reference.codes.tolist(),
            'cells': reference.cells.tolist(),
            'limits': {name: list(limit) for name, limit in self.limits.items()},
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Baseline:
        """The baseline that to_dict wrote; raises DriftError where something is amiss."""
        try:
            codes = fields['codes']
            reference = Reference(
                scores=_shares(fields['scores']),
                codes=None if codes is None else _shares(codes),
                still=_finite(fields['still']),
                cells=_array(fields['cells'], CELLS),
            )
            limits = {name: _limit(values) for name, values in fields['limits'].items()}
            if unknown := set(limits) - set(STATISTICS):
                raise ValueError(f'unknown statistics {", ".join(sorted(unknown))}')
            return cls(reference, limits, _finite(fields['frozen_s']), int(fields['frames']))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DriftError(
                f'the baseline of the drift monitor makes no sense ({error!r}): calibrate again'
            ) from error


def baseline_for(section: dict[str, Any] | None, topic: str) -> Baseline | None:
    """The baseline of an image topic in the section `drift` of a calibration file.

    That of the topic itself, compressed or not; a calibration of one camera alone holds for every
    camera; else None. Raises DriftError.
    """
    if not section:
        return None
    raw = topic.removesuffix(_COMPRESSED)
    for name in (topic, raw, f'{raw}{_COMPRESSED}'):
        if name in section:
            return Baseline.from_dict(section[name])
    return Baseline.from_dict(next(iter(section.values()))) if len(section) == 1 else None


class Figure(NamedTuple):
    """Value of a statistic over the last frames, and its limits; None where there is none.

    excess: see Limit.excess.
    """

    value: float
    low: float | None
    high: float | None
    level: Level
    excess: float


class DriftState(NamedTuple):
    """What the monitor says of a camera; figures: by statistic, empty where it cannot judge.

    frozen_s: for how long the same frame has been coming; frozen: the same as an excess.
    """

    judgement: Judgement
    figures: dict[str, Figure]
    frozen_s: float = 0.0
    frozen: float = 0.0

    @property
    def excesses(self) -> dict[str, float]:
        """How far each statistic is from what is usual, see Limit.excess; and FROZEN."""
        found = {name: figure.excess for name, figure in self.figures.items()}
        return found | {FROZEN: self.frozen}


class Window:
    """The last frames of a camera, and their values."""

    def __init__(self) -> None:
        """Start empty."""
        self._frames: deque[FrameSigns] = deque(maxlen=WINDOW)
        self._counted: deque[np.ndarray] = deque()
        self._energies: deque[float] = deque()
        self._sum: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of frames, at most WINDOW."""
        return len(self._frames)

    def add(self, signs: FrameSigns, still: float) -> None:
        """Take in a frame; still: see Reference."""
        self._frames.append(signs)
        if self._counted and change(signs.edges, self._counted[-1]) < still:
            return
        edges = signs.edges.astype(np.int16)
        self._sum = edges.copy() if self._sum is None else self._sum + edges
        self._counted.append(signs.edges)
        self._energies.append(float(np.square(edges.ravel(), dtype=np.float32).sum()))
        if len(self._counted) > WINDOW:
            self._sum -= self._counted.popleft()
            self._energies.popleft()

    def cells(self) -> np.ndarray:
        """Mean texture of the cells, float CELLS."""
        return np.asarray(np.mean([signs.cells for signs in self._frames], axis=0))

    def values(self, reference: Reference) -> dict[str, float]:
        """Return the value of each statistic that the frames allow, see STATISTICS."""
        frames = self._frames
        values = {
            name: float(np.mean([signs.picture[name] for signs in frames]))
            for name in frames[0].picture
        }
        if (pattern := self._pattern()) is not None:
            values['pattern'] = pattern
        values['blind'] = float((self.cells() < reference.cells).mean())
        counts = np.sum([signs.scores for signs in frames], axis=0)
        scores = counts / max(counts.sum(), 1)
        for name, first in zip(('alarms', 'raised'), reference.tails, strict=True):
            values[name] = float(np.log10(scores[first:].sum() + _SMALLEST_SHARE))
        values['scores'] = divergence(
            *(np.add.reduceat(s, reference.bins) for s in (scores, reference.scores))
        )
        codes = [signs.codes for signs in frames if signs.codes is not None]
        if reference.codes is not None and len(codes) == len(frames):
            used = np.sum(codes, axis=0) / np.sum(codes)
            values['codes'] = divergence(used, reference.codes)
        return values

    def _pattern(self) -> float | None:
        """Share of the edges' energy that is common to the counted frames, without chance's part.

        With n frames of slopes g: (|sum g|^2 / sum |g|^2 - 1) / (n - 1), 1 where all are equal,
        0 on average where they have nothing in common.
        """
        count, energy = len(self._counted), sum(self._energies)
        if count < FEWEST or self._sum is None:
            return None
        together = float(np.square(self._sum.ravel(), dtype=np.float32).sum())
        return (together / max(energy, 1.0) - 1) / (count - 1)


def change(one: np.ndarray, other: np.ndarray) -> float:
    """How much two maps of edges (int8, same shape) differ: 0 the same, 1 nothing in common."""
    difference = np.abs(one.astype(np.int16) - other).sum(dtype=np.int64)
    both = np.abs(one.astype(np.int16)).sum(dtype=np.int64) + np.abs(other.astype(np.int16)).sum(
        dtype=np.int64
    )
    return float(difference / max(int(both), 1))


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    """Jensen-Shannon divergence of two distributions [K], in nats: 0 equal, log 2 disjoint."""
    middle = (one + other) / 2
    parts = []
    for share in (one, other):
        used = share > 0
        parts.append(float((share[used] * np.log(share[used] / middle[used])).sum()))
    return max(0.0, sum(parts) / 2)


class Learner:
    """Gathers the frames of calibration drives; memory is bounded (about 100 MB)."""

    def __init__(self) -> None:
        """Start without frames."""
        self._stretches: list[list[FrameSigns]] = []
        self._begun = 0
        self._every = 1
        self._current: list[FrameSigns] = []
        self._run = FrozenRun()
        self._frozen_s = 0.0

    def add(self, stamp_ns: int, signs: FrameSigns) -> None:
        """Take in the next frame of a drive; frames that repeat the one before teach nothing."""
        self._run.add(stamp_ns, signs.fingerprint)
        self._frozen_s = max(self._frozen_s, self._run.seconds)
        if self._run.repeats:
            return
        self._current.append(signs)
        if len(self._current) >= _STRETCH:
            self._close()

    def add_drive(self, frames: Iterable[tuple[int, FrameSigns]]) -> None:
        """Take in a whole drive: stamps in ns, and signs, in its order."""
        for stamp_ns, signs in frames:
            self.add(stamp_ns, signs)
        self.end_drive()

    def add_learnt(self, other: Learner) -> None:
        """Take in what another one gathered, as if its drives had come here after the others."""
        self.end_drive()
        other.end_drive()
        for stretch in other._stretches:
            self._current = stretch
            self._close()
        self._frozen_s = max(self._frozen_s, other._frozen_s)

    def end_drive(self) -> None:
        """What comes next does not follow what came before."""
        self._close()
        self._run = FrozenRun()

    def baseline(self) -> Baseline:
        """Learn from all frames so far; raises DriftError where they are too few or all alike."""
        self._close()
        stretches = [stretch for stretch in self._stretches if len(stretch) >= FEWEST]
        frames = list(itertools.chain.from_iterable(stretches))
        different = len({signs.fingerprint for signs in frames})
        if different < FEWEST_LEARNT:
            raise DriftError(
                f'{different} different frames in a row are too few to learn what is usual: '
                f'calibrate on a drive of {FEWEST_LEARNT} or more (better some minutes)'
            )
        reference = _reference(stretches, frames)
        windows = [
            window.values(reference)
            for stretch in stretches
            for window in _windows(stretch, reference.still)
        ]
        limits = {
            name: _learnt(rule, [values[name] for values in windows if name in values])
            for name, rule in STATISTICS.items()
            if any(name in values for values in windows)
        }
        return Baseline(reference, limits, self._frozen_s, len(frames))

    def _close(self) -> None:
        """Keep the stretch that ends here; of long drives only every second, fourth … one."""
        if self._current and self._begun % self._every == 0:
            self._stretches.append(self._current)
        self._begun += bool(self._current)
        self._current = []
        if len(self._stretches) * _STRETCH > _MOST_FRAMES:
            self._stretches = self._stretches[::2]
            self._every *= 2


class FrozenRun:
    """How long the same frame has been coming under new stamps."""

    def __init__(self) -> None:
        """Start without a frame."""
        self._fingerprint: int | None = None
        self._first_ns = 0
        self._last_ns = 0
        self.repeats = 0

    @property
    def seconds(self) -> float:
        """From the first of the identical frames to the last, by their stamps."""
        return (self._last_ns - self._first_ns) / 1e9

    def add(self, stamp_ns: int, fingerprint: int) -> None:
        """Take in a frame; one whose stamp does not advance is no repeat."""
        if fingerprint == self._fingerprint and stamp_ns > self._last_ns:
            self.repeats += 1
        else:
            self._first_ns, self.repeats = stamp_ns, 0
        self._fingerprint, self._last_ns = fingerprint, stamp_ns


class DriftMonitor:
    """Watches one camera; without a baseline only for frozen frames."""

    def __init__(self, baseline: Baseline | None = None) -> None:
        """Start without frames."""
        self.baseline = baseline
        longest = 0.0 if baseline is None else 2 * baseline.frozen_s
        self.frozen_limit_s = max(_FROZEN_S, longest)
        self._window = Window()
        self._run = FrozenRun()
        self._last_ns: int | None = None
        self._hysteresis = Hysteresis(_CALM, self.calm)
        self.state = DriftState(Judgement(Level.OK, self.calm), {})

    @property
    def calm(self) -> str:
        """What is said while nothing is wrong."""
        if self.baseline is None:
            return 'not calibrated: only frozen frames are watched'
        return 'as on the calibration drive'

    def update(self, stamp_ns: int, signs: FrameSigns) -> DriftState:
        """Take in the camera's next frame and return its state.

        stamp_ns: of the header; one that jumps back (a bag starts again) begins anew.
        """
        return self._updated(stamp_ns, signs.fingerprint, signs)

    def update_frozen(self, stamp_ns: int, fingerprint: int) -> DriftState:
        """As `update`, of a frame whose other signs nobody looks at: there is no baseline."""
        return self._updated(stamp_ns, fingerprint, None)

    def _updated(self, stamp_ns: int, fingerprint: int, signs: FrameSigns | None) -> DriftState:
        if self._last_ns is not None and not 0 <= stamp_ns - self._last_ns < _GAP_NS:
            self._window, self._run = Window(), FrozenRun()
            if stamp_ns < self._last_ns:
                self._hysteresis = Hysteresis(_CALM, self.calm)
        self._last_ns = stamp_ns
        self._run.add(stamp_ns, fingerprint)
        figures: dict[str, Figure] = {}
        if self.baseline is not None and signs is not None:
            if not self._run.repeats:
                self._window.add(signs, self.baseline.reference.still)
            if len(self._window) >= FEWEST:
                figures = _figures(self._window, self.baseline)
        judgement = max(self._frozen(), self._judged(figures), key=lambda one: one.level)
        seconds = self._run.seconds
        frozen = seconds / self.frozen_limit_s
        self.state = DriftState(
            self._hysteresis.update(judgement),
            figures,
            seconds,
            frozen if self.is_frozen else min(frozen, 1.0),
        )
        return self.state

    @property
    def is_frozen(self) -> bool:
        """Whether the same frame has been coming for longer than on the calibration drive."""
        return (
            self._run.repeats >= _FROZEN_FRAMES and self._run.seconds >= self.frozen_limit_s - 1e-9
        )

    def _frozen(self) -> Judgement:
        seconds, limit = self._run.seconds, self.frozen_limit_s
        if not self.is_frozen:
            return Judgement(Level.OK, self.calm)
        level = Level.ERROR if seconds >= 2 * limit else Level.WARN
        return Judgement(level, f'the same frame for {seconds:.1f} s, under new stamps')

    def _judged(self, figures: dict[str, Figure]) -> Judgement:
        level = max((figure.level for figure in figures.values()), default=Level.OK)
        if level is Level.OK:
            return Judgement(level, self.calm)
        worst = [_sentence(name, f) for name, f in figures.items() if f.level is not Level.OK]
        return Judgement(level, '; '.join(worst))


def _sentence(name: str, figure: Figure) -> str:
    rule = STATISTICS[name]
    if figure.high is not None and figure.value > figure.high:
        return f'{name} {figure.value:.4g} is above {figure.high:.4g} ({rule.high})'
    return f'{name} {figure.value:.4g} is below {figure.low:.4g} ({rule.low})'


def _figures(window: Window, baseline: Baseline) -> dict[str, Figure]:
    figures = {}
    for name, value in window.values(baseline.reference).items():
        if (limit := baseline.limits.get(name)) is not None:
            excess = limit.excess(value)
            figures[name] = Figure(value, limit.low, limit.high, limit.level(value), excess)
    return figures


def _windows(stretch: Sequence[FrameSigns], still: float) -> Iterable[Window]:
    """The windows of a stretch, one a frame, from the first that is judged on."""
    window = Window()
    for signs in stretch:
        window.add(signs, still)
        if len(window) >= FEWEST:
            yield window


def _reference(stretches: list[list[FrameSigns]], frames: list[FrameSigns]) -> Reference:
    moves = [
        change(one.edges, other.edges)
        for stretch in stretches
        for one, other in itertools.pairwise(stretch)
    ]
    textures = np.array([w.cells() for stretch in stretches for w in _windows(stretch, np.inf)])
    low, high = textures.min(axis=0), textures.max(axis=0)
    scores = np.sum([signs.scores for signs in frames], axis=0)
    codes = [signs.codes for signs in frames if signs.codes is not None]
    return Reference(
        scores=scores / scores.sum(),
        codes=np.sum(codes, axis=0) / np.sum(codes) if len(codes) == len(frames) else None,
        still=_MOVED * float(np.quantile(moves, 0.9)),
        cells=low - _BLIND_MARGIN * np.maximum(high - low, _LEAST_CELL),
    )


def _learnt(rule: Rule, values: Sequence[float]) -> Limit:
    median, low, high = (float(f(values)) for f in (np.median, np.min, np.max))
    return Limit(
        median,
        None if rule.below is None else median - rule.below * max(median - low, rule.least),
        None if rule.above is None else median + rule.above * max(high - median, rule.least),
    )


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not np.isfinite(value) or value < 0:
        raise ValueError(f'{value!r} is no number of 0 or more')
    return float(value)


def _array(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(values, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f'numbers of the shape {list(shape)} are due')
    return array


def _shares(values: Any) -> np.ndarray:
    shares = _array(values, (len(values),))
    if (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise ValueError('shares that sum to 1 are due')
    return shares


def _limit(values: Any) -> Limit:
    median, low, high = values
    finite = all(value is None or np.isfinite(value) for value in values)
    ordered = (low is None or low < median) and (high is None or median < high)
    if not finite or not ordered:
        raise ValueError(f'{values!r} is no limit around a median')
    return Limit(median, low, high)
