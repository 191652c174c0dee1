"""Augmentation: laws of the draws, and exact arithmetic against straightforward versions."""

import dataclasses
from fractions import Fraction

import cv2
import numpy as np
import pytest

from cffm_jax.config import DataConfig
from cffm_jax.data import augment

DATA = DataConfig(frame_size=(48, 85), crop=(32, 32))
STILL = dataclasses.replace(DATA, ratio=(1.0, 1.0), flip=0.0, distort=0.0)


def still(**changes):
    return dataclasses.replace(STILL, **changes)


def random_clip(seed, height=48, width=85, frames=4, classes=6):
    """A clip of noise whose labels are blocks of 5x5 pixels."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, classes, (frames, -(-height // 5), -(-width // 5)), dtype=np.uint8)
    labels = blocks.repeat(5, axis=1).repeat(5, axis=2)[:, :height, :width]
    return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8), np.ascontiguousarray(labels)


def coordinates(height, width, frames=4):
    """A clip that shows where each of its pixels comes from: red = row, green = column, blue = frame; label = row."""
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[..., 0], clip[..., 1] = np.arange(height)[:, None], np.arange(width)
    clip[..., 2] = np.arange(frames)[:, None, None]
    return clip, clip[..., 0].copy()


# --- resizing


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((480, 853), (853, 480), (480, 853)),
        ((853, 480), (853, 480), (853, 480)),
        ((720, 1280), (853, 480), (480, 853)),
        ((1080, 1920), (853, 480), (480, 853)),
        ((480, 640), (853, 480), (480, 640)),
        ((240, 426), (853, 480), (480, 852)),
        ((100, 1000), (853, 480), (85, 853)),
        ((480, 853), (426, 240), (240, 426)),
        ((1000, 1), (853, 480), (853, 1)),
    ],
)
def test_fitted_size(size, box, expected):
    assert augment.fitted_size(*size, box) == expected
    assert augment.fitted_size(*size, box[::-1]) == expected


def test_fitted_size_is_the_largest_inside_the_box():
    rng = np.random.default_rng(0)
    for height, width, *box in rng.integers(20, 2000, (3000, 4)).tolist():
        sides = sorted(augment.fitted_size(height, width, tuple(box)))
        factor = min(Fraction(max(box), max(height, width)), Fraction(min(box), min(height, width)))
        assert sides[1] <= max(box) and sides[0] <= min(box)
        assert abs(sides[0] - factor * min(height, width)) <= Fraction(1, 2)
        assert abs(sides[1] - factor * max(height, width)) <= Fraction(1, 2)


def test_the_ratio_is_uniform():
    rng = np.random.default_rng(0)
    data = DataConfig()
    widths = np.array([augment.draw_size(480, 853, data, rng)[1] for _ in range(4000)])
    ratios = np.sort(widths / 853)
    assert 0.5 - 1 / 853 <= ratios[0] < 0.51 and 1.99 < ratios[-1] <= 2.0
    np.testing.assert_allclose(ratios, np.linspace(0.5, 2.0, 4000), atol=0.05)


def test_ratios_are_drawn_alike_often():
    """VSPW's baselines: {0.8, 1, 1.5, 2} times 480 rows."""
    rng = np.random.default_rng(0)
    data = DataConfig(ratios=(0.8, 1.0, 1.5, 2.0), frame_size=(480, 9999))
    sizes = [augment.draw_size(480, 854, data, rng) for _ in range(4000)]
    expected = [(384, 683), (480, 854), (720, 1281), (960, 1708)]
    assert {*sizes} == {*expected}
    assert [sizes.count(size) / 4000 for size in expected] == pytest.approx([0.25] * 4, abs=0.03)


def test_the_multiple_of_the_scale_is_never_exceeded():
    rng = np.random.default_rng(0)
    for ratio in np.linspace(0.5, 2.0, 301):
        height, width = augment.draw_size(720, 1280, still(ratio=(ratio, ratio)), rng)
        assert height <= 48 * ratio and width <= 85 * ratio
        assert height + 1.5 > 48 * ratio or width + 1.5 > 85 * ratio


