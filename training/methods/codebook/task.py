"""Training of the codebook method: data, objective and log, as one Lightning module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training import distributed
from training.backbones import EfficientNetLite
from training.data.folders import VOID
from training.data.known import known_objects
from training.data.outliers import PASTED, Paster, held_out_categories, read_cut_outs
from training.data.street import (
    CAMVID_CLASSES,
    Augmentation,
    Example,
    PassSampler,
    StoredExample,
    StreetCrops,
    class_sets,
    palette_of,
    read_street,
)
from training.methods.codebook import coarse, losses
from training.methods.codebook.contrastive import VoidQueue
from training.methods.codebook.memory import Memory
from training.methods.codebook.model import CodebookNet, Likelihood
from training.methods.codebook.objective import (
    assignment,
    by_position,
    contrastive_terms,
    sampled,
)
from training.methods.codebook.quantisation import (
    Decoder,
    MovingCodebook,
    reconstruction,
    small_picture,
    straight_through,
)
from training.methods.codebook.scores import nearest_codes
from training.schedules import one_cycle

# Weights of Config of which any but 0 makes the contrastive sampling necessary.
_CONTRASTIVE = (
    'pixel_code_weight',
    'code_pixel_weight',
    'code_code_weight',
    'void_soft_weight',
    'commit_weight',
)


SAMPLE_DRIVE = 'sample drive'  # what model files call the procedural street
_LOOKED_AT = 400  # pictures on disk that class weights and known objects are taken from


@dataclass(frozen=True)
class Config:
    """Everything that a run of the codebook method is made of; a YAML file holds the same names."""

    name: str = 'street'
    classes: Sequence[str] = CAMVID_CLASSES  # names, in the order of their ids
    datasets: Sequence[str] = ('camvid/train', 'camvid/val')
    in_memory: bool = True  # about 0.5 MB a picture; else each is read when its turn comes
    repeats: Sequence[int] = ()  # how often a pass shows each data set (once where not given)
    sample_drive_pictures: int = 0  # pictures of the procedural street, added to each pass
    sample_drive_seed: int = 1000  # no seed of a drive that is demonstrated or measured
    outlier_objects: str = 'outlier_objects'  # folder of cut-outs; '' pastes nothing
    outlier_held_out: float = 0.0  # share of the categories left to the validation set `pasted`
    outlier_most: int = 3  # at most so many pasted objects a crop
    outlier_heights: Sequence[float] = (0.035, 0.5)  # shares of the crop's height, log-uniform
    outlier_relight: float = 0.0  # pasted objects take up to this share of the light around them
    outlier_translucent: float = 0.0  # share of pasted objects that the picture shines through
    outlier_textures: float = 0.0  # share of pasted objects that are blobs of coarse noise
    outlier_colour: float = 0.0  # strength of the change of pasted objects' colours
    known_most: int = 0  # at most so many objects of known classes pasted into a crop
    known_heights: Sequence[float] = (0.06, 0.4)
    void_labels: bool = True  # positions labelled void are drawn away from all codevectors

    input_size: Sequence[int] = (512, 1024)
    crop: Sequence[int] = (320, 480)
    heights: Sequence[int] = (270, 792)  # of a picture before it is cropped, log-uniform
    stretch: Sequence[float] = (0.95, 1.1)  # of its width beyond its proportions
    weather: float = 0.0  # share of crops with a shadow; half as many have haze, JPEG traces
    sharpen: float = 0.0  # most that enlarged pictures are sharpened: share of their fine detail
    match_blur: bool = False  # pasted objects are as blurred as the enlarged picture around them
    known_colour: float = 0.0  # as outlier_colour, of the pasted objects of known classes

    codevectors: int = 10
    dimension: int = 64
    channels: int = 96  # of the fused maps at strides 8 and more
    fine_channels: int = 48  # of that at stride 4
    blocks: int = 16  # of EfficientNet-lite0; 11 end at stride 16
    left_out: Sequence[int] = ()  # blocks of these that are left out, counted from 0
    top_k: int = 3
    temperature: float = 0.07

    round_weights: bool = False  # all to fp16 before the export: a smaller file, another network
    smooth: int = 1  # side of the window over whose mean the exported score is smoothed (odd)
    evidence: float = 0.0  # temperature at which all classes explain a position (0: the best one)
    coarse: int = 0  # codevectors of the backbone's deepest map, without classes (0: none)
    coarse_share: float = 0.2  # of the exported score that is the distance to them
    coarse_distance: str = 'whitened'  # or 'cosine'

    restart_until: float = 0.7  # share of the passes after which unused codevectors stay
    restart_by: str = 'split'  # halves the most used one of its class; or 'feature': onto one of it

    codebook_update: str = 'gradient'  # or 'average': moving averages of the features
    codebook_decay: float = 0.99
    assignment: str = 'nearest'  # of the codevectors of a class, or 'balanced' (Sinkhorn)
    contrast_per_class: int = 50  # positions a class and picture in the contrastive terms
    pixel_code_weight: float = 0.0
    code_pixel_weight: float = 0.0
    code_code_weight: float = 0.0
    void_soft_weight: float = 0.0
    void_delta: float = 0.15  # cosine above which the soft void term repels
    void_erosion: int = 0  # positions of the map taken off void's border before it is sampled
    void_most: int = 512  # void positions a picture in the contrastive terms
    void_queue: int = 0  # void features kept from earlier steps as negatives (0: none)
    commit_weight: float = 0.0
    reconstruct_weight: float = 0.0  # of the decoder, picture at a quarter of the size
    reconstruct_labels: bool = False  # the decoder gives the label map, too

    attract_above: float = 0.9
    attract_weight: float = 1.0
    void_below: float = 0.4
    void_weight: float = 2.0
    pasted_below: float = 0.2
    pasted_weight: float = 4.0
    remember_weight: float = 0.0  # of the deepest map's distance to what ImageNet's weights give

    epochs: int = 24
    batch_size: int = 8  # of all processes together
    devices: int = 0  # GPUs, or processes on a CPU (0: every GPU that is there, or one process)
    learning_rate: float = 1.2e-3
    backbone_rate: float = 0.25  # the backbone's share of the learning rate
    frozen_blocks: int = 0  # the stem and so many blocks keep their ImageNet weights (0: none)
    warm_up: float = 0.3  # share of the steps in which the learning rate rises
    weight_decay: float = 0.01
    average_weights: float = 0.0  # decay of the moving average of the weights (0: none)
    start_from: str = ''  # checkpoint or model file whose weights a new run begins with
    start_blocks: int = 0  # of the backbone, taken from there; the later stay ImageNet's (0: all)
    precision: str = 'auto'  # Lightning's, or the fastest that this machine computes with
    workers: int = 1
    seed: int = 0

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """RGB colour of each class."""
        return palette_of(self.classes)


def read_examples(config: Config, root: Path) -> list[Example | StoredExample]:
    """All pictures of the configured data sets and the sample's, in memory where configured."""
    repeats = [*config.repeats] + [1] * len(config.datasets)
    examples: list[Example | StoredExample] = []
    for name, times in zip(config.datasets, repeats, strict=False):
        stored = list(read_street(root / name, config.classes))
        if config.in_memory:
            loaded = [one.load() for one in track(stored, f'reading {name}')]
            examples += loaded * times
        else:
            examples += stored * times
    return examples + list(_sample_drive_examples(config))


