"""A stream's masks are those of the whole video, by one compiled step, with a state that keeps its size."""

from __future__ import annotations

import dataclasses

import cv2
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax import create_model
from cffm_jax.config import PrototypeConfig
from cffm_jax.data import clips
from cffm_jax.data.evaluation_frames import evaluation_size, fit_frame
from cffm_jax.errors import InputError
from cffm_jax.inference import ring, streaming
from cffm_jax.inference.load import Weights
from cffm_jax.inference.whole_videos import VideoSegmenter
from cffm_jax.models.resize import resize_bilinear
from cffm_jax.runtime.compiling import Compilations

from helpers.streams import CLASSES, CONFIG, LENGTH, SIZE, made, written


@pytest.fixture(scope="module")
def network():
    return made("cffmpp_b0")


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (LENGTH, 6, 9, 3), np.uint8)
    return np.stack([cv2.resize(each, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for each in coarse])


@pytest.fixture(scope="module")
def video(frames, tmp_path_factory):
    return written(frames, tmp_path_factory.mktemp("video"))


@pytest.fixture(scope="module")
def pair(network):
    """Two streams side by side, whose step is compiled once for the tests here."""
    return streaming.StreamSegmenter(network[0], CONFIG, SIZE, streams=2)


def whole(model, variables, video):
    """The masks of the engine for whole videos."""
    chunks = VideoSegmenter(model, CONFIG).segment(variables, [video], labels=False)
    return np.concatenate([chunk.predictions for chunk in chunks])


@pytest.fixture(scope="module")
def expected(network, video):
    return whole(*network, video)


def changed(variables, part, factor):
    """The weights with those of a part times a factor."""

    def change(path, x):
        return x * factor if part in jax.tree_util.keystr(path) else x

    return jax.tree_util.tree_map_with_path(change, variables)


@pytest.mark.long
def test_causal_prototypes_of_features_that_are_not_finite_are_refused(network, frames, video):
    """As those of whole videos are."""
    huge = changed(network[1], "['norm']['scale']", 1e30)
    with pytest.raises(InputError, match=r"^frame 0: its features are not finite"):
        next(streaming.stream(network[0], huge, CONFIG, frames[:1]))
    with pytest.raises(InputError, match=r"after it are not finite"):
        whole(network[0], huge, video)


def test_causal_prototypes_by_weights_that_are_not_finite_are_refused(network, frames):
    """XLA's ReLU on CPUs hides NaN among the weights."""
    with pytest.raises(InputError, match=r"decoder.*fuse.*is not finite"):
        next(streaming.stream(network[0], changed(network[1], "fuse", np.nan), CONFIG, frames[:1]))


def share_of_others(masks, expected):
    return (np.asarray(masks) != expected).mean()


def test_a_stream_equals_the_whole_video(network, frames, expected):
    assert len(np.unique(expected)) > 1 and (expected[3:] != expected[:1]).any()
    masks = list(streaming.stream(*network, CONFIG, frames))
    assert all(mask.shape == SIZE and mask.dtype == np.uint8 for mask in masks) and len(masks) == LENGTH
    assert share_of_others(masks, expected) < 1e-3


def test_every_frame_is_answered_before_the_next_is_taken(network, frames, expected):
    taken = []

    def source():
        for i, frame in enumerate(frames[:6]):
            taken.append(i)
            yield frame

    for ahead in (0, 2):
        taken.clear()
        masks = []
        for mask in streaming.stream(*network, CONFIG, source(), ahead=ahead):
            masks.append(mask)
            assert len(taken) == min(len(masks) + ahead, 6)
        assert share_of_others(masks, expected[:6]) < 1e-3


@pytest.mark.parametrize("name", ["segformer_b0", "cffm_b0"])
@pytest.mark.long
def test_smaller_models(name, frames, video):
    model, variables = made(name)
    model = model.clone(static=name == "cffm_b0")
    masks = list(streaming.stream(model, variables, CONFIG, frames[:7]))
    assert share_of_others(masks, whole(model, variables, video)[:7]) < 1e-3


@pytest.mark.parametrize("apart", [None, pytest.param(False, marks=pytest.mark.long)])
def test_streams_side_by_side_that_start_anew_at_any_time(network, pair, frames, expected, apart):
    """Stream 0 runs on; stream 1 is two frames behind and starts again after seven steps."""
    model, variables = network
    segmenter = pair if apart is None else streaming.StreamSegmenter(model, CONFIG, SIZE, streams=2, apart=apart)
    state = segmenter.start()
    sizes = {leaf.nbytes for leaf in jax.tree.leaves(state)}
    inputs = np.stack([fit_frame(frame, CONFIG.data.frame_size) for frame in frames])
    first, second = [], []
    for t in range(LENGTH):
        if t in (2, 7):
            state = streaming.reset(state, [1])
        other = t - 2 if t < 7 else t - 7
        state, masks = segmenter.step(variables, state, inputs[[t, max(other, 0)]])
        first.append(masks[0])
        second.append(masks[1])
    assert share_of_others(first, expected) < 1e-3
    assert share_of_others(second[2:7], expected[:5]) < 1e-3 and share_of_others(second[7:], expected[:6]) < 1e-3
    assert segmenter.step._cache_size() == 1
    assert {leaf.nbytes for leaf in jax.tree.leaves(state)} == sizes and int(state.clock) == LENGTH


def test_a_state_is_used_once_and_goes_on_bitwise_after_it_was_stored(network, pair, frames, tmp_path):
    """As docs/python.md stores it; the step is not compiled anew."""
    inputs = [np.stack([fit_frame(frame, CONFIG.data.frame_size)] * 2) for frame in frames]
    segmenter, state = pair, pair.start()
    for frame in inputs[:8]:
        used, (state, _) = state, segmenter.step(network[1], state, frame)
    path = tmp_path / "state"
    path.write_bytes(flax.serialization.to_bytes(state))
    for again in (lambda: segmenter.step(network[1], used, inputs[8]), lambda: streaming.reset(used, [0])):
        with pytest.raises(ValueError, match="used up by the step that it was given to; go on with the state which"):
            again()
    restored = jax.device_put(flax.serialization.from_bytes(segmenter.start(), path.read_bytes()))
    assert jax.tree.map(lambda leaf: leaf.dtype, restored) == jax.tree.map(lambda leaf: leaf.dtype, state)
    for frame in inputs[8:]:
        state, masks = segmenter.step(network[1], state, frame)
        restored, same = segmenter.step(network[1], restored, frame)
        np.testing.assert_array_equal(masks, same)
    jax.tree.map(np.testing.assert_array_equal, state, restored)
    assert segmenter.step._cache_size() == 1


def test_prepared_weights_give_the_same_masks(network, pair, frames):
    inputs = [np.stack([fit_frame(frame, CONFIG.data.frame_size)] * 2) for frame in frames[:5]]
    with pytest.raises(ValueError, match="prepared by another step; prepare them by the one they are for"):
        pair.step(pair.segment.prepare(network[1]), pair.start(), inputs[0])
    weights = pair.step.prepare(network[1])
    with Compilations() as compilations:
        pair.step.prepare(network[1])
    assert not compilations.count, "the second time it is compiled already"
    state, other = pair.start(), pair.start()
    for frame in inputs:
        state, masks = pair.step(network[1], state, frame)
        other, same = pair.step(weights, other, frame)
        np.testing.assert_array_equal(masks, same)
    for leaf, same in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(leaf, same, rtol=1e-5, atol=1e-5)


def test_loaded_weights_stream_at_any_rate(network, frames, expected):
    """And tell how sure they are: the masks are the arg-max of the logits, the scores its softmax."""
    weights, seconds = Weights(*network, CONFIG, "", ""), [n / 15 for n in CONFIG.data.offsets]
    found = list(weights.predictions(frames[:7], logits=True, rate=15, reference_seconds=seconds))
    assert share_of_others([each.mask for each in found], expected[:7]) < 1e-3
    for mask, scores, logits in found:
        fitted = resize_bilinear(jnp.asarray(logits)[None], evaluation_size(*SIZE, CONFIG.data.frame_size))
        full = np.asarray(jax.nn.softmax(resize_bilinear(fitted, SIZE)))[0]
        np.testing.assert_allclose(scores, full.max(-1), atol=1e-5)
        assert (mask != full.argmax(-1)).mean() < 1e-3
    assert 1 / CLASSES < min(each.scores.min() for each in found) < 0.9


@pytest.mark.parametrize(
    ("rate", "offsets"), [(15, (9, 6, 3)), (30, (18, 12, 6)), (25, (15, 10, 5)), (60, (36, 24, 12)), (1, (1, 1, 1))]
)
def test_offsets_at_a_rate(rate, offsets):
    assert streaming.offsets_at(rate, 3) == offsets
    assert streaming.offsets_at(10, 3, (1.0, 0.5, 0.04)) == (10, 5, 1)


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ({"rate": -15}, "rate: is -15; .* at most 1000"),
        ({"rate": float("nan")}, "rate: is nan"),
        ({"rate": 1e7}, "rate: is 1e"),
        ({"reference_seconds": (0.6, 0.4, 0.2)}, "rate: is 0"),
        ({"rate": 15, "reference_seconds": (0.6, 0.4)}, "2 are given; give 3"),
        ({"rate": 15, "reference_seconds": (0.2, 0.4, 0.6)}, "is 0.2 0.4 0.6; give the longest first"),
        ({"rate": 15, "reference_seconds": (0.6, 0.4, -1)}, "-1 is given; give more than 0, to 10"),
    ],
)
def test_times_that_no_reference_has(times, says):
    """At once, not with the first frame."""
    weights = Weights(create_model("cffm_b0", CLASSES), {}, CONFIG, "", "")
    with pytest.raises(InputError, match=says):
        weights.stream([], **times)


