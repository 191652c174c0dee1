"""Looks of the built-in data's classes: textures, and sprites painted with them."""

from __future__ import annotations

import colorsys
import dataclasses
import math

import cv2
import numpy as np

from cffm_jax.data.class_names import SYNTHETIC


@dataclasses.dataclass(frozen=True)
class Look:
    """Appearance of a class: colour (HSV, 0..1), pattern, and the pattern's contrast (0..1)."""

    hue: float
    saturation: float
    value: float
    pattern: str
    contrast: float


# Sky and water, tree and grass, animal and rock, building and box are near in colour: place,
# outline and motion tell them apart.
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


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: tuple[float, float], octaves: int = 3) -> np.ndarray:
    """Smooth noise f32[h,w] in 0..1; cells are in pixels, each octave half the size and weight."""
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
    # The golden ratio keeps hues apart however many there are; brightness alternates to tell
    # neighbours apart.
    return Look(
        hue=(0.42 + 0.618034 * further) % 1,
        saturation=0.45 + 0.4 * (further * 0.414 % 1),
        value=0.45 + 0.5 * (further * 0.732 % 1),
        pattern=PATTERNS[further % len(PATTERNS)],
        contrast=0.5,
    )


def texture(rng: np.random.Generator, look: Look, shape: tuple[int, int], unit: float) -> np.ndarray:
    """A tile f32[h,w,3] (RGB, 0..255) of the look, its colour varied as between videos."""
    hue = (look.hue + rng.uniform(-0.025, 0.025)) % 1
    saturation = min(1.0, look.saturation * rng.uniform(0.85, 1.15))
    value = min(1.0, look.value * rng.uniform(0.88, 1.12))
    light = np.array(colorsys.hsv_to_rgb(hue, saturation * (1 - 0.6 * look.contrast), min(1, value * 1.12)))
    dark = np.array(colorsys.hsv_to_rgb((hue + 0.02) % 1, saturation, value * (1 - look.contrast)))
    field = pattern(rng, look.pattern, shape, unit)[..., None]
    return (255 * (dark + (light - dark) * field)).astype(np.float32)


class Painter:
    """A sprite of w x h pixels, painted at twice that for smooth edges; x and y run over -1..1."""

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
        """Paints a region with a colour or a tile (larger than the sprite), times the shade."""
        height, width = self.alpha.shape
        if isinstance(colour, np.ndarray) and colour.ndim == 3:
            colour = cv2.resize(np.ascontiguousarray(colour[: height // 2, : width // 2]), (width, height))
        paint = np.asarray(colour, np.float32) * np.asarray(shade, np.float32)[..., None]
        self.colour[where] = np.broadcast_to(paint, self.colour.shape)[where]
        self.alpha |= where

    def image(self) -> np.ndarray:
        """u8[h,w,4], premultiplied by alpha, with a transparent border for smooth warped edges."""
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
        art.fill(
            (art.y < top) & (np.abs(art.x) < 0.98 * (art.y + 1) / (top + 1)),
            tile * np.array((0.75, 0.5, 0.5), np.float32),
        )
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
