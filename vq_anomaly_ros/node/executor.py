"""An executor for weeks: a message which cannot be taken does not stop it, and it keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.task import Future


class _Watched:
    """A future that can be asked whether it is done, and that takes no callback."""

    def __init__(self, future: Future) -> None:
        self.done = future.done

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Drop it."""


class SturdyExecutor(SingleThreadedExecutor):
    """Spins on where rclpy would raise, with its callback group locked for ever.

    Where memory is short, a large image cannot be made into a Python object. rclpy raises that out
    of `spin`; even who catches it is left with a group of callbacks, by default all of the node's,
    that counts as busy and never runs again.

    rclpy's `spin_until_future_complete` hangs another callback on the future for every callback
    that it runs: about 300 bytes for each message received, for as long as the node lives. Here
    only the first one stays, which wakes the executor.
    """

    def spin_once_until_future_complete(self, future: Future, timeout_sec: Any = None) -> None:
        """Run one callback, or return when the future is done or the time is over."""
        super().spin_once_until_future_complete(cast('Future', _Watched(future)), timeout_sec)

    def _take_subscription(self, sub: Any) -> Any:
        try:
            return super()._take_subscription(sub)
        except (RuntimeError, MemoryError) as error:
            get_logger('executor').error(
                f'{sub.topic_name}: a message is lost, it could not be taken: '
                f'{type(error).__name__}: {error}',
                throttle_duration_sec=1.0,
            )
            return None  # as if there had been none
