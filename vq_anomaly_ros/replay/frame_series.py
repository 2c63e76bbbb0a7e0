"""frames.json: what is known of every frame of a run, beside its summary.json.

{"format": 1, "drives": [{"source", "topic", "frames": {column: [a value a frame]}}]}: a drive is a
run of frames of one bag and topic, its columns are the fields of FrameRow. Numbers keep all their
digits, so that what is made of the file is, to the bit, what was made of the frames.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vq_anomaly_ros.replay.flicker import Alone
from vq_anomaly_ros.replay.frame_results import FrameRow

FRAMES = 'frames.json'
_FORMAT = 1
_DRIVE = ('source', 'topic')
_COLUMNS = tuple(f.name for f in dataclasses.fields(FrameRow) if f.name not in _DRIVE)


class FramesError(ValueError):
    """A file of frames cannot be read; the message names it, the cause and the remedy."""


def write_frames(rows: Sequence[FrameRow], path: Path) -> None:
    """Write the rows of a run."""
    drives = [
        {'source': source, 'topic': topic, 'frames': _columns(list(group))}
        for (source, topic), group in itertools.groupby(rows, lambda r: (r.source, r.topic))
    ]
    path.write_text(json.dumps({'format': _FORMAT, 'drives': drives}) + '\n')


def _columns(rows: list[FrameRow]) -> dict[str, list[Any]]:
    columns = {name: [_plain(getattr(row, name)) for row in rows] for name in _COLUMNS}
    return {name: column for name, column in columns.items() if any(v is not None for v in column)}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def read_frames(path: Path) -> list[FrameRow]:
    """Return the rows that `write_frames` wrote.

    Raises:
        FramesError: there is no such file, or it is none of this kind.
    """
    remedy = 'evaluate the bag again with this version'
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        if content['format'] != _FORMAT:
            raise FramesError(f'{path}: is of format {content["format"]}, not {_FORMAT}; {remedy}')
        return [row for drive in content['drives'] for row in _rows(drive)]
    except OSError as error:
        raise FramesError(f'{path}: cannot be read ({error.strerror}); {remedy}') from error
    except FramesError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FramesError(f'{path}: holds no frames of a run ({error!r}); {remedy}') from error


def _rows(drive: dict[str, Any]) -> list[FrameRow]:
    # Columns that this version does not know are another one's, and of no use here.
    names = [name for name in _COLUMNS if name in drive['frames']]
    values = zip(*(drive['frames'][name] for name in names), strict=True)
    found = []
    for row in values:
        fields = dict(zip(names, row, strict=True))
        shares = fields.get('class_shares')
        fields['class_shares'] = None if shares is None else np.array(shares)
        fields.setdefault('latency_ms', None)
        for name in ('above', 'region_above'):
            fields[name] = None if fields.get(name) is None else tuple(fields[name])
        fields['alone'] = None if fields.get('alone') is None else Alone(*fields['alone'])
        found.append(FrameRow(source=drive['source'], topic=drive['topic'], **fields))
    return found
