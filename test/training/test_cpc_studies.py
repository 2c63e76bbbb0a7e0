"""The studies of CPC: rows of tiny runs, figures against slow ones, and the page says the JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from training import cpc_ablation, cpc_drives, cpc_industrial, cpc_overlays
from training.cpc_judging import Bank, auroc, bank_of, brightness_auroc, category_figures, evenly
from training.data.folders import FolderError
from training.drift_drives import Drive
from training.methods.cpc.task import Config, CpcTask
from vq_anomaly_ros.replay.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/cpc.md'
STUDIES = (cpc_industrial, cpc_drives, cpc_ablation)


def rows_of(study: Any) -> list[dict[str, Any]]:
    name = study.__name__.rpartition('.')[2]
    found: list[dict[str, Any]] = json.loads((ROOT / f'docs/benchmarks/{name}.json').read_text())
    return found


@pytest.mark.parametrize('study', STUDIES, ids=lambda study: study.__name__)
def test_the_page_says_what_was_measured(study: Any) -> None:
    assert study.markdown(rows_of(study)) in PAGE.read_text(encoding='utf-8')


def test_every_row_says_where_it_comes_from() -> None:
    rows = rows_of(cpc_industrial)
    assert {(row['kind'], row['category'], row['seed']) for row in rows} == {
        (kind, category, seed)
        for kind in cpc_industrial.KINDS
        for category in cpc_industrial.CATEGORIES
        for seed in range(3)
    }
    for row in rows:
        assert row['commit'] and row['config']['seed'] == row['seed']
        assert row['budget']['steps'] > 0 and row['budget']['seconds'] > 0
        assert row['config']['random_encoder'] == (row['kind'] == 'random')


def picture(number: int) -> np.ndarray:
    blocks = np.random.default_rng(number).integers(0, 256, (8, 12), dtype=np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two categories with six pictures to train on; a hole is all that is wrong."""
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 32:64] = 255
    for category in ('screw', 'fibre_mat'):
        folder = tmp_path / 'industrial' / category
        for part in ('train/good', 'test/good', 'test/hole', 'ground_truth/hole'):
            (folder / part).mkdir(parents=True)
        for number in range(6):
            cv2.imwrite(str(folder / f'train/good/{number}.png'), picture(number))
        for number in (10, 11):
            holed = np.where(mask > 0, np.uint8(0), picture(number))
            cv2.imwrite(str(folder / f'test/good/{number}.png'), picture(number))
            cv2.imwrite(str(folder / f'test/hole/{number}.png'), holed)
            cv2.imwrite(str(folder / f'ground_truth/hole/{number}_mask.png'), mask)
    return tmp_path


@pytest.fixture
def bank(tiny_cpc: Config) -> Bank:
    torch.manual_seed(0)
    task = CpcTask(dataclasses.replace(tiny_cpc, bank_centres=16)).eval()
    torch.nn.init.normal_(task.net.predict, std=1.0)
    pictures = [np.dstack([picture(number)] * 3) for number in range(8)]
    return bank_of(task.net, task.config, pictures)


def test_a_row_of_products_is_trained_once_and_then_read(
    tiny_cpc: Config, root: Path, tmp_path: Path
) -> None:
    given = {'data': root, 'runs': tmp_path / 'runs', 'config': tiny_cpc, 'steps': 2}
    row = cpc_industrial.measure('trained screw', 3, **given)
    assert row['budget'] == {
        'pictures': 6,
        'steps': 2,
        'batch': 3,
        'seconds': row['budget']['seconds'],
    }
    assert row['config']['datasets'] == ['industrial/screw'] and row['config']['seed'] == 3
    assert set(row['scores']) == set(cpc_industrial.SCORES)
    assert row['scores']['loss']['image_auroc'].keys() == {'mean', 'max', 'top', 'peak'}
    (tmp_path / 'runs/trained_screw-3/last.ckpt').unlink()
    assert cpc_industrial.measure('trained screw', 3, **given) == row
    table = cpc_industrial.markdown([row]).splitlines()
    assert len(table) == 2 + 3 + 2 and table[2].startswith('| screw | trained, loss | 1 |')


def test_a_row_of_the_ablation_judges_two_categories(
    tiny_cpc: Config, root: Path, tmp_path: Path
) -> None:
    given = {'data': root, 'runs': tmp_path / 'runs', 'config': tiny_cpc, 'steps': 2}
    row = cpc_ablation.measure('N = 64', 0, **given)
    assert set(row['categories']) == {'screw', 'fibre_mat'}
    for found in row['categories'].values():
        assert found['config']['negatives'] == 64
        assert set(found['scores']) == {'loss', 'excess', 'nearest'}
    table = cpc_ablation.markdown([row, {**row, 'seed': 1}]).splitlines()
    assert len(table) == 2 + 3
    assert all('| 2 |' in line and '± 0.0' in line for line in table[2:])


def test_negatives_of_the_picture_depend_on_what_else_is_in_it(bank: Bank) -> None:
    z = bank.grids[0].clone()
    changed = z.clone()
    changed[..., 8:] += 2.0 * changed[..., :3]
    scores = cpc_ablation.scores_of(bank, all_of_them=True)
    assert set(scores) == set(cpc_ablation.SCORES)
    own, other = (scores['batch'](one)[0, :, 0] for one in (z, changed))
    assert not torch.allclose(own, other)
    assert torch.equal(scores['batch'](z), scores['batch'](z))
    whole, condensed = scores['whole'](z), scores['loss'](z)
    assert np.corrcoef(whole.detach().flatten(), condensed.detach().flatten())[0, 1] > 0.8


