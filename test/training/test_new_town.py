"""A town that is new to a model: trained, taken up, and both judged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from training import new_town
from training.data.street import CAMVID_CLASSES
from training.methods.codebook.task import Config
from vq_anomaly_ros.detection import model_file

SIZE = (64, 96)
COARSE = ('drivable', 'non-drivable', 'living things', 'vehicles')


def write_split(folder: Path, classes: int, seed: int) -> None:
    """Three pictures of upright stripes, each as bright as its class says."""
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(3):
        labels = (np.arange(SIZE[1]) * classes // SIZE[1])[None].repeat(SIZE[0], axis=0)
        grey = 20 * labels + rng.integers(0, 15, SIZE)
        image = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
        cv2.imwrite(str(folder / 'images' / f'{number}.png'), image)
        cv2.imwrite(str(folder / 'labels' / f'{number}.png'), labels.astype(np.uint8))


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('data')
    for number, split in enumerate(('train', 'test')):
        write_split(root / 'camvid' / split, len(CAMVID_CLASSES), number)
    for number, split in enumerate(('train', 'val')):
        write_split(root / 'idd_lite' / split, len(COARSE), number)
        (root / 'idd_lite' / split / 'classes.yaml').write_text(f'classes: [{", ".join(COARSE)}]')
    (root / 'outlier_objects').mkdir()
    for number in range(10):
        cv2.imwrite(str(root / f'outlier_objects/thing{number}_0.png'), np.full((20, 20, 4), 255))
    return root


def test_the_new_town_is_taken_up_from_the_model_file_of_the_first(
    root: Path, tmp_path: Path, tiny_schedule: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = dataclasses.replace(tiny_schedule, blocks=11, channels=16, fine_channels=8)
    monkeypatch.setattr(new_town, 'SCHEDULE', small)
    exports: list[Path] = []

    def export(run: Path, out: Path, data: Path) -> Any:
        """The first one is real; another takes its time, and is tested elsewhere."""
        exports.append(out)
        if len(exports) == 1:
            return real_export(run, out, data)
        return model_file.read(shutil.copy(exports[0], out))

    real_export = new_town.export
    monkeypatch.setattr(new_town, 'export', export)
    dark = np.zeros((*SIZE, 3), np.uint8)
    monkeypatch.setattr(new_town, 'motorway', lambda data: [dark] * (2 * new_town.EVERY))
    arguments = ['--data', str(root), '--out', str(tmp_path / 'runs'), '--seeds', '3']
    rows = ['--rows', 'and a new town', new_town.FIRST]
    assert new_town.main([*arguments, *rows, '--json', str(tmp_path / 'rows.json')]) == 0
    found: list[dict[str, Any]] = json.loads((tmp_path / 'rows.json').read_text())
    assert [row['row'] for row in found] == [new_town.FIRST, 'and a new town']
    for row in found:
        assert set(row['miou']) == {'camvid', 'idd_lite'}
        assert all(0 <= value <= 1 for value in (*row['miou'].values(), row['flagged']))
    assert [path.parent.name for path in exports] == ['one_town-3', 'and_a_new_town-3']
    config = yaml.safe_load((exports[1].parent / 'config.yaml').read_text())
    assert config['start_from'] == str(exports[0])
    assert config['datasets'] == ['camvid/train', 'idd_lite/train']
    # Nothing is trained a second time.
    monkeypatch.setattr(new_town, 'train', None)
    assert new_town.main([*arguments, *rows]) == 0


def test_the_table_has_a_line_a_row() -> None:
    row = {'row': 'one town', 'miou': {'camvid': 0.5, 'idd_lite': 0.25}, 'flagged': 0.02}
    text = new_town.markdown([{**row, 'seed': 0}, {**row, 'seed': 1, 'flagged': 0.04}])
    assert '| one town | 2 | 50.0 ± 0.0 | 25.0 ± 0.0 | 3.0 ± 1.0 |' in text
