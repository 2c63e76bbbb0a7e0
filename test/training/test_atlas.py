"""The atlas of a tiny model: patches from where its codes say, exact counts, refusals, pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from training import atlas as command
from training import atlas_frames, atlas_picture
from training.atlas import main
from training.atlas_patches import NearestPatches, place_of
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.atlas import Atlas, AtlasError, read_atlas
from vq_anomaly_ros.detection.detector import Detection, Detector
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay.bags import BagWriter
from vq_anomaly_ros.replay.sample_drive import training_pictures

ROOT = Path(__file__).resolve().parents[2]
SIZE = (96, 160)  # of a frame; the tiny model's input is 64x128, its maps are 16x32
MAP = (16, 32)
SIDE = 16
CODES = 12
STAMP = 1_700_000_000_000_000_000


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., np.ndarray]) -> Path:
    """Ten pictures; 2.png comes before 10.png."""
    folder = tmp_path_factory.mktemp('pictures')
    for number in range(1, 11):
        save(folder / f'{number}.png', picture(number, *SIZE))
    return folder


@pytest.fixture(scope='module')
def made(tiny_model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the command."""
    out = tmp_path_factory.mktemp('made')
    arguments = ('--model', tiny_model, '--pictures', folder, '--out', out)
    assert run(*arguments, '--patch', SIDE, '--nearest', 4) == 0
    return out


