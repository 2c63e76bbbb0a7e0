"""How CPC is judged: on the test pictures of a category, and on faulty frames of a drive.

Patch scores of the network itself, without an export; maps are upsampled to the masks bilinearly,
as training.benchmark does with a model file's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import torch
from torch import Tensor

from training.data.folders import check_same_size, load_image, load_mask, read_mvtec_category
from training.judging import network_input
from training.methods.cpc.model import CpcNet
from training.methods.cpc.scorer import (
    Aggregation,
    CpcScorer,
    condensed,
    grids_of,
    of_the_bank,
    patches_of,
    picture_score,
)
from training.methods.cpc.task import Config, Image, normalised
from training.predictor import size_of, upsample
from vq_anomaly_ros.metrics import PixelScores, RegionScores, exact_metrics

Figures = dict[str, Any]
PatchScore = Callable[[Tensor], Tensor]  # z [1, D, rows, columns] -> [1, rows, columns]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
_NEIGHBOURS = 3
_COMPARED = 4096  # patches of the bank that nearest neighbours are searched in


@dataclass
class Bank:
    """What is known of the normal pictures: grids of z, all their patches, and the centres."""

    net: CpcNet
    config: Config
    grids: list[Tensor]
    patches: Tensor = field(init=False)
    centres: Tensor = field(init=False)
    log_counts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.patches = patches_of(self.grids)
        self.centres, self.log_counts = condensed(
            self.patches, self.config.bank_centres, self.config.seed
        )

    def scorer(self, excess: bool = False, most: int = 0) -> CpcScorer:
        """The scorer with the condensed bank, or with `most` patches of it as they are."""
        centres, log_counts = self.centres, self.log_counts
        if most:
            centres = evenly(self.patches, most)
            log_counts = torch.zeros(len(centres))
        ends = float('inf'), -float('inf')
        negatives = self.config.negatives
        return CpcScorer(self.net, centres, log_counts, negatives, *ends, excess=excess).eval()

    def nearest(self) -> PatchScore:
        """Mean distance of z to its nearest neighbours in the bank: what the loss is up against."""
        bank = evenly(self.patches, _COMPARED)

        def score(z: Tensor) -> Tensor:
            distances = torch.cdist(z[0].flatten(1).T, bank)
            nearest = distances.topk(min(_NEIGHBOURS, len(bank)), largest=False).values
            return nearest.mean(dim=1).view(1, *z.shape[2:])

        return score


def evenly(patches: Tensor, most: int) -> Tensor:
    """At most about `most` of the patches [B, D], taken at equal distances."""
    return patches[:: max(1, -(-len(patches) // most))]


def bank_of(net: CpcNet, config: Config, pictures: Sequence[Image]) -> Bank:
    """The bank of a network from uint8 RGB pictures [h, w, 3] at its input size."""
    return Bank(net, config, grids_of(net, of_the_bank(pictures, config)))


@dataclass
class _Score:
    """What one score said of all test pictures so far."""

    score: PatchScore
    pixels: PixelScores = field(default_factory=PixelScores)
    regions: RegionScores = field(default_factory=RegionScores)
    pictures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, patches: Tensor, scores: np.ndarray, labels: Image) -> None:
        self.pixels.add(scores, labels)
        self.regions.add(scores, labels)
        for how in AGGREGATIONS:
            self.pictures.setdefault(how, []).append(float(picture_score(patches, how)))
        self.pictures.setdefault('peak', []).append(float(scores.max()))

    def figures(self, defective: Sequence[bool]) -> Figures:
        images = {how: auroc(found, defective) for how, found in self.pictures.items()}
        pixels = self.pixels.result()
        return {
            'image_auroc': images,
            'pixel_auroc': pixels.auroc,
            'pro': self.regions.pro(self.pixels.normal),
        }


def auroc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Area under the curve of single numbers."""
    values, chosen = np.array(scores, np.float32), np.array(positive, bool)
    return exact_metrics(np.sort(values[chosen]), np.sort(values[~chosen])).auroc


def category_figures(
    bank: Bank, scores: Mapping[str, PatchScore], root: Path
) -> dict[str, Figures]:
    """Image AUROC by aggregation, pixel AUROC and PRO of each score on a category's test set.

    root: folder of the category; FolderError where it is none or masks do not fit.
    """
    drawn = bank.scorer()
    found = {name: _Score(score) for name, score in scores.items()}
    defective = []
    with torch.inference_mode():
        for sample in read_mvtec_category(root).test:
            picture = load_image(sample.image)
            labels = np.zeros(picture.shape[:2], np.uint8)
            if sample.mask is not None:
                labels = load_mask(sample.mask)
                check_same_size(sample.image, picture, sample.mask, labels)
            z = bank.net.encode(normalised(network_input(picture, bank.config.input_size)))
            for one in found.values():
                patches = one.score(z)
                map_ = drawn.map_of(patches)[0].numpy()
                one.add(patches, upsample(map_, size_of(labels)), labels)
            defective.append(sample.mask is not None)
    return {name: one.figures(defective) for name, one in found.items()}


def at_input_size(bgr: Image, config: Config) -> Image:
    """A picture uint8 BGR [H, W, 3] as the network takes it: uint8 RGB [h, w, 3]."""
    return np.asarray(network_input(bgr, config.input_size)[0].numpy(), np.uint8)


def brightness_auroc(root: Path) -> float:
    """Image AUROC of a picture's mean light alone, high or low: what a score may be living on."""
    test = read_mvtec_category(root).test
    light = [float(cv2.cvtColor(load_image(one.image), cv2.COLOR_BGR2GRAY).mean()) for one in test]
    found = auroc(light, [one.mask is not None for one in test])
    return max(found, 1.0 - found)
