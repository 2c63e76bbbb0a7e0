"""Regions: polygons in closed form, the road and what stands on it, words that mean nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from vq_anomaly_ros.detection.regions import (
    ALL,
    ROAD,
    Region,
    RegionError,
    RegionOfInterest,
    calibrated_region,
    ground_classes,
    parse_region,
    polygon_mask,
    region_section,
    regions_of,
    road_mask,
    standing,
)

CLASSES = ('road', 'tree', 'car')
SIZE = (40, 80)
MASKS = arrays(bool, (12, 9))


def street() -> np.ndarray:
    """Labels: trees above, from the middle row on a road of all columns."""
    labels = np.full(SIZE, 1, np.uint8)
    labels[20:] = 0
    return labels


def test_a_polygon_holds_the_positions_whose_centres_it_holds() -> None:
    mask = polygon_mask([(0.25, 0.5), (0.75, 0.5), (0.75, 1), (0.25, 1)], (20, 40))
    expected = np.zeros((20, 40), bool)
    expected[10:, 10:30] = True
    # The border itself may fall to either side.
    assert np.count_nonzero(mask != expected) <= 2 * (20 + 10)
    assert mask[12:, 12:28].all() and not mask[:9].any() and not mask[:, :9].any()


@pytest.mark.parametrize('text', ['all', 'road', '0,0 1,0 1,1', '0.1,1 0.4,0.5 0.6,0.5 0.9,1'])
def test_regions_are_written_as_they_are_read(text: str) -> None:
    assert str(parse_region(text)) == text


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('', '0 corners'),
        ('0,0 1,1', '2 corners'),
        ('0,0 1,0 1,1.2', 'outside of the picture'),
        ('0,0 1,0 nan,1', 'outside of the picture'),
        ('0,0 1,0 x,1', "'x,1' is no corner"),
        ('0,0 1,0 1,1,1', 'is no corner'),
        ('lane', "'lane' is no corner"),
        ('0,0 0.5,0 1,0', 'spans less'),
    ],
)
def test_what_is_no_region_is_refused(text: str, problem: str) -> None:
    with pytest.raises(RegionError, match=problem):
        parse_region(text)


def test_regions_are_given_for_all_or_for_one_camera() -> None:
    cameras = ['/front', '/rear']
    assert regions_of(['road'], cameras) == {'/front': ROAD, '/rear': ROAD}
    found = regions_of(['road', '/rear: all'], cameras)
    assert found == {'/front': ROAD, '/rear': ALL}
    drawn = regions_of(['/rear:0,0 1,0 1,1'], cameras)
    assert drawn['/front'] is None and str(drawn['/rear']) == '0,0 1,0 1,1'
    assert regions_of(['road', '/front: calibrated'], cameras)['/front'] is None
    with pytest.raises(RegionError, match=r'/left.* none of /front, /rear'):
        regions_of(['/left: road'], cameras)


def test_the_road_of_a_model_without_ground_is_refused() -> None:
    assert ground_classes(CLASSES) == (0,)
    with pytest.raises(RegionError, match='draw a polygon'):
        RegionOfInterest(ROAD, ('sky', 'tree'), SIZE)
    with pytest.raises(RegionError, match='are none'):
        RegionOfInterest(ROAD, (), SIZE)


def test_the_road_holds_what_hides_it_and_no_speck() -> None:
    labels = street()
    labels[15:30, 40:44] = 2  # a car that hides the far edge
    labels[3:5, 10:12] = 0  # a speck of ground in the trees
    road = road_mask(labels, (0,))
    expected = np.zeros(SIZE, bool)
    expected[20:] = True
    assert np.array_equal(road, expected)
    assert not road_mask(np.full(SIZE, 1, np.uint8), (0,)).any()


@given(MASKS, MASKS)
def test_what_stands_in_a_region_is_its_part_and_the_runs_above_it(
    mask: np.ndarray, region: np.ndarray
) -> None:
    found = standing(mask, region)
    assert not (found & ~mask).any()
    assert (found[mask & region]).all()
    for row, column in np.argwhere(found):
        below = row
        while not region[below : below + 2, column].any():
            below += 1
            assert mask[below, column]


def test_alarms_count_in_the_region_and_never_on_the_vehicle() -> None:
    mask = np.zeros(SIZE, bool)
    mask[10:25, 30:33] = True
    mask[2:4, 5:9] = True
    mask[35:, 60:70] = True
    bonnet = [(0.5, 0.8), (1.0, 0.8), (1.0, 1.0), (0.5, 1.0)]
    roi = RegionOfInterest(ROAD, CLASSES, SIZE, [bonnet])
    counted = roi.alarms(mask, roi.of(street()))
    assert counted[10:25, 30:33].all()
    assert np.count_nonzero(counted) == 45
    ego_only = RegionOfInterest(ALL, CLASSES, SIZE, [bonnet])
    assert ego_only.ground(street()) is None
    counted = ego_only.alarms(mask, ego_only.of(None))
    assert counted[2:4, 5:9].all() and not counted[36:, 60:70].any()
    everything = RegionOfInterest(ALL, CLASSES, SIZE)
    assert everything.of(street()) is None and everything.alarms(mask, None) is mask


def test_a_calibration_keeps_its_regions() -> None:
    region, ego = Region('polygon', ((0, 0), (1, 0), (1, 1))), [[[0, 0.9], [1, 0.9], [1, 1]]]
    sections = {'/front/image_raw': region_section(region, ego)}
    assert calibrated_region(sections, '/front/image_raw') == (region, ego)
    assert calibrated_region(sections, '/rear/image_raw') == (ALL, [])
    assert calibrated_region(None, '/front/image_raw') == (ALL, [])


@pytest.mark.parametrize(
    'section',
    [
        {},
        {'region': 'road'},
        {'region': 'lane', 'ego': []},
        {'region': 'all', 'ego': [[[0, 1]]]},
        {'region': 'all', 'ego': [['a']]},
        {'region': 3, 'ego': []},
        'road',
    ],
)
def test_damaged_sections_of_a_calibration_are_refused(section: object) -> None:
    with pytest.raises(RegionError, match='write it again with `calibrate`'):
        calibrated_region({'/a/image_raw': section}, '/a/image_raw')
