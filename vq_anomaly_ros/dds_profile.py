"""The Fast DDS profile for large images: where it lies, and the variable that names it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata

from vq_anomaly_ros.share import share_folders

PROFILE = 'fastdds_large_images.xml'
_OF_FAST_DDS_2 = 'FASTRTPS_DEFAULT_PROFILES_FILE'
_OF_FAST_DDS_3 = 'FASTDDS_DEFAULT_PROFILES_FILE'
VARIABLES = (_OF_FAST_DDS_2, _OF_FAST_DDS_3)
_RELEASES_ON_FAST_DDS_2 = ('humble', 'iron', 'jazzy')


def profile_variable(environment: Mapping[str, str] = os.environ) -> str:
    """Return the variable that the Fast DDS of this ROS reads.

    Fast DDS 3 (Kilted and later) calls it otherwise, and warns on standard error when it finds the
    old name. The release is ROS_DISTRO, else that of the wheels.
    """
    release = environment.get('ROS_DISTRO') or _release_of_wheels()
    return _OF_FAST_DDS_2 if release in _RELEASES_ON_FAST_DDS_2 else _OF_FAST_DDS_3


def _release_of_wheels() -> str:
    for release in _RELEASES_ON_FAST_DDS_2:
        try:
            metadata.version(f'ros-{release}-rclpy')
        except metadata.PackageNotFoundError:
            continue
        return release
    return ''


def profile_setting(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what to add to `environment`, so that large images cross processes.

    Nothing where it has a profile of the user's own (Fast DDS 3 reads the old name, too), or where
    none is installed.
    """
    variable = profile_variable(environment)
    if any(environment.get(name) for name in (variable, _OF_FAST_DDS_2)):
        return {}
    candidates = [folder / PROFILE for folder in share_folders('config')]
    path = next((one for one in candidates if one.is_file()), None)
    return {} if path is None else {variable: str(path)}
