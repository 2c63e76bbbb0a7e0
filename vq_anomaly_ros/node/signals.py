"""The start and the orderly end of a ROS program.

rclpy's own signal handlers invalidate the context at once, under the feet of a thread that is
publishing. Here SIGINT and SIGTERM only complete a future: the executor leaves its loop, and the
program releases what it holds in its own order.
"""

from __future__ import annotations

import argparse
import ast
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import rclpy
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """Return the program's own options, and the arguments from --ros-args on (or to a --) for ROS.

    Not rclpy's remove_ros_args: it takes every /old:=/new for itself, wherever it stands.
    """
    own: list[str] = []
    for_ros: list[str] = []
    of_ros = False
    for argument in sys.argv[1:] if argv is None else argv:
        of_ros = of_ros or argument == '--ros-args'
        (for_ros if of_ros else own).append(argument)
        of_ros = of_ros and argument != '--'
    return parser.parse_args(own), for_ros


@contextmanager
def ros_until_signal(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Iterator[Future]:
    """Initialise rclpy and give a future that the first SIGINT or SIGTERM completes.

    What the caller created must be destroyed when it leaves; the context is shut down then. For the
    main thread only.
    """
    with _stop_on_signals() as stop:
        try:
            rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:
            parser.error(_sentence(error))
        try:
            yield stop
        finally:
            rclpy.try_shutdown()


def _sentence(error: RuntimeError) -> str:
    """Say what rclpy.init refused."""
    text = str(error)
    # rclpy's UnknownROSArgsError says no more than the list of them.
    if text.startswith('[') and text.endswith(']'):
        unknown = ' '.join(ast.literal_eval(text))
        return f'unknown ROS argument {unknown}; see --help'
    # The places in rcl's C sources are of no use to anybody here.
    return f'ROS does not start: {text.split(", at /")[0].strip()}'


@contextmanager
def _stop_on_signals() -> Iterator[Future]:
    """Give a future that the first stop signal completes.

    A thread that waits inside rclpy runs no Python handler, so the signal's number goes through the
    wake-up descriptor to a small thread of its own.
    """
    stop = Future()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = {number: signal.signal(number, lambda *_: None) for number in STOP_SIGNALS}
    previous_descriptor = signal.set_wakeup_fd(writer.fileno())
    watcher = threading.Thread(target=_watch, args=(reader, stop), name='signals', daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(previous_descriptor)
        for number, handler in previous.items():
            signal.signal(number, handler)
        writer.close()
        watcher.join()
        reader.close()


def _watch(reader: socket.socket, stop: Future) -> None:
    """Complete `stop` at the first stop signal; at the third, end a process that hangs."""
    seen = 0
    while received := reader.recv(1):
        if received[0] not in STOP_SIGNALS:
            continue
        seen += 1
        if not stop.done():
            stop.set_result(signal.Signals(received[0]))
        if seen == 3:
            os._exit(128 + received[0])
