"""Two runs beside each other: the numbers of their summaries, their settings, their frames."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vq_anomaly_ros.replay.conditions import numbers
from vq_anomaly_ros.replay.frame_results import FrameRow
from vq_anomaly_ros.replay.frame_series import FRAMES, FramesError, read_frames

# What is told first, in this order; the rest is folded away.
_FIRST = (
    'frames', 'frames_dropped', 'anomaly_fraction', 'obstacles', 'rarity.p50', 'rarity.p95',
    'rarity.max', 'drift.warn_frames', 'drift.error_frames', 'latency_ms.p50', 'latency_ms.p99',
    'metrics.ap', 'metrics.fpr95', 'metrics.auroc', 'metrics.miou',
)  # fmt: skip
_SETTINGS = ('sources', 'model', 'calibration', 'engine', 'target_fpr', 'settings', 'version')
_MOST_CHANGED = 5


class ComparisonError(ValueError):
    """Another run cannot be compared with; the message names the file, cause and remedy."""


@dataclass(frozen=True)
class Number:
    """A number of both summaries."""

    name: str
    here: float
    there: float

    @property
    def difference(self) -> float:
        """Here less there."""
        return self.here - self.there


@dataclass(frozen=True)
class Changed:
    """A frame that both runs have: place among the rows here, rarity here and there."""

    place: int
    here: float
    there: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Another run beside this one.

    name: of the other; first, others: numbers that both have; settings: (name, here, there), those
    that differ; rarity: of the other, float64 [rows here], NaN where it has no such frame; None
    where its frames are not known; changed: the frames whose rarity differs most.
    """

    name: str
    first: tuple[Number, ...]
    others: tuple[Number, ...]
    settings: tuple[tuple[str, str, str], ...]
    rarity: np.ndarray | None
    changed: tuple[Changed, ...]


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of another run, a summary.json or its folder; raises ComparisonError."""
    path = path / 'summary.json' if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        cause = error.strerror or error
        raise ComparisonError(
            f'{path}: cannot be read ({cause}); give the summary.json of an earlier run'
        ) from error
    except (ValueError, RecursionError) as error:
        raise ComparisonError(
            f'{path}: is no JSON ({error}); give the summary.json of an earlier run'
        ) from error
    if not isinstance(content, dict) or 'anomaly_fraction' not in content:
        raise ComparisonError(
            f'{path}: is no summary of evaluate_bag; give the summary.json of an earlier run'
        )
    return content


def compare(summary: Mapping[str, Any], rows: Sequence[FrameRow], other: Path) -> Comparison:
    """Compare a run with another.

    Args:
        summary: of this run.
        rows: of this run.
        other: summary.json of the other, or the folder that holds it; its frames.json is used
            where it lies beside.

    Raises:
        ComparisonError: `other` cannot be read.
    """
    theirs = read_summary(other)
    here, there = numbers(summary), numbers(theirs)
    both = [
        Number(name, float(value), float(found))
        for name, value in here.items()
        if value is not None and (found := there.get(name)) is not None
    ]
    known = {number.name: number for number in both}
    rarity = _rarity_of(other, rows)
    return Comparison(
        name=other.name if other.is_dir() else f'{other.parent.name}/{other.name}',
        first=tuple(known[name] for name in _FIRST if name in known),
        others=tuple(number for number in both if number.name not in _FIRST),
        settings=tuple(_settings(summary, theirs)),
        rarity=rarity,
        changed=() if rarity is None else _changed(rows, rarity),
    )


def _settings(summary: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    pairs = [(name, _texts(summary.get(name)), _texts(theirs.get(name))) for name in _SETTINGS]
    return [
        (f'{name} {key}'.strip(), here.get(key, '–'), there.get(key, '–'))
        for name, here, there in pairs
        for key in {**here, **there}
        if here.get(key) != there.get(key)
    ]


def _texts(value: Any) -> dict[str, str]:
    """A setting as {part: text}; one without parts is its own, under ''."""
    if isinstance(value, Mapping):
        return {key: str(one) for key, one in value.items()}
    return {'': ', '.join(map(str, value)) if isinstance(value, list) else str(value)}


def _rarity_of(other: Path, rows: Sequence[FrameRow]) -> np.ndarray | None:
    """The other run's rarity of the frames here; None where it has none of them."""
    path = (other if other.is_dir() else other.parent) / FRAMES
    if not path.exists():
        return None
    try:
        others = read_frames(path)
    except FramesError as error:
        raise ComparisonError(str(error)) from error
    # A drive that was made faulty, or recorded again, has another name and the same stamps.
    same = {row.source for row in rows} == {row.source for row in others}
    theirs = {_key(row, same): row.rarity for row in others}
    found = np.array([theirs.get(_key(row, same), np.nan) for row in rows], np.float64)
    return found if np.isfinite(found).any() else None


def _key(row: FrameRow, with_source: bool) -> tuple[str, str, int]:
    return row.source if with_source else '', row.topic, row.stamp_ns


def _changed(rows: Sequence[FrameRow], rarity: np.ndarray) -> tuple[Changed, ...]:
    here = np.array([row.rarity for row in rows])
    size = np.nan_to_num(np.abs(here - rarity), nan=0.0)
    order = np.argsort(-size, kind='stable')[:_MOST_CHANGED]
    return tuple(Changed(int(i), float(here[i]), float(rarity[i])) for i in order if size[i] > 1e-6)
