"""Training of CPC: normal pictures only, no labels, no pretrained weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.data.folders import FolderError
from training.data.pictures import stretched_pictures
from training.data.street import PassSampler, drawn
from training.methods.cpc.losses import info_nce
from training.methods.cpc.model import CONTRAST, LIGHT, CpcNet, PatchEncoder

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Config:
    """Everything that a run of CPC is made of; a YAML file holds the same names."""

    name: str = 'cpc'
    datasets: Sequence[str] = ('industrial/screw',)  # MVTec categories, folders of pictures, bags
    every: int = 1  # picture of a drive that is taken: each, each second, ...
    input_size: Sequence[int] = (512, 512)  # that pictures are stretched to
    crop: Sequence[int] = (256, 256)
    fixed_crops: bool = False  # in the corners: the check that position is no shortcut
    flip: bool = False  # mirror half of the crops
    colour: float = 0.1  # deviation of a crop's light and contrast
    camera: float = 0.0  # strength, 0..1, of states of a camera that crops are given

    patch: int = 64
    stride: int = 32
    widths: Sequence[int] = (64, 128, 256)
    stem_stride: int = 2
    directions: int = 4  # down, up, right, left; 1 as the parent
    steps: int = 5  # K
    skip: int = 1
    context: bool = False  # gated PixelCNN over the rows before
    batch_norm: bool = False  # for the check that it cheats
    random_encoder: bool = False  # stays as it was drawn: the control
    imagenet_encoder: bool = False  # frozen, in place of one of `widths`: an anchor
    centre: bool = False  # patches without their mean light, where light says nothing
    negatives: int = 16  # drawn with replacement from the patches of the batch
    excess: bool = False  # score: the loss beyond its expectation under the model's own prediction
    frame_term: bool = False  # score: plus how untypical the losses of the whole picture are
    bank_pictures: int = 100  # whose patches are the bank at test, evenly chosen; 0 = all
    bank_centres: int = 512  # that the bank is condensed to

    epochs: int = 300
    batch_size: int = 8
    devices: int = 0
    learning_rate: float = 2e-4
    one_cycle: bool = False  # rate rises over the first 15 % and falls to 0; else it is constant
    average_weights: float = 0.0
    start_from: str = ''  # checkpoint whose weights a new run begins with
    precision: str = 'auto'
    workers: int = 1
    seed: int = 0


class Crops(Dataset[Image]):
    """Item n, deterministic in `seed`: a random crop, uint8 RGB [h, w, 3].

    The stream is endless: item n belongs to pass n // len(pictures), which has its own order, so a
    run that was stopped goes on with the crops that it would have had.
    """

    def __init__(self, pictures: Sequence[Image], config: Config) -> None:
        self.pictures, self.config = pictures, config

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, item: int) -> Image:
        config = self.config
        index, rng = drawn(item, len(self.pictures), config.seed)
        picture = self.pictures[index]
        height, width = config.crop
        lowest, rightmost = picture.shape[0] - height, picture.shape[1] - width
        top, left = int(rng.integers(0, lowest + 1)), int(rng.integers(0, rightmost + 1))
        if config.fixed_crops:
            top, left = lowest * (2 * top > lowest), rightmost * (2 * left > rightmost)
        crop: NDArray[Any] = picture[top : top + height, left : left + width]
        if config.flip and rng.random() < 0.5:
            crop = crop[:, ::-1]
        if config.colour:
            contrast = np.exp(rng.normal(0.0, config.colour))
            light = 255.0 * rng.normal(0.0, config.colour)
            crop = np.clip((crop - 127.5) * contrast + 127.5 + light, 0, 255)
        if config.camera:
            crop = as_seen_by_a_camera(crop, config.camera, rng)
        return np.ascontiguousarray(crop, np.uint8)


def as_seen_by_a_camera(
    crop: NDArray[Any], strength: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A crop [h, w, 3], 0..255, in a random state of the camera: blur, light, colour, noise; ours.

    Each state in about half of the crops. All patches of a crop share it, so it can be predicted
    and tells crops apart: the encoder learns to see it, and at test it is unlike the bank's.
    """
    seen: NDArray[Any] = np.asarray(crop, np.float32)
    chosen = rng.random(4) < 0.5
    if chosen[0]:
        blurred = cv2.GaussianBlur(seen, (0, 0), max(0.1, 2.0 * strength * rng.random()))
        seen = np.asarray(blurred, np.float32)
    if chosen[1]:
        contrast, light = np.exp(rng.normal(0, 0.3 * strength)), rng.normal(0, 38.0 * strength)
        seen = (seen - 127.5) * contrast + 127.5 + light
    if chosen[2]:
        seen = seen * np.exp(rng.normal(0, 0.2 * strength, 3))
    if chosen[3]:
        noise = rng.standard_normal(seen.shape, dtype=np.float32)
        seen = seen + 20.0 * strength * rng.random() * noise
    return np.asarray(np.clip(seen, 0, 255), np.float32)


