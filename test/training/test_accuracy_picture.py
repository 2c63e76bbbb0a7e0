"""The picture of accuracy against time: what it names, what it leaves out, how it is coloured."""

from __future__ import annotations

import re

import cv2
import pytest

from training.accuracy_picture import draw
from vq_anomaly_ros.replay.files import OutputError


def row(model, data, protocol, metrics, ratio=1.3, interval=None):
    timing = {'ms': 40 * (ratio or 0), 'time_over_trunk': ratio}
    return {
        'model': model,
        'data': data,
        'protocol': protocol,
        'metrics': metrics,
        'interval': interval or {},
        'provenance': {} if ratio is None else {'timing': timing},
    }


ROWS = [
    row('street', 'road_anomaly21', 'smiyc', {'ap': 0.702}, 1.3, {'ap': [0.63, 0.81]}),
    row('street', 'camvid/test', 'segmentation', {'miou': 0.618}, 1.3),
    row('small', 'road_anomaly21', 'smiyc', {'ap': 0.698}, 0.6, {'ap': [0.6, 0.8]}),
    row('small', 'camvid/test', 'segmentation', {'miou': 0.561}, 0.6),
]


def texts(path) -> list[str]:
    """What is written in an SVG."""
    return re.findall(r'<text[^>]*>([^<]*)</text>', path.read_text())


def test_every_point_is_named_in_the_panel_of_its_set(tmp_path):
    draw(ROWS, tmp_path / 'front.svg')
    found = texts(tmp_path / 'front.svg')
    assert [text for text in found if '(' in text and 'better' not in text] == [
        'road_anomaly21 (smiyc)',
        'camvid/test (segmentation)',
    ]
    assert found.count('street') == found.count('small') == 2
    assert '70.2 · 52 ms' in found
    assert '56.1 · 24 ms' in found
    assert any(text.startswith('AP, %') for text in found)
    assert any(text.startswith('mIoU, %') for text in found)


def test_models_differ_in_shape_and_not_in_colour_alone(tmp_path):
    draw(ROWS, tmp_path / 'front.svg')
    markers = re.findall(
        r'<defs>\s*<path id="(m[^"]+)" d="([^"]+)"', (tmp_path / 'front.svg').read_text()
    )
    large = {shape for _, shape in markers if shape.count('\n') > 2}
    assert len(large) >= 2


def test_the_sheet_is_light_and_opaque_whatever_lies_behind(tmp_path):
    draw(ROWS, tmp_path / 'front.png')
    pixels = cv2.imread(str(tmp_path / 'front.png'), cv2.IMREAD_UNCHANGED)
    if pixels.shape[2] == 4:
        assert (pixels[..., 3] == 255).all()
    assert pixels[0, 0, :3].min() > 240
    assert pixels[..., :3].min() < 60


def test_rows_without_figure_or_time_are_left_out(tmp_path):
    rows = [
        row('street', 'roads', 'pooled', {'ap': 0.5}),
        row('untimed', 'roads', 'pooled', {'ap': 0.4}, ratio=None),
        row('street', 'calm', 'pooled', {}),
    ]
    draw(rows, tmp_path / 'front.svg')
    found = texts(tmp_path / 'front.svg')
    assert 'untimed' not in found
    assert 'nothing to show' in found


def test_equal_points_keep_labels_apart(tmp_path):
    rows = [row(f'model {i}', 'roads', 'pooled', {'ap': 0.5}) for i in range(4)]
    draw(rows, tmp_path / 'front.svg')
    content = (tmp_path / 'front.svg').read_text()
    heights = [
        float(y) for y in re.findall(r'translate\([-\d.]+ ([-\d.]+)\)[^>]*>model \d', content)
    ]
    assert len(heights) == 4
    gaps = [b - a for a, b in zip(sorted(heights), sorted(heights)[1:], strict=False)]
    assert min(gaps) > 16  # two lines of 8 points


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OutputError, match='cannot be written'):
        draw(ROWS, tmp_path / 'file' / 'front.png')
