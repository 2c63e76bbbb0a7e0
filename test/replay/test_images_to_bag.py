import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.images import as_frame
from vq_anomaly_ros.replay import bags, images_to_bag
from vq_anomaly_ros.replay.images_to_bag import main, natural_key

Picture = Callable[..., np.ndarray]


def read(bag: Path) -> list[tuple[int, str, np.ndarray]]:
    return [(s, topic, as_frame(m).bgr()) for s, topic, m in bags.read_images(bag, None)]


@given(st.lists(st.integers(0, 10**6), min_size=2, unique=True), st.text('ab', max_size=2))
def test_numbered_names_are_sorted_by_number(numbers: list[int], prefix: str) -> None:
    names = sorted((f'{prefix}{n}.png' for n in numbers), key=natural_key)
    assert names == [f'{prefix}{n}.png' for n in sorted(numbers)]


@given(st.lists(st.text(max_size=6)))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    assert sorted(sorted(names, key=natural_key)) == sorted(names)


def test_a_folder_becomes_a_bag_in_natural_order(tmp_path: Path, picture: Picture) -> None:
    source = tmp_path / 'pictures'
    source.mkdir()
    for index in (1, 2, 10):
        cv2.imwrite(str(source / f'f{index}.png'), picture(index, 24, 32))
    (source / 'notes.txt').write_text('no picture')
    bag = tmp_path / 'bag'
    assert main([str(source), str(bag), '--rate', '4', '--topic', '/rear/image_raw']) == 0
    frames = read(bag)
    for (_, topic, pixels), index in zip(frames, (1, 2, 10), strict=True):
        assert topic == '/rear/image_raw'
        np.testing.assert_array_equal(pixels, picture(index, 24, 32))
    stamps = [stamp for stamp, _, _ in frames]
    assert np.diff(stamps).tolist() == [250_000_000] * 2
    stems = json.loads((bag / 'frames.json').read_text())
    assert stems == dict(zip(map(str, stamps), ('f1', 'f2', 'f10'), strict=True))


def test_compressed_keeps_the_bytes_of_a_jpeg(tmp_path: Path, picture: Picture) -> None:
    cv2.imwrite(str(tmp_path / 'a.jpg'), picture(0, 24, 32))
    cv2.imwrite(str(tmp_path / 'b.png'), picture(1, 24, 32))
    assert main([str(tmp_path), str(tmp_path / 'bag'), '--compressed']) == 0
    first, second = [m for _, _, m in bags.read_images(tmp_path / 'bag', None)]
    assert bags.image_topics(tmp_path / 'bag') == {
        '/front/image_raw/compressed': (bags.COMPRESSED_IMAGE, 2)
    }
    assert first.data.tobytes() == (tmp_path / 'a.jpg').read_bytes()
    assert (second.format, second.data[:2].tobytes()) == ('jpeg', b'\xff\xd8')


def test_a_video_becomes_a_bag(tmp_path: Path) -> None:
    source = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*'MJPG'), 10, (64, 48))
    for level in range(0, 250, 50):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    assert main([str(source), str(tmp_path / 'bag'), '--storage', 'sqlite3']) == 0
    frames = read(tmp_path / 'bag')
    assert [round(float(pixels.mean()), -1) for _, _, pixels in frames] == [0, 50, 100, 150, 200]
    stems = json.loads((tmp_path / 'bag' / 'frames.json').read_text())
    assert list(stems.values())[:2] == ['drive_000000', 'drive_000001']


@pytest.mark.parametrize('name', ['nowhere', 'empty', 'text.txt', 'broken.mp4'])
def test_sources_that_are_none_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.txt').write_text('text')
    (tmp_path / 'broken.mp4').write_bytes(b'no video')
    assert main([str(tmp_path / name), str(tmp_path / 'bag')]) == 2
    assert f'{name}: ' in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()


def test_a_broken_picture_stops_the_conversion(
    tmp_path: Path, picture: Picture, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / 'pictures'
    source.mkdir()
    cv2.imwrite(str(source / '1.png'), picture(0, 24, 32))
    (source / '2.png').write_bytes(b'')
    assert main([str(source), str(tmp_path / 'bag')]) == 2
    assert '2.png: cannot be decoded' in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ['pictures']


def test_ctrl_c_leaves_no_bag_and_says_so(
    tmp_path: Path,
    picture: Picture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(path: Path) -> images_to_bag.SourceFrame:
        raise KeyboardInterrupt

    cv2.imwrite(str(tmp_path / '1.png'), picture(0, 24, 32))
    monkeypatch.setattr(images_to_bag, '_read_picture', interrupted)
    assert main([str(tmp_path), str(tmp_path / 'bag')]) == 130
    assert 'was not written' in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ['1.png']


def test_a_rate_of_zero_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / 'bag'), '--rate', '0']) == 2
    assert '--rate' in capsys.readouterr().err


def test_an_existing_bag_is_replaced_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'pictures').mkdir()
    cv2.imwrite(str(tmp_path / 'pictures' / 'one.png'), np.zeros((4, 4, 3), np.uint8))
    arguments = [str(tmp_path / 'pictures'), str(tmp_path / 'bag')]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert 'exists already; remove it or choose another name, or replace it with --overwrite' in (
        capsys.readouterr().err
    )
    assert main([*arguments, '--overwrite']) == 0


def test_a_topic_without_a_slash_is_absolute_in_the_bag(tmp_path: Path) -> None:
    (tmp_path / 'pictures').mkdir()
    cv2.imwrite(str(tmp_path / 'pictures' / 'one.png'), np.zeros((4, 4, 3), np.uint8))
    assert main([str(tmp_path / 'pictures'), str(tmp_path / 'bag'), '--topic', 'rear/image']) == 0
    assert list(bags.topics(tmp_path / 'bag')) == ['/rear/image']
