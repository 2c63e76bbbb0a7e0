"""What a model says of itself: the metadata of a model file, their types and their sense."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from vq_anomaly_ros.detection.calibration import Calibration, CalibrationError

FORMAT_VERSION = 1
REMEDY = 'export the model again with `python -m training.export`'
Method = Literal['codebook', 'cpc', 'ccl']


class ModelFileError(ValueError):
    """A model file that cannot be used; the message names the file, the cause and the remedy."""


@dataclass(frozen=True)
class ModelInfo:
    """The metadata of a model file.

    palette: RGB, one a class; input_size: (h, w) pixels; stride: input size / score map size;
    score_range: lowest and highest possible raw score; codevectors_per_class: 0 where there is no
    codebook; calibration: `Calibration.to_dict()` of the training set; parity: the report of the
    export; created: ISO date. weights_sha256 is filled by `write`. codebook_usage: over the
    training pictures, {'unused': codevectors that no position is nearest to, 'perplexity': {class:
    exp of the entropy of its codevectors' shares}}; empty where it was not measured.
    """

    name: str
    method: Method
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    input_size: tuple[int, int]
    stride: int
    score_kind: str
    score_range: tuple[float, float]
    codevectors_per_class: int
    calibration: dict[str, Any] | None
    training_data: tuple[str, ...]
    outlier_data: tuple[str, ...]
    terms: str
    commit: str
    weights_sha256: str
    parity: dict[str, Any]
    created: str
    codebook_usage: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def map_size(self) -> tuple[int, int]:
        """(h / stride, w / stride): the size of the score map."""
        return self.input_size[0] // self.stride, self.input_size[1] // self.stride

    def output_layouts(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """output name -> (numpy dtype, shape without the batch) of every output of the contract."""
        size = self.map_size
        layouts: dict[str, tuple[str, tuple[int, ...]]] = {'score': ('float32', size)}
        if self.classes:
            layouts['labels'] = ('uint8', size)
            layouts['class_scores'] = ('float32', (len(self.classes), *size))
        if self.codevectors_per_class:
            layouts['codes'] = ('int32', size)
        return layouts


def to_dict(info: ModelInfo) -> dict[str, Any]:
    """The metadata as JSON-safe fields, with the format version."""
    return {'format_version': FORMAT_VERSION, **dataclasses.asdict(info)}


def from_dict(fields: dict[str, Any], path: Path) -> ModelInfo:
    """The metadata of fields that to_dict made; ModelFileError names the file and the field."""
    version = fields.get('format_version')
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f'{path}: the model file has the format version {version!r} where this package reads '
            f'{FORMAT_VERSION}; use the package it was exported with or {REMEDY}'
        )
    values: dict[str, Any] = {}
    for name, (check, expected) in _FIELDS.items():
        if name not in fields and name in _LATER_FIELDS:
            continue
        if name not in fields:
            raise ModelFileError(f'{path}: its metadata lacks the field {name!r}; {REMEDY}')
        if not check(fields[name]):
            raise ModelFileError(
                f'{path}: the metadata field {name!r} is not {expected} '
                f'({json.dumps(fields[name], default=str)[:80]}); {REMEDY}'
            )
        values[name] = _as_tuple(fields[name])
    _check_consistent(values, path)
    return ModelInfo(**values)


def _as_tuple(value: Any) -> Any:
    """Lists of JSON as tuples, recursively; dicts as they are."""
    if isinstance(value, (list, tuple)):
        return tuple(_as_tuple(item) for item in value)
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(_is_count(item) and item > 0 for item in value)
    )


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value)
        and all(math.isfinite(item) for item in value)
        and value[0] < value[1]
    )


def _is_palette(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(colour, (list, tuple))
        and len(colour) == 3
        and all(_is_count(item) and item <= 255 for item in colour)
        for colour in value
    )


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set('0123456789abcdef')


# field of ModelInfo -> (test of the JSON value, what it has to be)
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'name': (_is_text, 'a text'),
    'method': (lambda value: value in get_args(Method), f'one of {", ".join(get_args(Method))}'),
    'classes': (_is_texts, 'a list of names'),
    'palette': (_is_palette, 'a list of RGB triples of 0..255'),
    'input_size': (_is_size, 'a pair of positive numbers (height, width)'),
    'stride': (lambda value: _is_count(value) and value > 0, 'a positive number'),
    'score_kind': (_is_text, 'a text'),
    'score_range': (_is_range, 'a pair of finite numbers, lowest and highest'),
    'codevectors_per_class': (_is_count, 'a number of 0 or more'),
    'calibration': (lambda value: value is None or isinstance(value, dict), 'null or an object'),
    'training_data': (_is_texts, 'a list of names'),
    'outlier_data': (_is_texts, 'a list of names'),
    'terms': (_is_text, 'a text'),
    'commit': (_is_text, 'a text'),
    'weights_sha256': (_is_sha256, 'a sha256 of 64 hexadecimal digits'),
    'parity': (lambda value: isinstance(value, dict), 'an object'),
    'created': (_is_text, 'a date'),
    'codebook_usage': (lambda value: isinstance(value, dict), 'an object'),
}
# Fields that files of the same format version may lack: they were exported before there were these.
_LATER_FIELDS = frozenset({'codebook_usage'})


def _check_consistent(values: dict[str, Any], path: Path) -> None:
    """Fields against one another."""
    problem = ''
    if len(values['palette']) != len(values['classes']):
        problem = f'{len(values["palette"])} colours for {len(values["classes"])} classes'
    elif len(values['classes']) > 255:
        problem = f'{len(values["classes"])} classes where 255 is the id of none'
    elif any(size % values['stride'] for size in values['input_size']):
        problem = f'the input size {values["input_size"]} is no multiple of {values["stride"]}'
    elif values['calibration'] is not None:
        try:
            Calibration.from_dict(values['calibration'])
        except CalibrationError as error:
            problem = str(error)
    if problem:
        raise ModelFileError(f'{path}: its metadata contradicts itself ({problem}); {REMEDY}')
