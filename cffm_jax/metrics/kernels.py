"""The inner loops of the metrics, compiled by Numba.

Most are loops over bytes without a branch, which the compiler turns into instructions that take 32
pixels or more at a time. They work on parts of a frame that stay in a core's cache. Pixels are u8
in C order; nothing here looks at their sizes: the callers do.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from cffm_jax.config import IGNORED_LABEL

_TILE = 2**14
"""Pixels of a part; counts of them fit in 16 bits."""


def _compiled(function: Callable) -> Callable:
    """Compiled at its first call, without Python's lock."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # Neither this folder nor the user's cache can be written: compiled anew in each process.
        return numba.njit(nogil=True)(function)


# --- consistency ----------------------------------------------------------------------------------


def start_ages(pixels: int, longest: int) -> np.ndarray:
    """The ages of `add_frames` before a video, for windows of at most ``longest`` frames."""
    return np.zeros((3, pixels), np.uint8 if longest < 256 else np.uint32)


@_compiled
def _grow(label, prediction, last_label, last_prediction, longest, label_age, both_age, right_age):
    """Brings ages to the next frame. Returns pixels that keep their class, and the changed ones."""
    steady, changed = np.uint16(0), np.uint16(0)
    for i in range(label.size):
        known = label[i] != IGNORED_LABEL
        kept = label[i] == last_label[i]
        same = prediction[i] == last_prediction[i]
        steady = np.uint16(steady + (kept & known))
        changed = np.uint16(changed + (kept & known & (not same)))
        label_age[i] = (label_age[i] + (label_age[i] < longest)) * kept
        both_age[i] = (both_age[i] + (both_age[i] < longest)) * (kept & same)
        right_age[i] = (right_age[i] + (right_age[i] < longest)) * (known & (prediction[i] == label[i]))
    return steady, changed


@_compiled
def _window(label, label_age, both_age, right_age, length, before):
    """`add_frames`' counts for the window of ``length`` = ``before`` + 1 frames that ends now."""
    stable, consistent, stable_known, right = np.uint16(0), np.uint16(0), np.uint16(0), np.uint16(0)
    for i in range(label.size):
        known = (label_age[i] >= before) & (label[i] != IGNORED_LABEL)
        stable = np.uint16(stable + (label_age[i] >= before))
        consistent = np.uint16(consistent + (both_age[i] >= before))
        stable_known = np.uint16(stable_known + known)
        right = np.uint16(right + (known & (right_age[i] >= length)))
    return stable, consistent, stable_known, right


@_compiled
def add_frames(labels, predictions, last_label, last_prediction, ages, lengths):
    """Feeds a video's next frames to the windows that end with each.

    Args:
      labels, predictions: u8[T,N], T frames of N pixels.
      last_label, last_prediction: u8[N], the frame before; before the first, labels that differ
        everywhere.
      ages: u8 or u32 [3,N]: how many frames in a row had the label of the frame before, its label
        and prediction, and the right prediction; at most as many as the longest window has.
      lengths: [L] of the ages' type, frames of the windows.

    Returns:
      The ages after the last frame; i64[T,L,4], each window's stable and consistent pixels, the
      stable ones that have a class and those of them that are right; i64[T,2], the pixels that keep
      their class, and those of them whose prediction changes.
    """
    frames, pixels = labels.shape
    windows = np.zeros((frames, lengths.size, 4), np.int64)
    steady = np.zeros((frames, 2), np.int64)
    ages = ages.copy()
    before, longest = lengths.copy(), lengths.max()
    before -= lengths.dtype.type(1)
    for start in range(0, pixels, _TILE):
        stop = min(start + _TILE, pixels)
        label_age, both_age, right_age = ages[0, start:stop], ages[1, start:stop], ages[2, start:stop]
        last = last_label[start:stop], last_prediction[start:stop]
        for t in range(frames):
            pair = labels[t, start:stop], predictions[t, start:stop]
            counts = _grow(pair[0], pair[1], last[0], last[1], longest, label_age, both_age, right_age)
            for j in range(2):
                steady[t, j] += counts[j]
            for i in range(lengths.size):
                of_window = _window(pair[0], label_age, both_age, right_age, lengths[i], before[i])
                for j in range(4):
                    windows[t, i, j] += of_window[j]
            last = pair
    return ages, windows, steady