def test_the_papers_times_are_for_as_many_references():
    with pytest.raises(InputError, match="the papers' are 3; give 5"):
        streaming.offsets_at(15, 5)


def test_streams_of_a_kind_are_compiled_once(network, frames):
    one, other = (streaming.stream(*network, CONFIG, frames) for _ in range(2))
    next(one), next(other)
    found = streaming._segmenter(network[0], CONFIG, SIZE, False, False, None)
    assert found.segment._cache_size() == 1 and streaming._segmenter.cache_info().hits >= 2


def test_offsets_for_other_references(network):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, offsets=(9, 6, 3, 1)))
    with pytest.raises(InputError, match="--data.offsets: is 9 6 3 1; give 3 numbers"):
        streaming.StreamSegmenter(network[0], config, SIZE)


@pytest.mark.parametrize("frames", [np.zeros((1, *SIZE, 3), np.uint8), np.zeros((2, 64, 96, 3), np.float32)])
def test_frames_of_a_step_that_do_not_fit(network, pair, frames):
    with pytest.raises(ValueError, match=r"not uint8\[2, 64, 96, 3\], as pipeline.fit_frame makes them"):
        pair.step(network[1], pair.start(), frames)


def test_a_stream_that_is_not_there_does_not_start_anew(pair):
    with pytest.raises(IndexError, match="stream 2 of 2"):
        streaming.reset(pair.start(), [2])


