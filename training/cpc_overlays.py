"""What CPC sees: the best and worst cases of a run, or what faults do to a frame's map.

`python -m training.cpc_overlays RUN --data DATA --out out/cpc` writes a sheet of the test pictures
of the run's category (picture, heat, truth): the defects that score highest, those that score
lowest and the good ones that score highest, by the mean of the twentieth of patches on top.
`--video V --fault dirt fog` instead draws one frame of a drive, untouched and with each fault, over
its maps; the heat ends at the highest score of all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch

from training.cpc_judging import at_input_size
from training.data.folders import (
    FolderError,
    MvtecCategory,
    check_same_size,
    load_image,
    load_mask,
    read_mvtec_category,
)
from training.data.pictures import normal_pictures
from training.graph import ExportError
from training.methods.cpc.export import describe, load_task, scorer_of
from training.methods.cpc.scorer import CpcScorer, picture_score
from training.methods.cpc.task import Config, Image, normalised, read_pictures
from training.predictor import size_of, upsample
from training.sheets import ContactSheets
from training.train import read_any_config
from vq_anomaly_ros.replay.bags import BagError
from vq_anomaly_ros.replay.faults import FAULTS, faulty
from vq_anomaly_ros.replay.files import OutputError, staged, write_bytes
from vq_anomaly_ros.replay.images_to_bag import SourceError

_CELL = 320  # pixels of a cell's width in the picture of faults
_QUALITY = 80


@dataclass(frozen=True)
class Case:
    """A test picture: its name, uint8 BGR [H, W, 3], map [H, W], labels [H, W] and score."""

    name: str
    picture: Image
    map: np.ndarray
    labels: Image
    score: float
    defective: bool


def map_of(scorer: CpcScorer, config: Config, bgr: Image) -> tuple[np.ndarray, float]:
    """The map of a picture uint8 BGR [H, W, 3] at its size, and the score of the picture."""
    inputs = torch.from_numpy(at_input_size(bgr, config))[None]
    with torch.inference_mode():
        patches = scorer.grid_scores(scorer.net.encode(normalised(inputs)))
        map_ = scorer.map_of(patches)[0].numpy()
    return upsample(map_, size_of(bgr)), float(picture_score(patches, 'top'))


def cases_of(scorer: CpcScorer, config: Config, category: MvtecCategory) -> list[Case]:
    """All test pictures of a category; FolderError where a mask does not fit."""
    found = []
    for sample in category.test:
        picture = load_image(sample.image)
        labels: Image = np.zeros(picture.shape[:2], np.uint8)
        if sample.mask is not None:
            labels = load_mask(sample.mask)
            check_same_size(sample.image, picture, sample.mask, labels)
        map_, score = map_of(scorer, config, picture)
        name = f'{sample.kind} {sample.image.stem}'
        found.append(Case(name, picture, map_, labels, score, sample.mask is not None))
    return found


def chosen(cases: Sequence[Case], count: int) -> list[tuple[str, Case]]:
    """The best and worst of the cases, `count` of each kind, with what they are."""
    ranked = sorted(cases, key=lambda case: case.score)
    bad = [case for case in ranked if case.defective]
    good = [case for case in ranked if not case.defective]
    return [
        *(('found', case) for case in bad[::-1][:count]),
        *(('missed', case) for case in bad[:count]),
        *(('false alarm', case) for case in good[::-1][:count]),
    ]


def write_sheets(run: Path, data: Path, out: Path, count: int) -> None:
    """Write the sheets of a run; FolderError, ExportError, OutputError as they come."""
    config, scorer = _trained(run, data)
    cases = cases_of(scorer, config, read_mvtec_category(data / config.datasets[0]))
    shown = chosen(cases, count)
    ends = min(float(c.map.min()) for _, c in shown), max(float(c.map.max()) for _, c in shown)
    info = dataclasses.replace(describe(config, scorer), score_range=ends)
    with staged(out) as folder:
        sheets = ContactSheets(folder, run.name, info)
        for kind, case in shown:
            name = f'{kind}: {case.name}, {case.score:.2f}'
            sheets.add_scores(name, case.picture, case.map.astype(np.float32), case.labels)
        sheets.close()


def _trained(run: Path, data: Path) -> tuple[Config, CpcScorer]:
    config = read_any_config(str(run / 'config.yaml'), [])
    if not isinstance(config, Config):
        raise ExportError(f'{run}: is a run of another method than cpc; name one of cpc')
    task = load_task(run, config)
    return config, scorer_of(task, list(read_pictures(config, data)))


def faults_picture(
    scorer: CpcScorer, config: Config, frame: Image, faults: Sequence[str], severity: int
) -> Image:
    """A frame uint8 BGR and its faulty versions, each over its map: uint8 BGR, two rows."""
    versions = [frame, *(faulty(frame, fault, severity) for fault in faults)]
    maps = [map_of(scorer, config, one)[0] for one in versions]
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    columns = []
    for name, one, map_ in zip(('untouched', *faults), versions, maps, strict=True):
        level = 255 * (map_ - low) / max(high - low, 1e-6)
        heat = cv2.applyColorMap(level.astype(np.uint8), cv2.COLORMAP_INFERNO)
        column = np.vstack([_cell(one), _cell(np.asarray(heat, np.uint8))])
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(column, name, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width)
        columns.append(column)
    return np.hstack(columns)


def _cell(picture: Image) -> Image:
    height = round(picture.shape[0] * _CELL / picture.shape[1])
    small = cv2.resize(picture, (_CELL, height), interpolation=cv2.INTER_AREA)
    return cast(Image, cv2.copyMakeBorder(small, 0, 2, 0, 2, cv2.BORDER_CONSTANT, value=(255,) * 3))


def write_faults(options: argparse.Namespace) -> None:
    """Write the picture of faults to --out (.jpg)."""
    config, scorer = _trained(options.run, options.data)
    frames = [one for one in normal_pictures(options.video) if isinstance(one, np.ndarray)]
    if not frames:
        raise FolderError(f'{options.video}: is neither a bag nor a video; name a drive')
    frame = frames[min(options.frame, len(frames) - 1)]
    picture = faults_picture(scorer, config, frame, options.fault, options.severity)
    data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    write_bytes(options.out, data.tobytes())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        if options.video is not None:
            write_faults(options)
        else:
            write_sheets(options.run, options.data, options.out, options.count)
    except (BagError, ExportError, OSError, OutputError, SourceError, ValueError) as error:
        print(f'training.cpc_overlays: {error}', file=sys.stderr)
        return 2
    print(options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        'training.cpc_overlays',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('run', type=Path, help='folder of a run of training.train cpc')
    add('--data', type=Path, required=True, help='folder that the run was trained from')
    add('--out', type=Path, required=True, help='folder of the sheets; with --video, a .jpg')
    add('--count', type=int, default=6, help='pictures of each kind (default: 6)')
    add('--video', type=Path, help='a drive whose frame is drawn with faults instead')
    add('--frame', type=int, default=150, help='its number (default: 150)')
    add('--fault', nargs='+', choices=list(FAULTS), default=['dirt', 'fog', 'noise'])
    add('--severity', type=int, choices=range(1, 6), default=3)
    return parser


if __name__ == '__main__':
    sys.exit(main())
