"""Readers of plain folders, on tiny trees in the exact layout of each format."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.folders import (
    ClassList,
    FolderError,
    check_same_size,
    class_table,
    find_format,
    load_anomaly_labels,
    load_class_ids,
    load_image,
    load_mask,
    read_anomaly_folder,
    read_classes,
    read_mvtec_category,
    read_segmentation_folder,
)


def save(path: Path, pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.asarray(pixels, np.uint8))
    return path


def grey(value=0, size=(6, 8)):
    return np.full(size, value, np.uint8)


def pairs(folder: Path, stems) -> Path:
    for stem in stems:
        save(folder / 'images' / f'{stem}.jpg', np.zeros((6, 8, 3)))
        save(folder / 'labels' / f'{stem}.png', grey())
    return folder


def product(root: Path) -> Path:
    save(root / 'train' / 'good' / '000.png', grey())
    save(root / 'test' / 'good' / '000.png', grey())
    save(root / 'test' / 'hole' / '001.png', grey())
    save(root / 'ground_truth' / 'hole' / '001_mask.png', grey(255))
    return root


class TestFormats:
    def test_each_format_is_told_by_its_folders(self, tmp_path):
        assert find_format(pairs(tmp_path / 'a', ['1'])) == 'flat'
        pairs(tmp_path / 'b' / 'val', ['1'])
        assert find_format(tmp_path / 'b') == 'splits'
        assert find_format(product(tmp_path / 'c')) == 'mvtec'

    def test_what_is_none_of_them_says_what_is_expected(self, tmp_path):
        with pytest.raises(FolderError, match='no such folder'):
            find_format(tmp_path / 'gone')
        with pytest.raises(FolderError, match='neither images/ and labels/, nor test/images/'):
            find_format(tmp_path)


class TestAnomalyFolder:
    def test_pairs_come_in_natural_order(self, tmp_path):
        folder = read_anomaly_folder(pairs(tmp_path / 'roads', ['10', '2', 'a1']))
        assert folder.name == 'roads'
        assert [sample.image.name for sample in folder.samples] == ['2.jpg', '10.jpg', 'a1.jpg']
        assert all(sample.label.stem == sample.image.stem for sample in folder.samples)

    def test_half_of_a_pair_names_the_other_half(self, tmp_path):
        folder = pairs(tmp_path, ['1', '2'])
        (folder / 'labels' / '2.png').unlink()
        with pytest.raises(FolderError, match=r'labels/2\.png: .*1 of 2 pictures'):
            read_anomaly_folder(folder)
        (folder / 'images' / '2.jpg').unlink()
        save(folder / 'labels' / '7.png', grey())
        with pytest.raises(FolderError, match=r'images/7\.\*'):
            read_anomaly_folder(folder)

    def test_missing_labels_folder_and_no_pictures(self, tmp_path):
        (tmp_path / 'images').mkdir()
        with pytest.raises(FolderError, match=r'labels: there is no such folder'):
            read_anomaly_folder(tmp_path)
        (tmp_path / 'labels').mkdir()
        with pytest.raises(FolderError, match='images: there is no picture in it'):
            read_anomaly_folder(tmp_path)

    def test_two_pictures_of_one_stem_are_refused(self, tmp_path):
        save(pairs(tmp_path, ['1']) / 'images' / '1.png', grey())
        with pytest.raises(FolderError, match='same stem'):
            read_anomaly_folder(tmp_path)


class TestLabels:
    def test_anomaly_labels_and_the_original_coding_of_road_anomaly(self, tmp_path):
        ours = save(tmp_path / 'ours.png', [[0, 1, 255]])
        original = save(tmp_path / 'original.png', [[0, 2, 255]])
        assert load_anomaly_labels(ours).tolist() == [[0, 1, 255]]
        assert load_anomaly_labels(original).tolist() == [[0, 1, 255]]

    @pytest.mark.parametrize('ids', [[0, 1, 2], [0, 7, 255], [3, 3, 3]])
    def test_class_labels_are_no_anomaly_labels(self, tmp_path, ids):
        with pytest.raises(FolderError, match='protocol segmentation'):
            load_anomaly_labels(save(tmp_path / 'x.png', [ids]))

    def test_colours_instead_of_ids_are_refused(self, tmp_path):
        path = save(tmp_path / 'x.png', np.zeros((4, 4, 3)))
        with pytest.raises(FolderError, match='not their colours'):
            load_anomaly_labels(path)

    def test_masks(self, tmp_path):
        path = save(tmp_path / 'x.png', [[0, 255]])
        assert load_mask(path).tolist() == [[0, 1]]
        with pytest.raises(FolderError, match='a mask is 0 and 255'):
            load_mask(save(tmp_path / 'x.png', [[0, 128]]))

    def test_unreadable_pictures_are_named(self, tmp_path):
        broken = tmp_path / 'broken.jpg'
        broken.write_bytes(b'\xff\xd8 not a picture')
        with pytest.raises(FolderError, match=r'broken\.jpg: is no readable picture'):
            load_image(broken)
        with pytest.raises(FolderError, match=r'gone\.jpg: cannot be read'):
            load_image(tmp_path / 'gone.jpg')

    def test_grey_pictures_become_three_channels(self, tmp_path):
        assert load_image(save(tmp_path / 'x.png', grey(7))).shape == (6, 8, 3)

    def test_sizes_must_agree(self, tmp_path):
        image, label = tmp_path / 'a.jpg', tmp_path / 'a.png'
        with pytest.raises(FolderError, match=r'a\.png: 8x5 labels belong to a\.jpg of 8x6'):
            check_same_size(image, np.zeros((6, 8, 3), np.uint8), label, grey(0, (5, 8)))


class TestSegmentationFolder:
    def test_split_of_a_set_or_the_split_itself(self, tmp_path):
        pairs(tmp_path / 'town' / 'test', ['1'])
        whole = read_segmentation_folder(tmp_path / 'town')
        alone = read_segmentation_folder(tmp_path / 'town' / 'test')
        assert whole == alone
        assert whole.name == 'town/test'
        assert whole.classes is None

    def test_absent_split_lists_what_is_there(self, tmp_path):
        pairs(tmp_path / 'town' / 'val', ['1'])
        with pytest.raises(FolderError, match=r'test/images: .* the set has val'):
            read_segmentation_folder(tmp_path / 'town')

    def test_classes_beside_the_splits(self, tmp_path):
        pairs(tmp_path / 'town' / 'test', ['1'])
        text = 'classes: [road, car]\nvoid: [2, 255]\n'
        (tmp_path / 'town' / 'classes.yaml').write_text(text)
        classes = read_segmentation_folder(tmp_path / 'town').classes
        assert classes == ClassList(('road', 'car'), (2, 255))

    def test_known_public_copies_need_no_file(self, tmp_path):
        pairs(tmp_path / 'camvid' / 'test', ['1'])
        classes = read_segmentation_folder(tmp_path / 'camvid').classes
        assert classes is not None
        assert (len(classes.names), classes.void) == (11, (11, 255))

    @pytest.mark.parametrize(
        'text', ['[road]', 'classes: road', 'classes: [a, a]', 'classes: [a]\nvoid: x', 'a: [']
    )
    def test_a_broken_list_is_named(self, tmp_path, text):
        path = tmp_path / 'classes.yaml'
        path.write_text(text)
        with pytest.raises(FolderError, match=r'classes\.yaml'):
            read_classes(path)

    def test_ids_follow_names_not_positions(self, tmp_path):
        classes = ClassList(('car', 'road'), (7,))
        table = class_table(classes, ('road', 'car'), tmp_path)
        path = save(tmp_path / 'x.png', [[0, 1, 7]])
        assert load_class_ids(path, table).tolist() == [[1, 0, 255]]
        with pytest.raises(FolderError, match='holds the ids 255, which are neither'):
            load_class_ids(save(path, [[0, 255]]), table)

    def test_other_classes_are_refused(self, tmp_path):
        with pytest.raises(FolderError, match=r'\(sea\) are not those asked for \(road, car\)'):
            class_table(ClassList(('sea',)), ('road', 'car'), tmp_path)


class TestMvtec:
    def test_good_and_defective_pictures(self, tmp_path):
        category = read_mvtec_category(product(tmp_path / 'screw'))
        assert category.name == 'screw'
        assert [path.name for path in category.train] == ['000.png']
        assert [(sample.kind, sample.mask is None) for sample in category.test] == [
            ('good', True),
            ('hole', False),
        ]

    def test_missing_mask_and_missing_good_are_named(self, tmp_path):
        root = product(tmp_path / 'screw')
        (root / 'ground_truth' / 'hole' / '001_mask.png').unlink()
        with pytest.raises(FolderError, match=r'ground_truth/hole/001_mask\.png'):
            read_mvtec_category(root)
        with pytest.raises(FolderError, match=r'test/good: .* folder of one category'):
            read_mvtec_category(tmp_path)


@pytest.mark.parametrize('name', ['road_anomaly21', 'fs_static'])
def test_public_anomaly_sets_are_complete(shared_data, name):
    folder = read_anomaly_folder(shared_data / name)
    image = load_image(folder.samples[0].image)
    labels = load_anomaly_labels(folder.samples[0].label)
    check_same_size(folder.samples[0].image, image, folder.samples[0].label, labels)
    assert len(folder.samples) == {'road_anomaly21': 10, 'fs_static': 30}[name]
