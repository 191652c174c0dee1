"""Video files and streams by PyAV (FFmpeg), as players show them; no other file is opened."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from cffm_jax.data.image_files import MAX_PIXELS
from cffm_jax.errors import InputError
from cffm_jax.media.frame import Frame, Selection, Source
from cffm_jax.media.gaps import Gaps
from cffm_jax.media.images import INSTALL_HEIF
from cffm_jax.media.mp4 import require_whole
from cffm_jax.media.pyav import Piped, Seekable, require_av

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "ivf", "nut", "gif",
    "yuv4mpegpipe", "h264", "hevc", "obu", "m4v", "mpegvideo", "mjpeg", "png_pipe", "jpeg_pipe",
)  # fmt: skip
"""FFmpeg's readers that may be used: they read the one file; those of playlists open others."""

_RESTRICTED = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"}
_RATE = Fraction(25)
"""Frames a second of a stream that states none."""
_HIDE = ("vp8", "vp9", "av1")
"""Codecs whose packets may hold frames that are not shown: without one, none is missing."""
_HD = (1280, 576)
"""Unless told, players take frames wider or higher than this for BT.709, others for BT.601."""


@contextlib.contextmanager
def open_video(path: str, selection: Selection) -> Iterator[Source]:
    """Opens a video file; see `open_stream`.

    Raises:
      InputError: as there, or the file cannot be read.
    """
    try:
        file = open(path, "rb")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the path and its permissions") from error
    with file, _open(Seekable(file), path, selection, live=False) as source:
        yield source


@contextlib.contextmanager
def open_stream(file: io.BufferedIOBase, name: str, selection: Selection) -> Iterator[Source]:
    """Opens a video that comes in through a pipe.

    Raises:
      InputError: PyAV is not installed, or there is no video; while frames are read: none of them
        can be decoded, their size changes, or reading fails.
    """
    with _open(Piped(file), name, selection, live=True) as source:
        yield source


@contextlib.contextmanager
def _open(file: Piped, name: str, selection: Selection, live: bool) -> Iterator[Source]:
    av = require_av(name)
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(file, options=_RESTRICTED, metadata_errors="replace"))
            stream = container.streams.best("video")
            file.reraise()
        except (av.FFmpegError, OSError) as error:
            raise _unreadable(file, name, "is no video or image that can be read") from error
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            if isinstance(file, Seekable):
                require_whole(file.file, name)
            raise InputError(name, "holds no video", "name a file with a video in it")
        taken_of = _several(av, name, container, stream)
        codec = stream.codec_context
        if codec is None:
            raise InputError(name, "is in a codec that FFmpeg cannot decode here", "convert it to H.264")
        _require_size(name, codec.width, codec.height)
        codec.thread_type = "AUTO"
        codec.options = {"max_pixels": str(MAX_PIXELS)}
        rate = stream.average_rate or stream.guessed_rate or _RATE
        announced = _announced(container, stream)
        source = Source(name, iter(()), rate, stream.time_base or 1 / rate, live=live, warnings=taken_of)
        count = announced.frames or announced.seconds * rate
        if count and not live:
            last = count if selection.end is None else min(count, selection.end * rate)
            source.count = selection.thinned(float(last - selection.start * rate))
        source.frames = _Reader(av, file, container, stream, source, selection).frames(announced)
        yield source


def _several(av: Any, name: str, container: Any, stream: Any) -> list[str]:
    """A remark if the stream is one of several videos. InputError if it is but a tile of a
    picture."""
    kinds = av.stream.Disposition
    videos = [each for each in container.streams.video if not each.disposition & kinds.attached_pic]
    if len(videos) < 2:
        return []
    if stream.disposition & kinds.dependent:
        problem = f"is a picture in {len(videos)} parts, of which FFmpeg gives each by itself"
        raise InputError(name, problem, f"{INSTALL_HEIF}, which puts them together, or save it as PNG")
    return [f"{name}: holds {len(videos)} videos, of which stream {stream.index} alone was taken"]


class _Announced(NamedTuple):
    """Length of a video as its container states it; 0 where it does not.

    Attributes:
      frames: their number.
      seconds: their duration, from the stream's start.
      within: seconds that this may be off.
    """

    frames: int = 0
    seconds: float = 0.0
    within: float = 0.0


