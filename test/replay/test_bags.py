import itertools
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.interfaces import QosDurability, QosHistory, QosReliability

from vq_anomaly_ros.images import as_frame
from vq_anomaly_ros.replay import bags

STORAGES = ('mcap', 'sqlite3')
STAMP = 1_700_000_000_123_456_789


def noise(seed: int, size: tuple[int, int] = (37, 50)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def write_bag(path: Path, storage: str = 'mcap', frames: int = 4, **options: object) -> Path:
    with bags.BagWriter(path, storage, **options) as writer:
        for index in range(frames):
            writer.write_image(
                '/front/image_raw', STAMP + index * 10**8, noise(index), 'bgr8', 'front'
            )
    return path


def storage_file(bag: Path) -> Path:
    (found,) = [p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3')]
    return found


@pytest.mark.parametrize('storage', STORAGES)
def test_images_come_back_bit_for_bit_and_in_order(tmp_path: Path, storage: str) -> None:
    bag = write_bag(tmp_path / 'drive', storage)
    read = list(bags.read_images(bag, None))
    assert [stamp for stamp, _, _ in read] == [STAMP + i * 10**8 for i in range(4)]
    for index, (stamp, topic, message) in enumerate(read):
        assert topic == '/front/image_raw'
        assert message.header.frame_id == 'front'
        assert bags.header_stamp(message) == stamp
        np.testing.assert_array_equal(as_frame(message).pixels, noise(index))


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize(('version', 'reliable'), [(9, 'reliable'), (8, '1')])
def test_qos_profiles_are_in_metadata_and_in_storage(
    tmp_path: Path, storage: str, version: int, reliable: str
) -> None:
    bag = tmp_path / 'drive'
    with bags.BagWriter(bag, storage, version=version) as writer:
        writer.write_image('/image', STAMP, noise(0), 'rgb8')
        writer.write_string('/info', STAMP, '{}', latched=True)
    for source in (bag, storage_file(bag)):
        qos = bags.offered_qos(source)
        (image,), (info,) = qos['/image'], qos['/info']
        assert image.reliability is QosReliability.RELIABLE
        assert image.durability is QosDurability.VOLATILE
        assert image.history is QosHistory.KEEP_LAST
        assert info.durability is QosDurability.TRANSIENT_LOCAL
    metadata = yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    assert metadata['version'] == version
    assert metadata['message_count'] == 2
    assert metadata['relative_file_paths'] == [storage_file(bag).name]
    profiles = metadata['topics_with_message_count'][0]['topic_metadata']['offered_qos_profiles']
    assert f'reliability: {reliable}' in yaml.safe_dump(
        yaml.safe_load(profiles) if isinstance(profiles, str) else profiles
    )


def test_float_images_and_compressed_images_round_trip(tmp_path: Path) -> None:
    score = np.random.default_rng(0).random((9, 7), np.float32)
    ok, jpeg = cv2.imencode('.jpg', noise(1))
    assert ok
    with bags.BagWriter(tmp_path / 'bag') as writer:
        writer.write_image('/score', STAMP, score, '32FC1')
        writer.write_compressed('/image/compressed', STAMP, jpeg.tobytes(), 'jpeg')
    ((_, _, message),) = bags.read_images(tmp_path / 'bag', '/score')
    assert (message.encoding, message.step) == ('32FC1', 28)
    np.testing.assert_array_equal(message.data.view(np.float32).reshape(9, 7), score)
    ((_, _, message),) = bags.read_images(tmp_path / 'bag', '/image/compressed')
    assert message.format == 'jpeg'
    assert message.data.tobytes() == jpeg.tobytes()


def test_raw_messages_can_be_copied_between_storages(tmp_path: Path) -> None:
    source = write_bag(tmp_path / 'a', 'sqlite3')
    with bags.BagWriter(tmp_path / 'b', 'mcap') as writer:
        for raw in bags.read_raw(source):
            writer.write(raw.topic, raw.msgtype, raw.stamp_ns, raw.cdr)
    assert list(bags.read_raw(tmp_path / 'b')) == list(bags.read_raw(source))


def test_a_zero_header_stamp_is_replaced_by_the_time_of_recording(tmp_path: Path) -> None:
    with bags.BagWriter(tmp_path / 'bag') as writer:
        for raw in bags.read_raw(write_bag(tmp_path / 'stamped', frames=1)):
            message = bags.deserialize(raw)
            message.header.stamp.sec = message.header.stamp.nanosec = 0
            writer.write(raw.topic, raw.msgtype, 77, message)
    assert [stamp for stamp, _, _ in bags.read_images(tmp_path / 'bag', None)] == [77]


def test_topics_are_listed_and_asked_for(tmp_path: Path) -> None:
    bag = tmp_path / 'bag'
    with bags.BagWriter(bag) as writer:
        writer.write_image('/left/image_raw', STAMP, noise(0), 'bgr8')
        writer.write_image('/right/image_raw', STAMP, noise(1), 'bgr8')
        writer.write_string('/info', STAMP, '{}')
    assert bags.image_topics(bag) == {
        '/left/image_raw': (bags.IMAGE, 1),
        '/right/image_raw': (bags.IMAGE, 1),
    }
    with pytest.raises(bags.BagError, match=r'--topic.*/left/image_raw \(1 images\), /right'):
        bags.choose_topic(bag, None)
    with pytest.raises(bags.BagError, match=r'no image topic /info.*/right/image_raw'):
        bags.choose_topic(bag, '/info')
    assert bags.choose_topic(bag, '/right/image_raw') == '/right/image_raw'


def test_a_bag_without_images_is_named(tmp_path: Path) -> None:
    with bags.BagWriter(tmp_path / 'bag') as writer:
        writer.write_string('/info', STAMP, '{}')
    with pytest.raises(bags.BagError, match=r'no image topic among its topics \(/info'):
        bags.choose_topic(tmp_path / 'bag', None)


def test_missing_bags_and_unfinished_bags_are_named(tmp_path: Path) -> None:
    with pytest.raises(bags.BagError, match='nowhere: no such bag'):
        list(bags.read_images(tmp_path / 'nowhere', None))
    bag = write_bag(tmp_path / 'drive')
    (bag / 'metadata.yaml').unlink()
    with pytest.raises(bags.BagError, match='ros2 bag reindex'):
        list(bags.read_images(bag, None))
    assert len(list(bags.read_images(storage_file(bag), None))) == 4


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('share', [0.0, 0.001, 0.3, 0.9])
def test_cut_bags_are_refused(tmp_path: Path, storage: str, share: float) -> None:
    bag = write_bag(tmp_path / 'drive', storage, frames=20)
    file = storage_file(bag)
    os.truncate(file, int(share * file.stat().st_size))
    with pytest.raises(bags.BagError, match=r'drive.*(damaged|incomplete).*again'):
        list(bags.read_images(bag, None))


def test_a_cut_mcap_is_told_with_the_command_that_saves_the_rest(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'drive', 'mcap', frames=20)
    file = storage_file(bag)
    os.truncate(file, file.stat().st_size // 2)
    for given in (bag, file):
        with pytest.raises(bags.BagError, match=f'`mcap recover {re.escape(str(file))} -o whole'):
            list(bags.read_images(given, None))
    cut = write_bag(tmp_path / 'other', 'sqlite3', frames=20)
    os.truncate(storage_file(cut), 5000)
    with pytest.raises(bags.BagError) as told:
        list(bags.read_images(cut, None))
    assert 'mcap recover' not in str(told.value)


@pytest.mark.parametrize('name', ['README.md', 'metadata.yaml', 'drive'])
def test_a_file_that_is_no_bag_is_not_called_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('hello')
    with pytest.raises(bags.BagError, match=f'{name}: is no bag; give the folder that holds'):
        bags.topics(tmp_path / name)


def test_missing_messages_are_noticed(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'drive', frames=5)
    shutil.copy(storage_file(write_bag(tmp_path / 'other', frames=3)), storage_file(bag))
    with pytest.raises(bags.BagError, match='3 of 5 messages'):
        list(bags.read_images(bag, None))


def test_metadata_that_is_no_metadata_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'drive')
    for text in ('', '[1, 2]', 'rosbag2_bagfile_information: {version: 99}', '{: :'):
        (bag / 'metadata.yaml').write_text(text)
        with pytest.raises(bags.BagError, match='damaged'):
            bags.topics(bag)


@pytest.mark.parametrize('storage', STORAGES)
def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, storage: str) -> None:
    writer = bags.BagWriter(tmp_path / 'drive', storage)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.write_image('/image', STAMP, noise(0), 'bgr8')
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_replacement_keeps_the_old_bag(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'drive', frames=2)
    with pytest.raises(ZeroDivisionError), bags.BagWriter(bag, overwrite=True) as writer:
        writer.write_image('/image', STAMP, noise(0), 'bgr8')
        _ = 1 / 0
    assert len(list(bags.read_images(bag, None))) == 2
    assert list(tmp_path.iterdir()) == [bag]


def test_replacing_needs_to_be_asked_for_and_spares_other_folders(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'drive', frames=2)
    with pytest.raises(bags.BagError, match='exists already'):
        bags.BagWriter(bag)
    write_bag(bag, frames=3, overwrite=True)
    assert len(list(bags.read_images(bag, None))) == 3
    precious = tmp_path / 'thesis'
    precious.mkdir()
    (precious / 'chapter.tex').touch()
    with pytest.raises(bags.BagError, match='is no bag'):
        bags.BagWriter(precious, overwrite=True)


def test_files_put_into_the_folder_arrive_with_the_bag(tmp_path: Path) -> None:
    with bags.BagWriter(tmp_path / 'drive') as writer:
        writer.write_image('/image', STAMP, noise(0), 'bgr8')
        (writer.folder / 'labels').mkdir()
        (writer.folder / 'labels' / 'a.png').write_bytes(b'png')
    assert (tmp_path / 'drive' / 'labels' / 'a.png').read_bytes() == b'png'


def test_a_topic_keeps_one_type(tmp_path: Path) -> None:
    message = f'/image carries {bags.IMAGE}'
    with pytest.raises(bags.BagError, match=message), bags.BagWriter(tmp_path / 'b') as writer:
        writer.write_image('/image', STAMP, noise(0), 'bgr8')
        writer.write_compressed('/image', STAMP, b'x', 'jpeg')


def test_reading_stops_early_without_harm(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'drive', frames=6)
    assert len(list(itertools.islice(bags.read_images(bag, None), 2))) == 2
    assert len(list(bags.read_images(bag, None))) == 6