@pytest.mark.parametrize("mode", [cv2.INTER_LINEAR, cv2.INTER_NEAREST])
def test_a_resized_window_equals_the_window_of_the_whole_to_the_bit(mode):
    rng = np.random.default_rng(mode)
    for seed in range(300):
        height, width = rng.integers(30, 200, 2)
        image = (random_clip(seed, height, width)[mode == cv2.INTER_NEAREST])[0]
        size = augment.fitted_size(height, width, tuple(rng.integers(20, 400, 2)))
        top, left = rng.integers(size[0]), rng.integers(size[1])
        window = slice(top, rng.integers(top, size[0]) + 1), slice(left, rng.integers(left, size[1]) + 1)
        whole = cv2.resize(image, size[::-1], interpolation=mode)
        np.testing.assert_array_equal(augment.resize_window(image, size, window, mode), whole[window])


def test_a_clip_equals_the_window_of_its_whole_resized_frames_and_masks():
    for seed in range(60):
        frames, labels = random_clip(seed)
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        cut, marks = augment.resize_and_crop(frames, labels, DATA, rng)
        size = augment.draw_size(48, 85, DATA, again)[::-1]
        whole = np.stack([cv2.resize(label, size, interpolation=cv2.INTER_NEAREST) for label in labels])
        rows, columns = augment.draw_window(whole[-1], DATA, again)
        np.testing.assert_array_equal(marks, whole[:, rows, columns])
        np.testing.assert_array_equal(cut, np.stack([cv2.resize(frame, size) for frame in frames])[:, rows, columns])
        assert rng.bit_generator.state == again.bit_generator.state, "drawn as often"


def test_frames_are_bilinear_and_labels_nearest():
    frames, labels = np.zeros((1, 48, 85, 3), np.uint8), np.full((1, 48, 85), 3, np.uint8)
    frames[:, :, 40:], labels[:, :, 40:] = 200, 9
    data = still(ratio=(2.0, 2.0), crop=(96, 170))
    frames, labels = augment.resize_and_crop(frames, labels, data, np.random.default_rng(0))
    assert labels.shape == (1, 96, 170) and set(np.unique(labels)) == {3, 9}
    # Half-pixel centres: at twice the size the samples at the edge lie a quarter pixel to either side.
    assert frames[0, 50, 78:82, 1].tolist() == [0, 50, 150, 200]


def test_ratio_one_is_the_identity():
    frames, labels = random_clip(0)
    result = augment.resize_and_crop(frames, labels, still(crop=(48, 85)), np.random.default_rng(0))
    np.testing.assert_array_equal(result[0], frames)
    np.testing.assert_array_equal(result[1], labels)


def test_one_size_and_window_for_the_whole_clip():
    data = dataclasses.replace(DATA, flip=0.5, distort=0.0)
    frame, label = (part[0] for part in random_clip(1))
    results = [augment.augment([frame] * 4, [label] * 4, data, np.random.default_rng(seed)) for seed in range(40)]
    for frames, labels, _ in results:
        assert all(np.array_equal(other, frames[0]) for other in frames)
        assert all(np.array_equal(other, labels[0]) for other in labels)
    assert len({frames.tobytes() for frames, _, _ in results}) == 40


# --- crops


def test_frames_and_labels_are_cut_alike_and_the_place_is_uniform():
    frames, labels = coordinates(48, 85)
    places = []
    for seed in range(2000):
        cut, marks = augment.resize_and_crop(frames, labels, STILL, np.random.default_rng(seed))
        top, left = cut[0, 0, 0, :2].tolist()
        if seed < 50:
            np.testing.assert_array_equal(cut, frames[:, top : top + 32, left : left + 32])
            np.testing.assert_array_equal(marks, labels[:, top : top + 32, left : left + 32])
        places.append((top, left))
    tops, lefts = np.array(places).T
    np.testing.assert_allclose(np.sort(tops), np.linspace(0, 16, 2000), atol=1.2)
    np.testing.assert_allclose(np.sort(lefts), np.linspace(0, 53, 2000), atol=2.5)
    assert {0, 16} <= set(tops) and {0, 53} <= set(lefts)


@pytest.mark.parametrize("shape", [(20, 85), (48, 20), (20, 20), (32, 32)])
def test_a_side_shorter_than_the_crop_is_taken_whole(shape):
    window = augment.draw_window(np.zeros(shape, np.uint8), STILL, np.random.default_rng(0))
    for side, part in zip(shape, window):
        assert part.stop - part.start == min(side, 32)
        assert 0 <= part.start and part.stop <= side


