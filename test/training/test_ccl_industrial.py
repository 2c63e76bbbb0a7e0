"""The study of CCL: how runs are judged, and the page holds what the JSON says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from training import ccl_industrial
from training.ccl_judging import (
    confusion_figures,
    frame_figures,
    image_auroc,
    neighbour_bank,
    neighbour_maps,
)
from training.ccl_pictures import draw_confusion, draw_curves
from training.ccl_tables import markdown
from training.methods.ccl.task import Config, check_sizes
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.demo import DRIVE, TOPIC

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def found() -> dict[str, Any]:
    path = ROOT / 'docs/benchmarks/ccl_industrial.json'
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_page_says_what_was_found(found: dict[str, Any]) -> None:
    assert markdown(found) in (ROOT / 'docs/ccl.md').read_text(encoding='utf-8')


def test_a_row_is_of_a_category_and_a_seed_and_says_where_it_comes_from(
    found: dict[str, Any],
) -> None:
    keys = [(row['model'], row['data'], row['seed']) for row in found['rows']]
    assert len(set(keys)) == len(keys)
    for row in found['rows']:
        assert row['model'] in ccl_industrial.ROWS and row['protocol'] == 'industrial'
        assert set(row['metrics']) == {'ap', 'image_auroc', 'pixel_auroc', 'pro'}
        assert row['images'] > 0 and row['outliers'] == 'none' and row['commit']
        provenance = row['provenance']
        assert row['data'] in provenance['trained_on'] and (
            provenance['epochs'] > 0 or 'neighbours' in row['model']
        )


def test_rows_are_contrasted_where_their_names_say_so() -> None:
    for row, changes in ccl_industrial.ROWS.items():
        if row == ccl_industrial.NEIGHBOURS:
            continue
        config = dataclasses.replace(ccl_industrial.SCHEDULE, **changes)
        check_sizes(config)
        assert config.contrasted == ('CCL' in row or '+ local' in row or '+ global' in row)


def test_a_row_has_its_own_passes_or_those_of_the_same_steps(
    two_categories: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = {'CCL': {'datasets': ('bolt', 'nut')}, 'longer': {'datasets': ('bolt',), 'epochs': 7}}
    monkeypatch.setattr(ccl_industrial, 'ROWS', rows)
    monkeypatch.setattr(
        ccl_industrial, 'SCHEDULE', dataclasses.replace(ccl_industrial.SCHEDULE, batch_size=4)
    )
    monkeypatch.setattr(ccl_industrial, 'STEPS', 10)  # eight pictures: two batches a pass
    assert ccl_industrial.schedule('longer', 0, two_categories, tmp_path).epochs == 7
    assert ccl_industrial.schedule('CCL', 0, two_categories, tmp_path).epochs == 5


def test_unseen_frames_are_told_by_each_score() -> None:
    known = {'one': np.arange(100.0), 'other': np.arange(100.0)}
    unseen = {'one': np.full(10, 200.0), 'other': np.full(4, 49.5)}
    figures = frame_figures(known, unseen)
    assert figures['one'] == {'auroc': 1.0, 'flagged': 1.0}
    assert figures['other'] == {'auroc': 0.5, 'flagged': 0.0}


def test_confusion_is_one_where_classes_are_apart_and_near_nothing_where_not() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = np.repeat([0, 1, 2], 40)
    noise = torch.randn(120, 8, generator=generator)
    apart = F.normalize(5 * torch.eye(8)[numbers] + 0.1 * noise, dim=1)
    value, points = confusion_figures(apart, numbers)
    assert value == pytest.approx(1.0) and points.shape == (120, 2)
    assert confusion_figures(F.normalize(noise, dim=1), numbers)[0] < 0.2


def test_neighbours_of_the_bank_itself_are_no_anomalies() -> None:
    maps = [torch.randn(3, 5, 8, 8), torch.randn(3, 7, 4, 4)]
    bank = neighbour_bank(maps, size=1000)
    known = neighbour_maps(bank, maps, (64, 64))
    other = neighbour_maps(bank, [-5 * one for one in maps], (64, 64))
    assert known.shape == (3, 16, 16) and np.abs(known).max() < 1e-4 and other.mean() > 0.1


def test_the_speed_is_that_of_the_frames_answered(tmp_path: Path) -> None:
    summary = {'frames': 40, 'frames_dropped': 10, 'latency_ms': {'p50': 30.0}}
    (tmp_path / 'summary.json').write_text(json.dumps(summary))
    with bags.BagWriter(tmp_path / DRIVE) as writer:
        for number in range(5):
            grey = np.zeros((8, 8, 3), np.uint8)
            writer.write_image(TOPIC, 10**9 + number * 50_000_000, grey, 'rgb8')
    speed = ccl_industrial.speed_of(tmp_path)
    assert speed['answered'] == 30 and speed['sent_a_second'] == pytest.approx(20.0)
    assert speed['frames_per_second'] == pytest.approx(15.0)


def test_a_picture_is_as_anomalous_as_its_highest_place() -> None:
    maps = np.random.default_rng(0).random((9, 4, 5)).astype(np.float32)
    defective = np.arange(9) % 2 > 0
    expected = roc_auc_score(defective, maps.max(axis=(1, 2)))
    assert image_auroc(maps, defective) == pytest.approx(expected)


@pytest.fixture(scope='module')
def tiny_study(
    tiny_ccl: Config, two_categories: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The command on two categories, for control and CCL, with one of them left out."""
    runs = tmp_path_factory.mktemp('runs')
    rows = {
        ccl_industrial.NEIGHBOURS: {},
        'control': {'local_weight': 0.0, 'global_weight': 0.0},
        'CCL': {},
        'CCL, nut added': {},
        'CCL without nut': {'datasets': ('bolt',)},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ccl_industrial, 'SCHEDULE', tiny_ccl)
        patch.setattr(ccl_industrial, 'CATEGORIES', ('bolt', 'nut'))
        patch.setattr(ccl_industrial, 'ROWS', rows)
        patch.setattr(ccl_industrial, 'ADDED', {'CCL, nut added': 'CCL without nut'})
        patch.setattr(ccl_industrial, 'STEPS', 4)
        command = ['--data', str(two_categories), '--out', str(runs), '--seeds', '0']
        files = ['--json', str(runs / 'rows.json'), '--pictures', str(runs)]
        assert ccl_industrial.main([*command, *files]) == 0
        first = (runs / 'rows.json').read_text()
        # What is finished is taken from the folder, by another table of rows, too.
        patch.setattr(ccl_industrial, 'train', None)
        assert ccl_industrial.main([*command, '--finished', *files]) == 0
        assert json.loads((runs / 'rows.json').read_text()) == json.loads(first)
        empty = ['--data', str(two_categories), '--out', str(runs / 'nothing'), '--finished']
        assert ccl_industrial.main(empty) == 2
    return runs, json.loads(first)


