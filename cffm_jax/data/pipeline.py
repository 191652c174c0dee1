"""From videos on disk to batches of clips (Grain), and single frames for evaluation."""

from __future__ import annotations

import dataclasses
import signal
import sys
import types
from collections.abc import Container, Iterable, Iterator, Sequence

import cv2
import grain
import numpy as np
import tqdm
from absl import flags

from cffm_jax.config import SETTINGS, DataConfig
from cffm_jax.data import augment, decode
from cffm_jax.data.evaluation_frames import fit_frame as fit_frame  # where users find it
from cffm_jax.data.image_files import UnreadableFile
from cffm_jax.data.layouts.read import manifest_of
from cffm_jax.data.layouts.records import read_all
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.watchdog import Watchdog
from cffm_jax.errors import InputError
from cffm_jax.rules import require_value, require_values
from cffm_jax.runtime.checksums import Manifest

Batch = dict[str, np.ndarray]

_UNREADABLE = "unreadable"
"""Key of a batch that does not leave the loader."""


def training_batches(
    videos: Sequence[Video],
    data: DataConfig,
    *,
    num_classes: int,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainingBatches:
    """Endless batches of augmented training clips, one clip of every video in each epoch.

    The batch of step s follows from (seed, s) alone, to the byte, whatever the workers, threads,
    processes and resumptions. The processes' batches, one after the other, are the global batch.

    Args:
      videos: the training split, with masks; where a frame has none, only targets' masks are read.
      data: the settings; with ``data.verify`` the videos lie below ``data.root`` (or are records).
      num_classes: number of classes; masks with larger labels are refused.
      batch_size: clips in a global batch; each process gets b = batch_size // process_count.
      seed: of the order of the videos and of every draw.
      start_step: step of the first batch.
      process_index: this process, of process_count.
      process_count: number of processes that share the global batch.

    Returns:
      An iterator and context manager of frames u8[b,T,h,w,3] (f32[b,T,h,w,K] of other channels),
      labels u8[b,L,h,w] (255 = ignored) of
      the last L frames, L = T or, where not every frame has a mask, 1, size i32[b,2] (height, width
      of the unpadded part, see `augment.pad`) and video i32[b] (index into ``videos``). With
      data.samples "frames" b L samples take the place of b clips, and T and L are 1. With
      data.workers > 0 its processes are spawned: the program's entry needs
      ``if __name__ == "__main__":``.

    Raises:
      InputError: a number does not fit, or there is no manifest to verify with; while iterating: a
        file cannot be used, or the loader's processes were killed or do nothing.
    """
    require_value("train.seed", seed, SETTINGS["train.seed"])
    require_values(data, "data.", part="loader")
    if batch_size < 1 or batch_size % process_count:
        problem = f"{batch_size} clips cannot be shared equally by {process_count} process(es)"
        raise InputError("--train.batch-size", problem, f"give a positive multiple of {process_count}")
    sparse = any(video.sparse for video in videos)
    alone = data.samples == "frames"
    if alone and sparse:
        data = dataclasses.replace(data, offsets=())  # Nothing reads the references.
    manifest = manifest_of(data)
    if manifest is not None:
        manifest.require(path for video in videos for path in (*video.frames, *filter(None, video.masks)))
    batches = (
        grain.MapDataset.source(tuple(enumerate(videos)))
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(_LoadClip(data, num_classes, tuple(videos), manifest, sparse))
        # Processes take turns at whole batches. Slicing before random_map instead would give all of
        # them the same draws, and slicing single clips would interleave the processes' parts of the
        # global batch.
        .batch(batch_size // process_count, drop_remainder=True)[process_index::process_count][start_step:]
    )
    return TrainingBatches(batches.map(_frames_alone) if alone else batches, data)


@dataclasses.dataclass(frozen=True)
class _LoadClip:
    """Draws a clip of a video, reads and augments it; a class, as workers receive it pickled."""

    data: DataConfig
    num_classes: int
    videos: tuple[Video, ...]
    manifest: Manifest | None
    targets_only: bool

    def __call__(self, item: tuple[int, Video], rng: np.random.Generator) -> Batch:
        """One element of a batch: frames u8[T,h,w,3], labels u8[L,h,w], size i32[2], video i32[].

        An unreadable clip is replaced by one of another video. One generator, seeded by the clip's
        place in the order, makes all draws: whoever loads it, the same files give the same clip.
        With data.max_unreadable the element also lists what was unreadable, under ``_UNREADABLE``.
        """
        number, video = item
        unreadable = []
        while True:
            try:
                clip = self._load(video, rng)
                break
            except UnreadableFile as error:
                unreadable.append(str(error))
                if len(unreadable) > self.data.max_unreadable:
                    raise
            number = int(rng.integers(len(self.videos)))
            video = self.videos[number]
        unread = {_UNREADABLE: np.array("\n".join(unreadable))} if self.data.max_unreadable else {}
        return {**clip, "video": np.array(number, np.int32), **unread}

    def _load(self, video: Video, rng: np.random.Generator) -> Batch:
        indices = video.training_clip(rng, self.data.offsets, self.data.reverse)
        target = indices[-1]
        labelled = indices[-1:] if self.targets_only else indices
        frames, labels = self._read(video, dict.fromkeys(indices), labelled)
        for i, frame in frames.items():
            if frame.shape != frames[target].shape:
                problem = f"differs in size from {video.frames[target]}"
                raise InputError(video.frames[i], problem, "give all frames of a video the same size")
        clip = [frames[i] for i in indices], [labels[i] for i in labelled]
        return dict(zip(("frames", "labels", "size"), augment.augment(*clip, self.data, rng), strict=True))

    def _read(
        self, video: Video, indices: Iterable[int], labelled: Container[int]
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """Frames by index and masks of those in ``labelled``; reads all files before decoding."""
        names = {i: (video.frames[i], video.mask(i) if i in labelled else None) for i in indices}
        files = [name for pair in names.values() for name in pair if name is not None]
        data = dict(zip(files, read_all(files, self.manifest), strict=True))
        frames, masks, channels = {}, {}, self.data.frame_channels
        for i, (frame, mask) in names.items():
            if mask is None:
                frames[i] = decode.decode_frame(frame, data[frame], channels=channels)
            else:
                stored = data[frame], data[mask]
                frames[i], masks[i] = decode.decode_pair(frame, mask, *stored, self.num_classes, video.coding, channels)
        return frames, masks


def _frames_alone(batch: Batch) -> Batch:
    """Each of the L labelled frames of a batch's clips as a clip of its own."""
    count = batch["labels"].shape[1]
    parts = {name: batch[name][:, -count:] for name in ("frames", "labels")}
    each = {name: np.repeat(batch[name], count, 0) for name in ("size", "video")}
    return batch | each | {name: part.reshape(-1, 1, *part.shape[2:]) for name, part in parts.items()}


class TrainingBatches(Iterator[Batch]):
    """Loads batches ahead; `close`, a with-block's end or an error ends the processes and threads.

    Attributes:
      skipped: clips of the batches so far that were replaced, as a file of theirs was unreadable.
    """

    def __init__(self, batches: grain.MapDataset, data: DataConfig):
        ahead = max(data.threads, data.prefetch if not data.workers else 0)
        dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=ahead))
        if data.workers:
            # Before it starts a worker, Grain reads a flag of its own, which absl refuses while no
            # flags were parsed.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            share = -(-data.prefetch // data.workers)
            options = grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=share)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
        else:
            cv2.setNumThreads(0)
        self._iterator = iter(dataset)
        self._watchdog = Watchdog(self._iterator, data.stall_seconds)
        self._allowed = data.max_unreadable
        self._warned: set[str] = set()
        self.skipped = 0

    def __next__(self) -> Batch:
        try:
            batch = self._watchdog.next()
            # Counted here, batch by batch, so that the limit too does not depend on who loads them,
            # or how far ahead.
            for lines in batch.pop(_UNREADABLE, ()):
                self._skip(str(lines).splitlines())
            return batch
        except BaseException as error:
            self.close()
            if isinstance(error, UnreadableFile) and self._allowed:
                raise self._too_many(str(error)) from error
            raise

    def _skip(self, unreadable: Sequence[str]) -> None:
        for line in unreadable:
            self.skipped += 1
            if self.skipped > self._allowed:
                raise self._too_many(line)
            if line not in self._warned:
                self._warned.add(line)
                tqdm.tqdm.write(f"clip left out: {line}", file=sys.stderr)

    def _too_many(self, last: str) -> InputError:
        problem = f"more than {self._allowed} clips have an unreadable file, the last: {last}"
        return InputError("--data.max-unreadable", problem, "see python -m cffm_jax.data.check")

    def close(self) -> None:
        """Ends the worker processes, and the threads after the batch in hand. Idempotent."""
        self._watchdog.close()
        self._iterator.close()

    def __enter__(self) -> TrainingBatches:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        self.close()


def _start_worker(index: int, count: int) -> None:
    """Prepares a loader process, whose threads use its share of the cores: OpenCV adds none."""
    del index, count
    cv2.setNumThreads(0)
    # A terminal sends Ctrl-C to the loader too; the training ends it when its step is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