def test_largest_share():
    assert augment.largest_share(np.array([[1, 1, 2, 255]], np.uint8)) == pytest.approx(2 / 3)
    assert augment.largest_share(np.array([[0, 0, 254, 254]], np.uint8)) == 0.5
    assert augment.largest_share(np.full((3, 3), 255, np.uint8)) == 0


def test_largest_share_counts_as_numpy_does_inside_any_window():
    rng = np.random.default_rng(0)
    for _ in range(200):
        # Few values each time, so that 0, 254 and 255 are often among the largest.
        labels = rng.choice(np.array([0, 1, 253, 254, 255], np.uint8), (60, 70), p=rng.dirichlet(np.ones(5)))
        top, left = rng.integers(50, size=2)
        window = labels[top : top + rng.integers(1, 60), left : left + rng.integers(1, 20)]
        counted = window[window != 255]
        expected = np.unique(counted, return_counts=True)[1].max() / counted.size if counted.size else 0.0
        assert augment.largest_share(window) == expected


def tries(labels, data, seed=0):
    """How many windows are drawn."""
    rng = np.random.default_rng(seed)
    augment.draw_window(labels, data, rng)
    used, again, count = rng.bit_generator.state, np.random.default_rng(seed), 0
    while again.bit_generator.state != used:
        again.integers(labels.shape[0] - 31), again.integers(labels.shape[1] - 31)
        count += 1
    return count


def test_a_crop_is_redrawn_while_one_class_covers_too_much():
    mixed = np.tile(np.array([[0, 0, 0, 1]], np.uint8), (48, 20))  # any 32 columns: exactly 0.75
    assert tries(mixed, STILL) == 1, "exactly the share is allowed"
    assert tries(mixed, still(max_class_share=0.74)) == 10
    assert tries(mixed, still(max_class_share=0.74, crop_tries=3)) == 3
    assert tries(np.full((48, 80), 7, np.uint8), STILL) == 10
    assert tries(np.full((48, 80), 7, np.uint8), still(max_class_share=1.0)) == 1
    assert tries(np.full((48, 80), 255, np.uint8), STILL) == 1, "nothing labelled, no class to cover it"


def test_without_a_share_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(augment, "largest_share", None)
    augment.draw_window(np.zeros((48, 80), np.uint8), still(max_class_share=1.0), np.random.default_rng(0))


def test_ignored_pixels_do_not_count_for_the_share():
    labels = np.full((48, 80), 255, np.uint8)
    labels[::2, ::4] = 5
    assert tries(labels, STILL) == 10
    labels[1::2, ::4] = 6
    assert tries(labels, STILL) == 1


def test_the_share_is_that_of_labels_resized_by_nearest():
    labels = np.tile(np.array([[0, 0, 0, 0, 9]], np.uint8), (4, 48, 17))  # between 0 and 9 there is no class
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    data = still(ratio=(2.0, 2.0))
    augment.resize_and_crop(np.zeros((4, 48, 85, 3), np.uint8), labels, data, rng)
    augment.draw_size(48, 85, data, again)
    augment.draw_window(labels[0].repeat(2, axis=0).repeat(2, axis=1), data, again)
    assert rng.bit_generator.state == again.bit_generator.state, "drawn as often"


def test_redrawn_crops_avoid_the_uniform_part():
    labels = np.zeros((48, 400), np.uint8)
    labels[:, 340:] = np.arange(60) % 4

    def share_of_hits(data):
        windows = [augment.draw_window(labels, data, np.random.default_rng(seed)) for seed in range(500)]
        return np.mean([columns.start > 310 for _, columns in windows])

    once = share_of_hits(still(crop_tries=1))
    assert 0.1 < once < 0.25
    assert share_of_hits(STILL) == pytest.approx(1 - (1 - once) ** 10, abs=0.08)


def test_only_the_target_decides_about_the_crop():
    frames, labels = random_clip(0)
    alone = augment.resize_and_crop(frames, labels, DATA, np.random.default_rng(5))
    labels[:3] = 7
    again = augment.resize_and_crop(frames, labels, DATA, np.random.default_rng(5))
    np.testing.assert_array_equal(alone[0], again[0])


# --- flips


