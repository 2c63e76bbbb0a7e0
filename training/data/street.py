"""Street pictures with class labels as random training crops."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from training.data.folders import (
    FolderError,
    LabelledImage,
    SegmentationFolder,
    check_same_size,
    class_table,
    id_table,
    load_class_ids,
    load_image,
)
from training.data.layouts import read_segmentation_set
from training.data.outliers import Paster

Image = NDArray[Any]  # uint8; OpenCV's annotations are wider than that

GROUPED = 200  # label GROUPED + g: one of the classes of the g-th entry of COARSE

# The classes of the SegNet copy of CamVid, in the order of its label ids.
CAMVID_CLASSES = (
    'sky', 'building', 'pole', 'road', 'pavement', 'tree',
    'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
)  # fmt: skip
# Colours (RGB) of classes by name, after CamVid's and Cityscapes' habits.
COLOURS = {
    'sky': (128, 180, 230), 'building': (128, 64, 64), 'pole': (192, 192, 128),
    'road': (128, 64, 128), 'pavement': (244, 35, 232), 'tree': (64, 140, 40),
    'sign': (220, 220, 0), 'fence': (190, 153, 153), 'car': (0, 0, 142),
    'pedestrian': (220, 20, 60), 'bicyclist': (119, 11, 32),
    'sidewalk': (244, 35, 232), 'wall': (102, 102, 156), 'traffic light': (250, 170, 30),
    'traffic sign': (220, 220, 0), 'vegetation': (107, 142, 35), 'terrain': (152, 251, 152),
    'person': (220, 20, 60), 'rider': (255, 0, 0), 'truck': (0, 0, 70), 'bus': (0, 60, 100),
    'train': (0, 80, 100), 'motorcycle': (0, 0, 230), 'bicycle': (119, 11, 32),
}  # fmt: skip


def palette_of(classes: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """RGB colour of each class: that of its name, or a hue of its position for other names."""
    return tuple(
        COLOURS.get(name) or _hue(index / max(len(classes), 1))
        for index, name in enumerate(classes)
    )


def _hue(turn: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(turn, 0.6, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


# Coarser classes of other data sets, as the sets of the classes above that they may be. Those of
# IDD after its label hierarchy (Varma et al. 2019); what CamVid would call a thing is our choice.
# Sets may share a class: IDD calls a near facade a roadside object (as walls and hoardings) and a
# distant one far.
COARSE: dict[str, tuple[str, ...]] = {
    'drivable': ('road',),
    'non-drivable': ('pavement',),
    'living things': ('pedestrian', 'bicyclist'),
    'vehicles': ('car',),
    'roadside objects': ('pole', 'sign', 'fence', 'building'),
    'far objects': ('building', 'tree'),
}
# The coarse class of what is in two sets, when a prediction has to be one.
MAINLY = {'building': 'far objects'}


def class_sets(classes: Sequence[str]) -> NDArray[np.bool_]:
    """Which classes each entry of COARSE may be: bool [len(COARSE), len(classes)]."""
    return np.array([[name in members for name in classes] for members in COARSE.values()])


@dataclass(frozen=True, eq=False)
class Example:
    """A picture, uint8 RGB [H, W, 3], and labels, uint8 [H, W]: class ids, GROUPED + g or VOID."""

    image: Image
    labels: Image

    def load(self) -> Example:
        """Itself: it is in memory already."""
        return self


@dataclass(frozen=True, eq=False)
class StoredExample:
    """A picture that stays on disk: its files and the table [256] that its label ids go through."""

    files: LabelledImage
    table: NDArray[np.int16]

    def load(self) -> Example:
        """Read both files; FolderError where one is unreadable or they do not fit."""
        pixels = load_image(self.files.image)
        labels = load_class_ids(self.files.label, self.table)
        check_same_size(self.files.image, pixels, self.files.label, labels)
        return Example(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), labels.astype(np.uint8))


def read_street(root: Path, classes: Sequence[str]) -> Iterator[StoredExample]:
    """Yield the pictures of one split of a segmentation folder, in natural order of their names.

    Labels become positions in `classes`, or GROUPED + g where the folder has coarser classes; what
    is none of them becomes VOID. Raises FolderError for a folder, picture or label that is missing,
    and for another list of classes.
    """
    folder = read_segmentation_set(root)
    table = _label_table(folder, classes)
    for sample in folder.samples:
        yield StoredExample(sample, table)


def _label_table(folder: SegmentationFolder, classes: Sequence[str]) -> NDArray[np.int16]:
    """Table [256] from label id to class, GROUPED + g, VOID, or -1 for what is no label.

    A coarse class that stands for a single one becomes that one.
    """
    listed = folder.classes
    if listed is None:
        return class_table(None, classes, folder.root)
    coarse = list(COARSE)
    known = {name: index for index, name in enumerate(classes)}
    known.update(
        {
            name: known[members[0]] if len(members) == 1 else GROUPED + coarse.index(name)
            for name, members in COARSE.items()
            if set(members) <= set(classes)
        }
    )
    unknown = set(listed.names) - set(known)
    if unknown:
        raise FolderError(
            f'{folder.root}: its classes {", ".join(sorted(unknown))} are not those asked for '
            f'({", ".join(classes)}), nor sets of them; say in COARSE which they may be'
        )
    return id_table(listed, known)


@dataclass(frozen=True)
class Augmentation:
    """How a crop is taken: out of a picture that keeps its proportions at a random height."""

    crop: tuple[int, int] = (320, 480)
    heights: tuple[int, int] = (270, 792)  # of the picture in pixels, log-uniform
    stretch: tuple[float, float] = (0.95, 1.1)  # of its width, for other cameras' proportions
    colour: float = 1.0  # strength of the jitter of light and colour
    weather: float = 0.0  # share of crops with a shadow, half as many with haze, JPEG traces
    sharpen: float = 0.0  # most that enlarged pictures are sharpened: share of their fine detail
    match_blur: bool = False  # pasted objects are as blurred as the enlarged picture around them


class StreetCrops(Dataset[tuple[Image, NDArray[np.int64]]]):
    """Item n, deterministic in `seed`: a crop, uint8 RGB [h, w, 3], and labels int64 [h/4, w/4].

    The stream is endless: item n belongs to pass n // len(examples), which has its own order, so
    a run that was stopped goes on with the item that it would have had.
    """

    stride = 4

    def __init__(
        self,
        examples: Sequence[Example | StoredExample],
        augmentation: Augmentation,
        pasters: Sequence[Paster],
        seed: int,
    ) -> None:
        self.examples = examples
        self.augmentation = augmentation
        self.pasters = pasters
        self.seed = seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, item: int) -> tuple[Image, NDArray[np.int64]]:
        index, rng = drawn(item, len(self.examples), self.seed)
        example = self.examples[index].load()
        how = self.augmentation
        image, labels, enlarged = _random_crop(example, how, rng)
        for paster in self.pasters:
            paster.paste(image, labels, rng, enlarged if how.match_blur else 1.0)
        if how.sharpen and enlarged > 1.0 and rng.random() < 0.7:
            image = _sharpened(image, enlarged, rng.uniform(0.0, how.sharpen))
        if how.weather:
            image = _weather(image, how.weather, rng)
        image = _jitter(image, self.augmentation.colour, rng)
        offset = self.stride // 2
        coarse = labels[offset :: self.stride, offset :: self.stride]
        return image, coarse.astype(np.int64)


def drawn(item: int, length: int, seed: int) -> tuple[int, np.random.Generator]:
    """Which of `length` things item n of an endless stream is of, and what its chance comes from.

    Pass n // length has its own order; both depend on nothing but the arguments.
    """
    epoch, position = divmod(item, length)
    order = np.random.default_rng((seed, epoch)).permutation(length)
    return int(order[position]), np.random.default_rng((seed, epoch, position))


class PassSampler(Sampler[int]):
    """Numbers of one pass of StreetCrops; Lightning tells the pass through `set_epoch`.

    Each of `processes` gets its consecutive part of every batch, so that the batches of all
    together are those that one process alone would have.
    """

    def __init__(self, length: int, batch: int = 1, process: int = 0, processes: int = 1) -> None:
        if batch % processes:
            raise ValueError(
                f'batch_size {batch} cannot be shared by {processes} processes; use a multiple'
            )
        self.length = length
        self.batch = batch
        self.part = range(process * batch // processes, (process + 1) * batch // processes)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.batch * len(self.part)

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self.length
        batches = range(start, start + self.length // self.batch * self.batch, self.batch)
        return (first + offset for first in batches for offset in self.part)


def _random_crop(
    example: Example, how: Augmentation, rng: np.random.Generator
) -> tuple[Image, Image, float]:
    """Picture and labels of the crop, and how many times the picture was enlarged."""
    scale = np.exp(rng.uniform(*np.log(how.heights))) / example.image.shape[0]
    stretch = np.exp(rng.uniform(*np.log(how.stretch)))
    height = max(int(example.image.shape[0] * scale), how.crop[0])
    width = max(int(example.image.shape[1] * scale * stretch), how.crop[1])
    image = cv2.resize(example.image, (width, height), interpolation=cv2.INTER_LINEAR)
    labels = cv2.resize(example.labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    top = int(rng.integers(0, height - how.crop[0] + 1))
    left = int(rng.integers(0, width - how.crop[1] + 1))
    window = (slice(top, top + how.crop[0]), slice(left, left + how.crop[1]))
    image, labels = image[window], labels[window]
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    enlarged = height / example.image.shape[0]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels), enlarged


def _sharpened(image: Image, enlarged: float, amount: float) -> Image:
    """Unsharp mask of the width of the enlargement: a sharper camera than the one that took it."""
    soft = cv2.GaussianBlur(image, (0, 0), 0.6 * enlarged)
    return np.asarray(cv2.addWeighted(image, 1.0 + amount, soft, -amount, 0.0), np.uint8)


def _weather(image: Image, share: float, rng: np.random.Generator) -> Image:
    """A cast shadow with a soft edge, haze that thickens upwards, the traces of a JPEG."""
    height, width = image.shape[:2]
    if rng.random() < share:
        shadow = _foliage(rng, height, width) if rng.random() < 0.5 else _wall(rng, height, width)
        soft = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(0.5, 6.0)).astype(np.float32) / 255.0
        dark = rng.uniform(0.35, 0.8, 1) + rng.uniform(0.0, 0.08, 3) * (0, 0, 1)  # bluish
        image = (image * (1.0 - soft[..., None] * (1.0 - dark))).astype(np.uint8)
    if rng.random() < 0.5 * share:
        air = rng.uniform(140, 240, 1) + rng.normal(0.0, 6.0, 3)
        density = rng.uniform(0.0, 0.7) * np.linspace(1.0, 0.2, height)[:, None, None]
        image = np.clip(image * (1 - density) + air * density, 0, 255).astype(np.uint8)
    if rng.random() < 0.5 * share:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))]
        image = np.asarray(
            cv2.imdecode(cv2.imencode('.jpg', image, quality)[1], cv2.IMREAD_COLOR), np.uint8
        )
    return image


def _wall(rng: np.random.Generator, height: int, width: int) -> Image:
    """Where a polygon's shadow falls: 255 there, 0 elsewhere, uint8 [height, width]."""
    corners = rng.uniform(-0.3, 1.3, (int(rng.integers(3, 7)), 2)) * (width, height)
    shadow = np.zeros((height, width), np.uint8)
    cv2.fillPoly(shadow, [corners.astype(np.int32)], 255)
    return shadow


