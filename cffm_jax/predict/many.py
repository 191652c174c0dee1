"""Many videos: each by itself into a folder of its own, several in work at a time, by one process
or by several that share them.

What is there is left out, so that a run that was killed goes on, and processes on one folder do not
do the same twice: each takes its share, and a folder in the making is locked.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from cffm_jax.errors import InputError
from cffm_jax.media.frame import Source
from cffm_jax.media.many import Video
from cffm_jax.predict.class_choice import chosen_classes
from cffm_jax.predict.job import Bar, Surroundings, predict, shown
from cffm_jax.predict.request import Request
from cffm_jax.predict.writers import ABOUT, OutputFolder, default_output
from cffm_jax.runtime.atomic import unwritable, write_text
from cffm_jax.runtime.balance import balanced
from cffm_jax.runtime.cluster import share_of
from cffm_jax.runtime.lock import InUse, Lock
from cffm_jax.runtime.progress import Progress
from cffm_jax.runtime.signals import Interruption

if TYPE_CHECKING:
    import jax

    from cffm_jax.inference.load import Weights
    from cffm_jax.inference.prediction import Prediction

FAILED = "failed.csv"
_BAR = "{l_bar}{bar}| {postfix} [{elapsed}<{remaining}]"
_PATIENCE = 60.0
"""Seconds to wait for another process that writes what failed."""


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
        with Interruption() as interruption:
            weights = Surroundings().weights(request, interruption)
        chosen_classes(request.classes, weights.names)
        self.request, self._loaded = request, _Loaded(weights)

    def __call__(self, video: str, folder: str) -> Outcome:
        """Predicts a video into a folder, whole or not at all, if it is not there. That another
        process is making it is an error of the outcome.

        Raises:
          InputError: the folder cannot be used: it holds something else, or cannot be written.
        """
        try:
            return self.predict_on(None, video, folder)
        except InUse as error:
            return Outcome(video, folder, 0, str(error))

    def predict_on(self, device: jax.Device | None, video: str, folder: str, watch: _Watch | None = None) -> Outcome:
        """As a call, on a device; ``watch`` is told how far it is. InUse: another process is making
        it."""
        import jax

        if self.is_there(folder):
            return Outcome(video, folder, 0, "")
        request = dataclasses.replace(self.request, inputs=(video,), output=folder)
        try:
            with jax.default_device(device):
                written = predict(request, _Lane(self._loaded, device, watch))
            return Outcome(video, folder, written.frames, "")
        except InUse:
            raise
        except InputError as error:
            if self.is_there(folder):  # Another process has made it since.
                return Outcome(video, folder, 0, "")
            if error.where.startswith(os.path.abspath(folder)):
                raise
            return Outcome(video, folder, 0, str(error))

    def is_there(self, folder: str) -> bool:
        """Whether the prediction is there, as it is asked for.

        Raises:
          InputError: something else is there.
        """
        if self.request.overwrite or not os.path.lexists(folder):
            return False
        place = os.path.join(folder, ABOUT)
        try:
            asked = json.loads(Path(place).read_text(encoding="utf-8")).get("asked")
        except (OSError, ValueError, AttributeError):
            OutputFolder(folder)  # Raises, unless it is empty.
            return False
        if asked != self.request.asked:
            now = self.request.asked
            differ = [name for name in now if not isinstance(asked, dict) or asked.get(name) != now[name]]
            problem = f"is there already, with other settings ({', '.join(differ[:3])})"
            raise InputError(folder, problem, "give --overwrite, or name another with --output")
        return True


class _Loaded:
    """Weights on each device, and what was compiled for them."""

    def __init__(self, weights: Weights):
        self._host, self._on = weights, dict[Any, "Weights"]()
        self._moving, self._compiling = threading.Lock(), threading.Lock()
        self._compiled, self._told = set[Any](), set[str]()

    def on(self, device: jax.Device | None) -> Weights:
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

    def __init__(self, loaded: _Loaded, device: jax.Device | None, watch: _Watch | None):
        self._loaded, self._device, self._watch = loaded, device, watch

    def weights(self, request: Request, interruption: Interruption) -> Weights:
        return self._loaded.on(self._device)

    def bar(self, source: Source) -> Bar:
        return _Part(self._watch, source)

    def compiled(self, size: tuple[int, ...], predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        return self._loaded.compiled((self._device, size), predictions)

    def tell(self, line: str) -> None:
        self._loaded.tell(line)


class _Abandoned(Exception):
    """The run ends, and this video with it."""


class _Watch:
    """How far the videos of this process are: one bar for all."""

    def __init__(self, sizes: Mapping[str, int]):
        """``sizes``: bytes of the videos, by which the time left is told."""
        self._sizes, self._left = sizes, dict[str, float](sizes)
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self._bar = Progress(total=sum(sizes.values()), unit="B", unit_scale=True, desc="predict", bar_format=_BAR)
        self.videos = self.frames = 0
        self._began = time.perf_counter()

    def frame(self, path: str, count: int | None) -> None:
        """One more frame of a video, of so many, if that is known."""
        if self.stop.is_set():
            raise _Abandoned
        with self._lock:
            self.frames += 1
            self._show(path, self._sizes[path] / count if count else 0.0)

    def video(self, path: str) -> None:
        """One more video is done."""
        with self._lock:
            self.videos += 1
            self._show(path, self._left[path])

    def _show(self, path: str, bytes_: float) -> None:
        bytes_ = min(bytes_, self._left[path])
        self._left[path] -= bytes_
        rate = self.frames / (time.perf_counter() - self._began)
        self._bar.set_postfix_str(f"{self.videos}/{len(self._sizes)} videos, {rate:.1f} frames/s", refresh=False)
        self._bar.update(bytes_)

    def close(self) -> None:
        self._bar.close()


class _Part:
    """The bar of one of the videos."""

    def __init__(self, watch: _Watch | None, source: Source):
        self._watch, self._source = watch, source

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any, /) -> None:
        pass

    def update(self) -> None:
        if self._watch:
            self._watch.frame(self._source.name, self._source.count)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        pass


class Failures:
    """The list of the videos that failed: ``failed.csv``, a row each, of all processes."""

    def __init__(self, folder: str):
        self._path = Path(folder) / FAILED

    def note(self, tried: Collection[str], failed: Mapping[str, str]) -> None:
        """Takes out what was tried again, and adds what failed (path -> line); without any there is
        no list. InputError: it cannot be written."""
        if not failed and not self._path.exists():
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with Lock(self._path.with_name(f".{FAILED}.of_all"), self._path, _PATIENCE):
                kept = {video: line for video, line in self.rows().items() if video not in tried} | dict(failed)
                if kept:
                    text = io.StringIO()
                    csv.writer(text, lineterminator="\n").writerows([("video", "error"), *sorted(kept.items())])
                    write_text(self._path, text.getvalue(), errors="surrogateescape")
                else:
                    self._path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def rows(self) -> dict[str, str]:
        """Path -> line."""
        try:
            with self._path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                return {row["video"]: row["error"] for row in csv.DictReader(file)}
        except FileNotFoundError:
            return {}


def predict_many(request: Request, videos: Sequence[Video]) -> tuple[str, int]:
    """This process's share of the videos.

    Returns:
      A line for the user, and how many of the videos failed.

    Raises:
      InputError: something other than a video cannot be used; places are looked at before any
        video is begun.
      Stopped: by a signal; the videos that are whole stay.
    """
    request.require_sound()
    process, processes = share_of(request.cluster, os.environ)
    folder = request.output or default_output(request.inputs)
    if os.path.lexists(os.path.join(folder, ABOUT)):
        problem = "is the prediction of one input, and these are several videos"
        raise InputError(folder, problem, "name another folder with --output")
    with Interruption() as interruption:
        devices = _devices(interruption)
        predictor = Predictor(request)
        places = {video.path: os.path.join(folder, video.name) for video in videos}
        there = {path for path, place in places.items() if predictor.is_there(place)}
        sizes = {video.path: _size(video.path) for video in videos}
        mine = [videos[i].path for i in balanced(list(sizes.values()), processes)[process]]
        mine = sorted(mine, key=lambda path: -sizes[path])
        work = _Work(predictor, places, [path for path in mine if path not in there], Failures(folder), sizes)
        work.run([device for device in devices for _ in range(request.jobs)], interruption)
    done, failed = [each for each in work.outcomes if not each.error], [each for each in work.outcomes if each.error]
    Failures(folder).note(mine, {each.video: each.error for each in failed})
    said = [f"{len(done)} videos, {sum(each.frames for each in done)} frames"]
    said += [f"{len(there & set(mine))} were there"] * bool(there & set(mine))
    said += [f"{len(work.others)} in work by another process"] * bool(work.others)
    said += [f"{len(failed)} failed, see {FAILED}"] * bool(failed)
    share = f" (process {process} of {processes})" if processes > 1 else ""
    return f"{shown(folder)}: {', '.join(said)}{share}", len(failed)


class _Work:
    """The videos of this process, in lanes that each take the next when they have done one."""

    def __init__(
        self,
        predictor: Predictor,
        places: Mapping[str, str],
        paths: Sequence[str],
        failures: Failures,
        sizes: Mapping[str, int],
    ):
        self._predictor, self._places, self._failures = predictor, places, failures
        self._watch = _Watch({path: sizes[path] for path in paths})
        self._left = deque(paths)
        self.outcomes: list[Outcome] = []
        self.others: list[str] = []

    def run(self, devices: Sequence[jax.Device], interruption: Interruption) -> None:
        """All of them, one at a time on each of these, which may name a device several times."""
        from cffm_jax.runtime.jobs import run_together

        lanes = [functools.partial(self._lane, device) for device in devices]
        try:
            run_together(lanes[: len(self._left)], interruption)
        finally:
            self._watch.close()

    def _lane(self, device: jax.Device, stop: threading.Event) -> None:
        self._watch.stop = stop  # The same of all lanes.
        with contextlib.suppress(_Abandoned):
            while not stop.is_set() and (path := self._next()):
                self._one(path, device)

    def _next(self) -> str:
        """A video that no lane has; "" if there is none."""
        try:
            return self._left.popleft()
        except IndexError:
            return ""

    def _one(self, path: str, device: jax.Device) -> None:
        try:
            outcome = self._predictor.predict_on(device, path, self._places[path], self._watch)
        except InUse:
            self.others.append(path)
            return
        self.outcomes.append(outcome)
        if outcome.error:
            tqdm.write(f"warning: {shown(outcome.error)}", file=sys.stderr)
            self._failures.note((), {path: outcome.error})
        self._watch.video(path)


def _devices(interruption: Interruption) -> Sequence[jax.Device]:
    with interruption.deferred():
        import jax
    return jax.local_devices()


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # Reading it tells.
        return 0