def test_the_whole_clip_is_mirrored_with_the_probability():
    frames, labels = random_clip(3)
    for flip in (0.0, 0.5, 0.2, 1.0):
        count = 0
        for seed in range(1500):
            result = augment.flip(frames[:, :4, :6], labels[:, :4, :6], still(flip=flip), np.random.default_rng(seed))
            mirrored = not np.array_equal(result[0], frames[:, :4, :6])
            step = -1 if mirrored else 1
            np.testing.assert_array_equal(result[0], frames[:, :4, :6][:, :, ::step])
            np.testing.assert_array_equal(result[1], labels[:, :4, :6][:, :, ::step])
            count += mirrored
        assert count / 1500 == pytest.approx(flip, abs=0.04)


# --- colours


def straightforward(frame, brightness, contrast, contrast_last, saturation, hue):
    """Each step on floats, cut to bytes after it."""

    def linear(x, factor, shift):
        return np.clip(x.astype(np.float32) * np.float32(factor) + np.float32(shift), 0, 255).astype(np.uint8)

    frame = linear(frame, 1, brightness)
    if not contrast_last:
        frame = linear(frame, contrast, 0)
    if saturation != 1 or hue != 0:
        hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
        hsv[..., 1] = linear(hsv[..., 1], saturation, 0)
        frame = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return linear(frame, contrast, 0) if contrast_last else frame


def test_tables_equal_the_straightforward_computation():
    frames, _ = random_clip(4, frames=200)
    rng = np.random.default_rng(0)
    for frame in frames:
        distortion = augment.draw_distortion(DATA, rng)
        before = frame.copy()
        np.testing.assert_array_equal(augment.distort_frame(frame, distortion), straightforward(frame, *distortion))
        np.testing.assert_array_equal(frame, before)


CHANGES = (augment.Distortion(), augment.Distortion(brightness=9), augment.Distortion(hue=4))


@pytest.mark.parametrize("distortion", CHANGES)
def test_a_result_is_written_where_asked_and_never_into_the_frame(distortion):
    frame = random_clip(5)[0][0]
    before, out = frame.copy(), np.zeros_like(frame)
    alone = augment.distort_frame(frame, distortion)
    assert augment.distort_frame(frame, distortion, out) is out and np.array_equal(alone, out)
    assert not np.shares_memory(alone, frame)
    np.testing.assert_array_equal(frame, before)


def test_known_colours():
    def change(rgb, **distortion):
        frame = np.array(rgb, np.uint8).reshape(1, 1, 3)
        return augment.distort_frame(frame, augment.Distortion(**distortion)).ravel().tolist()

    assert change([0, 100, 250]) == [0, 100, 250]
    assert change([0, 100, 250], brightness=20.7) == [20, 120, 255]
    assert change([0, 100, 250], brightness=-30) == [0, 70, 220]
    assert change([0, 101, 250], contrast=1.5) == [0, 151, 255]
    assert change([40, 100, 250], brightness=-40, contrast=0.5) == [0, 30, 105]
    assert change([80, 80, 80], saturation=1.5, hue=9) == [80, 80, 80], "grey has neither saturation nor hue"
    assert change([255, 0, 0], hue=60) == [0, 255, 0]
    assert change([255, 0, 0], hue=-60) == [0, 0, 255], "hue wraps around"
    assert change([255, 0, 0], saturation=0.5) == pytest.approx([255, 128, 128], abs=1)
    assert change([200, 50, 50], saturation=1.5) == change([200, 50, 50], saturation=1.34), "saturation ends at 255"
    assert change([250, 100, 0], contrast=1.5, saturation=0.5) != change(
        [250, 100, 0], contrast=1.5, saturation=0.5, contrast_last=True
    )


def test_distortions_have_the_configured_ranges_and_probabilities():
    rng = np.random.default_rng(0)
    data = still(distort=0.3, brightness=32.0, contrast=(0.5, 1.5), saturation=(0.6, 1.2), hue=18)
    draws = [augment.draw_distortion(data, rng) for _ in range(12000)]
    columns = {name: np.array([getattr(draw, name) for draw in draws]) for name in augment.Distortion._fields}
    ranges = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.6, 1.2), "hue": (-18, 18)}
    for name, (low, high) in ranges.items():
        values, neutral = columns[name], getattr(augment.Distortion(), name)
        drawn = np.sort(values[values != neutral])
        # A drawn hue is 0, that is neutral, once in 37 times.
        assert len(drawn) / len(values) == pytest.approx(0.3 * (36 / 37 if name == "hue" else 1), abs=0.02)
        np.testing.assert_allclose(drawn, np.linspace(low, high, len(drawn)), atol=0.05 * (high - low))
        assert low <= drawn[0] and drawn[-1] <= high
    assert set(columns["hue"]) == set(range(-18, 19))
    assert columns["contrast_last"].mean() == pytest.approx(0.5, abs=0.02)
    changed = np.stack([columns[name] != getattr(augment.Distortion(), name) for name in ("brightness", "contrast")])
    assert changed.all(axis=0).mean() == pytest.approx(0.09, abs=0.01), "drawn independently"


