"""The node as a process of its own, driven over DDS."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vq_anomaly_ros.detection.detector import Detection, Detector, DetectorConfig
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.node.parameters import PARAMETERS, Changes

pytest.importorskip('rclpy', reason='ROS is not installed')
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from vq_anomaly_ros.node.vision_messages import vision_msgs

NODE = '/anomaly_detector'
IMAGE = ['sensor_msgs/msg/Image']
STRING = ['std_msgs/msg/String']
RESULTS = {'semantic_mask': 'mono8', 'score': '32FC1', 'mask': 'mono8', 'overlay': 'bgr8'}


def transition(peer: Any, number: int) -> bool:
    response = peer.call(ChangeState, f'{NODE}/change_state', transition=Transition(id=number))
    return response.success


def state(peer: Any) -> str:
    return peer.call(GetState, f'{NODE}/get_state').current_state.label


def set_parameter(peer: Any, name: str, **value: Any) -> Any:
    kind = {'double_value': 3, 'string_value': 4, 'bool_value': 1}[next(iter(value))]
    parameter = Parameter(name=name, value=ParameterValue(type=kind, **value))
    (result,) = peer.call(SetParameters, f'{NODE}/set_parameters', parameters=[parameter]).results
    return result


def statuses(messages: list[Any]) -> dict[str, Any]:
    """{hardware id: (status, {key: value})} of the newest diagnostics."""
    return {s.hardware_id: (s, {v.key: v.value for v in s.values}) for s in messages[-1].status}


def array_of(message: Any) -> np.ndarray:
    dtype, channels = {
        'mono8': (np.uint8, 1),
        '32FC1': (np.float32, 1),
        'bgr8': (np.uint8, 3),
    }[message.encoding]
    assert message.step == message.width * channels * np.dtype(dtype).itemsize
    shape = (message.height, message.width) + ((channels,) if channels > 1 else ())
    return np.frombuffer(message.data, dtype).reshape(shape)


def send_one_by_one(peer: Any, publisher: Any, messages: list[Any], seen: list[Any]) -> None:
    """Publish each message when the result of the one before has come: none is superseded."""
    for message in messages:
        count = len(seen)
        publisher.publish(message)
        assert peer.spin_until(lambda count=count: len(seen) > count), 'no result came'


def detect(model: Path, frame: Frame, **options: Any) -> Detection:
    with Detector(DetectorConfig(model=model, threads=1, **options)) as detector:
        return detector.detect([frame])[0]


def test_results_equal_the_detectors_to_the_bit_under_the_frames_header(
    peer: Any, start_detector: Any, tiny_model: Path, picture: Any, image_message: Any
) -> None:
    start_detector(cameras="['/front', '/rear']")
    seen = {name: peer.collect(Image, f'/rear/anomaly/{name}') for name in RESULTS}
    publisher = peer.publisher(Image, '/rear/image_raw')
    pixels = picture(1, 90, 161)
    messages = [
        image_message(pixels, 'bgr8', stamp=10**9 + 1, frame_id='a'),
        image_message(pixels, 'rgb8', stamp=7, frame_id='b', padding=5),
        image_message(pixels[..., 0].copy(), 'mono8', stamp=2**31 * 10**9 - 1),
    ]
    send_one_by_one(peer, publisher, messages, seen['mask'])
    assert peer.spin_until(lambda: all(len(found) == 3 for found in seen.values()))
    frames = [Frame(pixels, 'bgr'), Frame(pixels, 'rgb'), Frame(pixels[..., 0], 'mono')]
    for i, (message, frame) in enumerate(zip(messages, frames, strict=True)):
        for name, encoding in RESULTS.items():
            assert seen[name][i].header == message.header
            assert seen[name][i].encoding == encoding
        expected = detect(tiny_model, frame)
        np.testing.assert_array_equal(array_of(seen['score'][i]), expected.score)
        np.testing.assert_array_equal(array_of(seen['mask'][i]), expected.anomaly_mask)
        np.testing.assert_array_equal(array_of(seen['semantic_mask'][i]), expected.labels)
        assert array_of(seen['overlay'][i]).shape == (90, 161, 3)


def test_topics_and_their_types(peer: Any, start_detector: Any) -> None:
    start_detector(cameras="['/front', '/rear']")
    expected = {f'/{c}/anomaly/{name}': IMAGE for c in ('front', 'rear') for name in RESULTS}
    for camera in ('front', 'rear'):
        expected[f'/{camera}/anomaly/label_info_json'] = STRING
        expected[f'/{camera}/anomaly/obstacles_json'] = STRING
        expected[f'/{camera}/anomaly/events'] = STRING
        expected[f'/{camera}/anomaly/event_image'] = IMAGE
        expected[f'/{camera}/anomaly/explanation'] = STRING
        expected[f'/{camera}/anomaly/explanation_image'] = IMAGE
        expected[f'/{camera}/anomaly/overlay/compressed'] = ['sensor_msgs/msg/CompressedImage']
        expected[f'/{camera}/anomaly/camera_info'] = ['sensor_msgs/msg/CameraInfo']
        if vision_msgs() is not None:
            expected[f'/{camera}/anomaly/obstacles'] = ['vision_msgs/msg/Detection2DArray']
            expected[f'/{camera}/anomaly/label_info'] = ['vision_msgs/msg/LabelInfo']
    found = peer.spin_until(
        lambda: (found := {**peer.topics('/front/'), **peer.topics('/rear/')}) == expected and found
    )
    assert found, {**peer.topics('/front/'), **peer.topics('/rear/')}
    # Each end is heard of by itself.
    told, heard = peer.node.get_publishers_info_by_topic, peer.node.get_subscriptions_info_by_topic
    (score,) = peer.spin_until(lambda: told('/front/anomaly/score'))
    assert score.qos_profile.reliability.name == 'RELIABLE'
    (image,) = peer.spin_until(lambda: heard('/front/image_raw'))
    assert image.qos_profile.reliability.name == 'BEST_EFFORT'


def test_label_info_waits_for_late_subscribers_and_follows_the_threshold(
    peer: Any, start_detector: Any
) -> None:
    start_detector()
    seen = peer.collect(String, '/front/anomaly/label_info_json', latched=True)
    assert peer.spin_until(lambda: seen)
    info = json.loads(seen[0].data)
    assert [c['name'] for c in info['classes']] == ['road', 'tree', 'car', 'person']
    assert info['target_fpr'] == 1e-3
    assert set_parameter(peer, 'target_fpr', double_value=0.25).successful
    assert peer.spin_until(lambda: json.loads(seen[-1].data)['target_fpr'] == 0.25)


def test_a_model_without_classes_has_no_semantic_mask(
    peer: Any, start_detector: Any, classless_model: Path, picture: Any, image_message: Any
) -> None:
    start_detector(model=classless_model, output_size='network')
    seen = peer.collect(Image, '/front/anomaly/mask')
    publisher = peer.publisher(Image, '/front/image_raw')
    send_one_by_one(peer, publisher, [image_message(picture(1))], seen)
    assert (seen[0].height, seen[0].width) == (16, 32)
    assert {'/front/anomaly/score', '/front/anomaly/mask'} <= set(peer.topics('/front/anomaly'))
    assert '/front/anomaly/semantic_mask' not in peer.topics('/front/anomaly')


def test_the_threshold_changes_at_run_time(
    peer: Any, start_detector: Any, tiny_model: Path, picture: Any, image_message: Any
) -> None:
    start_detector()
    seen = peer.collect(Image, '/front/anomaly/mask')
    publisher = peer.publisher(Image, '/front/image_raw')
    pixels = picture(3)
    for target in (1e-3, 0.3):
        assert set_parameter(peer, 'target_fpr', double_value=target).successful
        send_one_by_one(peer, publisher, [image_message(pixels)], seen)
        expected = detect(tiny_model, Frame(pixels, 'bgr'), target_fpr=target).anomaly_mask
        np.testing.assert_array_equal(array_of(seen[-1]), expected)
    assert array_of(seen[-1]).sum() > array_of(seen[0]).sum()


def test_parameters_through_the_services(peer: Any, start_detector: Any) -> None:
    start_detector()
    listed = peer.call(ListParameters, f'{NODE}/list_parameters').result.names
    names = [spec.name for spec in PARAMETERS]
    assert set(names) <= set(listed)
    response = peer.call(DescribeParameters, f'{NODE}/describe_parameters', names=names)
    for spec, descriptor in zip(PARAMETERS, response.descriptors, strict=True):
        assert descriptor.description == spec.description
        assert descriptor.type != ParameterType.PARAMETER_NOT_SET
        assert descriptor.read_only == (spec.changes is Changes.NEVER)
    refused = set_parameter(peer, 'target_fpr', double_value=0.7)
    assert not refused.successful and 'range' in refused.reason
    refused = set_parameter(peer, 'model', string_value='other')
    assert not refused.successful and 'clean it up first' in refused.reason
    refused = set_parameter(peer, 'autostart', bool_value=False)
    assert not refused.successful and 'read-only' in refused.reason


def test_bad_frames_are_rejected_named_counted_and_survived(
    peer: Any, start_detector: Any, picture: Any, image_message: Any
) -> None:
    program = start_detector()
    seen = peer.collect(Image, '/front/anomaly/mask')
    diagnostics = peer.collect(DiagnosticArray, '/diagnostics')
    publisher = peer.publisher(Image, '/front/image_raw')
    bad = image_message(picture(1))
    bad.data = bad.data[:-1]
    unknown = image_message(picture(1), 'bgr64')

    def rejected() -> int:
        return int(statuses(diagnostics)['/front'][1]['rejected']) if diagnostics else 0

    for i, message in enumerate([bad, unknown] * 5):
        publisher.publish(message)
        assert peer.spin_until(lambda i=i: rejected() == i + 1), 'a bad frame was not counted'
    send_one_by_one(peer, publisher, [image_message(picture(1), stamp=99)], seen)
    assert seen[0].header.stamp.nanosec == 99
    status, values = statuses(diagnostics)['/front']
    assert status.level == b'\x01' and 'rejected' in status.message
    assert values['failed'] == '0'
    said = [line for line in program.output.splitlines() if 'frame rejected' in line]
    assert '/front/image_raw: frame rejected: the image holds' in said[0]
    assert len(said) < 10, 'more than one message a second'


def test_diagnostics_account_for_every_frame(
    peer: Any, start_detector: Any, picture: Any, image_message: Any
) -> None:
    start_detector(cameras="['/front', '/rear']")
    diagnostics = peer.collect(DiagnosticArray, '/diagnostics')
    masks = peer.collect(Image, '/front/anomaly/mask')
    publisher = peer.publisher(Image, '/front/image_raw')
    large = image_message(picture(1, 720, 1280))
    for _ in range(30):
        publisher.publish(large)
        peer.spin_for(0.01)
    count = len(diagnostics)
    assert peer.spin_until(lambda: masks and len(diagnostics) > count + 3)
    for message in diagnostics:
        _, values = statuses([message]).get('/front', (None, {'received': 0}))
        parts = ('published', 'superseded', 'rejected', 'failed', 'in flight')
        assert int(values['received']) == sum(int(values.get(part, 0)) for part in parts)
    _, values = statuses(diagnostics)['/front']
    assert 0 < int(values['published']) <= int(values['received']) <= 30
    assert float(values['fps']) > 0
    assert 0 < float(values['latency p50 ms']) <= float(values['latency p99 ms'])
    assert 'OpenVINO' in values['engine'] or 'ONNX' in values['engine']
    assert "the model's training set, not yet calibrated" in values['calibration']
    assert statuses(diagnostics)['/rear'][1]['received'] == '0'
    assert statuses(diagnostics)['detector'][0].message == 'active'


def test_a_silent_camera_is_warned_of(peer: Any, start_detector: Any) -> None:
    start_detector(warn_silence=0.3)
    diagnostics = peer.collect(DiagnosticArray, '/diagnostics')
    assert peer.spin_until(
        lambda: diagnostics and statuses(diagnostics)['/front'][0].level == b'\x01'
    )
    assert 'no frame for' in statuses(diagnostics)['/front'][0].message


def test_lifecycle_over_the_services(
    peer: Any, start_detector: Any, picture: Any, image_message: Any
) -> None:
    program = start_detector(wait='', autostart='false')
    message = image_message(picture(1))
    assert state(peer) == 'unconfigured'
    assert peer.topics('/front/anomaly') == {}
    for run in range(2):
        assert transition(peer, Transition.TRANSITION_CONFIGURE)
        assert peer.spin_until(lambda: '/front/anomaly/score' in peer.topics('/front/anomaly'))
        assert peer.node.count_subscribers('/front/image_raw') == 0
        assert transition(peer, Transition.TRANSITION_ACTIVATE)
        assert state(peer) == 'active'
        seen = peer.collect(Image, '/front/anomaly/mask')
        publisher = peer.publisher(Image, '/front/image_raw')
        assert peer.spin_until(lambda: peer.node.count_publishers('/front/anomaly/mask'))
        peer.spin_for(0.3)
        send_one_by_one(peer, publisher, [message] * 3, seen)
        assert transition(peer, Transition.TRANSITION_DEACTIVATE)
        peer.node.destroy_publisher(publisher)
        assert peer.spin_until(lambda: not peer.node.count_subscribers('/front/image_raw'))
        assert transition(peer, Transition.TRANSITION_CLEANUP)
        assert peer.spin_until(lambda: peer.topics('/front/anomaly') == {})
        assert len(seen) == 3, f'run {run}'
    assert 'Traceback' not in program.output


def test_a_bad_model_leaves_the_node_alive_and_a_good_one_mends_it(
    peer: Any, start_detector: Any, tiny_model: Path, tmp_path: Path
) -> None:
    bad = tmp_path / 'bad.onnx'
    bad.write_bytes(b'this is no model')
    program = start_detector(wait='not configured', model=bad)
    assert state(peer) == 'unconfigured'
    (said,) = [line for line in program.output.splitlines() if 'ERROR' in line]
    assert str(bad) in said
    assert 'Traceback' not in program.output
    diagnostics = peer.collect(DiagnosticArray, '/diagnostics')
    assert peer.spin_until(lambda: diagnostics)
    status, _ = statuses(diagnostics)['detector']
    assert status.level == b'\x02' and str(bad) in status.message
    assert not transition(peer, Transition.TRANSITION_CONFIGURE)
    assert set_parameter(peer, 'model', string_value=str(tiny_model)).successful
    assert transition(peer, Transition.TRANSITION_CONFIGURE)
    assert transition(peer, Transition.TRANSITION_ACTIVATE)
    assert peer.spin_until(lambda: statuses(diagnostics)['detector'][0].level == b'\x00')


def test_a_refused_parameter_keeps_it_unconfigured_until_set_right(
    peer: Any, start_detector: Any
) -> None:
    program = start_detector(wait='not configured', target_fpr=7.0, tartget_fpr=0.1)
    assert 'parameter target_fpr: 7.0 is outside' in program.output
    assert 'did you mean target_fpr?' in program.output
    assert not transition(peer, Transition.TRANSITION_CONFIGURE)
    assert set_parameter(peer, 'target_fpr', double_value=0.01).successful
    assert transition(peer, Transition.TRANSITION_CONFIGURE)


def test_a_broken_command_line_is_refused_in_a_sentence(start: Any) -> None:
    program = start('detector_node', '--ros-args', '-p')
    assert program.wait() == 2
    assert 'anomaly_detector: error: ' in program.output
    assert 'Traceback' not in program.output


def test_compressed_transport(
    peer: Any, start_detector: Any, tiny_model: Path, picture: Any
) -> None:
    start_detector(transport='compressed')
    seen = peer.collect(Image, '/front/anomaly/score')
    publisher = peer.publisher(CompressedImage, '/front/image_raw/compressed')
    pixels = picture(5)
    message = CompressedImage(format='png')
    message.data.frombytes(cv2.imencode('.png', pixels)[1].tobytes())
    message.header.frame_id = 'lens'
    send_one_by_one(peer, publisher, [message], seen)
    expected = detect(tiny_model, Frame(pixels, 'bgr')).score
    np.testing.assert_array_equal(array_of(seen[0]), expected)
    assert seen[0].header.frame_id == 'lens'


def test_sim_time_stamps_the_diagnostics(peer: Any, start_detector: Any) -> None:
    start_detector(use_sim_time='true')
    diagnostics = peer.collect(DiagnosticArray, '/diagnostics')
    clock = peer.publisher(Clock, '/clock')
    message = Clock()
    message.clock.sec = 1234

    def stamped() -> bool:
        clock.publish(message)
        return bool(diagnostics) and diagnostics[-1].header.stamp.sec == 1234

    assert peer.spin_until(stamped)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_under_load_ends_it_with_nothing_left(
    peer: Any, start_detector: Any, picture: Any, image_message: Any, number: int, ended_well: Any
) -> None:
    program = start_detector(cameras="['/front', '/rear']")
    seen = [peer.collect(Image, f'/{c}/anomaly/overlay') for c in ('front', 'rear')]
    publishers = [peer.publisher(Image, f'/{c}/image_raw') for c in ('front', 'rear')]
    message = image_message(picture(1, 540, 960))

    def load() -> bool:
        for publisher in publishers:
            publisher.publish(message)
        return all(len(found) >= 3 for found in seen)

    assert peer.spin_until(load), 'no results under load'
    ended_well(program, number)


def test_a_signal_while_unconfigured_or_loading(start: Any, tiny_model: Path) -> None:
    program = start('detector_node', '--ros-args', '-p', 'model:=nowhere')
    program.wait_for('not configured')
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert 'Traceback' not in program.output


def test_help_names_the_parameters(start: Any) -> None:
    program = start('detector_node', '--help')
    assert program.wait() == 0
    assert all(spec.name in program.output for spec in PARAMETERS)


@pytest.fixture
def classless_model(tmp_path: Path, tiny_graph: Callable[..., Any], tiny_info: Any) -> Path:
    """The tiny model without classes: only a score."""
    import dataclasses

    from vq_anomaly_ros.detection import model_file

    graph = tiny_graph()
    kept = [output for output in graph.graph.output if output.name == 'score']
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    info = dataclasses.replace(
        tiny_info, method='cpc', classes=(), palette=(), codevectors_per_class=0
    )
    return model_file.write(graph, info, tmp_path / 'classless.onnx').path


def test_a_palette_that_is_not_there_is_told_without_a_traceback(start_detector: Any) -> None:
    program = start_detector(wait='not configured', palette='nowhere.yaml')
    assert 'nowhere.yaml' in program.output
    assert 'Traceback' not in program.output
