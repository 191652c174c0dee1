"""Frames of other channels: exact values of each kind of file, what is refused, and the way to a batch."""

import dataclasses
import io

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.config import Config, DataConfig
from cffm_jax.config.checks import check_settings
from cffm_jax.data import augment, channel_files, decode
from cffm_jax.data.check.command import main as check
from cffm_jax.errors import InputError
from cffm_jax.media.frame import Damage, Selection
from cffm_jax.media.source import open_source
from cffm_jax.predict.input_frames import whole_frames

THERMAL = Channels(("thermal",), (100.0,), (50.0,))
FIVE = Channels(tuple("abcde"), (1.0, 2.0, 3.0, 4.0, 5.0), (1.0, 1.0, 1.0, 2.0, 2.0))


def as_npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def by_pillow(array, kind):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def by_tifffile(array, look):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **look)
    return file.getvalue()


@pytest.mark.parametrize(
    ("array", "kind"),
    [(np.uint16(9), "PNG"), (np.uint16(9), "TIFF"), (np.float32(9.25), "TIFF"), (np.uint8(9), "PNG")],
)
def test_values_of_a_grey_picture_are_those_written(array, kind):
    values = (np.arange(35).reshape(5, 7) * array).astype(array.dtype)
    read = decode.decode_frame("x", by_pillow(values, kind), channels=THERMAL)
    assert read.dtype == np.float32 and np.array_equal(read, values[..., None].astype(np.float32))


def test_channels_keep_the_order_of_the_file():
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    four = Channels(tuple("abcd"), (0.0,) * 4, (1.0,) * 4)
    assert np.array_equal(decode.decode_frame("x", by_pillow(values, "PNG"), channels=four), values)
    assert np.array_equal(decode.decode_frame("x", by_pillow(values, "TIFF"), channels=four), values)
    assert np.array_equal(decode.decode_frame("x", by_pillow(values[..., :3], "TIFF")), values[..., :3])
    assert np.array_equal(decode.decode_frame("x", as_npy(values[..., :3])), values[..., :3])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("way", ["contig", "separate", "pages", "deflated"])
def test_multispectral_tiffs_keep_their_values(way, dtype):
    values = (np.random.default_rng(0).random((6, 9, 5)) * 200).astype(dtype)
    look = {"photometric": "minisblack"}
    look |= {} if way == "pages" else {"planarconfig": "separate" if way == "separate" else "contig"}
    look |= {"compression": "zlib", "predictor": dtype != "float32"} if way == "deflated" else {}
    planes = np.moveaxis(values, -1, 0)
    read = decode.decode_frame(
        "x", by_tifffile(planes if way in ("separate", "pages") else values, look), channels=FIVE
    )
    assert np.array_equal(read, values.astype(np.float32))


def test_several_pictures_of_a_tiff_are_channels_only_where_nothing_else_can_be_meant():
    values = np.random.default_rng(0).integers(0, 256, (2, 6, 9, 5), np.uint8)
    with pytest.raises(InputError, match="holds 2 pictures"):
        decode.decode_frame(
            "x", by_tifffile(values, {"photometric": "minisblack", "planarconfig": "contig"}), channels=FIVE
        )
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:  # As a pyramid has it: the picture, and a smaller copy.
        writer.write(values[0], photometric="minisblack", planarconfig="contig")
        writer.write(values[0, ::2, ::2], photometric="minisblack", planarconfig="contig", subfiletype=1)
    assert np.array_equal(decode.decode_frame("x", file.getvalue(), channels=FIVE), values[0])


@pytest.mark.parametrize("turn", [3, 6])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_frames_of_any_channels_are_upright(kind, turn):
    """As frames in RGB are: the same pixels, the same size for the mask."""
    values = np.repeat(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6), 8, 0).repeat(8, 1)
    file, exif = io.BytesIO(), Image.Exif()
    exif[274] = turn
    Image.fromarray(values).save(file, kind, exif=exif)
    data = file.getvalue()
    grey, told = decode.decode_upright("x", data, channels=THERMAL)
    colours, same = decode.decode_upright("x", data)
    assert told == same == turn
    np.testing.assert_array_equal(grey[..., 0], colours[..., 0])


def test_pages_in_rgb_are_not_guessed():
    """By default a frame is a picture: of several in one file none is taken; with names of channels they are these."""
    pages = np.random.default_rng(0).integers(0, 256, (3, 6, 9), np.uint8)
    data = by_tifffile(pages, {"photometric": "minisblack"})
    with pytest.raises(InputError, match="holds 3 pictures"):
        decode.decode_frame("x", data)
    three = Channels(("blue", "green", "red"), (0.0,) * 3, (1.0,) * 3)
    np.testing.assert_array_equal(decode.decode_frame("x", data, channels=three), np.moveaxis(pages, 0, -1))
    with pytest.raises(InputError, match="TIFF of other samples than a picture's"):
        decode.decode_frame(
            "x", by_tifffile(np.zeros((6, 9, 4), np.uint16), {"photometric": "minisblack", "planarconfig": "contig"})
        )


