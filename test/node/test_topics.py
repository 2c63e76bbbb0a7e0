"""The node's topics over DDS: who is at the other end, QoS, intrinsics, obstacles, run time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.images import Frame, as_frame
from vq_anomaly_ros.outputs import encoded_score

pytest.importorskip('rclpy', reason='ROS is not installed')
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

NODE = '/anomaly_detector'


def set_parameter(peer: Any, name: str, **value: Any) -> Any:
    kind = {'double_value': 3, 'string_value': 4, 'integer_value': 2}[next(iter(value))]
    parameter = Parameter(name=name, value=ParameterValue(type=kind, **value))
    (result,) = peer.call(SetParameters, f'{NODE}/set_parameters', parameters=[parameter]).results
    return result


def test_a_topic_without_publisher_is_named_with_what_is_there(
    peer: Any, start_detector: Any
) -> None:
    peer.node.create_publisher(Image, '/cam0/image_raw', 1)
    peer.node.create_publisher(String, '/cam1/image_raw', 1)
    program = start_detector(warn_unpublished=0.3)
    # Discovery takes its time; what is found later is told anew.
    program.wait_for('topics of type sensor_msgs/msg/Image: /cam0/image_raw')
    said = [line for line in program.output.splitlines() if 'nobody publishes' in line]
    assert all('/front/image_raw: nobody publishes it; ' in line for line in said)
    assert not any('/anomaly/' in line for line in said), 'its own results are no camera'
    peer.publisher(Image, '/front/image_raw')
    peer.spin_for(1.0)
    assert program.output.count('nobody publishes') == len(said) <= 2, 'told once'


def test_remapped_topics_are_named_as_they_are(
    peer: Any, start: Any, tiny_model: Path, image_message: Any, picture: Any
) -> None:
    arguments = ['-p', f'model:={tiny_model}', '-p', "cameras:=['front']", '-p', 'threads:=1']
    remap = ['-r', '__ns:=/robot', '-r', '/robot/front/image_raw:=/cam0/image']
    program = start('detector_node', '--ros-args', *arguments, *remap)
    program.wait_for('active: listening to /cam0/image')
    masks = peer.collect(Image, '/robot/front/anomaly/mask')
    publisher = peer.publisher(Image, '/cam0/image')
    publisher.publish(image_message(picture(1), 'bgr64'))
    program.wait_for('/cam0/image: frame rejected')
    publisher.publish(image_message(picture(1)))
    assert peer.spin_until(lambda: masks)


def test_nobody_publishes_any_picture(peer: Any, start_detector: Any) -> None:
    program = start_detector(warn_unpublished=0.3)
    program.wait_for('no topic of type sensor_msgs/msg/Image is there: start the camera')


def test_incompatible_qos_is_named_with_both_sides(peer: Any, start_detector: Any) -> None:
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    peer.node.create_publisher(Image, '/front/image_raw', best_effort)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.node.create_subscription(Image, '/front/anomaly/score', print, latched)
    program = start_detector(input_reliability='reliable')
    program.wait_for('/front/image_raw: no message passes')
    program.wait_for('/front/anomaly/score: no message passes')
    first, second = (line for line in program.output.splitlines() if 'no message passes' in line)
    incoming, outgoing = sorted((first, second), key=lambda line: '/anomaly/score' in line)
    name = peer.node.get_fully_qualified_name()
    assert f'between {name} (best_effort, volatile) and {NODE} (reliable, volatile)' in incoming
    assert 'set input_reliability or qos_overrides./front/image_raw.subscription.*' in incoming
    assert f'between {name} (reliable, transient_local) and {NODE} (reliable, vol' in outgoing
    peer.spin_for(0.5)
    assert program.output.count('no message passes') == 2, 'each told once'
    assert 'incompatible QoS. No messages' not in program.output, 'not told twice by rclpy'


def test_what_fits_is_not_named(peer: Any, start_detector: Any) -> None:
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    program = start_detector()
    for name, qos in (('mask', best_effort), ('score', QoSProfile(depth=7))):
        peer.node.create_subscription(Image, f'/front/anomaly/{name}', print, qos)
    peer.collect(String, '/front/anomaly/label_info_json', latched=True)
    peer.node.create_publisher(Image, '/front/image_raw', latched)
    peer.spin_for(1.5)
    assert '[WARN]' not in program.output


def test_another_type_on_the_topic_is_named(peer: Any, start_detector: Any) -> None:
    peer.node.create_publisher(String, '/front/image_raw', 1)
    program = start_detector()
    program.wait_for('publishes it as std_msgs/msg/String')
    assert 'remap one of them' in program.output


def test_two_publishers_on_one_topic_are_named_and_survived(
    peer: Any, start_detector: Any, picture: Any, image_message: Any
) -> None:
    program = start_detector()
    seen = peer.collect(Image, '/front/anomaly/mask')
    publishers = [peer.publisher(Image, '/front/image_raw') for _ in range(2)]
    program.wait_for('/front/image_raw: 2 publishers')
    for number, publisher in enumerate(publishers * 2):
        publisher.publish(image_message(picture(number), stamp=1 + number % 2))
        assert peer.spin_until(lambda number=number: len(seen) > number)
    program.wait_for('the stamp jumps back by 0.000 s')


def test_qos_parameters_and_overrides(peer: Any, start_detector: Any) -> None:
    start_detector(
        output_reliability='best_effort',
        input_reliability='reliable',
        **{
            'qos_overrides./front/anomaly/score.publisher.reliability': 'reliable',
            'qos_overrides./front/anomaly/score.publisher.durability': 'transient_local',
            'qos_overrides./front/image_raw.subscription.depth': 2,
        },
    )

    def offered(name: str) -> list[str]:
        infos = peer.node.get_publishers_info_by_topic(f'/front/anomaly/{name}')
        return [f'{i.qos_profile.reliability.name} {i.qos_profile.durability.name}' for i in infos]

    assert peer.spin_until(lambda: offered('mask') == ['BEST_EFFORT VOLATILE'])
    assert peer.spin_until(lambda: offered('score') == ['RELIABLE TRANSIENT_LOCAL'])
    heard = peer.node.get_subscriptions_info_by_topic
    (image,) = peer.spin_until(lambda: heard('/front/image_raw'))
    assert image.qos_profile.reliability.name == 'RELIABLE'
    names = peer.call(ListParameters, f'{NODE}/list_parameters').result.names
    assert sum(name.startswith('qos_overrides.') for name in names) == 3
    described = peer.call(DescribeParameters, f'{NODE}/describe_parameters', names=names)
    own = [d for d in described.descriptors if d.name != 'use_sim_time']
    assert all(descriptor.description for descriptor in own)


@pytest.mark.parametrize(
    ('override', 'value', 'said'),
    [
        ('mask.publisher.reliability', 'maybe', "'maybe' is unknown; use one of"),
        ('mask.publisher.depth', 0, '0 is no depth; give 1 to 1000'),
        ('mask.publisher.colour', 'red', "'colour' is no policy; use one of depth"),
    ],
)
def test_a_senseless_override_keeps_it_unconfigured(
    start_detector: Any, override: str, value: Any, said: str
) -> None:
    name = f'qos_overrides./front/anomaly/{override}'
    program = start_detector(wait='not configured', **{name: value})
    assert f'parameter {name}: {said}' in program.output
    assert 'Traceback' not in program.output


def test_overrides_without_effect_are_told_with_the_remedy(start_detector: Any) -> None:
    start = 'qos_overrides./'
    told = {
        'front/anomaly/skore.publisher.depth': 'no topic of the node is called so; topics: /front/',
        'front/anomaly/score.subscription.depth': 'no effect, the node has a publisher of this '
        'topic; write qos_overrides./front/anomaly/score.publisher.depth',
        'front/image_raw.publisher.reliability': 'no effect, the node has a subscription of this '
        'topic; write qos_overrides./front/image_raw.subscription.reliability',
        'front/image_raw.depth': 'no effect, the node has a subscription of this topic; '
        'write qos_overrides./front/image_raw.subscription.depth',
        'diagnostics.publisher.depth': 'the QoS of this topic is not overridable; topics: /front/',
        'rosout.publisher.depth': 'the QoS of this topic is not overridable',
    }
    effective = {
        'front/camera_info.subscription.depth': 2,
        'front/anomaly/label_info_json.publisher.depth': 2,
        'front/anomaly/score.publisher.depth': 2,
    }
    names = {f'{start}{name}': 1 for name in told}
    program = start_detector(**names, **{f'{start}{n}': v for n, v in effective.items()})
    for name, sentence in told.items():
        assert f'parameter {start}{name}: {sentence}' in program.output, program.output
    assert program.output.count('parameter qos_overrides.') == len(told)


def test_camera_info_and_label_info_are_overridden_too(peer: Any, start_detector: Any) -> None:
    start_detector(
        **{
            'qos_overrides./front/camera_info.subscription.reliability': 'reliable',
            'qos_overrides./front/anomaly/label_info_json.publisher.durability': 'volatile',
        }
    )

    def durability() -> list[str]:
        infos = peer.node.get_publishers_info_by_topic('/front/anomaly/label_info_json')
        return [info.qos_profile.durability.name for info in infos]

    assert peer.spin_until(lambda: durability() == ['VOLATILE'])
    heard = peer.node.get_subscriptions_info_by_topic
    (info,) = peer.spin_until(lambda: heard('/front/camera_info'))
    assert info.qos_profile.reliability.name == 'RELIABLE'


def test_a_camera_info_that_does_not_fit_is_named(peer: Any, start_detector: Any) -> None:
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    peer.node.create_publisher(CameraInfo, '/front/camera_info', best_effort)
    peer.node.create_publisher(String, '/rear/camera_info', 1)
    cameras = "['/front','/rear','/side']"
    program = start_detector(cameras=cameras, input_reliability='reliable', warn_unpublished=0.3)
    program.wait_for('/front/camera_info: no message passes between')
    program.wait_for('/rear/camera_info: ')
    said = [line for line in program.output.splitlines() if 'camera_info: ' in line]
    name = peer.node.get_fully_qualified_name()
    assert any('qos_overrides./front/camera_info.subscription.*' in line for line in said)
    assert any(f'{name} publishes it as std_msgs/msg/String, {NODE} as' in line for line in said)
    program.wait_for('/side/image_raw: nobody publishes it')
    assert '/side/camera_info' not in program.output, 'a camera need not have one'


@pytest.mark.parametrize(
    ('cameras', 'remap', 'both'),
    [
        ("['/front','front']", [], "'/front' and 'front' are both /front/image_raw"),
        (
            "['/left','/right']",
            ['-r', '/right/image_raw:=/left/image_raw'],
            "'/left' and '/right' are both /left/image_raw",
        ),
    ],
)
def test_two_cameras_that_are_one_are_refused(
    start: Any, tiny_model: Path, cameras: str, remap: list[str], both: str
) -> None:
    values = ['-p', f'model:={tiny_model}', '-p', f'cameras:={cameras}', '-p', 'threads:=1']
    program = start('detector_node', '--ros-args', *values, *remap)
    program.wait_for('not configured')
    assert f'parameter cameras: {both}; name each camera once' in program.output
    assert 'Traceback' not in program.output


def test_intrinsics_follow_the_results_size(
    peer: Any, start_detector: Any, picture: Any, image_message: Any
) -> None:
    start_detector()
    seen = peer.collect(CameraInfo, '/front/anomaly/camera_info')
    masks = peer.collect(Image, '/front/anomaly/mask')
    infos = peer.publisher(CameraInfo, '/front/camera_info')
    images = peer.publisher(Image, '/front/image_raw')
    info = CameraInfo(width=256, height=128)
    info.k = [100.0, 0.0, 127.5, 0.0, 100.0, 63.5, 0.0, 0.0, 1.0]

    def answered(stamp: int) -> bool:
        infos.publish(info)
        peer.spin_for(0.1)
        images.publish(image_message(picture(1, 128, 256), stamp=stamp, frame_id='lens'))
        return peer.spin_until(lambda: any(m.header.stamp.nanosec == stamp for m in seen))

    assert answered(7)
    assert (seen[-1].height, seen[-1].width) == (128, 256)
    assert peer.spin_until(lambda: masks and masks[-1].header == seen[-1].header)
    assert set_parameter(peer, 'output_size', string_value='network').successful
    assert answered(8)
    assert (seen[-1].height, seen[-1].width) == (16, 32)
    # a principal point in the middle stays in the middle of the pixel grid
    np.testing.assert_allclose(np.array(seen[-1].k)[[0, 2, 5]], [12.5, 15.5, 7.5])


def test_score_encoding_and_output_size_change_at_run_time(
    peer: Any, start_detector: Any, tiny_model: Path, picture: Any, image_message: Any
) -> None:
    start_detector()
    seen = peer.collect(Image, '/front/anomaly/score')
    told = peer.collect(String, '/front/anomaly/label_info_json', latched=True)
    publisher = peer.publisher(Image, '/front/image_raw')
    pixels = picture(2, 90, 160)
    with Detector(DetectorConfig(tiny_model, threads=1)) as detector:
        for size in ('camera', 'network'):
            assert set_parameter(peer, 'output_size', string_value=size).successful
            detector.output_size = size  # type: ignore[assignment]
            score = detector.detect([Frame(pixels, 'bgr')])[0].score
            for encoding, dtype in (('mono8', '<u1'), ('mono16', '<u2'), ('32FC1', '<f4')):
                assert set_parameter(peer, 'score_encoding', string_value=encoding).successful
                count = len(seen)
                publisher.publish(image_message(pixels))
                assert peer.spin_until(lambda count=count: len(seen) > count)
                assert (seen[-1].encoding, seen[-1].is_bigendian) == (encoding, 0)
                values = np.frombuffer(seen[-1].data, dtype).reshape(score.shape)
                np.testing.assert_array_equal(values, encoded_score(score, encoding))  # type: ignore[arg-type]
                assert peer.spin_until(
                    lambda encoding=encoding: (
                        json.loads(told[-1].data)['score']['encoding'] == encoding
                    )
                )
    refused = set_parameter(peer, 'score_encoding', string_value='rgb8')
    assert not refused.successful and 'none of 32FC1, mono16, mono8' in refused.reason


def test_obstacles_as_json_over_dds(
    peer: Any, start_detector: Any, tiny_model: Path, picture: Any, image_message: Any
) -> None:
    start_detector(
        target_fpr=0.3, min_obstacle_area=0.01, obstacle_persistence=1, obstacle_growth=0.0
    )
    seen = peer.collect(String, '/front/anomaly/obstacles_json')
    publisher = peer.publisher(Image, '/front/image_raw')
    pixels = picture(2, 90, 160)
    publisher.publish(image_message(pixels, stamp=12, frame_id='lens'))
    assert peer.spin_until(lambda: seen)
    told = json.loads(seen[0].data)
    config = DetectorConfig(tiny_model, threads=1, target_fpr=0.3, min_obstacle_area=0.01)
    with Detector(config) as detector:
        expected = detector.detect([Frame(pixels, 'bgr')])[0].obstacles
    assert expected, 'the test needs an obstacle'
    assert (told['stamp_ns'], told['frame_id'], told['size']) == (12, 'lens', [90, 160])
    assert [o['box'] for o in told['obstacles']] == [[round(v, 2) for v in o.box] for o in expected]


def test_obstacles_of_a_region_are_told_once_they_persist(
    peer: Any, start_detector: Any, picture: Any, image_message: Any
) -> None:
    """Three frames in a row, in the lower half of the picture only, under one number."""
    start_detector(
        target_fpr=0.3,
        obstacle_persistence=3,
        obstacle_growth=0.0,
        region=['all', '/front: 0,0.5 1,0.5 1,1 0,1'],
    )
    seen = peer.collect(String, '/front/anomaly/obstacles_json')
    masks = peer.collect(Image, '/front/anomaly/mask')
    publisher = peer.publisher(Image, '/front/image_raw')
    for step in range(4):
        message = image_message(picture(2, 64, 128), stamp=12 + step, frame_id='lens')
        publisher.publish(message)
        assert peer.spin_until(lambda step=step: len(seen) > step and len(masks) > step)
    told = [json.loads(one.data)['obstacles'] for one in seen]
    assert told[0] == told[1] == [] and told[2] and len(told[2]) == len(told[3])
    assert [one['frames'] for one in told[2]] == [3] * len(told[2])
    assert {one['id'] for one in told[2]} == {one['id'] for one in told[3]}
    mask = np.frombuffer(bytes(masks[0].data), np.uint8).reshape(64, 128)
    assert mask[32:].any() and not mask[:28].any()


def test_diagnostics_tell_jumps_changes_and_losses(
    peer: Any, start_detector: Any, picture: Any, image_message: Any
) -> None:
    program = start_detector()
    seen = peer.collect(Image, '/front/anomaly/mask')
    diagnostics = peer.collect(DiagnosticArray, '/diagnostics')
    publisher = peer.publisher(Image, '/front/image_raw')
    messages = [
        image_message(picture(1), stamp=9_000_000_000),
        image_message(picture(1), stamp=1_000_000_000),
        image_message(picture(1, 30, 40), 'rgb8', stamp=2_000_000_000),
    ]
    for number, message in enumerate(messages):
        publisher.publish(message)
        assert peer.spin_until(lambda number=number: len(seen) > number)

    def values() -> dict[str, str]:
        if not diagnostics:
            return {}
        (status,) = [s for s in diagnostics[-1].status if s.hardware_id == '/front']
        return {value.key: value.value for value in status.values}

    assert peer.spin_until(lambda: values().get('published') == '3')
    assert values()['stamps that jumped back'] == '1'
    assert values()['changes of size or encoding'] == '1'
    assert values()['lost in transport'] == '0'
    assert 'jumps back by 8.000 s' in program.output
    assert 'changed from 128x64 bgr8 to 40x30 rgb8' in program.output


def test_the_overlay_as_jpeg_for_viewers_far_away(
    peer: Any, start_detector: Any, picture: Any, image_message: Any
) -> None:
    start_detector()
    raw = peer.collect(Image, '/front/anomaly/overlay')
    small = peer.collect(CompressedImage, '/front/anomaly/overlay/compressed')
    publisher = peer.publisher(Image, '/front/image_raw')
    publisher.publish(image_message(picture(2, 90, 160), stamp=5, frame_id='lens'))
    assert peer.spin_until(lambda: raw and small)
    assert small[0].header == raw[0].header and small[0].format == 'jpeg'
    exact, lossy = as_frame(raw[0]).pixels.astype(int), as_frame(small[0]).pixels.astype(int)
    assert exact.shape == lossy.shape and np.abs(exact - lossy).mean() < 6
