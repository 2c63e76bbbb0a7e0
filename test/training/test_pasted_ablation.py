"""The validation set of held-out objects, and ablations that are judged on it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from training import ablation, pasted
from training.ablation import COARSE, ROWS, SCHEDULE, SCORES, markdown, measure
from training.data.folders import FolderError, load_anomaly_labels, read_anomaly_folder
from training.data.outliers import OutlierError, held_out_categories, read_cut_outs
from training.methods.codebook.task import Config

SIZE = (64, 96)
COLOUR = (230, 20, 200)  # RGB of every object: nothing else in the pictures has it


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures a split, ten categories of two objects each."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for split, void in (('camvid/train', 11), ('camvid/val', 11), ('idd_lite/val', 255)):
        for name in ('images', 'labels'):
            (root / split / name).mkdir(parents=True)
        for number in range(3):
            labels = np.arange(7).repeat(14)[: SIZE[1]][None].repeat(SIZE[0], axis=0)
            labels = labels.astype(np.uint8)
            labels[:4] = void
            grey = rng.integers(0, 40, SIZE, np.uint8) + labels * 10
            image = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
            cv2.imwrite(str(root / split / 'images' / f'{number}.png'), image)
            cv2.imwrite(str(root / split / 'labels' / f'{number}.png'), labels)
    (root / 'outlier_objects').mkdir()
    for category in range(10):
        for number in range(2):
            rgba = np.full((20, 20, 4), 255, np.uint8)
            rgba[..., :3] = COLOUR[::-1]
            cv2.imwrite(str(root / 'outlier_objects' / f'thing{category}_{number}.png'), rgba)
    return root


def test_held_out_categories_are_the_same_for_everybody_and_leave_the_rest(root: Path) -> None:
    objects = root / 'outlier_objects'
    held_out = held_out_categories(objects, 0.3)
    assert len(held_out) == 3 == len(held_out_categories(objects, 0.3) & held_out)
    assert held_out_categories(objects, 0.0) == frozenset()
    left = {one.category for one in read_cut_outs(objects, held_out)}
    assert not left & held_out and len(left) == 7
    with pytest.raises(OutlierError):
        read_cut_outs(objects, held_out_categories(objects, 1.0))


def test_a_smaller_set_is_a_part_of_the_whole(root: Path, tmp_path: Path) -> None:
    pasted.write_pasted(root, tmp_path / 'whole', pasted.Choice(share=0.3))
    assert pasted.write_pasted(root, tmp_path / 'part', pasted.Choice(share=0.3, every=2)) == 3
    part = sorted((tmp_path / 'part' / 'images').iterdir())
    assert len(part) == 3
    for picture in part:
        assert picture.read_bytes() == (tmp_path / 'whole/images' / picture.name).read_bytes()


def test_labels_lie_on_the_objects_and_void_stays_void(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[frozenset[str]] = []
    original = pasted.held_out_categories

    def asking(folder: Path, share: float) -> frozenset[str]:
        asked.append(original(folder, share))
        return asked[-1]

    monkeypatch.setattr(pasted, 'held_out_categories', asking)
    arguments = ['--data', str(root), '--out', str(tmp_path / 'set')]
    assert pasted.main(arguments) == 0
    assert [len(names) for names in asked] == [2]
    samples = read_anomaly_folder(tmp_path / 'set').samples
    assert sorted(s.image.stem for s in samples) == sorted(
        f'{name}_{number}' for name in ('camvid', 'idd_lite') for number in range(3)
    )
    for sample in samples:
        labels = load_anomaly_labels(sample.label)
        image = cv2.imread(str(sample.image)).astype(int)
        assert (labels == 1).any() and (labels[4:] != 255).all()
        # A pasted pixel has the object's colour cast, red above green: a grey street has none.
        cast = image[..., 2] - image[..., 1]
        assert np.median(cast[labels == 1]) > 60 > 5 > abs(np.median(cast[labels == 0]))
    before = [s.image.read_bytes() for s in samples]
    assert pasted.main(arguments) == 2, 'an existing set is not replaced'
    assert pasted.main([*arguments[:3], str(tmp_path / 'again')]) == 0
    again = [s.image.read_bytes() for s in read_anomaly_folder(tmp_path / 'again').samples]
    assert again == before


def test_other_streets_and_other_objects(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A labelled split keeps its void; of plain pictures and of a video nothing is void."""
    frames, objects = tmp_path / 'drive', tmp_path / 'stamps'
    frames.mkdir()
    objects.mkdir()
    rng = np.random.default_rng(1)
    video = cv2.VideoWriter(
        str(tmp_path / 'film.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 10, SIZE[::-1]
    )
    for number in range(2):
        grey = np.repeat(rng.integers(0, 40, (*SIZE, 1), np.uint8), 3, axis=2)
        cv2.imwrite(str(frames / f'{number}.png'), grey)
        video.write(grey)
    video.release()
    blue = np.full((20, 20, 4), 255, np.uint8)
    blue[..., :3] = 255, 60, 20
    (objects / 'furniture').mkdir()
    cv2.imwrite(str(objects / 'furniture' / 'sofa_0.png'), blue)
    streets = ['camvid/val', str(frames), str(tmp_path / 'film.avi')]
    command = ['--data', str(root), '--objects', str(objects), '--streets', *streets]
    assert pasted.main([*command, '--out', str(tmp_path / 'set')]) == 0
    assert '7 pictures' in capsys.readouterr().out
    samples = read_anomaly_folder(tmp_path / 'set').samples
    void = {s.image.stem: (load_anomaly_labels(s.label) == 255).any() for s in samples}
    assert {stem for stem, found in void.items() if found} == {f'camvid_{n}' for n in range(3)}
    assert void.keys() == {*(f'camvid_{n}' for n in range(3)), '0', '1', 'film_000000',
                           'film_000001'}  # fmt: skip
    for sample in samples:
        cast = np.diff(cv2.imread(str(sample.image)).astype(int)[..., :2], axis=2)[..., 0]
        assert np.median(cast[load_anomaly_labels(sample.label) == 1]) < -60, 'blue, not their red'
    again = [*command, str(frames), '--out', str(tmp_path / 'twice')]
    assert pasted.main(again) == 2 and 'rename one' in capsys.readouterr().err
    assert not (tmp_path / 'twice').exists()


@pytest.mark.parametrize(
    'change, said',
    [
        (['--streets', 'nowhere/val'], 'nowhere/val'),
        (['--streets', 'outlier_objects/thing0_0.png'], 'neither a folder of pictures nor a video'),
        (['--objects', 'camvid/val/images'], 'not a PNG with an alpha channel'),
        (['--objects', 'glass'], 'glass/pane_0.png: no pixel of it is opaque'),
        (['--every', '0'], 'every is 0'),
        (['--share', '0'], '--share 0: holds back no category'),
    ],
)
def test_what_cannot_be_pasted_is_named(
    root: Path, tmp_path: Path, change: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / 'glass').mkdir(exist_ok=True)
    cv2.imwrite(str(root / 'glass' / 'pane_0.png'), np.zeros((9, 9, 4), np.uint8))
    assert pasted.main(['--data', str(root), '--out', str(tmp_path / 'set'), *change]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_data_leave_nothing(root: Path, tmp_path: Path) -> None:
    with pytest.raises((FolderError, OutlierError)):
        pasted.write_pasted(tmp_path / 'nowhere', tmp_path / 'set')
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope='module')
def row(
    root: Path, tmp_path_factory: pytest.TempPathFactory, tiny_schedule: Config
) -> tuple[dict[str, Any], Path, Any]:
    """One row, trained for an epoch on tiny crops."""
    runs = tmp_path_factory.mktemp('runs')
    pasted.write_pasted(root, runs / 'pasted')

    def again(name: str = 'M = 1') -> dict[str, Any]:
        return measure(name, 3, root, runs / 'pasted', runs, tiny_schedule)

    return again(), runs, again


def test_a_row_has_every_score_and_is_not_trained_twice(
    row: tuple[dict[str, Any], Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, runs, again = row
    assert set(figures['scores']) == set(SCORES)
    for values in figures['scores'].values():
        assert 0 <= values['ap'] <= 1 and 0 <= values['fpr95'] <= 1
    assert 0 <= figures['miou'] <= 1 and 0 <= figures['unused codevectors'] <= 11
    # With one codevector a class the weighted mean is that codevector's cosine.
    assert figures['scores']['T1'] == pytest.approx(figures['scores']['K = 1'])
    assert json.loads((runs / 'M_=_1-3' / 'figures.json').read_text())['miou'] == figures['miou']
    monkeypatch.setattr(ablation, 'train', None)
    assert again() == figures


def test_a_row_with_a_coarse_codebook_has_its_scores_besides(
    root: Path, tmp_path: Path, tiny_schedule: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = 'backbone fixed, no outlier data'
    monkeypatch.setitem(ROWS, name, {**ROWS[name], 'coarse': 2})
    pasted.write_pasted(root, tmp_path / 'pasted')
    found = measure(name, 0, root, tmp_path / 'pasted', tmp_path, tiny_schedule)
    assert set(found['scores']) == {*SCORES, *COARSE}
    alone, coarse, mixed = (found['scores'][score] for score in ('T1', *COARSE))
    assert alone != coarse and mixed not in (alone, coarse)
    text = markdown([found])
    assert all(f'| {name}, score {score} | 1 |' in text for score in COARSE)


def test_the_table_shows_mean_and_half_of_the_range() -> None:
    rows = [
        {
            'row': 'shipped objective',
            'seed': seed,
            'scores': {name: {'ap': ap, 'fpr95': 0.25} for name in SCORES},
            'miou': 0.5,
            'unused codevectors': seed,
        }
        for seed, ap in ((0, 0.40), (1, 0.50))
    ]
    text = markdown(rows)
    assert '| shipped objective | 2 | 45.0 ± 5.0 | 25.0 ± 0.0 | 50.0 ± 0.0 | 0, 1 |' in text
    assert '| shipped objective, score T2 | 2 | 45.0 ± 5.0 | 25.0 ± 0.0 | | |' in text


def test_a_table_of_what_is_finished_trains_nothing(
    row: tuple[dict[str, Any], Path, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    _, runs, _ = row
    monkeypatch.setattr(ablation, 'train', None)
    arguments = ['--data', str(tmp_path), '--pasted', str(tmp_path), '--finished']
    assert ablation.main([*arguments, '--out', str(runs), '--seeds', '2', '3']) == 0
    said = capsys.readouterr().out
    assert '| M = 1 | 1 |' in said and 'shipped objective' not in said
    assert ablation.main([*arguments, '--out', str(tmp_path)]) == 2
    assert 'no row of these is finished there' in capsys.readouterr().err


def test_every_row_is_a_configuration() -> None:
    for changes in ROWS.values():
        dataclasses.replace(SCHEDULE, **changes)
