"""The cameras of a drive as the node takes them: namespaces, transport and remappings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vq_anomaly_ros.replay import bags

_NAMELESS = '/camera'


@dataclass(frozen=True)
class DriveCameras:
    """What to start a detector with so that it listens to a drive.

    namespaces: parameter `cameras`; transport: 'raw' or 'compressed'; remappings: (topic that the
    node listens to, topic of the drive), where they differ.
    """

    namespaces: tuple[str, ...]
    transport: str
    remappings: tuple[tuple[str, str], ...]


def drive_cameras(bag: Path) -> DriveCameras:
    """Find the cameras of a bag.

    A camera is the namespace of its picture; one at the top (/image) becomes /camera. Raises
    BagError where there is none, or raw and compressed ones are mixed.
    """
    found = bags.camera_topics(bag)
    if not found:
        bags.choose_topic(bag, None)  # says what is there instead
    kinds = {kind for kind, _ in found.values()}
    if len(kinds) > 1:
        raise bags.BagError(
            f'{bag}: raw and compressed cameras are mixed ({", ".join(found)}); name those of one '
            'kind with cameras:=, and transport:='
        )
    transport = 'raw' if kinds == {bags.IMAGE} else 'compressed'
    suffix = '' if transport == 'raw' else '/compressed'
    heard: dict[str, str] = {}
    for topic in found:
        camera = topic.removesuffix(suffix).rpartition('/')[0] or _NAMELESS
        # Two pictures of one camera (image_raw, image_rect): the first counts.
        heard.setdefault(camera, topic)
    pairs = tuple((f'{camera}/image_raw{suffix}', topic) for camera, topic in heard.items())
    remappings = tuple((listens, topic) for listens, topic in pairs if listens != topic)
    return DriveCameras(tuple(heard), transport, remappings)
