"""The benchmark on tiny models and tiny folders: rows, refusals, provenance, atomic output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score

from training import benchmark
from training.benchmark import Measurement, Predictor, main, measure, upsampled_argmax
from training.tables import markdown
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.metrics import PROTOCOLS
from vq_anomaly_ros.replay.files import OutputError, write_text

SIZE = (90, 150)


def save(path: Path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.asarray(pixels, np.uint8))


def object_labels(seed: int) -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    labels[-6:] = 255
    labels[10 : 50 + seed, 20 : 70 + seed] = 1
    return labels


@pytest.fixture
def roads(tmp_path, picture) -> Path:
    """An anomaly folder of four pictures, one without an anomaly."""
    folder = tmp_path / 'roads'
    for seed in range(4):
        labels = object_labels(seed)
        if seed == 2:
            labels[labels == 1] = 0
        save(folder / 'images' / f'{seed}.png', picture(seed, *SIZE))
        save(folder / 'labels' / f'{seed}.png', labels)
    return folder


@pytest.fixture
def town(tmp_path, picture, tiny_info) -> Path:
    """A segmentation folder with the classes of the tiny model, in another order, and void 9."""
    folder = tmp_path / 'town'
    names = list(tiny_info.classes)[::-1]
    (folder / 'test').mkdir(parents=True)
    (folder / 'classes.yaml').write_text(f'classes: {json.dumps(names)}\nvoid: [9]\n')
    rng = np.random.default_rng(0)
    for seed in range(3):
        labels = np.kron(rng.integers(0, 4, (9, 15)), np.ones((10, 10))).astype(np.uint8)
        labels[:5] = 9
        save(folder / 'test' / 'images' / f'{seed}.png', picture(seed, *SIZE))
        save(folder / 'test' / 'labels' / f'{seed}.png', labels)
    return folder


@pytest.fixture
def product(tmp_path, picture) -> Path:
    """A category in the MVTec layout: three good pictures, three defective ones."""
    folder = tmp_path / 'screw'
    for seed in range(3):
        save(folder / 'test' / 'good' / f'{seed}.png', picture(seed, *SIZE))
        save(folder / 'test' / 'hole' / f'{seed}.png', picture(10 + seed, *SIZE))
        mask = 255 * (object_labels(seed) == 1)
        save(folder / 'ground_truth' / 'hole' / f'{seed}_mask.png', mask)
    return folder


def run(*arguments) -> int:
    return main([str(argument) for argument in (*arguments, '--backend', 'onnxruntime')])


def scores_by_hand(model: Path, images: list[Path]) -> list[np.ndarray]:
    """The raw score map of each picture at its own size, straight through ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model))
    maps = []
    for path in images:
        bgr = cv2.imread(str(path))
        rgb = cv2.resize(bgr, (128, 64), interpolation=cv2.INTER_LINEAR)[..., ::-1]
        (score,) = session.run(['score'], {'image': np.ascontiguousarray(rgb)[None]})
        maps.append(cv2.resize(score[0], SIZE[::-1], interpolation=cv2.INTER_LINEAR))
    return maps


def test_anomaly_row_equals_the_way_by_hand(roads, tiny_model, tmp_path, capsys):
    out = tmp_path / 'rows.json'
    assert run('--model', tiny_model, '--data', roads, '--protocol', 'pooled', '--json', out) == 0
    (row,) = json.loads(out.read_text())
    images = [roads / 'images' / f'{index}.png' for index in range(4)]
    scores = np.concatenate([score.ravel() for score in scores_by_hand(tiny_model, images)])
    labels = np.concatenate(
        [cv2.imread(str(roads / 'labels' / f'{index}.png'), -1).ravel() for index in range(4)]
    )
    keep = labels != 255
    expected = average_precision_score(labels[keep] == 1, scores[keep])
    assert row['metrics']['ap'] == pytest.approx(expected, abs=1e-5)
    assert row['metrics']['auroc'] == pytest.approx(
        roc_auc_score(labels[keep] == 1, scores[keep]), abs=1e-5
    )
    low, high = row['interval']['ap']
    assert low < row['metrics']['ap'] < high
    table = capsys.readouterr().out
    assert f'{100 * row["metrics"]["ap"]:.1f} [' in table
    assert 'AP ↑' in table


