"""Metrics of anomaly scores, classes and defects; the protocol is an argument.

Everything streams: make the evaluation of a protocol, `add` image by image, ask for its `result`.
Labels are uint8 with 0 normal, 1 anomaly, 255 void; scores are higher where more anomalous.
"""

from vq_anomaly_ros.metrics.bins import FrameBins, MergedBins, frame_bins
from vq_anomaly_ros.metrics.components import (
    ANOMALY_TRACK,
    OBSTACLE_TRACK,
    ComponentMetrics,
    ComponentRule,
    FrameComponents,
    FrameCounts,
    component_metrics,
    frame_components,
)
from vq_anomaly_ros.metrics.evaluations import (
    AnomalyEvaluation,
    IndustrialEvaluation,
    PerImageEvaluation,
    PooledEvaluation,
    Result,
    SegmentationEvaluation,
    anomaly_evaluation,
)
from vq_anomaly_ros.metrics.intervals import Interval, bootstrap_interval
from vq_anomaly_ros.metrics.pixel import (
    VOID,
    MetricError,
    PixelMetrics,
    PixelScores,
    exact_metrics,
    split_pixels,
)
from vq_anomaly_ros.metrics.protocols import PROTOCOLS, Protocol, find_protocol
from vq_anomaly_ros.metrics.regions import RegionScores
from vq_anomaly_ros.metrics.segmentation import class_iou, confusion, mean_iou

__all__ = [
    'ANOMALY_TRACK',
    'OBSTACLE_TRACK',
    'PROTOCOLS',
    'VOID',
    'AnomalyEvaluation',
    'ComponentMetrics',
    'ComponentRule',
    'FrameBins',
    'FrameComponents',
    'FrameCounts',
    'IndustrialEvaluation',
    'Interval',
    'MergedBins',
    'MetricError',
    'PerImageEvaluation',
    'PixelMetrics',
    'PixelScores',
    'PooledEvaluation',
    'Protocol',
    'RegionScores',
    'Result',
    'SegmentationEvaluation',
    'anomaly_evaluation',
    'bootstrap_interval',
    'class_iou',
    'component_metrics',
    'confusion',
    'exact_metrics',
    'find_protocol',
    'frame_bins',
    'frame_components',
    'mean_iou',
    'split_pixels',
]
