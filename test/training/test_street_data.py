"""Training crops: labels that fit, pictures that are refused, a stream that can be resumed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.folders import VOID, FolderError
from training.data.outliers import (
    PASTED,
    CutOut,
    OutlierError,
    Paster,
    grown,
    read_cut_outs,
    texture,
)
from training.data.street import (
    CAMVID_CLASSES,
    COARSE,
    GROUPED,
    MAINLY,
    Augmentation,
    Example,
    PassSampler,
    StreetCrops,
    class_sets,
    palette_of,
    read_street,
)

HOW = Augmentation(crop=(32, 64), heights=(38, 64), colour=0.0)


def example(seed: int) -> Example:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3, dtype=np.uint8), 20)[:, None].repeat(100, axis=1)
    labels[:5] = VOID
    return Example(rng.integers(0, 255, (60, 100, 3), dtype=np.uint8), labels)


def disc(name: str = 'ball_0001', size: int = 41) -> CutOut:
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[..., 0] = 255
    alpha = np.zeros((size, size), np.float32)
    cv2.circle(alpha, (size // 2, size // 2), size // 2, 1.0, -1)
    return CutOut(name, pixels, alpha)


def crops(paster: Paster | None = None, how: Augmentation = HOW, seed: int = 3) -> StreetCrops:
    pasters = [] if paster is None else [paster]
    return StreetCrops([example(index) for index in range(4)], how, pasters, seed)


def test_items_have_the_shapes_and_types_of_the_contract() -> None:
    image, labels = crops()[0]
    assert image.shape == (32, 64, 3) and image.dtype == np.uint8
    assert labels.shape == (8, 16) and labels.dtype == np.int64
    assert set(np.unique(labels)) <= {0, 1, 2, VOID}


def test_a_stream_gives_the_same_item_whenever_it_is_asked() -> None:
    first, second = crops()[6], crops()[6]
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(crops(seed=4)[6][0], first[0])


def test_every_pass_takes_every_picture_once_in_its_own_order() -> None:
    stream = crops()
    for index, item in enumerate(stream.examples):
        item.image[:] = index * 60
    order = [[int(stream[e * 4 + i][0][0, 0, 0]) // 60 for i in range(4)] for e in range(6)]
    assert all(sorted(once) == [0, 1, 2, 3] for once in order)
    assert len({tuple(once) for once in order}) > 1


def test_the_sampler_numbers_one_pass_at_a_time() -> None:
    sampler = PassSampler(4)
    sampler.set_epoch(2)
    assert list(sampler) == [8, 9, 10, 11]


def test_processes_share_each_batch() -> None:
    parts = [PassSampler(11, 4, process, 2) for process in range(2)]
    for part in parts:
        part.set_epoch(1)
    assert [list(part) for part in parts] == [[11, 12, 15, 16], [13, 14, 17, 18]]
    assert [len(part) for part in parts] == [4, 4]
    with pytest.raises(ValueError, match='batch_size 4 cannot be shared by 3 processes'):
        PassSampler(11, 4, 0, 3)


def test_labels_follow_the_picture_through_crop_and_flip() -> None:
    stream = crops()
    for item in stream.examples:
        item.image[:] = item.labels[..., None] * 80
    for number in range(12):
        image, labels = stream[number]
        known = labels <= 2
        grey = image[2::4, 2::4, 0].astype(int)
        near = np.abs(grey - labels * 80) <= 80
        assert near[known].mean() > 0.95


def test_crops_keep_the_proportions_of_their_pictures() -> None:
    stream = crops(how=Augmentation((32, 64), (48, 120), (1.0, 1.2), colour=0.0))
    rows, columns = np.mgrid[:60, :100]
    ramp = np.stack([rows * 2, columns * 2, rows * 0], axis=-1).astype(np.uint8)
    stream.examples[:] = [Example(ramp, item.labels) for item in stream.examples]
    for number in range(12):
        image = stream[number][0].astype(float)
        down = abs(np.polyfit(np.arange(32), image[:, 30, 0], 1)[0])  # 2 / vertical scale
        across = abs(np.polyfit(np.arange(64), image[16, :, 1], 1)[0])  # 2 / horizontal scale
        assert 0.97 < down < 2.55  # 48 to 120 rows of a picture of 60
        assert 0.96 < down / across < 1.25


def pasted(paster: Paster, picture: np.ndarray, seed: int) -> np.ndarray:
    """Paste into `picture` in place; where, bool [H, W]."""
    labels = np.zeros(picture.shape[:2], np.uint8)
    paster.paste(picture, labels, np.random.default_rng(seed))
    assert set(np.unique(labels)) <= {0, PASTED}
    return labels == PASTED


def test_textures_are_blobs_of_varied_noise_and_are_pasted_by_their_share() -> None:
    blobs = [texture(np.random.default_rng(seed)) for seed in range(12)]
    for blob in blobs:
        assert blob.pixels.shape == (96, 96, 3) and blob.pixels.dtype == np.uint8
        assert set(np.unique(blob.alpha)) == {0.0, 1.0}
        assert 0.2 < blob.alpha.mean() < 0.6 and not blob.alpha[[0, -1]].any()
        parts = cv2.connectedComponents((blob.alpha > 0).astype(np.uint8))[0] - 1
        assert parts <= 6, 'a blob, not dust'
    contrasts = [blob.pixels[blob.alpha > 0].std() for blob in blobs]
    assert max(contrasts) > 2 * min(contrasts)
    image = np.full((80, 120, 3), 60, np.uint8)
    red = {}
    for share in (0.0, 1.0):
        paster = Paster([disc()], most=1, heights=(0.5, 0.5), textures=share)
        means = []
        for seed in range(40):
            picture = image.copy()
            covered = pasted(paster, picture, seed)
            means += [picture[covered].mean(axis=0)] if covered.any() else []
        red[share] = np.mean([mean[0] > 2 * mean[1] + 40 for mean in means])
    assert red[0.0] == 1.0 and red[1.0] < 0.3  # discs are pure red, noise seldom is


def test_relighting_draws_an_object_towards_its_surroundings() -> None:
    image = np.full((80, 120, 3), 200, np.uint8)
    brightness = {}
    for relight in (0.0, 1.0):
        paster = Paster([disc()], most=1, heights=(0.5, 0.5), relight=relight)
        means = []
        for seed in range(40):
            picture = image.copy()
            covered = pasted(paster, picture, seed)
            if covered.any():
                means.append(picture[covered][:, 1].mean())
        brightness[relight] = np.mean(means)
    assert brightness[0.0] < 40 < brightness[1.0]  # the disc has no green of its own


def test_pasted_objects_are_labelled_where_they_cover() -> None:
    paster = Paster([disc()], most=1, heights=(0.4, 0.5))
    image = np.full((80, 120, 3), 60, np.uint8)
    for seed in range(30):
        picture = image.copy()
        covered = pasted(paster, picture, seed)
        changed = np.abs(picture.astype(int) - 60).max(axis=2) > 110  # half of the way
        assert (changed & ~covered).sum() <= 0.15 * max(covered.sum(), 1) + 5
    stream = crops(Paster([disc()], most=3, heights=(0.3, 0.5)))
    assert any((stream[number][1] == PASTED).any() for number in range(8))


def test_sizes_of_pasted_objects_span_the_range() -> None:
    paster = Paster([disc()], heights=(0.05, 0.5))
    rng = np.random.default_rng(0)
    heights = [paster._transformed(disc(), 400, rng)[1].shape[0] for _ in range(200)]
    assert min(heights) < 40 and max(heights) > 150
    assert np.median(heights) == pytest.approx(np.sqrt(20 * 200), rel=0.35)  # log-uniform


def write_png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


def test_a_split_is_read_with_its_classes(tmp_path: Path) -> None:
    root = tmp_path / 'town' / 'train'
    ids = np.array([[0, 1], [2, 7]], np.uint8)
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[..., 2] = 200  # OpenCV writes BGR: red
    write_png(root / 'images' / 'a.png', picture)
    write_png(root / 'labels' / 'a.png', ids)
    (tmp_path / 'town' / 'classes.yaml').write_text('classes: [road, sky, car]\nvoid: [7]')
    example_ = next(read_street(root, ('sky', 'car', 'road'))).load()
    np.testing.assert_array_equal(example_.labels, [[2, 0], [1, VOID]])
    assert example_.image[0, 0].tolist() == [200, 0, 0]
    with pytest.raises(FolderError, match='not those asked for'):
        next(read_street(root, ('sky', 'car')))


def test_coarser_classes_become_sets(tmp_path: Path) -> None:
    root = tmp_path / 'india' / 'train'
    write_png(root / 'images' / 'a.png', np.zeros((1, 4, 3), np.uint8))
    write_png(root / 'labels' / 'a.png', np.array([[0, 1, 2, 9]], np.uint8))
    listed = tmp_path / 'india' / 'classes.yaml'
    listed.write_text('classes: [living things, sky, drivable]\nvoid: [9]')
    example_ = next(read_street(root, CAMVID_CLASSES)).load()
    names = list(COARSE)
    expected = [GROUPED + names.index('living things'), CAMVID_CLASSES.index('sky')]
    expected += [CAMVID_CLASSES.index('road'), VOID]  # a set of one is that one
    assert example_.labels.tolist() == [expected]
    sets = class_sets(CAMVID_CLASSES)
    living = sets[names.index('living things')]
    assert {n for n, may in zip(CAMVID_CLASSES, living, strict=True) if may} == {
        'pedestrian',
        'bicyclist',
    }
    assert sets.any(axis=1).all(), 'every set has a class'
    shared = {CAMVID_CLASSES[c] for c in np.flatnonzero(sets.sum(axis=0) > 1)}
    assert shared == set(MAINLY), 'what is in two sets mainly belongs to one'
    assert all(name in COARSE[coarse_] for name, coarse_ in MAINLY.items())
    assert GROUPED + len(COARSE) <= PASTED
    listed.write_text('classes: [living things, spaceships, drivable]\nvoid: [9]')
    with pytest.raises(FolderError, match='spaceships are not those asked for'):
        next(read_street(root, CAMVID_CLASSES))


def test_ids_that_are_no_class_and_other_sizes_are_named(tmp_path: Path) -> None:
    write_png(tmp_path / 'images' / 'a.png', np.zeros((6, 8, 3), np.uint8))
    write_png(tmp_path / 'labels' / 'a.png', np.full((6, 8), 9, np.uint8))
    with pytest.raises(FolderError, match=r'a\.png: holds the ids 9'):
        next(read_street(tmp_path, ('sky', 'car'))).load()
    write_png(tmp_path / 'labels' / 'a.png', np.zeros((3, 8), np.uint8))
    with pytest.raises(FolderError, match=r'a\.png: 8x3 labels belong to a\.png of 8x6'):
        next(read_street(tmp_path, ('sky', 'car'))).load()


def test_cut_outs_need_alpha_and_can_leave_categories_out(tmp_path: Path) -> None:
    write_png(tmp_path / 'hot_dog_0001.png', np.full((4, 4, 4), 200, np.uint8))
    write_png(tmp_path / 'cat_0002.png', np.full((4, 4, 4), 150, np.uint8))
    assert [c.category for c in read_cut_outs(tmp_path)] == ['cat', 'hot_dog']
    assert [c.name for c in read_cut_outs(tmp_path, frozenset({'cat'}))] == ['hot_dog_0001']
    write_png(tmp_path / 'dog_0003.png', np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(OutlierError, match='dog_0003'):
        read_cut_outs(tmp_path)
    with pytest.raises(OutlierError, match='no cut-outs'):
        read_cut_outs(tmp_path / 'nowhere')


def test_weather_darkens_and_lightens_parts_of_a_crop() -> None:
    how = Augmentation(crop=(32, 64), heights=(38, 64), colour=0.0, weather=1.0)
    flat = [Example(np.full_like(example(i).image, 90), example(i).labels) for i in range(4)]
    stream = StreetCrops(flat, how, [], 3)
    pictures = [stream[number][0].astype(int) for number in range(24)]
    assert any(picture.min() < 70 for picture in pictures), 'shadows'
    assert any(picture[0].mean() > 110 for picture in pictures), 'haze'
    for picture, number in zip(pictures, range(24), strict=True):
        np.testing.assert_array_equal(picture, stream[number][0])


def test_recoloured_objects_differ_in_hue_and_keep_their_outline() -> None:
    image = np.full((80, 120, 3), 60, np.uint8)
    hues = set()
    for seed in range(300):
        picture = image.copy()
        covered = pasted(Paster([disc()], most=1, heights=(0.5, 0.5), colour=1.0), picture, seed)
        if covered.sum() > 300:
            hues.add(int(picture[covered].mean(axis=0).argmax()))
    assert hues == {0, 1, 2}, 'a red disc turns green and blue, too'


def test_colours_are_those_of_the_names_and_all_classes_have_one() -> None:
    colours = palette_of((*CAMVID_CLASSES, 'tram', 'cow'))
    assert len(set(colours)) == 13
    assert colours[CAMVID_CLASSES.index('road')] == (128, 64, 128) == palette_of(['road'])[0]


def detail(picture: np.ndarray) -> float:
    """Mean step between neighbours in a row."""
    return float(np.abs(np.diff(picture.astype(float), axis=1)).mean())


def test_enlarged_pictures_are_sharpened_and_others_are_not() -> None:
    for heights, factor in (((120, 121), 1.1), ((45, 46), 0.0)):
        plain = crops(how=Augmentation((32, 64), heights, colour=0.0))
        sharp = crops(how=Augmentation((32, 64), heights, colour=0.0, sharpen=1.5))
        pairs = [(plain[n][0], sharp[n][0]) for n in range(12)]
        gains = [detail(b) / detail(a) for a, b in pairs]
        if factor:
            assert sum(gain > factor for gain in gains) >= 4, gains
            assert max(gains) < 4, 'the same picture still'
        else:
            assert all(np.array_equal(a, b) for a, b in pairs)


def test_objects_are_blurred_as_the_enlarged_picture_around_them() -> None:
    def edge(enlarged: float) -> float:
        steps = []
        for seed in range(60):
            picture = np.full((80, 120, 3), 60, np.uint8)
            paster = Paster([disc()], most=1, heights=(0.4, 0.4), tilt=0)
            labels = np.zeros(picture.shape[:2], np.uint8)
            paster.paste(picture, labels, np.random.default_rng(seed), enlarged)
            steps.append(np.abs(np.diff(picture[..., 0].astype(float), axis=1)).max())
        return float(np.mean([step for step in steps if step > 20]))

    assert edge(0.5) == edge(1.0), 'a picture made smaller is sharp'
    assert edge(4.0) < 0.7 * edge(1.0)


def test_colours_go_on_beyond_an_outline_so_that_no_dark_rim_is_pasted() -> None:
    cut_out = disc()
    green = np.where(cut_out.alpha[..., None] > 0, (40, 200, 90), 0).astype(np.uint8)
    found = grown(green, cut_out.alpha)
    np.testing.assert_allclose(found.reshape(-1, 3), np.tile((40, 200, 90), (41 * 41, 1)), atol=1)
    image = np.full((80, 120, 3), (40, 200, 90), np.uint8)
    covered = pasted(Paster([CutOut('d_1', found, cut_out.alpha)], most=1, tilt=25), image, 5)
    assert covered.any()
    # Whatever its edge is blended from, it is of the same hue as the picture of its colour.
    hue = image.astype(float) - image.min(axis=2, keepdims=True)
    assert (hue[..., 1] > 100).all()
