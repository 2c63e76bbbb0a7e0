"""Features of a backbone at the labelled positions of training pictures: what codebooks fit to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from training.backbones import EfficientNetLite, normalise
from training.data.folders import VOID
from training.data.street import Example, StoredExample


def backbone_features(
    backbone: EfficientNetLite,
    examples: Iterable[Example | StoredExample],
    size: Sequence[int],
    level: int,
) -> NDArray[np.float32]:
    """Features of all labelled positions of pictures stretched to `size` (h, w): [P, D].

    level: which of the backbone's maps, in the order of its strides. Void is left out: what it
    shows is not known to be normal.
    """
    width_height, stride = (int(size[1]), int(size[0])), backbone.strides[level]
    found = [np.zeros((0, backbone.channels[level]), np.float32)]
    device = next(backbone.parameters()).device
    with torch.inference_mode():
        for stored in examples:
            example = stored.load()
            picture = cv2.resize(example.image, width_height, interpolation=cv2.INTER_LINEAR)
            labels = cv2.resize(example.labels, width_height, interpolation=cv2.INTER_NEAREST_EXACT)
            known = labels[stride // 2 :: stride, stride // 2 :: stride] != VOID
            pictures = torch.from_numpy(picture)[None].to(device)
            maps = backbone(normalise(pictures, backbone))[level][0]
            found.append(maps.permute(1, 2, 0).cpu().numpy()[known])
    return np.concatenate(found)
