"""The roofline plot: operations/s of kernels over their operations per byte, both logarithmic, under a GPU's roofs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cffm_jax.drawing.sheets import PAPER
from cffm_jax.drawing.text import shortened

from .targets import Target

INK, PALE, GRID = (32, 33, 36), (110, 114, 120), (232, 234, 237)
COLOURS = {
    "bandwidth": (38, 110, 180),
    "products": (200, 80, 50),
    "elementwise": (120, 90, 170),
    "launch": (150, 155, 160),
}
"""Of dots, by what their kernels wait for."""
_WIDTH, _HEIGHT, _FINE = 760, 560, 3
"""A panel's size in pixels, and how many times as large it is drawn: Pillow's lines have hard edges."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 20, 64, 92
_TEXT = 13
_LARGEST = 26
"""Radius of the dot that would take all of the time."""
_LEAST = -2
"""Decade at which the operations per byte begin."""
_DECADES = 5
"""Of operations/s below the highest roof."""
_PREFIXES = {15: "P", 12: "T", 9: "G", 6: "M", 3: "k", 0: ""}


_Box = tuple[float, float, float, float]


class Dot(NamedTuple):
    """Kernels alike.

    Attributes:
      label: what they are.
      intensity: operations per byte.
      rate: operations/s.
      ms: all of them take, launches included.
      waits: for what, a key of ``COLOURS``.
    """

    label: str
    intensity: float
    rate: float
    ms: float
    waits: str


