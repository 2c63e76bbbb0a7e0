"""Pictures of several classes in balanced batches, and what the teacher says of them, kept."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import lightning
import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.backbones import Backbone, frozen_teacher
from training.data.folders import FolderError
from training.data.pictures import Image, stretched_pictures
from training.methods.ccl.labels import Numbers, class_numbers, pooled_features
from training.methods.ccl.model import teacher_maps
from training.methods.ccl.task import Batch, Config
from training.methods.ccl.views import augmented

_TAUGHT_AT_ONCE = 8


class Draw(NamedTuple):
    """An item of a batch: which picture, and what its other view is drawn from."""

    picture: int
    chance: int


@dataclass(frozen=True)
class Pictures:
    """The pictures of one data set: uint8 RGB [h, w, 3] each, and the topic of each ('' = none)."""

    name: str
    pixels: list[Image]
    topics: list[str]


def read_pictures(config: Config, root: Path) -> list[Pictures]:
    """The normal pictures of every data set; FolderError where one holds none."""
    height, width = (int(side) for side in config.input_size)
    found = []
    for name in config.datasets:
        rows = list(stretched_pictures(root / name, config.every, (height, width)))
        if not rows:
            raise FolderError(
                f'{root / name}: there are no normal pictures in it (train/good); leave it out or '
                'fetch the data set again'
            )
        found.append(Pictures(name, [pixels for _, pixels in rows], [topic for topic, _ in rows]))
    return found


class KeptMaps:
    """The teacher's maps of the pictures of a data set and of `views` other views of each.

    float16 [N, 1 + views, C, h, w] a scale. Where the configuration names a folder they are kept in
    it, and the next run with the same pictures, teacher and views opens them without reading all.
    """

    def __init__(self, config: Config, teacher: Backbone) -> None:
        self.config, self.teacher = config, teacher
        self.levels = [teacher.strides.index(stride) for stride in config.strides]

    def of(self, pictures: Pictures) -> list[Tensor]:
        """The maps of a data set, from the file or made anew."""
        if not self.config.feature_cache:
            return self._taught(pictures)
        path = Path(self.config.feature_cache) / f'{self._key(pictures)}.pt'
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f'.{path.name}')
            torch.save(self._taught(pictures), scratch)
            scratch.replace(path)
        kept: list[Tensor] = torch.load(path, mmap=True, weights_only=True)
        return kept

    def _key(self, pictures: Pictures) -> str:
        said = [self.config.teacher, list(self.config.strides), self.config.views]
        digest = hashlib.sha256(json.dumps(said).encode())
        for pixels in pictures.pixels:
            digest.update(pixels.tobytes())
        return f'{pictures.name.replace("/", "_")}-{digest.hexdigest()[:16]}'

    def _taught(self, pictures: Pictures) -> list[Tensor]:
        parts: list[list[Tensor]] = [[] for _ in self.levels]
        name = f'teacher: {pictures.name}'
        for first in track(range(0, len(pictures.pixels), _TAUGHT_AT_ONCE), name):
            some = pictures.pixels[first : first + _TAUGHT_AT_ONCE]
            views = np.stack(
                [
                    view
                    for place, pixels in enumerate(some)
                    for view in self._views(pixels, first + place)
                ]
            )
            found = teacher_maps(self.teacher, self.levels, torch.from_numpy(views))
            for part, one in zip(parts, found, strict=True):
                part.append(one.half().unflatten(0, (len(some), -1)))
        return [torch.cat(part) for part in parts]

    def _views(self, pixels: Image, place: int) -> Iterator[Image]:
        """The picture itself, then its other views."""
        yield pixels
        for view in range(self.config.views):
            yield augmented(pixels, np.random.default_rng((place, view)))


class BalancedDraws(Sampler[Draw]):
    """Draws of batches with as many pictures of each class, one batch after the other.

    Lightning tells the pass through `set_epoch`. A pass has as many batches as pictures fill; small
    classes come round more often. Where there are more classes than pairs in a batch, each batch
    holds some of them, in turn. All chance comes from seed and pass, so a run that was killed goes
    on as it would have.
    """

    def __init__(self, labels: Numbers, batch: int, seed: int, balanced: bool = True) -> None:
        labels = labels if balanced else np.zeros_like(labels)
        self.members = [np.flatnonzero(labels == number) for number in np.unique(labels)]
        self.batch, self.seed, self.epoch = min(batch, len(labels)), seed, 0
        self.batches = len(labels) // self.batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches * self.batch

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng((self.seed, self.epoch))
        classes = _endless(np.arange(len(self.members)), rng)
        members = [_endless(own, rng) for own in self.members]
        groups = max(1, min(len(self.members), self.batch // 2))
        for _ in range(self.batches):
            chosen = [next(classes) for _ in range(groups)]
            slots = [chosen[slot % groups] for slot in range(self.batch)]
            yield from (Draw(next(members[slot]), int(rng.integers(2**62))) for slot in slots)


def _endless(values: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """All values in a new order again and again."""
    while True:
        yield from (int(value) for value in rng.permutation(values))


class KeptViews(Dataset[Any]):
    """Item: the teacher's maps of a picture, of one of its kept other views, and its class."""

    def __init__(self, maps: Sequence[list[Tensor]], labels: Numbers, contrasted: bool) -> None:
        """maps: of every data set, as KeptMaps gives them."""
        self.maps, self.labels, self.contrasted = maps, labels, contrasted
        self.places = [(s, n) for s, one in enumerate(maps) for n in range(len(one[0]))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, draw: Draw) -> tuple[list[Tensor], list[Tensor] | None, int]:
        dataset, place = self.places[draw.picture]
        kept = [one[place] for one in self.maps[dataset]]
        other = None
        if self.contrasted:
            view = 1 + draw.chance % (len(kept[0]) - 1)
            other = [one[view] for one in kept]
        return [one[0] for one in kept], other, int(self.labels[draw.picture])