def _announced(container: Any, stream: Any) -> _Announced:
    if stream.frames > 0 and container.format.name != "avi":  # Which counts those that were dropped too.
        return _Announced(stream.frames)
    if stream.duration and stream.time_base:
        return _Announced(0, float(stream.duration * stream.time_base), 0.2)
    start = _start(stream) or 0  # What follows is since the file's beginning.
    stated = stream.metadata.get("DURATION", "").split(":")  # Matroska: 00:01:02.345
    try:
        hours, minutes, seconds = map(Fraction, stated)
        return _Announced(0, float(max(0, 3600 * hours + 60 * minutes + seconds - start)), 0.2)
    except (ValueError, ArithmeticError):
        # Of the longest stream, and that may be the sound.
        whole = max(0, (container.duration or 0) / 1e6 - float(start))
        return _Announced(0, whole, max(1.0, 0.05 * whole))


def _start(stream: Any) -> Fraction | None:
    """When the stream starts, in seconds of its own clock, if it says so."""
    return stream.start_time * stream.time_base if stream.start_time is not None and stream.time_base else None


def _require_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        problem = f"claims {width}x{height} pixels, more than the {MAX_PIXELS} allowed"
        raise InputError(name, problem, "it is damaged or hostile; save it smaller")


def _unreadable(file: Piped, name: str, problem: str) -> InputError:
    """The error of a file that FFmpeg gave up: an unreadable one says so, a signal goes on."""
    if isinstance(file.error, OSError):
        return InputError(name, f"cannot be read ({file.error.strerror})", "check the disk it is on")
    file.reraise()
    if isinstance(file, Seekable):
        require_whole(file.file, name)
    hint = "; of an mp4 from a pipe the index must come first (ffmpeg -movflags +faststart)"
    remedy = "check what it is, or convert it to H.264 in an mp4"
    return InputError(name, problem, remedy if isinstance(file, Seekable) else remedy + hint.replace("; ", ": "))


