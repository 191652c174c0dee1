"""Worlds of the built-in data: a ground plane under a sky, with things, filmed from a tripod.

A world is drawn once per video: the backdrop as one canvas, each thing as a sprite. A frame is a
few affine warps of it, placed by its index alone: frames can be rendered in any order.

Lengths are in H/96 pixels, times in frames. ``v`` is depth on the ground as seen in the image: 0 at
the horizon, 1 at the canvas's lower edge. The canvas Hc x Wc has ``MARGIN`` more on each side.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.class_names import SYNTHETIC, synthetic_names
from cffm_jax.data.synthetic import sprites

UNLABELLED = 0
"""Value in a mask file of a thing that belongs to no class."""

MARGIN = 0.25
"""Share of the frame's size that the canvas adds on each side."""


@dataclasses.dataclass(frozen=True)
class Thing:
    """A sprite and its path.

    images: phases of its gait, u8[h,w,4], premultiplied by alpha; the feet are on the lower edge.
    label: mask value. scale: frame pixels per sprite pixel at v = 1. x: canvas pixel at time 0.
    speed: pixels a frame, and hop: height in units, both at v = 1. sway: how far it wanders in v.
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


@dataclasses.dataclass(frozen=True)
class Kind:
    """Things of a kind: how often, how many, how large (units at v = 1), where, how fast."""

    draw: Callable[[np.random.Generator, np.ndarray, float], tuple[np.ndarray, ...]]
    chance: float
    count: tuple[int, int]
    size: tuple[float, float]
    v: tuple[float, float]
    speed: float = 0.0
    sway: float = 0.0
    hop: float = 0.0


KINDS = {
    "building": Kind(sprites.draw_building, 0.85, (2, 4), (75, 130), (0.02, 0.12)),
    "tree": Kind(sprites.draw_tree, 0.95, (3, 6), (75, 120), (0.04, 0.42)),
    "vehicle": Kind(sprites.draw_vehicle, 0.85, (1, 3), (58, 76), (0.2, 0.7), speed=1.5, sway=0.04),
    "animal": Kind(sprites.draw_animal, 0.7, (1, 2), (46, 64), (0.25, 0.75), speed=0.8, sway=0.08),
    "ball": Kind(sprites.draw_ball, 0.7, (1, 2), (16, 25), (0.4, 0.8), speed=0.9, sway=0.1, hop=9.0),
    "rock": Kind(sprites.draw_rock, 0.6, (1, 3), (20, 34), (0.2, 0.8)),
    "box": Kind(sprites.draw_box, 0.5, (1, 2), (20, 32), (0.2, 0.8)),
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
            self.tiles[value] = sprites.texture(rng, sprites.look_of(value - 1, name), shape, self.unit) * self.tint
        self._draw_backdrop(rng)
        self._place_things(rng)

    def _draw_backdrop(self, rng: np.random.Generator) -> None:
        """Draws colours and labels of the canvas: sky, mountains, ground, fields, waters, road."""
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
                relief = sprites.noise(rng, (rows, columns), (0.5 * rows, 0.45 * columns), 2)
                there = cv2.remap(relief, flat_x * 0.5, flat_y * 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
                labels[there > rng.uniform(0.62, 0.72)] = value
        if "road" in self.values and rng.random() < 0.85:
            labels[self._road(rng, across, z)] = self.values["road"]
        ridge = self.horizon - (sprites.noise(rng, (1, columns), (1, columns / 5), 4)[0] * 20 + 3) * self.unit
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
        """Region bool[Hc,Wc] of the road, along or across the view; sets its middle dashes."""
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
        post = Kind(sprites.draw_pole, 1.0, (1, 3), (46, 70), (0.15, 0.6))
        for _ in range(rng.integers(*post.count, endpoint=True)):
            self._place(rng, post, UNLABELLED)
        # A soft round shadow, stretched under each thing.
        y, x = np.mgrid[-1:1:32j, -1:1:32j].astype(np.float32)
        self.shadow = np.clip(1.2 * (1 - np.hypot(x, y)), 0, 1) * 0.55

    def _place(self, rng: np.random.Generator, kind: Kind, value: int) -> None:
        v = rng.uniform(*kind.v)
        size = rng.uniform(*kind.size) * self.unit
        # Sprites are drawn half again as large as they first appear: the camera zooms in and things
        # come nearer.
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
        """Canvas -> frame, f64[2,3]: slow pan and tilt, zoom, roll, a little shake; bounded."""
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
          RGB u8[H,W,3]; mask u8[H,W]: k + 1, ``UNLABELLED``, on things' outlines ``IGNORED_LABEL``.
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
      the part (rows, columns), None when it misses the frame, and the image there (0 outside it).
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
