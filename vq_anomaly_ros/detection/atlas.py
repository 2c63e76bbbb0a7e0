"""The atlas of a codebook: of each codevector the picture patches that lie nearest to it.

`python -m training.atlas` makes one of a model and pictures. It is two files side by side:
`<stem>.npz` (plain arrays, no pickle) and `<stem>.json`, which says of which model, of which
pictures, and what sha256 the arrays have, so that a cut or exchanged file is found out.

K = C * M codevectors, codevector m of class c is number c * M + m, as in the output `codes` of a
model; n patches a codevector, each of p x p pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.file_sizes import read_bounded

if TYPE_CHECKING:
    from vq_anomaly_ros.detection.model_file import ModelFile

FORMAT_VERSION = 1
FILE = 'atlas.npz'
# Also unpacked.
LARGEST_FILE = 512 * 2**20
REMEDY = 'make it again with `python -m training.atlas`'

_ARRAYS = ('patches', 'count', 'closeness', 'class_index', 'frame_names', 'places')
_DTYPES = {
    'patches': np.uint8,
    'count': np.int64,
    'closeness': np.float32,
    'class_index': np.int64,
    'frame_names': np.str_,
    'places': np.int32,
}


class AtlasError(ValueError):
    """An atlas that cannot be made or used; the message names the file, cause and remedy."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """What each codevector of a model stands for in some pictures.

    model, weights_sha256, classes, codevectors_per_class (M): as in `ModelInfo`; source: what the
    pictures are; date: ISO; frames: how many were looked at; frame_size: (H, W) of each, pixels.
    patches: uint8 [K, n, p, p, 3] RGB, the nearest first; black where there are fewer than n.
    count: int64 [K], positions of the score map that chose the codevector, over all frames.
    closeness: float32 [K, n], minus the raw score of the position, falling; NaN where no patch is.
    The score is that of the best class: the codevector's own, but for positions that lie between
    two classes, or the mean of a window where the model smooths its score. For a model that scores
    by the nearest codevector alone it is the cosine.
    class_index: int64 [K], number of the class.
    frame_names: unicode [K, n], stamp in ns or file name of the frame; '' where no patch is.
    places: int32 [K, n, 2], row and column in its frame of the pixel in the middle of the position;
    -1 where no patch is. The patch lies around it, moved inwards at the edges of the frame.
    """

    model: str
    weights_sha256: str
    classes: tuple[str, ...]
    codevectors_per_class: int
    source: str
    date: str
    frames: int
    frame_size: tuple[int, int]
    patches: NDArray[np.uint8]
    count: NDArray[np.int64]
    closeness: NDArray[np.float32]
    class_index: NDArray[np.int64]
    frame_names: NDArray[np.str_]
    places: NDArray[np.int32]

    @property
    def filled(self) -> NDArray[np.bool_]:
        """bool [K, n]: where there is a patch."""
        return np.isfinite(self.closeness)

    @property
    def shares(self) -> NDArray[np.float64]:
        """float64 [K]: share of the positions of its class that chose it; 0 in an unused class."""
        counts = self._counts_by_class()
        return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).ravel()

    @property
    def class_shares(self) -> NDArray[np.float64]:
        """float64 [C]: share of all positions that chose a codevector of the class."""
        counts = self._counts_by_class().sum(axis=1)
        return np.asarray(counts / max(int(counts.sum()), 1))

    @property
    def perplexity(self) -> NDArray[np.float64]:
        """float64 [C], see the function `perplexity`."""
        return perplexity(self._counts_by_class())

    @property
    def unused(self) -> int:
        """Number of codevectors that no position chose."""
        return int((self.count == 0).sum())

    @property
    def centres(self) -> NDArray[np.int64]:
        """int64 [K, n, 2]: row and column of `places` within the patch; where there is one."""
        return self.places - corner_of(self.places, self.patches.shape[2], self.frame_size)

    def _counts_by_class(self) -> NDArray[np.int64]:
        return self.count.reshape(len(self.classes), self.codevectors_per_class)


def perplexity(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """exp(entropy) of the choices of each class: [C, M] -> float64 [C] in [1, M].

    M where all codevectors are used alike, 1 where one does everything, 0 where none was chosen.
    """
    total = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(total, 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)
    return np.where(total[:, 0] > 0, np.exp(entropy), 0.0)


def corner_of(place: NDArray[np.int32], side: int, frame_size: tuple[int, int]) -> NDArray[Any]:
    """Upper left corner of the patch of `side` pixels around a place; both [..., 2] (row, column).

    The place is pixel (side // 2, side // 2) of its patch, but where the frame ends before it.
    """
    return np.clip(place - side // 2, 0, np.array(frame_size) - side)


def write_atlas(atlas: Atlas, path: Path) -> None:
    """Write an atlas as `path` (.npz) and the .json beside it.

    Two files: whoever replaces an atlas writes them elsewhere and moves both. Raises AtlasError for
    an atlas that contradicts itself, OSError.
    """
    if problem := _problem_of(atlas):
        raise AtlasError(f'{path}: not written, {problem}; {REMEDY}')
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: getattr(atlas, name) for name in _ARRAYS}
    np.savez_compressed(buffer, **arrays)
    fields = {
        'format_version': FORMAT_VERSION,
        **{name: getattr(atlas, name) for name in _FIELDS},
        'patch': atlas.patches.shape[2],
        'nearest': atlas.patches.shape[1],
        'perplexity': dict(zip(atlas.classes, atlas.perplexity.round(4).tolist(), strict=True)),
        'unused_codevectors': atlas.unused,
        'arrays_sha256': hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    path.write_bytes(buffer.getvalue())
    path.with_suffix('.json').write_text(json.dumps(fields, indent=1) + '\n', encoding='utf-8')


def read_atlas(path: Path | str, info: ModelInfo | None = None) -> Atlas:
    """Read and check an atlas; `path` is its .npz, or the folder that holds `atlas.npz`.

    info: of the model that it is to explain; None takes an atlas of any model. Raises AtlasError
    where a file is missing, cut or damaged, contradicts itself, or belongs to other weights.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    description = path.with_suffix('.json')
    fields = _fields_of(description)
    if info is not None and fields['weights_sha256'] != info.weights_sha256:
        raise AtlasError(
            f'{description}: the atlas is that of other weights (model {fields["model"]!r}, sha256 '
            f'{fields["weights_sha256"][:12]}…) than the model {info.name!r} has '
            f'({info.weights_sha256[:12]}…); {REMEDY} and this model'
        )
    data = _bytes_of(path)
    if hashlib.sha256(data).hexdigest() != fields.pop('arrays_sha256'):
        raise AtlasError(
            f'{path}: is not the file that {description.name} describes (sha256 differs: it was '
            f'cut, or one of the two was replaced); copy both again or {REMEDY}'
        )
    atlas = Atlas(**fields, **_arrays_of(data, path))
    problem = _problem_of(atlas) or (_mismatch(atlas, info) if info is not None else '')
    if problem:
        raise AtlasError(f'{path}: {problem}; {REMEDY}')
    return atlas


def atlas_for(model: ModelFile, path: str = '') -> Atlas | None:
    """The atlas of a model: at `path`, or by default `<model>.atlas.npz` beside it, if it is there.

    Raises AtlasError for one that cannot be used.
    """
    if path:
        return read_atlas(path, model.info)
    beside = model.path.with_suffix('.atlas.npz')
    return read_atlas(beside, model.info) if beside.is_file() else None


def _mismatch(atlas: Atlas, info: ModelInfo) -> str:
    """What contradicts the model although the weights are the same, '' if nothing does."""
    found = (atlas.classes, atlas.codevectors_per_class)
    if found == (info.classes, info.codevectors_per_class):
        return ''
    return (
        f'it has {len(found[0])} classes ({", ".join(found[0])}) of {found[1]} codevectors where '
        f'the model has {len(info.classes)} ({", ".join(info.classes)}) of '
        f'{info.codevectors_per_class}'
    )


def _bytes_of(path: Path) -> bytes:
    try:
        return read_bounded(path, LARGEST_FILE)
    except FileNotFoundError as error:
        raise AtlasError(f'{path}: there is no such file; check the path or {REMEDY}') from error
    except OSError as error:
        raise AtlasError(
            f'{path}: it cannot be read ({error.strerror}); check the path and its rights'
        ) from error


def _arrays_of(data: bytes, path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            if sum(member.file_size for member in packed.infolist()) > LARGEST_FILE:
                raise ValueError(f'unpacked it has more than {LARGEST_FILE} bytes')
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in _ARRAYS}
    except KeyError as error:
        raise AtlasError(f'{path}: an array is missing ({error.args[0]}); {REMEDY}') from error
    except (AttributeError, OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise AtlasError(f'{path}: is no archive of plain arrays ({error}); {REMEDY}') from error


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


# field of Atlas -> (test of the JSON value, what it has to be)
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'model': (_is_text, 'a text'),
    'weights_sha256': (_is_text, 'a text'),
    'classes': (_is_names, 'a list of names'),
    'codevectors_per_class': (_is_number, 'a number above 0'),
    'source': (_is_text, 'a text'),
    'date': (_is_text, 'a date'),
    'frames': (_is_number, 'a number above 0'),
    'frame_size': (_is_size, 'a pair of numbers above 0 (height, width)'),
}


def _fields_of(path: Path) -> dict[str, Any]:
    """The fields of Atlas that are no arrays, and arrays_sha256."""
    try:
        content = json.loads(_bytes_of(path))
    except (ValueError, RecursionError) as error:
        raise AtlasError(f'{path}: is no JSON ({error}); {REMEDY}') from error
    version = content.get('format_version') if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise AtlasError(
            f'{path}: has the format version {version!r} where this package reads '
            f'{FORMAT_VERSION}; {REMEDY}'
        )
    fields = {}
    for name, (check, expected) in {**_FIELDS, 'arrays_sha256': (_is_text, 'a text')}.items():
        if not check(content.get(name)):
            raise AtlasError(f'{path}: the field {name!r} is missing or not {expected}; {REMEDY}')
        fields[name] = content[name]
    fields['classes'] = tuple(fields['classes'])
    fields['frame_size'] = tuple(fields['frame_size'])
    return fields


def _problem_of(atlas: Atlas) -> str:
    """What makes an atlas unusable, '' if nothing does."""
    return _layout_problem(atlas) or _count_problem(atlas) or _patch_problem(atlas)


def _layout_problem(atlas: Atlas) -> str:
    codevectors = len(atlas.classes) * atlas.codevectors_per_class
    if atlas.patches.ndim != 5 or min(atlas.patches.shape) == 0:
        return (
            f'its patches have the shape {list(atlas.patches.shape)} where [K, n, p, p, 3] is due'
        )
    nearest, side = atlas.patches.shape[1:3]
    shapes: dict[str, tuple[int, ...]] = {
        'patches': (codevectors, nearest, side, side, 3),
        'count': (codevectors,),
        'closeness': (codevectors, nearest),
        'class_index': (codevectors,),
        'frame_names': (codevectors, nearest),
        'places': (codevectors, nearest, 2),
    }
    for name, shape in shapes.items():
        array = getattr(atlas, name)
        # the width of a unicode dtype is that of the longest name
        if array.shape != shape or not np.issubdtype(array.dtype, _DTYPES[name]):
            return (
                f'its {name} are {array.dtype} {list(array.shape)} where '
                f'{np.dtype(_DTYPES[name]).name} {list(shape)} is due'
            )
    if side > min(atlas.frame_size):
        return f'its patches of {side} pixels are larger than its frames {list(atlas.frame_size)}'
    return ''


def _count_problem(atlas: Atlas) -> str:
    due = np.arange(len(atlas.count)) // atlas.codevectors_per_class
    if not np.array_equal(atlas.class_index, due):
        return f'its class_index does not count {atlas.codevectors_per_class} codevectors a class'
    if (atlas.count < 0).any():
        return 'a count is negative'
    if (atlas.filled.sum(axis=1) > atlas.count).any():
        return 'a codevector has more patches than positions that chose it'
    return ''


def _patch_problem(atlas: Atlas) -> str:
    filled, closeness = atlas.filled, atlas.closeness
    if np.isinf(closeness).any() or (filled[:, 1:] > filled[:, :-1]).any():
        return 'a closeness is infinite, or stands behind an empty place'
    if (closeness[:, 1:] > closeness[:, :-1]).any():  # NaN, of an empty place, compares as false
        return 'the patches of a codevector are not in the order of their closeness'
    if not np.array_equal(atlas.frame_names != '', filled):
        return 'a patch has no frame, or a frame no patch'
    places = atlas.places[filled]
    if (places < 0).any() or (places >= np.array(atlas.frame_size)).any():
        return f'a patch comes from outside of the frames {list(atlas.frame_size)}'
    return ''
