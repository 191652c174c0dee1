"""Many videos: each by itself into a folder of its own, several in work at a time, by one process
or by several that share them.

What is there is left out, so that a run that was killed goes on, and processes on one folder do not
do the same twice: each takes its share, and a folder in the making is locked.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from cffm_jax.data.layouts.names import passed_over_in_words
from cffm_jax.errors import InputError
from cffm_jax.media.images import list_images
from cffm_jax.media.many import ABOUT, Video, left_out
from cffm_jax.predict.job import shown
from cffm_jax.predict.predictor import Outcome, Predictor, Watch, is_there
from cffm_jax.predict.request import Request
from cffm_jax.predict.workers import Worker, core_shares
from cffm_jax.predict.writers import default_output
from cffm_jax.runtime.atomic import unwritable, write_text
from cffm_jax.runtime.balance import balanced
from cffm_jax.runtime.cluster import share_of
from cffm_jax.runtime.lock import InUse, Lock
from cffm_jax.runtime.progress import Progress
from cffm_jax.runtime.signals import Interruption

FAILED = "failed.csv"
_BAR = "{l_bar}{bar}| {postfix} [{elapsed}<{remaining}]"
_NOTES = 5.0
"""Seconds between two writes of what failed."""
_PATIENCE = 60.0
"""Seconds to wait for another process that writes what failed."""


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
        self._bar.leave = self.frames > 0 or self.videos > 0
        self._bar.close()


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
        """Path -> line. InputError: it is another file."""
        try:
            with self._path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                return {row["video"]: row["error"] for row in csv.DictReader(file)}
        except (FileNotFoundError, NotADirectoryError):  # Writing tells of the folder.
            return {}
        except (KeyError, csv.Error) as error:
            raise InputError(self._path, "is no list of videos that failed", "move it away") from error


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
    failures = Failures(folder)
    failures.rows()  # Raises what would be found after the work.
    for name in request.inputs:
        if others := left_out(name):
            print(f"warning: {shown(name)}: {shown(passed_over_in_words(others, 'no videos'))}", file=sys.stderr)
    if processes > 1 and not request.cluster.processes:
        line = f"takes a share of the videos, as process {process} of the {processes} that the scheduler tells of"
        print(f"warning: {line}; --cluster.processes 1 takes all", file=sys.stderr)
    with Interruption() as interruption:
        places = {video.path: os.path.join(folder, video.name) for video in videos}
        there = {path for path, place in places.items() if is_there(request, place)}
        sizes = {video.path: _size(video.path) for video in videos}
        mine = [videos[i].path for i in balanced(list(sizes.values()), processes)[process]]
        mine = sorted(mine, key=lambda path: -sizes[path])
        work = _Work(places, [path for path in mine if path not in there], failures, sizes)
        try:
            work.run(request, interruption)
        finally:
            failed = [each for each in work.outcomes if each.error]
            tried = {each.video for each in work.outcomes} | {*mine} & there
            failures.note(tried, {each.video: each.error for each in failed})
    done = [each for each in work.outcomes if not each.error]
    said = [f"{len(done)} videos, {sum(each.frames for each in done)} frames"]
    said += [f"{len(there & set(mine))} were there"] * bool(there & set(mine))
    said += [f"{len(work.others)} in work by another process"] * bool(work.others)
    said += [f"{len(failed)} failed, see {FAILED}"] * bool(failed)
    share = f" (process {process} of {processes})" if processes > 1 else ""
    return f"{shown(folder)}: {', '.join(said)}{share}", len(failed)


class _Work:
    """The videos of this process, in lanes that each take the next when they have done one."""

    def __init__(self, places: Mapping[str, str], paths: Sequence[str], failures: Failures, sizes: Mapping[str, int]):
        self._places, self._failures = places, failures
        self._watch = _Watch({path: sizes[path] for path in paths})
        self._left = deque(paths)
        self._noting, self._note_at = threading.Lock(), 0.0
        self.outcomes: list[Outcome] = []
        self.others: list[str] = []

    def run(self, request: Request, interruption: Interruption) -> None:
        """All of them, so many at a time on each device."""
        with interruption.deferred():
            import jax

            from cffm_jax.runtime.jobs import run_together

        most = len(self._left)
        with contextlib.ExitStack() as stack:
            stack.callback(self._watch.close)
            on_cpu = request.onnx_engine or jax.default_backend() == "cpu"
            shares = core_shares(min(request.jobs, most)) if on_cpu else []
            if shares:
                calls = [stack.enter_context(Worker(request, cores)) for cores in shares]
            elif most:
                predictor = Predictor(request)
                on = [functools.partial(predictor.predict_on, device) for device in jax.local_devices()]
                calls = (on * request.jobs)[:most]
            else:
                calls = []
            run_together([functools.partial(self._lane, call) for call in calls], interruption)

    def _lane(self, call: Callable[[str, str, Watch], Outcome], stop: threading.Event) -> None:
        self._watch.stop = stop  # The same of all lanes.
        with contextlib.suppress(_Abandoned):
            while not stop.is_set() and (path := self._next()):
                self._one(call, path)

    def _note(self) -> None:
        """Writes what failed so far, now and then: each time all is written."""
        with self._noting:
            if time.monotonic() >= self._note_at:
                self._note_at = time.monotonic() + _NOTES
                self._failures.note((), {each.video: each.error for each in self.outcomes if each.error})

    def _next(self) -> str:
        """A video that no lane has; "" if there is none."""
        try:
            return self._left.popleft()
        except IndexError:
            return ""

    def _one(self, call: Callable[[str, str, Watch], Outcome], path: str) -> None:
        try:
            outcome = call(path, self._places[path], self._watch)
        except InUse:
            self.others.append(path)
            return
        self.outcomes.append(outcome)
        if outcome.error:
            tqdm.write(f"warning: {shown(outcome.error)}", file=sys.stderr)
            self._note()
        self._watch.video(path)


def _size(path: str) -> int:
    """Bytes; of a folder of frames about, by the first one: there may be millions of them."""
    try:
        if not os.path.isdir(path):
            return os.path.getsize(path)
        frames = list_images(path)
        return len(frames) * os.path.getsize(frames[0])
    except (OSError, InputError):  # Reading it tells.
        return 0