def _foliage(rng: np.random.Generator, height: int, width: int) -> Image:
    """The dappled shade of a tree, as `_wall`: wide patches from some row down."""
    rows = int(rng.integers(6, 50))
    coarse = rng.normal(size=(rows, max(rows // 2, 3))).astype(np.float32)
    clumps = cv2.resize(rng.normal(size=(3, 4)).astype(np.float32), (width, height))
    noise = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + clumps
    noise[: int(rng.uniform(0.2, 0.6) * height)] = -np.inf
    return np.asarray((noise > rng.uniform(-0.5, 1.0)) * np.uint8(255), np.uint8)


def _jitter(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Light, contrast, gamma, saturation and colour cast; sometimes blur and sensor noise."""
    levels = np.arange(256, dtype=np.float32) / 255.0
    gamma = np.exp(rng.normal(0.0, 0.25 * strength))
    contrast = np.exp(rng.normal(0.0, 0.25 * strength))
    light = rng.normal(0.0, 0.08 * strength)
    cast = 1.0 + rng.normal(0.0, 0.06 * strength, 3)
    # Contrast turns about the mean, lest dark pictures become black.
    middle = (float(image.mean()) / 255.0) ** gamma
    curve = (levels**gamma - middle) * contrast + middle + light
    table = np.clip(curve[:, None] * cast * 255.0, 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table.reshape(1, 256, 3))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    saturation = np.clip(1.0 + rng.normal(0.0, 0.3 * strength), 0.0, 2.0)
    image = cv2.addWeighted(image, saturation, np.repeat(grey, 3, axis=2), 1.0 - saturation, 0.0)
    if rng.random() < 0.25 * strength:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.3 * strength:
        noise = rng.normal(0.0, rng.uniform(1.0, 8.0), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image
