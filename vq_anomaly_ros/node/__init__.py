"""The ROS face of the detector: the only part of the package that imports rclpy."""

import signal
import sys
from pathlib import Path


def _is_being_started() -> bool:
    """Whether this process is a program of the package that has not begun yet.

    `python -m` leaves '-m' for the name until it has found the module; the executables that colcon
    installs lie in lib/vq_anomaly_ros.
    """
    name = sys.argv[0] if sys.argv else ''
    return name == '-m' or Path(name).parent.name == 'vq_anomaly_ros'


# rclpy and the messages take a second to import. A Ctrl-C meanwhile ends the program as it ends any
# other, without a traceback; once it runs, signals.py or interruption.py see to signals.
if _is_being_started() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
