"""Batches follow from (seed, step) alone, whoever loads them; faults arrive as one line."""

import dataclasses
import errno
import itertools
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cffm_jax.config import DataConfig
from cffm_jax.data import decode, evaluation_frames, pipeline
from cffm_jax.data.layouts import read as layouts
from cffm_jax.data.layouts import video as layouts_video
from cffm_jax.data.layouts.vspw import CODING
from cffm_jax.data.watchdog import Watchdog
from cffm_jax.errors import InputError
from cffm_jax.runtime import checksums

from helpers.datasets import assert_same_batches

DATA = DataConfig(frame_size=(48, 85), crop=(32, 32), prefetch=2)
LENGTHS = (12, 11, 15, 5, 2, 1, 20)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Seven videos, some too short for full references, one portrait; labels 0..9 and 255."""
    root = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    for number, length in enumerate(LENGTHS):
        height, width = (85, 48) if number == 2 else (48, 85)
        folder = root / "data" / f"v{number}"
        (folder / "origin").mkdir(parents=True)
        (folder / "mask").mkdir()
        for index in range(length):
            frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            assert cv2.imwrite(str(folder / "origin" / f"{index:08d}.jpg"), frame)
            mask = rng.choice(np.array([*range(10), 255], np.uint8), (height, width))
            Image.fromarray(mask).save(folder / "mask" / f"{index:08d}.png")
    (root / "train.txt").write_text("\n".join(f"v{number}" for number in range(len(LENGTHS))))
    return layouts.read_split(str(root), "train")


def take(videos, count, data=DATA, batch_size=4, seed=0, **kwargs):
    with pipeline.training_batches(videos, data, num_classes=9, batch_size=batch_size, seed=seed, **kwargs) as batches:
        return list(itertools.islice(batches, count))


def test_shapes_and_types(videos):
    for batch in take(videos, 5):
        shapes = {key: (array.shape, array.dtype) for key, array in batch.items()}
        assert shapes == {
            "frames": ((4, 4, 32, 32, 3), np.uint8),
            "labels": ((4, 4, 32, 32), np.uint8),
            "size": ((4, 2), np.int32),
            "video": ((4,), np.int32),
        }
        assert set(batch["video"]) <= set(range(len(videos)))
        assert (batch["size"] >= 1).all() and (batch["size"] <= 32).all()
        assert set(np.unique(batch["labels"])) <= {*range(9), 255}


def test_other_clips_and_crops(videos):
    data = dataclasses.replace(DATA, offsets=(4, 2), crop=(24, 40))
    (batch,) = take(videos, 1, data)
    assert batch["frames"].shape == (4, 3, 24, 40, 3) and batch["labels"].shape == (4, 3, 24, 40)


def test_frames_as_samples_of_their_own(videos):
    """All labelled frames of the clips that there were."""
    clips, frames = (take(videos, 2, dataclasses.replace(DATA, samples=kind)) for kind in ("clips", "frames"))
    for clip, each in zip(clips, frames):
        for name in ("frames", "labels"):
            np.testing.assert_array_equal(each[name][:, 0], clip[name].reshape(16, *clip[name].shape[2:]))
            assert each[name].shape[:2] == (16, 1)
        for name in ("size", "video"):
            np.testing.assert_array_equal(each[name], clip[name].repeat(4, 0))


def test_where_targets_alone_are_labelled_they_are_the_samples(videos):
    partly = [dataclasses.replace(v, masks=tuple(m if i % 2 else None for i, m in enumerate(v.masks))) for v in videos]
    partly = [video for video in partly if video.targets]
    data = dataclasses.replace(DATA, samples="frames")
    for batch in take(partly, 2, data):
        assert batch["frames"].shape == (4, 1, 32, 32, 3) and batch["labels"].shape == (4, 1, 32, 32)
        assert batch["size"].shape == (4, 2) and batch["video"].shape == (4,)


def test_the_seed_decides(videos):
    first = take(videos, 4)
    assert_same_batches(first, take(videos, 4))
    assert not np.array_equal(first[0]["frames"], take(videos, 1, seed=1)[0]["frames"])


def test_every_epoch_holds_every_video_in_another_order(tmp_path):
    labelled = []
    for number in range(7):  # Video i shows label i + 1 alone.
        frame, mask = str(tmp_path / f"frame{number}.png"), str(tmp_path / f"mask{number}.png")
        Image.new("RGB", (85, 48)).save(frame)
        Image.new("L", (85, 48), number + 1).save(mask)
        labelled.append(layouts_video.Video(str(number), (frame,) * 12, (mask,) * 12, CODING))

    def orders(seed):
        return [tuple(batch["labels"][:, 3, 0, 0].tolist()) for batch in take(labelled, 12, batch_size=7, seed=seed)]

    found = orders(0)
    assert all(sorted(order) == list(range(7)) for order in found)
    assert len(set(found)) > 9
    assert found != orders(1)


def test_every_epoch_has_other_draws(videos):
    batches = take(videos[:1], 20, dataclasses.replace(DATA, distort=0.0), batch_size=1)
    assert len({batch["frames"].tobytes() for batch in batches}) == 20


def test_batches_run_on_over_the_end_of_an_epoch(videos):
    small, large = take(videos, 14, batch_size=2), take(videos, 7, batch_size=4)
    for index, batch in enumerate(large):
        pair = small[2 * index : 2 * index + 2]
        for key in batch:
            np.testing.assert_array_equal(batch[key], np.concatenate([part[key] for part in pair]))


@pytest.mark.parametrize("count", [2, 4])
def test_the_processes_batches_together_are_the_global_batch(videos, count):
    whole = take(videos, 5, start_step=2)
    parts = [take(videos, 5, start_step=2, process_index=p, process_count=count) for p in range(count)]
    together = [{key: np.concatenate([part[key] for part in step]) for key in step[0]} for step in zip(*parts)]
    assert_same_batches(whole, together)


def test_a_resumed_run_continues_as_if_never_stopped(videos):
    unbroken = take(videos, 9)
    for start in (1, 3, 7):
        assert_same_batches(unbroken[start:], take(videos, 9 - start, start_step=start))


def test_far_steps_cost_no_more_than_near_ones(videos):
    far = take(videos, 1, start_step=10**9)
    assert_same_batches(far, take(videos, 1, start_step=10**9))


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_and_prefetch_change_nothing(videos, threads):
    others = dataclasses.replace(DATA, threads=threads, prefetch=threads + 1)
    assert_same_batches(take(videos, 6), take(videos, 6, others))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_worker_processes_change_nothing_and_end_with_the_loader(videos, workers):
    before = multiprocessing.active_children()
    data = dataclasses.replace(DATA, workers=workers)
    assert_same_batches(take(videos, 5, start_step=1), take(videos, 5, data, start_step=1))
    assert multiprocessing.active_children() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_arrives_as_one_line_and_ends_the_loader(videos, tmp_path, workers):
    path = tmp_path / "cut.jpg"
    with open(videos[0].frames[0], "rb") as file:
        path.write_bytes(file.read()[:400])
    broken = (layouts_video.Video("broken", (str(path),) * 12, videos[0].masks, CODING),)
    with pytest.raises(InputError) as expected:
        decode.read_frame(str(path))
    batches = pipeline.training_batches(
        broken, dataclasses.replace(DATA, workers=workers), num_classes=9, batch_size=2, seed=0
    )
    with pytest.raises(InputError) as caught:
        next(batches)
    assert str(caught.value) == str(expected.value)
    assert not multiprocessing.active_children()
    batches.close()


def test_frames_of_one_video_must_have_one_size(videos):
    landscape, portrait = videos[0], videos[2]
    masks = landscape.masks[:9] + portrait.masks[:9]
    mixed = layouts_video.Video("mixed", landscape.frames[:9] + portrait.frames[:9], masks, CODING)
    with pytest.raises(InputError, match="same size"):
        take((mixed,), 30, batch_size=1)


def test_labels_beyond_the_classes_are_refused(videos):
    with pipeline.training_batches(videos, DATA, num_classes=8, batch_size=4, seed=0) as batches:
        with pytest.raises(InputError, match="--model.num-classes"):
            next(batches)


# --- files that are not as they should be


@pytest.fixture
def broken(videos, tmp_path):
    """A copy of the videos in which one frame of a video is cut off and a mask of another is gone: (videos, files)."""
    root = tmp_path / "broken"
    shutil.copytree(Path(videos[0].frames[0]).parents[3], root)
    copies = layouts.read_split(str(root), "train")
    cut, gone = Path(copies[4].frames[0]), Path(copies[5].masks[0])
    cut.write_bytes(cut.read_bytes()[:-20])
    gone.unlink()
    return copies, {str(cut), str(gone)}


LENIENT = dataclasses.replace(DATA, max_unreadable=99)


def test_clips_with_unreadable_files_are_replaced_and_named_once(videos, broken, capfd):
    copies, files = broken
    with pipeline.training_batches(copies, LENIENT, num_classes=9, batch_size=7, seed=0) as batches:
        found = list(itertools.islice(batches, 8))
        assert batches.skipped >= 8  # The video of one frame, in every epoch.
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("clip left out: ") for line in lines)
    assert {next(file for file in files if file in line) for line in lines} == files
    replaced = 0
    for batch, whole in zip(found, take(videos, 8, batch_size=7)):
        assert batch.keys() == whole.keys() and 5 not in batch["video"]
        for place, (got, expected) in enumerate(zip(batch["video"], whole["video"])):
            if got == expected:  # All that can be read is what it would be without the broken files.
                np.testing.assert_array_equal(batch["frames"][place], whole["frames"][place])
            replaced += got != expected
    assert replaced >= 8


@pytest.mark.long
def test_replaced_clips_do_not_depend_on_the_loader(broken):
    expected = take(broken[0], 6, LENIENT)
    assert_same_batches(expected, take(broken[0], 6, dataclasses.replace(LENIENT, threads=4, prefetch=5)))
    assert_same_batches(expected, take(broken[0], 6, dataclasses.replace(LENIENT, workers=2)))
    assert_same_batches(expected[2:], take(broken[0], 4, LENIENT, start_step=2))
    assert not np.array_equal(expected[0]["video"], take(broken[0], 1, LENIENT, seed=1)[0]["video"])


def test_too_many_unreadable_files_stop_the_run(broken):
    copies, files = broken
    data = dataclasses.replace(DATA, max_unreadable=6)
    with pipeline.training_batches(copies, data, num_classes=9, batch_size=1, seed=0) as batches:
        with pytest.raises(InputError, match="^--data.max-unreadable: more than 6 clips") as caught:
            list(itertools.islice(batches, 60))
        assert batches.skipped == 7
    assert any(file in str(caught.value) for file in files)
    with pytest.raises(InputError) as caught:
        take(copies, 60, batch_size=1)
    assert any(str(caught.value).startswith(file) for file in files)


@pytest.mark.parametrize("workers", [0, 1])
def test_where_nothing_can_be_read_the_run_stops(tmp_path, workers):
    gone = layouts_video.Video("gone", (str(tmp_path / "gone.jpg"),) * 12, (str(tmp_path / "gone.png"),) * 12, CODING)
    with pytest.raises(InputError, match="^--data.max-unreadable: more than 99 clips.*gone.jpg"):
        take((gone,), 1, dataclasses.replace(LENIENT, workers=workers))


def test_faults_of_the_settings_are_not_left_out(videos):
    with pipeline.training_batches(videos, LENIENT, num_classes=8, batch_size=4, seed=0) as batches:
        with pytest.raises(InputError, match="--model.num-classes"):
            next(batches)


@pytest.fixture
def verified(videos, tmp_path):
    """(root of a copy with a manifest, settings that verify it)."""
    root = str(tmp_path / "verified")
    shutil.copytree(Path(videos[0].frames[0]).parents[3], root)
    checksums.write_manifest(root, checksums.measure(root, {}, threads=1, progress=False))
    return root, dataclasses.replace(DATA, root=root, verify=True)


def flip_a_bit(path):
    """A bit of a file, such that it still decodes."""
    before, data = decode.read_frame(path), Path(path).read_bytes()
    for place in range(len(data) - 40, 0, -1):
        changed = bytearray(data)
        changed[place] ^= 1
        Path(path).write_bytes(changed)
        try:
            if not np.array_equal(decode.read_frame(path), before):
                return
        except InputError:
            pass
    raise AssertionError("no bit can be flipped")


def test_verified_files_give_the_same_batches(videos, verified):
    root, data = verified
    expected = take(videos, 3)
    assert_same_batches(expected, take(layouts.read_split(root, "train"), 3, data))


def test_a_flipped_bit_that_decodes_is_found(verified):
    root, data = verified
    copies = layouts.read_split(root, "train")
    flip_a_bit(copies[5].frames[0])
    take(copies[5:6], 1, batch_size=1)  # Without the manifest nothing is amiss.
    with pytest.raises(InputError, match="00000000.jpg: has changed since manifest.sha256"):
        take(copies[5:6], 1, data, batch_size=1)


def test_without_a_manifest_nothing_starts(verified):
    root, data = verified
    copies = layouts.read_split(root, "train")
    path = Path(root, checksums.NAME)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "v3/mask/00000002" not in line))
    with pytest.raises(InputError, match="v3/mask/00000002.png: is not in .*manifest.sha256"):
        pipeline.training_batches(copies, data, num_classes=9, batch_size=2, seed=0)
    path.unlink()
    with pytest.raises(InputError, match="manifest.sha256: cannot be read .*; write one"):
        pipeline.training_batches(copies, data, num_classes=9, batch_size=2, seed=0)


# --- loader processes that end or stand still


def workers_of(batches):
    """Starts the loader; its processes."""
    before = set(multiprocessing.active_children())
    next(batches)
    return [process for process in multiprocessing.active_children() if process not in before]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (signal.SIGKILL, r"^--data.workers: loader process {pid} \(SIGKILL\) ended"),
        (signal.SIGBUS, r"^/dev/shm: is too small .* \(a loader process was ended by SIGBUS\)"),
        (signal.SIGSTOP, r"^--data.stall-seconds: no batch within 1 s from loader processes {pid} \(stopped\)"),
    ],
)
def test_a_worker_that_ends_or_stands_still_is_named_and_does_not_hang_the_run(videos, sent, said):
    data = dataclasses.replace(DATA, workers=1, stall_seconds=20)
    with pipeline.training_batches(videos, data, num_classes=9, batch_size=2, seed=0) as batches:
        (worker,) = workers_of(batches)
        batches._watchdog._seconds = 1 if sent == signal.SIGSTOP else 20  # Not while the process starts.
        os.kill(worker.pid, sent)
        began = time.monotonic()
        with pytest.raises(InputError, match=said.format(pid=worker.pid)):
            list(itertools.islice(batches, 100))  # What was ready before still comes.
        batches.close()
        assert time.monotonic() - began < 15
    worker.join(5)
    assert not worker.is_alive()


def test_shared_memory_without_room_is_one_line():
    """What Python raises where not even a lock fits."""

    def batches():
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    watchdog = Watchdog(batches(), 20)
    with pytest.raises(InputError, match=r"^/dev/shm: is too small .*\(No space left on device\); make it larger"):
        watchdog.next()
    watchdog.close()


def test_a_thread_that_stands_still_is_noticed(videos, tmp_path):
    path = tmp_path / "stuck.jpg"
    os.mkfifo(path)  # To open it waits until somebody writes.
    stuck = layouts_video.Video("stuck", (str(path),) * 12, videos[0].masks, CODING)
    data = dataclasses.replace(DATA, stall_seconds=0.5)
    with pytest.raises(InputError, match="^--data.stall-seconds: no batch within 0.5 s;"):
        take((stuck,), 1, data, batch_size=1)
    # Lets go the threads, of which more may have started: each reads the frames of a clip.
    for _ in range(4 * data.threads * data.prefetch * (1 + len(data.offsets))):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("option", "data", "settings"),
    [
        ("--train.batch-size", {}, {"batch_size": 6, "process_count": 4}),
        ("--train.batch-size", {}, {"batch_size": 0}),
        ("--train.seed", {}, {"seed": -1}),
        ("--data.workers", {"workers": -1}, {}),
        ("--data.threads", {"threads": 0}, {}),
        ("--data.prefetch", {"prefetch": 0}, {}),
        ("--data.max-unreadable", {"max_unreadable": -1}, {}),
        ("--data.stall-seconds", {"stall_seconds": -1.0}, {}),
    ],
)
def test_numbers_that_do_not_fit(videos, option, data, settings):
    with pytest.raises(InputError, match=f"^{option}: "):
        take(videos, 1, dataclasses.replace(DATA, **data), **settings)


# --- evaluation


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((480, 853), (480, 853), (480, 864)),
        ((853, 480), (480, 853), (864, 480)),
        ((720, 1280), (480, 853), (480, 864)),
        ((480, 640), (480, 853), (480, 640)),
        ((240, 320), (480, 853), (480, 640)),
        ((1024, 2048), (512, 1024), (512, 1024)),
        ((10, 1000), (480, 853), (32, 864)),
        ((1080, 1920), (0, 0), (1088, 1920)),
    ],
)
def test_evaluation_size(size, box, expected):
    assert evaluation_frames.evaluation_size(*size, box) == expected
    with pytest.raises(InputError, match="more than the 67108864 pixels allowed"):
        evaluation_frames.evaluation_size(*size, (100_000, 100_000))


@pytest.mark.parametrize("size", [(48, 85), (85, 48), (96, 64), (33, 70), (30, 40)])
def test_evaluation_frames_are_resized_in_two_bilinear_steps(tmp_path, size):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(frame).save(tmp_path / "a.png")
    result, original = evaluation_frames.load_evaluation_frame(str(tmp_path / "a.png"), (85, 48))
    factor = min(85 / max(size), 48 / min(size))
    fitted = cv2.resize(frame, tuple(int(side * factor + 0.5) for side in size[::-1]), interpolation=cv2.INTER_LINEAR)
    aligned = tuple(-(-side // 32) * 32 for side in fitted.shape[1::-1])
    np.testing.assert_array_equal(result, cv2.resize(fitted, aligned, interpolation=cv2.INTER_LINEAR))
    assert result.shape[:2] == evaluation_frames.evaluation_size(*size, (85, 48))
    assert original == size


def test_a_frame_of_fitting_size_is_left_alone(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(frame).save(tmp_path / "a.png")
    result, _ = evaluation_frames.load_evaluation_frame(str(tmp_path / "a.png"), (96, 64))
    np.testing.assert_array_equal(result, frame)


def test_an_unreadable_evaluation_frame_is_refused(tmp_path):
    with pytest.raises(InputError, match="gone.jpg"):
        evaluation_frames.load_evaluation_frame(str(tmp_path / "gone.jpg"), (85, 48))