# --- confusion ------------------------------------------------------------------------------------


@_compiled
def _mark_ends(label, prediction, next_label, next_prediction, ends):
    """Sets those of the flags u8[n] whose pixel differs from the next one."""
    for i in range(ends.size):
        ends[i] = (label[i] != next_label[i]) | (prediction[i] != next_prediction[i])


@_compiled
def _positions(flags, positions):
    """Writes where the flags, 0 or 1, are set to positions u32[n]. Returns how many are."""
    count = np.uint64(0)
    for i in range(np.uint64(flags.size)):
        positions[count] = i
        count += np.uint64(flags[i])
    return count


@_compiled
def add_pairs(labels, predictions, counts, most):
    """Adds pixels by label and prediction to counts i64[K,K], but those with an ignored label.
    ``most`` pixels at a time, as they are counted in 32 bits. Returns how many were added or left
    out: fewer than all where a value is no class."""
    counted = 0
    ends, positions = np.empty(_TILE, np.uint8), np.empty(_TILE, np.uint32)
    for first in range(0, labels.size, most):
        table = np.zeros((256, 256), np.uint32)
        last = min(first + most, labels.size)
        for start in range(first, last, _TILE):
            # In runs of equal pairs: frames are of few classes in patches.
            label, prediction = labels[start : min(start + _TILE, last)], predictions[start : min(start + _TILE, last)]
            _mark_ends(label[:-1], prediction[:-1], label[1:], prediction[1:], ends[: label.size - 1])
            ends[label.size - 1] = 1
            begin = np.uint32(0)
            for run in range(_positions(ends[: label.size], positions)):
                end = positions[run]
                table[label[end], prediction[end]] += np.uint32(end + 1 - begin)
                begin = np.uint32(end + 1)
        counted += np.int64(table[IGNORED_LABEL].sum())
        for i in range(len(counts)):
            for j in range(len(counts)):
                pixels = np.int64(table[i, j])
                counts[i, j] += pixels
                counted += pixels
    return counted


# --- boundaries -----------------------------------------------------------------------------------


@_compiled
def _lengthen(runs, above, row, most):
    """For columns: how many rows in a row have had the class of the row above, at most ``most``."""
    for x in range(runs.size):
        runs[x] = (runs[x] + (runs[x] < most)) * (above[x] == row[x])


@_compiled
def _mark_changes(row, beside, runs, runs_beside, most, changes):
    """Marks where a pixel differs from its neighbour, or one of their columns has changed."""
    for x in range(changes.size):
        changes[x] = (row[x] != beside[x]) | (runs[x] < most) | (runs_beside[x] < most)


@_compiled
def _join(flags, moved, joined):
    for x in range(joined.size):
        joined[x] = flags[x] | moved[x]


@_compiled
def _keep(row, flags, outside, kept):
    for x in range(row.size):
        kept[x] = row[x] if flags[x] | (row[x] == IGNORED_LABEL) else outside


@_compiled
def bands(classes, width, outside):
    """The classes u8[H,W] where a square of radius ``width`` >= 1 holds another class or leaves the
    frame; ``outside`` elsewhere, but for ignored pixels. A square holds one class if no two
    neighbours in it differ, so there is no loop over classes."""
    height, length = classes.shape
    result = classes.copy()
    most = np.uint16(2 * width)
    runs = np.zeros(length, np.uint16)
    changes, joined = np.empty(length, np.uint8), np.empty(length, np.uint8)
    for y in range(1, height if length > 2 * width else 0):
        _lengthen(runs, classes[y - 1], classes[y], most)
        if y < 2 * width:
            continue
        # The square's last row is y: is there a change between its first and its last column?
        row = classes[y - width]
        _mark_changes(row[:-1], row[1:], runs[:-1], runs[1:], most, changes[: length - 1])
        size, done = length - 1, 1
        while done < 2 * width:
            step = min(done, 2 * width - done)
            size -= step
            _join(changes[:size], changes[step : step + size], joined[:size])
            changes, joined = joined, changes
            done += step
        _keep(row[width:-width], changes[:size], outside, result[y - width, width:-width])
    return result
