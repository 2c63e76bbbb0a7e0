"""Objects of known classes as cut-outs: whole ones only, pasted under their own label."""

from __future__ import annotations

import numpy as np

from training.data.known import known_objects
from training.data.outliers import Paster
from training.data.street import CAMVID_CLASSES, COARSE, GROUPED, Example

CAR, ROAD = CAMVID_CLASSES.index('car'), CAMVID_CLASSES.index('road')
LIVING = GROUPED + list(COARSE).index('living things')


def street() -> Example:
    labels = np.full((100, 200), ROAD, np.uint8)
    labels[30:60, 40:90] = CAR  # whole
    labels[70:100, 150:190] = CAR  # cut off by the picture's edge
    labels[10:20, 10:20] = CAR  # too small
    labels[30:75, 120:145] = LIVING
    return Example(np.repeat(labels[..., None], 3, axis=2), labels)


def test_whole_objects_of_the_thing_classes_are_cut_out() -> None:
    found = known_objects([street()], CAMVID_CLASSES)
    assert [(one.label, one.alpha.shape) for one in found] == [(CAR, (30, 50)), (LIVING, (45, 25))]
    for one in found:
        assert one.alpha.all() and (one.pixels == one.label).all()


def test_neighbours_inside_the_box_are_not_part_of_an_object() -> None:
    example = street()
    example.labels[30:45, 40:65] = ROAD  # an L remains
    car = known_objects([example], CAMVID_CLASSES)[0]
    assert car.alpha.mean() == 0.75 and not car.alpha[:15, :25].any()


def test_a_pasted_known_object_has_its_own_label_and_does_not_grow_beyond_its_detail() -> None:
    (car, _) = known_objects([street()], CAMVID_CLASSES)
    paster = Paster([car], most=1, heights=(0.9, 0.9), tilt=0, enlarge=1.5)
    tallest = 0
    for seed in range(20):
        labels = np.full((200, 300), ROAD, np.uint8)
        paster.paste(np.zeros((200, 300, 3), np.uint8), labels, np.random.default_rng(seed))
        assert set(np.unique(labels)) <= {ROAD, CAR}
        tallest = max(tallest, int((labels == CAR).any(axis=1).sum()))
    assert 38 <= tallest <= 46  # 1.5 times 30 rows, of which the soft edge covers less
