import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.detector import Detection
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay import charts, report
from vq_anomaly_ros.replay.frame_results import (
    DroppedFrame,
    FrameResult,
    FrameRow,
    frame_rarity,
)
from vq_anomaly_ros.replay.gallery import Gallery

SECOND = 1_000_000_000


def make_run(model: Path, **changes: object) -> report.Run:
    read = model_file.read(model)
    run = report.Run(
        title='A drive <with> "signs" & more',
        sources=('drive',),
        made_by='Made by a test.',
        model=read,
        calibration=Calibration.from_dict(read.info.calibration or {}),
        target_fpr=1e-3,
        engine='none',
        rate=10.0,
        latency='of nothing',
        video=False,
    )
    return dataclasses.replace(run, **changes)  # type: ignore[arg-type]


def result(stamp_ns: int, peak: float, latency_ms: float | None = 5.0) -> FrameResult:
    """A frame whose score is 0.5 but for a hundredth of its pixels, which have `peak`."""
    score = np.full((10, 20), 0.5, np.float32)
    score[0, :2] = peak
    mask = np.where(score > 0.999, np.uint8(255), np.uint8(0))
    labels = np.repeat(np.arange(4, dtype=np.uint8), 50).reshape(10, 20)
    detection = Detection(labels, score, mask, score, None)
    frame = Frame(np.full((40, 80), 90, np.uint8), 'mono')
    return FrameResult(stamp_ns, 'drive', '/image_raw', frame, detection, latency_ms)


def row(stamp_ns: int, source: str = 'drive') -> FrameRow:
    return FrameRow(stamp_ns, source, '/image_raw', 1.0, 0.0, None, None)


@pytest.mark.parametrize(
    ('peak', 'decades'), [(0.0, 0.0), (0.9, 1.0), (0.99, 2.0), (0.999, 3.0), (1.0, 5.0)]
)
def test_rarity_counts_decades(peak: float, decades: float) -> None:
    score = np.zeros((10, 20), np.float32)
    score[3, 4:6] = peak
    assert frame_rarity(score) == pytest.approx(decades, abs=1e-3)


def test_rarity_of_a_frame_like_the_calibration_is_what_the_page_says() -> None:
    uniform = np.linspace(0, 1, 100_000, dtype=np.float32).reshape(250, 400)
    assert frame_rarity(uniform) == pytest.approx(2.4, abs=0.05)


@given(npst.arrays(np.float32, (7, 9), elements=st.floats(0, 1, width=32)))
def test_rarity_stays_within_its_range(score: np.ndarray) -> None:
    assert 0.0 <= frame_rarity(score) <= 5.0


def test_results_of_any_origin_become_a_report(tmp_path: Path, tiny_model: Path) -> None:
    def results() -> Iterator[FrameResult | DroppedFrame]:
        yield result(SECOND, 0.5)
        yield DroppedFrame(2 * SECOND, 'drive', '/image_raw', 'superseded')
        yield result(3 * SECOND, 0.9999, latency_ms=None)

    summary = report.write_report(results(), tmp_path, make_run(tiny_model))
    assert summary == json.loads((tmp_path / 'summary.json').read_text())
    assert (summary['frames'], summary['frames_dropped']) == (3, 1)
    assert summary['anomaly_fraction'] == pytest.approx(0.5 * 2 / 200)
    assert summary['latency_ms'] == {'p50': 5.0, 'p95': 5.0, 'p99': 5.0}
    assert summary['class_shares'] == {'road': 0.25, 'tree': 0.25, 'car': 0.25, 'person': 0.25}
    page = (tmp_path / 'report.html').read_text()
    assert 'A drive &lt;with&gt; &#34;signs&#34; &amp; more' in page
    assert 'superseded' in page
    assert re.findall(r'id="frame-\d+"', page) == ['id="frame-1"', 'id="frame-2"']