def seen(model: Path, frames: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Score and codes of BGR pictures by ONNX's reference: nothing of the command's is in it."""
    evaluator = ReferenceEvaluator(onnx.load(str(model)))
    found = {}
    for name, pixels in frames.items():
        stretched = cv2.resize(pixels, (128, 64), interpolation=cv2.INTER_LINEAR)
        score, codes = evaluator.run(['score', 'codes'], {'image': stretched[None, ..., ::-1]})
        found[name] = (score[0], codes[0])
    return found


def test_patches_come_from_where_the_codes_say(made: Path, tiny_model: Path, folder: Path) -> None:
    atlas = read_atlas(made, model_file.read(tiny_model).info)
    frames = {f'{n}.png': cv2.imread(str(folder / f'{n}.png')) for n in range(1, 11)}
    maps = seen(tiny_model, frames)
    for code in range(CODES):
        best = []
        for order, (name, (score, codes)) in enumerate(maps.items()):
            where = np.argwhere(codes == code)
            if len(where):
                i, j = min(where.tolist(), key=lambda ij: score[ij[0], ij[1]])
                best.append((-score[i, j], -order, name, (6 * i + 3, 5 * j + 2)))
        best = sorted(best, reverse=True)[:4]
        assert atlas.filled[code].sum() == len(best)
        for rank, (closeness, _, name, (row, column)) in enumerate(best):
            assert atlas.closeness[code, rank] == pytest.approx(closeness, abs=1e-5)
            assert atlas.frame_names[code, rank] == name
            assert tuple(atlas.places[code, rank]) == (row, column)
            top, left = min(max(row - 8, 0), 80), min(max(column - 8, 0), 144)
            cut = frames[name][top : top + SIDE, left : left + SIDE, ::-1]
            np.testing.assert_array_equal(atlas.patches[code, rank], cut)
            y, x = atlas.centres[code, rank]
            np.testing.assert_array_equal(
                atlas.patches[code, rank, y, x], frames[name][row, column, ::-1]
            )
    assert (np.diff(atlas.closeness, axis=1)[atlas.filled[:, 1:]] <= 0).all()
    for names, filled in zip(atlas.frame_names, atlas.filled, strict=True):
        assert len(set(names[filled])) == filled.sum(), 'one patch a frame'


def test_counts_and_perplexity_are_those_of_the_codes(
    made: Path, tiny_model: Path, folder: Path
) -> None:
    atlas = read_atlas(made)
    frames = {f'{n}.png': cv2.imread(str(folder / f'{n}.png')) for n in range(1, 11)}
    chosen = np.concatenate([codes.ravel() for _, codes in seen(tiny_model, frames).values()])
    counts = np.array([(chosen == code).sum() for code in range(CODES)])
    # a position between two codevectors may fall to either by the last bit of a sum
    assert np.abs(atlas.count - counts).max() <= 2
    assert atlas.count.sum() == 10 * MAP[0] * MAP[1]
    told = json.loads((made / 'atlas.json').read_text())
    for index, name in enumerate(told['classes']):
        shares = atlas.count[3 * index : 3 * index + 3] / atlas.count[3 * index :][:3].sum()
        entropy = -sum(share * np.log(share) for share in shares if share)
        assert told['perplexity'][name] == pytest.approx(np.exp(entropy), abs=1e-4)
    assert told['unused_codevectors'] == (atlas.count == 0).sum()
    assert (told['model'], told['source'], told['frames']) == ('tiny', folder.name, 10)
    assert told['frame_size'] == list(SIZE)


def detection(codes: Any, closeness: Any) -> Detection:
    score = -np.array(closeness, np.float32)
    mask = np.zeros(score.shape, np.uint8)
    return Detection(None, score, mask, score, np.array(codes, np.int32))


def test_the_first_of_equals_is_kept_and_the_farthest_goes(
    tiny_info: model_file.ModelInfo,
) -> None:
    gathered = NearestPatches(tiny_info, 'noise', patch=8, nearest=2)
    rng = np.random.default_rng(0)
    frames = [Frame(rng.integers(0, 256, (16, 24), np.uint8), 'mono') for _ in range(4)]
    # 2x3 positions of 8x8 pixels: patches of eight pixels are just these tiles
    gathered.add('a', frames[0], detection([[0, 0, 5], [5, 0, 11]], np.full((2, 3), 0.5)))
    gathered.add('b', frames[1], detection(np.zeros((2, 3)), [[0, 0.25, 0], [0.75, 0, 0.75]]))
    gathered.add('c', frames[2], detection(np.zeros((2, 3)), np.full((2, 3), 0.5)))
    gathered.add('d', frames[3], detection(np.full((2, 3), 5), np.full((2, 3), 0.25)))
    atlas = gathered.atlas()
    assert atlas.count.tolist() == [15, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1]
    assert atlas.frame_names[[0, 5, 11]].tolist() == [['b', 'a'], ['a', 'd'], ['a', '']]
    assert atlas.closeness[[0, 5]].tolist() == [[0.75, 0.5], [0.5, 0.25]]
    assert atlas.places[0].tolist() == [[12, 4], [4, 4]]
    assert atlas.places[5].tolist() == [[4, 20], [4, 4]]
    expected = np.repeat(frames[1].pixels[8:16, 0:8, None], 3, axis=2)
    np.testing.assert_array_equal(atlas.patches[0, 0], expected)
    assert not atlas.patches[11, 1].any() and atlas.places[11, 1].tolist() == [-1, -1]
    assert atlas.unused == 9
    np.testing.assert_allclose(atlas.perplexity, [1, 1, 0, 1])


def test_positions_lie_in_the_middle_of_what_is_stretched() -> None:
    assert place_of((0, 0), (128, 256), (540, 960)).tolist() == [2, 1]
    assert place_of((127, 255), (128, 256), (540, 960)).tolist() == [537, 958]
    assert place_of((0, 0), (4, 4), (4, 4)).tolist() == [0, 0]
    assert place_of((1, 3), (2, 4), (1, 2)).tolist() == [0, 1]


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_patches_are_rgb_whatever_the_frame_is(tiny_info: Any, order: Any) -> None:
    gathered = NearestPatches(tiny_info, 'noise', patch=8, nearest=1)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0] = 200
    gathered.add('a', Frame(pixels, order), detection([[0]], [[0.5]]))
    colour = gathered.atlas().patches[0, 0, 0, 0].tolist()
    assert colour == ([200, 0, 0] if order == 'rgb' else [0, 0, 200])
    pixels[:] = 0
    assert gathered.atlas().patches[0, 0].any(), 'a patch owns its pixels'


def write_bag(path: Path, picture: Callable[..., np.ndarray], count: int = 5) -> Path:
    with BagWriter(path) as bag:
        for number in range(count):
            bag.write_image('/front/image_raw', STAMP + number, picture(number, *SIZE), 'bgr8')
    return path


def test_a_bag_gives_stamps_and_the_stride_skips(
    tiny_model: Path, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    bag = write_bag(tmp_path / 'drive', picture)
    arguments = ('--model', tiny_model, '--bag', bag, '--patch', SIDE, '--stride', 2)
    assert run(*arguments, '--out', tmp_path / 'out', '--topic', '/front/image_raw') == 0
    atlas = read_atlas(tmp_path / 'out')
    assert (atlas.frames, atlas.source) == (3, 'drive /front/image_raw')
    names = set(atlas.frame_names[atlas.filled])
    assert names == {str(STAMP + number) for number in (0, 2, 4)}


def test_a_broken_image_of_a_bag_is_told_and_left_out(
    tiny_model: Path, tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Any
) -> None:
    jpeg = cv2.imencode('.jpg', picture(0, *SIZE))[1]
    for name, datas in (('some', (jpeg, jpeg[:200])), ('none', (jpeg[:200],))):
        with BagWriter(tmp_path / name) as bag:
            for number, data in enumerate(datas):
                stamp = STAMP + number
                bag.write_compressed('/front/image_raw/compressed', stamp, data.ravel(), 'jpeg')
    arguments = ('--model', tiny_model, '--out', tmp_path / 'out', '--patch', SIDE, '--bag')
    assert run(*arguments, tmp_path / 'some') == 0
    assert f'frame {STAMP + 1} of' in capsys.readouterr().err.replace('\n', ' ')
    assert read_atlas(tmp_path / 'out').frames == 1
    assert run(*arguments, tmp_path / 'none') == 2
    assert 'has no frame that can be read' in capsys.readouterr().err


def test_the_sample_drive_is_drawn(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(atlas_frames, 'DRIVE_PICTURES', 3)
    monkeypatch.setattr(atlas_frames, 'DRIVE_SIZE', SIZE)
    arguments = ('--model', tiny_model, '--sample-drive', '--out', tmp_path / 'out')
    assert run(*arguments, '--stride', 2, '--patch', SIDE) == 0
    atlas = read_atlas(tmp_path / 'out')
    assert (atlas.source, atlas.frames, atlas.frame_size) == ('sample drive', 2, SIZE)
    drawn = {
        str(one.stamp_ns): one.image for one in training_pictures(atlas_frames.DRIVE_SEED, 3, SIZE)
    }
    first, _, third = drawn
    assert set(atlas.frame_names[atlas.filled]) == {first, third}
    for code, rank in np.argwhere(atlas.filled):
        (row, column), (y, x) = atlas.places[code, rank], atlas.centres[code, rank]
        image = drawn[atlas.frame_names[code, rank]]
        np.testing.assert_array_equal(atlas.patches[code, rank, y, x], image[row, column])


def refused(tmp_path: Path, capsys: Any, *arguments: Any) -> str:
    """Runs what has to be refused; the message. Nothing may lie in the folder of results."""
    out = tmp_path / 'refused'
    assert run('--out', out, *arguments) == 2
    assert not out.exists() or list(out.iterdir()) == []
    return ' '.join(capsys.readouterr().err.split())


def test_a_model_without_codevectors_is_refused(
    make_tiny_model: Any, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    model = make_tiny_model(
        tmp_path / 'cpc.onnx', method='cpc', classes=(), palette=(), codevectors_per_class=0
    )
    message = refused(tmp_path, capsys, '--model', model, '--pictures', folder)
    assert 'cpc.onnx: a model of the method cpc has no codevectors to show; give one' in message


def test_codes_beyond_the_codebook_are_refused(tiny_info: Any) -> None:
    gathered = NearestPatches(tiny_info, 'noise', patch=8, nearest=1)
    frame = Frame(np.zeros((8, 8), np.uint8), 'mono')
    for code in (-1, CODES):
        with pytest.raises(AtlasError, match=f'noise, frame a: .*beyond the {CODES} of its'):
            gathered.add('a', frame, detection([[code]], [[0.5]]))
    with pytest.raises(AtlasError, match='noise: has no frame'):
        NearestPatches(tiny_info, 'noise', patch=8, nearest=1).atlas()


def test_frames_of_changing_size_are_refused(
    tiny_model: Path, tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Any
) -> None:
    save(tmp_path / 'mixed' / 'a.png', picture(0, 96, 160))
    save(tmp_path / 'mixed' / 'b.png', picture(0, 90, 160))
    message = refused(tmp_path, capsys, '--model', tiny_model, '--pictures', tmp_path / 'mixed')
    assert 'mixed, frame b.png: is 160x90 where those before are 160x96' in message


def test_pictures_that_are_none_are_refused(
    tiny_model: Path, tmp_path: Path, folder: Path, capsys: Any
) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'a.png').write_bytes(b'cut')
    arguments = ('--model', tiny_model, '--pictures')
    assert 'gone: there is no such' in refused(tmp_path, capsys, *arguments, tmp_path / 'gone')
    assert 'empty: there is no pict' in refused(tmp_path, capsys, *arguments, tmp_path / 'empty')
    assert 'a.png: is no readable' in refused(tmp_path, capsys, *arguments, tmp_path / 'broken')
    small = refused(tmp_path, capsys, *arguments, folder, '--patch', 97)
    assert '1.png: is 160x96, smaller than a patch of 97 pixels; give a smaller --patch' in small


def test_bags_without_images_are_refused(tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    with BagWriter(tmp_path / 'talk') as bag:
        bag.write_string('/chatter', STAMP, 'hello')
    with BagWriter(tmp_path / 'dark') as bag:
        bag.add_topic('/front/image_raw', 'sensor_msgs/msg/Image')
    arguments = ('--model', tiny_model, '--bag')
    assert 'no image topic' in refused(tmp_path, capsys, *arguments, tmp_path / 'talk')
    assert 'gone: no such bag' in refused(tmp_path, capsys, *arguments, tmp_path / 'gone')
    assert 'dark /front/image_raw: has no frame' in refused(
        tmp_path, capsys, *arguments, tmp_path / 'dark'
    )


@pytest.mark.parametrize(
    ('option', 'value', 'remedy'),
    [
        ('--patch', 7, '--patch 7: give 8 to 256'),
        ('--nearest', 0, '--nearest 0: give 1 to 50'),
        ('--stride', 0, '--stride 0: give 1 or more'),
        ('--topic', '/front', '--topic /front: belongs to --bag'),
    ],
)
def test_options_out_of_range_are_refused(
    tiny_model: Path,
    folder: Path,
    tmp_path: Path,
    capsys: Any,
    option: str,
    value: Any,
    remedy: str,
) -> None:
    arguments = ('--model', tiny_model, '--pictures', folder, option, value)
    assert remedy in refused(tmp_path, capsys, *arguments)


def test_one_source_is_named(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ('--model', tiny_model, '--out', tmp_path / 'out')
    for sources in ((), ('--pictures', folder, '--sample-drive')):
        with pytest.raises(SystemExit) as stopped:
            run(*arguments, *sources)
        assert stopped.value.code == 2


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_frame(
    tiny_model: Path, folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(command, 'make_atlas', None)
    (tmp_path / 'file').write_text('')
    arguments = ('--model', tiny_model, '--pictures', folder, '--out', tmp_path / 'file' / 'out')
    assert run(*arguments) == 2
    assert 'file/out: cannot write there' in capsys.readouterr().err


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_what_was_there_stays_when_it_is_not_finished(
    tiny_model: Path, folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any, error: Any
) -> None:
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'atlas.npz').write_text('old')

    def fails(*_: Any) -> bytes:
        raise error

    arguments = ('--model', tiny_model, '--pictures', folder, '--out', out, '--patch', SIDE)
    interrupted = error is KeyboardInterrupt
    # Ctrl-C at a frame; a full disk at the last file
    monkeypatch.setattr(
        *((Detector, 'detect') if interrupted else (atlas_picture, 'as_jpeg')), fails
    )
    assert run(*arguments) == (130 if interrupted else 2)
    told = capsys.readouterr().err
    assert 'nothing was written' in told if interrupted else 'No space left' in told
    assert [path.name for path in out.iterdir()] == ['atlas.npz']
    assert (out / 'atlas.npz').read_text() == 'old'


def test_the_pictures_are_those_of_the_page(made: Path) -> None:
    jpeg = (made / 'atlas.jpg').read_bytes()
    assert len(jpeg) <= 250_000
    for name in ('atlas.png', 'atlas.jpg'):
        height, width = cv2.imread(str(made / name)).shape[:2]
        assert 800 < width <= 1600 and height > 400
    assert sorted(path.name for path in made.iterdir()) == [
        'atlas.jpg', 'atlas.json', 'atlas.npz', 'atlas.png'
    ]  # fmt: skip


def painted(codevectors: int, nearest: int, used: int) -> Atlas:
    """Two classes; the first `used` codevectors of each have patches of one colour each."""
    total = 2 * codevectors
    filled = np.repeat(np.arange(total) % codevectors < used, nearest).reshape(total, nearest)
    values = 20 + 200 * (np.arange(total) % codevectors) // codevectors
    patches = np.zeros((total, nearest, 12, 12, 3), np.uint8)
    patches[..., 1] = values[:, None, None, None]
    return Atlas(
        model='tiny',
        weights_sha256='ab' * 32,
        classes=('road', 'a class of a name that is much too long for its place'),
        codevectors_per_class=codevectors,
        source='noise',
        date='2026-01-01',
        frames=nearest,
        frame_size=(40, 40),
        patches=patches,
        count=np.where(filled[:, 0], 100 - np.arange(total) % codevectors, 0),
        closeness=np.where(filled, 0.5, np.nan).astype(np.float32),
        class_index=np.arange(total) // codevectors,
        frame_names=np.where(filled, 'a', ''),
        places=np.where(filled[..., None], 20, np.full((total, nearest, 2), -1)).astype(np.int32),
    )


@pytest.mark.parametrize(
    ('codevectors', 'nearest'), [(1, 1), (3, 2), (10, 6), (20, 6), (23, 50), (5, 7)]
)
def test_every_codevector_is_drawn_within_the_width(codevectors: int, nearest: int) -> None:
    used = max(1, codevectors - 1)
    atlas = painted(codevectors, nearest, used)
    page = atlas_picture.draw(atlas, ((200, 0, 0), (0, 0, 200)))
    assert page.dtype == np.uint8 and page.shape[1] <= 1600
    for code in range(used):
        colour = (0, int(atlas.patches[code, 0, 0, 0, 1]), 0)
        assert (page == np.array(colour)).all(axis=2).sum() > 100, code
    # the bars are in the colours of the classes, in BGR
    assert (page == np.array((0, 0, 200))).all(axis=2).any()
    assert (page == np.array((200, 0, 0))).all(axis=2).any()


def test_a_jpeg_keeps_to_its_limit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    small = atlas_picture.as_jpeg(noise, 30_000)
    assert len(small) <= 30_000
    height, width = cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert width < 600 and abs(width / height - 1.5) < 0.02
    plain = atlas_picture.as_jpeg(np.full_like(noise, 255), 30_000)
    assert cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR).shape == noise.shape


def test_neither_torch_nor_rclpy_is_imported() -> None:
    code = (
        'import sys, training.atlas; '
        'print([name for name in ("torch", "rclpy", "sklearn") if name in sys.modules])'
    )
    found = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert found.stdout.strip() == '[]'
