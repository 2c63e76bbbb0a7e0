"""One camera over time: smoothed scores, the region where alarms count, obstacles that persist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vq_anomaly_ros.detection.obstacles import Obstacle, find_obstacles
from vq_anomaly_ros.detection.regions import (
    ALL,
    Region,
    RegionOfInterest,
    calibrated_region,
)
from vq_anomaly_ros.detection.tracks import Tracks

if TYPE_CHECKING:
    from vq_anomaly_ros.detection.calibration_file import CalibrationFile
    from vq_anomaly_ros.detection.model_info import ModelInfo

# A thing on the road has ground around its foot, on the mean over its frames.
LEAST_AROUND = 0.7


@dataclass(frozen=True)
class SceneConfig:
    """What is made of the scores of one camera.

    region: where alarms count; ego: polygons of the vehicle itself, in shares of the picture, that
    never count; smoothing: weight of the earlier frames in the score, 0 (none) to below 1;
    persistence: frames in which an obstacle was seen before it is told; obstacle_growth: see
    obstacles.least_areas.
    """

    region: Region = ALL
    ego: Sequence[Sequence[Sequence[float]]] = ()
    smoothing: float = 0.0
    persistence: int = 1
    obstacle_growth: float = 0.0


class Scene:
    """What has to be remembered of a camera; one frame after the other, not for several threads.

    `config` may be exchanged between two frames, its region and ego vehicle apart.
    """

    def __init__(self, config: SceneConfig, info: ModelInfo) -> None:
        """Prepare for a camera and the model that `info` describes; RegionError, see regions."""
        self.config = config
        self._region = RegionOfInterest(config.region, info.classes, info.map_size, config.ego)
        self._tracks = Tracks()
        self._smooth: np.ndarray | None = None

    def smoothed(self, raw: np.ndarray) -> np.ndarray:
        """Raw scores float32 [h, w], averaged with those of the frames before.

        Exponential mean in the image: a camera that moves blurs what it passes.
        """
        weight = self.config.smoothing
        if weight <= 0:
            self._smooth = None
            return raw
        before = self._smooth
        if before is None or before.shape != raw.shape:
            self._smooth = raw
        else:
            self._smooth = np.float32(weight) * before + np.float32(1 - weight) * raw
        return self._smooth

    def alarms(
        self, mask: np.ndarray, labels: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What of a mask uint8 [h, w] counts, uint8, and the region, bool [h, w] or None: all."""
        region = self._region.of(labels)
        if region is None:
            return mask, None
        counted = self._region.alarms(mask > 0, region)
        return np.where(counted, np.uint8(255), np.uint8(0)), region

    def obstacles(
        self,
        mask: np.ndarray,
        score: np.ndarray,
        labels: np.ndarray | None,
        size: tuple[int, int],
        min_area: float,
    ) -> tuple[Obstacle, ...]:
        """The obstacles that are told of the next frame; arguments as of `find_obstacles`."""
        found = find_obstacles(
            mask,
            score,
            labels,
            size,
            min_area,
            self.config.obstacle_growth,
            self._region.ground(labels),
        )
        return tuple(one for one in self._tracks.update(found) if self._is_told(one))

    def _is_told(self, obstacle: Obstacle) -> bool:
        stands = obstacle.around is None or obstacle.around >= LEAST_AROUND
        return stands and obstacle.frames >= self.config.persistence


def scene_of(
    config: SceneConfig,
    region: Region | None,
    info: ModelInfo,
    file: CalibrationFile | None,
    topic: str,
) -> Scene:
    """The scene of a camera with what its calibration knows of it.

    Args:
        config: without region and ego vehicle.
        region: None for the calibration's, everything where it has none.
        info: of the model.
        file: the calibration, if there is one.
        topic: of the images.

    Raises RegionError.
    """
    known, ego = calibrated_region(file.regions if file is not None else None, topic)
    return Scene(replace(config, region=region or known, ego=ego), info)