class _Reader:
    """Decodes a stream: which of its packets came, what became of them, and frames as RGB."""

    def __init__(self, av: Any, file: Piped, container: Any, stream: Any, source: Source, selection: Selection):
        from av.video.reformatter import VideoReformatter

        self._av, self._file, self._container, self._stream = av, file, container, stream
        self._source, self._selection = source, selection
        self._reformatter = VideoReformatter()
        self._dropped = 0
        self._flagged: set[int | None] = set()
        self._gaps, self._hides = Gaps(1 / source.rate), stream.codec_context.codec.canonical_name in _HIDE

    def frames(self, announced: _Announced) -> Iterator[Frame]:
        """The selected frames; afterwards ``source.warnings`` say what was missing."""
        selection, source = self._selection, self._source
        start, end = _exact(selection.start), None if selection.end is None else _exact(selection.end)
        number, taken, size, first, time, since = -1, 0, None, Fraction(0), Fraction(0), Fraction(0)
        for number, (frame, damaged) in enumerate(self._decoded()):
            time = time + 1 / source.rate if frame.pts is None else frame.pts * frame.time_base
            first = first if number else time
            since = time - first
            if end is not None and since >= end:
                return
            if since < start:
                if source.passing:
                    source.passing(float(since))
                continue
            taken += 1
            if (taken - 1) % selection.every:
                continue
            pixels = self._pixels(frame)
            size = size or pixels.shape
            if pixels.shape != size:
                problem = f"frame {number} is {pixels.shape[1]}x{pixels.shape[0]}, the first {size[1]}x{size[0]}"
                raise InputError(source.name, problem, "convert it to one size, or cut it there with --end")
            yield Frame(pixels, number, since, f"{number:06}", damaged)
        if number < 0:
            raise _unreadable(self._file, source.name, "holds no frame that can be decoded")
        start = _start(self._stream)
        self._warn(number + 1, float(time - (first if start is None else start) + 1 / source.rate), announced)

    def _warn(self, came: int, seconds: float, announced: _Announced) -> None:
        notes = []
        if self._source.lost:
            notes.append(f"{self._source.lost} damaged packets could not be decoded")
        if self._gaps.missing > self._source.lost:
            notes.append(f"{self._gaps.missing} frames are missing, or came at a wrong time: something is damaged")
        if came + self._dropped < announced.frames:
            notes.append(f"{came} frames came of the {announced.frames} that were announced; it may be cut off")
        elif seconds < announced.seconds - announced.within:
            notes.append(f"ends after {seconds:.2f} s, {announced.seconds:.2f} were announced; it may be cut off")
        self._source.warnings += [f"{self._source.name}: {each}" for each in notes]

    def _decoded(self) -> Iterator[tuple[Any, bool]]:
        """Frames in order, each with whether it is damaged; packets that cannot be decoded are
        passed over, as players do.

        FFmpeg tells of the frames whose gaps it fills (``is_corrupt``), and not of those that build
        on them: all may until the next key frame. Nor does it tell of those that it leaves out for
        want of what they build on: `Gaps` does.
        """
        packets, damaged = self._container.demux(self._stream), False
        while True:
            try:
                packet = next(packets, None)
            except (self._av.FFmpegError, IndexError):
                # What came so far counts; `_warn` compares. PyAV ends on an IndexError, after all
                # of this stream, where another began only when the file was open.
                packet = None
            if self._file.error is not None:
                raise _unreadable(self._file, self._source.name, "cannot be read")
            if packet is None:
                return
            self._dropped += packet.is_discard
            if packet.is_corrupt:
                self._flagged.add(packet.pts)
            if packet.size and not packet.is_discard and not self._hides:
                self._gaps.sent(packet.pts)
            try:
                frames = packet.decode()
            except self._av.FFmpegError:
                self._source.lost += 1
                damaged = True
                continue
            for frame in frames:
                if frame.pts is None and frame.time_base is None:
                    frame.time_base = self._source.tick
                gap = self._gaps.before(frame.pts, frame.time_base)
                damaged = self._is_flagged(frame) or gap or (damaged and not frame.key_frame)
                yield frame, damaged

    def _is_flagged(self, frame: Any) -> bool:
        """Whether the decoder, or the container of its packet, says that it is damaged."""
        flagged = frame.pts in self._flagged
        self._flagged.discard(frame.pts)
        return flagged or frame.is_corrupt

    def _pixels(self, frame: Any) -> np.ndarray:
        """u8[H,W,3]: the frame in RGB, upright, transparency over black."""
        from av.video.reformatter import Colorspace

        _require_size(self._source.name, frame.width, frame.height)
        alpha = any(component.is_alpha for component in frame.format.components)
        space = None
        if frame.colorspace not in list(Colorspace):
            large = frame.width >= _HD[0] or frame.height > _HD[1]
            space = Colorspace.ITU709 if large else Colorspace.ITU601
        try:
            shown = self._reformatter.reformat(frame, format="rgba" if alpha else "rgb24", src_colorspace=space)
        except (self._av.FFmpegError, ValueError) as error:
            problem = f"holds pixels of the kind {frame.format.name}, which FFmpeg cannot convert"
            raise InputError(self._source.name, problem, "convert it to H.264 in an mp4") from error
        pixels = shown.to_ndarray()
        if alpha:
            wide = pixels.astype(np.uint16)
            pixels = ((wide[..., :3] * wide[..., 3:] + 127) // 255).astype(np.uint8)
        return turned(pixels, self._matrix(frame))

    def _matrix(self, frame: Any) -> np.ndarray | None:
        try:
            stored = frame.side_data.get(self._av.sidedata.sidedata.Type.DISPLAYMATRIX)
        except ValueError:
            # What lies beside it (EXIF, a second eye's display) has no name in PyAV, which then
            # gives the angle alone, anticlockwise: a picture that was mirrored too stays so.
            cosine, sine = math.cos(math.radians(frame.rotation)), -math.sin(math.radians(frame.rotation))
            exact = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
            return np.rint(exact * 2**16).astype(np.int32)
        return None if stored is None else np.frombuffer(bytes(stored), np.int32)[:9].reshape(3, 3)


def _exact(seconds: float) -> Fraction:
    """The decimal number that was meant: 0.4 is 2/5."""
    return Fraction(repr(seconds))


def turned(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """A picture quarter-turned or mirrored by its display matrix i32[3,3], rows the images of x, y.

    Source: ISO/IEC 14496-12, the matrix of a track's header.
    """
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix[0, :2], matrix[1, :2]
    if abs(int(b)) > abs(int(a)):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
