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
from vq_anomaly_ros.detection.detector import Detector
from vq_anomaly_ros.detection.drift import DriftError, Learner
from vq_anomaly_ros.detection.frame_signs import frame_signs, score_edges
from vq_anomaly_ros.detection.model_info import ModelInfo
from vq_anomaly_ros.images import Frame, ImageError, as_frame
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.normal_scores import DriveScores, fit


@dataclass
class LearntDrive:
    """One topic of one bag: its scores, what its camera looked like, frames that were no picture.

    left_out: why, a sentence each.
    """

    scores: DriveScores
    signs: Learner
    left_out: list[str] = dataclasses.field(default_factory=list)


def learn_drive(
    frames: Iterable[tuple[int, Frame | str]], detector: Detector, name: str, topic: str
) -> LearntDrive:
    """Run a detector over a drive.

    Args:
        frames: stamp, ns, and the frame, or why it is none.
        detector: with codes, where its model has any, so that their use is learnt.
        name: of the bag.
        topic: of the images.
    """
    learnt = LearntDrive(DriveScores(detector.info, name, topic), Learner())
    edges = score_edges(detector.info)
    for stamp_ns, frame in frames:
        if isinstance(frame, str):
            learnt.left_out.append(f'{name}: a frame is left out: {frame}')
            continue
        (detection,) = detector.detect([frame])
        learnt.scores.add(detection.raw_score, detection.labels)
        learnt.signs.add(stamp_ns, frame_signs(frame, detection, detector.info, edges))
    return learnt


def frames_of(bag: Path, topic: str) -> Iterator[tuple[int, Frame | str]]:
    """Stamps, ns, and frames of a drive; instead of what is no picture, why. Raises BagError."""
    for stamp_ns, _, message in bags.read_images(bag, topic):
        try:
            yield stamp_ns, as_frame(message)
        except ImageError as error:
            yield stamp_ns, str(error)


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
    return dataclasses.replace(file, drift=limits or None), problems


def _learner_of(drives: Sequence[LearntDrive], topic: str) -> Learner:
    """What all drives of one topic look like, together."""
    together = Learner()
    for drive in drives:
        if drive.scores.topic == topic:
            together.add_learnt(drive.signs)
    return together
