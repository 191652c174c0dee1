"""Frames in tiles: a tile is a stream of its own, and where a frame is one tile nothing changes."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.config import PrototypeConfig
from cffm_jax.errors import InputError
from cffm_jax.inference.load import Weights
from cffm_jax.inference.streaming import StreamSegmenter, predictions, reset
from cffm_jax.inference.tiles import Tiling
from cffm_jax.inference.video_prototypes import Prototyper
from cffm_jax.inference.whole_videos import VideoSegmenter
from cffm_jax.models.kmeans import cluster
from cffm_jax.models.normalise import normalise
from cffm_jax.models.resize import resize_bilinear

from helpers.streams import CLASSES, CONFIG, made, written

OWN_SIZE = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, frame_size=(0, 0)))
SIZE, LENGTH = (96, 96), 7
TILING = Tiling((64, 64), 32)
PLACES = tuple(itertools.product((0, 32), (0, 32)))
"""Where the four tiles of a frame begin."""


@pytest.fixture(scope="module")
def frames():
    coarse = np.random.default_rng(0).integers(0, 256, (LENGTH, 8, 8, 3), np.uint8)
    return np.stack([cv2.resize(each, SIZE, interpolation=cv2.INTER_CUBIC) for each in coarse])


def blended(parts, stride=4):
    """Maps [..., 2 n, 2 n, K] of the four tiles, n = 32 / stride, -> [..., 3 n, 3 n, K], by hand: neighbours share n
    places a side."""
    n = 32 // stride
    falls = np.concatenate([np.ones(n), 1 - (np.arange(n) + 0.5) / n])
    whole = np.zeros((*parts[0].shape[:-3], 3 * n, 3 * n, parts[0].shape[-1]))
    for (top, left), part in zip(PLACES, parts):
        weights = np.outer(falls[::-1] if top else falls, falls[::-1] if left else falls)
        top, left = top // stride, left // stride
        whole[..., top : top + 2 * n, left : left + 2 * n, :] += weights[..., None] * part
    return whole


# --- cutting and blending


def drawn():
    rng = np.random.default_rng(0)
    for _ in range(10):
        size, tile = (tuple(32 * int(n) for n in rng.integers(2, high, 2)) for high in (14, 7))
        yield size, Tiling(tile, 32 * int(rng.integers(0, min(tile) // 32)))


@pytest.mark.parametrize(("size", "tiling"), list(drawn()))
def test_tiles_cover_the_frame_and_their_weights_sum_to_one(size, tiling):
    """The blend of what is computed place by place is what is computed of the whole; and exactly where one tile is
    alone."""
    tiles = tiling.over(size)
    for length, side, starts in zip(size, tiles.size, tiles.starts):
        assert starts[0] == 0 and starts[-1] + side == length and not any(start % 32 for start in starts)
        assert all(
            start + side - after >= tiling.overlap and after > start for start, after in itertools.pairwise(starts)
        )
    whole = np.random.default_rng(1).standard_normal((2, *(n // 4 for n in size), 3)).astype(np.float32)
    pixels = whole.repeat(4, 1).repeat(4, 2)
    blend, covered = jnp.zeros(whole.shape), np.zeros(whole.shape[1:3])

    @jax.jit
    def added(blend, number):
        part = tiles.cut(jnp.array(pixels), number)
        assert part.shape == (2, *tiles.size, 3)
        return tiles.add(blend, part[:, ::4, ::4], number)

    for number in range(tiles.count):
        blend = added(blend, jnp.int32(number))
        top, left = (axis[i] // 4 for axis, i in zip(tiles.starts, divmod(number, len(tiles.starts[1]))))
        covered[top : top + tiles.size[0] // 4, left : left + tiles.size[1] // 4] += 1
    np.testing.assert_allclose(blend, whole, atol=1e-6)
    assert covered.min() == 1 or tiling.overlap
    alone = covered == 1
    np.testing.assert_array_equal(np.asarray(blend)[:, alone], whole[:, alone])


def test_away_from_seams_what_sees_no_further_is_what_it_is_of_the_whole():
    """A window of 5x5 places: nearer to the edge of a tile than 2 places it sees what is not there."""
    tiles = Tiling((128, 96), 64).over((256, 224))
    x = np.random.default_rng(0).standard_normal((256, 224, 1)).astype(np.float32)

    def mean(values):
        places = values[::4, ::4, 0]
        return cv2.boxFilter(places, -1, (5, 5), borderType=cv2.BORDER_CONSTANT)[..., None]

    blend, clear = jnp.zeros((64, 56, 1)), np.ones((64, 56), bool)
    for number in range(tiles.count):
        part = mean(np.asarray(tiles.cut(jnp.array(x), jnp.int32(number))))
        blend = tiles.add(blend, jnp.array(part), jnp.int32(number))
    for axis, (length, side, starts) in enumerate(zip((256, 224), tiles.size, tiles.starts)):
        for edge in {*starts, *(start + side for start in starts)} - {0, length}:
            clear.swapaxes(0, axis)[edge // 4 - 2 : edge // 4 + 2] = False
    assert 0.3 < clear.mean() < 0.9
    off = np.abs(np.asarray(blend) - mean(x))[..., 0]
    assert off[clear].max() < 1e-6 and off[~clear].max() > 0.01


@pytest.mark.parametrize(
    ("tile_size", "overlap", "says"),
    [
        ((64,), -1, "--tile-size: is 64; give a height and a width of at least 64, multiples of 32"),
        ((100, 64), -1, "--tile-size: is 100 64; give a height"),
        ((32, 64), -1, "--tile-size: is 32 64; give a height"),
        ((128, 64), 64, "--overlap: is 64; give a multiple of 32 below 64"),
        ((128, 128), 40, "--overlap: is 40; give a multiple of 32 below 128"),
        ((128, 128), -32, "--overlap: is -32; give"),
        ((), 32, "--overlap: has no use without --tile-size; give --tile-size too"),
    ],
)
def test_tilings_that_cannot_be(tile_size, overlap, says):
    with pytest.raises(InputError, match=says):
        Tiling.of(tile_size, overlap)


def test_a_quarter_of_the_shorter_side_is_shared():
    assert Tiling.of((512, 1024)) == Tiling((512, 1024), 128) and Tiling.of((96, 64)) == Tiling((96, 64), 32)
    assert Tiling.of((512, 512), 0) == Tiling((512, 512), 0) and Tiling.of(()) is None


# --- streams


def test_a_frame_of_one_tile_is_segmented_whole():
    """The same program, and so the same bits."""
    model, variables = made("cffm_b0")
    programs = []
    for tiling in (None, Tiling((128, 160), 64)):
        segmenter = StreamSegmenter(model, CONFIG, (60, 90), scores=True, logits=True, tiles=tiling)
        frame = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.uint8)
        programs.append(segmenter.segment.lower(variables, jax.eval_shape(segmenter.start), frame).as_text())
    assert programs[0] == programs[1]


@pytest.mark.parametrize("name", ["cffm_b0", pytest.param("cffmpp_b0", marks=pytest.mark.long)])
def test_each_tile_is_a_stream_of_its_own(name, frames):
    """Of two streams side by side, the second of which starts anew, the tiles' logits blended by hand are those of the
    frames; masks and scores are theirs."""
    model, variables = made(name)
    both = StreamSegmenter(model, OWN_SIZE, SIZE, streams=2, scores=True, logits=True, tiles=TILING)
    alone = StreamSegmenter(model, OWN_SIZE, (64, 64), logits=True)
    state, found = both.start(), []
    for t, frame in enumerate(frames):
        state = reset(state, [1]) if t == 3 else state
        state, segmented = both.segment(variables, state, np.stack([frame, frame[::-1]]))
        found.append(segmented)
    assert both.segment._cache_size() == 1
    for stream, start in ((0, 0), (1, 3)):
        parts = []
        for top, left in PLACES:
            state, logits = alone.start(), []
            for frame in frames[start:]:
                frame = frame[::-1] if stream else frame
                state, segmented = alone.segment(variables, state, frame[None, top : top + 64, left : left + 64])
                logits.append(np.asarray(segmented.logits)[0])
            parts.append(np.stack(logits))
        expected = blended(parts)
        assert np.ptp(expected) > 1
        for segmented, logits in zip(found[start:], expected):
            np.testing.assert_allclose(segmented.logits[stream], logits, atol=2e-4)
            full = np.asarray(jax.nn.softmax(resize_bilinear(jnp.asarray(logits)[None], SIZE)))[0]
            (masks,) = segmented.masks.values()
            assert (np.asarray(masks[stream]) != full.argmax(-1)).mean() < 2e-3
            np.testing.assert_allclose(segmented.scores[stream], full.max(-1), atol=1e-3)


@pytest.mark.long
def test_weights_segment_in_tiles_of_frames_of_any_scale(frames):
    """Own size, or another; and they tell what a step takes."""
    model, variables = made("cffm_b0")
    weights, told = Weights(model, variables, CONFIG, "", ""), []
    sizes = {"frame_size": (0, 0), "tile_size": (64, 64), "overlap": 32}
    found = list(weights.predictions(frames, **sizes, logits=True, on_footprint=told.append))
    expected = list(predictions(model, variables, OWN_SIZE, frames, logits=True, tiles=TILING))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.logits.shape == (24, 24, CLASSES)
    [footprint] = told
    assert footprint[:4] == (SIZE, (64, 64), 4, 32) and footprint.memory > sum(
        x.nbytes for x in jax.tree.leaves(variables)
    )
    sizes = {"frame_size": (128, 128), "tile_size": (96, 64)}
    larger = list(weights.predictions(frames[:1], **sizes, on_footprint=told.append))
    assert told[1].input_size == (128, 128) and told[1].tiles == 6 and larger[0].mask.shape == SIZE
    assert (
        str(told[1]).endswith("GB, weights included (6 tiles, height x width 96x64)")
        and told[1].memory > footprint.memory
    )


def test_sizes_that_cannot_be():
    """At once, not with the first frame."""
    model, variables = made("cffmpp_b0")
    weights = Weights(model, variables, OWN_SIZE, "", "")
    with pytest.raises(InputError, match=r"--frame-size: is 853 0; give a height and a width of at least 1"):
        weights.stream([], frame_size=(853, 0))
    with pytest.raises(InputError, match="--overlap: is 64"):
        weights.stream([], tile_size=(64, 64), overlap=64)
    config = dataclasses.replace(OWN_SIZE, prototypes=PrototypeConfig(count=100))
    with pytest.raises(
        InputError, match="--tile-size: 64 tokens at 64x64 are fewer than 100 prototypes; give a larger one"
    ):
        StreamSegmenter(model, config, SIZE, tiles=TILING)


# --- evaluation


@pytest.fixture(scope="module")
def video(frames, tmp_path_factory):
    return written(frames, tmp_path_factory.mktemp("video"))


def in_tiles(config, **changes):
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, tile_size=(64, 64), overlap=32, **changes))


@pytest.mark.long
@pytest.mark.parametrize("chunk", [3, 7])
def test_whole_videos_are_segmented_as_streams(frames, video, chunk):
    model, variables = made("cffmpp_b0")
    expected = [each.mask for each in predictions(model, variables, OWN_SIZE, frames, tiles=TILING)]
    segmenter = VideoSegmenter(model, in_tiles(OWN_SIZE, chunk=chunk))
    chunks = list(segmenter.segment(variables, [video], labels=False))
    assert (np.concatenate([each.predictions for each in chunks]) != expected).mean() < 2e-3


@pytest.mark.long
def test_prototypes_are_those_of_the_blended_features(video, frames):
    model, variables = made("cffmpp_b0")
    config = dataclasses.replace(OWN_SIZE, prototypes=PrototypeConfig(count=6, frames=2))
    taken = [1, 4]  # int((i + 0.5) * 3), as 7 // 2 is 3.
    encode = jax.jit(lambda x: model.apply(variables, x, method="prototype_tokens"))
    rows = [np.asarray(encode(normalise(jnp.array(frames[taken])[:, t : t + 64, l : l + 64]))) for t, l in PLACES]
    assert rows[0].shape[1:3] == (8, 8)
    blend = blended(rows, stride=8).astype(np.float32)
    expected = cluster(jax.random.key(0), blend.reshape(288, -1), 6, 10).centres
    found = Prototyper(model, variables, in_tiles(config)).of(video)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - Prototyper(model, variables, config).of(video)).max() > 1e-2
