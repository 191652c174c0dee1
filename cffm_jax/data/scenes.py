"""Worlds of the built-in data: a ground plane under a sky, with things on it, filmed by a camera on a tripod.

A world is drawn once per video (the backdrop as one canvas, each thing as a sprite); a frame is a few affine warps of
it. Every position is a function of the frame's index alone, so frames can be rendered in any order and number.

Lengths are in units of H/96 pixels, times in frames. ``v`` is the depth on the ground plane as seen in the image: 0 at
the horizon, 1 at the canvas's lower edge. Canvas: Hc x Wc, larger than the frame by ``MARGIN`` on each side.
"""

from __future__ import annotations

import colorsys
import dataclasses
import math
from collections.abc import Callable

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.classes import SYNTHETIC, synthetic_names

UNLABELLED = 0
"""Value in a mask file of a thing that belongs to no class."""

MARGIN = 0.25
"""Share of the frame's size that the canvas adds on each side."""


@dataclasses.dataclass(frozen=True)
class Look:
    """How a class appears: colour (HSV, 0..1), pattern, and the pattern's contrast (0..1)."""

    hue: float
    saturation: float
    value: float
    pattern: str
    contrast: float


# Sky and water, tree and grass, animal and rock, building and box are near in colour: place, outline and motion tell
# them apart.
LOOKS = {
    "grass": Look(0.24, 0.62, 0.66, "blades", 0.35),
    "sky": Look(0.58, 0.42, 0.90, "clouds", 0.30),
    "vehicle": Look(0.99, 0.80, 0.80, "plain", 0.15),
    "building": Look(0.08, 0.30, 0.72, "bricks", 0.25),
    "tree": Look(0.33, 0.62, 0.42, "leaves", 0.60),
    "road": Look(0.70, 0.06, 0.46, "grain", 0.25),
    "animal": Look(0.07, 0.62, 0.46, "spots", 0.55),
    "ball": Look(0.85, 0.75, 0.92, "stripes", 0.60),
    "water": Look(0.54, 0.55, 0.72, "waves", 0.35),
    "rock": Look(0.09, 0.32, 0.50, "spots", 0.40),
    "box": Look(0.10, 0.62, 0.70, "planks", 0.35),
    "mountain": Look(0.68, 0.25, 0.58, "grain", 0.35),
}
PATTERNS = ("blades", "spots", "stripes", "planks", "leaves", "bricks", "waves", "grain", "checks")