def test_the_command_judges_every_category_and_can_be_run_again(tiny_study: Any) -> None:
    runs, found = tiny_study
    keys = [(row['model'], row['data']) for row in found['rows']]
    assert keys == [
        ('nearest neighbours', 'bolt'), ('nearest neighbours', 'nut'),
        ('control', 'bolt'), ('control', 'nut'), ('CCL', 'bolt'), ('CCL', 'nut'),
        ('CCL, nut added', 'bolt'), ('CCL, nut added', 'nut'), ('CCL without nut', 'bolt'),
    ]  # fmt: skip
    assert all(row['provenance']['epochs'] == 2 for row in found['rows'][2:6])
    assert [sorted(run['curve']) for run in found['runs'] if 'curve' in run] == [['1', '2']] * 2
    assert all(0 <= run['v_measure'] <= 1 for run in found['runs'] if 'v_measure' in run)
    assert '| CCL | 1 |' in markdown(found) and '| nut | 1 |' in markdown(found)
    for name in ('ccl_confusion.png', 'ccl_epochs.png'):
        assert (runs / name).stat().st_size > 5000


def test_an_added_category_comes_to_what_was_trained_without_it(tiny_study: Any) -> None:
    runs, found = tiny_study
    added = yaml.safe_load((runs / 'CCL_nut_added-0/config.yaml').read_text())
    assert added['start_from'] == str(runs / 'CCL_without_nut-0/last.ckpt')
    assert added['datasets'] == ['bolt', 'nut']
    begun = [row['provenance'].get('begun_with') for row in found['rows']]
    assert begun == [None] * 6 + ['CCL without nut'] * 2 + [None]
    lines = [line.split(' | ') for line in markdown(found).splitlines()]
    companies = [line[1] for line in lines if line[0] == '| bolt']
    assert companies == ['nothing', 'nut', 'nothing, then nut']
    figures = {(row['model'], row['data']): row['metrics']['pro'] for row in found['rows']}
    change = 100 * (figures['CCL, nut added', 'bolt'] - figures['CCL without nut', 'bolt'])
    told = [line for line in lines if line[:3] == ['| nut', 'bolt', '1']]
    assert float(told[-1][-1].rstrip(' |')) == pytest.approx(change, abs=0.051)
    assert ['| nut', 'their mean', '1'] in [line[:3] for line in lines]


def test_pictures_of_nothing_are_still_pictures(tmp_path: Path) -> None:
    draw_confusion([], tmp_path / 'one.png')
    draw_curves([], tmp_path / 'other.png')
    assert (tmp_path / 'one.png').exists() and (tmp_path / 'other.png').exists()
