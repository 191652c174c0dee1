"""The inner loops of the metrics, compiled for the processor at hand.

A map has a bit for each pixel of a row: bit k of word j is pixel 64 j + k, and what is left over is 0. Frames are of
few classes in patches, so pixels are compared 64 at a time, and only where a patch ends does a loop look at one.

Arrays of pixels are u8[n], in C order; nothing here looks at their sizes: the callers do.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from cffm_jax.config import IGNORED_LABEL

_WORD = 64
_TILE = 1024
"""Words that are taken through several frames together: what belongs to them stays in a core's cache."""
_ALL = np.uint64(2**64 - 1)
_IGNORED = np.full(_WORD, IGNORED_LABEL, np.uint8)


def _compiled(function: Callable) -> Callable:
    """Compiled at its first call, without Python's lock."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # Neither this folder nor the user's cache can be written: compiled anew in each process.
        return numba.njit(nogil=True)(function)


@intrinsic
def _differing_64(typing, a, i, b, j):
    """u64: in which of the 64 pixels from a[i] and b[j] on the arrays differ; one comparison of the processor's."""
    pixels = ir.VectorType(ir.IntType(8), _WORD)

    def generate(context, builder, signature, args):
        vectors = []
        for array, offset, kind in ((args[0], args[1], signature.args[0]), (args[2], args[3], signature.args[2])):
            start = builder.gep(context.make_array(kind)(context, builder, array).data, [offset])
            vectors.append(builder.load(builder.bitcast(start, pixels.as_pointer()), align=1))
        return builder.bitcast(builder.icmp_unsigned("!=", *vectors), ir.IntType(_WORD))

    return types.uint64(a, types.intp, b, types.intp), generate


@intrinsic
def _ones(typing, word):
    """i64: the bits of a word u64 that are set."""
    return types.int64(types.uint64), lambda context, builder, signature, args: builder.ctpop(args[0])


@intrinsic
def _first_one(typing, word):
    """i64: the lowest bit of a word u64 that is set; there has to be one."""
    true = ir.Constant(ir.IntType(1), 1)
    return types.int64(types.uint64), lambda context, builder, signature, args: builder.cttz(args[0], true)


@_compiled
def _mark(words, a, i, b, j, count):
    """Sets the bits of those of ``count`` pixels from a[i] and b[j] on that differ."""
    whole = count // _WORD
    for word in range(whole):
        words[word] |= _differing_64(a, i + _WORD * word, b, j + _WORD * word)
    for pixel in range(_WORD * whole, count):
        words[whole] |= np.uint64(a[i + pixel] != b[j + pixel]) << np.uint64(pixel - _WORD * whole)


@_compiled
def _words(count):
    """Words of a map of so many pixels."""
    return (count + _WORD - 1) // _WORD


@_compiled
def _age(ages, kept, full, carry):
    """Adds 1 to the numbers u64[bits,words] of the pixels in the map, as far as the bits go, and makes 0 the others.

    The last two are words to work with.
    """
    full[:] = _ALL
    carry[:] = _ALL
    for level in range(len(ages)):
        for word in range(kept.size):
            full[word] &= ages[level, word]
    for level in range(len(ages)):
        for word in range(kept.size):
            age = ages[level, word]
            ages[level, word] = ((age ^ carry[word]) | full[word]) & kept[word]
            carry[word] &= age


@_compiled
def _reach(ages, number, pixels, reached):
    """Makes ``reached`` the map of those of the pixels u64[words] whose number is at least so much."""
    reached[:] = pixels
    for level in range(len(ages)):
        if number >> level & 1:
            for word in range(reached.size):
                reached[word] &= ages[level, word]
        else:
            for word in range(reached.size):
                reached[word] |= ages[level, word]


@_compiled
def _count(words):
    """Pixels of a map."""
    total = 0
    for word in range(words.size):
        total += _ones(words[word])
    return total


@_compiled
def _known(words, labels, i, count):
    """Adds those of ``count`` pixels from labels[i] on that have a class.

    As `_mark` does beside an array of ignored labels as long as these, which would have to be read too.
    """
    whole = count // _WORD
    for word in range(whole):
        words[word] |= _differing_64(labels, i + _WORD * word, _IGNORED, 0)
    _mark(words[whole:], labels, i + _WORD * whole, _IGNORED, 0, count - _WORD * whole)


@_compiled
def _blank(words):
    """The map of no pixels."""
    return np.zeros(words, np.uint64)


