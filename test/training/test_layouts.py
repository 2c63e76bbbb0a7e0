"""Readers of public data sets, on tiny trees in the exact layout of each archive."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from training.benchmark import Predictor, main
from training.data import layouts
from training.data.folders import (
    IGNORED,
    VOID,
    AnomalyFolder,
    ClassList,
    FolderError,
    LabelledImage,
    SegmentationFolder,
    check_same_size,
    class_table,
    load_anomaly_labels,
    load_class_ids,
    load_picture,
)
from training.data.layouts import (
    BDD100K,
    CITYSCAPES,
    STREETHAZARDS,
    locate,
    read_anomaly_set,
    read_segmentation_set,
)

SIZE = (16, 32)


def save(path: Path, pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.asarray(pixels, np.uint8))
    return path


def photo(path: Path, value: int = 90) -> Path:
    return save(path, np.full((*SIZE, 3), value))


def ids(path: Path, *values: int) -> Path:
    """Labels whose columns repeat `values`."""
    return save(path, np.resize(values, SIZE))


def decoded(folder: AnomalyFolder, number: int = 0, columns: int = 8) -> list[int]:
    """The first labels of a sample, after its sizes were checked as the benchmark does."""
    sample = folder.samples[number]
    labels = load_anomaly_labels(sample.label, folder.coding)
    check_same_size(sample.image, load_picture(sample), sample.label, labels)
    return labels[0, :columns].tolist()


def class_ids(folder: SegmentationFolder, columns: int = 8) -> list[int]:
    assert folder.classes is not None
    table = class_table(folder.classes, folder.classes.names, folder.root)
    return load_class_ids(folder.samples[0].label, table)[0, :columns].tolist()


def cityscapes(root: Path, split: str = 'val', city: str = 'frankfurt', count: int = 2) -> Path:
    for number in range(count):
        stem = f'{city}_000000_{number:06}'
        photo(root / 'leftImg8bit' / split / city / f'{stem}_leftImg8bit.png')
        fine = root / 'gtFine' / split / city
        ids(fine / f'{stem}_gtFine_labelIds.png', 7, 33, 23, 31, 0, 3, 4, 30)
        ids(fine / f'{stem}_gtFine_instanceIds.png', 7)
        save(fine / f'{stem}_gtFine_color.png', np.zeros((*SIZE, 3)))
    return root


def lost_and_found(root: Path, split: str = 'test') -> Path:
    for sequence in ('02_Hanns_Klemm_Str_44', '15_Rechbergstr_Deckenpfronn'):
        stem = f'{sequence}_000002_000100'
        photo(root / 'leftImg8bit' / split / sequence / f'{stem}_leftImg8bit.png')
        coarse = root / 'gtCoarse' / split / sequence
        ids(coarse / f'{stem}_gtCoarse_labelIds.png', 0, 1, 2, 43)
        ids(coarse / f'{stem}_gtCoarse_labelTrainIds.png', 255, 0, 1, 1)
    return root


def segment_me(root: Path, suffix: str = 'jpg') -> Path:
    for stem in ('validation0000', 'validation0010', 'airplane0000', 'cow0002'):
        photo(root / 'images' / f'{stem}.{suffix}')
        if stem.startswith('validation'):
            masks = root / 'labels_masks'
            ids(masks / f'{stem}_labels_semantic.png', 0, 1, 255)
            save(masks / f'{stem}_labels_semantic_color.png', np.zeros((*SIZE, 3)))
    return root


def road_anomaly(root: Path, listed: bool = True) -> Path:
    stems = ('animals01_Guiguinto', 'zebra10_rocks')
    for stem in stems:
        photo(root / 'frames' / f'{stem}.jpg')
        labels = root / 'frames' / f'{stem}.labels'
        ids(labels / 'labels_semantic.png', 0, 1, 2)
        save(labels / 'labels_semantic_color.png', np.zeros((*SIZE, 3)))
    if listed:
        photo(root / 'frames' / 'unlabelled.jpg')
        (root / 'frame_list.json').write_text(json.dumps([f'{stem}.jpg' for stem in stems]))
    return root


def streethazards(root: Path) -> Path:
    places = (
        ('train', 'training', 't1-3'), ('train', 'validation', 't4'),
        ('test', 'test', 't5'), ('test', 'test', 't6'),
    )  # fmt: skip
    for half, part, town in places:
        photo(root / half / 'images' / part / town / '0.png')
        values = (1, 2, 13, 14) if half == 'test' else (1, 2, 13, 8)
        ids(root / half / 'annotations' / part / town / '0.png', *values)
    (root / 'train' / 'train.odgt').write_text('[]')
    return root


def bdd(root: Path, release: int, split: str = 'val') -> Path:
    for stem in ('7d2f7975-e0c1c5a7', '7d4a9094-0455564b'):
        values = (0, 15, 16, 17, 18, 255)
        if release == 2021:
            photo(root / 'images' / '10k' / split / f'{stem}.jpg')
            ids(root / 'labels' / 'sem_seg' / 'masks' / split / f'{stem}.png', *values)
        else:
            photo(root / 'seg' / 'images' / split / f'{stem}.jpg')
            ids(root / 'seg' / 'labels' / split / f'{stem}_train_id.png', *values)
            save(
                root / 'seg' / 'color_labels' / split / f'{stem}_train_color.png',
                np.zeros((*SIZE, 3)),
            )
    return root


def fishyscapes_found(root: Path) -> Path:
    """Labels only, as fishyscapes_lostandfound.zip holds them."""
    ids(root / '0000_04_Maurener_Weg_8_000000_000030_labels.png', 0, 1, 255)
    return root


def fishyscapes_static(root: Path, version: str = 'npz') -> Path:
    """Labels and differences, as the fs_val archives hold them, or the finished pictures."""
    stem = '0003_frankfurt_000000_000001'
    ids(root / f'{stem}_labels.png', 0, 1, 255)
    if version == 'npz':
        difference = np.zeros((*SIZE, 3), np.int16)
        difference[0, 1] = (-100, 20, 200)  # RGB
        np.savez(root / f'{stem}_rgb.npz', rgb=difference)
    else:
        photo(root / f'{stem}_rgb.{version}', 50)
    return root


class TestIdsAndIgnored:
    def test_ids_default_to_positions(self):
        assert ClassList(('a', 'b')).ids == (0, 1)
        with pytest.raises(FolderError, match=r'1 label ids are given for 2 classes \(a, b\)'):
            ClassList(('a', 'b'), ids=(7,))

    def test_the_table_follows_ids_and_keeps_ignored_apart_from_void(self, tmp_path):
        classes = ClassList(('car', 'road'), void=(4, 255), ids=(26, 7), ignored=(0, 3))
        table = class_table(classes, ('road', 'car'), tmp_path)
        assert table[[7, 26, 4, 255, 0, 3, 1]].tolist() == [0, 1, VOID, VOID, IGNORED, IGNORED, -1]


class TestCityscapes:
    def test_classes_void_and_ignored(self, tmp_path):
        folder = read_segmentation_set(cityscapes(tmp_path / 'cityscapes'))
        assert folder.name == 'cityscapes/val'
        assert folder.classes is CITYSCAPES
        assert len(CITYSCAPES.names) == 19
        assert [sample.image.name for sample in folder.samples] == [
            'frankfurt_000000_000000_leftImg8bit.png',
            'frankfurt_000000_000001_leftImg8bit.png',
        ]
        assert class_ids(folder) == [0, 18, 10, 16, IGNORED, IGNORED, VOID, VOID]

    def test_every_official_id_is_a_class_void_or_ignored_once(self):
        listed = (*CITYSCAPES.ids, *CITYSCAPES.void, *CITYSCAPES.ignored)
        assert sorted(listed) == [*range(34), VOID]

    def test_a_split_is_named_like_a_folder(self, tmp_path):
        root = cityscapes(tmp_path / 'cityscapes', 'train', 'aachen')
        folder = read_segmentation_set(root / 'train')
        assert not (root / 'train').exists()
        assert (folder.name, len(folder.samples)) == ('cityscapes/train', 2)
        assert read_segmentation_set(root, 'train') == folder

    def test_half_a_download_names_the_other_half(self, tmp_path):
        root = cityscapes(tmp_path)
        (root / 'gtFine').rename(root / 'elsewhere')
        with pytest.raises(FolderError, match=r'gtFine/val: .*unpack .*gtFine_trainvaltest\.zip'):
            read_segmentation_set(root)
        (root / 'elsewhere').rename(root / 'gtFine')
        (root / 'leftImg8bit').rename(root / 'elsewhere')
        with pytest.raises(FolderError, match=r'leftImg8bit/val: there is no such folder'):
            read_segmentation_set(root)

    def test_half_a_pair_is_named(self, tmp_path):
        root = cityscapes(tmp_path)
        stem = 'frankfurt/frankfurt_000000_000001'
        (root / f'gtFine/val/{stem}_gtFine_labelIds.png').unlink()
        with pytest.raises(FolderError, match=rf'{stem}_gtFine_labelIds\.png: .*1 of 2 pictures'):
            read_segmentation_set(root)
        (root / f'leftImg8bit/val/{stem}_leftImg8bit.png').unlink()
        ids(root / f'gtFine/val/{stem}_gtFine_labelIds.png', 7)
        with pytest.raises(FolderError, match=rf'{stem}_leftImg8bit\.\*: the picture'):
            read_segmentation_set(root)

    def test_it_has_no_anomalies(self, tmp_path):
        with pytest.raises(FolderError, match='Cityscapes has class labels and no anomalies'):
            read_anomaly_set(cityscapes(tmp_path))


class TestLostAndFound:
    def test_obstacles_free_space_and_void(self, tmp_path):
        folder = read_anomaly_set(lost_and_found(tmp_path / 'laf'))
        assert (folder.name, len(folder.samples)) == ('laf/test', 2)
        assert decoded(folder, columns=4) == [255, 0, 1, 1]

    def test_it_is_no_cityscapes_without_its_labels(self, tmp_path):
        root = lost_and_found(tmp_path)
        (root / 'gtCoarse').rename(root / 'elsewhere')
        with pytest.raises(FolderError, match=r'gtCoarse/test: .*leftImg8bit\.zip and gtCoarse'):
            read_anomaly_set(root)

    def test_missing_pictures_splits_and_labels_are_named(self, tmp_path):
        root = lost_and_found(tmp_path)
        with pytest.raises(FolderError, match=r'gtCoarse/val: .*there is no val'):
            read_anomaly_set(root, 'val')
        sequence = root / 'gtCoarse/test/02_Hanns_Klemm_Str_44'
        (sequence / '02_Hanns_Klemm_Str_44_000002_000100_gtCoarse_labelIds.png').unlink()
        with pytest.raises(FolderError, match=r'000100_gtCoarse_labelIds\.png: the labels of'):
            read_anomaly_set(root)
        (root / 'leftImg8bit').rename(root / 'elsewhere')
        with pytest.raises(FolderError, match=r'leftImg8bit/test: there is no such folder'):
            read_anomaly_set(root)

    def test_it_has_no_classes(self, tmp_path):
        with pytest.raises(FolderError, match='Lost and Found has anomaly labels and no classes'):
            read_segmentation_set(lost_and_found(tmp_path))


class TestFishyscapes:
    @pytest.mark.parametrize('place', ['fs', '.', 'lost_and_found'])
    def test_pictures_come_from_lost_and_found(self, tmp_path, place):
        root = fishyscapes_found(tmp_path / 'fs')
        street = '04_Maurener_Weg_8'
        picture = f'leftImg8bit/train/{street}/{street}_000000_000030_leftImg8bit.png'
        photo(tmp_path / place / picture)
        folder = read_anomaly_set(root)
        assert folder.name == 'fs'
        assert folder.samples[0].image.resolve() == (tmp_path / place / picture).resolve()
        assert decoded(folder, columns=3) == [0, 1, 255]

    def test_objects_are_added_to_the_pictures_of_cityscapes(self, tmp_path):
        cityscapes(tmp_path / 'cityscapes')
        folder = read_anomaly_set(fishyscapes_static(tmp_path / 'fs_val_v3'))
        pixels = load_picture(folder.samples[0])
        assert pixels[0, :3].tolist() == [[90] * 3, [255, 110, 0], [90] * 3]  # BGR, clipped
        assert decoded(folder, columns=3) == [0, 1, 255]

    def test_finished_pictures_lie_beside_their_labels(self, tmp_path):
        folder = read_anomaly_set(fishyscapes_static(tmp_path, 'png'))
        assert folder.samples[0].overlay is None
        assert load_picture(folder.samples[0])[0, 0].tolist() == [50] * 3

    def test_pictures_without_their_objects_are_never_judged(self, tmp_path):
        cityscapes(tmp_path / 'cityscapes')
        root = fishyscapes_static(tmp_path / 'fs')
        next(root.glob('*.npz')).unlink()
        with pytest.raises(FolderError, match=r'0003_frankfurt_.*_rgb\.npz: the objects'):
            read_anomaly_set(root)

    def test_missing_pictures_and_labels_are_named(self, tmp_path):
        root = fishyscapes_static(tmp_path / 'fs')
        expected = r'fs/leftImg8bit/\*/frankfurt/frankfurt_000000_000001_leftImg8bit\.png'
        with pytest.raises(FolderError, match=f'{expected}: .*unpack leftImg8bit of Cityscapes'):
            read_anomaly_set(root)
        next(root.glob('*_labels.png')).unlink()
        with pytest.raises(FolderError, match=r'0003_frankfurt_.*_labels\.png: the labels of'):
            read_anomaly_set(root)
        with pytest.raises(FolderError, match='unpack leftImg8bit of Lost and Found'):
            read_anomaly_set(fishyscapes_found(tmp_path / 'found'))

    @pytest.mark.parametrize('content', ['empty', 'cut', 'size', 'name'])
    def test_differences_that_do_not_fit_are_named(self, tmp_path, content):
        path = tmp_path / 'x_rgb.npz'
        if content in ('empty', 'cut'):
            path.write_bytes(b'PK\x03\x04' if content == 'cut' else b'')
        else:
            name = 'rgb' if content == 'size' else 'bgr'
            np.savez(path, **{name: np.zeros((4, 4, 3), np.int16)})
        image = photo(tmp_path / 'x.png')
        with pytest.raises(FolderError, match=r'x_rgb\.npz: .*fetch (it|both) again'):
            load_picture(LabelledImage(image, image, path))


class TestSegmentMeIfYouCan:
    @pytest.mark.parametrize('suffix', ['jpg', 'webp', 'png'])
    def test_pictures_without_public_labels_are_left_out_and_counted(self, tmp_path, suffix):
        folder = read_anomaly_set(segment_me(tmp_path / 'dataset_AnomalyTrack', suffix))
        assert [sample.image.stem for sample in folder.samples] == [
            'validation0000',
            'validation0010',
        ]
        assert folder.left_out == 2
        assert decoded(folder, columns=3) == [0, 1, 255]

    def test_labels_of_validation_must_be_there(self, tmp_path):
        root = segment_me(tmp_path)
        (root / 'labels_masks' / 'validation0010_labels_semantic.png').unlink()
        with pytest.raises(FolderError, match=r'validation0010_labels_semantic\.png: .*1 of 2'):
            read_anomaly_set(root)

    def test_missing_folders_and_pictures_are_named(self, tmp_path):
        root = segment_me(tmp_path / 'dataset_ObstacleTrack')
        (root / 'images' / 'validation0000.jpg').unlink()
        with pytest.raises(FolderError, match=r'images/validation0000\.\*: the picture'):
            read_anomaly_set(root)
        (root / 'labels_masks').rename(root / 'elsewhere')
        with pytest.raises(FolderError, match=r'labels_masks: .*dataset_ObstacleTrack\.zip'):
            read_anomaly_set(root)
        (root / 'elsewhere').rename(root / 'labels_masks')
        (root / 'images').rename(root / 'elsewhere')
        with pytest.raises(FolderError, match=r'images: there is no such folder'):
            read_anomaly_set(root)

    def test_test_pictures_alone_are_no_set(self, tmp_path):
        photo(tmp_path / 'images' / 'cow0002.jpg')
        (tmp_path / 'labels_masks').mkdir()
        with pytest.raises(FolderError, match='labels_masks: there are no labels in it'):
            read_anomaly_set(tmp_path)


class TestRoadAnomaly:
    @pytest.mark.parametrize('listed', [True, False])
    def test_frames_of_the_list_or_all(self, tmp_path, listed):
        folder = read_anomaly_set(road_anomaly(tmp_path / 'RoadAnomaly_jpg', listed))
        assert [sample.image.stem for sample in folder.samples] == [
            'animals01_Guiguinto',
            'zebra10_rocks',
        ]
        assert decoded(folder, columns=3) == [0, 0, 1]

    def test_road_without_an_anomaly_is_no_anomaly(self, tmp_path):
        root = road_anomaly(tmp_path)
        ids(root / 'frames/animals01_Guiguinto.labels/labels_semantic.png', 0, 1)
        assert decoded(read_anomaly_set(root), columns=2) == [0, 0]

    def test_what_is_missing_is_named(self, tmp_path):
        root = road_anomaly(tmp_path)
        (root / 'frames/zebra10_rocks.jpg').unlink()
        with pytest.raises(FolderError, match=r'frames/zebra10_rocks\.\*: the picture'):
            read_anomaly_set(root)
        (root / 'frames/zebra10_rocks.labels/labels_semantic.png').unlink()
        with pytest.raises(FolderError, match=r'zebra10_rocks\.labels/labels_semantic\.png'):
            read_anomaly_set(root)
        (root / 'frames').rename(root / 'elsewhere')
        with pytest.raises(FolderError, match=r'frames: .*RoadAnomaly_jpg\.zip'):
            read_anomaly_set(root)
        (root / 'frame_list.json').write_text('[')
        with pytest.raises(FolderError, match=r'frame_list\.json: is no list'):
            read_anomaly_set(root)


class TestStreetHazards:
    def test_anomalies_of_both_towns(self, tmp_path):
        folder = read_anomaly_set(streethazards(tmp_path / 'streethazards'))
        assert folder.name == 'streethazards/test'
        assert [sample.image.parent.name for sample in folder.samples] == ['t5', 't6']
        assert decoded(folder, columns=4) == [0, 0, 0, 1]

    @pytest.mark.parametrize(('split', 'town'), [('train', 't1-3'), ('val', 't4'), ('test', 't5')])
    def test_classes_of_each_split(self, tmp_path, split, town):
        root = streethazards(tmp_path)
        folder = read_segmentation_set(root / split)
        assert folder == read_segmentation_set(root, split)
        assert folder.samples[0].image.parent.name == town
        assert class_ids(folder, 4) == [0, 1, 12, VOID if split == 'test' else 7]
        assert folder.classes is STREETHAZARDS
        assert STREETHAZARDS.names[7] == 'road'

    def test_labels_that_begin_with_0_are_refused(self, tmp_path):
        root = streethazards(tmp_path)
        path = ids(root / 'test/annotations/test/t5/0.png', 0, 13)
        with pytest.raises(FolderError, match=f'{path}: holds the ids 0, where labels of this set'):
            decoded(read_anomaly_set(root))

    def test_a_missing_archive_and_a_missing_label_are_named(self, tmp_path):
        root = streethazards(tmp_path)
        (root / 'test/annotations/test/t6/0.png').unlink()
        with pytest.raises(FolderError, match=r'test/annotations/test/t6/0\.png: .*1 of 2'):
            read_anomaly_set(root)
        (root / 'test').rename(root / 'elsewhere')
        with pytest.raises(FolderError, match=r'unpack streethazards_test\.tar into'):
            read_anomaly_set(root)


class TestBdd:
    @pytest.mark.parametrize('release', [2018, 2021])
    def test_train_motorcycle_and_bicycle_are_anomalies(self, tmp_path, release):
        folder = read_anomaly_set(bdd(tmp_path / 'bdd100k', release))
        assert (folder.name, len(folder.samples)) == ('bdd100k/val', 2)
        assert decoded(folder, columns=6) == [0, 0, 1, 1, 1, 255]

    @pytest.mark.parametrize('release', [2018, 2021])
    def test_classes_are_those_of_cityscapes(self, tmp_path, release):
        folder = read_segmentation_set(bdd(tmp_path, release, 'train') / 'train')
        assert folder.classes is BDD100K
        assert BDD100K.names == CITYSCAPES.names
        assert class_ids(folder, 6) == [0, 15, 16, 17, 18, IGNORED]

    def test_the_folder_seg_itself(self, tmp_path):
        root = bdd(tmp_path, 2018)
        assert read_anomaly_set(root / 'seg').samples == read_anomaly_set(root).samples

    def test_what_is_missing_is_named(self, tmp_path):
        new, old = bdd(tmp_path / 'new', 2021), bdd(tmp_path / 'old', 2018)
        with pytest.raises(FolderError, match=r'masks/test: .*public for train and val'):
            read_anomaly_set(new, 'test')
        (new / 'labels').rename(new / 'elsewhere')
        with pytest.raises(FolderError, match=r'sem_seg/masks/val: .*labels_trainval\.zip'):
            read_anomaly_set(new)
        next((old / 'seg/labels/val').glob('7d4a*')).unlink()
        with pytest.raises(FolderError, match=r'7d4a9094-0455564b_train_id\.png: the labels'):
            read_segmentation_set(old)
        (old / 'seg/images').rename(old / 'elsewhere')
        with pytest.raises(FolderError, match=r'seg/images/val: .*bdd100k_seg\.zip'):
            read_anomaly_set(old)


class TestPlainFolders:
    def test_they_are_read_as_before(self, tmp_path):
        for split in ('train', 'test'):
            photo(tmp_path / 'town' / split / 'images' / '1.jpg')
            ids(tmp_path / 'town' / split / 'labels' / '1.png', 0, 1)
        assert locate(tmp_path / 'town') is None
        assert locate(tmp_path / 'town' / 'train') is None
        assert read_segmentation_set(tmp_path / 'town').name == 'town/test'
        assert read_segmentation_set(tmp_path / 'town' / 'train').name == 'town/train'
        folder = read_anomaly_set(tmp_path / 'town' / 'test')
        assert (folder.coding, folder.left_out) == (None, 0)
        assert decoded(folder, columns=2) == [0, 1]

    def test_the_shared_sets_are_plain(self, shared_data):
        for name in ('camvid', 'camvid/train', 'idd_lite/val', 'road_anomaly21', 'fs_static'):
            assert locate(shared_data / name) is None

    def test_nothing_at_all(self, tmp_path):
        assert locate(tmp_path / 'gone') is None
        assert locate(tmp_path / 'gone' / 'train') is None


def benchmark(model: Path, data: Path, protocol: str, out: Path, *more: str) -> int:
    """Exit code of the command with one model and one set."""
    options = ['--protocol', protocol, '--json', out, '--backend', 'onnxruntime', *more]
    return main([str(part) for part in ('--model', model, '--data', data, *options)])


@pytest.mark.parametrize(
    ('make', 'protocol', 'name', 'images'),
    [
        (segment_me, 'smiyc', 'set', 2),
        (lost_and_found, 'smiyc', 'set/test', 2),
        (road_anomaly, 'pooled', 'set', 2),
        (streethazards, 'streethazards', 'set/test', 2),
        (lambda root: bdd(root, 2021), 'pooled', 'set/val', 2),
        (lambda root: fishyscapes_static(root, 'png'), 'fishyscapes', 'set', 1),
    ],
)  # fmt: skip
def test_the_benchmark_takes_the_official_folder(
    tmp_path, tiny_model, make, protocol, name, images
):
    out = tmp_path / 'rows.json'
    assert benchmark(tiny_model, make(tmp_path / 'set'), protocol, out) == 0
    (row,) = json.loads(out.read_text())
    assert (row['data'], row['images']) == (name, images)
    assert 0 < row['metrics']['ap'] <= 1
    assert row['provenance']['left_out'] == (2 if make is segment_me else 0)


def test_the_benchmark_says_what_it_left_out(tmp_path, tiny_model, capsys):
    root = segment_me(tmp_path / 'dataset_AnomalyTrack')
    assert benchmark(tiny_model, root, 'pooled', tmp_path / 'rows.json') == 0
    assert f'{root}: 2 pictures without labels left out' in capsys.readouterr().err


def test_frames_that_nobody_labelled_do_not_stop_the_benchmark(tmp_path, tiny_model):
    root = lost_and_found(tmp_path / 'laf')
    ids(next(root.glob('gtCoarse/test/15*/*labelIds.png')), 0)
    for protocol in ('smiyc', 'fishyscapes'):
        assert benchmark(tiny_model, root, protocol, tmp_path / 'rows.json') == 0


def test_ignored_pixels_are_judged_as_little_as_void_ones(tmp_path, make_tiny_model, monkeypatch):
    four = dataclasses.replace(CITYSCAPES, names=CITYSCAPES.names[:4], ids=CITYSCAPES.ids[:4])
    monkeypatch.setattr(layouts, 'CITYSCAPES', four)  # as many as the tiny model has
    model = make_tiny_model(tmp_path / 'city.onnx', classes=four.names)
    root = cityscapes(tmp_path / 'cityscapes', count=1)
    label = next(root.glob('gtFine/val/*/*_labelIds.png'))
    truth = np.random.default_rng(0).choice([7, 8, 11, 0, 1, 2, 3, 4, 30], SIZE)
    save(label, truth)
    found = np.random.default_rng(1).integers(0, 3, SIZE)
    scores = (found == np.arange(4)[:, None, None]).astype(np.float32)
    monkeypatch.setattr(Predictor, 'run', lambda self, image: scores)
    out = tmp_path / 'rows.json'
    assert benchmark(model, root, 'segmentation', out) == 0
    (row,) = json.loads(out.read_text())
    judged = np.isin(truth, [7, 8, 11])
    classes = np.searchsorted([7, 8, 11], truth[judged])
    expected = jaccard_score(classes, found[judged], average=None)
    assert row['data'] == 'cityscapes/val'
    assert list(row['per_class'].values()) == pytest.approx(expected.tolist())
    assert list(row['per_class']) == ['road', 'sidewalk', 'building']


def test_the_benchmark_names_what_does_not_fit(tmp_path, tiny_model, capsys):
    out = tmp_path / 'rows.json'
    city = cityscapes(tmp_path / 'cityscapes')
    assert benchmark(tiny_model, city, 'pooled', out) == 2
    assert 'judge it with the protocol segmentation' in capsys.readouterr().err
    assert benchmark(tiny_model, city, 'segmentation', out) == 2
    assert 'choose a set and a model of the same classes' in capsys.readouterr().err
    assert benchmark(tiny_model, city, 'industrial', out) == 2
    assert str(city) in capsys.readouterr().err
    small = segment_me(tmp_path / 'small')
    label = save(small / 'labels_masks/validation0000_labels_semantic.png', np.zeros((8, 16)))
    assert benchmark(tiny_model, small, 'pooled', out) == 2
    assert f'{label}: 16x8 labels belong to validation0000.jpg of 32x16' in capsys.readouterr().err
