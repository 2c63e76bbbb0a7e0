"""drive_cameras: the cameras of a bag as the node takes them, and the topics to play to it.

With --json for programs: replay.launch.py runs in the Python of ROS, which has no rosbags, and asks
this command, which runs in the Python that the package was built with.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vq_anomaly_ros.replay import bags

_NAMELESS = '/camera'
# What tells of the recording and not of the drive: played, it would speak over those who tell now.
_OF_THE_RECORDING = frozenset({'/clock', '/diagnostics', '/parameter_events', '/rosout'})


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


def played_topics(bag: Path) -> list[str]:
    """Return the topics of a bag to play to a detector: all but results, diagnostics and clock.

    Results of an earlier run (…/anomaly/…) would arrive on the very topics that the detector
    publishes. A bag of nothing else is played whole. Raises BagError.
    """
    found = list(bags.topics(bag))
    kept = [t for t in found if '/anomaly/' not in t and t not in _OF_THE_RECORDING]
    return kept or found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command drive_cameras; see --help. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        told: dict[str, Any] = {'topics': played_topics(options.bag)}
        if not options.topics_only:
            told = {**_as_arguments(drive_cameras(options.bag)), **told}
    except bags.BagError as error:
        print(f'drive_cameras: {error}', file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(told))
        return 0
    for name, value in told.items():
        print(f'{name:<10} {value if isinstance(value, str) else " ".join(value)}')
    return 0


def _as_arguments(found: DriveCameras) -> dict[str, Any]:
    """Name the values as the arguments of detector.launch.py."""
    return {
        'cameras': found.namespaces,
        'transport': found.transport,
        'remap': [f'{listens}:={topic}' for listens, topic in found.remappings],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('drive_cameras', description=__doc__)
    add = parser.add_argument
    add('bag', type=Path, help='folder of the bag, or a single .mcap or .db3 file')
    add('--json', action='store_true', help='one line of JSON')
    add('--topics-only', action='store_true', help='look for no cameras: you name them')
    return parser


if __name__ == '__main__':
    sys.exit(main())