def start_ages(pixels: int, longest: int) -> np.ndarray:
    """The ages of `add_frames` before a video's first frame, for windows of at most so many frames."""
    return np.zeros((3, longest.bit_length(), -(-pixels // _WORD)), np.uint64)


@_compiled
def add_frames(labels, predictions, last_label, last_prediction, ages, lengths):
    """Feeds a video's next frames to the windows that end with each.

    Args:
      labels, predictions: u8[T,N], T frames of N pixels.
      last_label, last_prediction: u8[N], the frame before them; u8[0] if there is none.
      ages: u64[3,bits,words], a number for each pixel, lowest bits first: how many frames in a row have had the label
        of the frame before, its label and prediction, and the right prediction. No number is more than the bits hold.
      lengths: i64[L], frames of the windows.

    Returns:
      The ages after the last frame; i64[T,L,4], each window's stable and consistent pixels, and the stable ones that
      have a class and those of them that are right; i64[T,2], the pixels that keep their class, and those of them that
      do not keep their prediction.
    """
    frames, pixels = labels.shape
    words = ages.shape[2]
    labels, predictions = labels.reshape(-1), predictions.reshape(-1)
    windows = np.zeros((frames, lengths.size, 4), np.int64)
    steady = np.zeros((frames, 2), np.int64)
    aged = np.empty_like(ages)
    for first in range(0, words, _TILE):
        tile = min(_TILE, words - first)
        start = _WORD * first
        count = min(_WORD * tile, pixels - start)
        # Arrays of their own: of views into one the compiler does not know that they are apart.
        label_age, both_age = ages[0, :, first : first + tile].copy(), ages[1, :, first : first + tile].copy()
        right_age = ages[2, :, first : first + tile].copy()
        kept, both, right, known = _blank(tile), _blank(tile), _blank(tile), _blank(tile)
        frame, stable, other, spare = ~_blank(tile), _blank(tile), _blank(tile), _blank(tile)
        if count % _WORD:
            frame[-1] = (np.uint64(1) << np.uint64(count % _WORD)) - np.uint64(1)
        for t in range(frames):
            at = t * pixels + start
            # What differs, first.
            kept[:], both[:], right[:], known[:] = 0, 0, 0, 0
            if t:
                _mark(kept, labels, at, labels, at - pixels, count)
                _mark(both, predictions, at, predictions, at - pixels, count)
            elif last_label.size:
                _mark(kept, labels, at, last_label, start, count)
                _mark(both, predictions, at, last_prediction, start, count)
            else:
                kept[:] = _ALL
            _mark(right, labels, at, predictions, at, count)
            _known(known, labels, at, count)
            for word in range(tile):
                kept[word] = ~kept[word] & frame[word]
                both[word] = ~both[word] & kept[word]
                right[word] = ~right[word] & known[word]
            for word in range(tile):
                stable[word] = kept[word] & known[word]
                other[word] = stable[word] & ~both[word]
            steady[t, 0] += _count(stable)
            steady[t, 1] += _count(other)
            _age(label_age, kept, other, spare)
            _age(both_age, both, other, spare)
            _age(right_age, right, other, spare)
            for i in range(lengths.size):
                _reach(label_age, lengths[i] - 1, frame, stable)
                windows[t, i, 0] += _count(stable)
                _reach(both_age, lengths[i] - 1, frame, other)
                windows[t, i, 1] += _count(other)
                _reach(right_age, lengths[i], frame, other)
                for word in range(tile):
                    stable[word] &= known[word]
                    other[word] &= stable[word]
                windows[t, i, 2] += _count(stable)
                windows[t, i, 3] += _count(other)
        aged[0, :, first : first + tile] = label_age
        aged[1, :, first : first + tile] = both_age
        aged[2, :, first : first + tile] = right_age
    return aged, windows, steady


@_compiled
def _moved(row, word, by):
    """A word of a map as if moved by so many pixels towards the first, or away from it where negative."""
    at, shift = word + (by >> 6), np.uint64(by & 63)
    return (row[at] >> shift) | (row[at + 1] << np.uint64(1) << (np.uint64(63) - shift))


@_compiled
def _add_row(labels, predictions, start, stop, near_label, near_prediction, outside, table):
    """Adds the pixels from start to stop to table u32[256 * 256]; what is outside of a map, if there are any, is class
    ``outside``."""
    # A run ends where a next pixel differs, and with the last one.
    ends = np.zeros(_words(stop - start), np.uint64)
    _mark(ends, labels, start, labels, start + 1, stop - start - 1)
    _mark(ends, predictions, start, predictions, start + 1, stop - start - 1)
    if near_label is not None:
        for row in (near_label, near_prediction):
            for word in range(ends.size):
                ends[word] |= row[word] ^ _moved(row, word, 1)
    ends[-1] |= np.uint64(1) << np.uint64((stop - start - 1) % _WORD)
    begin = start
    for word in range(ends.size):
        left = ends[word]
        while left:
            bit = _first_one(left)
            left &= left - np.uint64(1)
            pixel = start + _WORD * word + bit
            label, prediction = np.int64(labels[pixel]), np.int64(predictions[pixel])
            if near_label is not None:
                if not near_label[word] >> np.uint64(bit) & np.uint64(1) and label != IGNORED_LABEL:
                    label = outside
                if not near_prediction[word] >> np.uint64(bit) & np.uint64(1):
                    prediction = outside
            table[256 * label + prediction] += np.uint32(pixel + 1 - begin)
            begin = pixel + 1


@_compiled
def _add_table(table, counts):
    """Adds a table to counts i64[K,K]. Returns how many pixels of it have a class or are ignored."""
    found = 0
    for prediction in range(256):
        found += np.int64(table[256 * IGNORED_LABEL + prediction])
    for label in range(len(counts)):
        for prediction in range(len(counts)):
            pixels = np.int64(table[256 * label + prediction])
            counts[label, prediction] += pixels
            found += pixels
    return found


@_compiled
def add_pairs(labels, predictions, counts, most):
    """Adds pixels by label and prediction to counts i64[K,K]; those with an ignored label are left out.

    ``most`` pixels at a time, as they are counted in 32 bits. Returns how many were added or left out: fewer than all
    where a value is no class.
    """
    found = 0
    for start in range(0, labels.size, most):
        table = np.zeros(256 * 256, np.uint32)
        _add_row(labels, predictions, start, min(start + most, labels.size), None, None, 0, table)
        found += _add_table(table, counts)
    return found


@_compiled
def add_pairs_near(labels, predictions, length, near_labels, near_predictions, counts):
    """Likewise of a frame with rows of ``length`` pixels, where what is outside its `near_others` is class K - 1."""
    table = np.zeros(256 * 256, np.uint32)
    for y in range(len(near_labels)):
        start, near = y * length, (near_labels[y], near_predictions[y])
        _add_row(labels, predictions, start, start + length, near[0], near[1], len(counts) - 1, table)
    return _add_table(table, counts)


@_compiled
def _join_next(maps, count):
    """Row y becomes the OR of rows y to y + count - 1; the last count - 1 rows are of no use then."""
    done = 1
    while done < count:
        step = min(done, count - done)
        for y in range(len(maps) - step):
            for word in range(maps.shape[1]):
                maps[y, word] |= maps[y + step, word]
        done += step


@_compiled
def near_others(classes, length, width):
    """Where a square of radius ``width`` >= 1 holds another class or leaves the frame.

    A square holds one class if no two neighbours in it differ, so there is no loop over classes.

    Args:
      classes: u8[H * W].
      length: W.
      width: in pixels.

    Returns:
      Maps of the rows, u64[H,words], with a further word of zeros each.
    """
    height = classes.size // length
    words = _words(length)
    near = np.zeros((height, words + 1), np.uint64)
    beside = np.zeros((height, words), np.uint64)
    below = np.zeros((height, words + 1), np.uint64)
    for y in range(height):
        _mark(beside[y], classes, y * length, classes, y * length + 1, length - 1)
        if y + 1 < height:
            _mark(below[y], classes, y * length, classes, (y + 1) * length, length)
    _join_next(beside, 2 * width + 1)
    _join_next(below, 2 * width)
    frame, edge = np.zeros((2, words), np.uint64)
    for x in range(length):
        frame[x // _WORD] |= np.uint64(1) << np.uint64(x % _WORD)
        edge[x // _WORD] |= np.uint64(x < width or x >= length - width) << np.uint64(x % _WORD)
    margin = width // _WORD + 2
    row = np.zeros(margin + words + margin, np.uint64)
    for y in range(height):
        if not width <= y < height - width:
            near[y, :words] = frame
            continue
        for word in range(words):
            row[margin + word] = beside[y - width, word] | below[y - width, word] | _moved(below[y - width], word, 1)
        done = 1
        while done < 2 * width:
            step = min(done, 2 * width - done)
            for word in range(margin, margin + words):
                row[word] |= _moved(row, word, step)
            done += step
        for word in range(words):
            near[y, word] = (edge[word] | _moved(row, margin + word, -width)) & frame[word]
    return near
