"""Read and write rosbag2 folders (sqlite3 and mcap) without ROS, one bag as one transaction.

Written bags carry the QoS profiles that they were (or would be) published with, so that
``ros2 bag play`` offers the same ones. A bag is written into a temporary folder beside its final
name and moved there when it is complete: an interrupted writer leaves no bag, never half of one.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from vq_anomaly_ros.images import image_fields

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
STRING = 'std_msgs/msg/String'
NANOSECONDS = 1_000_000_000

Storage = Literal['mcap', 'sqlite3']
BagVersion = Literal[8, 9]

_STORAGE_FILES = ('.mcap', '.db3')
# What rmw calls "infinite": the largest duration that rosbag2 writes and reads back.
_INFINITE = QosTime(9223372036, 854775807)


class BagError(ValueError):
    """A bag cannot be read or written; the message names the bag, the cause and the remedy."""


class BagExistsError(BagError):
    """A bag would have to be replaced, and nobody said that it may be."""


class RawMessage(NamedTuple):
    """One message as it lies in a bag: `stamp_ns` is the time of recording, `cdr` its bytes."""

    topic: str
    msgtype: str
    stamp_ns: int
    cdr: bytes


@cache
def typestore() -> Typestore:
    """Return the message definitions of ROS 2 Jazzy (those used here are the same in Humble)."""
    return get_typestore(Stores.ROS2_JAZZY)


@contextmanager
def _open(bag: Path) -> Iterator[Reader]:
    """Open a bag folder or a single .mcap or .db3 file; whatever fails becomes a BagError."""
    if not bag.exists():
        raise BagError(f'{bag}: no such bag; give the folder that holds its metadata.yaml')
    if bag.is_dir() and not (bag / 'metadata.yaml').exists():
        raise BagError(
            f'{bag}: no metadata.yaml, so this is no bag or its recording was cut off; '
            f'restore it with `ros2 bag reindex {bag}` or give the .mcap or .db3 file inside'
        )
    if bag.is_file() and bag.suffix not in _STORAGE_FILES:
        raise BagError(
            f'{bag}: is no bag; give the folder that holds its metadata.yaml, or a .mcap or .db3 '
            'file'
        )
    try:
        reader = Reader(bag)
        reader.open()
    # rosbags passes on whatever its storages raise (apsw, struct, zstd, yaml …).
    except Exception as error:
        raise _damaged(bag, error) from error
    try:
        yield reader
    finally:
        reader.close()


def _damaged(bag: Path, error: Exception | str) -> BagError:
    cause = str(error).strip().rstrip('.') or type(error).__name__
    remedy = 'copy it again from its source, or record it again'
    if files := [bag] if bag.suffix == '.mcap' else sorted(bag.glob('*.mcap')):
        # ros2 bag reindex writes metadata only, and a cut mcap lacks the index at its own end.
        remedy = f'save what is whole with `mcap recover {files[0]} -o whole.mcap`, {remedy}'
    return BagError(f'{bag}: the bag is damaged or incomplete ({cause}); {remedy}')


def read_raw(bag: Path, topics: Sequence[str] | None = None) -> Iterator[RawMessage]:
    """Yield the messages of a bag as raw CDR in the order of recording.

    Args:
        bag: a bag folder, or a single .mcap or .db3 file.
        topics: the topics wanted; None for all.

    Raises:
        BagError: the bag is missing, damaged, or ends before its last message.
    """
    with _open(Path(bag)) as reader:
        chosen = [c for c in reader.connections if topics is None or c.topic in topics]
        if not chosen:
            return
        expected = sum(c.msgcount for c in chosen)
        found = 0
        messages = reader.messages(chosen)
        while True:
            try:
                connection, stamp_ns, cdr = next(messages)
            except StopIteration:
                break
            except Exception as error:  # see _open
                raise _damaged(Path(bag), error) from error
            found += 1
            yield RawMessage(connection.topic, connection.msgtype, stamp_ns, cdr)
        if found < expected:
            raise _damaged(Path(bag), f'{found} of {expected} messages')


def topics(bag: Path) -> dict[str, tuple[str, int]]:
    """Return {topic: (message type, number of messages)} of a bag, sorted by topic."""
    with _open(Path(bag)) as reader:
        found: dict[str, tuple[str, int]] = {}
        for connection in sorted(reader.connections, key=lambda c: c.topic):
            count = found.get(connection.topic, ('', 0))[1] + connection.msgcount
            found[connection.topic] = (connection.msgtype, count)
        return found


def image_topics(bag: Path) -> dict[str, tuple[str, int]]:
    """Return {topic: (message type, number of messages)} of a bag's Image topics, raw and not."""
    return {
        topic: kind for topic, kind in topics(bag).items() if kind[0] in (IMAGE, COMPRESSED_IMAGE)
    }


