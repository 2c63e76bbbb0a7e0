"""From the results of a drive's frames to summary, frames.json, report.html and overlay.webm.

Whatever made the results: evaluate_bag feeds what it computes, the demo what the node published.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from vq_anomaly_ros.detection import overlay
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.calibration_file import CalibrationFile
from vq_anomaly_ros.detection.explanation import Explainer
from vq_anomaly_ros.detection.model_file import ModelFile
from vq_anomaly_ros.replay import charts
from vq_anomaly_ros.replay.bags import NANOSECONDS
from vq_anomaly_ros.replay.comparison import Comparison, compare
from vq_anomaly_ros.replay.conditions import Condition
from vq_anomaly_ros.replay.drive_record import RECORD, DriveRecord
from vq_anomaly_ros.replay.event_log import LoggedEvent, logged
from vq_anomaly_ros.replay.frame_results import (
    MOST_RARE,
    DriveStatistics,
    DroppedFrame,
    FrameResult,
    FrameRow,
)
from vq_anomaly_ros.replay.frame_series import FRAMES, write_frames
from vq_anomaly_ros.replay.gallery import Gallery, choose
from vq_anomaly_ros.replay.report_charts import (
    drift_charts,
    frame_score_chart,
    rate_chart,
    rate_rows,
)
from vq_anomaly_ros.replay.video import VideoWriter

SUMMARY = 'summary.json'
REPORT = 'report.html'
VIDEO = 'overlay.webm'


@dataclass(frozen=True)
class BagLine:
    """A bag of a report over many: name, link to its own report, its summary, or why it failed."""

    name: str
    link: str = ''
    summary: dict[str, Any] | None = None
    error: str = ''


@dataclass(frozen=True)
class Run:
    """What a report says of how its results were made.

    sources: names of the bags; made_by: a sentence; engine: runtime, device, precision; rate:
    frames a second, for the video; latency: what FrameResult.latency_ms measures; judged_score: see
    DriveStatistics; labelled: whether frames come with labels; settings: name -> value, all that a
    person would have to repeat; counts, latency_ms: what the node says of itself, the latter in
    place of the frames' own latencies; keep_record: whether record/ is written, from which a report
    over several drives can be made; calibration_file: that of the calibration, if it came from one;
    explainer: of the pixels that score highest; compare: summary of another run, or its folder;
    bags: those of a report over many, failed ones too.
    """

    title: str
    sources: tuple[str, ...]
    made_by: str
    model: ModelFile
    calibration: Calibration
    target_fpr: float
    engine: str
    rate: float
    latency: str
    judged_score: str = 'raw'
    labelled: bool = False
    video: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    latency_ms: dict[str, float | None] | None = None
    conditions: tuple[Condition, ...] = ()
    keep_record: bool = False
    calibration_file: CalibrationFile | None = None
    explainer: Explainer | None = None
    compare: Path | None = None
    bags: tuple[BagLine, ...] = ()


def write_report(
    results: Iterable[FrameResult | DroppedFrame], folder: Path, run: Run
) -> dict[str, Any]:
    """Take in all results; write summary.json, frames.json, report.html, overlay.webm to `folder`.

    Args:
        results: in the order of the drive; taken in one pass, no frame is kept.
        folder: an existing folder, best a temporary one (see files.staged).
        run: how the results were made.

    Returns:
        The summary.

    Raises:
        LabelError, VideoError, ConditionError: see there.
    """
    return write_record(_collected(results, folder, run), folder, run)


def _collected(
    results: Iterable[FrameResult | DroppedFrame], folder: Path, run: Run
) -> DriveRecord:
    """Take in all results; the video is written on the way."""
    record = new_record(run)
    gallery = Gallery(run.model.info, explainer=run.explainer)
    with ExitStack() as stack:
        video = stack.enter_context(VideoWriter(folder / VIDEO, run.rate)) if run.video else None
        for result in results:
            if isinstance(result, DroppedFrame):
                record.statistics.drop(result)
                continue
            row = record.statistics.add(result)
            painted = overlay.overlay(result.frame, result.detection, run.model.info)
            gallery.offer(row, result, painted)
            record.events += logged(result, painted, len(record.events))
            if video is not None:
                video.write(painted)
    record.pictures = gallery.chosen()
    return record


def new_record(run: Run) -> DriveRecord:
    """Return an empty record for the results of a run."""
    return DriveRecord(DriveStatistics(run.model.info.classes, run.judged_score, run.labelled))


def write_record(record: DriveRecord, folder: Path, run: Run) -> dict[str, Any]:
    """Write summary.json, frames.json and report.html into `folder`; return the summary.

    Raises:
        ConditionError: see there.
    """
    summary = summarise(record.statistics, run)
    summary['events'] = [event.to_dict() for event in record.events]
    verdicts = [(condition, condition.met(summary)) for condition in run.conditions]
    summary['failed'] = [str(condition) for condition, met in verdicts if met]
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + '\n')
    write_frames(record.statistics.rows, folder / FRAMES)
    page = render(record, summary, run, verdicts)
    (folder / REPORT).write_text(page, encoding='utf-8')
    if run.keep_record:
        record.save(folder / RECORD)
    return summary


def summarise(statistics: DriveStatistics, run: Run) -> dict[str, Any]:
    """Return the content of summary.json, its verdicts apart."""
    info, calibration = run.model.info, run.calibration
    return {
        **statistics.summary(),
        **({'latency_ms': run.latency_ms} if run.latency_ms is not None else {}),
        'sources': list(run.sources),
        'made_by': run.made_by,
        'model': {
            'name': info.name,
            'method': info.method,
            'sha256': run.model.sha256,
            'weights_sha256': info.weights_sha256,
            'commit': info.commit,
        },
        'calibration': {
            'source': calibration.source,
            'date': calibration.date,
            'pixels': calibration.pixels,
            'sha256': calibration.sha256,
        },
        'engine': run.engine,
        'target_fpr': run.target_fpr,
        'settings': run.settings,
        **({'counts': run.counts} if run.counts else {}),
        **(_bags(run.bags) if run.bags else {}),
        'version': package_version(),
        'created': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    }


def _bags(lines: Sequence[BagLine]) -> dict[str, Any]:
    """What the summary over many bags says of them."""
    failed = [{'name': line.name, 'error': line.error} for line in lines if line.error]
    return {
        'bags': {'evaluated': len(lines) - len(failed), 'failed': len(failed)},
        'failed_bags': failed,
    }


def render(
    record: DriveRecord,
    summary: dict[str, Any],
    run: Run,
    verdicts: Sequence[tuple[Condition, bool]] = (),
) -> str:
    """Return report.html: one self-contained page, light and dark.

    Raises:
        ValueError: there are no rows.
    """
    rows, pictures = record.statistics.rows, choose(record.pictures)
    if not rows:
        raise ValueError('no frame has a result, so there is nothing to report')
    times = drive_times(rows)
    comparison = None if run.compare is None else compare(summary, rows, run.compare)
    rates = rate_rows(record.statistics, run.calibration_file)
    when = {(row.source, row.topic, row.stamp_ns): t for row, t in zip(rows, times, strict=True)}
    span = float(times[-1] - times[0]) or 1.0
    gallery = [
        {
            'number': number,
            'picture': picture,
            'time': when[picture.row.source, picture.row.topic, picture.row.stamp_ns],
        }
        for number, picture in enumerate(pictures, 1)
    ]
    marks = [{'number': item['number'], 'at': item['time'] / span * 100} for item in gallery]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name('templates')),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template('report.html.j2').render(
        run=run,
        summary=summary,
        verdicts=verdicts,
        gallery=gallery,
        marks=marks,
        views=list(dict.fromkeys(name for picture in pictures for name in picture.views)),
        score_charts=_score_charts(rows, times, run, comparison),
        comparison=comparison,
        changed=[] if comparison is None else _changed(comparison, rows, times),
        events=_events(record.events, when, float(times[-1] - times[0]) or 1.0),
        rates=rates,
        rate_chart=rate_chart(rates),
        drift_charts=drift_charts(rows, times),
        counted=summary['region']['share'] is not None or any(row.alone for row in rows),
        share_chart=_share_chart(rows, times, run),
        latency_chart=_latency_chart(rows, summary, run),
        most_rare=MOST_RARE,
        video=VIDEO if run.video else None,
    )


def package_version() -> str:
    """Return the version of the installed package, or that it is none."""
    try:
        return importlib.metadata.version('vq_anomaly_ros')
    except importlib.metadata.PackageNotFoundError:
        return 'source checkout'


def drive_times(rows: Sequence[FrameRow]) -> np.ndarray:
    """Return seconds since the first frame, float64 [n], ascending.

    The pause between two bags, and a clock that jumps back, count as one frame at the usual rate.
    """
    stamps = np.array([row.stamp_ns for row in rows], np.int64)
    steps = np.diff(stamps) / NANOSECONDS
    same = np.array([a.source == b.source for a, b in itertools.pairwise(rows)], bool)
    steady = same & (steps > 0)
    usual = float(np.median(steps[steady])) if steady.any() else 0.1
    return np.r_[0.0, np.cumsum(np.where(steady, steps, usual))]


def _events(
    events: Sequence[LoggedEvent], when: dict[tuple[str, str, int], float], span: float
) -> list[dict[str, Any]]:
    """The events with their number, time, s, and place on the timeline, per cent."""
    found = []
    for number, one in enumerate(events, 1):
        time = when.get((one.source, one.topic, one.event.stamp_ns), 0.0)
        found.append({'number': number, 'logged': one, 'time': time, 'at': time / span * 100})
    return found


def _changed(
    comparison: Comparison, rows: Sequence[FrameRow], times: np.ndarray
) -> list[dict[str, Any]]:
    """The frames that changed most, with their time, s, and their stamp."""
    return [
        {'time': times[one.place], 'stamp_ns': rows[one.place].stamp_ns, 'frame': one}
        for one in comparison.changed
    ]


def _score_charts(
    rows: Sequence[FrameRow], times: np.ndarray, run: Run, comparison: Comparison | None
) -> Iterator[charts.Chart]:
    other = None
    if comparison is not None and comparison.rarity is not None:
        other = comparison.rarity, f'the other run, {comparison.name}'
    level = -np.log10(run.target_fpr)
    yield charts.line_chart(
        'Rarity of the most anomalous hundredth of the pixels',
        times,
        np.array([row.rarity for row in rows]),
        top=MOST_RARE,
        level=(float(level), f'mask threshold: 1 normal pixel in {1 / run.target_fpr:,.0f}'),
        reference=other,
    )
    of_frames = frame_score_chart(rows, times)
    if of_frames is not None:
        yield of_frames
    fractions = 100 * np.array([row.anomaly_fraction for row in rows])
    labelled = 100 * np.array([row.labelled_fraction for row in rows], np.float64)
    highest = max(float(fractions.max()), float(np.nanmax(labelled, initial=0.0)))
    yield charts.line_chart(
        'Share of the pixels in the anomaly mask',
        times,
        fractions,
        top=max(highest * 1.08, 300 * run.target_fpr),
        level=(100 * run.target_fpr, f'expected of normal frames: {100 * run.target_fpr:.2f} %'),
        reference=(labelled, 'labelled as unknown objects') if run.labelled else None,
        unit=' %',
    )


def _share_chart(rows: Sequence[FrameRow], times: np.ndarray, run: Run) -> charts.Chart | None:
    shares = [row.class_shares for row in rows]
    if any(share is None for share in shares):
        return None
    info = run.model.info
    return charts.share_chart(
        'Share of the classes', times, np.array(shares), info.classes, info.palette
    )


def _latency_chart(
    rows: Sequence[FrameRow], summary: dict[str, Any], run: Run
) -> charts.Chart | None:
    values = np.array([row.latency_ms for row in rows if row.latency_ms is not None])
    if not len(values):
        return None
    marks = [(summary['latency_ms'][name], name) for name in ('p50', 'p95', 'p99')]
    return charts.histogram(f'Time {run.latency}', values, marks)
