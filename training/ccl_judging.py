"""How a run of CCL on products is judged: defects by category, frames of unseen ones, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import v_measure_score
from torch import Tensor
from torch.nn import functional as F

from training.backbones import frozen_teacher
from training.cpc_judging import auroc
from training.data.folders import MvtecCategory, load_image, load_mask, read_mvtec_category
from training.judging import network_input
from training.methods.ccl.data import KeptMaps, Pictures, read_pictures
from training.methods.ccl.labels import pooled_features, pseudo_classes
from training.methods.ccl.model import pooled
from training.methods.ccl.scorer import (
    MAP_STRIDE,
    CclScorer,
    class_centres,
    smoothing_kernel,
    unlikeness,
)
from training.methods.ccl.task import CclTask, Config
from training.predictor import size_of, upsample
from training.smoothing import smoothed
from vq_anomaly_ros.metrics import IndustrialEvaluation

_AT_ONCE = 16
_FLAGGED_AT = 0.95  # share of the known categories' good pictures that are not flagged
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Tested:
    """The test pictures of a category as the teacher sees them: maps [N, C, h, w] a scale."""

    category: MvtecCategory
    maps: list[Tensor]

    @property
    def defective(self) -> NDArray[np.bool_]:
        """Which pictures are, bool [N]."""
        return np.array([one.mask is not None for one in self.category.test])


@dataclass(frozen=True)
class Answers:
    """What a network says of pictures: score maps [N, h, w], global features [N, W] of length 1."""

    maps: Scores
    features: Tensor

    def frame_scores(self, centres: Tensor) -> dict[str, Scores]:
        """Scores of whole frames by name, each [N]: two of the map, one of the global feature."""
        flat = self.maps.reshape(len(self.maps), -1)
        return {
            'highest': flat.max(axis=1),
            'mean': flat.mean(axis=1),
            'unlike': unlikeness(self.features, centres).numpy(),
        }


def tested(config: Config, data: Path, names: Sequence[str]) -> dict[str, Tested]:
    """The test pictures of categories; maps are kept where the configuration says."""
    teacher = frozen_teacher(config.teacher, max(config.strides))
    keep = KeptMaps(replace(config, views=0), teacher)
    found = {}
    for name in names:
        category = read_mvtec_category(data / name)
        pixels = [
            network_input(load_image(one.image), config.input_size)[0].numpy()
            for one in category.test
        ]
        maps = keep.of(Pictures(f'{name}/test', pixels, [''] * len(pixels)))
        found[name] = Tested(category, [one[:, 0] for one in maps])
    return found


@torch.inference_mode()
def answers(scorer: CclScorer, maps: Sequence[Tensor], size: Sequence[int]) -> Answers:
    """Of the teacher's maps [N, C, h, w] of pictures of `size` (h, w)."""
    large = (int(size[0]) // MAP_STRIDE, int(size[1]) // MAP_STRIDE)
    parts = [
        scorer.of_maps([one[first : first + _AT_ONCE].float() for one in maps], large)
        for first in range(0, len(maps[0]), _AT_ONCE)
    ]
    features = F.normalize(torch.cat([found for _, found in parts]), dim=1)
    return Answers(torch.cat([score for score, _ in parts]).numpy(), features)


def neighbour_bank(maps: Sequence[Tensor], size: int = 6000) -> list[Tensor]:
    """Unit vectors [K, C] a scale, drawn from the teacher's maps [N, C, h, w] of pictures."""
    generator = torch.Generator().manual_seed(0)
    bank = []
    for one in maps:
        every = _local(one.float()).movedim(1, -1).flatten(0, 2)
        bank.append(every[torch.randperm(len(every), generator=generator)[:size]])
    return bank


def neighbour_maps(bank: Sequence[Tensor], maps: Sequence[Tensor], size: Sequence[int]) -> Scores:
    """Score maps without any training: 1 - cosine to the nearest of a bank, mean over scales.

    As CclScorer's, [N, h / 4, w / 4]: what there is to be had from the teacher's maps alone.
    """
    large = (int(size[0]) // MAP_STRIDE, int(size[1]) // MAP_STRIDE)
    found = []
    for picture in zip(*maps, strict=True):
        distances = []
        for known, one in zip(bank, picture, strict=True):
            here = _local(one[None].float())[0]
            nearest = (known @ here.flatten(1)).amax(dim=0).view(1, 1, *here.shape[1:])
            distances.append(F.interpolate(1.0 - nearest, size=large, mode='bilinear'))
        found.append(smoothed(torch.stack(distances).mean(dim=0), smoothing_kernel())[0, 0])
    return torch.stack(found).numpy()


def _local(maps: Tensor) -> Tensor:
    """Means of 3 x 3 positions [N, C, h, w], of length 1."""
    return F.normalize(F.avg_pool2d(maps, 3, 1, 1), dim=1)


@torch.inference_mode()
def judge_neighbours(config: Config, data: Path, tests: Mapping[str, Tested]) -> dict[str, Any]:
    """As `judge`, of nearest neighbours in one bank of all data sets."""
    teacher = frozen_teacher(config.teacher, max(config.strides))
    keep = KeptMaps(config, teacher)
    kept = [[one[:, 0] for one in keep.of(some)] for some in read_pictures(config, data)]
    bank = neighbour_bank([torch.cat(scale) for scale in zip(*kept, strict=True)])
    return {
        'categories': {
            name: {
                'images': len(one.category.test),
                'metrics': defect_figures(
                    neighbour_maps(bank, one.maps, config.input_size), one.category
                ),
            }
            for name, one in tests.items()
        }
    }


def image_auroc(maps: Scores, defective: NDArray[np.bool_]) -> float:
    """AUROC of the highest scores of maps [N, h, w]."""
    return auroc(maps.reshape(len(maps), -1).max(axis=1).tolist(), defective.tolist())


def defect_figures(maps: Scores, category: MvtecCategory) -> dict[str, float]:
    """Figures of the protocol `industrial`, scores upsampled to the size of the labels."""
    evaluation = IndustrialEvaluation()
    for score, one in zip(maps, category.test, strict=True):
        if one.mask is None:
            mask = np.zeros(size_of(load_image(one.image)), np.uint8)
        else:
            mask = load_mask(one.mask)
        evaluation.add(upsample(score, size_of(mask)), mask, one.mask is not None)
    return evaluation.result().metrics


def frame_figures(
    known: Mapping[str, Scores], unseen: Mapping[str, Scores]
) -> dict[str, dict[str, float]]:
    """Are good pictures of an unseen category told from good ones of the known? By score.

    auroc, and the share flagged above the 95th percentile of the known ones.
    """
    found = {}
    for name, scores in known.items():
        limit = np.quantile(scores, _FLAGGED_AT)
        found[name] = {
            'auroc': auroc(
                [*scores, *unseen[name]], [False] * len(scores) + [True] * len(unseen[name])
            ),
            'flagged': float(np.mean(unseen[name] > limit)),
        }
    return found


def confusion_figures(
    features: Tensor, numbers: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """Class confusion of global features [N, W] of categories `numbers`: v-measure, points [N, 2].

    K-means into as many clusters as there are categories; 1 = the clusters are the categories
    (Rosenberg & Hirschberg 2007). Points: the two main axes (PCA), for the picture.
    """
    count = len(np.unique(numbers))
    clusters = KMeans(count, random_state=0, n_init=10).fit(features.numpy()).labels_
    points = PCA(2, random_state=0).fit_transform(features.numpy())
    return float(v_measure_score(numbers, clusters)), points


def judge(task: CclTask, data: Path, tests: Mapping[str, Tested]) -> dict[str, Any]:
    """All figures of a trained task on the categories that it was trained on, and on the others."""
    config = task.config
    scorer = CclScorer(task.net).eval()
    said = {name: answers(scorer, one.maps, config.input_size) for name, one in tests.items()}
    known = [name for name in tests if name in config.datasets]
    figures: dict[str, Any] = {
        'categories': {
            name: {
                'images': len(tests[name].category.test),
                'metrics': defect_figures(said[name].maps, tests[name].category),
            }
            for name in known
        }
    }
    if len(known) > 1:
        features = torch.cat([said[name].features for name in known])
        numbers = np.repeat(np.arange(len(known)), [len(said[name].maps) for name in known])
        value, points = confusion_figures(features, numbers)
        figures['v_measure'] = value
        figures['points'] = {
            name: np.round(points[numbers == place], 3).tolist() for place, name in enumerate(known)
        }
    unseen = [name for name in tests if name not in config.datasets]
    if unseen:
        figures['unseen'] = _unseen(task, scorer, data, tests, said, unseen)
    return figures


def _unseen(
    task: CclTask,
    scorer: CclScorer,
    data: Path,
    tests: Mapping[str, Tested],
    said: Mapping[str, Answers],
    unseen: Sequence[str],
) -> dict[str, Any]:
    centres = _centres(task, scorer, data)

    def good(names: Sequence[str]) -> dict[str, Scores]:
        parts = [
            Answers(said[name].maps[~tests[name].defective],
                    said[name].features[~tests[name].defective]).frame_scores(centres)
            for name in names
        ]  # fmt: skip
        return {kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]}

    known = good([name for name in tests if name not in unseen])
    return {name: frame_figures(known, good([name])) for name in unseen}


@torch.inference_mode()
def _centres(task: CclTask, scorer: CclScorer, data: Path) -> Tensor:
    """Centres of the global features of the training pictures, one a data set."""
    config, net = task.config, scorer.net
    keep = KeptMaps(config, net.teacher)
    features, counts = [], []
    for one in read_pictures(config, data):
        counts.append(len(one.pixels))
        maps = [kept[:, 0] for kept in keep.of(one)]
        for first in range(0, len(one.pixels), _AT_ONCE):
            some = [kept[first : first + _AT_ONCE].float() for kept in maps]
            features.append(pooled(net.base.encode(net.project(some))))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return class_centres(torch.cat(features), labels)


def pseudo_agreement(config: Config, data: Path) -> float:
    """V-measure of the pseudo-classes of the training pictures with the data sets they are of."""
    teacher = frozen_teacher(config.teacher, max(config.strides))
    keep = KeptMaps(config, teacher)
    features = [
        pooled_features([one[:, 0] for one in keep.of(some)])
        for some in read_pictures(config, data)
    ]
    numbers = np.repeat(np.arange(len(features)), [len(one) for one in features])
    found = pseudo_classes(torch.cat(features), len(features), config.seed)
    return float(v_measure_score(numbers, found))


class Curve(lightning.Callback):
    """Image AUROC of every category after every epoch: {epoch: {category: figure}} in `found`."""

    def __init__(self, tests: Mapping[str, Tested]) -> None:
        self.tests = tests
        self.found: dict[str, dict[str, float]] = {}

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Judge the network as it is."""
        assert isinstance(pl_module, CclTask)  # noqa: S101 - for mypy
        scorer = CclScorer(pl_module.net).eval()
        self.found[str(trainer.current_epoch + 1)] = {
            name: image_auroc(
                answers(scorer, one.maps, pl_module.config.input_size).maps, one.defective
            )
            for name, one in self.tests.items()
        }
        pl_module.train()

    def state_dict(self) -> dict[str, Any]:
        """Kept in the checkpoint, so that a run that was killed has its whole curve."""
        return {'found': self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `state_dict`."""
        self.found = state_dict['found']
