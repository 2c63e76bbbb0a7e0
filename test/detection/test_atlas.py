"""The file of an atlas: what is written is read back, and everything else is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vq_anomaly_ros.detection import atlas as module
from vq_anomaly_ros.detection.atlas import (
    Atlas,
    AtlasError,
    corner_of,
    perplexity,
    read_atlas,
    write_atlas,
)

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ('road', 'tree')
CODEVECTORS, NEAREST, SIDE = 2, 3, 4
FRAME = (20, 30)
SHA256 = 'ab' * 32


def an_atlas(**changes: Any) -> Atlas:
    """Four codevectors with 3, 1, 0 and 2 patches."""
    shape = (len(CLASSES) * CODEVECTORS, NEAREST)
    filled = np.arange(NEAREST) < np.array([3, 1, 0, 2])[:, None]
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (*shape, SIDE, SIDE, 3), np.uint8)
    places = np.stack([rng.integers(0, size, shape) for size in FRAME], axis=-1)
    nan = np.float32(np.nan)
    fields: dict[str, Any] = {
        'model': 'tiny',
        'weights_sha256': SHA256,
        'classes': CLASSES,
        'codevectors_per_class': CODEVECTORS,
        'source': 'noise',
        'date': '2026-01-01',
        'frames': 5,
        'frame_size': FRAME,
        'patches': np.where(filled[..., None, None, None], patches, np.uint8(0)),
        'count': np.array([6, 2, 0, 8]),
        'closeness': np.where(filled, np.float32([0.5, 0.25, -0.125]), nan),
        'class_index': np.array([0, 0, 1, 1]),
        'frame_names': np.where(filled, '1700000000000000000', ''),
        'places': np.where(filled[..., None], places, -1).astype(np.int32),
    }
    return Atlas(**{**fields, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_atlas(an_atlas(), tmp_path / 'atlas.npz')
    return tmp_path / 'atlas.npz'


def rewrite(path: Path, **changes: Any) -> None:
    """Another archive with these arrays (None: left out), and a description that fits it."""
    with np.load(path) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    describe(path, arrays_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def describe(path: Path, **changes: Any) -> None:
    description = path.with_suffix('.json')
    description.write_text(json.dumps({**json.loads(description.read_text()), **changes}))


@pytest.mark.parametrize('folder', [True, False])
def test_what_is_written_is_read(path: Path, folder: bool) -> None:
    written, found = an_atlas(), read_atlas(path.parent if folder else str(path))
    for field in dataclasses.fields(Atlas):
        one, other = getattr(written, field.name), getattr(found, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(other, one)
            assert other.dtype == one.dtype
        else:
            assert other == one


def test_the_description_is_for_people_too(path: Path) -> None:
    fields = json.loads(path.with_suffix('.json').read_text())
    assert fields['perplexity'] == {
        'road': round(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), 4),
        'tree': 1.0,
    }
    assert fields['unused_codevectors'] == 1
    assert (fields['patch'], fields['nearest']) == (SIDE, NEAREST)


def test_two_atlases_of_the_same_are_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_atlas(an_atlas(), tmp_path / 'again.npz')
    assert (tmp_path / 'again.npz').read_bytes() == path.read_bytes()
    assert (tmp_path / 'again.json').read_text() == path.with_suffix('.json').read_text()


def test_shares_and_perplexity_are_exact() -> None:
    atlas = an_atlas()
    np.testing.assert_array_equal(atlas.shares, [0.75, 0.25, 0, 1])
    np.testing.assert_array_equal(atlas.class_shares, [0.5, 0.5])
    assert atlas.unused == 1
    counts = np.array([[5, 5, 5, 5], [7, 0, 0, 0], [0, 0, 0, 0], [3, 0, 3, 0]])
    np.testing.assert_allclose(perplexity(counts), [4, 1, 0, 2], rtol=1e-12)


def test_patches_move_inwards_at_the_edges() -> None:
    places = np.array([[0, 0], [10, 15], [19, 29], [2, 28]])
    np.testing.assert_array_equal(
        corner_of(places, SIDE, FRAME), [[0, 0], [8, 13], [16, 26], [0, 26]]
    )
    atlas = an_atlas()
    assert atlas.centres.shape == (4, NEAREST, 2)
    inside = atlas.centres[atlas.filled]
    assert inside.min() >= 0 and inside.max() < SIDE


def test_an_atlas_belongs_to_its_weights(path: Path, tiny_info: Any) -> None:
    fitting = dataclasses.replace(
        tiny_info,
        weights_sha256=SHA256,
        classes=CLASSES,
        palette=tiny_info.palette[:2],
        codevectors_per_class=CODEVECTORS,
    )
    assert read_atlas(path, fitting).model == 'tiny'
    other = dataclasses.replace(fitting, name='other', weights_sha256='cd' * 32)
    with pytest.raises(AtlasError, match=r"atlas\.json: .* other weights .* 'other' .*; make it"):
        read_atlas(path, other)
    renamed = dataclasses.replace(fitting, classes=('road', 'sea'))
    with pytest.raises(AtlasError, match=r'atlas\.npz: .*\(road, tree\).*\(road, sea\)'):
        read_atlas(path, renamed)


@pytest.mark.parametrize('keep', [0, 30, -1])
def test_a_cut_file_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AtlasError, match=r'atlas\.npz: .*atlas\.json describes .*copy both'):
        read_atlas(path)


@pytest.mark.parametrize('name', ['atlas.npz', 'atlas.json'])
def test_a_missing_file_is_named(path: Path, name: str) -> None:
    path.with_name(name).unlink()
    with pytest.raises(AtlasError, match=rf'{name}: there is no such file; .*training\.atlas'):
        read_atlas(path)


@pytest.mark.parametrize('text', ['', '{', '[]', '{"format_version": 7}', '\udcff', '[' * 100_000])
def test_a_description_that_is_none_is_refused(path: Path, text: str) -> None:
    path.with_suffix('.json').write_bytes(text.encode(errors='surrogateescape'))
    with pytest.raises(AtlasError, match=r'atlas\.json: (is no JSON|has the format version)'):
        read_atlas(path)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('model', 3),
        ('classes', []),
        ('classes', 'road'),
        ('codevectors_per_class', 0),
        ('codevectors_per_class', True),
        ('frames', 2.5),
        ('frame_size', [20]),
        ('arrays_sha256', None),
    ],
)
def test_a_field_of_another_type_is_named(path: Path, field: str, value: Any) -> None:
    describe(path, **{field: value})
    with pytest.raises(AtlasError, match=rf"atlas\.json: the field '{field}' is missing or not"):
        read_atlas(path)


@pytest.mark.parametrize(
    ('changes', 'problem'),
    [
        ({'patches': np.zeros((4, 3, 4, 4), np.uint8)}, 'its patches have the shape'),
        ({'patches': np.zeros((4, 3, 4, 5, 3), np.uint8)}, r'patches are uint8 \[4, 3, 4, 5, 3\]'),
        ({'patches': np.zeros((4, 3, 4, 4, 3), np.float32)}, 'its patches are float32'),
        ({'patches': np.zeros((4, 3, 21, 21, 3), np.uint8)}, 'larger than its frames'),
        ({'count': np.zeros(3, np.int64)}, r'its count are int64 \[3\] where int64 \[4\] is due'),
        ({'count': np.array([6, 2, -1, 8])}, 'a count is negative'),
        ({'count': np.array([2, 2, 0, 8])}, 'more patches than positions'),
        ({'class_index': np.array([0, 1, 0, 1])}, 'its class_index does not count'),
        ({'closeness': np.zeros((4, 3), np.float64)}, 'its closeness are float64'),
        ({'closeness': np.full((4, 3), np.inf, np.float32)}, 'more patches|infinite'),
        ({'frame_names': np.zeros((4, 3))}, 'its frame_names are float64'),
        ({'frame_names': np.full((4, 3), '')}, 'a patch has no frame'),
        ({'places': np.full((4, 3, 2), -1, np.int32)}, 'from outside of the frames'),
        ({'places': None}, 'an array is missing'),
        ({'count': np.array([{}, {}, {}, {}], object)}, 'no archive of plain arrays'),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    path: Path, changes: dict[str, Any], problem: str
) -> None:
    rewrite(path, **changes)
    with pytest.raises(AtlasError, match=rf'atlas\.npz: .*({problem}).*; make it again'):
        read_atlas(path)


@pytest.mark.parametrize(
    ('values', 'problem'),
    [
        ([0.25, 0.5, 0.125], 'not in the order'),
        ([0.5, np.nan, 0.25], 'behind an empty place'),
    ],
)
def test_the_nearest_comes_first(path: Path, values: list[float], problem: str) -> None:
    closeness = an_atlas().closeness.copy()
    closeness[0] = values
    with pytest.raises(AtlasError, match=f'not written, .*{problem}'):
        write_atlas(an_atlas(closeness=closeness), path.with_name('new.npz'))
    assert not path.with_name('new.npz').exists()
    rewrite(path, closeness=closeness)
    with pytest.raises(AtlasError, match=problem):
        read_atlas(path)


def test_what_is_no_archive_is_refused(path: Path) -> None:
    for data in (b'', b'PK\3\4 nothing', b'\x93NUMPY'):
        path.write_bytes(data)
        describe(path, arrays_sha256=hashlib.sha256(data).hexdigest())
        with pytest.raises(AtlasError, match=r'atlas\.npz: is no archive of plain arrays'):
            read_atlas(path)


def test_numpy_is_enough() -> None:
    code = (
        f'import sys, {module.__name__}; print([name for name in '
        '("cv2", "onnx", "openvino", "rclpy", "rosbags", "torch") if name in sys.modules])'
    )
    found = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert found.stdout.strip() == '[]'