def test_figures_of_a_category_are_those_of_a_slow_loop(bank: Bank, root: Path) -> None:
    """A score that sees the light of a patch alone."""
    light = torch.nn.AdaptiveAvgPool2d((7, 11))

    def score(z: torch.Tensor) -> torch.Tensor:
        return light(z).mean(dim=1)

    category = root / 'industrial/screw'
    found = category_figures(bank, {'light': score}, category)['light']
    means, labels = [], []
    for kind in ('good', 'hole'):
        for path in sorted((category / 'test' / kind).iterdir()):
            rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            pixels = (torch.from_numpy(rgb).permute(2, 0, 1)[None].float() - 127.5) / 64
            with torch.inference_mode():
                means.append(float(score(bank.net.encode(pixels)).mean()))
            labels.append(kind == 'hole')
    assert found['image_auroc']['mean'] == pytest.approx(roc_auc_score(labels, means))
    assert 0.0 <= found['pro'] <= 1.0 and 0.0 <= found['pixel_auroc'] <= 1.0
    assert brightness_auroc(category) >= 0.5


def test_a_mask_of_another_size_is_named(bank: Bank, root: Path) -> None:
    mask = root / 'industrial/screw/ground_truth/hole/10_mask.png'
    cv2.imwrite(str(mask), np.zeros((32, 96), np.uint8))
    with pytest.raises(FolderError, match=r'10_mask\.png: 96x32 labels belong to 10\.png'):
        category_figures(bank, {'nearest': bank.nearest()}, root / 'industrial/screw')


def test_nearest_neighbours_of_the_bank_itself_are_near(bank: Bank) -> None:
    own, other = bank.grids[0], bank.grids[0] + 5.0
    score = bank.nearest()
    assert float(score(own).mean()) < 0.2 * float(score(other).mean())
    patches = torch.arange(10.0)[:, None]
    assert evenly(patches, 4).flatten().tolist() == [0, 3, 6, 9]


def test_areas_are_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 40).astype(float).tolist(), (rng.random(40) < 0.4).tolist()
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_a_drive_is_trained_on_its_first_half_and_judged_on_its_second(
    tiny_cpc: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [np.dstack([picture(number)] * 3) for number in range(20)]
    drive = Drive('street', lambda data: frames, (0.2,))
    monkeypatch.setattr(cpc_drives, 'DRIVES', {'street': drive})
    config = dataclasses.replace(tiny_cpc, bank_centres=16, frame_term=True)
    row = cpc_drives.measure('street', 0, tmp_path, tmp_path / 'runs', config, steps=2)
    assert row['budget']['pictures'] == 10 and (row['untouched'], row['faulty']) == (10, 10)
    kept = sorted((tmp_path / 'runs/frames/street').iterdir())
    np.testing.assert_array_equal(cv2.imread(str(kept[3])), frames[3])
    for severity in ('1', '3'):
        for score in cpc_drives.SCORES:
            assert list(row['auroc'][severity][score]) == list(FAULTS)
    table = cpc_drives.markdown([row]).splitlines()
    assert table[0] == '| frame score, severity | street | mean |'
    assert cpc_drives.mean_auroc(row, 3, 'nearest') > 0.5


def test_the_best_and_the_worst_cases_are_drawn(
    tiny_cpc: Config, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / 'runs/trained_screw-0'
    given = {'data': root, 'runs': run.parent, 'config': tiny_cpc, 'steps': 2}
    cpc_industrial.measure('trained screw', 0, **given)
    out, common = tmp_path / 'sheets', ['--data', str(root)]
    assert cpc_overlays.main([str(run), *common, '--out', str(out), '--count', '1']) == 0
    (page,) = out.iterdir()
    # Three rows of 480 x 320: the defect found, the one missed, the false alarm.
    assert cv2.imread(str(page)).shape[:2] == (3 * 324, 3 * 480 + 2 * 4)
    assert cpc_overlays.main([str(tmp_path / 'no'), *common, '--out', str(out)]) == 2
    assert 'training.cpc_overlays:' in capsys.readouterr().err


def test_cases_are_chosen_by_their_score() -> None:
    blank = np.zeros((2, 2, 3), np.uint8)
    cases = [
        cpc_overlays.Case(str(number), blank, blank[..., 0], blank[..., 0], number, number % 2 == 0)
        for number in range(8)
    ]
    found = [(kind, case.name) for kind, case in cpc_overlays.chosen(cases, 2)]
    assert found == [
        ('found', '6'),
        ('found', '4'),
        ('missed', '0'),
        ('missed', '2'),
        ('false alarm', '7'),
        ('false alarm', '5'),
    ]


def test_faults_of_a_frame_stand_beside_it(bank: Bank) -> None:
    frame = np.dstack([picture(30)] * 3)
    drawn = cpc_overlays.faults_picture(bank.scorer(), bank.config, frame, ['dirt', 'fog'], 3)
    height = round(64 * 320 / 96) + 2
    assert drawn.shape == (2 * height, 3 * 322, 3)
    top, below = drawn[: height - 2, :320], drawn[height:-2, :320]
    assert abs(float(top[40:].mean()) - float(frame[12:].mean())) < 12 and below.std() > 5
