"""rviz2's configuration for the cameras of a launch, made from config/detector.rviz."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

_TEMPLATE_CAMERA = '/front'


def rviz_config(
    template: Path, cameras: Sequence[str], image_topic: str = 'image_raw', namespace: str = ''
) -> str:
    """Return the text of an .rviz file: the displays of the template, for each camera.

    Args:
        template: an .rviz file with the displays of the camera /front.
        cameras: namespaces as the node takes them; relative ones lie below `namespace`.
        image_topic: below each camera, as the node's parameter says.
        namespace: of the node.
    """
    content = yaml.safe_load(template.read_text(encoding='utf-8'))
    manager, geometry = content['Visualization Manager'], content['Window Geometry']
    displays = manager['Displays']
    manager['Displays'] = []
    for camera in cameras:
        for display in displays:
            shown = _for_camera(display, absolute(camera, namespace), image_topic)
            if len(cameras) > 1:
                geometry.pop(display['Name'], None)
                shown['Name'] = f'{display["Name"]} {camera}'
                geometry[shown['Name']] = {'collapsed': False}
            manager['Displays'].append(shown)
    return yaml.safe_dump(content, sort_keys=False)


def absolute(name: str, namespace: str) -> str:
    """Return the name as ROS resolves it in a namespace: /x stays, x becomes /namespace/x."""
    if name.startswith('/'):
        return name
    return '/' + '/'.join(part for part in (namespace.strip('/'), name) if part)


def _for_camera(display: dict[str, Any], camera: str, image_topic: str) -> dict[str, Any]:
    display = copy.deepcopy(display)
    topic = display['Topic']['Value'].removeprefix(_TEMPLATE_CAMERA)
    if topic == '/image_raw':
        topic = f'/{image_topic}'
    display['Topic']['Value'] = camera + topic
    return display