def test_one_frame_without_latency_and_classes_is_enough(tmp_path: Path, tiny_model: Path) -> None:
    lone = result(SECOND, 0.5, latency_ms=None)
    detection = dataclasses.replace(lone.detection, labels=None)
    lone = dataclasses.replace(lone, detection=detection)
    report.write_report([lone], tmp_path, make_run(tiny_model))
    page = (tmp_path / 'report.html').read_text()
    assert 'Latency' not in page
    assert not re.search(r'\bnan\b', re.sub(r'base64,[^"]*', '', page), re.IGNORECASE)


def test_nothing_to_report_is_an_error(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match='nothing to report'):
        report.write_report([], tmp_path, make_run(tiny_model))


def test_the_gallery_shows_the_highest_scores_once_a_moment(tiny_model: Path) -> None:
    gallery = Gallery(model_file.read(tiny_model).info, pictures=3)
    peaks = np.r_[np.linspace(0.5, 0.6, 40), 0.9999, np.linspace(0.7, 0.8, 40)]
    for index, peak in enumerate(peaks):
        one = result(index * SECOND // 10, float(peak))
        rarity = frame_rarity(one.detection.score)
        gallery.offer(dataclasses.replace(row(one.stamp_ns), rarity=rarity), one, one.frame.bgr())
    chosen = gallery.chosen()
    stamps = [picture.row.stamp_ns for picture in chosen]
    assert stamps[:2] == [4 * SECOND, 8 * SECOND]
    assert np.diff(sorted(stamps)).min() >= SECOND // 2
    assert all(set(p.views) == {'overlay', 'camera', 'score', 'classes'} for p in chosen)


def test_time_goes_on_over_bags_and_jumps() -> None:
    stamps = [0, 1, 2, 50, 51, 10, 11]
    sources = ['a', 'a', 'a', 'b', 'b', 'b', 'b']
    rows = [row(s * SECOND, source) for s, source in zip(stamps, sources, strict=True)]
    assert report.drive_times(rows).tolist() == [0, 1, 2, 3, 4, 5, 6]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(1, 8))
def test_ticks_are_few_round_and_inside(low: float, span: float, most: int) -> None:
    found = charts.ticks(low, low + span, most)
    assert len(found) <= most + 1
    assert all(-1e-3 <= tick.at <= 100 + 1e-3 for tick in found)
    assert [tick.at for tick in found] == sorted(tick.at for tick in found)


@given(st.integers(1, 5000), st.integers(0, 2**31))
def test_a_long_drive_keeps_its_peak(length: int, seed: int) -> None:
    values = np.random.default_rng(seed).random(length)
    chart = charts.line_chart('t', np.arange(length) / 10, values, top=1.0)
    heights = [float(y) for y in re.findall(r',([\d.]+)', chart.shapes[1].path)]
    assert len(heights) <= 801
    assert min(heights) == pytest.approx(100 - 100 * values.max(), abs=0.006)


def test_stacked_shares_end_at_the_sum() -> None:
    shares = np.array([[0.25, 0.75], [0.5, 0.5]])
    chart = charts.share_chart('t', np.array([0.0, 1.0]), shares, 'ab', [(1, 2, 3), (4, 5, 6)])
    assert chart.shapes[0].path == 'M0.00,75.00L100.00,50.00L100.00,100.00L0.00,100.00Z'
    assert chart.shapes[1].path == 'M0.00,0.00L100.00,0.00L100.00,50.00L0.00,75.00Z'
    assert chart.shapes[1].colour == 'rgb(4,5,6)'


def test_the_histogram_says_what_it_does_not_show() -> None:
    values = np.r_[np.full(99, 10.0), 900.0]
    chart = charts.histogram('t', values, [(10.0, 'p50'), (11.0, 'p99')])
    assert '1 of 100 frames took longer' in chart.summary


def test_labels_that_are_missing_break_the_line_of_reference() -> None:
    times, values = np.arange(5.0), np.zeros(5)
    labelled = np.array([0.5, 0.5, np.nan, 1.0, 1.0])
    chart = charts.line_chart('t', times, values, top=1.0, reference=(labelled, 'labelled'))
    (line,) = [shape for shape in chart.shapes if shape.style == 'reference']
    assert line.path == 'M0.00,50.00L25.00,50.00M75.00,0.00L100.00,0.00'
