"""What `calibrate` takes from one drive, and the calibration of several.

What is learnt of a drive can be pickled, so drives may be learnt from in different processes; put
together in their order they give, to the bit, the calibration of one pass over all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vq_anomaly_ros.detection.calibration_file import CalibrationFile
from vq_anomaly_ros.detection.codevectors import FeatureSession
from vq_anomaly_ros.detection.detector import Detector
from vq_anomaly_ros.detection.drift import DriftError, Learner
from vq_anomaly_ros.detection.frame_signs import frame_signs, score_edges
from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.detection.regions import ALL, Region, RegionOfInterest, region_section
from vq_anomaly_ros.detection.spreads import SpreadCounts, nearest_of_class
from vq_anomaly_ros.images import Frame, ImageError, as_frame
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.ego_vehicle import Polygon, ego_of, seen_on_all
from vq_anomaly_ros.replay.normal_scores import DriveScores, fit

# Frames of a drive, evenly chosen, whose features are looked at: each costs a second run.
_FRAMES_OF_SPREADS = 40


@dataclass
class LearntDrive:
    """One topic of one bag: its scores, what its camera looked like, frames that were no picture.

    spreads: distances from codevectors, of some frames; region: where scores counted; ego: the
    vehicle itself, polygons in shares of the picture, which did not; left_out: why, a sentence
    each.
    """

    scores: DriveScores
    signs: Learner
    spreads: SpreadCounts
    region: Region = ALL
    ego: list[Polygon] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)


class DriveLearner:
    """Runs a model over drives."""

    def __init__(self, detector: Detector, region: Region = ALL) -> None:
        """Use a detector, with codes where its model has any, so that their use is learnt.

        region: where scores count.
        Raises RegionError for a region that the model knows nothing of, ModelFileError and
        EngineError where a model with codevectors cannot be cut open.
        """
        self._detector = detector
        self._region = region
        RegionOfInterest(region, detector.info.classes, detector.info.map_size)
        self._score_edges = score_edges(detector.info)
        self._session: FeatureSession | None = None
        if detector.info.codevectors_per_class:
            self._session = FeatureSession(detector.model, detector.config.threads)

    def learn(
        self,
        frames: Iterable[tuple[int, Frame | str]],
        name: str,
        topic: str,
        total: int,
        ego: Sequence[Polygon] = (),
    ) -> LearntDrive:
        """Learn from one drive.

        Args:
            frames: stamp, ns, and the frame, or why it is none.
            name: of the bag.
            topic: of the images.
            total: how many frames there are.
            ego: the vehicle itself, see `ego_of_bag`.
        """
        info = self._detector.info
        scores, spreads = DriveScores(info, name, topic), SpreadCounts(info.classes)
        learnt = LearntDrive(scores, Learner(), spreads, self._region, list(ego))
        region = RegionOfInterest(self._region, info.classes, info.map_size, ego)
        every = max(1, total // _FRAMES_OF_SPREADS)
        for place, (stamp_ns, frame) in enumerate(frames):
            if isinstance(frame, str):
                learnt.left_out.append(f'{name}: a frame is left out: {frame}')
                continue
            (detection,) = self._detector.detect([frame])
            counts = region.of(detection.labels)
            learnt.scores.add(detection.raw_score, detection.labels, counts)
            signs = frame_signs(frame, detection, info, self._score_edges)
            learnt.signs.add(stamp_ns, signs)
            if place % every == 0:
                self._add_spreads(learnt.spreads, frame)
        return learnt

    def _add_spreads(self, spreads: SpreadCounts, frame: Frame) -> None:
        if self._session is None:
            return
        cosines = self._session.cosines(frame)
        spreads.add(*nearest_of_class(cosines, len(self._detector.info.classes)))


def frames_of(bag: Path, topic: str) -> Iterator[tuple[int, Frame | str]]:
    """Stamps, ns, and frames of a drive; instead of what is no picture, why. Raises BagError."""
    for stamp_ns, _, message in bags.read_images(bag, topic):
        try:
            yield stamp_ns, as_frame(message)
        except ImageError as error:
            yield stamp_ns, str(error)


def ego_of_bag(bag: Path, topic: str) -> list[Polygon]:
    """The vehicle itself in the pictures of a bag, see ego_vehicle. Raises BagError."""
    return ego_of(frame for _, frame in frames_of(bag, topic))


def calibration_of(
    drives: Sequence[LearntDrive],
    info: ModelInfo,
    polluted: float,
    target_fpr: Sequence[float],
) -> tuple[CalibrationFile, list[str]]:
    """The calibration of drives, and why topics have no limits of drift, a sentence each.

    See normal_scores.fit, also for the errors.
    """
    file = fit([drive.scores for drive in drives], info, polluted, target_fpr)
    limits, problems = {}, []
    for topic in dict.fromkeys(drive.scores.topic for drive in drives):
        try:
            limits[topic] = _learner_of(drives, topic).baseline().to_dict()
        except DriftError as error:
            problems.append(f'{topic}: no limits of drift: {error}')
    counts = SpreadCounts(info.classes)
    for drive in drives:
        counts += drive.spreads
    spreads = {name: spread.to_dict() for name, spread in counts.spreads().items()}
    found = dataclasses.replace(
        file, drift=limits or None, spreads=spreads or None, regions=_regions_of(drives)
    )
    return found, problems


def _regions_of(drives: Sequence[LearntDrive]) -> dict[str, dict[str, object]]:
    """Where scores counted, by topic."""
    topics: dict[str, list[LearntDrive]] = {}
    for drive in drives:
        topics.setdefault(drive.scores.topic, []).append(drive)
    return {
        topic: region_section(of_it[0].region, seen_on_all([drive.ego for drive in of_it]))
        for topic, of_it in topics.items()
    }


def _learner_of(drives: Sequence[LearntDrive], topic: str) -> Learner:
    """What all drives of one topic look like, together."""
    together = Learner()
    for drive in drives:
        if drive.scores.topic == topic:
            together.add_learnt(drive.signs)
    return together
