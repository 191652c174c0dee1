"""Masks of any video: frames are read, segmented as a stream and written; memory does not grow."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import tyro
from tqdm import tqdm

from cffm_jax.config import IGNORED_LABEL, TILE, Config
from cffm_jax.config_checks import require_scale, require_tiles
from cffm_jax.data import clips
from cffm_jax.drawing.masks import ALPHA
from cffm_jax.errors import InputError, Stopped
from cffm_jax.media.frame import Damage, Selection, Source
from cffm_jax.media.pyav import require_av
from cffm_jax.media.source import open_source
from cffm_jax.predict import overlays
from cffm_jax.predict.class_choice import chosen_classes
from cffm_jax.predict.input_frames import KeptFrames, first_frame, whole_frames
from cffm_jax.predict.writers import (
    ClassShares,
    LogitArchives,
    MaskArchive,
    MaskImages,
    OutputFolder,
    ScoreImages,
    Writer,
    default_output,
)
from cffm_jax.rules import require_values, setting
from cffm_jax.runtime.signals import Interruption

if TYPE_CHECKING:
    from cffm_jax.inference.prediction import Prediction
    from cffm_jax.inference.streaming import Footprint

_AHEAD = 2
"""Frames that a GPU has in hand while others are read and written; a CPU would only use memory."""
_RATES = f"give 0.01 to {clips.FASTEST} frames a second"
_ADDRESSES = "download it, or pipe it: ffmpeg -i ADDRESS -f matroska - | python predict.py - --output FOLDER"
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


@dataclasses.dataclass(frozen=True)
class Request:
    """Options of ``predict.py``."""

    inputs: tyro.conf.Positional[tuple[str, ...]] = setting((), path=True, remedy=_ADDRESSES)
    """A video, an image, several images, a folder of images or a pattern in quotes (one video in
    the order of their numbers), a camera's index, or - for a video on standard input."""
    checkpoint: str = setting("", path=True)
    """Folder of a run, a file of weights of any kind, see convert.py, or hf:owner/name of the
    Hugging Face hub. CFFM++ has prototypes of the frames so far."""
    output: str = setting("", path=True)
    """Folder to write into; default: <input>_prediction, beside the input."""
    masks: Literal["png", "npz", "none"] = "png"
    """Masks at the input's size: masks/<frame>.png with the classes' colours, or all of them in
    masks.npz; the index is the class, 255 what --classes leaves out."""
    scores: bool = False
    """Write scores/<frame>.png: the probability that the network gives each pixel's class, of all
    classes, in 16 bits: 65535 is 1."""
    logits: bool = False
    """Write logits/<frame>.npz: the logits of all classes as the network gives them, at a quarter
    of its input's size, 13 MB for a frame of 480p and 124 classes."""
    overlay: bool = True
    """Write overlay.mp4 (H.264, each frame at its time in the input), of a single image
    overlay.png."""
    alpha: float = setting(ALPHA, least=0, most=1, problem="is {:g}", remedy="give 0 to 1")
    """How much of the classes' colours covers the frame, 0 to 1."""
    legend: bool = False
    """Write the names of the frame's classes into the overlay's corner."""
    side_by_side: bool = False
    """Put the frame itself on the overlay's left; the overlay is twice as wide."""
    csv: bool = True
    """Write shares.csv: a row for each frame, of which share of its pixels each class has."""
    classes: tuple[str, ...] = ()
    """Names or indices of the classes that are written and drawn; default: all."""
    start: float = 0.0
    """First frame: in seconds, but for images its number, from 0."""
    end: float | None = None
    """Where to end, before the frame of this time; for images before this number."""
    every: int = 1
    """Take every so many-th frame; the network sees only these, and its references are the nearest
    of them."""
    rate: float = setting(15.0, least=0.01, most=clips.FASTEST, problem="is {:g}", remedy=_RATES)
    """Frames a second that images stand for."""
    reference_seconds: tuple[float, ...] | None = None
    """How many seconds before the target the references lie, oldest first; without numbers the
    papers' 9/15, 6/15 and 3/15. The nearest frames are taken, at the input's rate. Default: as many
    frames back as in training."""
    scale: tuple[int, ...] = setting((), lengths=(0, 2), problem="is {numbers}", remedy="give a width and a height")
    """Width and height that frames are resized to fit for the network, aspect kept; 0 0: their own
    size. Default: as the checkpoint was evaluated, 853 480 for VSPW."""
    tile: tuple[int, ...] = setting((), **TILE)
    """Width and height of tiles that frames, resized, are segmented in, one after another, for
    those too large for memory. Default: whole frames."""
    overlap: int = -1
    """Pixels that neighbouring tiles share at least, where their logits are blended: a multiple of
    32; -1: a quarter of the tile's shorter side."""
    refuse_damaged: bool = False
    """Refuse a video with a damaged frame, or one that cannot be decoded, and frames without one
    finite value; without this they are counted, with those that may build on damaged ones."""
    overwrite: bool = False
    """Replace the folder of an earlier prediction."""

    def require_sound(self) -> None:
        """InputError if it asks for nothing, or for what cannot be."""
        if not self.inputs or not all(self.inputs):
            raise InputError("command line", "names no input", "give a video, images, a folder, - or a camera's index")
        if not self.checkpoint:
            raise InputError("--checkpoint", "is missing", "name a run's folder, or a file of weights")
        if self.masks == "none" and not any((self.scores, self.logits, self.overlay, self.csv)):
            raise InputError("command line", "leaves nothing to write", "give --masks png, --overlay or --csv")
        require_values(self)
        if self.scale:
            require_scale(self.scale)
        require_tiles(self.tile, self.overlap)
        clips.require_seconds(self.reference_seconds or ())


