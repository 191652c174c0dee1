"""One video after another, with weights that are loaded once."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tqdm import tqdm

from cffm_jax.errors import InputError
from cffm_jax.media.frame import Source
from cffm_jax.media.pyav import require_av
from cffm_jax.predict.class_choice import chosen_classes
from cffm_jax.predict.job import Bar, Surroundings, predict
from cffm_jax.predict.request import Request
from cffm_jax.predict.writers import ABOUT, OutputFolder
from cffm_jax.runtime.devices import device_fault
from cffm_jax.runtime.lock import InUse
from cffm_jax.runtime.signals import Interruption

if TYPE_CHECKING:
    import jax

    from cffm_jax.inference.load import Weights
    from cffm_jax.inference.onnx_stream import OnnxStream
    from cffm_jax.inference.prediction import Prediction


class Watch(Protocol):
    """Is told how far a video is."""

    def frame(self, path: str, count: int | None) -> None:
        """One more frame of a video, of so many, if that is known."""


class Outcome(NamedTuple):
    """What came of a video.

    Attributes:
      video: its path.
      folder: of its prediction.
      frames: how many were written; 0 where it was there, or failed.
      error: the line about what is wrong with it; "" where the folder is whole.
    """

    video: str
    folder: str
    frames: int
    error: str


class Predictor:
    """Predicts one video after another with weights that are loaded once, and steps that are
    compiled once for each size of frames. Several threads may call it at a time.

    For what shares videos out by itself, such as Ray Data and Beam: one for each worker.
    """

    def __init__(self, request: Request):
        """
        Args:
          request: its inputs, output and jobs do not count.

        Raises:
          InputError: something other than a video is wrong.
        """
        request.require_settings()
        require_av("the command line")
        with Interruption() as interruption:
            weights = Surroundings().weights(request, interruption)
        chosen_classes(request.classes, weights.names)
        self.request, self._loaded = request, _Loaded(weights)

    def __call__(self, video: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Outcome:
        """Predicts a video into a folder, whole or not at all, if it is not there. That another
        process is making it is an error of the outcome.

        Raises:
          InputError: the folder cannot be used: it holds something else, or cannot be written.
        """
        video, folder = os.fspath(video), os.fspath(folder)
        try:
            return self.predict_on(None, video, folder)
        except InUse as error:
            return Outcome(video, folder, 0, str(error))

    def predict_on(self, device: jax.Device | None, video: str, folder: str, watch: Watch | None = None) -> Outcome:
        """As a call, on a device; ``watch`` is told how far it is. InUse: another process is making
        it."""
        import jax

        if is_there(self.request, folder):
            return Outcome(video, folder, 0, "")
        request = dataclasses.replace(self.request, inputs=(video,), output=folder)
        try:
            with jax.default_device(device):
                written = predict(request, _Lane(self._loaded, device, video, watch))
            return Outcome(video, folder, written.frames, "")
        except InUse:
            raise
        except InputError as error:
            if is_there(self.request, folder):  # Another process has made it since.
                return Outcome(video, folder, 0, "")
            # Of the folder, or of what is asked of all videos.
            if error.where in {os.path.abspath(folder), os.path.realpath(folder)} or error.where.startswith("--"):
                raise
            return Outcome(video, folder, 0, str(error))
        except (RuntimeError, MemoryError) as error:
            fault = device_fault(error)
            if fault is None:
                raise
            return Outcome(video, folder, 0, str(InputError(video, f"{fault.where} {fault.problem}", fault.remedy)))


def is_there(request: Request, folder: str) -> bool:
    """Whether the prediction is there, as it is asked for.

    Raises:
      InputError: something else is there.
    """
    if request.overwrite or not os.path.lexists(folder):
        return False
    place = os.path.join(folder, ABOUT)
    try:
        asked = json.loads(Path(place).read_text(encoding="utf-8")).get("asked")
    except (OSError, ValueError, AttributeError):
        OutputFolder(folder)  # Raises, unless it is empty.
        return False
    if asked != request.asked:
        now = request.asked
        differ = [name for name in now if not isinstance(asked, dict) or asked.get(name) != now[name]]
        problem = f"is there already, with other settings ({', '.join(differ[:3])})"
        raise InputError(folder, problem, "give --overwrite, or name another with --output")
    return True


class _Loaded:
    """Weights on each device, and what was compiled for them."""

    def __init__(self, weights: Weights | OnnxStream):
        self._host, self._on = weights, dict[Any, "Weights | OnnxStream"]()
        self._moving, self._compiling = threading.Lock(), threading.Lock()
        self._compiled, self._told = set[Any](), set[str]()

    def on(self, device: jax.Device | None) -> Weights | OnnxStream:
        import jax

        with self._moving:
            if device not in self._on:
                there = jax.device_put(self._host.variables, device)
                self._on[device] = dataclasses.replace(self._host, variables=there)
            return self._on[device]

    def compiled(self, kind: Any, predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        """One thread compiles, and others that have frames of this kind wait for it."""
        if kind not in self._compiled:
            with self._compiling:
                first = next(predictions, None)
                self._compiled.add(kind)
            if first is not None:
                yield first
        yield from predictions

    def tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            tqdm.write(line, file=sys.stderr)


class _Lane(Surroundings):
    """Around the predictions of one video of many."""

    def __init__(self, loaded: _Loaded, device: jax.Device | None, video: str, watch: Watch | None):
        self._loaded, self._device, self._video, self._watch = loaded, device, video, watch

    def weights(self, request: Request, interruption: Interruption) -> Weights | OnnxStream:
        return self._loaded.on(self._device)

    def bar(self, source: Source) -> Bar:
        return _Part(self._watch, self._video, source.count)

    def compiled(self, size: tuple[int, ...], predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        return self._loaded.compiled((self._device, size), predictions)

    def tell(self, line: str) -> None:
        self._loaded.tell(line)


class _Part:
    """The bar of one of the videos."""

    def __init__(self, watch: Watch | None, video: str, count: int | None):
        self._watch, self._video, self._count = watch, video, count

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any, /) -> None:
        pass

    def update(self) -> None:
        if self._watch:
            self._watch.frame(self._video, self._count)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        pass
