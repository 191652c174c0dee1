"""Whole-video segmentation equals the clip-by-clip definition, on every frame, the first ones included."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cffm_jax import create_model
from cffm_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from cffm_jax.data.evaluation_frames import load_evaluation_frame
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.layouts.vspw import CODING
from cffm_jax.errors import InputError
from cffm_jax.evaluation.model_scores import evaluate
from cffm_jax.inference import labelled_frames, whole_videos
from cffm_jax.inference.labelled_frames import segment_targets
from cffm_jax.inference.whole_videos import VideoSegmenter
from cffm_jax.metrics.confusion import Confusion
from cffm_jax.models.methods.frame_network import PER_FRAME as FRAME_ROW
from cffm_jax.models.normalise import normalise
from cffm_jax.models.resize import resize_bilinear

from helpers.drawn import lively

SIZE = (60, 90)  # resized to 64x96 for the model
CLASSES = 5
FIRST_FRAMES = {3: (0, 1, 2), 4: (0, 2, 3), 5: (0, 2, 4), 6: (0, 2, 4), 7: (0, 3, 5), 8: (0, 3, 6)}


def write_video(folder, name: str, frames: int, size: tuple[int, int] = SIZE) -> Video:
    rng = np.random.default_rng(frames)
    paths, masks = [], []
    for i in range(frames):
        coarse = rng.integers(0, 256, (6, 9, 3), np.uint8)
        paths.append(str(folder / f"{name}_{i:03}.jpg"))
        cv2.imwrite(paths[-1], cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))
        masks.append(str(folder / f"{name}_{i:03}.png"))
        Image.fromarray(rng.integers(0, CLASSES + 1, size, np.uint8)).save(masks[-1])
    return Video(name, tuple(paths), tuple(masks), CODING)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    config = Config(
        model=ModelConfig("cffm_b0", CLASSES), data=DataConfig(frame_size=(60, 90), threads=2), eval=EvalConfig(chunk=4)
    )
    model = create_model("cffm_b0", CLASSES, depths=(1, 1, 1, 1))
    folder = tmp_path_factory.mktemp("videos")
    videos = [write_video(folder, "long", 14), write_video(folder, "short", 2)]
    return config, model, lively(model), videos


@pytest.fixture(scope="module")
def chunks(setting):
    config, model, variables, videos = setting
    return list(VideoSegmenter(model, config).segment(variables, videos))


def gathered(chunks, name: str, kind: str) -> np.ndarray:
    return np.concatenate([chunk.masks[kind] for chunk in chunks if chunk.video.name == name])


def test_chunks_cover_each_video_in_order(chunks):
    spans = [(c.video.name, c.start, len(c.predictions)) for c in chunks]
    assert spans == [("long", 0, 4), ("long", 4, 4), ("long", 8, 4), ("long", 12, 2), ("short", 0, 2)]
    assert all(list(c.masks) == ["CFFM", FRAME_ROW] for c in chunks)
    assert all(m.shape == c.labels.shape == (len(c.labels), *SIZE) for c in chunks for m in c.masks.values())


def test_masks_equal_the_clip_by_clip_definition(setting, chunks):
    config, model, variables, videos = setting
    frames = np.stack([load_evaluation_frame(path, config.data.frame_size)[0] for path in videos[0].frames])
    clip_logits = jax.jit(model.apply)
    frame_logits = jax.jit(lambda v, x: model.apply(v, x, method="frame_logits"))
    clip, frame = gathered(chunks, "long", "CFFM"), gathered(chunks, "long", FRAME_ROW)
    assert (clip != frame).any()
    for t in range(len(frames)):
        own = frame_logits(variables, normalise(frames[t : t + 1]))
        logits = own
        if t >= 3:
            references = FIRST_FRAMES.get(t, (t - 9, t - 6, t - 3))
            logits = clip_logits(variables, normalise(frames[[*references, t]])[None])
        for result, expected in ((clip[t], logits), (frame[t], own)):
            full = np.asarray(resize_bilinear(resize_bilinear(expected, (64, 96)), SIZE))[0]
            top = np.sort(full, -1)
            clear = top[..., -1] - top[..., -2] > 1e-4
            assert clear.mean() > 0.99
            np.testing.assert_array_equal(result[clear], full.argmax(-1)[clear], err_msg=f"frame {t}")


def test_the_first_three_frames_have_their_own_logits(chunks):
    for name in ("long", "short"):
        np.testing.assert_array_equal(gathered(chunks, name, "CFFM")[:3], gathered(chunks, name, FRAME_ROW)[:3])


@pytest.mark.parametrize(
    ("backend", "size", "given", "expected"),
    [
        ("cpu", (480, 853), 0, 1), ("cpu", (240, 426), 0, 4), ("cpu", (64, 96), 0, 8), ("cpu", (1080, 1920), 0, 1),
        ("gpu", (480, 853), 0, 8), ("gpu", (64, 96), 0, 8), ("cpu", (480, 853), 5, 5), ("gpu", (64, 96), 5, 5),
    ],
)  # fmt: skip
def test_frames_of_a_call(monkeypatch, backend, size, given, expected):
    monkeypatch.setattr(whole_videos.jax, "default_backend", lambda: backend)
    assert whole_videos.chunk_size(Config(data=DataConfig(frame_size=size), eval=EvalConfig(chunk=given))) == expected


@pytest.mark.parametrize("chunk", [1, *(pytest.param(n, marks=pytest.mark.long) for n in (5, 16))])
def test_the_chunk_changes_nothing(setting, chunks, chunk):
    config, model, variables, videos = setting
    other = dataclasses.replace(config, eval=EvalConfig(chunk=chunk))
    results = list(VideoSegmenter(model, other).segment(variables, videos[:1]))
    for kind in ("CFFM", FRAME_ROW):
        assert (gathered(results, "long", kind) != gathered(chunks, "long", kind)).mean() < 1e-3


class Mask:
    """Stands in for masks on a device: notes when they are asked for and when they are waited for."""

    def __init__(self, number, shape, said):
        self._number, self._shape, self._said = number, shape, said

    def copy_to_host_async(self):
        self._said.append(("copy", self._number))

    def __array__(self, dtype=None, copy=None):
        self._said.append(("wait", self._number))
        return np.zeros(self._shape, np.uint8)


def in_flight(count):
    """The order of calls: a chunk is waited for when the next is under way, and never is a third."""
    order = [("dispatch", 0), ("copy", 0)]
    for i in range(1, count):
        order += [("dispatch", i), ("copy", i), ("wait", i - 1), ("use", i - 1)]
    return [*order, ("wait", count - 1), ("use", count - 1)]


def test_a_chunk_is_waited_for_when_the_next_is_dispatched(setting, monkeypatch):
    """Across videos too."""
    config, _, _, videos = setting
    segmenter, said, numbers = VideoSegmenter(create_model("segformer_b0", CLASSES), config), [], itertools.count()

    def step(engine, variables, state, frames, prototypes, *, size):
        number = next(numbers)
        said.append(("dispatch", number))
        return state, {FRAME_ROW: Mask(number, (*frames.shape[:2], *size), said)}

    monkeypatch.setattr(whole_videos, "jitted_step", step)
    for i, chunk in enumerate(segmenter.segment({"leaf": np.zeros(1)}, videos)):
        said.append(("use", i))
        assert chunk.predictions.shape == chunk.labels.shape
    assert said == in_flight(5)


def test_targets_are_waited_for_when_the_next_are_dispatched(setting, monkeypatch):
    config, _, _, (video, _) = setting
    sparse = dataclasses.replace(video, masks=tuple(m if i % 5 == 3 else None for i, m in enumerate(video.masks)))
    segmenter = VideoSegmenter(create_model("cffm_b0", CLASSES), config, parts=False)
    said, numbers = [], itertools.count()

    def step(engine, variables, state, frames, prototypes, *, size):
        number = next(numbers)
        said.append(("dispatch", number))
        return state, {"CFFM": Mask(number, (len(frames), 1, *size), said)}

    monkeypatch.setattr(labelled_frames, "jitted_step", step)
    for chunk in labelled_frames.segment_targets(segmenter, {"leaf": np.zeros(1)}, [sparse]):
        said.append(("use", len([word for word, _ in said if word == "use"])))
        assert chunk.start % 5 == 3
    assert said == in_flight(3)


@pytest.mark.long
def test_own_references_are_the_target_repeated(setting, chunks):
    config, model, variables, videos = setting
    results = list(VideoSegmenter(model.clone(static=True), config).segment(variables, videos[:1]))
    masks = gathered(results, "long", "CFFM")
    assert (masks != gathered(chunks, "long", "CFFM")).any()
    np.testing.assert_array_equal(gathered(results, "long", FRAME_ROW), gathered(chunks, "long", FRAME_ROW))

    @jax.jit
    def full_logits(frame):
        logits = model.apply(variables, normalise(jnp.stack([frame] * 4))[None])
        return resize_bilinear(resize_bilinear(logits, (64, 96)), SIZE)[0]

    for t in (0, 3, 11):
        full = np.asarray(full_logits(load_evaluation_frame(videos[0].frames[t], config.data.frame_size)[0]))
        assert (masks[t] == full.argmax(-1)).mean() > 0.995


def test_a_video_leaves_no_trace_in_the_next(setting, chunks):
    config, model, variables, videos = setting
    alone = list(VideoSegmenter(model, config).segment(variables, videos[1:]))
    np.testing.assert_array_equal(gathered(alone, "short", "CFFM"), gathered(chunks, "short", "CFFM"))


def test_scores_count_every_frame_once(setting, chunks):
    config, model, variables, videos = setting
    seen = []
    rows = evaluate(VideoSegmenter(model, config), variables, videos, watchers=[seen.append])
    assert len(seen) == len(chunks)
    for row in ("CFFM", FRAME_ROW):
        expected = Confusion.empty(CLASSES)
        for chunk in chunks:
            expected = expected.update(chunk.labels, chunk.masks[row])
        np.testing.assert_array_equal(rows[row].confusion().counts, expected.counts)
        assert [(v.name, v.frames) for v in rows[row].videos] == [("long", 14), ("short", 2)]


@pytest.mark.parametrize(
    ("name", "mode", "rows"),
    [
        ("segformer_b0", "both", []),
        ("cffm_b0", "causal", ["CFFM"]),
        ("cffmp_b0", "video", ["CFFM+"]),
        ("cffmp_b0", "causal", ["CFFM+, causal"]),
        ("cffmpp_b0", "video", ["CFFM++", "CFFM"]),
        ("cffmpp_b0", "both", ["CFFM++", "CFFM++, causal", "CFFM"]),
    ],
)
def test_rows_are_the_models_own_first(name, mode, rows):
    assert create_model(name, CLASSES).rows(mode) == (*rows, FRAME_ROW)


@pytest.mark.parametrize("frame", [1, 5])
def test_a_frame_of_another_size_is_named(setting, tmp_path, frame):
    config, model, variables, _ = setting
    video = write_video(tmp_path, "mixed", 6)
    odd = write_video(tmp_path, "odd", 1, (30, 40))
    video = dataclasses.replace(
        video,
        frames=(*video.frames[:frame], odd.frames[0], *video.frames[frame + 1 :]),
        masks=(*video.masks[:frame], odd.masks[0], *video.masks[frame + 1 :]),
    )
    with pytest.raises(InputError, match="odd_000.jpg: is 40x30"):
        list(VideoSegmenter(model, config).segment(variables, [video]))


@pytest.mark.parametrize("length", [14, 7])
def test_following_references(setting, length):
    """Those of the video read backwards; a frame with too few after it has those before it, as otherwise."""
    config, model, variables, videos = setting
    video = dataclasses.replace(videos[0], frames=videos[0].frames[:length], masks=videos[0].masks[:length])
    plan = dataclasses.replace(config, data=dataclasses.replace(config.data, offsets=(4, 2, 1)))
    other = dataclasses.replace(plan, eval=dataclasses.replace(config.eval, references="following"))
    reversed_video = dataclasses.replace(video, frames=video.frames[::-1], masks=video.masks[::-1])
    found = list(VideoSegmenter(model, other).segment(variables, [video]))
    past, backwards = (
        np.concatenate([chunk.predictions for chunk in VideoSegmenter(model, plan).segment(variables, [each])])
        for each in (video, reversed_video)
    )
    expected = np.concatenate([backwards[::-1][: length - 4], past[length - 4 :]])
    np.testing.assert_array_equal(np.concatenate([chunk.predictions for chunk in found]), expected)
    assert [chunk.start for chunk in found] == list(range(0, length, 4))
    labels = np.concatenate([chunk.labels for chunk in VideoSegmenter(model, plan).segment(variables, [video])])
    np.testing.assert_array_equal(np.concatenate([chunk.labels for chunk in found]), labels)
    sparse = dataclasses.replace(
        video, masks=tuple(m if i in (1, length - 2) else None for i, m in enumerate(video.masks))
    )
    unlabelled = dataclasses.replace(video, masks=())
    bare = VideoSegmenter(model, other).segment(variables, [unlabelled], labels=False)
    np.testing.assert_array_equal(np.concatenate([chunk.predictions for chunk in bare]), expected)
    chunks = list(segment_targets(VideoSegmenter(model, other), variables, [sparse]))
    assert [chunk.start for chunk in chunks] == [1, length - 2]
    for chunk in chunks:
        assert (chunk.predictions[0] != expected[chunk.start]).mean() < 2e-3


def test_following_references_need_a_method_that_reads_them_alone(setting):
    config, *_ = setting
    plan = dataclasses.replace(config, eval=EvalConfig(references="following"))
    for name, what in (("segformer_b0", "no other frames"), ("tcb_ocr_mem_r18", "a memory of past frames")):
        with pytest.raises(InputError, match=f"--eval.references: is following, and {name} reads {what}"):
            VideoSegmenter(create_model(name, CLASSES), plan)