def offered_qos(bag: Path) -> dict[str, list[Qos]]:
    """Return the QoS profiles that each topic of a bag was offered with."""
    with _open(Path(bag)) as reader:
        return {
            c.topic: list(getattr(c.ext, 'offered_qos_profiles', ())) for c in reader.connections
        }


def camera_topics(bag: Path) -> dict[str, tuple[str, int]]:
    """Return those `image_topics` that look like a camera's pictures.

    Left out, where something is left then: what a detector published (…/anomaly/…), depth maps by
    their names, empty topics, and the compressed twin of a raw topic.
    """
    found = image_topics(bag)
    rules = (
        lambda topic: '/anomaly/' not in topic,
        lambda topic: 'depth' not in topic.lower(),
        lambda topic: found[topic][1] > 0,
        lambda topic: (
            topic.removesuffix('/compressed') == topic
            or topic.removesuffix('/compressed') not in found
        ),
    )
    for rule in rules:
        kept = {topic: kind for topic, kind in found.items() if rule(topic)}
        found = kept or found
    return found


def choose_topic(bag: Path, topic: str | None) -> str:
    """Return the image topic to read: `topic` if the bag has it, else its only camera.

    Raises:
        BagError: no image topic, several and none named, or none of that name; lists what there is.
    """
    found = image_topics(bag)
    if topic is None and len(cameras := camera_topics(bag)) == 1:
        return next(iter(cameras))
    if topic in found:
        return str(topic)
    if not found:
        there = ', '.join(f'{name} ({kind})' for name, (kind, _) in topics(bag).items())
        raise BagError(
            f'{bag}: no image topic among its topics ({there or "none at all"}); '
            f'record one of type {IMAGE} or {COMPRESSED_IMAGE}'
        )
    listing = ', '.join(f'{name} ({count} images)' for name, (_, count) in found.items())
    if topic is None:
        raise BagError(f'{bag}: several image topics, name one with --topic: {listing}')
    raise BagError(f'{bag}: no image topic {topic}; choose with --topic from: {listing}')


def deserialize(raw: RawMessage) -> Any:
    """Return the message object of `raw` (its fields as in ROS, arrays as numpy)."""
    try:
        return typestore().deserialize_cdr(raw.cdr, raw.msgtype)
    except Exception as error:  # rosbags raises struct.error, KeyError, SerdeError …
        raise BagError(
            f'{raw.topic}: the message recorded at {raw.stamp_ns} is no {raw.msgtype} ({error}); '
            'the bag is damaged, copy or record it again'
        ) from error


def header_stamp(message: Any) -> int:
    """Return the header stamp of a message in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def read_images(bag: Path, topic: str | None) -> Iterator[tuple[int, str, Any]]:
    """Yield every image of one topic as (stamp in ns, topic, message), in the order of recording.

    The stamp is the header's; a driver that left it at zero gets the time of recording, so that
    frames stay distinguishable.

    Args:
        bag: a bag folder, or a single .mcap or .db3 file.
        topic: an Image or CompressedImage topic; None takes the only one.

    Raises:
        BagError: see `choose_topic` and `read_raw`.
    """
    chosen = choose_topic(Path(bag), topic)
    for raw in read_raw(Path(bag), [chosen]):
        message = deserialize(raw)
        yield header_stamp(message) or raw.stamp_ns, chosen, message


def qos_profile(latched: bool = False) -> Qos:
    """Return the profile of this package's topics: reliable, depth 5; latched: kept, depth 1."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 5,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_INFINITE,
        lifespan=_INFINITE,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_INFINITE,
        avoid_ros_namespace_conventions=False,
    )


def check_replaceable(path: Path) -> None:
    """Raise BagError if `path` exists and is neither a bag nor an empty folder."""
    is_bag = (path / 'metadata.yaml').exists()
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_bag and not is_empty:
        raise BagError(f'{path}: is no bag, so it is not replaced; choose another name')


def add_bag_options(parser: argparse.ArgumentParser) -> None:
    """Add --storage and --bag-version, for commands that write a bag."""
    add = parser.add_argument
    add('--storage', choices=('mcap', 'sqlite3'), default='mcap', help='of the bag written')
    add(
        '--bag-version',
        type=int,
        choices=(8, 9),
        default=9,
        help='of the metadata written: 9 for Jazzy and later, 8 for Humble and Iron too',
    )