@pytest.mark.parametrize("offsets", [(2, 1, 1), (9, 6, 1)])
def test_references_are_those_of_whole_videos_from_the_first_frame_on(offsets):
    """Fewer frames back than there are references; and one so near that early targets are their own reference."""
    for age, row in enumerate(ring.how_far_back(offsets)):
        found = clips.reference_indices(age, offsets)
        assert (row.max() > 0) == (found is not None)
        assert found is None or tuple(age - row) == found


def test_no_place_of_the_ring_is_read_before_it_is_written(network, frames, expected):
    """Not for targets 3 and 4 either, which are their own nearest reference."""
    model, variables = network
    segmenter = streaming._segmenter(model, CONFIG, SIZE, False, False, None)
    state = segmenter.start()
    state = state._replace(ring=jax.tree.map(lambda places: np.full_like(places, np.nan), state.ring))
    masks = []
    for frame in frames[:6]:
        state, segmented = segmenter.segment(variables, state, fit_frame(frame, CONFIG.data.frame_size)[None])
        masks.append(next(iter(segmented.masks.values()))[0])
    assert share_of_others(masks, expected[:6]) < 1e-3


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (np.zeros((60, 92, 3), np.uint8), "frame 1: is 92x60, the first 90x60"),
        (np.zeros((60, 90), np.uint8), "frame 1: is uint8"),
        (np.zeros((60, 90, 4), np.uint8), "frame 1: is uint8"),
        (np.zeros((60, 90, 3), np.float32), "frame 1: is float32"),
    ],
)
def test_frames_that_do_not_fit(network, frames, second, says):
    stream = streaming.stream(*network, CONFIG, [frames[0], second])
    next(stream)
    with pytest.raises(InputError, match=says.split(":")[0] + ".*" + says.split(": ")[1].replace("[", r"\[")):
        next(stream)


def test_more_prototypes_than_tokens(network):
    config = dataclasses.replace(CONFIG, prototypes=PrototypeConfig(count=200))
    with pytest.raises(InputError, match="fewer than 200 prototypes"):
        streaming.StreamSegmenter(network[0], config, SIZE)
