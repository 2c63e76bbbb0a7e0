"""rviz2's configuration for the cameras of a launch, made from config/detector.rviz.

No ROS and no numpy here: detector.launch.py imports it in the Python of ROS.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

_TEMPLATE_CAMERA = '/front'


def rviz_config(
    template: Path,
    cameras: Sequence[str],
    image_topic: str = 'image_raw',
    transport: str = 'raw',
    namespace: str = '',
) -> str:
    """Return the text of an .rviz file: the displays of the template, for each camera.

    Args:
        template: an .rviz file with the displays of the camera /front.
        cameras: namespaces as the node takes them; relative ones lie below `namespace`.
        image_topic: below each camera, as the node's parameter says.
        transport: 'raw' or 'compressed', likewise.
        namespace: of the node.
    """
    content = yaml.safe_load(template.read_text(encoding='utf-8'))
    manager, geometry = content['Visualization Manager'], content['Window Geometry']
    displays = manager['Displays']
    # rviz2's Image display takes the transport from the last part of its topic.
    image_topic += '' if transport == 'raw' else f'/{transport}'
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


def absolute_remapping(rule: tuple[str, str], namespace: str, node: str) -> tuple[str, str]:
    """Return a rule (old, new) of a node as one that means the same in a node elsewhere.

    Args:
        rule: names, relative to the namespace or private (~/x) to the node.
        namespace: of the node.
        node: its name.
    """
    old, new = (
        absolute(f'{node}{name[1:]}' if name.startswith('~') else name, namespace) for name in rule
    )
    return old, new


def parameters_of(content: Any, namespace: str, node: str) -> dict[str, Any]:
    """Return the parameters that a node finds in the content of a parameter file.

    As rcl reads it: a key is the name of a node with its namespace, * stands for one part of it, **
    for any number; what comes later in the file goes before. Rubbish gives none.
    """
    found: dict[str, Any] = {}
    if not isinstance(content, dict):
        return found
    name = absolute(node, namespace)
    for key, part in content.items():
        values = part.get('ros__parameters') if isinstance(part, dict) else None
        if isinstance(values, dict) and re.fullmatch(_pattern(str(key)), name):
            found.update(values)
    return found


def _pattern(key: str) -> str:
    """Regular expression of the full names that a key of a parameter file means."""
    wild = {'**': r'(/\w+)*', '*': r'/\w+'}
    return ''.join(wild.get(part, f'/{re.escape(part)}') for part in key.strip('/').split('/'))


def _for_camera(display: dict[str, Any], camera: str, image_topic: str) -> dict[str, Any]:
    display = copy.deepcopy(display)
    topic = display['Topic']['Value'].removeprefix(_TEMPLATE_CAMERA)
    if topic == '/image_raw':
        topic = f'/{image_topic}'
    display['Topic']['Value'] = camera + topic
    return display