def test_a_row_carries_its_provenance(roads, make_tiny_model, tmp_path):
    path = make_tiny_model(
        tmp_path / 'named.onnx', name='named', commit='abc123', outlier_data=('pasted objects',)
    )
    out = tmp_path / 'rows.json'
    run('--model', path, '--data', roads, '--protocol', 'smiyc', '--json', out, '--seed', '7')
    (row,) = json.loads(out.read_text())
    assert {key: row[key] for key in ('model', 'data', 'protocol', 'images')} == {
        'model': 'named',
        'data': 'roads',
        'protocol': 'smiyc',
        'images': 4,
    }
    assert (row['outliers'], row['seed'], row['commit']) == ('pasted objects', 7, 'abc123')
    assert row['provenance']['sha256'] == model_file.read(path).sha256
    assert row['provenance']['settings']['components']['min_predicted'] == 500
    assert row['provenance']['input_size'] == [64, 128]
    assert 'onnx' in row['provenance']['engine'].lower()


def test_a_row_has_the_documented_keys(roads, tiny_model, tmp_path):
    out = tmp_path / 'rows.json'
    assert run('--model', tiny_model, '--data', f'{roads}:smiyc', '--json', out) == 0
    (row,) = json.loads(out.read_text())
    documented = {'model', 'data', 'protocol', 'images', 'outliers', 'seed', 'commit', 'metrics'}
    assert documented <= set(row)
    assert set(row['metrics']) <= {'ap', 'fpr95', 'auroc', 'best_f1', 'siou', 'ppv', 'f1_star'}
    assert {'ap', 'fpr95', 'auroc', 'best_f1'} <= set(row['metrics'])
    assert all(0 <= value <= 1 for value in row['metrics'].values())


def test_obstacle_track_changes_the_sizes_and_is_recorded(roads, tiny_model, tmp_path):
    out = tmp_path / 'rows.json'
    arguments = ('--model', tiny_model, '--data', roads, '--json', out, '--track', 'obstacle')
    assert run(*arguments, '--protocol', 'smiyc') == 0
    (row,) = json.loads(out.read_text())
    assert row['provenance']['settings']['components'] == {'min_predicted': 50, 'min_truth': 10}
    assert {'siou', 'f1_star'} <= set(row['metrics'])
    assert run(*arguments, '--protocol', 'pooled') == 2


def test_class_row_maps_ids_by_name(town, tiny_model, tmp_path):
    out = tmp_path / 'rows.json'
    arguments = ('--model', tiny_model, '--data', town, '--protocol', 'segmentation')
    assert run(*arguments, '--json', out) == 0
    (row,) = json.loads(out.read_text())
    predictor = Predictor(model_file.read(tiny_model), Measurement(PROTOCOLS['segmentation']))
    truth, found = [], []
    for index in range(3):
        image = cv2.imread(str(town / 'test' / 'images' / f'{index}.png'))
        labels = cv2.imread(str(town / 'test' / 'labels' / f'{index}.png'), -1)
        maps = predictor.run(image).transpose(1, 2, 0)
        upsampled = cv2.resize(maps, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
        truth.append(3 - labels[labels != 9].astype(int))
        found.append(upsampled.argmax(axis=2)[labels != 9])
    iou = jaccard_score(np.concatenate(truth), np.concatenate(found), average=None)
    assert row['data'] == 'town/test'
    assert row['metrics']['miou'] == pytest.approx(np.mean(iou), abs=1e-3)
    assert list(row['per_class']) == list(predictor.model.info.classes)


def test_argmax_of_upsampled_scores_takes_the_first_of_equals():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (5, 6, 8)).astype(np.float32)
    stacked = np.stack([cv2.resize(plane, (21, 17)) for plane in scores])
    np.testing.assert_array_equal(upsampled_argmax(scores, (17, 21)), stacked.argmax(axis=0))


