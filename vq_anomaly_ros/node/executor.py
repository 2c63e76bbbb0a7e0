"""An executor that a message which cannot be taken does not stop."""

from __future__ import annotations

from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger


class SturdyExecutor(SingleThreadedExecutor):
    """Spins on where rclpy would raise, with its callback group locked for ever.

    Where memory is short, a large image cannot be made into a Python object. rclpy raises that out
    of `spin`; even who catches it is left with a group of callbacks, by default all of the node's,
    that counts as busy and never runs again.
    """

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