class BagWriter:
    """Write one bag; a context manager that leaves the whole bag, or on any error nothing.

    `folder` is the folder being written: files put there (labels, maps) arrive with the bag.
    """

    def __init__(
        self,
        path: Path,
        storage: Storage = 'mcap',
        *,
        version: BagVersion = 9,
        overwrite: bool = False,
    ) -> None:
        """Prepare to write.

        Args:
            path: folder of the new bag; its parents are made.
            storage: 'mcap' or 'sqlite3'.
            version: of the metadata: 9 as Jazzy writes it, 8 for Humble.
            overwrite: replace a bag of that name once the new one is complete.

        Raises:
            BagExistsError: `path` exists and may not be replaced.
            BagError: `path` may be replaced, but is no bag.
        """
        self.path = Path(path)
        self._plugin = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}[storage]
        self._version: BagVersion = version
        self._connections: dict[str, Connection] = {}
        if overwrite:
            check_replaceable(self.path)
        elif self.path.exists():
            raise BagExistsError(f'{self.path}: exists already; remove it or choose another name')

    def __enter__(self) -> BagWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._scratch = Path(
                tempfile.mkdtemp(prefix=f'.{self.path.name}.', suffix='.tmp', dir=self.path.parent)
            )
        except OSError as error:
            raise BagError(
                f'{self.path}: cannot write there ({error.strerror}); choose another folder'
            ) from error
        # The storage file takes the folder's name: the folder bears the final name from the start.
        self.folder = self._scratch / self.path.name
        self._writer = Writer(self.folder, version=self._version, storage_plugin=self._plugin)
        self._writer.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None:
                self._writer.abort()
                return
            self._writer.close()
            if self.path.exists():
                self.path.replace(self._scratch / 'replaced')
            self.folder.replace(self.path)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def add_topic(self, topic: str, msgtype: str, *, latched: bool = False) -> None:
        """Announce a topic with its QoS; a topic keeps one type.

        Raises:
            BagError: the topic was announced with another type, or the type is unknown.
        """
        known = self._connections.get(topic)
        if known is not None:
            if known.msgtype != msgtype:
                raise BagError(
                    f'{self.path}: {topic} carries {known.msgtype}, so no {msgtype} can be '
                    'written to it; use one topic a type'
                )
            return
        if msgtype not in typestore().fielddefs:
            raise BagError(f'{self.path}: {topic} is of unknown type {msgtype}; leave it out')
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=typestore(), offered_qos_profiles=[qos_profile(latched)]
        )

    def write(self, topic: str, msgtype: str, stamp_ns: int, message: Any) -> None:
        """Write one message.

        Args:
            topic: absolute topic name; announced with default QoS if it is new.
            msgtype: such as 'sensor_msgs/msg/Image'.
            stamp_ns: time of recording.
            message: a message object of `typestore()`, or serialised CDR bytes.
        """
        self.add_topic(topic, msgtype)
        if not isinstance(message, (bytes, bytearray, memoryview)):
            message = typestore().serialize_cdr(message, msgtype)
        self._writer.write(self._connections[topic], stamp_ns, message)

    def write_image(
        self,
        topic: str,
        stamp_ns: int,
        pixels: np.ndarray,
        encoding: str,
        frame_id: str = 'camera',
    ) -> None:
        """Write an Image, stamped and recorded at `stamp_ns`.

        Args:
            topic: absolute topic name.
            stamp_ns: header stamp and time of recording.
            pixels: [H, W, 3] uint8 for bgr8 and rgb8, [H, W] for mono8 (uint8) and 32FC1 (float32).
            encoding: one of these.
            frame_id: of the header.
        """
        fields = image_fields(pixels, encoding)
        message = typestore().types[IMAGE](header=header(stamp_ns, frame_id), **fields)
        self.write(topic, IMAGE, stamp_ns, message)

    def write_compressed(
        self,
        topic: str,
        stamp_ns: int,
        data: bytes | np.ndarray,
        format: str,
        frame_id: str = 'camera',
    ) -> None:
        """Write a CompressedImage: `data` are the bytes of a file of `format` ('jpeg', 'png')."""
        array = np.frombuffer(data, np.uint8)
        message = typestore().types[COMPRESSED_IMAGE](
            header=header(stamp_ns, frame_id), format=format, data=array
        )
        self.write(topic, COMPRESSED_IMAGE, stamp_ns, message)

    def write_string(self, topic: str, stamp_ns: int, text: str, *, latched: bool = False) -> None:
        """Write a std_msgs/String; `latched` topics are kept for late subscribers."""
        self.add_topic(topic, STRING, latched=latched)
        self.write(topic, STRING, stamp_ns, typestore().types[STRING](data=text))


def header(stamp_ns: int, frame_id: str) -> Any:
    """Return a std_msgs/Header of `typestore()`."""
    types = typestore().types
    stamp = types['builtin_interfaces/msg/Time'](
        sec=stamp_ns // NANOSECONDS, nanosec=stamp_ns % NANOSECONDS
    )
    return types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id)


def frame_rate(bag: Path, topic: str) -> float:
    """Return the mean rate of a topic in Hz, from the bag's duration; 10.0 where it has none."""
    with _open(Path(bag)) as reader:
        images = sum(c.msgcount for c in reader.connections if c.topic == topic)
        seconds = reader.duration / NANOSECONDS
    return (images - 1) / seconds if images > 1 and seconds > 0 else 10.0
