"""Masks as they are stored: grey of few bits, palettes in and out of the stated order, and how a mask lies on a frame
that is turned."""

import dataclasses
import io
import itertools
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cffm_jax.data import decode
from cffm_jax.data.layouts import vspw
from cffm_jax.data.layouts.read import read_split
from cffm_jax.data.layouts.video import plain_coding
from cffm_jax.data.prepare import command as prepare
from cffm_jax.errors import InputError
from cffm_jax.evaluation.mask_folder import read_prediction
from cffm_jax.runtime.command_line import run_command

from helpers.datasets import fails, write_own

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
K = len(COLOURS)
CODING = dataclasses.replace(plain_coding(), colours=COLOURS.tobytes())


def grey_png(values, bits):
    """A grey PNG of so many bits a pixel, written by the format's definition."""
    rows = [(row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(-1) for row in values]
    height, width = values.shape
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)),
        b"IEND": b"",
    }
    parts = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def palette_png(values, colours):
    image = Image.fromarray(np.asarray(values, np.uint8))
    image.putpalette(np.asarray(colours, np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def labels_of(data, coding=CODING, classes=K):
    return decode.decode_mask("m.png", data, classes, coding)


# --- grey


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_is_read_as_it_is_stored(tmp_path, bits):
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 13), np.uint8)
    np.testing.assert_array_equal(
        labels_of(grey_png(values, bits), plain_coding(), 254)[values < 254], values[values < 254]
    )
    (tmp_path / "p.png").write_bytes(grey_png(values % 16, bits))
    np.testing.assert_array_equal(read_prediction(tmp_path / "p.png", 16), values % 16)


def test_predictions_with_their_palette_in_another_order(tmp_path):
    """As of one palette of three colours; another palette says nothing of classes."""
    stated = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    values = np.random.default_rng(0).integers(0, 3, (5, 13))
    path, order = tmp_path / "p.png", np.array([2, 0, 1])
    for palette, expected in ((stated, values), (stated[order], order[values]), (stated[order] // 2, values)):
        path.write_bytes(palette_png(values, palette))
        np.testing.assert_array_equal(read_prediction(path, 3, stated.tobytes()), expected)
    path.write_bytes(turned(values.astype(np.uint8), 3, "PNG"))
    assert "is turned by EXIF (orientation 3)" in fails("p.png", read_prediction, path, 3)
    path.write_bytes(palette_png(values, stated[[1, 0, 0]]))
    said = fails("", read_prediction, path, 3, stated[[0, 1, 0]].tobytes())
    assert said.startswith(str(path)) and "the classes 0 and 2 are alike" in said


def test_a_jpeg_is_no_mask():
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "JPEG")
    assert "save masks as PNG" in fails("m.png", labels_of, file.getvalue())


# --- palettes


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_where_colours_are_stated_they_decide(order):
    labels = np.arange(12).reshape(3, 4) % K
    values = np.argsort(order)[labels]
    data = palette_png(values, COLOURS[list(order)])
    np.testing.assert_array_equal(labels_of(data), labels)
    np.testing.assert_array_equal(labels_of(data, plain_coding()), values)  # Else the index, whatever the colour.


def test_vspws_values_have_colours_too():
    coding = dataclasses.replace(vspw.CODING, colours=COLOURS[1:].tobytes())
    labels = np.array([[0, 1, 2, 2]])
    right = palette_png([[1, 2, 3, 3]], [[9, 9, 9], *COLOURS[1:]])
    moved = palette_png([[2, 1, 3, 3]], [[9, 9, 9], COLOURS[2], COLOURS[1], COLOURS[3]])
    for data in (right, moved):
        np.testing.assert_array_equal(labels_of(data, coding, 3), labels)


def test_a_palette_in_order_is_read_by_its_values():
    """Black for a class and for ignored pixels, as this package writes them; entries that are not in use."""
    colours = np.zeros((256, 3), np.uint8)
    colours[:K] = COLOURS
    values = np.array([[0, 1, 3, 255]])
    np.testing.assert_array_equal(labels_of(palette_png(values, colours)), values)
    colours[2] = 77  # Not in use.
    np.testing.assert_array_equal(labels_of(palette_png(values, colours)), values)


@pytest.mark.parametrize(
    ("values", "colours", "said"),
    [
        ([[0, 1]], [[0, 0, 0], [9, 9, 9]], "entry 1 is (9, 9, 9), none of the stated colours"),
        ([[0, 1, 2]], [[255, 0, 0], [0, 0, 0], [255, 0, 0]], "entries 0 and 2 of one colour"),
        ([[0, 255]], [[255, 0, 0]] + [[0, 0, 0]] * 255, "entry 255 is (0, 0, 0), a class's colour, and the ignored"),
    ],
)
def test_colours_that_leave_it_open_are_refused(values, colours, said):
    message = fails("m.png", labels_of, palette_png(values, colours))
    assert said in message and "class file" in message


def test_ignored_pixels_have_a_colour_where_it_is_stated():
    coding = dataclasses.replace(CODING, ignored_colour=bytes([7, 7, 7]))
    data = palette_png([[0, 1, 2]], [[7, 7, 7], [0, 0, 0], [0, 0, 255]])
    np.testing.assert_array_equal(labels_of(data, coding), [[255, 0, 3]])
    np.testing.assert_array_equal(
        labels_of(palette_png([[0, 255]], [[0, 0, 0]] + [[7, 7, 7]] * 255), coding), [[0, 255]]
    )
    beyond = palette_png([[0, 3, 4, 2]], [*COLOURS, [7, 7, 7]])  # Void as a value above the classes'.
    np.testing.assert_array_equal(labels_of(beyond, coding), [[0, 3, 255, 2]])


def test_two_classes_of_one_colour_are_told_apart_by_their_values_alone():
    coding = dataclasses.replace(plain_coding(), colours=COLOURS[[0, 1, 1]].tobytes())
    np.testing.assert_array_equal(labels_of(palette_png([[0, 1, 2]], COLOURS[[0, 1, 1]]), coding, 3), [[0, 1, 2]])
    assert "classes 1, 2" in fails("m.png", labels_of, palette_png([[0, 1]], COLOURS[[1, 0]]), coding, 3)


def test_colours_of_a_class_file_reach_training_and_records(tmp_path):
    root = write_own(tmp_path / "own", {"a": (2, {0, 1})}, classes=K)
    path = root / "a" / "masks" / "0000.png"
    values = np.asarray(Image.open(path))
    path.write_bytes(palette_png(np.array([2, 3, 1, 0])[values], COLOURS[[3, 2, 0, 1]]))
    names = [f"n{i}" for i in range(K)]
    (root / "classes.json").write_text(json.dumps({"names": names, "colours": COLOURS.tolist()}))
    assert run_command(prepare.main, [str(root), str(tmp_path / "out"), "--layout", "folder"]) == 0
    for place, layout in ((root, "folder"), (tmp_path / "out" / "video_folder" / "1.0.0", "records")):
        (video,) = read_split(str(place), "train", layout=layout)
        np.testing.assert_array_equal(decode.read_mask(video.mask(0), K, video.coding), values)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"ignored_colour": [1, 2]}, "three numbers"),
        ({"ignored_colour": [255, 0, 0]}, "is a class's too"),
        ({"ignored_colour": [1, 2, 3], "colours": None}, 'without "colours"'),
    ],
)
def test_faults_of_the_ignored_colour(tmp_path, more, said):
    root = write_own(tmp_path, {"a": (1, {0})})
    tree = {"names": list("abcd"), "colours": COLOURS.tolist(), **more}
    (root / "classes.json").write_text(json.dumps(tree))
    assert said in fails("classes.json", read_split, str(root), "train", layout="folder")


