"""Outlier data: cut-outs of things that no class describes, pasted into street pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

PASTED = 254  # the label of an object that was pasted in

Image = NDArray[Any]  # uint8; OpenCV's annotations are wider than that
Alpha = NDArray[Any]  # float32 in [0, 1]


class OutlierError(ValueError):
    """Outlier data that cannot be read."""


@dataclass(frozen=True)
class CutOut:
    """One object: `pixels` uint8 [h, w, 3] RGB, `alpha` float32 [h, w] in [0, 1]."""

    name: str
    pixels: Image
    alpha: Alpha
    label: int = PASTED  # what the pixels that it covers become

    @property
    def category(self) -> str:
        """What it shows, from its name."""
        return category_of(self.name)


def category_of(name: str) -> str:
    """The name of a file without its number: 'hot_dog_0012' -> 'hot_dog'."""
    return name.rsplit('_', 1)[0]


def read_cut_outs(folder: Path, exclude: frozenset[str] = frozenset()) -> list[CutOut]:
    """Every RGBA PNG of `folder` and its subfolders by path, without the categories in `exclude`.

    Raises OutlierError when the folder holds none, or a file is no picture with an alpha channel,
    or nothing of it is opaque.
    """
    cut_outs = []
    for path in sorted(folder.rglob('*.png')):
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None or picture.ndim != 3 or picture.shape[2] != 4:
            raise OutlierError(f'{path}: not a PNG with an alpha channel; remove it or export RGBA')
        alpha = picture[:, :, 3].astype(np.float32) / 255.0
        if not (alpha > 0.5).any():
            raise OutlierError(f'{path}: no pixel of it is opaque; remove it or export it again')
        pixels = grown(np.ascontiguousarray(picture[:, :, 2::-1]), alpha)
        cut_out = CutOut(path.stem, pixels, alpha)
        if cut_out.category not in exclude:
            cut_outs.append(cut_out)
    if not cut_outs:
        raise OutlierError(f'{folder}: no cut-outs (RGBA *.png) found; check the path of the data')
    return cut_outs


def grown(pixels: Image, alpha: Alpha) -> Image:
    """The object's own colours carried on beyond its outline, uint8 [h, w, 3].

    Files keep black there; resized or blurred with it an object gets a dark rim, by which a network
    learns to know what was pasted. Means of what is inside, over wider windows farther outside.
    """
    result, left = pixels.astype(np.float32), alpha < 0.9
    inside = np.where(left, np.float32(0.0), alpha)
    for deviation in (1.0, 4.0, 16.0, 64.0):
        weight = cv2.GaussianBlur(inside, (0, 0), deviation)
        mean = cv2.GaussianBlur(pixels * inside[..., None], (0, 0), deviation)
        known = left & (weight > 0.02)
        result[known] = mean[known] / weight[known][:, None]
        left = left & ~known
    return np.clip(result, 0, 255).astype(np.uint8)


def held_out_categories(folder: Path, share: float, seed: int = 0) -> frozenset[str]:
    """Categories of cut-outs that a training must not paste, so that others can be judged on them.

    share: of all categories of `folder`, 0..1; the choice is random by `seed` and the same for
    everybody who asks.
    """
    names = sorted({category_of(path.stem) for path in folder.rglob('*.png')})
    order = np.random.default_rng(seed).permutation(len(names))
    return frozenset(names[index] for index in order[: round(share * len(names))])


def texture(rng: np.random.Generator, side: int = 96) -> CutOut:
    """A blob of coarse noise: an object of no category, uint8 [side, side, 3] with its alpha.

    Colours are noise of two scales, random in strength and in how far they differ from grey; the
    outline is where smooth noise, pulled down towards the border, exceeds its median.
    """
    coarse, fine = (_noise(rng, side, int(rng.integers(2, 24)), 3) for _ in range(2))
    pattern = coarse + fine * rng.uniform(0.0, 1.0)
    grey = pattern.mean(axis=2, keepdims=True)
    pattern = grey + (pattern - grey) * rng.uniform(0.0, 1.5)
    pixels = np.clip(rng.uniform(30, 225, 3) + pattern * rng.uniform(5, 70), 0, 255)
    axis = np.linspace(-1.0, 1.0, side, dtype=np.float32)
    distance = np.hypot(axis[:, None], axis[None, :])
    height = 0.5 * _noise(rng, side, int(rng.integers(3, 8)), 1)[..., 0] - 2.0 * distance
    inside = distance < 0.95
    alpha = ((height > np.median(height[inside])) & inside).astype(np.float32)
    return CutOut('texture_0', pixels.astype(np.uint8), alpha)


def _noise(rng: np.random.Generator, side: int, cells: int, channels: int) -> Alpha:
    """Normal noise on cells x cells points, interpolated to float32 [side, side, channels]."""
    grid = rng.normal(size=(cells, cells, channels)).astype(np.float32)
    large = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return large.reshape(side, side, channels)


@dataclass
class Paster:
    """Pastes cut-outs into pictures; heights are log-uniform between two shares of the picture."""

    cut_outs: list[CutOut]
    most: int = 3
    heights: tuple[float, float] = (0.035, 0.5)
    relight: float = 0.0  # objects take up to this share of the light of their surroundings
    translucent: float = 0.0  # share of objects that the picture shines through
    textures: float = 0.0  # share of objects that are blobs of noise instead
    colour: float = 0.0  # strength of the change of an object's colours and light
    tilt: float = 25.0  # degrees by which half of the objects are turned at most
    enlarge: float = float('inf')  # objects grow to at most so many times their own height
    _jpeg: tuple[int, int] = field(default=(50, 95), repr=False)

    def paste(
        self, image: Image, labels: Image, rng: np.random.Generator, enlarged: float = 1.0
    ) -> None:
        """Paste 0 to `most` objects into `image` (uint8 RGB [H, W, 3]), in place.

        `labels` (integer [H, W]) become those of the objects where they cover more than half of
        the picture. `enlarged`: how many times the picture was enlarged before; beyond 1, most
        objects are blurred about as much as it was, lest sharpness alone tells them from it.
        """
        for _ in range(rng.integers(0, self.most + 1)):
            cut_out = self.cut_outs[rng.integers(len(self.cut_outs))]
            if self.textures and rng.random() < self.textures:
                cut_out = texture(rng)
            self._paste_one(image, labels, cut_out, rng, enlarged)

    def _paste_one(
        self,
        image: Image,
        labels: Image,
        cut_out: CutOut,
        rng: np.random.Generator,
        enlarged: float,
    ) -> None:
        pixels, alpha = self._transformed(cut_out, image.shape[0], rng)
        if enlarged > 1.0 and rng.random() < 0.7:
            # Linear interpolation blurs by a triangle of this deviation; a lens by more.
            blur = enlarged / np.sqrt(6.0) * float(rng.uniform(0.5, 1.5))
            both = _with_rim(pixels, alpha, blur)
            pixels, alpha = (cv2.GaussianBlur(one, (0, 0), blur) for one in both)
        height, width = alpha.shape
        # An object may stand half outside of the picture, as real ones do.
        top = int(rng.integers(-height // 4, max(image.shape[0] - height * 3 // 4, 1)))
        left = int(rng.integers(-width // 4, max(image.shape[1] - width * 3 // 4, 1)))
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + height, image.shape[0]), min(left + width, image.shape[1])
        if y1 <= y0 or x1 <= x0:
            return
        inner = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        outer = (slice(y0, y1), slice(x0, x1))
        picture = image[outer].astype(np.float32)
        object_ = _relit(pixels[inner], picture, alpha[inner], self.relight, rng)
        weight = alpha[inner][..., None]
        image[outer] = np.clip(picture + (object_ - picture) * weight, 0, 255).astype(np.uint8)
        labels[outer][alpha[inner] > 0.5] = cut_out.label

    def _transformed(
        self, cut_out: CutOut, picture_height: int, rng: np.random.Generator
    ) -> tuple[Alpha, Alpha]:
        """The object at a random size, side and tilt, with a soft edge and its own JPEG traces."""
        low, high = (np.log(share * picture_height) for share in self.heights)
        height = float(np.exp(rng.uniform(low, high)))
        height = min(height, self.enlarge * cut_out.alpha.shape[0])
        stretch = float(np.exp(rng.normal(0.0, 0.15)))
        scale = height / cut_out.alpha.shape[0]
        size = (max(int(cut_out.alpha.shape[1] * scale * stretch), 3), max(int(height), 3))
        smaller = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(cut_out.pixels, size, interpolation=smaller)
        alpha = cv2.resize(cut_out.alpha, size, interpolation=smaller)
        if rng.random() < 0.5:
            pixels, alpha = pixels[:, ::-1].copy(), alpha[:, ::-1].copy()
        if rng.random() < 0.5:
            pixels, alpha = _rotated(pixels, alpha, float(rng.uniform(-self.tilt, self.tilt)))
        if self.colour:
            pixels = _recoloured(pixels, self.colour, rng)
        blur = float(rng.uniform(0.3, 1.3))
        solid = 1 - 0.3 * float(rng.random() < self.translucent)
        if rng.random() < 0.5:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*self._jpeg))]
            encoded = cv2.imencode('.jpg', pixels, quality)[1]
            pixels = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
        pixels, alpha = _with_rim(pixels.astype(np.float32), alpha, blur)
        return pixels, cv2.GaussianBlur(alpha, (0, 0), blur) * solid


def _with_rim(pixels: Alpha, alpha: Alpha, blur: float) -> tuple[Alpha, Alpha]:
    """Room for a blur of this deviation: an outline that touches its box would be cut off sharp."""
    rim = math.ceil(2.5 * blur)
    return (
        cv2.copyMakeBorder(pixels, rim, rim, rim, rim, cv2.BORDER_REPLICATE),
        cv2.copyMakeBorder(alpha, rim, rim, rim, rim, cv2.BORDER_CONSTANT, value=0.0),
    )


def _recoloured(pixels: Image, strength: float, rng: np.random.Generator) -> Image:
    """Half of the objects: another gamma and saturation; a quarter of these another hue."""
    if rng.random() < 0.5:
        return pixels
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV).astype(np.float32)
    if rng.random() < 0.25:
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(0, 180)) % 180
    hsv[..., 1] *= np.exp(rng.normal(0.0, 0.5 * strength))
    gamma = np.exp(rng.normal(0.0, 0.3 * strength))
    hsv[..., 2] = 255.0 * (hsv[..., 2] / 255.0) ** gamma
    return np.asarray(
        cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8
    )


def _rotated(pixels: Image, alpha: Alpha, degrees: float) -> tuple[Image, Alpha]:
    height, width = alpha.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    cosine, sine = abs(turn[0, 0]), abs(turn[0, 1])
    size = (int(height * sine + width * cosine) + 1, int(height * cosine + width * sine) + 1)
    turn[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return (
        cv2.warpAffine(pixels, turn, size, borderMode=cv2.BORDER_REPLICATE),
        cv2.warpAffine(alpha, turn, size),
    )


def _relit(
    pixels: Alpha,
    picture: Alpha,
    alpha: Alpha,
    most: float,
    rng: np.random.Generator,
) -> Alpha:
    """The object's light drawn towards that of its surroundings, by up to `most` of the way."""
    solid = alpha > 0.5
    if not solid.any():
        return pixels
    share = float(rng.uniform(0.0, most))
    own, around = pixels[solid], picture.reshape(-1, 3)
    gain = (around.std(axis=0) + 8.0) / (own.std(axis=0) + 8.0)
    gain = np.clip(1 + share * (gain - 1), 0.4, 2.0)
    mean = own.mean(axis=0) + share * (around.mean(axis=0) - own.mean(axis=0)) * 0.7
    light = float(rng.normal(0.0, 12.0))
    return (pixels - own.mean(axis=0)) * gain + mean + light
