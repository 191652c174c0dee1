"""Overlays of masks on their frames: an H.264 video with the input's frame times, or a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.channel_files import picture
from cffm_jax.drawing.masks import ALPHA, overlay
from cffm_jax.drawing.text import shortened, text_size
from cffm_jax.errors import InputError
from cffm_jax.inference.prediction import Prediction
from cffm_jax.media.frame import Frame
from cffm_jax.media.pyav import Seekable, require_av
from cffm_jax.predict.writers import OVERLAYS

_QUALITY = {"crf": "20", "preset": "veryfast", "bf": "0"}
"""Without frames that are stored ahead of their turn, by which the file's own duration and rate
would be wrong where times are uneven."""
_BT709 = 1
_LEAST_SHARE = 0.005
"""Classes with a smaller share of a frame are not in its legend."""


_LEAST_TEXT, _LINES = 9, 28
"""Height of a legend's letters: pixels at least, and so many to the frame's shorter side."""


class Painter:
    """Draws a mask over its frame."""

    def __init__(
        self,
        names: Sequence[str],
        colours: np.ndarray,
        *,
        alpha: float = ALPHA,
        legend: bool = False,
        side_by_side: bool = False,
        channels: Channels = COLOURS,
    ):
        """
        Args:
          names: of the classes.
          colours: u8[256,3].
          alpha: how much of the classes' colours covers the frame.
          legend: whether to write the names of the frame's classes into its corner.
          side_by_side: whether to put the frame itself on the left.
          channels: of the frames; other than RGB they are drawn by ``channel_files.picture``.
        """
        self._names, self._colours = names, colours
        self._alpha, self._legend, self._side_by_side = alpha, legend, side_by_side
        self._channels = channels

    def paint(self, frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """u8[H,W,3] (side by side u8[H,2W,3]) of a frame [H,W,K] and its mask u8[H,W]."""
        frame = picture(frame, self._channels)
        painted = overlay(frame, mask, self._colours, self._alpha)
        if self._legend:
            painted = self._with_legend(painted, mask)
        return np.concatenate([frame, painted], axis=1) if self._side_by_side else painted

    def _with_legend(self, painted: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The classes in the order of their indices; the largest, where not all have room."""
        height, width = painted.shape[:2]
        text = text_size((height, width), _LEAST_TEXT, _LINES)
        line, margin = round(1.5 * text), text // 2
        shares = np.bincount(mask.reshape(-1), minlength=IGNORED_LABEL + 1)[: len(self._names)] / mask.size
        room = max(0, (height - 2 * margin) // line)
        largest = np.argsort(-shares, kind="stable")[:room]
        shown = sorted(int(k) for k in largest if shares[k] >= _LEAST_SHARE)
        if not shown:
            return painted
        font = ImageFont.load_default(text)
        room = width - line - 3 * margin
        names = [shortened(self._names[k].replace("_", " "), font, room) for k in shown]
        image = Image.fromarray(painted)
        wide = line + margin + max(font.getlength(name) for name in names)
        box = (0, 0, int(wide) + 2 * margin, len(shown) * line + margin)
        image.paste(Image.blend(image.crop(box), Image.new("RGB", box[2:]), 0.65), box)
        draw = ImageDraw.Draw(image)
        for i, (k, name) in enumerate(zip(shown, names)):
            y = margin + i * line
            draw.rectangle((margin, y, margin + text, y + text), tuple(self._colours[k].tolist()))
            draw.text((margin + line, y + text / 2), name, (255, 255, 255), font, "lm")
        return np.asarray(image)


class OverlayImage:
    """``overlay.png``, of an input that is one image."""

    def __init__(self, folder: Path, painter: Painter):
        self._path, self._painter = folder / OVERLAYS[1], painter

    def write(self, frame: Frame, prediction: Prediction) -> None:
        Image.fromarray(self._painter.paint(frame.pixels, prediction.mask)).save(self._path)

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class OverlayVideo:
    """``overlay.mp4``: H.264 in 4:2:0, for browsers; each frame is shown at its time in the input.

    Such a video has even sides: an odd one gets a row or column more, a copy of the last.
    """

    def __init__(self, folder: Path, painter: Painter, rate: Fraction, tick: Fraction):
        """``rate``: frames a second, about; ``tick``: unit of their times in seconds.

        Raises:
          InputError: PyAV is not installed, or has no H.264 encoder.
        """
        self._av = require_av("--overlay")
        if "libx264" not in self._av.codecs_available:
            raise InputError("--overlay", "needs a PyAV with libx264", "install PyAV's own wheel, or give --no-overlay")
        self._painter, self._rate, self._tick = painter, rate.limit_denominator(60_000), _fit(tick)
        self._file = Seekable(open(folder / OVERLAYS[0], "w+b"))
        self._container = self._av.open(self._file, "w", format="mp4")
        self._stream: Any = None
        self._first = Fraction(0)
        self._last = -1

    def write(self, frame: Frame, prediction: Prediction) -> None:
        painted = self._painter.paint(frame.pixels, prediction.mask)
        odd = [(0, side % 2) for side in painted.shape[:2]]
        painted = np.pad(painted, (*odd, (0, 0)), "edge")
        with self._errors():
            stream = self._stream or self._open(painted, frame.time)
            shown = self._av.VideoFrame.from_ndarray(painted, "rgb24")
            shown = shown.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=1)
            shown.colorspace, shown.color_range = _BT709, 1
            # Times that do not grow, as damaged inputs have them, are not for this format.
            self._last = max(self._last + 1, round((frame.time - self._first) / self._tick))
            shown.pts, shown.time_base = self._last, self._tick
            self._container.mux(stream.encode(shown))

    def _open(self, painted: np.ndarray, time: Fraction) -> Any:
        self._first = time
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=_QUALITY)
        codec = self._stream.codec_context
        codec.height, codec.width, codec.pix_fmt = *painted.shape[:2], "yuv420p"
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = 1
        codec.time_base = self._stream.time_base = self._tick
        return self._stream

    def finish(self) -> None:
        with self._errors():
            self._container.mux(self._stream.encode())
            self._container.close()
            self._file.file.close()

    def close(self) -> None:
        with contextlib.suppress(OSError, self._av.FFmpegError):  # Reported where it came up.
            self._container.close()
        with contextlib.suppress(OSError):
            self._file.file.close()

    @contextlib.contextmanager
    def _errors(self):
        """The file's own error in place of PyAV's."""
        try:
            yield
        except self._av.FFmpegError as error:
            self._file.reraise()
            height, width = self._stream.height, self._stream.width
            problem = f"H.264 cannot be written at {width}x{height} ({error.strerror})"
            raise InputError("--overlay", problem, "give --no-overlay") from error


def _fit(tick: Fraction) -> Fraction:
    """A unit of time that the format can hold."""
    return tick if tick.denominator < 2**30 and tick.numerator < 2**15 else Fraction(1, 90_000)