def test_industrial_row(product, tiny_model, tmp_path):
    out = tmp_path / 'rows.json'
    arguments = ('--model', tiny_model, '--data', product, '--protocol', 'industrial')
    assert run(*arguments, '--json', out) == 0
    (row,) = json.loads(out.read_text())
    kinds = [('good', 0), ('hole', 1)]
    images = [product / 'test' / kind / f'{i}.png' for kind, _ in kinds for i in range(3)]
    peaks = [score.max() for score in scores_by_hand(tiny_model, images)]
    expected = roc_auc_score([0] * 3 + [1] * 3, peaks)
    assert row['metrics']['image_auroc'] == pytest.approx(expected)
    assert {'pixel_auroc', 'pro'} <= set(row['metrics'])
    assert row['images'] == 6


def test_several_models_and_sets_make_one_table(roads, tiny_model, make_tiny_model, tmp_path):
    other = make_tiny_model(tmp_path / 'other.onnx', name='other')
    again = tmp_path / 'more' / 'lanes'
    again.parent.mkdir()
    again.symlink_to(roads)
    rows, table = tmp_path / 'rows.json', tmp_path / 'deep' / 'table.md'
    arguments = ('--model', tiny_model, other, '--data', roads, again, '--protocol', 'fishyscapes')
    assert run(*arguments, '--json', rows, '--markdown', table) == 0
    assert [row['model'] for row in json.loads(rows.read_text())] == ['tiny'] * 2 + ['other'] * 2
    assert len(table.read_text().splitlines()) == 6
    assert not list(tmp_path.rglob('.*'))


def test_sets_of_several_kinds_make_one_table(
    roads, town, product, tiny_model, make_tiny_model, tmp_path, capsys
):
    other = make_tiny_model(tmp_path / 'other.onnx', name='other')
    out = tmp_path / 'rows.json'
    sets = (f'{roads}:smiyc:obstacle', f'{town}:segmentation', f'{product}:industrial', roads)
    arguments = ('--model', tiny_model, other, '--data', *sets, '--protocol', 'fishyscapes')
    assert run(*arguments, '--json', out) == 0
    rows = json.loads(out.read_text())
    assert [(row['model'], row['data'], row['protocol']) for row in rows] == [
        (model, data, protocol)
        for model in ('tiny', 'other')
        for data, protocol in (
            ('roads', 'smiyc'),
            ('town/test', 'segmentation'),
            ('screw', 'industrial'),
            ('roads', 'fishyscapes'),
        )
    ]
    sizes = [row['provenance']['settings']['components'] for row in rows[:4]]
    assert sizes == [{'min_predicted': 50, 'min_truth': 10}, None, None, None]
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    assert len(table) == 2 + len(rows)


def test_a_set_measured_beside_others_gives_what_it_gives_alone(roads, town, tiny_model, tmp_path):
    together, alone = tmp_path / 'together.json', tmp_path / 'alone.json'
    arguments = ('--model', tiny_model, '--data')
    sets = (f'{town}:segmentation', f'{roads}:pooled')
    assert run(*arguments, *sets, '--json', together) == 0
    assert run(*arguments, roads, '--protocol', 'pooled', '--json', alone) == 0
    assert json.loads(together.read_text())[1:] == json.loads(alone.read_text())


def test_the_table_replaces_that_of_a_page(roads, tiny_model, tmp_path, capsys):
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- found -->\nold\n<!-- /found -->\nafter\n')
    command = ['--model', str(tiny_model), '--data', f'{roads}:pooled', '--page', str(page)]
    assert main([*command, '--json', str(tmp_path / 'found.json')]) == 0
    rows = json.loads((tmp_path / 'found.json').read_text())
    assert page.read_text() == (
        f'before\n<!-- found -->\n{markdown(rows)}\n<!-- /found -->\nafter\n'
    )
    for json_file, said in (('other.json', 'put both where the table belongs'), ('', 'give both')):
        more = ['--json', str(tmp_path / json_file)] if json_file else []
        assert main([*command, *more]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / 'other.json').exists(), 'said before anything is measured'
    assert main([*command[:-1], str(tmp_path / 'no.md'), '--json', str(tmp_path / 'a.json')]) == 2
    assert 'no.md: cannot be read' in capsys.readouterr().err


def test_a_set_without_any_protocol_is_refused(roads, town, tiny_model, capsys):
    assert run('--model', tiny_model, '--data', f'{town}:segmentation', roads) == 2
    message = capsys.readouterr().err
    assert f'{roads}: no protocol is named for it' in message
    assert '--protocol' in message


