"""From a folder to videos, and from files to arrays; every fault is one line that names the file."""

import struct
import time
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from cffm_jax.data import decode, image_files
from cffm_jax.data.layouts import read as layouts
from cffm_jax.data.layouts.vspw import CODING

from helpers.datasets import fails


def write_frame(path, frame):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def write_mask(path, mask, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if mode == "P":
        image = image.convert("L")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
        assert image.mode == "P"
    image.save(path)


def write_dataset(root, frames_per_video, split="train"):
    """Videos of tiny grey frames and masks full of label 1."""
    for name, numbers in frames_per_video.items():
        for number in numbers:
            write_frame(root / "data" / name / "origin" / f"{number}.jpg", np.full((8, 12, 3), 90, np.uint8))
            write_mask(root / "data" / name / "mask" / f"{number}.png", np.ones((8, 12), np.uint8))
    (root / f"{split}.txt").write_text("\n".join(frames_per_video) + "\n")
    return root


# --- splits


def test_a_split_is_read_in_its_order_with_frames_by_number(tmp_path):
    root = write_dataset(tmp_path, {"b_2": ["00000002", "00000000", "00000001"], "a_1": ["9", "10", "1"]})
    write_mask(root / "data" / "b_2" / "mask" / "00000007.png", np.ones((8, 12), np.uint8))  # no frame: not used
    (root / "data" / "a_1" / "origin" / "._9.jpg").write_text("left behind by some systems")
    (root / "data" / "a_1" / "origin" / "readme.txt").write_text("")
    videos = layouts.read_split(str(root), "train")
    assert [video.name for video in videos] == ["b_2", "a_1"]
    stems = [[path.rsplit("/", 1)[1].removesuffix(".jpg") for path in video.frames] for video in videos]
    assert stems == [["00000000", "00000001", "00000002"], ["1", "9", "10"]]
    for video in videos:
        assert len(video.masks) == len(video.frames)
        for frame, mask in zip(video.frames, video.masks):
            assert frame.replace("/origin/", "/mask/").replace(".jpg", ".png") == mask
            decode.read_pair(frame, mask, 124, CODING)


def test_a_split_without_masks(tmp_path):
    write_dataset(tmp_path, {"a": ["0", "1"]}, split="test")
    for path in (tmp_path / "data" / "a" / "mask").iterdir():
        path.unlink()
    (video,) = layouts.read_split(str(tmp_path), "test", masks=False)
    assert len(video.frames) == 2 and video.masks == ()
    fails(tmp_path / "data" / "a" / "origin" / "0.jpg", layouts.read_split, str(tmp_path), "test")


def test_blank_lines_and_windows_line_ends(tmp_path):
    write_dataset(tmp_path, {"a": ["0"], "b": ["0"]})
    (tmp_path / "train.txt").write_bytes("\ufeffa\r\n\r\n b \r\n".encode())
    assert [video.name for video in layouts.read_split(str(tmp_path), "train")] == ["a", "b"]


def test_faults_of_the_dataset_folder(tmp_path):
    fails(tmp_path / "nowhere", layouts.read_split, str(tmp_path / "nowhere"), "train")
    message = fails(tmp_path, layouts.read_split, str(tmp_path), "train")
    assert "data" in message and "--data.root" in message


def test_faults_of_the_split_file(tmp_path):
    write_dataset(tmp_path, {"a": ["0"]})
    path = tmp_path / "other.txt"
    fails(path, layouts.read_split, str(tmp_path), "other")
    path.write_text("\n  \n")
    fails(path, layouts.read_split, str(tmp_path), "other")
    path.write_bytes(b"\xff\xfe\x00a")
    fails(path, layouts.read_split, str(tmp_path), "other")
    path.write_text("a\na\n")
    assert "'a' twice" in fails(path, layouts.read_split, str(tmp_path), "other")
    path.unlink()
    path.mkdir()
    fails(path, layouts.read_split, str(tmp_path), "other")


def test_faults_of_a_video(tmp_path):
    write_dataset(tmp_path, {"a": ["0", "1", "2"]})
    videos = tmp_path / "data"
    (videos / "empty" / "origin").mkdir(parents=True)
    (videos / "bare").mkdir()
    for name, where in (("gone", "gone"), ("empty", "empty/origin"), ("bare", "bare/origin")):
        (tmp_path / "train.txt").write_text(f"a\n{name}\n")
        fails(videos / where, layouts.read_split, str(tmp_path), "train")
    (tmp_path / "train.txt").write_text("a\n")
    (videos / "a" / "mask" / "1.png").unlink()
    fails(videos / "a" / "origin" / "1.jpg", layouts.read_split, str(tmp_path), "train")


# --- frames


def gradient(height=40, width=56):
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 5 * y, 255 - 4 * x], axis=-1).clip(0, 255).astype(np.uint8)


def test_a_frame_is_rgb_bytes(tmp_path):
    write_frame(tmp_path / "a.jpg", gradient())
    frame = decode.read_frame(str(tmp_path / "a.jpg"))
    assert frame.dtype == np.uint8 and frame.shape == (40, 56, 3)
    assert np.abs(frame.astype(int) - gradient()).mean() < 4