@pytest.mark.parametrize("bands", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("way", ["separate", "contig"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_bands_in_rgb_are_not_taken_for_their_first(bands, dtype, way, compression):
    """Pillow opens some of them as grey."""
    values = np.arange(6 * 9 * bands, dtype=dtype).reshape((bands, 6, 9) if way == "separate" else (6, 9, bands))
    look = {"photometric": "minisblack", "planarconfig": way, "compression": compression}
    with pytest.raises(InputError, match="TIFF of other samples than a picture's"):
        decode.decode_frame("x", by_tifffile(values, look))


@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits"])
def test_compressions_of_tiffs(compression):
    values = (np.random.default_rng(0).random((6, 9, 5)) * 200).astype(np.uint16)
    look = {"photometric": "minisblack", "planarconfig": "contig", "compression": compression}
    assert np.array_equal(decode.decode_frame("x", by_tifffile(values, look), channels=FIVE), values)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_pngs_of_few_bits_are_as_stored(bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (6, 9), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", bits=bits) if bits > 1 else Image.fromarray(values > 0).save(file, "PNG")
    assert file.getvalue()[24] == bits
    assert np.array_equal(decode.decode_frame("x", file.getvalue(), channels=THERMAL)[..., 0], values)


def test_values_that_gdal_calls_missing_are_not_finite():
    values = np.array([[1, -9999], [3, 4]], np.float32)
    data = by_tifffile(values, {"extratags": [(42113, "s", 0, "-9999", True)]})
    read = decode.decode_frame("x", data, channels=THERMAL)
    assert read[..., 0].tolist() == [[1, THERMAL.mean[0]], [3, 4]]
    read = decode.decode_frame("x", data, channels=Channels(("thermal",), (), ()))
    assert np.isnan(read[0, 1, 0]) and np.isfinite(read).sum() == 3


@pytest.mark.parametrize("way", ["contig", "separate"])
def test_a_mask_within_a_tiff_says_what_is_missing(way):
    """As GDAL writes it: a page of its own, which is no channel."""
    values = np.random.default_rng(0).integers(0, 200, (6, 9, 2), np.int16)
    there, file = np.arange(54).reshape(6, 9) % 3 > 0, io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        stored = values if way == "contig" else np.moveaxis(values, -1, 0)
        writer.write(stored, photometric="minisblack", planarconfig=way)
        writer.write(there, photometric="minisblack", subfiletype=4)
    read, _ = channel_files.read_values("x", file.getvalue())
    np.testing.assert_array_equal(read, np.where(there[..., None], values, np.nan))


def test_grey_with_transparency_has_two_channels():
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 2), np.uint8)
    two = Channels(("a", "b"), (0.0, 0.0), (1.0, 1.0))
    np.testing.assert_array_equal(decode.decode_frame("x", by_pillow(values, "PNG"), channels=two), values)


def test_arrays_and_what_is_not_finite():
    values = np.random.default_rng(0).normal(size=(5, 7, 5)).astype(np.float32)
    holes = values.copy()
    holes[2, 3], holes[0, 0, 1] = np.nan, np.inf
    for order in "CF":
        read = decode.decode_frame("x", as_npy(np.asarray(holes, order=order)), channels=FIVE)
        assert read[2, 3].tolist() == list(FIVE.mean) and read[0, 0, 1] == FIVE.mean[1]
        same = np.isfinite(holes)
        assert np.array_equal(read[same], values[same])


def test_a_frame_without_one_finite_value_is_refused_or_told():
    blank, values = as_npy(np.full((5, 7, 5), np.nan)), np.zeros((5, 7, 5), np.float32)
    missing = by_tifffile(np.full((6, 9), -9999, np.int16), {"extratags": [(42113, "s", 0, "-9999", True)]})
    for data, channels in ((blank, FIVE), (missing, THERMAL), (blank, Channels(FIVE.names, (), ()))):
        with pytest.raises(InputError, match=r"^a\.npy: has no finite value: nothing is in it; leave it out"):
            decode.decode_frame("a.npy", data, channels=channels)
    told = []
    read = decode.decode_frame("a.npy", blank, channels=FIVE, blank=told)
    assert told == ["a.npy"] and (read == np.array(FIVE.mean, np.float32)).all()
    values[..., 1:] = np.inf
    decode.decode_frame("b.npy", as_npy(values), channels=FIVE, blank=told)
    assert told == ["a.npy"], "one finite value is enough"


def test_blank_frames_of_an_input(tmp_path):
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.full((5, 7), np.nan if i in (1, 2) else i, np.float32))
    damage = Damage("blank")
    with open_source([str(tmp_path)], Selection(), 15) as source:
        source.read_as(THERMAL)
        for each in source.frames:
            damage.note(each)
    assert (damage.count, damage.ranges) == (2, [[1, 2]])
    assert damage.in_words.startswith("2 frames have no finite value") and "from frame 1, at 0.07 s" in damage.in_words
    with open_source([str(tmp_path)], Selection(), 15) as source:
        source.read_as(THERMAL)
        with pytest.raises(InputError, match=r"frame 1 \(1\) has no finite value: .* leave out --refuse-damaged"):
            list(whole_frames(source, source.frames))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (as_npy(np.zeros((5, 7, 4))), r"has 4 channels \(5x7x4\), not 5"),
        (as_npy(np.zeros((5, 7, 5)))[:-1], "is truncated"),
        (as_npy(np.zeros((5, 7, 5), complex)), "holds complex128"),
        (as_npy(np.zeros((2, 5, 7, 5))), "of shape"),
        (b"\x93NUMPY\x01", "is no array"),
        (b"II*\0 nothing", "cannot be read"),
        (by_tifffile(np.zeros((50, 70, 5), np.uint8), {"planarconfig": "contig"})[:999], "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused(data, problem):
    with pytest.raises(InputError, match=problem):
        decode.decode_frame("x", data, channels=FIVE)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 an archive", as_npy(np.zeros(3))[1:]])
def test_a_file_that_is_called_an_array_and_is_none(data):
    with pytest.raises(InputError, match="is no array that NumPy reads"):
        decode.decode_frame("x.npy", data, channels=FIVE)


def test_a_clip_of_any_channels_is_resized_cut_and_distorted_alike():
    """Channel by channel what the same draws make of one alone."""
    rng = np.random.default_rng(0)
    frames = [rng.normal(size=(40, 60, 5)).astype(np.float32) for _ in range(2)]
    labels = [rng.integers(0, 3, (40, 60), np.uint8)]
    data = DataConfig(frame_size=(40, 60), crop=(64, 64), channels=FIVE.names, mean=FIVE.mean, std=FIVE.std)
    whole, *_ = augment.augment(frames, labels, data, np.random.default_rng(1))
    assert whole.shape == (2, 64, 64, 5) and whole.dtype == np.float32
    for k in range(5):
        one = dataclasses.replace(data, channels=("a",), mean=FIVE.mean[k : k + 1], std=FIVE.std[k : k + 1])
        alone, *_ = augment.augment([f[..., k : k + 1] for f in frames], labels, one, np.random.default_rng(1))
        np.testing.assert_allclose(alone[..., 0], whole[..., k], rtol=1e-5, atol=1e-5)


def test_pictures_to_look_at():
    grey = channel_files.picture(np.array([[[0.0], [100.0], [200.0]]], np.float32), THERMAL)
    assert grey.tolist() == [[[0] * 3, [128] * 3, [255] * 3]]
    frame = np.zeros((2, 2, 3), np.uint8)
    assert channel_files.picture(frame, COLOURS) is frame


def test_channels_need_their_statistics():
    for data in (
        DataConfig(channels=("t",)),
        DataConfig(channels=("t",), mean=(1.0,), std=(0.0,)),
        DataConfig(mean=(1.0,)),
        DataConfig(mean=(1.0, 2.0, 3.0)),  # ImageNet's deviations do not belong to another mean.
        DataConfig(channels=("a,b",), mean=(1.0,), std=(1.0,)),
        DataConfig(channels=("a", "a"), mean=(1.0, 1.0), std=(1.0, 1.0)),
        DataConfig(channels=("t",), mean=(float("nan"),), std=(1.0,)),
    ):
        with pytest.raises(InputError, match=r"--data\.(mean|std|channels): .+; give .+"):
            check_settings(Config(data=data))


def test_check_prints_the_statistics(tmp_path, capsys):
    frames = tmp_path / "a" / "frames"
    frames.mkdir(parents=True)
    (tmp_path / "train.txt").write_text("a\n")
    values = np.random.default_rng(0).integers(0, 65536, (10, 8, 8), np.uint16)
    for i, value in enumerate(values):
        cv2.imwrite(str(frames / f"{i}.png"), value)
    options = ["--layout", "folder", "--unlabelled", "train", "--channels", "thermal", "--statistics"]
    assert check([str(tmp_path), *options]) == 0
    over, said = capsys.readouterr().out.splitlines()[-1].split(": ")
    assert over == "over train"
    cv2.imwrite(str(frames / "0.png"), np.zeros((8, 8), np.uint16))
    for i in range(1, 10):
        cv2.imwrite(str(frames / f"{i}.png"), np.zeros((8, 8), np.uint16))
    with pytest.raises(InputError, match="thermal has the same value everywhere"):
        check([str(tmp_path), *options])
    with pytest.raises(InputError, match="--channels: is a a; give each channel a name of its own"):
        check([str(tmp_path), "--layout", "folder", "--channels", "a", "a"])
    said = said.split()
    assert said[:3] == ["--data.channels", "thermal", "--data.mean"] and said[4] == "--data.std"
    assert np.allclose([float(said[3]), float(said[5])], [values.mean(), values.std()], rtol=1e-5)


def test_an_animation_is_no_frame():
    file, pictures = io.BytesIO(), [Image.fromarray(np.full((5, 7, 3), i, np.uint8)) for i in range(3)]
    pictures[0].save(file, "PNG", save_all=True, append_images=pictures[1:])
    with pytest.raises(InputError, match="holds 3 pictures"):
        decode.decode_frame("x", file.getvalue())