class FreshViews(Dataset[Any]):
    """Item: a picture, a new other view of it, uint8 [h, w, 3] both, and its class."""

    def __init__(self, pixels: Sequence[Image], labels: Numbers, contrasted: bool) -> None:
        self.pixels, self.labels, self.contrasted = pixels, labels, contrasted

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor | None, int]:
        pixels = self.pixels[draw.picture]
        other = None
        if self.contrasted:
            other = torch.from_numpy(augmented(pixels, np.random.default_rng(draw.chance)))
        return torch.from_numpy(pixels), other, int(self.labels[draw.picture])


def batch_of(items: Sequence[tuple[Any, Any, int]]) -> Batch:
    """Items of KeptViews or FreshViews as one batch."""
    views, others, labels = zip(*items, strict=True)
    other = None if others[0] is None else _stacked(others)
    return _stacked(views), other, torch.tensor(labels)


def _stacked(views: Sequence[Any]) -> Any:
    if isinstance(views[0], Tensor):
        return torch.stack(list(views))
    return [torch.stack(list(scale)) for scale in zip(*views, strict=True)]


class CclData(lightning.LightningDataModule):
    """The normal pictures of all data sets with their classes, as pictures or as kept maps."""

    def __init__(self, config: Config, root: Path, pretrained: bool = True) -> None:
        """pretrained: of the teacher whose maps are kept."""
        super().__init__()
        self.config, self.root, self.pretrained = config, root, pretrained
        self.labels: Numbers = np.zeros(0, np.int64)
        self.classes: tuple[str, ...] = ()
        self._items: Dataset[Any] | None = None

    def setup(self, stage: str = 'fit') -> None:
        """Read the pictures and have them taught, once; FolderError, BackboneError, LabelError."""
        cv2.setNumThreads(0)
        if self._items is not None:
            return
        config = self.config
        sets = read_pictures(config, self.root)
        keeps = config.views > 0
        kept: list[list[Tensor]] = []
        features = torch.zeros(0)
        if keeps or config.labels == 'pseudo':
            teacher = frozen_teacher(config.teacher, max(config.strides), self.pretrained)
            kept = [KeptMaps(config, teacher).of(one) for one in sets]
            features = torch.cat([pooled_features([m[:, 0] for m in one]) for one in kept])
        origins = [(one.name, topic) for one in sets for topic in one.topics]
        self.labels, self.classes = class_numbers(
            config.labels, origins, features, config.pseudo_classes, config.seed
        )
        self._say()
        if keeps:
            self._items = KeptViews(kept, self.labels, config.contrasted)
        else:
            pixels = [pixels for one in sets for pixels in one.pixels]
            self._items = FreshViews(pixels, self.labels, config.contrasted)

    def _say(self) -> None:
        """Name a single class: without another one there is nothing to contrast with."""
        if self.config.contrasted and len(np.unique(self.labels)) < 2:
            print(
                f'ccl: all pictures are of one class ({self.classes[0]}): global and local '
                'contrast have no negatives and are left out; the run is its base alone',
                file=sys.stderr,
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Balanced batches; see task.Batch."""
        workers, config = self.config.workers, self.config
        if self._items is None:
            raise RuntimeError('setup comes first')
        draws = BalancedDraws(self.labels, config.batch_size, config.seed, config.balanced)
        return DataLoader(
            self._items,
            batch_size=draws.batch,
            sampler=draws,
            collate_fn=batch_of,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
