"""Where the files of the package lie: models, configuration, palettes."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = 'vq_anomaly_ros'


def share_folders(name: str) -> list[Path]:
    """Return the places of the folder `name` ('models', 'config'), those of ROS first.

    <prefix>/share/vq_anomaly_ros/<name> of every prefix of AMENT_PREFIX_PATH, then that of the
    checkout which this file lies in. They need not exist.
    """
    prefixes = [part for part in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if part]
    shares = [Path(prefix) / 'share' / PACKAGE / name for prefix in prefixes]
    return [*shares, Path(__file__).resolve().parents[1] / name]