def predict(request: Request) -> str:
    """Reads the input, and writes what is wanted into one new folder, whole or not at all.

    Returns:
      A line for the user: what was written.

    Raises:
      InputError: anything that was given cannot be used, or the folder cannot be written.
      Stopped: by a signal; of an input that has no end of its own what came is written first.
    """
    request.require_sound()
    selection = Selection(request.start, request.end, request.every)
    folder = OutputFolder(request.output or default_output(request.inputs), request.overwrite)
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        source = stack.enter_context(open_source(request.inputs, selection, request.rate))
        if request.refuse_damaged:
            source.frames = whole_frames(source, source.frames)
        # Of a video its first frame's faults, and of all what is not installed, show before the
        # weights are loaded.
        if request.overlay and not source.single:
            require_av("--overlay", "give --no-overlay")
        first = None if source.files else first_frame(source, selection)
        with interruption.deferred():  # What is raised within an extension that is being loaded may end in an abort.
            import jax

            from cffm_jax.inference.load import load
            from cffm_jax.inference.streaming import stream_settings

        if request.reference_seconds is not None and source.rate > clips.FASTEST:
            problem = f"claims {float(source.rate):g} frames a second"
            raise InputError(source.name, problem, "leave out --reference-seconds, or convert it to its true rate")
        weights = load(request.checkpoint)
        settings = stream_settings(
            weights.config,
            every=request.every,
            rate=0 if request.reference_seconds is None else source.rate,
            seconds=request.reference_seconds or (),
            scale=request.scale or None,
        )
        weights = dataclasses.replace(weights, config=settings)
        source.read_as(weights.config.data.frame_channels)
        first = first or first_frame(source, selection)
        stack.enter_context(folder)
        chosen = chosen_classes(request.classes, weights.names)
        job = _Job(request, source, folder, weights.config, weights.names, weights.colours, chosen, [])
        frames = KeptFrames(first, source.frames)
        ahead = 0 if source.live or jax.default_backend() == "cpu" else _AHEAD
        predictions = weights.predictions(
            frames,
            scores=request.scores,
            logits=request.logits,
            ahead=ahead,
            tile=request.tile,
            overlap=request.overlap,
            on_footprint=job.tell,
        )
        damage = Damage(), Damage("blank")
        count, took = job.write(interruption, frames, predictions, damage)
        with folder.writing():
            folder.describe(job.about(count, first.pixels.shape, damage))
    source.warnings += [f"{source.name}: {each.in_words}" for each in damage if each.count]
    for warning in source.warnings:
        print(f"warning: {shown(warning)}", file=sys.stderr)
    written = ", ".join(sorted(os.listdir(folder.folder)))
    return f"{shown(folder.folder)}: {count} frames, {count / took:.2f} a second ({written})"


