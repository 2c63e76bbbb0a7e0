"""Explanations against features and codevectors that are computed another way."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from vq_anomaly_ros.detection import codevectors, model_file
from vq_anomaly_ros.detection.atlas import Atlas, AtlasError, atlas_for, write_atlas
from vq_anomaly_ros.detection.calibration import CalibrationError
from vq_anomaly_ros.detection.codevectors import FeatureSession, feature_graph
from vq_anomaly_ros.detection.detector import Detection, Detector, DetectorConfig
from vq_anomaly_ros.detection.explanation import Explainer, ExplanationError, worst_pixel
from vq_anomaly_ros.detection.explanation_picture import explanation_picture
from vq_anomaly_ros.detection.model_file import ModelFileError
from vq_anomaly_ros.detection.obstacles import Obstacle
from vq_anomaly_ros.detection.spreads import (
    SHARES,
    Spread,
    SpreadCounts,
    distance_of,
    nearest_of_class,
)
from vq_anomaly_ros.images import Frame

Seen = tuple[Frame, Detection]


@pytest.fixture(scope='module')
def seen(tiny_model: Path, picture: Callable[..., np.ndarray]) -> Seen:
    frame = Frame(picture(5, 90, 161), 'bgr')
    with Detector(DetectorConfig(tiny_model, threads=1, with_codes=True)) as detector:
        return frame, detector.detect([frame])[0]


@pytest.fixture(scope='module')
def explainer(tiny_model: Path) -> Explainer:
    return explainer_of(tiny_model)


def explainer_of(path: Path, **options: Any) -> Explainer:
    with Detector(DetectorConfig(path, threads=1)) as detector:
        return Explainer(detector.model, detector.calibration, **options)


@pytest.mark.parametrize('backend', ['openvino', 'onnxruntime'])
def test_cosines_are_those_of_the_graph(
    tiny_model: Path,
    seen: Seen,
    tiny_graph: Callable[..., onnx.ModelProto],
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
) -> None:
    monkeypatch.setattr(codevectors, 'CPU_BACKENDS', (backend,))
    frame, detection = seen
    cosines = FeatureSession(model_file.read(tiny_model), 1).cosines(frame)
    graph = tiny_graph()
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info('cosine'))
    image = codevectors.network_input(frame, (64, 128))[None]
    (expected,) = ReferenceEvaluator(graph).run(['cosine'], {'image': image})
    np.testing.assert_allclose(cosines, expected[0], atol=1e-4)
    np.testing.assert_array_equal(cosines.argmax(0), detection.codes)


def test_codevectors_come_in_the_order_of_the_codes_whatever_the_channels_are(
    tiny_model: Path, tiny_graph: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    """The same model with its channels by number first and by class second."""
    graph = tiny_graph()
    order = np.arange(12).reshape(4, 3).T.ravel()
    for tensor in graph.graph.initializer:
        if tensor.name == 'codebook':
            mixed = onnx.numpy_helper.to_array(tensor)[order]
            tensor.CopyFrom(onnx.numpy_helper.from_array(mixed, 'codebook'))
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = 'ordered' if name == 'cosine' else name
    at = next(i for i, node in enumerate(graph.graph.node) if 'cosine' in node.output) + 1
    back = onnx.numpy_helper.from_array(np.argsort(order), 'back')
    graph.graph.initializer.append(back)
    gather = onnx.helper.make_node('Gather', ['cosine', 'back'], ['ordered'], axis=1)
    graph.graph.node.insert(at, gather)
    info = model_file.read(tiny_model).info
    mixed_model = model_file.write(graph, info, tmp_path / 'mixed.onnx')
    plain = feature_graph(model_file.read(tiny_model))
    np.testing.assert_array_equal(feature_graph(mixed_model).codevectors, plain.codevectors)


def test_the_nearest_codevectors_of_the_asked_pixel(explainer: Explainer, seen: Seen) -> None:
    frame, detection = seen
    told = explainer.explain(frame, detection, (160.0, 89.0))
    assert told.position == (15, 31)
    assert detection.codes is not None and detection.labels is not None
    assert told.codevectors[0].index == detection.codes[15, 31]
    cosines = [one.cosine for one in told.codevectors]
    assert cosines == sorted(cosines, reverse=True) and len(cosines) == 5
    assert told.looks_like == explainer.model.info.classes[detection.labels[89, 160]]
    assert told.raw_score == detection.raw_score[15, 31] == pytest.approx(-cosines[0], abs=1e-4)
    for one in told.codevectors:
        assert one.distance == pytest.approx(np.sqrt(2 - 2 * one.cosine), abs=1e-6)
        assert explainer.model.info.classes[one.index // 3] == one.class_name
    assert (told.spread_of, told.patches_of, told.obstacle) == ('this frame', None, None)
    assert json.loads(json.dumps(told.to_dict()))['codevectors'][0]['class_name'] in told.sentence


def test_distances_come_in_the_units_of_the_calibration(tiny_model: Path, seen: Seen) -> None:
    quantiles = np.linspace(0.1, 0.6, len(SHARES))
    spreads = {name: Spread(quantiles, 999).to_dict() for name in ('road', 'tree', 'car')}

    @dataclasses.dataclass
    class File:
        spreads: dict[str, Any]
        classes: dict[str, Any] = dataclasses.field(default_factory=dict)

    told = explainer_of(tiny_model, file=File(spreads)).explain(*seen, (3.0, 4.0))
    assert told.spread_of == 'calibration'
    for one in told.codevectors:
        if one.class_name == 'person':
            assert (one.spreads, one.farther) == (None, None)
            continue
        assert one.spreads == pytest.approx(one.distance / quantiles[SHARES.index(0.5)])
        assert one.farther == pytest.approx(np.interp(one.distance, quantiles, SHARES, left=0))


def test_the_obstacle_of_the_pixel_is_told(explainer: Explainer, seen: Seen) -> None:
    frame, detection = seen
    large = Obstacle((0.0, 0.0, 100.0, 80.0), 0.5, 0.9, 0.99)
    small = Obstacle((10.0, 20.0, 5.0, 5.0), 0.01, 0.9, 0.999)
    detection = dataclasses.replace(detection, obstacles=(large, small))
    at = {point: explainer.explain(frame, detection, point).obstacle for point in _POINTS}
    assert list(at.values()) == [small, large, None]


_POINTS = ((12.0, 22.0), (50.0, 50.0), (120.0, 50.0))


@pytest.mark.parametrize('point', [(161.0, 0.0), (-1.0, 0.0), (0.0, 90.0), (float('nan'), 1.0)])
def test_a_pixel_outside_is_refused(
    explainer: Explainer, seen: Seen, point: tuple[float, float]
) -> None:
    with pytest.raises(ExplanationError, match='outside of the picture of 161x90'):
        explainer.explain(*seen, point)


def test_a_model_without_codevectors_answers_with_what_it_has(
    make_tiny_model: Callable[..., Path], tmp_path: Path, seen: Seen
) -> None:
    path = make_tiny_model(tmp_path / 'cpc.onnx', method='cpc', codevectors_per_class=0)
    told = explainer_of(path).explain(*seen, (3.0, 4.0))
    assert told.codevectors == () and 'cpc has no codevectors' in told.note
    assert 0 < told.score < 1 and told.looks_like is not None


def test_no_runtime_is_told_once_and_answered_all_the_same(
    tiny_model: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codevectors, 'CPU_BACKENDS', ('abacus',))
    told = explainer_of(tiny_model).explain(*seen, (3.0, 4.0))
    assert 'abacus is not installed' in told.note and told.codevectors == ()


def test_a_graph_without_a_codebook_is_refused(
    tiny_graph: Callable[..., onnx.ModelProto], tiny_model: Path, tmp_path: Path
) -> None:
    graph = tiny_graph()
    node = next(n for n in graph.graph.node if n.output[0] == 'code_id')
    node.input[0] = 'doubled'
    at = list(graph.graph.node).index(node)
    halves = onnx.helper.make_node('Concat', ['class_scores'] * 3, ['doubled'], axis=1)
    graph.graph.node.insert(at, halves)
    info = model_file.read(tiny_model).info
    with pytest.raises(ModelFileError, match='codes of the graph are not one a codevector'):
        feature_graph(model_file.write(graph, info, tmp_path / 'no.onnx'))


def test_the_worst_pixel_is_the_middle_of_its_position(explainer: Explainer, seen: Seen) -> None:
    frame, detection = seen
    told = explainer.explain(frame, detection, worst_pixel(detection, frame.size))
    assert told.raw_score == detection.raw_score.max()
    assert told.position == np.unravel_index(detection.raw_score.argmax(), (16, 32))


@pytest.mark.parametrize('order', ['bgr', 'rgb', 'mono'])
@pytest.mark.parametrize('with_atlas', [False, True])
def test_the_picture_shows_a_row_a_codevector(
    explainer: Explainer, seen: Seen, tiny_atlas: Atlas, order: Any, with_atlas: bool
) -> None:
    frame, detection = seen
    atlas = tiny_atlas if with_atlas else None
    shown = Frame(frame.pixels[..., 0] if order == 'mono' else frame.pixels, order)
    told = explainer.explain(shown, detection, (160.0, 0.0))
    drawn = explanation_picture(shown, told, explainer.model.info, atlas)
    assert drawn.dtype == np.uint8 and drawn.shape[1:] == (960, 3)
    background = np.array([32, 27, 24])
    rows = drawn[-5 * 64 :, 344:] != background
    assert all(rows[64 * i : 64 * (i + 1)].any() for i in range(5))
    assert rows[:, -80:].any() == with_atlas


def test_an_atlas_beside_the_model_is_found(
    tiny_model: Path, tiny_atlas: Atlas, tmp_path: Path, seen: Seen
) -> None:
    model = model_file.read(shutil.copy(tiny_model, tmp_path / 'tiny.onnx'))
    assert atlas_for(model) is None
    write_atlas(tiny_atlas, tmp_path / 'tiny.atlas.npz')
    atlas = atlas_for(model)
    assert atlas is not None
    told = explainer_of(model.path, atlas=atlas).explain(*seen, (3.0, 4.0))
    assert told.patches_of == 'noise'
    assert all((one.patches, one.used) == (2, atlas.shares[one.index]) for one in told.codevectors)
    with pytest.raises(AtlasError, match='no such file'):
        atlas_for(model, str(tmp_path / 'other.npz'))


@given(st.integers(0, 2**31), st.integers(200, 3000))
def test_quantiles_of_counts_are_those_of_the_distances(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    distances, labels = rng.random((1, size)) * 1.4, np.zeros((1, size), np.uint8)
    halves = [SpreadCounts(('road', 'tree')) for _ in range(2)]
    cut = size // 3
    halves[0].add(distances[:, :cut], labels[:, :cut])
    halves[1].add(distances[:, cut:], labels[:, cut:])
    halves[0] += halves[1]
    (spread,) = halves[0].spreads().values()
    assert spread.positions == size
    expected = np.quantile(distances, SHARES, method='inverted_cdf')
    np.testing.assert_allclose(spread.quantiles, expected, atol=2.6e-4)
    assert 0 <= spread.farther(0.0) <= spread.farther(1.0) <= 0.999
    assert Spread.from_dict(json.loads(json.dumps(spread.to_dict()))).unit == spread.unit


@pytest.mark.parametrize(
    'fields', [{}, {'positions': 3, 'quantiles': [1.0]}, {'positions': 3, 'quantiles': 'road'}]
)
def test_a_damaged_spread_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CalibrationError, match='calibrate again'):
        Spread.from_dict(fields)


def test_the_nearest_of_each_position() -> None:
    cosines = np.array([[[0.1]], [[0.9]], [[0.2]], [[0.5]]])
    distance, labels = nearest_of_class(cosines, 2)
    assert labels.tolist() == [[0]] and distance == distance_of(np.array([[0.9]]))
