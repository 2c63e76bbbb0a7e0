"""What the benchmark is asked: which sets, by which protocol each, and how to run the models."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from training.data import folders, layouts
from training.data.folders import AnomalyFolder, MvtecCategory, SegmentationFolder
from vq_anomaly_ros.metrics import ANOMALY_TRACK, OBSTACLE_TRACK, PROTOCOLS, Protocol, find_protocol

Dataset = AnomalyFolder | SegmentationFolder | MvtecCategory

TRACKS = {'anomaly': ANOMALY_TRACK, 'obstacle': OBSTACLE_TRACK}
_NAMED_SET = re.compile(
    rf'(?P<folder>.+?):(?P<protocol>{"|".join(PROTOCOLS)})(:(?P<track>{"|".join(TRACKS)}))?'
)


class BenchmarkError(ValueError):
    """A model, a data set and a protocol that do not go together."""


@dataclass(frozen=True)
class Measurement:
    """How to measure: what of a model, under which protocol, and where sheets go, if anywhere."""

    protocol: Protocol
    backend: str = 'auto'
    threads: int = 2
    seed: int = 0
    split: str | None = None
    sheets: Path | None = None

    @property
    def output(self) -> str:
        """The output of the model that is judged."""
        return 'class_scores' if self.protocol.task == 'segmentation' else 'score'


@dataclass(frozen=True)
class NamedSet:
    """A set as the command line names it: its folder, and its own protocol and track, if any."""

    folder: Path
    protocol: str | None = None
    track: str | None = None


def named_set(text: str) -> NamedSet:
    """Read DIR[:PROTOCOL[:TRACK]]; a folder whose very name that is comes first.

    BenchmarkError where something else than a protocol follows the name of a folder.
    """
    if Path(text).is_dir():
        return NamedSet(Path(text))
    match = _NAMED_SET.fullmatch(text)
    if match:
        return NamedSet(Path(match['folder']), match['protocol'], match['track'])
    for colon in (place for place, letter in enumerate(text) if letter == ':'):
        if Path(text[:colon]).is_dir():
            raise BenchmarkError(
                f'{text}: {text[colon + 1 :]!r} is no PROTOCOL or PROTOCOL:TRACK; choose a '
                f'protocol from {", ".join(PROTOCOLS)} and a track from {", ".join(TRACKS)}'
            )
    return NamedSet(Path(text))


def protocol_of(named: NamedSet, protocol: str | None, track: str) -> Protocol:
    """The protocol that judges a set: its own, else `protocol`, with the sizes of its track.

    protocol, track: those of the command line. BenchmarkError where there is no protocol, and for
    a track of the set's own that its protocol has no use for.
    """
    name = named.protocol or protocol
    if name is None:
        raise BenchmarkError(
            f'{named.folder}: no protocol is named for it; use --protocol, or write '
            f'{named.folder}:PROTOCOL with one of {", ".join(PROTOCOLS)}'
        )
    found = find_protocol(name)
    if found.components is not None:
        return dataclasses.replace(found, components=TRACKS[named.track or track])
    if named.track is not None:
        raise BenchmarkError(
            f'{named.folder}: the track {named.track} belongs to component metrics, which the '
            f'protocol {name} has not; leave it out or use smiyc'
        )
    return found


def read_dataset(root: Path, measurement: Measurement) -> Dataset:
    """Read a folder in the format that the protocol judges; BenchmarkError where it is another.

    Public data sets are read in the layouts of their authors (training/data/layouts.py).
    """
    task = measurement.protocol.task
    if task != 'industrial' and layouts.locate(root) is not None:
        if task == 'anomaly':
            return layouts.read_anomaly_set(root, measurement.split)
        return layouts.read_segmentation_set(root, measurement.split)
    found = folders.find_format(root)
    fitting = {'anomaly': ('flat',), 'segmentation': ('flat', 'splits'), 'industrial': ('mvtec',)}
    if found not in fitting[task]:
        kinds = {'flat': 'pooled', 'splits': 'segmentation', 'mvtec': 'industrial'}
        raise BenchmarkError(
            f'{root}: is not in the format that the protocol {measurement.protocol.name} judges; '
            f'use --protocol {kinds[found]} or a folder with '
            f'{"train/good/ and test/good/" if task == "industrial" else "images/ and labels/"}'
        )
    if task == 'anomaly':
        return folders.read_anomaly_folder(root)
    if task == 'segmentation':
        return folders.read_segmentation_folder(root, measurement.split or 'test')
    return folders.read_mvtec_category(root)