class _Job(NamedTuple):
    """A prediction: its frames, its segmenter, its outputs and their place; ``footprints``: of a
    step of the segmenter, once it is known."""

    request: Request
    source: Source
    folder: OutputFolder
    config: Config
    names: Sequence[str]
    colours: np.ndarray
    chosen: Sequence[int]
    footprints: list[Footprint]

    def tell(self, footprint: Footprint) -> None:
        """Notes what a step takes, and says it of frames of another size, or in tiles."""
        self.footprints.append(footprint)
        if self.request.scale or self.request.tile:
            tqdm.write(str(footprint), file=sys.stderr)

    def write(
        self,
        interruption: Interruption,
        frames: KeptFrames,
        predictions: Iterator[Prediction],
        damage: Sequence[Damage],
    ) -> tuple[int, float]:
        """All frames through all writers: how many there were, and how many seconds it took. Notes
        the damaged and the blank ones."""
        keep = np.full(IGNORED_LABEL + 1, IGNORED_LABEL, np.uint8)
        keep[list(self.chosen)] = self.chosen
        count, began = 0, time.perf_counter()
        with contextlib.ExitStack() as stack:
            look = {"unit": "frame", "desc": "predict", "bar_format": _BAR, "disable": sys.stderr is None}
            bar = stack.enter_context(tqdm(total=self.source.count, **look))
            with self.folder.writing():
                writers = self._writers(stack)
            try:
                for prediction in predictions:
                    with interruption.deferred():
                        frame, prediction = frames.pop(), prediction._replace(mask=keep[prediction.mask])
                        with self.folder.writing():
                            for writer in writers:
                                writer.write(frame, prediction)
                        count += 1
                        for each in damage:
                            each.note(frame)
                        if frame.damaged or frame.blank:
                            counts = (f"{each.count} {each.kind}" for each in damage if each.count)
                            bar.set_postfix_str(", ".join(counts), refresh=False)
                        bar.update()
            except Stopped:
                if not self.source.live or not count:
                    raise
            with self.folder.writing():
                for writer in writers:
                    writer.finish()
        return count, time.perf_counter() - began

    def _writers(self, stack: contextlib.ExitStack) -> list[Writer]:
        """Opens the writers of the wanted files; the stack closes them."""
        request, folder, writers = self.request, self.folder.partial, []

        def add(writer: Writer) -> None:
            stack.callback(writer.close)
            writers.append(writer)

        if request.masks == "png":
            add(MaskImages(folder, self.colours))
        if request.masks == "npz":
            add(MaskArchive(folder, self.names, self.colours))
        if request.scores:
            add(ScoreImages(folder))
        if request.logits:
            add(LogitArchives(folder, self.names, self.config.data.scale))
        if request.csv:
            add(ClassShares(folder, self.names, self.chosen))
        if request.overlay:
            look = {"alpha": request.alpha, "legend": request.legend, "side_by_side": request.side_by_side}
            painter = overlays.Painter(self.names, self.colours, channels=self.source.channels, **look)
            if self.source.single:
                add(overlays.OverlayImage(folder, painter))
            else:
                add(overlays.OverlayVideo(folder, painter, self.source.rate / request.every, self.source.tick))
        return writers

    def about(self, count: int, shape: tuple[int, ...], damage: Sequence[Damage]) -> dict[str, Any]:
        """Contents of ``prediction.json``."""
        request, (footprint,) = self.request, self.footprints
        return {
            "input": self.source.name,
            "checkpoint": request.checkpoint,
            "model": self.config.model.name,
            "frames": count,
            "scores": request.scores,
            "logits": request.logits,
            **{f"{each.kind}_frames": each.count for each in damage},
            **{f"{each.kind}_ranges": each.ranges for each in damage},
            "size": [shape[1], shape[0]],
            "channels": self.source.channels.names,
            "input_size": list(footprint.input_size[::-1]),
            "tile": list(footprint.tile[::-1]),
            "tiles": footprint.tiles,
            "overlap": footprint.overlap,
            "memory": footprint.memory,
            "rate": float(self.source.rate),
            "start": request.start,
            "end": request.end,
            "every": request.every,
            "offsets": list(self.config.data.offsets),
            "classes": {k: self.names[k] for k in self.chosen},
            "colours": {k: self.colours[k].tolist() for k in self.chosen},
            "ignored": IGNORED_LABEL,
        }


def shown(path: object) -> str:
    """A path for the terminal, even if its bytes are no text."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")