# --- frames that are turned


def turned(pixels, orientation, kind):
    """The bytes of an image that EXIF turns so; 0: without EXIF."""
    exif, file = Image.Exif(), io.BytesIO()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, kind, **({"exif": exif} if orientation else {}))
    return file.getvalue()


def pair(frame_turn, mask_turn, mask_size, size=(6, 8)):
    frame = turned(np.zeros((*size, 3), np.uint8), frame_turn, "JPEG")
    mask = turned(np.arange(mask_size[0] * mask_size[1], dtype=np.uint8).reshape(mask_size) % K, mask_turn, "PNG")
    image, labels = decode.decode_pair("f.jpg", "m.png", frame, mask, K, plain_coding())
    assert image.shape[:2] == labels.shape
    return labels


def test_a_mask_lies_as_its_frame_or_is_refused():
    for upright in (0, 1):
        pair(upright, 0, (6, 8))
    for turn in (2, 3, 4):
        assert f"orientation {turn}" in fails("m.png", pair, turn, 0, (6, 8)), "nothing says how it lies"
        pair(turn, turn, (6, 8))
        pair(turn, 1, (6, 8))
    for turn in (5, 6, 7, 8):
        pair(turn, 0, (8, 6))  # Its size says that it is upright.
        assert "as the frame is stored" in fails("m.png", pair, turn, 0, (6, 8))
        pair(turn, turn, (6, 8))
        assert "orientation" in fails("m.png", pair, turn, 0, (8, 8), (8, 8)), "a square says nothing"


def test_a_mask_that_is_turned_alone_is_refused_by_the_same_rule():
    for turn in (2, 3, 4):
        said = fails("m.png", pair, 0, turn, (6, 8))
        assert f"turned by EXIF (orientation {turn}), and f.jpg does not say" in said and "off the mask" in said
        pair(1, turn, (6, 8))
    for turn in (5, 6, 7, 8):
        pair(0, turn, (8, 6))  # Its size says that the frame is upright.
        assert "is 8x6 as it is stored, as its frame is" in fails("m.png", pair, 0, turn, (6, 8))
        pair(1, turn, (8, 6))
        assert "is 6x8 but its frame is 8x6" in fails("m.png", pair, 1, turn, (6, 8))
        assert "does not say" in fails("m.png", pair, 0, turn, (8, 8), (8, 8)), "a square says nothing"


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_masks_own_orientation_turns_it_as_a_frames(turn):
    values = (np.arange(48, dtype=np.uint8).reshape(6, 8) * 7) % K
    frame = np.repeat(values[..., None], 3, -1)
    labels = labels_of(turned(values, turn, "PNG"))
    np.testing.assert_array_equal(labels, decode.decode_frame("f.png", turned(frame, turn, "PNG"))[..., 0])


def test_a_label_alone_is_refused_like_the_pair(tmp_path):
    frame, mask = tmp_path / "f.jpg", tmp_path / "m.png"
    for turn, mask_turn in itertools.product(range(9), (0, 1, 3, 6)):
        mask.write_bytes(turned(np.zeros((6, 8), np.uint8), mask_turn, "PNG"))
        frame.write_bytes(turned(np.zeros((6, 8, 3), np.uint8), turn, "JPEG"))
        said = []
        for read in (decode.read_pair, decode.read_label):
            try:
                read(str(frame), str(mask), K, plain_coding())
                said.append("")
            except InputError as error:
                said.append(str(error))
        assert said[0] == said[1] and (mask_turn or bool(said[0]) == (turn > 1))