def test_the_default_track_is_for_the_sets_that_have_one(roads, town, tiny_model, tmp_path):
    out = tmp_path / 'rows.json'
    arguments = ('--model', tiny_model, '--data', f'{town}:segmentation', f'{roads}:smiyc')
    assert run(*arguments, '--track', 'obstacle', '--json', out) == 0
    settings = [row['provenance']['settings'] for row in json.loads(out.read_text())]
    assert settings[0]['components'] is None
    assert settings[1]['components'] == {'min_predicted': 50, 'min_truth': 10}


@pytest.mark.parametrize('protocol', ['pooled', 'segmentation', 'industrial'])
def test_a_protocol_that_does_not_fit_the_folder_is_refused(
    protocol, roads, town, product, tiny_model, capsys
):
    fitting = {'pooled': roads, 'segmentation': town, 'industrial': product}
    for name, folder in fitting.items():
        if name != protocol:
            assert run('--model', tiny_model, '--data', folder, '--protocol', protocol) == 2
            message = capsys.readouterr().err
            assert str(folder) in message
            assert f'--protocol {name}' in message


def test_class_labels_under_an_anomaly_protocol_name_the_file(town, tiny_model, capsys):
    assert run('--model', tiny_model, '--data', town / 'test', '--protocol', 'pooled') == 2
    assert 'labels/0.png: holds the ids' in capsys.readouterr().err


def test_classes_of_another_set_are_refused(town, tiny_model, capsys):
    (town / 'classes.yaml').write_text('classes: [sea, sky]\n')
    assert run('--model', tiny_model, '--data', town, '--protocol', 'segmentation') == 2
    assert 'choose a set and a model of the same classes' in capsys.readouterr().err


def test_missing_model_and_missing_data_are_named(roads, tiny_model, tmp_path, capsys):
    assert run('--model', 'nowhere', '--data', roads, '--protocol', 'pooled') == 2
    assert 'nowhere' in capsys.readouterr().err
    assert run('--model', tiny_model, '--data', tmp_path / 'gone', '--protocol', 'pooled') == 2
    assert f'{tmp_path / "gone"}: there is no such folder' in capsys.readouterr().err


def test_an_unreadable_picture_keeps_the_rows_before_it(
    roads, tiny_model, tmp_path, picture, capsys
):
    broken = tmp_path / 'broken'
    save(broken / 'images' / 'a.png', picture(0, *SIZE))
    save(broken / 'labels' / 'a.png', object_labels(0))
    (broken / 'images' / 'a.png').write_bytes(b'cut')
    out = tmp_path / 'rows.json'
    arguments = ('--model', tiny_model, '--data', roads, broken, '--protocol', 'pooled')
    assert run(*arguments, '--json', out, '--sheet', tmp_path / 'sheets') == 2
    assert 'a.png: is no readable picture (3 bytes)' in capsys.readouterr().err
    assert [row['data'] for row in json.loads(out.read_text())] == ['roads']
    assert [path.name for path in (tmp_path / 'sheets').iterdir()] == ['tiny_roads_01.jpg']


