"""One reader of frames and images: a viewer's, by Pillow as the second source, and today's bytes of ordinary files."""

import io
import warnings

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from cffm_jax.data import decode
from cffm_jax.errors import InputError
from cffm_jax.media import images


def picture(size=(40, 56)):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([4 * x, 5 * y, 255 - 4 * x], axis=-1).clip(0, 255).astype(np.uint8)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read_everywhere(folder, data, kind):
    """The pixels; the same in training and in prediction."""
    path = folder / f"a.{kind.lower()}"
    path.write_bytes(data)
    frame = decode.read_frame(str(path))
    np.testing.assert_array_equal(images.read_image(str(path)), frame)
    assert frame.dtype == np.uint8 and frame.flags.c_contiguous
    return frame


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_ordinary_frames_are_opencvs_bytes(tmp_path, mode, kind):
    data = saved(Image.fromarray(picture()).convert(mode), kind)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    np.testing.assert_array_equal(read_everywhere(tmp_path, data, kind), expected)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_frames_are_upright(tmp_path, turn, kind):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = saved(Image.fromarray(picture()), kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    frame = read_everywhere(tmp_path, data, kind)
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).max() <= (3 if kind == "JPEG" else 0)


def test_a_pngs_orientation_may_stand_behind_its_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    data = saved(Image.fromarray(picture()), "PNG", exif=exif)
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    rest = data.replace(chunk, b"")
    late = rest[:-12] + chunk + rest[-12:]
    np.testing.assert_array_equal(read_everywhere(tmp_path, late, "PNG"), picture()[::-1, ::-1])


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\x00\x09\x01"]
)
def test_damaged_exif_turns_nothing_and_warns_of_nothing(tmp_path, exif):
    plain = saved(Image.fromarray(picture()), "JPEG")
    data = saved(Image.fromarray(picture()), "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_everywhere(tmp_path, data, "JPEG"), decode.decode_frame("a.jpg", plain))


def test_an_orientation_that_there_is_not_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 9
    frame = read_everywhere(tmp_path, saved(Image.fromarray(picture()), "PNG", exif=exif), "PNG")
    np.testing.assert_array_equal(frame, picture())


def test_transparency_is_over_black(tmp_path):
    alpha = np.full((40, 56, 1), 255, np.uint8)
    alpha[:, 20:] = 51
    expected = picture() * (alpha / 255)
    for pixels in (np.dstack([picture(), alpha]), np.dstack([picture()[..., :1], alpha])):
        frame = read_everywhere(tmp_path, saved(Image.fromarray(pixels), "PNG"), "PNG")
        there = expected if pixels.shape[-1] == 4 else expected[..., :1].repeat(3, -1)
        np.testing.assert_allclose(frame, there, atol=0.51)
    clear = saved(Image.fromarray(picture()), "PNG", transparency=tuple(picture()[10, 10].tolist()))
    assert not read_everywhere(tmp_path, clear, "PNG")[10, 10].any()


def test_palettes_and_their_transparency(tmp_path):
    image = Image.fromarray(picture()).convert("P", palette=Image.Palette.ADAPTIVE)
    expected = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(read_everywhere(tmp_path, saved(image, "PNG"), "PNG"), expected)
    expected[np.asarray(image) == 5] = 0
    np.testing.assert_array_equal(read_everywhere(tmp_path, saved(image, "PNG", transparency=5), "PNG"), expected)


def test_sixteen_bits_are_divided_by_257(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (9, 11, 3), np.uint16)
    expected = np.round(deep / 257)
    for pixels in (deep, deep[..., 0]):
        data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
        there = expected if pixels.ndim == 3 else expected[..., :1].repeat(3, -1)
        np.testing.assert_array_equal(read_everywhere(tmp_path, data, "PNG"), there)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_that_counts_from_white(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 11), dtype)
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="miniswhite")
    expected = np.iinfo(dtype).max - values
    expected = expected if dtype == np.uint8 else np.round(expected / 257)
    read = read_everywhere(tmp_path, file.getvalue(), "TIFF")
    np.testing.assert_array_equal(read, expected[..., None].repeat(3, -1))


@pytest.mark.parametrize(("dtype", "said"), [(np.uint32, "holds 32 bits"), (np.int16, "holds numbers below 0")])
def test_greys_of_which_no_range_is_known(dtype, said):
    """However small their values are."""
    file = io.BytesIO()
    tifffile.imwrite(
        file, np.arange(-2, 97).reshape(9, 11).astype(dtype) if dtype == np.int16 else np.full((9, 11), 94, dtype)
    )
    with pytest.raises(InputError, match=said):
        decode.decode_frame("x.tif", file.getvalue())


def test_printers_colours(tmp_path):
    data = saved(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(read_everywhere(tmp_path, data, "JPEG").astype(int) - picture()).mean() < 4
