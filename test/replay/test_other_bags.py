"""Bags as other people record them: storages, compressions, versions, topics."""

from __future__ import annotations

import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2 import Reader as PeerReader

from vq_anomaly_ros.images import as_frame, image_fields
from vq_anomaly_ros.replay import bags, topic_choice
from vq_anomaly_ros.replay.evaluate_bag import main as evaluate
from vq_anomaly_ros.replay.images_to_bag import main as images_to_bag

mcap = pytest.importorskip('mcap.writer', reason='mcap is not installed')

TOPIC = '/cam0/image_raw'
STAMP = 1_700_000_000_000_000_000


def image(picture: Any, seed: int) -> Any:
    fields = image_fields(picture(seed), 'bgr8')
    return bags.typestore().types[bags.IMAGE](header=bags.header(STAMP + seed, 'lens'), **fields)


def images_of(bag: Path, picture: Any) -> None:
    """Assert that the bag holds three pictures, bit for bit."""
    read = list(bags.read_images(bag, None))
    assert [stamp for stamp, _, _ in read] == [STAMP + i for i in range(3)]
    for number, (_, topic, message) in enumerate(read):
        assert topic == TOPIC
        np.testing.assert_array_equal(as_frame(message).pixels, picture(number))


@pytest.mark.parametrize(
    ('storage', 'mode', 'version'),
    itertools.product(StoragePlugin, (None, CompressionMode.FILE, CompressionMode.MESSAGE), (8, 9)),
)
def test_bags_of_rosbag2_with_zstd(
    tmp_path: Path, picture: Any, storage: Any, mode: Any, version: Any
) -> None:
    if storage is StoragePlugin.MCAP and mode is CompressionMode.FILE:
        pytest.skip('rosbag2 compresses the chunks of an mcap instead: see the next test')
    writer = Writer(tmp_path / 'bag', version=version, storage_plugin=storage)
    if mode is not None:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(TOPIC, bags.IMAGE, typestore=bags.typestore())
        for number in range(3):
            data = bags.typestore().serialize_cdr(image(picture, number), bags.IMAGE)
            writer.write(connection, STAMP + number, data)
    images_of(tmp_path / 'bag', picture)


def rosbag2_mcap(path: Path, picture: Any, compression: Any) -> Path:
    """An mcap as rosbag2_storage_mcap writes it, with a message type that nobody here knows."""
    with path.open('wb') as file:
        writer = mcap.Writer(file, compression=compression, chunk_size=20_000)
        writer.start('ros2', 'libmcap')
        text, _ = bags.typestore().generate_msgdef(bags.IMAGE, ros_version=2)
        known = writer.register_schema(bags.IMAGE, 'ros2msg', text.encode())
        foreign = writer.register_schema('acme_msgs/msg/Torque', 'ros2msg', b'float64 torque\n')
        qos = {'offered_qos_profiles': '[]'}
        pictures = writer.register_channel(TOPIC, 'cdr', known, qos)
        torques = writer.register_channel('/torque', 'cdr', foreign, qos)
        for number in range(3):
            data = bytes(bags.typestore().serialize_cdr(image(picture, number), bags.IMAGE))
            stamp = STAMP + number
            writer.add_message(pictures, stamp, data, stamp)
            writer.add_message(torques, stamp, b'\0\1\0\0' + bytes(8), stamp)
        writer.finish()
    return path


@pytest.mark.parametrize(
    'compression', [mcap.CompressionType.NONE, mcap.CompressionType.LZ4, mcap.CompressionType.ZSTD]
)
def test_an_mcap_file_with_compressed_chunks_and_foreign_messages(
    tmp_path: Path, picture: Any, compression: Any
) -> None:
    file = rosbag2_mcap(tmp_path / 'drive.mcap', picture, compression)
    images_of(file, picture)
    assert bags.topics(file)['/torque'] == ('acme_msgs/msg/Torque', 3)


def test_a_foreign_bag_is_evaluated(tmp_path: Path, picture: Any, tiny_model: Path) -> None:
    file = rosbag2_mcap(tmp_path / 'drive.mcap', picture, mcap.CompressionType.ZSTD)
    out = tmp_path / 'out'
    assert evaluate([str(file), '--model', str(tiny_model), '--out', str(out), '--no-video']) == 0
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['frames'] == 3 and summary['frames_dropped'] == 0


