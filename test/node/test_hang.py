"""An engine that throws, returns NaN or hangs, in the real runtime inside the real node."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS is not installed')
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image

from vq_anomaly_ros.node.rescue import EXIT_CODE, MOST_HANGING
from vq_anomaly_ros.trials.moody_model import BACKEND, Mood, write_moody_model

FINE = 100
ENDS = ('published', 'superseded', 'rejected', 'failed', 'in flight')


def statuses_of(message: DiagnosticArray) -> dict[str, tuple[int, str, dict[str, str]]]:
    return {
        s.hardware_id: (s.level[0], s.message, {v.key: v.value for v in s.values})
        for s in message.status
    }


class Moody:
    """The node on the moody model, and what it says of itself."""

    def __init__(self, peer: Any, program: Any, image_message: Callable[..., Any]) -> None:
        self.peer = peer
        self.program = program
        self._image_message = image_message
        self._diagnostics = peer.collect(DiagnosticArray, '/diagnostics', depth=100)
        self.scores = peer.collect(Image, '/front/anomaly/score')
        self._publisher = peer.publisher(Image, '/front/image_raw')

    def send(self, grey: int) -> None:
        self._publisher.publish(self._image_message(np.full((40, 60, 3), grey, np.uint8)))

    def statuses(self) -> dict[str, tuple[int, str, dict[str, str]]]:
        """{hardware id: (level, sentence, figures)} of the newest message; then it is forgotten."""
        self._diagnostics.clear()
        assert self.peer.spin_until(lambda: self._diagnostics), self.program.output
        return statuses_of(self._diagnostics[-1])

    def errors(self) -> list[str]:
        """What the detector has said at level ERROR since the last look at its statuses."""
        said = [statuses_of(message)['detector'][:2] for message in self._diagnostics]
        return [sentence for level, sentence in said if level == 2]

    def figure(self, name: str) -> int:
        return int(self.statuses()['detector'][2][name])

    def counts(self) -> dict[str, int]:
        figures = self.statuses()['/front'][2]
        counts = {name: int(figures[name]) for name in ('received', *ENDS)}
        assert counts['received'] == sum(counts[name] for name in ENDS)
        return counts

    def counts_at_rest(self) -> dict[str, int]:
        assert self.peer.spin_until(lambda: not self.counts()['in flight'])
        return self.counts()

    def answers(self) -> bool:
        """Whether a good frame brings its result; sent again where it found no reader yet."""
        self.scores.clear()
        for _ in range(6):
            self.send(FINE)
            if self.peer.spin_until(lambda: self.scores, 15.0):
                return True
        return False


@pytest.fixture(scope='module')
def moody_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moody_model(tmp_path_factory.mktemp('model') / 'moody.onnx')


@pytest.fixture
def moody(
    peer: Any, start_detector: Any, moody_model: Path, image_message: Callable[..., Any]
) -> Callable[..., Moody]:
    def start(**values: Any) -> Moody:
        values = {'model': str(moody_model), 'backend': BACKEND, 'engine_timeout': 1.0, **values}
        return Moody(peer, start_detector(**values), image_message)

    return start


def test_frames_that_throw_or_give_nan_fail_alone(moody: Callable[..., Moody]) -> None:
    node = moody()
    for number, (mood, said) in enumerate(
        [(Mood.THROWS, 'out of data bounds'), (Mood.NAN, 'not all finite')], start=1
    ):
        node.send(mood)
        assert node.peer.spin_until(lambda number=number: node.counts()['failed'] == number)
        node.program.wait_for(said)
        assert node.answers()
        time.sleep(1.0)  # a sentence of each kind a second
    assert node.counts_at_rest() == {
        'received': 4, 'published': 2, 'superseded': 0, 'rejected': 0, 'failed': 2, 'in flight': 0,
    }  # fmt: skip
    assert 'Traceback' not in node.program.output


def test_a_hung_engine_is_reported_and_reopened(moody: Callable[..., Moody]) -> None:
    node = moody()
    assert node.answers()
    beat = node.figure('heartbeat')
    node.send(Mood.HANGS)
    node.program.wait_for('a frame of /front has not ended in')
    node.program.wait_for('the engine was reopened; 1 threads of this process hang')
    assert node.peer.spin_until(node.errors)
    assert 'the engine hangs' in node.errors()[0]
    assert node.peer.spin_until(lambda: node.figure('engine reopened') == 1)
    assert node.figure('hanging threads') == 1
    assert node.figure('heartbeat') > beat
    assert node.answers()
    counts = node.counts_at_rest()
    assert (counts['failed'], counts['published']) == (1, 2)
    assert node.peer.spin_until(lambda: node.statuses()['detector'][:2] == (0, 'active'))
    node.program.signal(signal.SIGINT)
    assert node.program.wait() == 0, 'also while a thread hangs'


def test_too_many_hung_engines_end_the_process(moody: Callable[..., Moody]) -> None:
    node = moody(engine_timeout=0.5)
    for number in range(MOST_HANGING):
        node.send(Mood.HANGS)
        node.program.wait_for(f'the engine was reopened; {number + 1} threads')
    assert node.answers()
    node.send(Mood.HANGS)
    assert node.program.wait() == EXIT_CODE
    assert f'the process ends with exit code {EXIT_CODE}' in node.program.output


def test_a_hung_engine_ends_the_process_where_that_is_asked_for(
    moody: Callable[..., Moody],
) -> None:
    node = moody(engine_hang='exit', engine_timeout=0.5)
    node.send(Mood.HANGS)
    assert node.program.wait() == EXIT_CODE
    assert 'reopened' not in node.program.output


def test_a_node_whose_engine_hangs_can_be_deactivated_and_activated(
    moody: Callable[..., Moody],
) -> None:
    node = moody(engine_timeout=0.0)
    node.send(Mood.HANGS)
    assert node.peer.spin_until(lambda: node.counts()['in flight'] == 1)
    value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=2.0)
    patience = Parameter(name='engine_timeout', value=value)
    node.peer.call(SetParameters, '/anomaly_detector/set_parameters', parameters=[patience])
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        response = node.peer.call(
            ChangeState, '/anomaly_detector/change_state', transition=Transition(id=transition)
        )
        assert response.success
    assert node.answers()
    assert node.counts_at_rest()['failed'] == 1
