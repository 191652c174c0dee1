"""Masks of one input: frames are read, segmented as a stream and written; memory does not grow."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data import clips
from cffm_jax.errors import InputError, Stopped
from cffm_jax.media.frame import Damage, Selection, Source
from cffm_jax.media.pyav import require_av
from cffm_jax.media.source import open_source
from cffm_jax.predict import overlays
from cffm_jax.predict.class_choice import chosen_classes
from cffm_jax.predict.input_frames import KeptFrames, first_frame, whole_frames
from cffm_jax.predict.request import Request
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
from cffm_jax.runtime.progress import Progress
from cffm_jax.runtime.signals import Interruption

if TYPE_CHECKING:
    from cffm_jax.inference.load import Weights
    from cffm_jax.inference.onnx_stream import OnnxStream
    from cffm_jax.inference.prediction import Prediction
    from cffm_jax.inference.streaming import Footprint

_AHEAD = 2
"""Frames that a GPU has in hand while others are read and written; a CPU would only use memory."""
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class Written(NamedTuple):
    """A prediction that is there: its folder, how many frames it has, and the seconds they took."""

    folder: Path
    frames: int
    seconds: float

    def __str__(self) -> str:
        files = ", ".join(sorted(os.listdir(self.folder)))
        return f"{shown(self.folder)}: {self.frames} frames, {self.frames / self.seconds:.2f} a second ({files})"


class Surroundings:
    """What is around the prediction of an input: here, of one that is alone."""

    def weights(self, request: Request, interruption: Interruption) -> Weights | OnnxStream:
        """The weights that are asked for."""
        with interruption.deferred():  # What is raised within an extension that is being loaded may end in an abort.
            from cffm_jax.inference.load import load
            from cffm_jax.inference.onnx_stream import open_onnx
        return open_onnx(request.checkpoint, request.onnx_engine) if request.onnx_engine else load(request.checkpoint)

    def bar(self, source: Source) -> Bar:
        """Shows how far it is."""
        return Progress(total=source.count, unit="frame", desc="predict", bar_format=_BAR)

    def tell(self, line: str) -> None:
        """Says what a step takes."""
        tqdm.write(line, file=sys.stderr)

    def compiled(self, size: tuple[int, ...], predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        """The predictions of frames of a size; the first waits until its program is compiled."""
        return predictions


class Bar(Protocol):
    """A context manager, as ``Progress``."""

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, value: Any, traceback: Any, /) -> Any: ...

    def update(self) -> Any: ...

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> Any: ...


def predict(request: Request, around: Surroundings | None = None) -> Written:
    """Reads an input, and writes what is wanted into one new folder, whole or not at all.

    Raises:
      InputError: anything that was given cannot be used, or the folder cannot be written.
      Stopped: by a signal; of an input that has no end of its own what came is written first.
    """
    request.require_sound()
    around = around or Surroundings()
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
        if request.reference_seconds is not None and source.rate > clips.FASTEST:
            problem = f"claims {float(source.rate):g} frames a second"
            raise InputError(source.name, problem, "leave out --reference-seconds, or convert it to its true rate")
        weights = around.weights(request, interruption)
        import jax

        from cffm_jax.inference.streaming import stream_settings

        settings = stream_settings(
            weights.config,
            every=request.every,
            rate=0 if request.reference_seconds is None else source.rate,
            seconds=request.reference_seconds or (),
            frame_size=request.frame_size,
        )
        weights = dataclasses.replace(weights, config=settings)
        source.read_as(weights.config.data.frame_channels)
        first = first or first_frame(source, selection)
        stack.enter_context(folder)
        chosen = chosen_classes(request.classes, weights.names)
        job = _Job(request, source, folder, weights, chosen, [], around)
        frames = KeptFrames(first, source.frames)
        ahead = 0 if source.live or jax.default_backend() == "cpu" else _AHEAD
        predictions = weights.predictions(
            frames,
            scores=request.scores,
            logits=request.logits,
            ahead=ahead,
            tile_size=request.tile_size,
            overlap=request.overlap,
            on_footprint=job.tell,
        )
        damage = Damage(), Damage("blank")
        predictions = around.compiled(first.pixels.shape, predictions)
        count, took = job.write(interruption, frames, predictions, damage)
        with folder.writing():
            folder.describe(job.about(count, first.pixels.shape, damage))
    source.warnings += [f"{source.name}: {each.in_words}" for each in damage if each.count]
    for warning in source.warnings:
        tqdm.write(f"warning: {shown(warning)}", file=sys.stderr)
    return Written(folder.folder, count, took)


class _Job(NamedTuple):
    """A prediction: its frames, its segmenter, its outputs and their place; ``footprints``: of a
    step of the segmenter, once it is known."""

    request: Request
    source: Source
    folder: OutputFolder
    weights: Weights | OnnxStream
    chosen: Sequence[int]
    footprints: list[Footprint]
    around: Surroundings

    def tell(self, footprint: Footprint) -> None:
        """Notes what a step takes, and says it of frames of another size, or in tiles."""
        self.footprints.append(footprint)
        if self.request.frame_size or self.request.tile_size:
            self.around.tell(str(footprint))

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
            bar = stack.enter_context(self.around.bar(self.source))
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
            add(MaskImages(folder, self.weights.colours))
        if request.masks == "npz":
            add(MaskArchive(folder, self.weights.names, self.weights.colours))
        if request.scores:
            add(ScoreImages(folder))
        if request.logits:
            add(LogitArchives(folder, self.weights.names, lambda: self.footprints[-1].input_size))
        if request.csv:
            add(ClassShares(folder, self.weights.names, self.chosen))
        if request.overlay:
            look = {"alpha": request.alpha, "legend": request.legend, "side_by_side": request.side_by_side}
            painter = overlays.Painter(self.weights.names, self.weights.colours, channels=self.source.channels, **look)
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
            "model": self.weights.config.model.name,
            "licence": self.weights.licence,
            "frames": count,
            "scores": request.scores,
            "logits": request.logits,
            **{f"{each.kind}_frames": each.count for each in damage},
            **{f"{each.kind}_ranges": each.ranges for each in damage},
            "height": shape[0],
            "width": shape[1],
            "channels": self.source.channels.names,
            "input_size": list(footprint.input_size),
            "tile_size": list(footprint.tile_size),
            "tiles": footprint.tiles,
            "overlap": footprint.overlap,
            "memory": footprint.memory,
            "rate": float(self.source.rate),
            "start": request.start,
            "end": request.end,
            "every": request.every,
            "offsets": list(self.weights.config.data.offsets),
            "classes": {k: self.weights.names[k] for k in self.chosen},
            "colours": {k: self.weights.colours[k].tolist() for k in self.chosen},
            "ignored": IGNORED_LABEL,
            "asked": request.asked,
        }


def shown(path: object) -> str:
    """A path for the terminal, even if its bytes are no text."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")
