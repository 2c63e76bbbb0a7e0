"""Fronts of houses, drawn flat at `TEXELS` a metre."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from . import textures
from .canvas import Texture
from .textures import Colour

TEXELS = 40
DEPTH = 9.0
"""Metres from the front of a house to its back."""

_BRICK = ((142, 84, 62), (158, 104, 76), (120, 74, 58), (176, 148, 106), (168, 128, 92))
_PLASTER = (
    (214, 206, 190),
    (226, 222, 214),
    (206, 182, 142),
    (188, 196, 196),
    (210, 168, 140),
    (176, 184, 164),
    (222, 204, 160),
)
_STONE = ((170, 160, 140), (152, 146, 134), (188, 178, 156))
_CONCRETE = ((158, 158, 156), (136, 140, 144), (180, 178, 172))
_TRIM = ((232, 230, 224), (214, 208, 196), (70, 72, 74), (240, 238, 232))
_DOORS = ((34, 58, 44), (96, 28, 30), (30, 40, 70), (60, 44, 32), (24, 24, 26))
_SHOPS = ((24, 70, 52), (110, 24, 30), (24, 38, 86), (206, 158, 40), (34, 34, 38), (196, 92, 30))
_ROOFS = ((112, 66, 52), (86, 84, 88), (124, 78, 58), (70, 68, 72))


@dataclass(frozen=True)
class House:
    """A front with its `width` and `height` in metres, and what else is seen of the house.

    `slope` is the height of the roof over the front in metres, 0 for a flat one, `end` the wall
    across the street's direction, `wall` its colour.
    """

    front: Texture
    end: Texture
    roof: Texture
    width: float
    height: float
    slope: float
    wall: np.ndarray
    chimney: bool


def random_house(rng: np.random.Generator, dusk: bool) -> House:
    """A house by chance: terraced, shop, flats or office."""
    style = rng.choice(('terrace', 'shop', 'flats', 'office'), p=(0.34, 0.3, 0.2, 0.16))
    storeys = int(rng.integers(*{'terrace': (2, 4), 'shop': (2, 5)}.get(style, (3, 7))))
    storey = rng.uniform(2.8, 3.3)
    width = float(rng.uniform(*{'terrace': (6, 11), 'shop': (7, 13)}.get(style, (11, 19))))
    height = storeys * storey + (0.9 if style == 'shop' else 0.5)
    painter = _Front(rng, width, height, storeys, style, dusk)
    slope = float(rng.uniform(1.8, 3.4)) if style == 'terrace' or rng.random() < 0.4 else 0.0
    if style == 'office':
        slope = 0.0
    roof = textures.roof_tiles(rng, (96, 256), _pick(rng, _ROOFS))
    return House(
        front=Texture(painter.draw()),
        end=Texture(painter.end_wall()),
        roof=Texture(roof),
        width=width,
        height=height,
        slope=slope,
        wall=np.array(painter.colour, float) * 0.92,
        chimney=bool(slope and rng.random() < 0.8),
    )


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    red, green, blue = np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.86, 1.1)
    return float(red), float(green), float(blue)


class _Front:
    """Draws one front; positions in metres from its top left corner."""

    def __init__(
        self,
        rng: np.random.Generator,
        width: float,
        height: float,
        storeys: int,
        style: str,
        dusk: bool,
    ) -> None:
        self.rng = rng
        self.width, self.height, self.storeys, self.style = width, height, storeys, style
        self.dusk = dusk
        self.shape = (int(height * TEXELS), int(width * TEXELS))
        self.trim = _pick(rng, _TRIM)
        self.wall, self.colour = self._wall()
        self.storey = (height - (0.9 if style == 'shop' else 0.5)) / storeys

    def draw(self) -> np.ndarray:
        """The front, uint8 [h,w,3]."""
        top = 0.9 if self.style == 'shop' else 0.5
        if self.style == 'office' and self.rng.random() < 0.6:
            self._bands(top)
        else:
            self._windows(top)
        if self.style == 'shop':
            self._shop()
        elif self.style != 'office':
            self._entrance()
        else:
            self._lobby()
        self._cornice()
        self._weathering()
        return self.wall

    def end_wall(self) -> np.ndarray:
        """The wall round the corner, uint8 [h,w,3]: plain, damp below, rarely with a window."""
        self.width, self.shape = DEPTH, (self.shape[0], int(DEPTH * TEXELS))
        self.wall = self._make(self.rng, self.shape, self.colour)
        if self.rng.random() < 0.5:
            for floor in range(1, self.storeys):
                x, y = self.rng.uniform(2, DEPTH - 3), self.height - (floor + 0.8) * self.storey
                self.window(x, y, 0.9, 1.2, (1, 2))
        self._weathering()
        return self.wall

    def _wall(self) -> tuple[np.ndarray, Colour]:
        make, colours = [
            (textures.bricks, _BRICK),
            (textures.plaster, _PLASTER),
            (textures.stone, _STONE),
            (textures.plaster, _CONCRETE),
        ][int(self.rng.choice(4, p=_WALLS[self.style]))]
        colour = _pick(self.rng, colours)
        self._make = make
        return make(self.rng, self.shape, colour), colour

    def box(self, x: float, y: float, w: float, h: float, colour: Colour) -> None:
        """Fill a rectangle."""
        left, top = round(x * TEXELS), round(y * TEXELS)
        right, bottom = round((x + w) * TEXELS), round((y + h) * TEXELS)
        self.wall[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = np.clip(
            colour, 0, 255
        )

    def darken(self, x: float, y: float, w: float, h: float, factor: float) -> None:
        """Multiply a rectangle, for shadows and dirt."""
        left, top = max(0, round(x * TEXELS)), max(0, round(y * TEXELS))
        part = self.wall[top : round((y + h) * TEXELS), left : round((x + w) * TEXELS)]
        part[:] = (part * factor).clip(0, 255).astype(np.uint8)

    def glass(self, x: float, y: float, w: float, h: float) -> None:
        """A pane: dark inside, sky mirrored, perhaps curtains, perhaps a light on."""
        left, top = round(x * TEXELS), round(y * TEXELS)
        pane = self.wall[top : round((y + h) * TEXELS), left : round((x + w) * TEXELS)]
        if not pane.size:
            return
        rows = np.linspace(1, 0, pane.shape[0])[:, None, None]
        tone = self.rng.uniform(0.7, 1.3)
        look = np.array((34, 40, 46)) * tone + rows * np.array((70, 84, 98)) * tone
        if self.dusk and self.rng.random() < 0.22:
            look = np.array((255, 214, 140)) * (0.75 + 0.25 * rows)
        elif self.rng.random() < 0.35:
            look = look * 0.55 + np.array((120, 116, 108)) * 0.45
        pane[:] = np.broadcast_to(look, pane.shape).clip(0, 255)
        slant = np.add.outer(np.arange(pane.shape[0]), np.arange(pane.shape[1])) % 97 < 22
        pane[slant] = np.minimum(pane[slant].astype(int) + 16, 255)

    def window(self, x: float, y: float, w: float, h: float, bars: tuple[int, int]) -> None:
        """A window with reveal, frame, bars, lintel and sill."""
        self.box(x - 0.09, y - 0.2, w + 0.18, 0.2, tuple(np.array(self.colour) * 0.82 + 30))
        self.box(x - 0.03, y - 0.03, w + 0.06, h + 0.06, tuple(np.array(self.colour) * 0.4))
        self.box(x, y, w, h, self.trim)
        across, down = bars
        pane_w, pane_h = (w - 0.06) / across, (h - 0.06) / down
        for i in range(across):
            for j in range(down):
                self.glass(
                    x + 0.05 + i * pane_w, y + 0.05 + j * pane_h, pane_w - 0.04, pane_h - 0.04
                )
        self.darken(x, y, w, 0.12, 0.6)
        self.box(x - 0.1, y + h, w + 0.2, 0.09, tuple(np.array(self.trim) * 0.95))
        self.darken(x - 0.1, y + h + 0.09, w + 0.2, 0.1, 0.72)

    def _windows(self, top: float) -> None:
        columns = max(2, int(self.width / self.rng.uniform(2.3, 3.2)))
        pitch = self.width / columns
        w = pitch * self.rng.uniform(0.38, 0.55)
        h = self.storey * self.rng.uniform(0.5, 0.62)
        bars = (int(self.rng.integers(1, 3)), int(self.rng.integers(1, 4)))
        upper = self.storeys if self.style == 'terrace' else self.storeys - 1
        for floor in range(upper):
            for column in range(columns):
                x = column * pitch + (pitch - w) / 2
                self.window(x, top + floor * self.storey + self.storey * 0.22, w, h, bars)
        if self.rng.random() < 0.5:
            for floor in range(1, self.storeys):
                self.box(0, top + floor * self.storey - 0.1, self.width, 0.14, self.trim)
                self.darken(0, top + floor * self.storey + 0.04, self.width, 0.08, 0.75)

    def _bands(self, top: float) -> None:
        for floor in range(self.storeys - 1):
            y = top + floor * self.storey + self.storey * 0.25
            self.box(0, y - 0.05, self.width, self.storey * 0.6 + 0.1, (52, 56, 60))
            panes = int(self.width / 1.5)
            for i in range(panes):
                w = self.width / panes
                self.glass(i * w + 0.04, y, w - 0.08, self.storey * 0.6)

    def _entrance(self) -> None:
        ground = self.height - self.storey
        x = self.rng.uniform(0.12, 0.7) * self.width
        self.box(x - 0.15, ground + 0.35, 1.3, self.storey - 0.35, self.trim)
        self.box(x, ground + 0.75, 1.0, self.storey - 0.75, _pick(self.rng, _DOORS))
        self.glass(x + 0.1, ground + 0.45, 0.8, 0.26)
        self.darken(x + 0.14, ground + 1.0, 0.72, 0.6, 0.8)
        self.darken(x + 0.14, ground + 1.8, 0.72, 0.6, 0.8)
        self.darken(x, ground + 0.75, 1.0, 0.1, 0.6)
        if self.style == 'flats':
            for place in np.arange(0.06, 0.9, 0.2) * self.width:
                if not x - 1.8 < place < x + 1.4:
                    self.window(place, ground + 0.7, 1.4, self.storey * 0.45, (2, 1))

    def _lobby(self) -> None:
        ground = self.height - self.storey
        self.box(0, ground, self.width, self.storey, (58, 60, 62))
        panes = max(2, int(self.width / 2.2))
        for i in range(panes):
            w = self.width / panes
            self.glass(i * w + 0.08, ground + 0.3, w - 0.16, self.storey - 0.5)

    def _shop(self) -> None:
        ground = self.height - self.storey
        colour = _pick(self.rng, _SHOPS)
        self.box(0.1, ground, self.width - 0.2, self.storey, tuple(np.array(colour) * 0.75))
        self.box(0.1, ground + 0.05, self.width - 0.2, 0.7, colour)
        self._lettering(0.6, ground + 0.18, self.width - 1.2, 0.44)
        door = self.rng.uniform(0.3, 0.6) * self.width
        self.glass(0.4, ground + 0.95, door - 0.8, self.storey - 1.5)
        self.glass(door + 1.3, ground + 0.95, self.width - door - 1.7, self.storey - 1.5)
        self._goods(0.5, ground + 0.95, door - 1.0)
        self._goods(door + 1.4, ground + 0.95, self.width - door - 1.9)
        self.box(door - 0.1, ground + 0.85, 1.2, self.storey - 0.85, (30, 30, 32))
        self.glass(door + 0.1, ground + 1.0, 0.8, self.storey - 1.3)
        if self.rng.random() < 0.45:
            self._awning(ground)
        else:
            self.darken(0.1, ground + 0.75, self.width - 0.2, 0.2, 0.6)

    def _goods(self, x: float, y: float, w: float) -> None:
        bottom = y + self.storey - 1.55
        for place in np.arange(x, x + w - 0.5, 0.55):
            h = self.rng.uniform(0.2, 0.9)
            tone = self.rng.uniform(50, 190, 3)
            self.box(place, bottom - h, 0.4, h, (float(tone[0]), float(tone[1]), float(tone[2])))

    def _lettering(self, x: float, y: float, w: float, h: float) -> None:
        letters = ''.join(chr(65 + i) for i in self.rng.integers(0, 26, self.rng.integers(4, 9)))
        (width, height), _ = cv2.getTextSize(letters, cv2.FONT_HERSHEY_DUPLEX, 1.0, 2)
        scale = min(h * TEXELS / height, w * TEXELS / width)
        left = round((x + w / 2) * TEXELS - width * scale / 2)
        cv2.putText(
            self.wall,
            letters,
            (left, round((y + h) * TEXELS)),
            cv2.FONT_HERSHEY_DUPLEX,
            scale,
            (236, 232, 216),
            max(1, round(2 * scale)),
            cv2.LINE_AA,
        )

    def _awning(self, ground: float) -> None:
        colour = _pick(self.rng, _SHOPS)
        for i, x in enumerate(np.arange(0.2, self.width - 0.3, 0.35)):
            self.box(x, ground + 0.75, 0.35, 0.55, colour if i % 2 else (232, 228, 218))
        self.darken(0.2, ground + 1.2, self.width - 0.4, 0.12, 0.8)
        self.darken(0.1, ground + 1.3, self.width - 0.2, 0.9, 0.62)

    def _cornice(self) -> None:
        self.box(0, 0, self.width, 0.22, tuple(np.array(self.trim) * 0.94))
        self.darken(0, 0.22, self.width, 0.16, 0.6)
        if self.style == 'terrace':
            self.box(self.width - 0.16, 0.2, 0.1, self.height, (46, 46, 48))
        self.darken(0, 0, 0.05, self.height, 0.7)
        self.darken(self.width - 0.05, 0, 0.05, self.height, 0.7)

    def _weathering(self) -> None:
        rows = np.linspace(0, self.height, self.shape[0])[:, None]
        damp = 1 - 0.28 * np.exp(-(self.height - rows) / 0.35)
        dirt = 1 + 0.05 * textures.fractal(self.rng, self.shape, 200)
        self.wall = (self.wall * (damp * dirt)[..., None]).clip(0, 255).astype(np.uint8)


_WALLS = {
    'terrace': (0.6, 0.28, 0.12, 0.0),
    'shop': (0.4, 0.4, 0.2, 0.0),
    'flats': (0.35, 0.35, 0.15, 0.15),
    'office': (0.2, 0.1, 0.3, 0.4),
}