@dataclasses.dataclass(frozen=True)
class Thing:
    """A sprite and its path.

    images: the phases of its gait, u8[h,w,4], colour premultiplied by alpha; the feet are on the lower edge.
    label: value in the mask.  scale: frame pixels per sprite pixel at v = 1.  x: canvas pixels at time 0.
    speed: pixels a frame at v = 1.  sway: how far it wanders in v.  hop: height of its bounces in units at v = 1.
    """

    images: tuple[np.ndarray, ...]
    label: int
    scale: float
    x: float
    v: float
    speed: float = 0.0
    sway: float = 0.0
    hop: float = 0.0
    phase: float = 0.0

    def depth(self, time: float) -> float:
        return self.v + self.sway * math.sin(time / 14 + self.phase)


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: tuple[float, float], octaves: int = 3) -> np.ndarray:
    """Smooth noise f32[h,w] in 0..1, of cells that many pixels high and wide, each octave half the size and weight."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        rows = max(2, math.ceil(height / max(1.0, cell[0] / 2**octave)))
        columns = max(2, math.ceil(width / max(1.0, cell[1] / 2**octave)))
        grid = rng.random((rows, columns), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    low, high = np.percentile(total, (1, 99))
    return np.clip((total - low) / max(high - low, 1e-6), 0, 1)


def pattern(rng: np.random.Generator, name: str, shape: tuple[int, int], unit: float) -> np.ndarray:
    """Brightness f32[h,w] in 0..1 of a pattern, whose cells grow with the unit."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / unit
    fine = noise(rng, shape, (1.5 * unit, 1.5 * unit), 2)
    match name:
        case "plain":
            return fine
        case "clouds":
            return np.clip(noise(rng, shape, (14 * unit, 34 * unit), 4) * 2.2 - 0.9, 0, 1)
        case "blades":
            tufts = noise(rng, shape, (9 * unit, 12 * unit), 2)
            return 0.5 * noise(rng, shape, (5 * unit, 1.3 * unit), 2) + 0.5 * tufts
        case "leaves":
            return np.clip((noise(rng, shape, (5 * unit, 5 * unit), 3) - 0.5) * 2.5 + 0.5, 0, 1)
        case "grain":
            return 0.6 * fine + 0.4 * noise(rng, shape, (16 * unit, 24 * unit), 2)
        case "spots":
            return 0.8 * (noise(rng, shape, (7 * unit, 7 * unit), 2) > 0.45) + 0.2 * fine
        case "waves":
            return noise(rng, shape, (2.2 * unit, 13 * unit), 2)
        case "stripes":
            return 0.9 * (np.sin((x + 0.6 * y) * 1.1) > 0) + 0.1 * fine
        case "planks":
            return 0.7 * (y % 4 > 0.9) + 0.3 * noise(rng, shape, (1.5 * unit, 12 * unit), 2)
        case "bricks":
            mortar = (y % 3 < 0.7) | ((x + 3 * (y // 3 % 2)) % 6 < 0.7)
            return 0.8 * ~mortar + 0.2 * fine
        case "checks":
            return 0.9 * ((x // 4 + y // 4) % 2) + 0.1 * fine
    raise ValueError(f"no pattern {name!r}")


def look_of(index: int, name: str) -> Look:
    """The look of a class: a named one's from the table, a further one's from its index."""
    if index < len(SYNTHETIC):
        return LOOKS[name]
    further = index - len(SYNTHETIC)
    # The golden ratio keeps hues apart however many there are; brightness alternates to tell neighbours apart.
    return Look(
        hue=(0.42 + 0.618034 * further) % 1,
        saturation=0.45 + 0.4 * (further * 0.414 % 1),
        value=0.45 + 0.5 * (further * 0.732 % 1),
        pattern=PATTERNS[further % len(PATTERNS)],
        contrast=0.5,
    )


def texture(rng: np.random.Generator, look: Look, shape: tuple[int, int], unit: float) -> np.ndarray:
    """A tile f32[h,w,3] (RGB, 0..255) of the look, its colour varied a little, as between videos."""
    hue = (look.hue + rng.uniform(-0.025, 0.025)) % 1
    saturation = min(1.0, look.saturation * rng.uniform(0.85, 1.15))
    value = min(1.0, look.value * rng.uniform(0.88, 1.12))
    light = np.array(colorsys.hsv_to_rgb(hue, saturation * (1 - 0.6 * look.contrast), min(1, value * 1.12)))
    dark = np.array(colorsys.hsv_to_rgb((hue + 0.02) % 1, saturation, value * (1 - look.contrast)))
    field = pattern(rng, look.pattern, shape, unit)[..., None]
    return (255 * (dark + (light - dark) * field)).astype(np.float32)


class Painter:
    """A sprite in the making, w x h output pixels, painted at twice that for smooth edges; x and y run over -1..1."""

    def __init__(self, height: float, width: float):
        shape = (2 * max(4, round(height)), 2 * max(4, round(width)))
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        self.x, self.y = (2 * x + 1) / shape[1] - 1, (2 * y + 1) / shape[0] - 1
        self.aspect = shape[1] / shape[0]
        self.colour = np.zeros((*shape, 3), np.float32)
        self.alpha = np.zeros(shape, bool)

    def box(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        return (self.x >= left) & (self.x <= right) & (self.y >= top) & (self.y <= bottom)

    def disc(self, x: float, y: float, rx: float, ry: float) -> np.ndarray:
        return ((self.x - x) / rx) ** 2 + ((self.y - y) / ry) ** 2 <= 1

    def fill(
        self, where: np.ndarray, colour: np.ndarray | tuple[int, int, int], shade: np.ndarray | float = 1.0
    ) -> None:
        """Paints a region with a colour or with a tile (larger than the sprite), times the shade (number or [h,w])."""
        height, width = self.alpha.shape
        if np.ndim(colour) == 3:
            colour = cv2.resize(np.ascontiguousarray(colour[: height // 2, : width // 2]), (width, height))
        paint = np.asarray(colour, np.float32) * np.asarray(shade, np.float32)[..., None]
        self.colour[where] = np.broadcast_to(paint, self.colour.shape)[where]
        self.alpha |= where

    def image(self) -> np.ndarray:
        """u8[h,w,4], colour premultiplied by alpha, with a transparent border for smooth edges after a warp."""
        rgba = np.dstack([np.where(self.alpha[..., None], self.colour, 0), self.alpha * np.float32(255)])
        half = cv2.resize(rgba, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        half = cv2.copyMakeBorder(half, 1, 0, 1, 1, cv2.BORDER_CONSTANT, value=0)
        return np.clip(half, 0, 255).astype(np.uint8)


def draw_vehicle(rng: np.random.Generator, tile: np.ndarray, size: float) -> tuple[np.ndarray, ...]:
    """A bus or a car from the side, heading right; the window band and wheels belong to it."""
    tall = bool(rng.random() < 0.35)
    art = Painter(size * (0.46 if tall else 0.36), size)
    gloss = 1.1 - 0.3 * art.y
    cabin = (art.y >= -0.95) & (art.y <= 0.1) & (np.abs(art.x + 0.1) < 0.35 + 0.2 * (art.y + 0.95))
    hull = art.box(-0.95, -0.95, 0.95, 0.7) if tall else cabin | (art.disc(0, 0.25, 0.98, 0.55) & (art.y < 0.7))
    art.fill(hull, tile, gloss)
    panes = (np.abs((art.x + 0.1) % 0.45 - 0.22) < 0.17) & (art.y > -0.7) & (art.y < -0.1)
    art.fill(panes & (hull & (np.abs(art.x) < 0.9) if tall else cabin), (52, 66, 88), 1.3 + 0.5 * art.y)
    art.fill(art.box(0.85, 0.1, 0.95, 0.3) & hull, (255, 240, 180))
    radius = 0.15
    for x in (-0.58, 0.58):
        art.fill(art.disc(x, 0.62, radius, radius * art.aspect), (28, 28, 32))
        art.fill(art.disc(x, 0.62, radius / 2, radius / 2 * art.aspect), (150, 150, 155))
    return (art.image(),)


def draw_animal(rng: np.random.Generator, tile: np.ndarray, size: float) -> tuple[np.ndarray, ...]:
    """Four phases of a walking animal, heading right."""
    neck = rng.uniform(-0.6, -0.25)
    images = []
    for stride in (0.0, 0.12, 0.0, -0.12):
        art = Painter(size * 0.68, size)
        light = 1.05 - 0.3 * art.y
        for hip, sign in ((-0.5, 1), (-0.36, -1), (0.34, 1), (0.48, -1)):
            foot = hip + sign * stride * np.clip(art.y - 0.1, 0, 1) * 1.5
            art.fill((np.abs(art.x - foot) < 0.06) & (art.y > 0) & (art.y < 0.98), tile, 0.75 if sign < 0 else 0.95)
        art.fill(art.disc(0, 0, 0.66, 0.42), tile, light)
        tail = (np.abs(art.y - 0.05 + (art.x + 0.6) * 1.5) < 0.12) & (art.x < -0.55) & (art.x > -0.85)
        art.fill(tail, tile, 0.9)
        throat = (np.abs(art.x - 0.58 + 0.25 * art.y) < 0.14) & (art.y > neck) & (art.y < 0.1)
        art.fill(throat, tile, light)
        art.fill(art.disc(0.74, neck, 0.22, 0.2), tile, light)
        art.fill(art.disc(0.62, neck - 0.22, 0.05, 0.12), tile, 0.7)
        art.fill(art.disc(0.78, neck - 0.04, 0.03, 0.03 * art.aspect), (15, 15, 15))
        images.append(art.image())
    return tuple(images)


def draw_ball(rng: np.random.Generator, tile: np.ndarray, size: float) -> tuple[np.ndarray, ...]:
    """Four turns of a ball."""
    art = Painter(size, size)
    images = []
    for turn in range(4):
        art.fill(art.disc(0, 0, 0.97, 0.97), np.rot90(tile, turn), 1.15 - 0.3 * art.y - 0.2 * art.x)
        images.append(art.image())
    return tuple(images)


def draw_rock(rng: np.random.Generator, tile: np.ndarray, size: float) -> tuple[np.ndarray, ...]:
    """A boulder of random outline."""
    art = Painter(size * rng.uniform(0.6, 0.85), size)
    angle = np.arctan2(art.y, art.x)
    bumps = sum(rng.uniform(0, 0.1) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 5))
    art.fill(np.hypot(art.x, art.y) < 0.82 + bumps, tile, 1.0 - 0.35 * art.y - 0.15 * art.x)
    return (art.image(),)


def draw_box(rng: np.random.Generator, tile: np.ndarray, size: float) -> tuple[np.ndarray, ...]:
    """A crate, seen a little from above."""
    art = Painter(size * rng.uniform(0.75, 1.1), size)
    back = art.x - 0.66
    art.fill((np.abs(art.x + (art.y + 0.5) / 1.5) < 0.68) & (art.y < -0.5) & (art.y > -0.95), tile, 1.25)
    art.fill((back > -0.06) & (back < 0.32) & (art.y < 0.95 - back) & (art.y > -0.5 - 1.2 * back), tile, 0.6)
    art.fill(art.box(-0.68, -0.5, 0.66, 0.97), tile)
    art.fill(art.box(-0.1, -0.5, 0.08, 0.97), tile, 0.55)
    return (art.image(),)


def draw_building(rng: np.random.Generator, tile: np.ndarray, size: float) -> tuple[np.ndarray, ...]:
    """A house front with rows of windows, under a flat or a gabled roof."""
    ratio = rng.uniform(0.6, 1.9)
    art = Painter(size, size * ratio)
    gable = bool(rng.random() < 0.5)
    top = -0.55 if gable else -0.97
    art.fill(art.box(-0.9, top, 0.9, 1), tile, 1.0 - 0.12 * art.x)
    if gable:
        art.fill((art.y < top) & (np.abs(art.x) < 0.98 * (art.y + 1) / (top + 1)), tile * np.float32([0.75, 0.5, 0.5]))
    rows, columns = max(2, round(3 * (1 - top) / 1.5)), max(2, round(3 * ratio))
    across, down = (art.x + 0.9) / 1.8 * columns % 1, (art.y - top) / (1 - top) * rows % 1
    panes = (np.abs(across - 0.5) < 0.24) & (np.abs(down - 0.5) < 0.27) & art.box(-0.9, top, 0.9, 1)
    art.fill(panes, (78, 92, 112), 1.2 - 0.4 * down)
    art.fill(panes & (np.abs(across - 0.5) < 0.03), (225, 220, 210))
    return (art.image(),)


def draw_tree(rng: np.random.Generator, tile: np.ndarray, size: float) -> tuple[np.ndarray, ...]:
    """A conifer or a broad-leaved tree."""
    art = Painter(size, size * 0.72)
    trunk = (np.abs(art.x) < 0.07 + 0.05 * (art.y > 0.85)) & (art.y > 0)
    art.fill(trunk, (92, 68, 48), 1 - 0.3 * np.sign(art.x))
    if rng.random() < 0.35:
        ragged = 0.28 + 0.3 * ((art.y + 1) % 0.4)
        crown = (np.abs(art.x) < (art.y + 1) * 0.55 * (0.6 + ragged)) & (art.y < 0.65)
    else:
        crown = art.disc(0, -0.3, 0.55, 0.45)
        for turn in np.linspace(0, 2 * math.pi, 8, endpoint=False):
            radius = rng.uniform(0.24, 0.38)
            crown |= art.disc(0.55 * math.cos(turn), -0.3 + 0.38 * math.sin(turn), radius, radius * 0.8)
    art.fill(crown, tile, 1.0 - 0.18 * art.x - 0.3 * art.y)
    return (art.image(),)


def draw_pole(rng: np.random.Generator, tile: np.ndarray, size: float) -> tuple[np.ndarray, ...]:
    """A lamp post or a sign: thin clutter without a class."""
    art = Painter(size, size * 0.3)
    art.fill(np.abs(art.x) < 0.16, (120, 124, 128), 1 - art.x)
    art.fill(art.box(-0.9, -0.98, 0.9, -0.86) if rng.random() < 0.5 else art.disc(0, -0.85, 0.8, 0.14), (190, 188, 170))
    return (art.image(),)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How things of a kind appear in a video: how often, how many, how large (units, at v = 1), where, how fast."""

    draw: Callable[[np.random.Generator, np.ndarray, float], tuple[np.ndarray, ...]]
    chance: float
    count: tuple[int, int]
    size: tuple[float, float]
    v: tuple[float, float]
    speed: float = 0.0
    sway: float = 0.0
    hop: float = 0.0


KINDS = {
    "building": Kind(draw_building, 0.85, (2, 4), (75, 130), (0.02, 0.12)),
    "tree": Kind(draw_tree, 0.95, (3, 6), (75, 120), (0.04, 0.42)),
    "vehicle": Kind(draw_vehicle, 0.85, (1, 3), (58, 76), (0.2, 0.7), speed=1.5, sway=0.04),
    "animal": Kind(draw_animal, 0.7, (1, 2), (46, 64), (0.25, 0.75), speed=0.8, sway=0.08),
    "ball": Kind(draw_ball, 0.7, (1, 2), (16, 25), (0.4, 0.8), speed=0.9, sway=0.1, hop=9.0),
    "rock": Kind(draw_rock, 0.6, (1, 3), (20, 34), (0.2, 0.8)),
    "box": Kind(draw_box, 0.5, (1, 2), (20, 32), (0.2, 0.8)),
}
FURTHER = 7
"""How many of the classes beyond the named ones a video shows at most."""


class World:
    """One video's world.

    Args:
      rng: everything random in it.
      height, width: of a frame, in pixels.
      num_classes: K; class k has the value k + 1 in a mask.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int, num_classes: int):
        self.height, self.width, self.unit = height, width, height / 96
        self.canvas = (round(height * (1 + 2 * MARGIN)), round(width * (1 + 2 * MARGIN)))
        self._dashes: np.ndarray | None = None
        self.horizon = round(self.canvas[0] * rng.uniform(0.38, 0.5))
        self.tint = rng.uniform(0.9, 1.1, 3).astype(np.float32) * np.float32(rng.uniform(0.92, 1.15))
        self.path = rng.uniform(0, 2 * math.pi, 8)
        self.tiles: dict[int, np.ndarray] = {}
        """Mask value -> tile f32[h,w,3] of each class in this world."""
        names = synthetic_names(num_classes)
        present = list(range(min(num_classes, len(SYNTHETIC))))
        further = np.arange(len(SYNTHETIC), num_classes)
        if len(further):
            weight = 1 / np.arange(1, len(further) + 1) ** 0.7
            shown = rng.choice(further, min(FURTHER, len(further)), replace=False, p=weight / weight.sum())
            present += sorted(shown.tolist())
        self.values = {names[k]: k + 1 for k in present}
        # Enough for the canvas and for the largest sprite.
        shape = (max(self.canvas[0], round(180 * self.unit)), max(self.canvas[1], round(200 * self.unit)))
        for name, value in self.values.items():
            self.tiles[value] = texture(rng, look_of(value - 1, name), shape, self.unit) * self.tint
        self._draw_backdrop(rng)
        self._place_things(rng)

    def _draw_backdrop(self, rng: np.random.Generator) -> None:
        """Sky, mountains and the ground plane with its fields, waters and road: colours and labels of the canvas."""
        rows, columns = self.canvas
        y, x = np.mgrid[:rows, :columns].astype(np.float32)
        labels = np.full(self.canvas, self.values["grass"], np.uint8)
        v = np.clip((y - self.horizon) / (rows - self.horizon), 0, 1)
        z = 1 / (v + 0.12)
        # The plane's coordinates, in canvas heights.
        across = (x - columns / 2) / rows * z
        flat_x, flat_y = (across + 3) * 0.4 * columns, z * 0.35 * rows
        for name, value in self.values.items():
            if (name == "water" and rng.random() < 0.65) or name.startswith("field"):
                relief = noise(rng, (rows, columns), (0.5 * rows, 0.45 * columns), 2)
                there = cv2.remap(relief, flat_x * 0.5, flat_y * 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
                labels[there > rng.uniform(0.62, 0.72)] = value
        if "road" in self.values and rng.random() < 0.85:
            labels[self._road(rng, across, z)] = self.values["road"]
        ridge = self.horizon - (noise(rng, (1, columns), (1, columns / 5), 4)[0] * 20 + 3) * self.unit
        labels[y < self.horizon] = self.values["sky"]
        if "mountain" in self.values and rng.random() < 0.7:
            labels[(y < self.horizon) & (y > ridge)] = self.values["mountain"]

        colours = np.zeros((*self.canvas, 3), np.float32)
        for value in np.unique(labels):
            tile = self.tiles[int(value)]
            if value not in (self.values["sky"], self.values.get("mountain")):
                lying = cv2.remap(tile, flat_x, flat_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
                # Far away, the pattern is finer than a pixel: only its mean is seen.
                sharp = np.clip(v * 3, 0.15, 1)[..., None]
                tile = tile.mean((0, 1)) * (1 - sharp) + lying * sharp
            colours = np.where((labels == value)[..., None], tile[:rows, :columns], colours)
        if self._dashes is not None:
            colours[self._dashes & (labels == self.values["road"])] = 215
        haze = np.clip(1 - np.abs(y - self.horizon) / (0.35 * rows), 0, 1)[..., None] * 0.35
        self.haze = self.tiles[self.values["sky"]].mean((0, 1)) * 1.06
        colours = colours * (1 - haze) + self.haze * haze
        # One step of smoothing where regions meet, as a lens does; labels stay sharp.
        self.colours = cv2.GaussianBlur(np.clip(colours, 0, 255).astype(np.uint8), (3, 3), 0.6)
        self.labels = labels

    def _road(self, rng: np.random.Generator, across: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Region bool[Hc,Wc] of the road, along or across the view, and the dashes of its middle line."""
        if rng.random() < 0.4:
            middle, bend = rng.uniform(-0.5, 0.5), rng.uniform(-0.06, 0.06)
            offset, half, run = across - middle - bend * z**1.5, rng.uniform(0.16, 0.24), z * 2.2
        else:
            middle = rng.uniform(1.5, 2.2)
            offset, half, run = z - middle - 0.08 * across, 0.27 * middle, across * 2.2
        self._dashes = (np.abs(offset) < half * 0.06) & (run % 1 < 0.5)
        return np.abs(offset) < half

    def _place_things(self, rng: np.random.Generator) -> None:
        """Draws the sprites and gives each its path."""
        self.things: list[Thing] = []
        for name, value in self.values.items():
            kind = KINDS.get(name.split()[0])
            if kind is None or rng.random() > kind.chance:
                continue
            for _ in range(rng.integers(*kind.count, endpoint=True)):
                self._place(rng, kind, value)
        post = Kind(draw_pole, 1.0, (1, 3), (46, 70), (0.15, 0.6))
        for _ in range(rng.integers(*post.count, endpoint=True)):
            self._place(rng, post, UNLABELLED)
        # A soft round shadow, stretched under each thing.
        y, x = np.mgrid[-1:1:32j, -1:1:32j].astype(np.float32)
        self.shadow = np.clip(1.2 * (1 - np.hypot(x, y)), 0, 1) * 0.55

    def _place(self, rng: np.random.Generator, kind: Kind, value: int) -> None:
        v = rng.uniform(*kind.v)
        size = rng.uniform(*kind.size) * self.unit
        # Sprites are drawn half again as large as they first appear: the camera zooms in and things come nearer.
        drawn = 1.5 * size * perspective(v)
        images = kind.draw(rng, self.tiles.get(value, self.tiles[self.values["grass"]]), drawn)
        direction = rng.choice((-1.0, 1.0))
        if direction < 0:
            images = tuple(np.ascontiguousarray(image[:, ::-1]) for image in images)
        self.things.append(
            Thing(
                images=images,
                label=value,
                scale=size / drawn,
                x=rng.uniform(0.12, 0.88) * self.canvas[1],
                v=v,
                speed=direction * kind.speed * self.unit * rng.uniform(0.5, 1.0),
                sway=kind.sway,
                hop=kind.hop * self.unit,
                phase=rng.uniform(0, 2 * math.pi),
            )
        )

    def camera(self, time: float) -> np.ndarray:
        """Canvas -> frame, f64[2,3]: a slow pan and tilt, zoom, roll, and a little shake; bounded at all times."""
        p, u = self.path, self.unit
        pan = 17 * u * math.sin(time / 26 + p[0]) + 0.35 * u * math.sin(time * 2.1 + p[1])
        tilt = 7 * u * math.sin(time / 31 + p[2]) + 0.35 * u * math.sin(time * 2.7 + p[3])
        zoom = 1.08 + 0.08 * math.sin(time / 22 + p[4])
        roll = math.radians(1.6) * math.sin(time / 19 + p[5])
        a, b = zoom * math.cos(roll), zoom * math.sin(roll)
        x, y = self.canvas[1] / 2 + pan, self.canvas[0] / 2 + tilt
        return np.array([[a, -b, self.width / 2 - a * x + b * y], [b, a, self.height / 2 - b * x - a * y]])

    def render(self, time: int) -> tuple[np.ndarray, np.ndarray]:
        """The frame at a time, undamaged.

        Returns:
          colours u8[H,W,3] (RGB) and values u8[H,W] of the mask: k + 1, ``UNLABELLED``, or ``IGNORED_LABEL`` on the
          outlines of things.
        """
        view, size = self.camera(time), (self.width, self.height)
        colours = cv2.warpAffine(self.colours, view, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        labels = cv2.warpAffine(self.labels, view, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
        for thing in sorted(self.things, key=lambda thing: thing.depth(time)):
            self._paint(colours, labels, thing, view, time)
        return colours, labels

    def _paint(self, colours: np.ndarray, labels: np.ndarray, thing: Thing, view: np.ndarray, time: int) -> None:
        """Paints a thing and its shadow over the frame, in place."""
        v = thing.depth(time)
        image = thing.images[time // 3 % len(thing.images)]
        scale = thing.scale * perspective(v)
        height, width = image.shape[0] * scale, image.shape[1] * scale
        # Things that leave on one side come back on the other, out of sight.
        reach = self.canvas[1] + 2 * width
        x = (thing.x + width + thing.speed * perspective(v) * time) % reach - width
        y = self.horizon + v * (self.canvas[0] - self.horizon)
        hop = thing.hop * perspective(v) * abs(math.sin(time / 5 + thing.phase))

        soft = np.array([[width * 1.3 / 32, 0, x - 0.55 * width], [0, width * 0.3 / 32, y - 0.15 * width]])
        region, shade = warped(self.shadow, compose(view, soft), labels.shape)
        if region is not None:
            colours[region] = (colours[region] * (1 - shade[..., None])).astype(np.uint8)
        pose = np.array([[scale, 0, x - width / 2], [0, scale, y - height - hop]])
        region, shape = warped(image, compose(view, pose), labels.shape)
        if region is None:
            return
        cover = shape[..., 3:].astype(np.float32) / 255
        # Distance takes contrast: as much as on the ground that the thing stands on.
        haze = max(0.0, 0.3 - 0.9 * v)
        painted = shape[..., :3] * (1 - haze) + self.haze * haze * cover
        colours[region] = np.clip(painted + colours[region] * (1 - cover), 0, 255).astype(np.uint8)
        cover = cover[..., 0]
        labels[region] = np.where(cover > 0.75, thing.label, np.where(cover > 0.3, IGNORED_LABEL, labels[region]))


def perspective(v: float) -> float:
    """How large a thing at depth v appears, relative to v = 1."""
    return 0.22 + 0.78 * v


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """outer o inner of two affine maps f64[2,3]."""
    return outer @ np.vstack([inner, [0, 0, 1]])


def warped(
    image: np.ndarray, transform: np.ndarray, shape: tuple[int, int]
) -> tuple[tuple[slice, slice] | None, np.ndarray]:
    """An image warped into a frame, cut to the part of the frame that it reaches.

    Returns:
      the part as (rows, columns) or None when it misses the frame, and the image there (0 outside it).
    """
    height, width = image.shape[:2]
    corners = transform @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    low = np.maximum(np.floor(corners.min(1)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(corners.max(1)).astype(int) + 2, shape[::-1])
    if (high <= low).any():
        return None, image
    moved = transform.copy()
    moved[:, 2] -= low
    part = cv2.warpAffine(image, moved, tuple(int(side) for side in high - low), flags=cv2.INTER_LINEAR)
    return (slice(low[1], high[1]), slice(low[0], high[0])), part
