"""Training of CCL: normal pictures of several classes, a frozen teacher, two optimisers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from training.backbones import frozen_teacher
from training.methods.ccl.losses import (
    correspondence,
    distillation,
    global_contrast,
    local_contrast,
    partners,
)
from training.methods.ccl.model import CclNet, Maps, pooled, with_noise

_CLIP = 5.0  # of the norm of the gradients of each optimiser
_BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class Config:
    """Everything that a run of CCL is made of; a YAML file holds the same names."""

    name: str = 'ccl'
    datasets: Sequence[str] = (  # MVTec categories, folders of pictures, bags, videos
        'industrial/screw',
        'industrial/magnetic_tile',
        'industrial/fibre_mat',
    )
    every: int = 1  # picture of a drive that is taken: each, each second, ...
    input_size: Sequence[int] = (256, 256)  # that pictures are stretched to
    labels: str = 'dataset'  # what a class is: dataset, topic, pseudo, random, single
    pseudo_classes: int = 3  # of labels 'pseudo' and 'random'

    teacher: str = 'efficientnet-lite0'  # efficientnet-lite2, wide_resnet50_2
    strides: Sequence[int] = (8, 16, 32)  # of the teacher's maps, finest first
    base: str = 'reverse'  # reverse distillation, or reconstruct: of features
    width: int = 256  # of the bottleneck
    widest: int = 128  # most channels of a map of the student (256: 19 MB of model file)
    blocks: int = 1  # residual blocks of a stage of the student
    projected: bool = True
    noise: float = 0.309  # share of the batches whose projected maps get noise

    local_weight: float = 1.0  # 0: no local contrast
    global_weight: float = 1.0  # 0: no global contrast
    temperature: float = 0.05
    negatives: int = 1  # pictures of other classes that a local contrast is against
    smoothing: float = 0.0  # of the global contrast over its negatives
    positions: int = 64  # of a scale, drawn anew each step, for the local contrast; 0 = all
    matched: bool = True  # local positives by correspondence; else the same position
    views: int = 3  # of a picture that are kept as teacher maps; 0: a new one each time
    feature_cache: str = ''  # folder that keeps teacher maps from run to run
    balanced: bool = True  # as many pictures of each class in a batch

    epochs: int = 100
    batch_size: int = 16
    devices: int = 0
    projection_rate: float = 1e-3
    learning_rate: float = 5e-3
    steady: float = 0.6  # share of the run at these rates; then they fall to zero (cosine)
    average_weights: float = 0.0
    start_from: str = ''  # checkpoint whose weights a new run begins with
    precision: str = 'auto'
    workers: int = 0
    seed: int = 0

    @property
    def contrasted(self) -> bool:
        """Whether there is any contrast, and with it a second view."""
        return self.local_weight > 0 or self.global_weight > 0


def check_sizes(config: Config) -> None:
    """ValueError where maps cannot be halved and doubled back, or a setting names nothing."""
    finest, coarsest = min(config.strides), max(config.strides)
    if list(config.strides) != [finest << n for n in range(len(config.strides))]:
        raise ValueError(
            f'strides {list(config.strides)}: must be two or more, each twice the one before'
        )
    whole = 2 * coarsest  # the bottleneck halves the coarsest map
    if any(int(side) % whole for side in config.input_size):
        raise ValueError(
            f'input_size {list(config.input_size)}: both sides must be multiples of {whole}, '
            f'twice the coarsest stride {coarsest}'
        )
    if config.base not in ('reverse', 'reconstruct'):
        raise ValueError(f'base {config.base!r}: must be reverse or reconstruct')


# Pictures, uint8 [B, h, w, 3], or the teacher's maps of them [B, C, h, w], float16.
View = Tensor | Maps
Batch = tuple[View, View | None, Tensor]


class CclTask(lightning.LightningModule):
    """L = distillation + local contrast + global contrast."""

    def __init__(self, config: Config, pretrained: bool = True) -> None:
        """pretrained: False spares reading the teacher's weights where a checkpoint brings them."""
        super().__init__()
        check_sizes(config)
        self.config = config
        self.automatic_optimization = False
        teacher = frozen_teacher(config.teacher, max(config.strides), pretrained)
        self.net = CclNet(
            teacher,
            config.strides,
            'reconstruct' if config.base == 'reconstruct' else 'reverse',
            config.width,
            config.blocks,
            config.projected,
            config.widest,
        )

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Seed each step by its place, so that a run that was killed draws the same as before.

        Not by `global_step`: that counts the steps of both optimisers.
        """
        place = self.current_epoch * 100_003 + index
        torch.manual_seed(self.config.seed * 1_000_000_007 + place)
        done = (self.current_epoch + index / self.trainer.num_training_batches) / self.config.epochs
        for optimiser, rate in zip(self._optimisers(), self._rates(), strict=True):
            for group in optimiser.param_groups:
                group['lr'] = rate * falling(done, self.config.steady)

    def training_step(self, batch: Batch, index: int) -> None:
        """One batch of pictures, their other views and class numbers [B]."""
        losses = self.losses(batch)
        loss = torch.stack(list(losses.values())).sum()
        self.log_dict({'loss': loss, **losses}, prog_bar=True)
        optimisers = self._optimisers()
        for optimiser in optimisers:
            optimiser.zero_grad()
        self.manual_backward(loss)
        for optimiser in optimisers:
            self.clip_gradients(optimiser, gradient_clip_val=_CLIP, gradient_clip_algorithm='norm')
            optimiser.step()

    def _optimisers(self) -> list[Any]:
        """Those of `configure_optimizers`; Lightning hands a single one on without its list."""
        found = self.optimizers()
        return list(found) if isinstance(found, list) else [found]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of the loss by name, scalars."""
        view, other_view, labels = batch
        alone = bool((labels == labels[0]).all())  # one class: nothing to contrast with
        maps = self._taught(view)
        q = self.net.project(maps)
        noisy = float(torch.rand(())) < self.config.noise
        base = self.net.base
        bottleneck = base.encode(with_noise(q) if noisy else q)
        losses = {'distillation': distillation(_float(base.decode(bottleneck)), base.targets(maps))}
        if alone or other_view is None:
            return losses
        others = self._taught(other_view)
        k = self.net.project(others)
        if self.config.local_weight:
            losses['local'] = self.config.local_weight * self._local(maps, others, q, k, labels)
        if self.config.global_weight:
            features = torch.cat([pooled(bottleneck), pooled(base.encode(k))]).float()
            losses['global'] = self.config.global_weight * global_contrast(
                features, labels.repeat(2), self.config.temperature, self.config.smoothing
            )
        return losses

    def _taught(self, view: View) -> list[Tensor]:
        """The teacher's maps, float32, whether they were kept or not."""
        return self.net.teach(view) if isinstance(view, Tensor) else _float(view)

    def _local(self, maps: Maps, others: Maps, q: Maps, k: Maps, labels: Tensor) -> Tensor:
        """Mean of the local contrast over the scales, with the same partners at all."""
        partner = partners(labels, self.config.negatives)
        terms = []
        for t, t_other, q_one, k_one in zip(maps, others, q, k, strict=True):
            here, there = t.flatten(2), t_other.flatten(2)
            places = self._places(here.shape[2], here.device)
            with torch.no_grad():
                match = (
                    correspondence(here[:, :, places], there)
                    if self.config.matched
                    else places.expand(len(here), -1)
                )
            terms.append(
                local_contrast(
                    q_one.float().flatten(2),
                    k_one.float().flatten(2),
                    match,
                    places,
                    partner,
                    self.config.temperature,
                )
            )
        return torch.stack(terms).mean()

    def _places(self, count: int, device: torch.device) -> Tensor:
        """Which of `count` positions are contrasted: all, or some drawn without replacement."""
        if not self.config.positions or self.config.positions >= count:
            return torch.arange(count, device=device)
        return torch.randperm(count, device=device)[: self.config.positions]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam for the base and Adam for the projections, as released; rates see `falling`."""
        parts = [self.net.base.parameters(), self.net.projections.parameters()]
        return [
            torch.optim.Adam(part, rate, _BETAS)
            for part, rate in zip(parts, self._rates(), strict=False)
        ]

    def _rates(self) -> list[float]:
        """Of the base, and of the projections where there are any."""
        rates = [self.config.learning_rate, self.config.projection_rate]
        return rates if self.config.projected else rates[:1]


def falling(done: float, steady: float) -> float:
    """Factor of the learning rates when a share `done` of the run is over: 1, then down to 0."""
    if done <= steady:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (done - steady) / (1.0 - steady)))


def _float(maps: Maps) -> list[Tensor]:
    return [one.float() for one in maps]