class Panel:
    """Draws with points of the finished panel's size, in pixels; text's places are anchored as Pillow does."""

    def __init__(self, width: int, height: int) -> None:
        self._size = width, height
        self.image = Image.new("RGB", (width * _FINE, height * _FINE), PAPER)
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        self._fonts = {size: ImageFont.load_default(size * _FINE) for size in (_TEXT - 2, _TEXT, _TEXT + 2)}

    def line(self, points: Sequence[tuple[float, float]], fill: tuple[int, ...], width: float = 1) -> None:
        self._draw.line([(x * _FINE, y * _FINE) for x, y in points], fill, round(width * _FINE))

    def circle(self, x: float, y: float, radius: float, fill: tuple[int, ...], outline: tuple[int, ...]) -> None:
        box = [(side * _FINE) for side in (x - radius, y - radius, x + radius, y + radius)]
        self._draw.ellipse(box, fill, outline, _FINE)

    def text(
        self, x: float, y: float, words: str, fill: tuple[int, ...], size: int = _TEXT, anchor: str = "lm",
        halo: bool = False,
    ) -> None:  # fmt: skip
        more = {"stroke_width": 2 * _FINE, "stroke_fill": PAPER} if halo else {}
        self._draw.text((x * _FINE, y * _FINE), words, fill, self._fonts[size], anchor, **more)

    def length(self, words: str, size: int = _TEXT) -> float:
        return self._fonts[size].getlength(words) / _FINE

    def shortened(self, words: str, room: float, size: int = _TEXT) -> str:
        return shortened(words, self._fonts[size], room * _FINE)

    def sideways(self, x: int, y: int, words: str, fill: tuple[int, ...]) -> None:
        """Text from below upwards, its middle at (x, y)."""
        box = self._fonts[_TEXT].getbbox(words)
        label = Image.new("RGB", (math.ceil(box[2]), math.ceil(box[3]) + _FINE), PAPER)
        ImageDraw.Draw(label).text((0, 0), words, fill, self._fonts[_TEXT])
        label = label.rotate(90, expand=True)
        self.image.paste(label, (x * _FINE - label.width // 2, y * _FINE - label.height // 2))

    def finished(self) -> np.ndarray:
        return np.asarray(self.image.resize(self._size, Image.Resampling.LANCZOS))


class _Axes:
    """Where values lie: decades from the least to the most, x to the right and y upwards."""

    def __init__(self, dots: Sequence[Dot], top: float, ridge: float):
        intensities = [dot.intensity for dot in dots] + [ridge * 4]
        self.x = _LEAST, math.ceil(math.log10(max(intensities)))
        self.y = math.floor(math.log10(top)) - _DECADES, math.log10(top * 4)

    def place(self, intensity: float, rate: float) -> tuple[float, float]:
        """In pixels. What lies beyond an axis's least is drawn on the edge."""
        intensity, rate = max(intensity, 10.0 ** self.x[0]), max(rate, 10.0 ** self.y[0])
        across = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(rate) - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)


def roofline_plot(target: Target, title: str, dots: Iterable[Dot], note: str = "", named: int = 7) -> np.ndarray:
    """A panel u8[H, W, 3] of one program.

    Args:
      target: whose measurable peaks are the roofs.
      title: above.
      dots: their areas are as their times.
      note: below.
      named: so many of the largest dots are labelled, where there is room.
    """
    dots = sorted(dots, key=lambda dot: -dot.ms)
    roofs = {"bfloat16": "bfloat16 products", "tf32": "TF32 products", "float32": "float32"}
    peaks = {words: target.product_peak(kind) for kind, words in roofs.items()}
    top = max(peaks.values())
    axes, panel = _Axes(dots, top, top / target.bandwidth_peak), Panel(_WIDTH, _HEIGHT)
    _draw_axes(panel, axes)
    taken = _draw_roofs(panel, axes, target.bandwidth_peak, peaks)
    total = sum(dot.ms for dot in dots) or 1
    places = [(*axes.place(dot.intensity, dot.rate), max(2.5, _LARGEST * math.sqrt(dot.ms / total))) for dot in dots]
    for dot, (x, y, radius) in zip(dots, places):
        panel.circle(x, y, radius, (*COLOURS[dot.waits], 110), (*COLOURS[dot.waits], 255))
    _name(panel, dots[:named], places, taken)
    panel.text(_LEFT, 18, title, INK, _TEXT + 2)
    panel.text(_LEFT, 38, f"Prediction for {target.title}, not a measurement", PALE)
    _legend(panel, dots, _HEIGHT - 34)
    panel.text(_LEFT, _HEIGHT - 14, note, PALE, _TEXT - 2)
    return panel.finished()


def _draw_axes(panel: Panel, axes: _Axes) -> None:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for power in range(axes.x[0], axes.x[1] + 1):
        x, _ = axes.place(10.0**power, 1)
        panel.line([(x, _TOP), (x, bottom)], GRID)
        panel.text(x, bottom + 6, f"{10.0**power:g}", PALE, _TEXT - 2, "ma")
    for power in range(axes.y[0], math.floor(axes.y[1]) + 1):
        _, y = axes.place(1, 10.0**power)
        panel.line([(_LEFT, y), (right, y)], GRID)
        panel.text(_LEFT - 6, y, f"{10 ** (power % 3)}{_PREFIXES[power - power % 3]}", PALE, _TEXT - 2, "rm")
    panel.text((_LEFT + right) / 2, bottom + 22, "operations per byte", PALE, anchor="ma")
    panel.sideways(18, (_TOP + bottom) // 2, "operations/s", PALE)


def _draw_roofs(panel: Panel, axes: _Axes, bandwidth: float, peaks: dict[str, float]) -> list[_Box]:
    """Returns where their names stand."""
    taken: list[_Box] = []

    def name(x: float, y: float, words: str) -> None:
        width = panel.length(words, _TEXT - 2)
        taken.append((x - width, y - 7, x, y + 7))
        panel.text(x, y, words, INK, _TEXT - 2, "rm")

    (least, most), top = axes.x, max(peaks.values())
    for words, peak in peaks.items():
        panel.line([axes.place(peak / bandwidth, peak), axes.place(10.0**most, peak)], INK, 1.3)
        x, y = axes.place(10.0**most, peak)
        name(x - 4, y - 9 if peak == top else y + 9, f"{words} {peak / 1e12:.0f} T/s")
    start = max(10.0**least, 10.0 ** axes.y[0] / bandwidth)
    panel.line([axes.place(start, bandwidth * start), axes.place(top / bandwidth, top)], INK, 1.3)
    middle = start**0.2 * (top / bandwidth) ** 0.8
    x, y = axes.place(middle, bandwidth * middle)
    name(x - 14, y - 14, f"memory {bandwidth / 1e12:.2f} TB/s")
    return taken


def _name(panel: Panel, dots: Sequence[Dot], places: Sequence[tuple[float, float, float]], taken: list[_Box]) -> None:
    """Labels, each beside its dot at the first place where it meets no other words and does not leave the panel."""
    for dot, (x, y, radius) in zip(dots, places):
        words = f"{panel.shortened(dot.label, 270, _TEXT - 2)}, {dot.ms:.3g} ms"
        width, height = panel.length(words, _TEXT - 2), _TEXT + 2
        for shift, right in itertools.product(range(16, 160, 16), (True, False)):
            # To the right below and to the left above, where the memory's roof is not.
            start, middle = (x + radius + 8, y + shift) if right else (x - radius - 8 - width, y - shift)
            box = (start, middle - height / 2, start + width, middle + height / 2)
            inside = box[0] > _LEFT and box[2] < _WIDTH - 4 and _TOP < box[1] and box[3] < _HEIGHT - _BOTTOM
            if inside and not any(_meet(box, other) for other in taken):
                panel.line([(x, y), (start - 3 if right else box[2] + 3, middle)], (*PALE, 200), 0.7)
                panel.text(start, middle, words, INK, _TEXT - 2, halo=True)
                taken.append(box)
                break


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _legend(panel: Panel, dots: Sequence[Dot], y: float) -> None:
    total, x = sum(dot.ms for dot in dots) or 1, float(_LEFT)
    for waits, colour in COLOURS.items():
        share = sum(dot.ms for dot in dots if dot.waits == waits) / total
        words = f"waits for {waits}: {100 * share:.0f} % of the time"
        panel.circle(x + 5, y, 5, (*colour, 110), (*colour, 255))
        panel.text(x + 14, y, words.replace(" of the time", ""), INK, _TEXT - 2)
        x += 34 + panel.length(words.replace(" of the time", ""), _TEXT - 2)


def in_rows(panels: Sequence[np.ndarray], across: int = 2) -> np.ndarray:
    """Panels beside and below each other, on paper."""
    across = min(across, len(panels))
    blank = np.full_like(panels[0], PAPER[0])
    filled = [*panels, *[blank] * (-len(panels) % across)]
    return np.concatenate([np.concatenate(filled[i : i + across], axis=1) for i in range(0, len(filled), across)])
