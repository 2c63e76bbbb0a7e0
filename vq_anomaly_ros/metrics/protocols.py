"""Evaluation protocols as data: how each public benchmark computes its figures.

Most figures that cannot be reproduced come down to an unstated protocol, so a figure of this
project carries the one that it was made with (`Protocol.settings`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from vq_anomaly_ros.metrics.components import ANOMALY_TRACK, ComponentRule
from vq_anomaly_ros.metrics.pixel import VOID, Fpr95At, MetricError


@dataclass(frozen=True, slots=True)
class Protocol:
    """How scores and labels become figures.

    `task`: what the labels say. `pooling`: over all pixels of the set, or each image by itself and
    then the mean over images that hold anomalies. `curve`: every distinct score is a threshold, or
    quantile bins of each frame merged. `score_type`: what scores are rounded to. `fpr95`: at the
    first threshold with recall >= 0.95, or at the recall nearest to it. `void`: label left out, if
    any. `components`: sizes for sIoU, PPV and F1*, None where a protocol has no such metrics.
    """

    name: str
    task: Literal['anomaly', 'segmentation', 'industrial'] = 'anomaly'
    pooling: Literal['pixels', 'images'] = 'pixels'
    curve: Literal['exact', 'binned'] = 'exact'
    score_type: Literal['float16', 'float32'] = 'float32'
    fpr95: Fpr95At = 'first'
    void: int | None = VOID
    components: ComponentRule | None = None

    def settings(self) -> dict[str, Any]:
        """Everything that defines this protocol, as JSON takes it."""
        return asdict(self)


# SegmentMeIfYouCan's own evaluation stores float16 score maps; Fishyscapes and the pooled protocol
# (Road Anomaly) rank all pixels exactly; StreetHazards averages over images.
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol('smiyc', curve='binned', score_type='float16', components=ANOMALY_TRACK),
        Protocol('fishyscapes'),
        Protocol('streethazards', pooling='images', fpr95='nearest', void=None),
        Protocol('pooled'),
        Protocol('segmentation', task='segmentation'),
        Protocol('industrial', task='industrial'),
    )
}


def find_protocol(name: str) -> Protocol:
    """Return the protocol of that name; MetricError lists the known ones otherwise."""
    if name not in PROTOCOLS:
        raise MetricError(f'no protocol is called {name!r}; choose from {", ".join(PROTOCOLS)}')
    return PROTOCOLS[name]
