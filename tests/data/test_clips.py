"""Which frames make a clip."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from cffm_jax.data.clips import reference_indices, training_clip

OFFSETS = (9, 6, 3)


@pytest.mark.parametrize(
    ("target", "references"),
    [
        (0, None),
        (1, None),
        (2, None),
        (3, (0, 1, 2)),
        (4, (0, 2, 3)),
        (5, (0, 2, 4)),
        (6, (0, 2, 4)),
        (7, (0, 3, 5)),
        (8, (0, 3, 6)),
        (9, (0, 3, 6)),
        (10, (1, 4, 7)),
        (100, (91, 94, 97)),
    ],
)
def test_references_of_the_released_implementation(target, references):
    assert reference_indices(target) == references


@pytest.mark.parametrize("offsets", [(9, 6, 3), (6, 3), (12, 9, 6, 3), (7, 5, 2), (10, 1), (1,)])
def test_early_references_are_the_exact_ceiling(offsets):
    longest = max(offsets)
    for target in range(longest + 3):
        references = reference_indices(target, offsets)
        if target < min(len(offsets), longest):
            assert references is None
        elif target < longest:
            assert references == tuple(np.ceil(Fraction(target * (longest - o), longest)) for o in offsets)
            assert references[0] == 0
        else:
            assert references == tuple(target - o for o in offsets)


def test_offsets_without_a_past():
    assert reference_indices(0, ()) == ()
    assert reference_indices(4, (0, 0, 0)) == (4, 4, 4), "static contexts"


@pytest.mark.parametrize("offsets", [(9, 6, 3), (5, 2), (0, 0, 0), ()])
def test_every_length_gives_a_clip(offsets):
    for length, seed in itertools.product(range(1, 25), range(10)):
        indices = training_clip(length, np.random.default_rng(seed), offsets)
        assert len(indices) == len(offsets) + 1
        assert all(isinstance(index, int) and 0 <= index < length for index in indices)


def test_long_videos_give_every_target_with_its_offsets():
    rng = np.random.default_rng(0)
    forwards = {training_clip(15, rng, OFFSETS, reverse=0) for _ in range(300)}
    assert forwards == {(t - 9, t - 6, t - 3, t) for t in range(9, 15)}
    backwards = {training_clip(15, rng, OFFSETS, reverse=1) for _ in range(300)}
    assert backwards == {(t + 9, t + 6, t + 3, t) for t in range(0, 6)}


def test_the_order_is_reversed_with_the_probability():
    rng = np.random.default_rng(1)
    for reverse in (0.5, 0.2):
        drawn = [training_clip(40, rng, OFFSETS, reverse) for _ in range(4000)]
        assert np.mean([clip[0] > clip[-1] for clip in drawn]) == pytest.approx(reverse, abs=0.03)


class Listed:
    """A generator whose draws are listed: whether a video is reversed, and which target is drawn."""

    def __init__(self, draw: float, number: int):
        self.random, self.integers = lambda: draw, lambda most: number if number < most else None


def test_tcbs_clips():
    """i, i+3, i+6, i+9 with the target i, of a video's order or the reversed one: each as likely as here."""
    length = 23
    orders = range(length), range(length - 1, -1, -1)
    theirs = sorted((order[i], order[i + 3], order[i + 6], order[i + 9]) for order in orders for i in range(length - 9))
    draws = [Listed(draw, number) for draw in (0.0, 0.9) for number in range(length - 9)]
    ours = sorted(training_clip(length, draw, OFFSETS)[::-1] for draw in draws)
    assert ours == theirs


def test_clips_of_image_systems_and_pairs():
    rng = np.random.default_rng(0)
    frames = {training_clip(15, rng, (9, 7, 4), reverse=0) for _ in range(300)}
    assert frames == {(i, i + 2, i + 5, i + 9) for i in range(6)}
    assert {training_clip(5, rng, (1,), reverse=0) for _ in range(200)} == {(i, i + 1) for i in range(4)}


def test_targets_are_uniform():
    rng = np.random.default_rng(2)
    targets = [training_clip(14, rng, OFFSETS, reverse=0)[-1] for _ in range(5000)]
    assert np.bincount(targets, minlength=14)[9:] == pytest.approx(np.full(5, 1000), rel=0.12)


@pytest.mark.parametrize("length", range(4, 10))
def test_short_videos_take_targets_of_the_first_frame_rule(length):
    rng = np.random.default_rng(length)
    expected = {(*reference_indices(t), t) for t in range(3, length)}
    assert {training_clip(length, rng, OFFSETS, reverse=0) for _ in range(300)} == expected
    mirrored = {tuple(length - 1 - index for index in clip) for clip in expected}
    assert {training_clip(length, rng, OFFSETS, reverse=1) for _ in range(300)} == mirrored


@pytest.mark.parametrize("length", [1, 2, 3])
def test_very_short_videos_repeat_the_target(length):
    rng = np.random.default_rng(length)
    assert {training_clip(length, rng, OFFSETS) for _ in range(100)} == {(t,) * 4 for t in range(length)}
