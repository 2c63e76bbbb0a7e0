"""A model file as a function of pictures of any size, as the benchmark judges and times it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from training.measurement import Measurement
from vq_anomaly_ros.detection.engines import Engine, open_engine
from vq_anomaly_ros.detection.model_file import ModelFile

Image = NDArray[np.uint8]
Members = Sequence[Sequence[int]]


class Predictor:
    """An opened engine as a function of pictures of any size."""

    def __init__(self, model: ModelFile, measurement: Measurement) -> None:
        self.model = model
        self._output = measurement.output
        self.engine: Engine = open_engine(
            model, measurement.backend, (self._output,), threads=measurement.threads
        )

    def run(self, image: Image) -> NDArray[np.float32]:
        """Run on uint8 [H, W, 3] BGR: score [h/s, w/s] or class scores [C, h/s, w/s], raw.

        The array belongs to the engine and is valid until the next run.
        """
        height, width = self.model.info.input_size
        stretched = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        cv2.cvtColor(stretched, cv2.COLOR_BGR2RGB, dst=self.engine.input_buffer(1)[0])
        return np.asarray(self.engine.infer(1)[self._output][0])

    def score(self, image: Image, size: tuple[int, int]) -> NDArray[np.float32]:
        """Raw score, float32 [H, W], upsampled bilinearly to `size` (height, width)."""
        return upsample(self.run(image), size)

    def classes(self, image: Image, size: tuple[int, int], members: Members | None = None) -> Image:
        """Classes, uint8 [H, W]: the argmax of class scores upsampled bilinearly to `size`.

        members: see `upsampled_argmax`.
        """
        return upsampled_argmax(self.run(image), size, members)


def size_of(image: Image) -> tuple[int, int]:
    """Height and width of a picture, which its labels share."""
    return image.shape[0], image.shape[1]


def upsample(score: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a map [h, w] to `size` (height, width) with bilinear interpolation."""
    return np.asarray(cv2.resize(score, size[::-1], interpolation=cv2.INTER_LINEAR))


def upsampled_argmax(
    class_scores: NDArray[np.float32], size: tuple[int, int], members: Members | None = None
) -> Image:
    """Argmax over C of class scores [C, h, w] resized to `size`: uint8 [H, W], first of equals.

    members: the positions in C of which each class of the answer is made, whose score is the
    highest of theirs (default: one each). One class at a time, so that memory does not grow with
    their number.
    """
    groups = [(index,) for index in range(len(class_scores))] if members is None else members
    best = np.full(size, -np.inf, np.float32)
    classes = np.zeros(size, np.uint8)
    for index, member in (
        (index, member) for index, group in enumerate(groups) for member in group
    ):
        scores = upsample(class_scores[member], size)
        better = scores > best
        best[better] = scores[better]
        classes[better] = index
    return classes