def _sample_drive_examples(config: Config) -> list[Example]:
    if not config.sample_drive_pictures:
        return []
    if tuple(config.classes[: len(CAMVID_CLASSES)]) != CAMVID_CLASSES:
        raise ValueError(
            'sample_drive_pictures: the sample drive has the classes '
            f'{", ".join(CAMVID_CLASSES)}; begin `classes` with these or draw no pictures'
        )
    from vq_anomaly_ros.replay.sample_drive import training_pictures

    pictures = training_pictures(config.sample_drive_seed, config.sample_drive_pictures, (540, 960))
    return [
        Example(picture.image, picture.classes)
        for picture in track(
            pictures, total=config.sample_drive_pictures, description='drawing streets'
        )
    ]


class StreetData(lightning.LightningDataModule):
    """Random crops of street pictures with pasted objects."""

    def __init__(self, config: Config, root: Path) -> None:
        super().__init__()
        self.config = config
        self.root = root
        self.examples: list[Example | StoredExample] = []

    def setup(self, stage: str = 'fit') -> None:
        """Read the pictures once."""
        # OpenCV's own threads would neither survive the fork of the loader nor help beside it.
        cv2.setNumThreads(0)
        if not self.examples:
            self.examples = read_examples(self.config, self.root)

    def class_pixels(self) -> Tensor:
        """How many pixels each class has in the training pictures (a few hundred), int64 [C]."""
        counts = np.zeros(256, np.int64)
        for example in self.some():
            counts += np.bincount(example.labels.ravel(), minlength=256)
        return torch.from_numpy(counts[: len(self.config.classes)])

    def some(self, most: int | None = None) -> Iterator[Example]:
        """An even choice of about so many pictures, each once.

        By default all that are in memory, or a few hundred of those that are read from disk.
        """
        distinct = list(dict.fromkeys(self.examples))
        if most is None:
            most = len(distinct) if self.config.in_memory else _LOOKED_AT
        return (one.load() for one in distinct[:: max(1, len(distinct) // max(1, most))])

    @cached_property
    def pasters(self) -> list[Paster]:
        """What is pasted into the crops: objects of known classes first, then unknown ones."""
        config = self.config
        pasters = []
        known = known_objects(self.some(), config.classes) if config.known_most else []
        if known:  # not every set of pictures has some
            low, high = config.known_heights
            pasters.append(
                Paster(
                    known,
                    config.known_most,
                    (low, high),
                    config.outlier_relight,
                    colour=config.known_colour,
                    tilt=5,
                    enlarge=3,
                )
            )
        if config.outlier_objects:
            folder = self.root / config.outlier_objects
            held_out = held_out_categories(folder, config.outlier_held_out)
            low, high = config.outlier_heights
            pasters.append(
                Paster(
                    read_cut_outs(folder, held_out),
                    config.outlier_most,
                    (low, high),
                    config.outlier_relight,
                    config.outlier_translucent,
                    config.outlier_textures,
                    config.outlier_colour,
                )
            )
        return pasters

    def train_dataloader(self, workers: int | None = None) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches of uint8 [B, h, w, 3] and int64 [B, h/4, w/4]."""
        config = self.config
        how = Augmentation(
            (int(config.crop[0]), int(config.crop[1])),
            (config.heights[0], config.heights[1]),
            (config.stretch[0], config.stretch[1]),
            weather=config.weather,
            sharpen=config.sharpen,
            match_blur=config.match_blur,
        )
        workers = config.workers if workers is None else workers
        crops = StreetCrops(self.examples, how, self.pasters, config.seed)
        process, processes = 0, 1
        if self.trainer is not None:
            process, processes = self.trainer.global_rank, self.trainer.world_size
        sampler = PassSampler(len(crops), config.batch_size, process, processes)
        return DataLoader(
            cast('Dataset[tuple[Tensor, Tensor]]', crops),  # batches are tensors, items are arrays
            batch_size=len(sampler.part),
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
        )


class CodebookTask(lightning.LightningModule):
    """L = segmentation + attraction + repulsion of void + repulsion of pasted objects."""

    def __init__(self, config: Config, pretrained: bool = True) -> None:
        super().__init__()
        self.config = config
        if any(side % 32 for side in (*config.crop, *config.input_size)):
            raise ValueError(
                f'crop {list(config.crop)} and input_size {list(config.input_size)} must be '
                'multiples of 32, the stride of the backbone'
            )
        self.net = CodebookNet(
            len(config.classes),
            config.codevectors,
            config.dimension,
            config.channels,
            config.top_k,
            config.temperature,
            pretrained,
            config.fine_channels,
            config.blocks,
            config.smooth,
            config.evidence,
            config.coarse,
            config.coarse_share,
            config.coarse_distance,
            config.left_out,
        )
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net.backbone.freeze(config.frozen_blocks)
        self.class_weight: Tensor
        self.register_buffer('class_weight', torch.ones(len(config.classes)))
        self.class_sets: Tensor
        sets = torch.from_numpy(class_sets(config.classes))
        self.register_buffer('class_sets', sets, persistent=False)
        self.code_counts: Tensor
        codes = len(config.classes) * config.codevectors
        self.register_buffer('code_counts', torch.zeros(codes), persistent=False)
        self.latest: tuple[Tensor, Tensor]  # unit features and labels of the last batch
        self.queue = VoidQueue(config.dimension, config.void_queue) if config.void_queue else None
        self.moving: MovingCodebook | None = None
        if config.codebook_update == 'average':
            self.moving = MovingCodebook(self.net.codevectors, config.codebook_decay)
            self.net.codevectors.requires_grad_(False)
        elif config.codebook_update != 'gradient':
            raise ValueError(
                f"codebook_update is {config.codebook_update!r}: use 'gradient' or 'average'"
            )
        if config.restart_by not in ('feature', 'split'):
            raise ValueError(f"restart_by is {config.restart_by!r}: use 'feature' or 'split'")
        kept = config.frozen_blocks >= config.blocks or config.remember_weight
        if config.coarse and not kept:
            raise ValueError(
                'coarse: these codevectors describe the map that ImageNet weights give; set '
                f'frozen_blocks to {config.blocks}, remember_weight above 0, or coarse to 0'
            )
        if config.assignment not in ('nearest', 'balanced'):
            raise ValueError(f"assignment is {config.assignment!r}: use 'nearest' or 'balanced'")
        self.memory: Memory | None = None  # made where a training begins
        self.decoder: Decoder | None = None
        if config.reconstruct_weight:
            labels = len(config.classes) if config.reconstruct_labels else 0
            self.decoder = Decoder(config.dimension, labels)

    def on_train_epoch_start(self) -> None:
        """Lightning puts everything into training mode; what is frozen stays as it was."""
        self.net.backbone.freeze(self.config.frozen_blocks)

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Seed each step by its number: a run that was killed goes on with the same draws."""
        torch.manual_seed(self.config.seed * 1_000_003 + self.global_step)

    def on_fit_start(self) -> None:
        """Weights of the classes and coarse codevectors come from the training pictures."""
        config = self.config
        data: StreetData = self.trainer.datamodule  # type: ignore[attr-defined]
        self.class_weight.copy_(losses.class_weights(data.class_pixels()))
        backbone = self.net.backbone
        if config.remember_weight:
            self.memory = Memory(config.blocks, self.device)
            backbone = self.memory.backbone
        if not self.trainer.ckpt_path:  # a run that goes on has them from its checkpoint
            self.fit_coarse(data, backbone)

    def fit_coarse(self, data: StreetData, backbone: EfficientNetLite) -> None:
        """Fit the coarse codevectors, where there are any, to the deepest map of `backbone`."""
        config, codebook = self.config, self.net.coarse
        if codebook is not None:
            pictures = data.some(coarse.PICTURES)
            coarse.fit(codebook, backbone, pictures, config.input_size, config.seed)

    def terms(self, likelihood: Likelihood, labels: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the objective by name."""
        config, scores = self.config, likelihood.class_scores
        terms = {
            'segmentation': losses.segmentation(
                scores, labels, config.temperature, self.class_weight, self.class_sets
            ),
            'attraction': config.attract_weight
            * losses.attraction(scores, labels, config.attract_above, self.class_sets),
            'pasted': config.pasted_weight
            * losses.repulsion(scores, labels == PASTED, config.pasted_below),
        }
        if config.void_labels:
            terms['void'] = config.void_weight * losses.repulsion(
                scores, labels == VOID, config.void_below
            )
        return terms

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """One batch of crops and coarse labels -> the loss."""
        config, (pictures, labels) = self.config, batch
        maps = self.net.maps(pictures)
        features = self.net.features(self.net.fusion(maps))
        likelihood = self.net.likelihood(features)
        terms = self.terms(likelihood, labels) | self.further_terms(
            pictures, features, likelihood, labels
        )
        if self.memory is not None:
            terms['remember'] = config.remember_weight * losses.forgetting(
                maps[-1], self.memory(pictures)
            )
        loss = torch.stack(list(terms.values())).sum()
        self.log('loss', loss, prog_bar=True)
        self.log_dict({f'loss/{name}': value.detach() for name, value in terms.items()})
        self._count_codes(likelihood.similarity.detach(), labels)
        self.latest = (features.detach(), labels)
        return loss

    def further_terms(
        self, pictures: Tensor, features: Tensor, likelihood: Likelihood, labels: Tensor
    ) -> dict[str, Tensor]:
        """The contrastive terms and the reconstruction, as far as they are switched on."""
        config = self.config
        terms: dict[str, Tensor] = {}
        if any(getattr(config, name) for name in _CONTRASTIVE):
            batch = sampled(config, features, likelihood, labels)
            terms = contrastive_terms(config, batch, self.net.codebook, self.queue)
            if self.queue is not None:
                self.queue.push(batch.void_features)
        if self.decoder is not None:
            terms['reconstruction'] = config.reconstruct_weight * self._reconstruction(
                self.decoder, pictures, features, likelihood, labels
            )
        if self.moving is not None:
            self._move_codebook(self.moving, features, likelihood, labels)
        return terms

    def _reconstruction(
        self,
        decoder: Decoder,
        pictures: Tensor,
        features: Tensor,
        likelihood: Likelihood,
        labels: Tensor,
    ) -> Tensor:
        """Decode the nearest codevectors; everywhere, because void has a picture too."""
        flat, _ = by_position(features, likelihood)
        codes = nearest_codes(likelihood.similarity).flatten()
        quantised = straight_through(flat, self.net.codebook, codes)
        batch, _, height, width = features.shape
        quantised = quantised.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2)
        small = small_picture(pictures, (height, width))
        return reconstruction(decoder(quantised), small, labels, VOID)

    @torch.no_grad()
    def _move_codebook(
        self, moving: MovingCodebook, features: Tensor, likelihood: Likelihood, labels: Tensor
    ) -> None:
        """Update the moving averages by the correctly classified positions only."""
        flat, similarity = by_position(features, likelihood)
        right = (likelihood.class_scores.argmax(dim=1) == labels).flatten()
        own = labels.flatten()[right]
        codes = assignment(self.config, similarity[right], own)
        codebook = moving.update(flat[right], codes)
        self.net.codevectors.copy_(codebook.view_as(self.net.codevectors))

    def _count_codes(self, similarity: Tensor, labels: Tensor) -> None:
        codes = nearest_codes(similarity)[labels < len(self.config.classes)]
        self.code_counts += torch.bincount(codes, minlength=self.code_counts.numel())

    def on_train_epoch_end(self) -> None:
        """Log how the codebook was used: unused codevectors, perplexity of each class."""
        self.code_counts.copy_(distributed.total(self.code_counts))
        unused, perplexity = usage(self.code_counts.view(-1, self.config.codevectors))
        self.log('codebook/unused', float(unused))
        for name, value in zip(self.config.classes, perplexity.tolist(), strict=True):
            self.log(f'codebook/perplexity/{name}', value)
        if self.current_epoch < self.config.restart_until * self.config.epochs:
            self._restart_unused()
        self.code_counts.zero_()
        self._log_pictures()

    @torch.no_grad()
    def _restart_unused(self) -> None:
        """Give codevectors that nothing chose another start."""
        features, labels = self.latest
        if self.moving is None:
            counts = self.code_counts.view(-1, self.config.codevectors)
            if self.config.restart_by == 'split':
                split(self.net.codevectors.data, counts)
            else:
                restart(self.net.codevectors.data, counts == 0, features, labels)
            distributed.from_first(self.net.codevectors.data)
            return
        flat = features.permute(0, 2, 3, 1).flatten(0, 2)
        self.moving.restart(flat, labels.flatten(), self.config.codevectors)
        self.net.codevectors.copy_(self.moving.codebook().view_as(self.net.codevectors))

    @torch.no_grad()
    def _log_pictures(self) -> None:
        """Two training pictures, their predicted classes and anomaly scores, into TensorBoard."""
        writer = getattr(self.logger, 'experiment', None)
        data: StreetData = self.trainer.datamodule  # type: ignore[attr-defined]
        if writer is None or not self.trainer.is_global_zero:
            return
        height, width = self.config.input_size
        chosen = [data.examples[n].load() for n in (0, len(data.examples) // 2)]
        pictures = np.stack([cv2.resize(example.image, (width, height)) for example in chosen])
        self.net.eval()
        score, labels, _, _ = self.net(torch.from_numpy(pictures).to(self.device))
        self.net.train()
        self.net.backbone.freeze(self.config.frozen_blocks)
        palette = torch.tensor([*self.config.palette], dtype=torch.uint8)
        low, high = -1.0, 0.0
        grey = ((score.cpu() - low) / (high - low)).clamp(0, 1)
        step = self.global_step
        writer.add_images('pictures', pictures, step, dataformats='NHWC')
        writer.add_images('classes', palette[labels.cpu().long()], step, dataformats='NHWC')
        writer.add_images('anomaly score', grey.unsqueeze(1), step)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with one cycle; the pretrained backbone at a share of the rate."""
        config = self.config
        backbone = [p for p in self.net.backbone.parameters() if p.requires_grad]
        known = {id(parameter) for parameter in self.net.backbone.parameters()}
        head = [p for p in self.parameters() if id(p) not in known and p.requires_grad]
        rate = config.learning_rate
        groups: list[dict[str, Any]] = [
            {'params': backbone, 'lr': rate * config.backbone_rate},
            {'params': head},
        ]
        optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=config.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: one_cycle(step / steps, config.warm_up)
        )
        return {
            'optimizer': optimiser,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }


def restart(codevectors: Tensor, which: Tensor, features: Tensor, labels: Tensor) -> None:
    """Move the codevectors `which` (bool [C, M]) onto random features of their class, in place.

    codevectors: [C, M, D]; features: unit, [B, D, h, w]; labels: [B, h, w]. A codevector that no
    position is nearest to gets no gradient and would stay unused for good; its length, which sets
    how fast it moves, becomes the mean of all. Classes without positions keep theirs.
    """
    by_position = features.permute(0, 2, 3, 1)
    length = codevectors.norm(dim=-1).mean()
    for c, m in which.nonzero().tolist():
        own = by_position[labels == c]
        if len(own):
            codevectors[c, m] = own[torch.randint(len(own), ())] * length


def split(codevectors: Tensor, counts: Tensor, apart: float = 0.1) -> None:
    """Give every unused codevector half of the positions of the most used one of its class.

    After Linde, Buzo & Gray 1980: both become that one, moved by +d and -d, d random and `apart` of
    its length, so that what is known stays nearly what it was. codevectors: [C, M, D], in place;
    counts: how often each was chosen, [C, M]. A class that chose none keeps all as they are.
    """
    left = counts.clone().float()
    for c, m in (counts == 0).nonzero().tolist():
        most = int(left[c].argmax())
        if left[c, most] == 0:
            continue
        own = codevectors[c, most].clone()
        step = torch.nn.functional.normalize(torch.randn_like(own), dim=0) * own.norm() * apart
        codevectors[c, most], codevectors[c, m] = own + step, own - step
        left[c, most] = left[c, m] = left[c, most] / 2


def usage(counts: Tensor) -> tuple[int, Tensor]:
    """Codevectors that no position chose, and exp(entropy) of the choices of each class.

    `counts`: [C, M]. A perplexity of M means that all are used alike, 1 that one does everything.
    """
    share = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    entropy = -(share * share.clamp(min=1e-12).log()).sum(dim=1)
    return int((counts == 0).sum()), entropy.exp()
