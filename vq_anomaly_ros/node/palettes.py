"""Class colours of the user's choice, read from a YAML file {class name: [r, g, b]}."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vq_anomaly_ros.file_sizes import read_bounded
from vq_anomaly_ros.share import share_folders

Colour = tuple[int, int, int]

_LARGEST_FILE = 1 << 20


class PaletteError(ValueError):
    """A palette cannot be used; the message names the file, the cause and the remedy."""


def read_palette(name_or_path: str, classes: Sequence[str]) -> tuple[Colour, ...]:
    """Return the RGB colours (0..255) of `classes`, in their order.

    Args:
        name_or_path: a path, or the name of a file in config/palettes of the package.
        classes: names of the model's classes; colours of others in the file are left out.

    Raises:
        PaletteError: no such file, not a palette, or a class without a colour.
    """
    path = _find(name_or_path)
    try:
        content = yaml.safe_load(read_bounded(path, _LARGEST_FILE).decode('utf-8'))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise PaletteError(
            f'{path}: no palette can be read ({error}); see config/palettes'
        ) from error
    if not isinstance(content, dict):
        raise PaletteError(f'{path}: not a palette; write one line "class: [r, g, b]" a class')
    missing = [name for name in classes if not _is_colour(content.get(name))]
    if missing:
        raise PaletteError(
            f'{path}: no colour for {", ".join(missing)}; add "{missing[0]}: [r, g, b]" (0..255)'
        )
    return tuple((c[0], c[1], c[2]) for c in (content[name] for name in classes))


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(v) is int and 0 <= v <= 255 for v in value)
    )


def _find(name_or_path: str) -> Path:
    folders = [folder / 'palettes' for folder in share_folders('config')]
    candidates = [Path(name_or_path), *(folder / f'{name_or_path}.yaml' for folder in folders)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = ', '.join(map(str, candidates))
    raise PaletteError(f'{name_or_path}: no such palette (looked for {places}); give a path')
