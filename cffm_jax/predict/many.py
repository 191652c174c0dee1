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
from cffm_jax.runtime.atomic import write_text
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
    """Predicts one video after another with weights that are loaded once, and compiled once for
    each size of frames. Several threads may call it at a time.

    For what shares videos out by itself, such as Ray Data and Beam: one for each worker.
    """

    def __init__(self, request: Request, devices: Sequence[jax.Device] = ()):
        """
        Args:
          request: the inputs, the output and how many jobs there are do not count.
          devices: to compute on, which calls name by their number; default: JAX's first.

        Raises:
          InputError: something other than a video is wrong.
        """
        request.require_settings()
        with Interruption() as interruption:
            weights = Surroundings().weights(request, interruption)
        chosen_classes(request.classes, weights.names)
        self.request, self.devices = request, tuple(devices)
        self._around = _OnDevices(weights, self.devices)

    def __call__(self, video: str, folder: str) -> Outcome:
        """Predicts a video into a folder, whole or not at all, if it is not there.

        Raises:
          InputError: the folder cannot be used: it holds something else, or cannot be written.
          InUse: another process is making it.
        """
        return self.outcome(video, folder, self._around)

    def on(self, device: int, watch: _Watch) -> _OnDevices:
        """What surrounds predictions on a device, that tell ``watch`` how far they are."""
        return self._around.at(device, watch)

    def outcome(self, video: str, folder: str, around: _OnDevices) -> Outcome:
        """As a call."""
        if self.is_there(folder):
            return Outcome(video, folder, 0, "")
        request = dataclasses.replace(self.request, inputs=(video,), output=folder)
        try:
            with around.computing():
                return Outcome(video, folder, predict(request, around).frames, "")
        except InUse:
            raise
        except InputError as error:
            if self.is_there(folder):  # Of another process, since.
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


class _OnDevices(Surroundings):
    """Around the predictions of many videos."""

    def __init__(self, weights: Weights, devices: Sequence[jax.Device]):
        self._weights: dict[int, Weights] = {}
        self._host, self._devices, self._device = weights, devices, 0
        self._lock = threading.Lock()
        self._compiled: set[Any] = set()
        self._watch: _Watch | None = None

    def at(self, device: int, watch: _Watch) -> _OnDevices:
        other = object.__new__(_OnDevices)
        other.__dict__ = {**self.__dict__, "_device": device, "_watch": watch}
        return other

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """On its device."""
        import jax

        with jax.default_device(self._devices[self._device]) if self._devices else contextlib.nullcontext():
            yield

    def weights(self, request: Request, interruption: Interruption) -> Weights:
        import jax

        with self._lock:
            if self._device not in self._weights:
                there = jax.device_put(self._host.variables, *self._devices[self._device : self._device + 1])
                self._weights[self._device] = dataclasses.replace(self._host, variables=there)
        return self._weights[self._device]

    def bar(self, source: Source) -> Bar:
        return _Part(self._watch, source)

    def compiled(self, size: tuple[int, ...], predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        """One thread compiles, and others that have frames of this size wait for it."""
        kind = (self._device, size)
        if kind not in self._compiled:
            with self._lock:
                first = next(predictions, None)
                self._compiled.add(kind)
            if first is not None:
                yield first
        yield from predictions


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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with Lock(self._path.with_name(f".{FAILED}.of_all"), self._path, _PATIENCE):
            kept = {video: line for video, line in self.rows().items() if video not in tried} | dict(failed)
            if kept:
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows([("video", "error"), *sorted(kept.items())])
                write_text(self._path, text.getvalue(), errors="surrogateescape")
            else:
                self._path.unlink(missing_ok=True)

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
        predictor = Predictor(request, _devices(interruption))
        places = {video.path: os.path.join(folder, video.name) for video in videos}
        there = {path for path, place in places.items() if predictor.is_there(place)}
        sizes = {video.path: _size(video.path) for video in videos}
        mine = [videos[i].path for i in balanced(list(sizes.values()), processes)[process]]
        mine = sorted(mine, key=lambda path: -sizes[path])
        work = _Work(predictor, places, [path for path in mine if path not in there], Failures(folder), sizes)
        work.run(request.jobs, interruption)
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

    def run(self, jobs: int, interruption: Interruption) -> None:
        """All of them, so many at a time on each device."""
        from cffm_jax.runtime.jobs import run_together

        devices = max(1, len(self._predictor.devices))
        lanes = min(jobs * devices, len(self._left))
        try:
            run_together([functools.partial(self._lane, number % devices) for number in range(lanes)], interruption)
        finally:
            self._watch.close()

    def _lane(self, device: int, stop: threading.Event) -> None:
        self._watch.stop = stop  # The same of all lanes.
        around = self._predictor.on(device, self._watch)
        with contextlib.suppress(_Abandoned):
            while not stop.is_set() and (path := self._next()):
                self._one(path, around)

    def _next(self) -> str:
        """A video that no lane has; "" if there is none."""
        try:
            return self._left.popleft()
        except IndexError:
            return ""

    def _one(self, path: str, around: _OnDevices) -> None:
        try:
            outcome = self._predictor.outcome(path, self._places[path], around)
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
