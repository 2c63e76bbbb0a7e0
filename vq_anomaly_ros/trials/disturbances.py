"""What befalls a node from outside: cameras, clocks, subscribers, parameters."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from vq_anomaly_ros.replay.processes import start_child
from vq_anomaly_ros.trials.camera import NANOSECONDS, frame
from vq_anomaly_ros.trials.detector_process import Status
from vq_anomaly_ros.trials.harness import Setting, Trial
from vq_anomaly_ros.trials.peer import expect

RECORDER = 'vq_anomaly_ros.node.recorder'
_YEAR = 365 * 24 * 3600 * NANOSECONDS


def cameras_appear_and_vanish(setting: Setting) -> None:
    """Their publishers come and go at random while they send."""
    chance = random.Random(0)  # noqa: S311  no secret
    with ExitStack() as stack:
        for camera in setting.cameras:
            stack.enter_context(camera.streaming(20.0))
        for _ in range(setting.times(40)):
            camera = chance.choice(setting.cameras)
            camera.vanish()
            setting.peer.spin_for(chance.uniform(0.0, 0.2))
            camera.appear()
    for camera in setting.cameras:
        camera.appear()


def camera_freezes(setting: Setting) -> None:
    """One camera stops, which is warned of, and sends one and the same frame again and again."""
    others = setting.cameras[1:]
    with ExitStack() as stack:
        for camera in others:
            stack.enter_context(camera.streaming(10.0))
        with setting.front.streaming(10.0):
            # Each was silent while the others were waited for; a busy machine makes that long.
            calm = setting.peer.spin_until(partial(_all_well, setting))
        expect(calm, 'not every camera is well before one of them stops')
        found: dict[str, Status] = {}

        def warned_of() -> bool:
            found.update(setting.node.diagnostics()[1])
            status = found[setting.front.name]
            return status.level == 1 and 'no frame for' in status.message

        silent = setting.peer.spin_until(warned_of)
        front = found[setting.front.name].message
        expect(silent, f'a camera that stopped is not warned of, but {front!r}')
        for camera in others:
            status = found[camera.name]
            expect(status.level == 0, f'{camera.name} is warned of, too: {status.message}')
        stamp = time.time_ns()
        for _ in range(setting.times(50)):
            setting.front.send(stamp=stamp)
            setting.peer.spin_for(0.02)


def _all_well(setting: Setting) -> bool:
    found = setting.node.diagnostics()[1]
    return not any(found[camera.name].level for camera in setting.cameras)


def cameras_change_size_encoding_and_rate(setting: Setting) -> None:
    """Another size, encoding and distance from frame to frame."""
    chance = random.Random(1)  # noqa: S311  no secret
    for _ in range(setting.times(200)):
        size = (chance.randint(1, 200), chance.randint(1, 300))
        encoding = chance.choice(('bgr8', 'rgb8', 'mono8'))
        chance.choice(setting.cameras).send(frame(chance.randint(0, 200), size, encoding))
        setting.peer.spin_for(chance.choice((0.0, 0.005, 0.05)))
    frame.cache_clear()
    changes = sum(
        int(setting.node.status(camera.name).figures['changes of size or encoding'])
        for camera in setting.cameras
    )
    expect(changes > setting.times(200) / 10, f'only {changes} changes were noticed')
    expect(sum(c.rejected + c.failed for c in setting.counts()) == 0, 'good frames were not used')


def bursts(setting: Setting) -> None:
    """All cameras send as fast as they can: what is too much is superseded, nothing queues."""
    before = sum(counts.superseded for counts in setting.counts())
    for _ in range(setting.times(20)):
        for _ in range(50):
            for camera in setting.cameras:
                camera.send()
        setting.peer.spin_for(0.02)
        flying = sum(setting.node.counts(camera.name).in_flight for camera in setting.cameras)
        # Published, handed over, detected, and one in each slot.
        expect(flying <= 3 + len(setting.cameras), f'{flying} frames are in flight')
    superseded = sum(counts.superseded for counts in setting.counts()) - before
    setting.notes['superseded'] = superseded


def clocks_jump(setting: Setting) -> None:
    """Stamps jump a year on, back, to zero and to the end of time; results bear them all."""
    now = time.time_ns()
    stamps = [now, now + _YEAR, now, 0, 2**31 * NANOSECONDS - 1, now]
    for stamp in stamps * setting.times(5):
        setting.front.forget()
        setting.front.send(stamp=stamp)
        found = setting.peer.spin_until(partial(setting.front.answered, stamp))
        expect(found, f'the frame of stamp {stamp} is not answered')
    found = setting.peer.spin_until(
        lambda: _figure(setting, 'stamps that jumped back') >= 3 * setting.times(5)
    )
    expect(found, f'only {_figure(setting, "stamps that jumped back")} jumps were noticed')


def _figure(setting: Setting, name: str) -> int:
    return int(setting.node.status(setting.front.name).figures[name])


def sim_time_is_reset(setting: Setting) -> None:
    """With use_sim_time the clock runs, stands still, and begins again at zero."""
    publisher = setting.peer.publisher(Clock, '/clock')

    def tick(seconds: float) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(round(seconds * 1e9), NANOSECONDS)
        publisher.publish(message)

    def stamped(seconds: float) -> Any:
        tick(seconds)
        return abs(setting.node.diagnostics()[0] - seconds) < 0.5

    for _ in range(setting.times(3)):
        for seconds in (1000.0, 1001.0, 5.0, 0.5):
            arrived = setting.peer.spin_until(partial(stamped, seconds))
            expect(arrived, f'the diagnostics do not follow the clock to {seconds} s')
            setting.front.expect_answer(f'at {seconds} s of simulated time')
    # The clock stands still: diagnostics and results go on.
    setting.peer.spin_for(1.0)
    setting.node.diagnostics()


def subscribers_come_and_go(setting: Setting) -> None:
    """Subscriptions on all image topics appear and vanish while frames come."""
    chance = random.Random(2)  # noqa: S311  no secret
    topics = [
        f'{camera.name}/anomaly/{name}'
        for camera in setting.cameras
        for name in ('score', 'mask', 'overlay')
    ]
    with ExitStack() as stack:
        for camera in setting.cameras:
            stack.enter_context(camera.streaming(15.0))
        for _ in range(setting.times(100)):
            subscription = setting.peer.node.create_subscription(
                Image, chance.choice(topics), lambda _: None, 1
            )
            setting.peer.spin_for(chance.uniform(0.0, 0.06))
            setting.peer.node.destroy_subscription(subscription)


def a_slow_subscriber(setting: Setting) -> None:
    """A reliable subscriber is stopped, and goes on; the others are served meanwhile."""
    folder = setting.stage.folder / f'recorded_{time.monotonic_ns()}'
    topics = [f'{camera.name}/anomaly/overlay' for camera in setting.cameras]
    with ExitStack() as stack:
        recorder = start_child(
            stack, RECORDER, [str(folder), '--topics', *topics], setting.stage.environment,
            setting.stage.folder / f'recorder_{time.monotonic_ns()}.txt',
        )  # fmt: skip
        found = setting.peer.spin_until(lambda: recorder.said(f'recording {topics[-1]} '))
        expect(found, 'the recorder does not find its topics')
        recorder.stop()
        for camera in setting.cameras:
            stack.enter_context(camera.streaming(20.0))
        setting.peer.spin_for(4.0 * setting.scale)
        setting.notes['answered_meanwhile_s'] = round(
            setting.expect_answers('while a subscriber stands still'), 2
        )
        recorder.go_on()


def parameters_storm(setting: Setting) -> None:
    """Good and bad values in a row while frames come: the good ones are used, the bad refused."""
    chance = random.Random(3)  # noqa: S311  no secret
    good: list[tuple[str, list[Any]]] = [
        ('target_fpr', [0.001, 0.01, 0.1]),
        ('output_size', ['network', 'camera']),
        ('score_encoding', ['32FC1', 'mono16', 'mono8']),
        ('overlay_opacity', [0.0, 0.5, 1.0]),
        ('engine_timeout', [5.0, 10.0, 0.0]),
    ]
    bad: list[tuple[str, list[Any]]] = [
        ('target_fpr', [0.0, -1.0, float('nan')]),
        ('output_size', ['', 'huge']),
        ('model', ['elsewhere']),
        ('cameras', [['/x']]),
        ('score_encoding', [5]),
    ]
    with ExitStack() as stack:
        for camera in setting.cameras:
            stack.enter_context(camera.streaming(15.0))
        for number in range(setting.times(300)):
            refused = number % 3 == 0
            name, values = chance.choice(bad if refused else good)
            taken = set_parameter(setting, name, chance.choice(values))
            expect(taken != refused, f'{name} was {"taken" if taken else "refused"}')
    for name, values in good[1:3]:
        expect(set_parameter(setting, name, values[0]), f'{name} was refused in the end')


def set_parameter(setting: Setting, name: str, value: Any) -> bool:
    """Set a parameter over its service; whether it was taken."""
    message: ParameterMessage = Parameter(name, value=value).to_parameter_msg()
    service = '/anomaly_detector/set_parameters'
    (result,) = setting.peer.call(SetParameters, service, parameters=[message]).results
    return bool(result.successful)


TRIALS = (
    Trial('cameras appear and vanish', cameras_appear_and_vanish),
    Trial('a camera freezes', camera_freezes, {'warn_silence': 0.5}),
    Trial('cameras change size, encoding and rate', cameras_change_size_encoding_and_rate),
    Trial('bursts of frames', bursts),
    Trial('clocks jump', clocks_jump),
    Trial('simulated time is reset', sim_time_is_reset, {'use_sim_time': True}),
    Trial('subscribers come and go', subscribers_come_and_go),
    Trial('a subscriber stands still', a_slow_subscriber),
    Trial('a storm of parameters', parameters_storm),
)