def test_each_frame_has_its_own_distortion():
    frame = random_clip(6)[0][0]
    distorted = augment.distort(np.stack([frame] * 4), still(distort=1.0), np.random.default_rng(0))
    assert distorted.dtype == np.uint8
    assert len({part.tobytes() for part in distorted}) == 4


def test_no_distortion_without_its_probability():
    frames, _ = random_clip(7)
    np.testing.assert_array_equal(augment.distort(frames, STILL, np.random.default_rng(0)), frames)


# --- padding


def test_padding_is_at_the_bottom_and_right():
    frames, labels = random_clip(8, 20, 27)
    padded, marks, size = augment.pad(frames, labels, still(crop=(32, 40)))
    assert padded.shape == (4, 32, 40, 3) and marks.shape == (4, 32, 40)
    assert size.dtype == np.int32 and size.tolist() == [20, 27]
    np.testing.assert_array_equal(padded[:, :20, :27], frames)
    np.testing.assert_array_equal(marks[:, :20, :27], labels)
    for outside in (np.s_[:, 20:], np.s_[:, :, 27:]):
        assert (padded[outside] == 0).all() and (marks[outside] == 255).all()


@pytest.mark.parametrize(
    ("shape", "top", "left"), [((20, 27), 5, 6), ((31, 39), 0, 0), ((31, 40), 0, 0), ((31, 1), 0, 19)]
)
def test_padding_around(shape, top, left):
    """Black on both sides, of an odd number the one more after; to the network it is a whole frame."""
    frames, labels = random_clip(8, *shape)
    crop = (31, 40)
    padded, marks, size = augment.pad(frames, labels, still(crop=crop, padding="around"))
    assert size.dtype == np.int32 and size.tolist() == [*crop]
    height, width = shape
    inside = np.s_[:, top : top + height, left : left + width]
    expected, ignored = np.zeros((4, *crop, 3), np.uint8), np.full((4, *crop), 255, np.uint8)
    expected[inside], ignored[inside] = frames, labels
    np.testing.assert_array_equal(padded, expected)
    np.testing.assert_array_equal(marks, ignored)


# --- all together


@pytest.mark.parametrize("crop", [(32, 32), (31, 47)])
@pytest.mark.parametrize("padding", ["end", "around"])
def test_clips_of_any_size_come_out_alike(crop, padding):
    rng, data = np.random.default_rng(0), dataclasses.replace(DATA, crop=crop, padding=padding)
    sizes = set()
    for seed in range(80):
        height, width = rng.integers(1, 120, 2)
        frames, labels = random_clip(seed, height, width)
        frames, labels, size = augment.augment(frames, labels, data, np.random.default_rng(seed))
        assert frames.shape == (4, *crop, 3) and frames.dtype == np.uint8
        assert labels.shape == (4, *crop) and labels.dtype == np.uint8
        known = (labels < 6).all(0)
        rows, columns = known.any(1), known.any(0)
        assert (labels[:, ~known] == 255).all() and (frames[:, ~known] == 0).all()
        assert np.array_equal(known, rows[:, None] & columns), "nothing but padding is ignored"
        inner = rows.sum(), columns.sum()
        assert tuple(size) == (inner if padding == "end" else crop)
        firsts = (0, 0) if padding == "end" else tuple((side - own) // 2 for side, own in zip(crop, inner))
        assert (rows.argmax(), columns.argmax()) == firsts
        sizes.add(inner)
    assert crop in sizes and len(sizes) > 10


def test_the_generator_alone_decides():
    clip = random_clip(9)
    first, second, other = (augment.augment(*clip, DATA, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert not np.array_equal(first[0], other[0])
