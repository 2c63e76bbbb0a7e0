"""Objects of the known classes, cut out of labelled street pictures to be pasted into others.

What a network sees pasted must not all be unknown, or it learns to see the pasting: its edges, its
light, its odd place. (Copy-paste as augmentation: Ghiasi et al. 2021.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from training.data.outliers import CutOut
from training.data.street import COARSE, GROUPED, Example

THINGS = (
    'car', 'pedestrian', 'bicyclist', 'sign',
    'person', 'rider', 'truck', 'bus', 'motorcycle', 'bicycle', 'traffic sign',
)  # fmt: skip
_LEAST_SIDE = 20  # pixels; smaller ones are nothing but edge
_LEAST_FILL = 0.3  # of its box that an object covers; thinner ones are parts behind something else


def known_objects(examples: Iterable[Example], classes: Sequence[str]) -> list[CutOut]:
    """Connected areas of THINGS (or of sets of them) that lie whole inside their picture.

    Each is a CutOut whose label is that of the picture it comes from: a class id or GROUPED + g.
    """
    labels = [classes.index(name) for name in THINGS if name in classes]
    labels += [GROUPED + g for g, of in enumerate(COARSE.values()) if set(of) <= set(THINGS)]
    return [
        cut_out
        for example in examples
        for label in labels
        for cut_out in _whole_areas(example, label)
    ]


def _whole_areas(example: Example, label: int) -> list[CutOut]:
    mask = (example.labels == label).astype(np.uint8)
    if not mask.any():
        return []
    rows, columns = mask.shape
    count, areas, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    found = []
    for index in range(1, count):
        x, y, width, height, size = (int(value) for value in boxes[index])
        whole = x > 0 and y > 0 and x + width < columns and y + height < rows
        large = min(width, height) >= _LEAST_SIDE and size >= _LEAST_FILL * width * height
        if whole and large:
            window = (slice(y, y + height), slice(x, x + width))
            alpha = (areas[window] == index).astype(np.float32)
            pixels = np.ascontiguousarray(example.image[window])
            found.append(CutOut(f'{label}_{index}', pixels, alpha, label))
    return found
