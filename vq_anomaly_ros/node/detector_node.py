"""The node `anomaly_detector`: parameters, lifecycle, subscriptions and diagnostics.

The way of a frame: subscription (executor thread) -> slot of its camera -> detector thread
(`pipeline.Pipeline._detect`: message to frame, `Detector.detect`) -> publisher thread
(`pipeline.Pipeline._publish`: results to messages).
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future

from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.machine import return_memory
from vq_anomaly_ros.node import parameters
from vq_anomaly_ros.node.camera_input import CameraInput
from vq_anomaly_ros.node.camera_outputs import CameraOutputs
from vq_anomaly_ros.node.executor import SturdyExecutor
from vq_anomaly_ros.node.health import (
    CameraHealth,
    Judgement,
    Level,
    Limits,
    drift_figures,
    worse,
)
from vq_anomaly_ros.node.messages import DIAGNOSTICS_QOS, status_message
from vq_anomaly_ros.node.pipeline import Pipeline
from vq_anomaly_ros.node.rescue import EXIT_CODE, Rescue, end_now
from vq_anomaly_ros.node.signals import parse_arguments, ros_until_signal
from vq_anomaly_ros.node.topic_qos import unused_overrides
from vq_anomaly_ros.node.topic_watch import TopicWatch

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE


class StartError(ValueError):
    """The node cannot be made at all; the message names parameter, value and remedy."""


class AnomalyDetectorNode(LifecycleNode):
    """Subscribes to cameras and publishes labels, anomaly scores and masks of their frames."""

    def __init__(self, **kwargs: Any) -> None:
        """Declare the parameters; `kwargs` go to rclpy's Node.

        Raises StartError where rclpy refuses the value of a parameter of its own (use_sim_time).
        """
        try:
            super().__init__('anomaly_detector', **kwargs)
        except InvalidParameterTypeException as error:
            raise StartError(parameters.refused_by_ros(self, error)) from error
        declared = parameters.declare(self)
        self._settings = declared.settings
        self._refused = declared.problems
        for sentence in (*declared.problems.values(), *declared.unknown):
            self.get_logger().error(sentence)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._problem = ''
        self._pipeline: Pipeline | None = None
        self._listening = ExitStack()
        self._health: dict[str, CameraHealth] = {}
        self._inputs: dict[str, CameraInput] = {}
        self._beats = 0
        self.rescue = Rescue(self, self._settings, self._publish_diagnostics)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', DIAGNOSTICS_QOS)
        # A steady clock: with use_sim_time a paused bag must not silence the diagnostics.
        self._timer = self.create_timer(
            self._settings.diagnostics_period,
            self._on_timer,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def autostart(self) -> None:
        """Configure and activate, where the parameter says so."""
        if self._settings.autostart and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, open the engine, offer the topics."""
        try:
            if self._refused:
                raise ValueError('; '.join(self._refused.values()))
            with self.rescue.opening():
                self._pipeline = Pipeline(self, self._settings, self.rescue.watchdog)
            self.rescue.guard(self._pipeline)
        except (ValueError, OSError, EngineError) as error:
            self._problem = f'not configured: {error}'
        # Lifecycle swallows exceptions without a word; this one is a defect worth its traceback.
        except Exception:
            self._problem = f'not configured: {traceback.format_exc()}'
        else:
            self._problem = ''
            self.get_logger().info(f'configured: {_description(self._pipeline)}')
            return SUCCESS
        self.get_logger().error(self._problem)
        return FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker, then listen to the cameras."""
        super().on_activate(state)
        try:
            self._listen()
        # rclpy raises various errors for a topic of another type and for what rmw refuses.
        except Exception as error:
            super().on_deactivate(state)
            self._problem = f'not activated: {error}'
            self.get_logger().error(self._problem)
            return FAILURE
        self._problem = ''
        topics = ', '.join(input_.topic for input_ in self._inputs.values())
        self.get_logger().info(f'active: listening to {topics}')
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen no more and let the worker end its frame."""
        self._listening.close()
        super().on_deactivate(state)
        return SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take the topics back and close the engine."""
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
            self.rescue.guard(None)
            # Else an engine of another size would come on top of the last.
            return_memory()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, from whatever state."""
        self._listening.close()
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything; the node is unconfigured again."""
        return self.on_shutdown(state)

    def _listen(self) -> None:
        """Start the worker and subscribe; `_listening` undoes it in reverse."""
        pipeline = self._pipeline
        if pipeline is None:
            raise RuntimeError('nothing is configured; configure the node first')
        now = time.monotonic()
        with ExitStack() as stack:
            for camera in self._settings.cameras:
                self._health[camera] = CameraHealth(now, pipeline.frames.counts(camera))
            stack.callback(self._health.clear)
            pipeline.start()
            stack.callback(pipeline.stop)
            stack.callback(self._inputs.clear)
            for camera in self._settings.cameras:
                self._inputs[camera] = self._input(pipeline, camera)
                stack.callback(self._inputs[camera].destroy)
            ends = [(watch.topic, watch.listens) for watch in self._watches()]
            for sentence in unused_overrides(self, ends):
                self.get_logger().error(sentence)
            self._listening = stack.pop_all()

    def _input(self, pipeline: Pipeline, camera: str) -> CameraInput:
        def put(message: Any) -> None:
            """Hand the frame, and the newest intrinsics, to the worker."""
            if (info := self._inputs[camera].camera_info) is not None:
                pipeline.camera_infos[camera] = info
            pipeline.frames.put(camera, message)

        return CameraInput(
            self, camera, self._settings, put, partial(pipeline.explanations.ask, camera)
        )

    def _on_timer(self) -> None:
        self._publish_diagnostics()
        self._watch_topics()

    def _watch_topics(self) -> None:
        """Name what does not fit at the other ends of the topics, once."""
        for watch in self._watches():
            for sentence in watch.news(self._settings.warn_unpublished):
                self.get_logger().warning(sentence)

    def _watches(self) -> list[TopicWatch]:
        ends: list[CameraInput | CameraOutputs] = [*self._inputs.values()]
        if self._pipeline is not None:
            ends += self._pipeline.outputs.values()
        return [watch for end in ends for watch in end.watches]

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        changes = {parameter.name: parameter.value for parameter in changed}
        reason = parameters.refusal(changes, unconfigured=self._pipeline is None)
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        self._settings = parameters.updated(self._settings, changes)
        for name in changes:
            self._refused.pop(name, None)
        self.rescue.change(self._settings)
        if self._pipeline is not None:
            self._pipeline.change(self._settings)
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        about = {} if self._pipeline is None else _about(self._pipeline, self._settings)
        name = f'{self.get_name()}: detector'
        judgement = self.rescue.judgement(self._judgement())
        statuses = [status_message(name, 'detector', judgement, {**self._heartbeat(), **about})]
        if self._pipeline is not None:
            for camera in self._health:
                statuses.append(self._camera_status(self._pipeline, camera, about))
        message = DiagnosticArray(status=statuses)
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _heartbeat(self) -> dict[str, str]:
        """What grows with every message, and with every frame while the detector gets on."""
        self._beats += 1
        figures = {'heartbeat': str(self._beats), **self.rescue.figures()}
        if self._pipeline is not None:
            pulse = self._pipeline.frames.pulse()
            figures['frames ended'] = str(pulse.ended)
            figures['seconds since a frame ended'] = f'{pulse.age:.1f}'
        return figures

    def _camera_status(
        self, pipeline: Pipeline, camera: str, about: dict[str, str]
    ) -> DiagnosticStatus:
        limits = Limits(self._settings.warn_silence, self._settings.warn_superseded)
        now = time.monotonic()
        latency = pipeline.latency[camera].percentiles(now)
        judgement, figures = self._health[camera].report(
            now, pipeline.frames.counts(camera), latency, limits
        )
        continuity = pipeline.continuity[camera]
        drift = pipeline.watches[camera].drift
        judgement = worse(judgement, drift.judgement)
        figures = {
            'topic': self._inputs[camera].topic,
            **figures,
            'waited p99 ms': f'{1e3 * pipeline.waits[camera].percentiles(now).p99:.1f}',
            'lost in transport': str(self._inputs[camera].lost),
            'lost by gaps of the stamps': str(self._inputs[camera].gaps.lost),
            'stamps that jumped back': str(continuity.jumps_back),
            'changes of size or encoding': str(continuity.changes),
            **drift_figures(drift),
            **about,
        }
        return status_message(f'{self.get_name()}: {camera}', camera, judgement, figures)

    def _judgement(self) -> Judgement:
        if self._problem:
            return Judgement(Level.ERROR, self._problem)
        if self._pipeline is None:
            return Judgement(Level.OK, 'unconfigured')
        return Judgement(Level.OK, 'active' if self._health else 'inactive')


def _description(pipeline: Pipeline) -> str:
    detector, info = pipeline.detector, pipeline.info
    classes = f'{len(info.classes)} classes' if info.classes else 'no classes'
    return f'{detector.model.path} ({info.method}, {classes}) on {detector.engine.description}'


def _about(pipeline: Pipeline, settings: parameters.Settings) -> dict[str, str]:
    """Say in diagnostics what the scores come from."""
    detector, calibration = pipeline.detector, pipeline.detector.calibration
    source = calibration.source
    if source == 'training set':
        source = "the model's training set, not yet calibrated on a drive"
    report = {'engine report': pipeline.engine_report} if pipeline.engine_report else {}
    return report | {
        'engine': detector.engine.description,
        'model': f'{detector.model.path} (sha256 {detector.model.sha256[:12]})',
        'calibration': f'{source}; {calibration.pixels} pixels, {calibration.date}',
        'target fpr': f'{settings.target_fpr:g}',
    }


def _run(stop: Future) -> Rescue:
    """Spin the node until `stop` completes, then release everything in order."""
    node = AnomalyDetectorNode()
    node.rescue.end = lambda: None if stop.done() else stop.set_result(None)
    executor = SturdyExecutor()
    executor.add_node(node)
    try:
        node.autostart()
        executor.spin_until_future_complete(stop)
    finally:
        node.trigger_shutdown()
        executor.shutdown()
        node.rescue.close()
        node.destroy_node()
    return node.rescue


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code."""
    names = ', '.join(spec.name for spec in parameters.PARAMETERS)
    parser = argparse.ArgumentParser(
        prog='anomaly_detector',
        description='Anomaly segmentation of camera images, a ROS 2 lifecycle node.',
        epilog=f'Set parameters with --ros-args -p NAME:=VALUE or --params-file: {names}. '
        'docs/parameters.md describes them.',
    )
    _, arguments = parse_arguments(parser, argv)
    try:
        with ros_until_signal(parser, arguments) as stop:
            rescue = _run(stop)
    except StartError as error:
        print(f'anomaly_detector: {error}', file=sys.stderr)
        return 2
    if rescue.given_up or rescue.hanging:
        end_now(EXIT_CODE if rescue.given_up else 0)
    return 0


if __name__ == '__main__':
    sys.exit(main())