def test_interruption_says_what_is_kept(roads, tiny_model, monkeypatch, capsys):
    calls = []

    def interrupted_later(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(benchmark, 'measure', interrupted_later)
    assert run('--model', tiny_model, '--data', roads, roads, '--protocol', 'pooled') == 130
    streams = capsys.readouterr()
    assert 'the 1 finished rows are kept' in streams.err
    assert '| tiny | roads |' in streams.out


def test_scores_that_are_not_finite_name_the_picture(roads, tiny_model, monkeypatch, capsys):
    def broken(self, image):
        return np.full((16, 32), np.nan, np.float32)

    monkeypatch.setattr(Predictor, 'run', broken)
    assert run('--model', tiny_model, '--data', roads, '--protocol', 'smiyc') == 2
    assert 'images/0.png: 13500 of 13500 scores are NaN' in capsys.readouterr().err


def test_a_set_without_anomalies_gives_a_reason_not_a_number(tiny_model, tmp_path, picture, capsys):
    folder = tmp_path / 'calm'
    save(folder / 'images' / '0.png', picture(0, *SIZE))
    save(folder / 'labels' / '0.png', np.zeros(SIZE))
    out = tmp_path / 'rows.json'
    arguments = ('--model', tiny_model, '--data', folder, '--protocol', 'fishyscapes')
    assert run(*arguments, '--json', out) == 0
    (row,) = json.loads(out.read_text())
    assert row['metrics'] == {}
    assert set(row['not_measured']) == {'ap', 'fpr95', 'auroc', 'best_f1'}
    assert 'no ap, fpr95, auroc, best_f1, the labels hold no anomalous' in capsys.readouterr().out


@pytest.mark.parametrize('calibrated', [True, False])
def test_sheets_show_picture_heat_and_outline(
    roads, make_tiny_model, tiny_info, tmp_path, calibrated
):
    table = tiny_info.calibration if calibrated else None
    path = make_tiny_model(tmp_path / 'shown.onnx', calibration=table)
    sheets = tmp_path / 'sheets'
    arguments = ('--model', path, '--data', roads, '--protocol', 'pooled', '--sheet', sheets)
    assert run(*arguments) == 0
    (page,) = sheets.iterdir()
    pixels = cv2.imread(str(page)).astype(int)
    assert pixels.shape == (4 * (288 + 4), 3 * 480 + 8, 3)
    drawn = pixels[:, 2 * 484 :, 1] - pixels[:, :480, 1] > 90  # what became greener
    assert drawn[:288].sum() > 300  # the first picture holds an object
    assert drawn[2 * 292 : 3 * 292 - 4].sum() == 0  # the third one does not
    heat = pixels[:288, 484:964]
    assert heat.std(axis=(0, 1)).max() > 5


def test_sheets_of_classes_have_a_page_for_every_six_pictures(town, tiny_model, tmp_path, picture):
    for index in range(3, 8):
        save(town / 'test' / 'images' / f'{index}.png', picture(index, *SIZE))
        save(town / 'test' / 'labels' / f'{index}.png', np.zeros(SIZE))
    sheets = tmp_path / 'sheets'
    arguments = ('--model', tiny_model, '--data', town, '--protocol', 'segmentation')
    assert run(*arguments, '--sheet', sheets) == 0
    names = sorted(path.name for path in sheets.iterdir())
    assert names == ['tiny_town_test_01.jpg', 'tiny_town_test_02.jpg']


def test_engines_agree(roads, tiny_model, tmp_path):
    rows = []
    for backend in ('openvino', 'onnxruntime'):
        out = tmp_path / f'{backend}.json'
        arguments = ('--model', tiny_model, '--data', roads, '--protocol', 'pooled')
        assert main([*map(str, arguments), '--json', str(out), '--backend', backend]) == 0
        rows += json.loads(out.read_text())
    assert rows[0]['metrics']['ap'] == pytest.approx(rows[1]['metrics']['ap'], abs=1e-4)
    assert rows[0]['provenance']['engine'] != rows[1]['provenance']['engine']


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'table.md'
    write_text(path, 'old')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'replace', full)
    with pytest.raises(OutputError, match=r'table\.md: cannot be written \(No space left'):
        write_text(path, 'new')
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_keeps_to_columns_that_exist():
    row = {
        'model': 'a|b',
        'data': 'd',
        'protocol': 'pooled',
        'images': 2,
        'outliers': 'none',
        'commit': '',
        'metrics': {'ap': 0.5, 'f1_star': 0.25},
        'interval': {'ap': [0.4, 0.6]},
        'not_measured': {},
        'provenance': {'sha256': '0123456789'},
    }
    head, _, line = markdown([row]).splitlines()
    expected = '| model | data | protocol | images | AP ↑ | F1* ↑ |'
    assert head == f'{expected} outlier data | commit | sha256 |'
    assert line == '| a/b | d | pooled | 2 | 50.0 [40.0, 60.0] | 25.0 | none | – | 01234567 |'


def test_neither_torch_nor_rclpy_is_imported():
    code = (
        'import sys, training.benchmark; '
        'print([name for name in ("torch", "rclpy", "sklearn", "matplotlib") '
        'if name in sys.modules])'
    )
    root = Path(benchmark.__file__).parents[1]
    found = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=root, check=True
    )
    assert found.stdout.strip() == '[]'
