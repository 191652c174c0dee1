"""Streams of systems with key frames: their rules computed frame by frame, chunks, and what is skipped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.config import Config, DataConfig, PrototypeConfig
from cffm_jax.inference.engine import Engine
from cffm_jax.inference.streaming import StreamSegmenter

from helpers.key_frames import CASES, SIZE, Rules, drawn_frames, small


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_streams_are_the_rules_frame_by_frame(name):
    """Two at a time, of which the second begins anew at the third frame."""
    model, variables = small(name, **CASES[name])
    config = Config(data=DataConfig(frame_size=(0, 0), offsets=(1,)))
    segmenter = StreamSegmenter(model, config, SIZE, streams=2, logits=True)
    frames = np.stack([drawn_frames(5, 0), drawn_frames(5, 1)], 1)
    found, state = [], segmenter.start()
    for t, each in enumerate(frames):
        state = state._replace(ages=jnp.array([t, t - 2 if t >= 2 else t], jnp.int32))
        state, segmented = segmenter.segment(variables, state, each)
        found.append(segmented.logits)
    rules = Rules(name, model, variables)
    first = list(rules.run(frames[:, 0]))
    second = [*rules.run(frames[:2, 1]), *rules.run(frames[2:, 1])]
    for logits, *expected in zip(found, first, second, strict=True):
        expected = np.concatenate(expected)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.long
def test_chunks_of_a_video_are_its_stream():
    model, variables = small("dff", key_interval=3)
    config = Config(data=DataConfig(frame_size=(0, 0), offsets=(1,)))
    frames = drawn_frames(4)[None]
    chunks = Engine(model, model.rows(), (1,), frames=2, causal=PrototypeConfig(), logits=True)
    segmenter = StreamSegmenter(model, config, SIZE, logits=True)
    step = jax.jit(functools.partial(chunks.segment, size=SIZE))
    state, single = chunks.start(SIZE), segmenter.start()
    for t in range(0, 4, 2):
        state, segmented = step(variables, state, frames[:, t : t + 2])
        for i in range(2):
            single, expected = segmenter.segment(variables, single, frames[:, t + i])
            largest = np.abs(expected.logits).max()
            np.testing.assert_allclose(segmented.logits[:, i], expected.logits, rtol=0, atol=1e-4 * largest)


@pytest.mark.long
@pytest.mark.parametrize("name", ["dff", "accel", "cc"])
def test_frames_between_key_frames_read_no_weights_of_the_key_frames_network(name):
    settings = {"update_share": 0.0} if name == "cc" else {}
    model, variables = small(name, key_interval=2, **settings)
    spoilt = jax.tree_util.tree_map_with_path(
        lambda path, x: (
            np.full_like(x, np.nan)
            if path[1].key == "head"
            or path[1].key == "encoder"
            and (name != "cc" or path[2].key[:6] in ("layer6", "layer7"))
            else x
        ),
        variables,
    )
    segmenter = StreamSegmenter(model, Config(data=DataConfig(frame_size=(0, 0), offsets=(1,))), SIZE, logits=True)
    key, other = drawn_frames(2)[:, None]
    after = [segmenter.segment(variables, segmenter.start(), key)[0] for _ in range(2)]
    found, expected = (
        segmenter.segment(each, state, other)[1].logits for each, state in zip((spoilt, variables), after)
    )
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).all()
    assert not np.isfinite(segmenter.segment(spoilt, segmenter.start(), key)[1].logits).all()
