"""Baselines on the backbone, data and schedule of the codebook method.

Discriminative: a linear head on the same fused features, with the four scores that the field reads
from logits. Generative: Gaussian mixtures (GMMSeg), prototypes (ProtoSeg), a codebook that the
classes share. Without training: the density of backbone features.
`python -m training.baselines` measures them.
"""

from training.baselines.density import FeatureDensity
from training.baselines.gmmseg import GmmHead
from training.baselines.linear import (
    LOGIT_SCORES,
    LinearHead,
    LinearNet,
    energy,
    entropy,
    max_logit,
    max_softmax,
)
from training.baselines.network import BaselineNet, Head, Judged
from training.baselines.protoseg import ProtoHead
from training.baselines.shared import SharedCodebookHead
from training.baselines.task import BaselineTask, LinearTask, fit

__all__ = [
    'LOGIT_SCORES',
    'BaselineNet',
    'BaselineTask',
    'FeatureDensity',
    'GmmHead',
    'Head',
    'Judged',
    'LinearHead',
    'LinearNet',
    'LinearTask',
    'ProtoHead',
    'SharedCodebookHead',
    'energy',
    'entropy',
    'fit',
    'max_logit',
    'max_softmax',
]