def test_a_bag_in_several_files(tmp_path: Path, picture: Any) -> None:
    bag = tmp_path / 'bag'
    bag.mkdir()
    parts = []
    for number in range(3):
        with bags.BagWriter(tmp_path / f'part_{number}', 'sqlite3') as writer:
            writer.write(TOPIC, bags.IMAGE, STAMP + number, image(picture, number))
        (file,) = (tmp_path / f'part_{number}').glob('*.db3')
        parts.append(file.rename(bag / file.name).name)
    metadata = yaml.safe_load((tmp_path / 'part_0' / 'metadata.yaml').read_text())
    information = metadata['rosbag2_bagfile_information']
    information['relative_file_paths'] = parts
    information['message_count'] = 3
    information['topics_with_message_count'][0]['message_count'] = 3
    information['files'] = [
        {**information['files'][0], 'path': name, 'message_count': 1} for name in parts
    ]
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(metadata))
    images_of(bag, picture)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('version', ['8', '9'])
def test_the_commands_write_the_version_and_storage_asked_for(
    tmp_path: Path, picture: Any, tiny_model: Path, storage: str, version: str
) -> None:
    import cv2

    (tmp_path / 'pictures').mkdir()
    cv2.imwrite(str(tmp_path / 'pictures' / 'a.png'), picture(0))
    options = ['--storage', storage, '--bag-version', version]
    drive = tmp_path / 'drive'
    assert images_to_bag([str(tmp_path / 'pictures'), str(drive), *options]) == 0
    out = tmp_path / 'out'
    arguments = [str(drive), '--model', str(tiny_model), '--out', str(out), '--no-video', *options]
    assert evaluate(arguments) == 0
    for bag in (drive, out / 'output'):
        text = (bag / 'metadata.yaml').read_text()
        information = yaml.safe_load(text)['rosbag2_bagfile_information']
        assert information['version'] == int(version)
        assert information['storage_identifier'] == storage
        with PeerReader(bag) as reader:
            assert all(c.ext.offered_qos_profiles for c in reader.connections)


def several(path: Path, picture: Any, topics: list[str]) -> Path:
    with bags.BagWriter(path) as writer:
        for topic in topics:
            if topic.endswith('compressed'):
                writer.write_compressed(topic, STAMP, b'\xff\xd8', 'jpeg')
            else:
                writer.write_image(topic, STAMP, picture(0), 'bgr8')
    return path


@pytest.mark.parametrize(
    'beside',
    [
        ['/cam0/anomaly/score', '/cam0/anomaly/mask'],
        ['/cam0/image_raw/compressed'],
        ['/cam0/depth/image_rect', '/cam0/aligned_depth_to_color/image_raw'],
    ],
)
def test_the_camera_is_found_among_other_pictures(
    tmp_path: Path, picture: Any, beside: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bag = several(tmp_path / 'bag', picture, [TOPIC, *beside])
    assert bags.choose_topic(bag, None) == TOPIC
    assert topic_choice.ask_for_topic(bag, None) is None
    assert f'taking {TOPIC}; name another with --topic' in capsys.readouterr().err


def test_the_results_of_a_detector_alone_can_still_be_looked_at(
    tmp_path: Path, picture: Any
) -> None:
    bag = several(tmp_path / 'bag', picture, ['/cam0/anomaly/overlay'])
    assert bags.choose_topic(bag, None) == '/cam0/anomaly/overlay'


@pytest.mark.parametrize(
    ('typed', 'chosen'), [('2\n', '/right/image_raw'), ('0\n', ''), ('left\n', ''), ('', '')]
)
def test_a_person_at_a_terminal_is_asked(
    tmp_path: Path,
    picture: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    chosen: str,
) -> None:
    bag = several(tmp_path / 'bag', picture, ['/left/image_raw', '/right/image_raw'])
    terminal = io.StringIO(typed)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, 'stdin', terminal)
    if chosen:
        assert topic_choice.ask_for_topic(bag, None) == chosen
    else:
        with pytest.raises(bags.BagError, match='none of 1 to 2; choose with --topic'):
            topic_choice.ask_for_topic(bag, None)
    said = capsys.readouterr().err
    assert '1  /left/image_raw  bgr8 128x64, 1 images at 10.0 Hz' in said


def test_without_a_terminal_the_topics_are_listed_and_it_fails(
    tmp_path: Path, picture: Any, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = several(tmp_path / 'bag', picture, ['/left/image_raw', '/right/image_raw/compressed'])
    assert evaluate([str(bag), '--model', str(tiny_model), '--out', str(tmp_path / 'out')]) == 2
    said = capsys.readouterr().err
    assert '2  /right/image_raw/compressed  jpeg, 1 images' in said
    assert 'name one with --topic' in said
    assert not (tmp_path / 'out').exists()