class CpcData(lightning.LightningDataModule):
    """The normal pictures of the datasets, in memory, stretched to the input size."""

    def __init__(self, config: Config, root: Path) -> None:
        super().__init__()
        self.config, self.root = config, root
        self.pictures: list[Image] = []

    def setup(self, stage: str = 'fit') -> None:
        """Read the pictures once; FolderError where there are none or a crop does not fit."""
        cv2.setNumThreads(0)
        if self.pictures:
            return
        height, width = self.config.input_size
        if any(c > s for c, s in zip(self.config.crop, (height, width), strict=True)):
            raise FolderError(
                f'crops of {list(self.config.crop)} do not fit into pictures of {[height, width]}; '
                'choose a larger input_size or a smaller crop'
            )
        reach = self.config.patch + (self.config.skip + 1) * self.config.stride
        if min(self.config.crop) < reach:
            raise FolderError(
                f'crops of {list(self.config.crop)} hold no patch of {self.config.patch} that '
                f'another one predicts; choose a crop of {reach} or more, or a smaller patch'
            )
        self.pictures = list(read_pictures(self.config, self.root))

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Batches of uint8 [B, h, w, 3]."""
        workers = self.config.workers
        sampler = PassSampler(len(self.pictures), min(self.config.batch_size, len(self.pictures)))
        return DataLoader(
            cast('Dataset[Tensor]', Crops(self.pictures, self.config)),
            batch_size=len(sampler.part),
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
        )


def read_pictures(config: Config, root: Path) -> Iterator[Image]:
    """All normal pictures of the datasets at the input size, uint8 RGB [h, w, 3]."""
    for name in config.datasets:
        for _, picture in stretched_pictures(root / name, config.every, config.input_size):
            yield picture


def normalised(pictures: Tensor) -> Tensor:
    """uint8 RGB [B, H, W, 3] -> float32 [B, 3, H, W] of about zero mean and unit deviation."""
    return (pictures.to(torch.float32).permute(0, 3, 1, 2) - LIGHT) / CONTRAST


class CpcTask(lightning.LightningModule):
    """InfoNCE over all directions and distances, the mean over patches."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = CpcNet(
            config.patch,
            config.stride,
            config.widths,
            config.stem_stride,
            config.directions,
            config.steps,
            config.skip,
            config.context,
            config.batch_norm,
            config.centre,
            config.imagenet_encoder,
        )
        if config.random_encoder and isinstance(self.net.encoder, PatchEncoder):
            self.net.encoder.freeze()

    def on_train_batch_start(self, batch: Tensor, index: int) -> None:
        """Seed each step by its number, so that a run that was killed draws the same negatives."""
        torch.manual_seed(self.config.seed * 1_000_003 + self.global_step)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        """One batch of crops, uint8 [B, h, w, 3] -> the loss."""
        z = self.net.encode(normalised(batch)).float()
        loss = torch.stack(
            [self._loss(said.float(), target, z) for _, _, said, target in self.net.predictions(z)]
        ).mean()
        self.log('loss', loss, prog_bar=True)
        return loss

    def _loss(self, said: Tensor, target: Tensor, z: Tensor) -> Tensor:
        """Mean InfoNCE of one direction and distance; maps [B, D, r, c], patches z [B, D, R, C].

        Negatives come from all patches of the batch, with replacement, as in the parent.
        """
        positive = (said * target).sum(dim=1)
        every = z.permute(0, 2, 3, 1).flatten(0, 2)
        products = said.permute(0, 2, 3, 1).flatten(0, 2) @ every.T
        chosen = torch.randint(
            len(every), (len(products), self.config.negatives), device=products.device
        )
        return info_nce(positive.flatten(), products.gather(1, chosen)).mean()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with the parent's constant rate, or with one cycle of it, for short trainings."""
        rate = self.config.learning_rate
        adam = torch.optim.Adam(self.parameters(), lr=rate)
        if not self.config.one_cycle:
            return adam
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(adam, rate, steps + 1, pct_start=0.15)
        return {'optimizer': adam, 'lr_scheduler': {'scheduler': cycle, 'interval': 'step'}}