def test_grey_jpeg_and_png_frames_have_three_channels(tmp_path):
    Image.fromarray(gradient()[..., 0]).save(tmp_path / "grey.jpg")
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    assert decode.read_frame(str(tmp_path / "grey.jpg")).shape == (40, 56, 3)
    np.testing.assert_array_equal(decode.read_frame(str(tmp_path / "a.png")), gradient())


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.99])
def test_a_truncated_frame_is_refused(tmp_path, share):
    path = tmp_path / "a.jpg"
    write_frame(path, np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    fails(path, decode.read_frame, str(path))
    path.write_bytes(data[: int(len(data) * share)].ljust(len(data), b"\0"))  # an interrupted download
    fails(path, decode.read_frame, str(path))


def test_bytes_behind_the_end_of_a_frame_do_no_harm(tmp_path):
    path = tmp_path / "a.jpg"
    write_frame(path, gradient())
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert decode.read_frame(str(path)).shape == (40, 56, 3)


def test_files_that_are_no_frames_are_refused(tmp_path):
    fails(tmp_path / "gone.jpg", decode.read_frame, str(tmp_path / "gone.jpg"))
    fails(tmp_path, decode.read_frame, str(tmp_path))
    (tmp_path / "text.jpg").write_text("no image " * 50)
    fails(tmp_path / "text.jpg", decode.read_frame, str(tmp_path / "text.jpg"))


# --- files that claim or hold too much


def png_header(width, height):
    """A PNG that ends after a header of that size and a little data."""
    chunks = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(100)))
    parts = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_header(path, width, height):
    """A whole JPEG whose header was given that size."""
    Image.fromarray(gradient()).save(path)
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def refused_at_once(match, path, read):
    """The call fails, within a second and without room for the pixels; the limits are not Pillow's."""
    tracemalloc.start()
    began = time.perf_counter()
    message = fails(match, read, str(path))
    took, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 1 and peak < 2**20
    return message


@pytest.mark.parametrize("size", [(60000, 60000), (10000, 10000), (2**13, 2**13 + 1)])
def test_images_that_claim_too_many_pixels(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    for read in (decode.read_frame, lambda path: decode.read_mask(path, 9, CODING)):
        assert f"{size[0]}x{size[1]}" in refused_at_once(path, path, read)
    path = tmp_path / "bomb.jpg"
    path.write_bytes(jpeg_header(path, *size))
    assert f"claims {size[0]}x{size[1]} pixels" in refused_at_once(path, path, decode.read_frame)


def test_the_limit_on_pixels_itself_is_allowed(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_mask(path, np.ones((5, 8), np.uint8))
    monkeypatch.setattr(image_files, "MAX_PIXELS", 40)
    assert decode.read_mask(str(path), 9, CODING).shape == (5, 8)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 39)
    fails("8x5", decode.read_mask, str(path), 9, CODING)
    fails("8x5", decode.read_frame, str(path))


def test_files_of_too_many_bytes(tmp_path):
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(image_files.MAX_BYTES + 1)  # Takes no room on the disk.
    assert str(image_files.MAX_BYTES + 1) in refused_at_once(path, path, decode.read_frame)
    assert str(image_files.MAX_BYTES + 1) in refused_at_once(path, path, lambda path: decode.read_mask(path, 9, CODING))


# --- masks


@pytest.mark.parametrize("mode", ["L", "P"])
def test_labels_are_counted_from_zero_and_0_and_255_are_ignored(tmp_path, mode):
    raw = np.array([[0, 1, 2, 123], [124, 255, 7, 0]], np.uint8)
    write_mask(tmp_path / "a.png", raw, mode)
    labels = decode.read_mask(str(tmp_path / "a.png"), 124, CODING)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, [[255, 0, 1, 122], [123, 255, 6, 255]])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_fewer_bits(tmp_path, bits):
    raw = np.arange(8, dtype=np.uint8).reshape(2, 4) % 2**bits
    image = Image.fromarray(raw)
    image.putpalette([200, 10, 30] * 2**bits)
    image.save(tmp_path / "a.png", bits=bits)
    labels = decode.read_mask(str(tmp_path / "a.png"), 20, CODING)
    np.testing.assert_array_equal(labels, np.where(raw == 0, 255, raw - 1))


@pytest.mark.parametrize("num_classes", [1, 19, 124, 253, 254])
def test_the_largest_label_is_the_number_of_classes(tmp_path, num_classes):
    path = tmp_path / "a.png"
    write_mask(path, np.array([[0, num_classes, 255]], np.uint8))
    np.testing.assert_array_equal(decode.read_mask(str(path), num_classes, CODING), [[255, num_classes - 1, 255]])
    if num_classes < 254:
        write_mask(path, np.array([[0, num_classes + 1, 255, 1]], np.uint8))
        message = fails(path, decode.read_mask, str(path), num_classes, CODING)
        assert f"label {num_classes + 1} " in message and "--model.num-classes" in message


@pytest.mark.parametrize("image", [np.ones((4, 5, 3), np.uint8), np.ones((4, 5), np.uint16)])
def test_masks_of_other_modes_are_refused(tmp_path, image):
    write_mask(tmp_path / "a.png", image)
    fails(tmp_path / "a.png", decode.read_mask, str(tmp_path / "a.png"), 124, CODING)


def test_files_that_are_no_masks_are_refused(tmp_path):
    path = tmp_path / "a.png"
    write_mask(path, np.random.default_rng(0).integers(0, 124, (40, 56), dtype=np.uint8))
    data = path.read_bytes()
    damaged = data[:300] + bytes(200) + data[500:]
    for content in (b"", data[:20], data[: len(data) // 2], b"no image " * 20, damaged):
        path.write_bytes(content)
        fails(path, decode.read_mask, str(path), 124, CODING)
    fails(tmp_path / "gone.png", decode.read_mask, str(tmp_path / "gone.png"), 124, CODING)


def test_a_mask_of_another_size_is_refused(tmp_path):
    write_frame(tmp_path / "a.jpg", gradient())
    write_mask(tmp_path / "a.png", np.ones((40, 55), np.uint8))
    message = fails(tmp_path / "a.png", decode.read_pair, str(tmp_path / "a.jpg"), str(tmp_path / "a.png"), 124, CODING)
    assert "55x40" in message and "56x40" in message
