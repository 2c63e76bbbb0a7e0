"""What a report is made of, kept: of one drive, or of several put together.

A record that was saved and read back makes, to the bit, the report that it would have made at once;
records of several drives make that of all of them. So a fleet's bags are evaluated one by one,
wherever, and reported together.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vq_anomaly_ros.replay.event_log import LoggedEvent
from vq_anomaly_ros.replay.frame_results import DriveStatistics, DroppedFrame, FrameRow
from vq_anomaly_ros.replay.frame_series import FRAMES, FramesError, read_frames
from vq_anomaly_ros.replay.gallery import Picture

RECORD = 'record'
_PARTS = 'parts.json'
_LABELS = 'labels.npz'


@dataclass
class DriveRecord:
    """Numbers and pictures of a drive, as report.write_record takes them in."""

    statistics: DriveStatistics
    pictures: list[Picture] = field(default_factory=list)
    events: list[LoggedEvent] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write what frames.json does not hold into a new folder."""
        folder.mkdir()
        rows = self.statistics.rows
        parts = {
            'dropped': [dataclasses.asdict(frame) for frame in self.statistics.dropped],
            'pictures': [_plain(picture, rows) for picture in self.pictures],
            'events': [[event.to_dict(), event.picture] for event in self.events],
        }
        (folder / _PARTS).write_text(json.dumps(parts))
        if self.statistics.labels is not None:
            self.statistics.labels.save(folder / _LABELS)

    def add_saved(self, results: Path) -> None:
        """Take in the record of an evaluated bag, after those that are here already.

        Args:
            results: the folder with its frames.json and record/.

        Raises:
            FramesError: something of it is missing or damaged.
        """
        rows = read_frames(results / FRAMES)
        try:
            parts = json.loads((results / RECORD / _PARTS).read_text())
            self.pictures += [_picture(fields, rows) for fields in parts['pictures']]
            self.events += [LoggedEvent.from_dict(*parts_of) for parts_of in parts['events']]
            self.statistics.rows += rows
            self.statistics.dropped += [DroppedFrame(**fields) for fields in parts['dropped']]
            if self.statistics.labels is not None:
                self.statistics.labels.load(results / RECORD / _LABELS)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise FramesError(
                f'{results}: its {RECORD}/ is missing or damaged ({error}); remove the folder, '
                'and the bag is evaluated again'
            ) from error


def _plain(picture: Picture, rows: list[FrameRow]) -> dict[str, Any]:
    """A picture's fields for JSON: the row by its place among the rows."""
    fields = {f.name: getattr(picture, f.name) for f in dataclasses.fields(picture)}
    # Not the row itself: what is told of a frame only once the next one has come is put in anew.
    return fields | {'row': [_key(row) for row in rows].index(_key(picture.row))}


def _key(row: FrameRow) -> tuple[str, str, int]:
    return row.source, row.topic, row.stamp_ns


def _picture(fields: dict[str, Any], rows: list[FrameRow]) -> Picture:
    height, width = fields['size']
    return Picture(
        **fields
        | {
            'row': rows[fields['row']],
            'objects': tuple(fields['objects']),
            'size': (height, width),
        }
    )
