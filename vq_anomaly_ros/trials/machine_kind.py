"""What a trial was made on and with, as every record of one says."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version
from typing import Any

from vq_anomaly_ros.machine import cpu_name, usable_cores
from vq_anomaly_ros.node.transport import provenance


def machine_kind() -> dict[str, Any]:
    """What was measured on and with, and how busy it was (processes that wanted to run)."""
    packages = ('openvino', 'onnxruntime', 'numpy', 'opencv-python-headless')
    return {
        'cpu': cpu_name(),
        'cores': usable_cores(),
        'load': round(os.getloadavg()[0], 2),
        'python': platform.python_version(),
        'ros': os.environ.get('ROS_DISTRO', ''),
        'versions': {package: version(package) for package in packages},
        'commit': provenance()['commit'],
        'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
