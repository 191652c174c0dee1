"""Inputs as a player or a viewer shows them: every container, turned, of odd sizes, grey, with alpha, of 16 bits."""

import io
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from cffm_jax.errors import InputError
from cffm_jax.media import images, mp4, videos
from cffm_jax.media.frame import Damage, Frame, Selection
from cffm_jax.media.gaps import Gaps
from cffm_jax.media.pyav import Seekable
from cffm_jax.media.source import open_source

from helpers import tiles
from helpers.films import BLUE, MATRICES, RED, drifting, film, picture, spoilt_at, turn


def read(*inputs, rate=15, **selection):
    with open_source([str(each) for each in inputs], Selection(**selection), rate) as source:
        return list(source.frames), source


def near(pixels, expected, tolerance=8):
    """Whether pictures are the same but for the edges that compression and 4:2:0 blur."""
    assert pixels.shape == expected.shape and pixels.dtype == np.uint8
    return np.quantile(np.abs(pixels.astype(int) - expected), 0.9) <= tolerance


# --- videos


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("a.mov", {"codec": "mpeg4"}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.ts", {}),
        ("named_wrongly.png", {"format": "mp4"}),
        ("0", {"format": "matroska"}),
    ],
)
def test_containers(tmp_path, monkeypatch, name, options):
    film(tmp_path / name, **options)
    monkeypatch.chdir(tmp_path)
    frames, source = read(name)
    assert len(frames) == 6 and not source.warnings and not source.single and source.rate == 15
    assert all(near(frame.pixels, picture(number=i)) for i, frame in enumerate(frames))
    np.testing.assert_allclose([float(frame.time) for frame in frames], np.arange(6) / 15, atol=1e-3)
    assert [frame.name for frame in frames] == [f"{i:06}" for i in range(6)]
    assert source.count in (5, 6, 7)


def test_an_mp4_without_its_end_is_cut_off(tmp_path):
    data = film(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: len(data) * 6 // 10])
    said = rf"b.mp4: is cut off: {len(data) * 6 // 10:,} bytes are there, at least [\d,]+ should be; copy it again"
    with pytest.raises(InputError, match=said):
        read(tmp_path / "b.mp4")
    assert mp4.announced_size(io.BytesIO(data)) == len(data)
    assert mp4.announced_size(io.BytesIO(b"RIFF" + data)) == 0


@pytest.mark.parametrize("how", MATRICES)
def test_turned_as_the_camera_was_held(tmp_path, how):
    path = turn(film(tmp_path / "a.mp4", 2), how)
    shown = {"right": (0, 1), "half": (1, 1), "left": (1, 0), "mirrored": (0, 1)}[how]
    pixels = read(path)[0][0].pixels
    assert pixels.shape == ((64, 48, 3) if how in ("right", "left") else (48, 64, 3))
    height, width = pixels.shape[:2]
    at = lambda row, column: pixels[height // 4 + row * height // 2 - 2, width // 4 + column * width // 2]  # noqa: E731
    for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert (int(at(*place)[0]) > 150) == (place == shown), (place, at(*place))


def test_pictures_in_a_stream_are_turned_as_their_exif_says(tmp_path):
    """Beside the turn lies what PyAV has no name for."""
    exif = Image.Exif()
    for orientation, quarters in ((1, 0), (3, 2), (6, -1), (8, 1)):
        exif[0x0112] = orientation
        Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
        with open(tmp_path / "a.png", "rb") as file, videos.open_stream(file, "pipe", Selection()) as source:
            np.testing.assert_array_equal(next(source.frames).pixels, np.rot90(picture(), quarters))


def test_a_turn_keeps_every_pixel():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    # "right": the first row becomes the last column.
    a, b, c, d = MATRICES["right"]
    result = videos.turned(pixels, np.array([[a, b, 0], [c, d, 0], [0, 0, 1]], np.int32))
    np.testing.assert_array_equal(result[:, -1], pixels[0])
    np.testing.assert_array_equal(result, np.rot90(pixels, -1))


def test_frames_at_their_own_times(tmp_path):
    times = [0, 40, 50, 400, 1000]
    frames, source = read(film(tmp_path / "a.mkv", times=times))
    np.testing.assert_allclose([float(frame.time) for frame in frames], np.array(times) / 600, atol=2e-3)
    assert not source.warnings


@pytest.mark.parametrize(
    ("size", "codec", "kind"),
    [((47, 63), "libx264", "yuv444p"), ((1, 1), "ffv1", "bgr0"), ((2, 8192), "libx264", "yuv420p")],
)
def test_sizes(tmp_path, size, codec, kind):
    frames, _ = read(film(tmp_path / "a.mkv", 2, size=size, codec=codec, pixels=kind))
    assert [frame.pixels.shape for frame in frames] == [(*size, 3)] * 2


def test_grey_sixteen_bits_and_alpha(tmp_path):
    for kind in ("gray", "gray16le"):
        pixels = read(film(tmp_path / f"{kind}.mkv", 1, codec="ffv1", pixels=kind))[0][0].pixels
        expected = cv2.cvtColor(cv2.cvtColor(picture(), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        assert near(pixels, expected)
    clear = np.dstack([picture(), np.full((48, 64), 255, np.uint8)])
    clear[:, :32, 3] = 0
    clear[:, 32:48, 3] = 128
    pixels = read(film(tmp_path / "a.mkv", codec="ffv1", pixels="bgra", pictures=[clear], count=1))[0][0].pixels
    expected = picture().astype(float) * clear[..., 3:] / 255
    np.testing.assert_allclose(pixels, expected, atol=1)


@pytest.mark.parametrize(("size", "matrix"), [((48, 64), (0.299, 0.114)), ((720, 1280), (0.2126, 0.0722))])
def test_colours_without_a_stated_matrix_are_those_that_players_show(tmp_path, size, matrix):
    """A red as the matrix of small or large videos codes it."""
    import av

    red, blue = matrix
    y, cb, cr = red, -red / (2 * (1 - blue)), 0.5
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        frame = av.VideoFrame(size[1], size[0], "yuv420p")
        for plane, value in zip(frame.planes, (16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr)):
            plane.update(bytes([round(value)]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    np.testing.assert_allclose(read(tmp_path / "a.mkv")[0][0].pixels[5, 5], (255, 0, 0), atol=3)


def test_selection_in_seconds(tmp_path):
    path = film(tmp_path / "a.mp4", 30)
    frames, source = read(path, start=0.4, end=1.4, every=4)
    assert [frame.number for frame in frames] == [6, 10, 14, 18] and source.count == 4
    assert frames[0].time == Fraction(6, 15) and near(frames[0].pixels, picture(number=6))
    assert not read(path, end=0.2)[1].warnings


def test_a_cut_video_says_how_much_came(tmp_path):
    path = film(tmp_path / "a.mkv", 60, codec="ffv1", pixels="bgr0")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, source = read(path)
    assert 10 < len(frames) < 50
    assert f"ends after {len(frames) / 15:.2f} s, 4.00 were announced" in source.warnings[-1]
    # An .mp4 counts its frames; here the last ones are not in the file any more.
    path = film(tmp_path / "a.mp4", 20, options={"movflags": "faststart"}, pictures=noise(20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    frames, source = read(path)
    assert 5 < len(frames) < 20 and f"{len(frames)} frames came of the 20 that" in source.warnings[-1]


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
@pytest.mark.parametrize("number", [0, 5, 13, 29])
def test_damage_that_the_decoder_conceals_is_known(tmp_path, codec, number):
    """From the frame on whose bytes were changed up to the next key frame, of which each twelfth is one."""
    path = film(tmp_path / "a.mkv", 30, codec=codec, pictures=drifting(30))
    clean, frames = read(path)[0], read(spoilt_at(path, number))[0]
    assert not any(frame.damaged for frame in clean) and len(frames) == len(clean) == 30
    differ = [i for i, frame in enumerate(frames) if np.abs(frame.pixels.astype(int) - clean[i].pixels).max() > 8]
    assert differ and set(differ) <= set(range(number, min(30, number // 12 * 12 + 12)))
    assert [frame.number for frame in frames if frame.damaged] == list(range(number, min(30, number // 12 * 12 + 12)))
    # What came before a selection counts for what is selected.
    later = read(tmp_path / "spoilt.mkv", start=(number + 0.5) / 15)[0] if number < 29 else []
    assert [frame.damaged for frame in later] == [frame.damaged for frame in frames[number + 1 :]]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.ts", "libx264")])
def test_whole_videos_have_no_damage(tmp_path, name, codec):
    """With frames between others too, and whose packets are cut up."""
    frames, source = read(film(tmp_path / name, 40, codec=codec, pictures=noise(40)))
    assert len(frames) == 40 and not any(frame.damaged for frame in frames) and not source.lost


def test_frames_that_the_decoder_leaves_out_are_told(tmp_path):
    """Their packets came, but not the key frame that they build on; FFmpeg says nothing of it."""
    options = {"g": "8", "keyint_min": "8", "sc_threshold": "0"}
    whole, path = film(tmp_path / "whole.mkv", 24, pictures=noise(24), encoder=options), tmp_path / "less.mkv"
    with av.open(str(whole)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(old.streams.video[0]) if packet.size]
        _, second, _ = (packet for packet in packets if packet.is_keyframe)
        for packet in (packet for packet in packets if packet is not second):
            packet.stream = stream
            new.mux(packet)
    frames, source = read(path)
    assert len(frames) < 23 and any(frame.damaged for frame in frames)
    assert "frames are missing, or came at a wrong time" in source.warnings[0]


@pytest.mark.parametrize(
    ("sent", "came", "missing", "damaged"),
    [
        ((0, 2, 1, 3, 4), (0, 1, 2, 3, 4), 0, []),
        ((0, 2, 1, 3, 5, 4, 6), (0, 1, 2, 6), 3, [6]),
        ((0, 7, 9), (0, 7, 9), 0, []),  # Frames at their own times.
        ((0, 0.5, 1, 1.5, 2), (0, 1, 2), 0, []),  # A packet for each field.
        ((0, 3, 1, 2), (0, 3, 1, 2), 3, [3, 1]),
        ((0, 1, 2), (0, None, 2), 0, []),
    ],
)
def test_packets_without_a_frame(sent, came, missing, damaged):
    """In frames of half a second, and units of a quarter."""
    gaps = Gaps(Fraction(1, 2))
    for time in sent:
        gaps.sent(int(2 * time))
    found = [time for time in came if gaps.before(None if time is None else int(2 * time), Fraction(1, 4))]
    assert (gaps.missing, found) == (missing, damaged)


def test_the_way_to_a_late_start_is_told(tmp_path):
    path, seen = film(tmp_path / "a.mkv", 30), []
    with open_source([str(path)], Selection(start=1.0), 15) as source:
        source.passing = seen.append
        assert next(source.frames).number == 15
    assert len(seen) == 15 and seen == sorted(seen) and seen[-1] < 1


def test_damage_is_told_by_ranges():
    damage, pixels = Damage(), np.zeros((1, 1, 3), np.uint8)
    for number in range(0, 20, 2):
        damage.note(Frame(pixels, number, Fraction(number, 10), "", damaged=number in (4, 6, 8, 14)))
    assert damage.count == 4 and damage.ranges == [[4, 8], [14, 14]]
    assert "4 frames" in damage.in_words and "from frame 4, at 0.40 s" in damage.in_words


@pytest.mark.parametrize(
    ("name", "codec", "times"),
    [("late.mkv", "libx264", range(3000, 3400, 40)), ("gaps.avi", "mpeg4", range(0, 900, 90))],
)
def test_a_late_start_and_frames_that_were_left_out_are_no_cut(tmp_path, name, codec, times):
    frames, source = read(film(tmp_path / name, codec=codec, times=list(times)))
    assert len(frames) == 10 and not source.warnings


def test_a_place_that_no_file_has_is_left_to_ffmpeg(tmp_path):
    with open(film(tmp_path / "a.mkv"), "rb") as file:
        seekable = Seekable(file)
        assert seekable.seek(-5) == -1 and seekable.error is None and seekable.seek(3, 0) == 3


def test_another_stream_that_begins_late_ends_nothing(tmp_path, monkeypatch):
    import av

    class Late:
        """A container as PyAV has it then."""

        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            return getattr(self._container, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._container.close()

        def demux(self, stream):
            yield from self._container.demux(stream)
            raise IndexError("list index out of range")

    path, really = film(tmp_path / "a.ts"), av.open
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: Late(really(*args, **kwargs)))
    frames, source = read(path)
    assert len(frames) == 6 and not source.warnings


def noise(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(count)]


def test_damage_within_is_passed_over(tmp_path):
    path = film(tmp_path / "a.avi", 30, codec="mjpeg", pixels="yuvj420p", pictures=noise(30))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 60] = bytes(60)
    path.write_bytes(data)
    frames, _ = read(path)
    assert len(frames) >= 25


def test_a_playlist_opens_no_other_file(tmp_path):
    """What FFmpeg does on its own, and what is refused here."""
    import av

    film(tmp_path / "secret.mp4")
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 6
    with pytest.raises(InputError, match="no video"):
        read(path)


# --- cameras


class Camera:
    """OpenCV's, which gives five frames in BGR."""

    def __init__(self, index):
        self.index, self.left = index, 5

    def isOpened(self):  # noqa: N802
        return self.index == 1

    def get(self, what):
        return 10.0 if what == cv2.CAP_PROP_FPS else 0.0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((4, 6, 3), (255, 0, 0), np.uint8)

    def release(self):
        pass


def test_a_camera_has_frames_until_it_is_gone(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    frames, source = read("1", every=2)
    assert [frame.number for frame in frames] == [0, 2, 4] and source.live and source.rate == 10
    assert (frames[0].pixels == (0, 0, 255)).all() and frames[0].time == 0 < frames[1].time
    assert "no frame came after 5" in source.warnings[0]
    with pytest.raises(InputError, match="camera 0: is not there"):
        read("0")


# --- images


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "jpg"])
def test_kinds_of_images(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    frames, source = read(path)
    assert source.single and len(frames) == 1 and frames[0].name == "a"
    assert near(frames[0].pixels, picture(), 0 if suffix != "jpg" else 8)


def test_images_as_viewers_show_them(tmp_path):
    path = tmp_path / "a.png"
    plain = picture()
    grey = np.asarray(Image.fromarray(plain).convert("L"))
    threefold = np.repeat(grey[..., None], 3, -1)
    Image.fromarray(grey).save(path)
    np.testing.assert_array_equal(images.read_image(str(path)), threefold)
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(images.read_image(str(path)), threefold)
    cv2.imwrite(str(path), plain[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(images.read_image(str(path)), plain)
    Image.fromarray(plain).convert("P", palette=Image.Palette.ADAPTIVE).save(path)
    assert near(images.read_image(str(path)), plain, 1)
    alpha = np.full((48, 64, 1), 255, np.uint8)
    alpha[:, 32:] = 51
    Image.fromarray(np.dstack([plain, alpha])).save(path)
    np.testing.assert_allclose(images.read_image(str(path)), plain * (alpha / 255), atol=0.51)
    Image.fromarray(np.dstack([grey[..., None], alpha])).save(path)
    np.testing.assert_allclose(images.read_image(str(path)), threefold * (alpha / 255), atol=0.51)
    path = tmp_path / "a.jpg"
    Image.fromarray(plain).convert("CMYK").save(path)
    assert near(images.read_image(str(path)), plain, 12)
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn right to see it upright.
    Image.fromarray(plain).save(path, exif=exif)
    assert near(images.read_image(str(path)), np.rot90(plain, -1))


def test_of_several_pictures_in_a_file_the_first_is_taken_and_the_others_told_of(tmp_path):
    pictures = [Image.fromarray(picture(number=i)) for i in range(3)]
    for name in ("a.png", "b.tif", "c.webp"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], lossless=True)
        frames, source = read(tmp_path / name)
        np.testing.assert_array_equal(frames[0].pixels, picture())
        assert len(frames) == 1 and f"{name}: holds more pictures" in source.warnings[0]
    pictures[0].save(tmp_path / "d.tif", big_tiff=True)
    frames, source = read(tmp_path)
    assert len(frames) == 4 and "a.png and 2 more: each holds more pictures" in source.warnings[0]


def test_folders_patterns_and_lists_are_one_video_in_order(tmp_path):
    for i in (0, 1, 2, 10):
        Image.fromarray(picture(number=i)).save(tmp_path / f"f{i}.PNG")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._f1.png").write_text("x")
    names = ["f0", "f1", "f2", "f10"]
    left_out = [f"{tmp_path}: left out, as neither frames nor masks: 1 .txt, such as {tmp_path / 'notes.txt'}"]
    for inputs, remarks in (([tmp_path], left_out), ([tmp_path / "f*.PNG"], [])):
        frames, source = read(*inputs, rate=30)
        assert [frame.name for frame in frames] == names and source.count == 4 and source.rate == 30
        assert [frame.time for frame in frames] == [Fraction(i, 30) for i in range(4)]
        np.testing.assert_array_equal(frames[3].pixels, picture(number=10))
        assert source.warnings == remarks
    listed = [tmp_path / f"{name}.PNG" for name in reversed(names)]
    assert [frame.name for frame in read(*listed)[0]] == names[::-1]
    assert [frame.name for frame in read(tmp_path, start=1, end=4, every=2)[0]] == ["f1", "f10"]


def test_names_that_occur_twice_are_numbered(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture()).save(tmp_path / folder / "x.png")
    assert [frame.name for frame in read(tmp_path / "?" / "*.png")[0]] == ["000000", "000001"]


def test_brackets_in_a_name_are_no_pattern(tmp_path):
    Image.fromarray(picture(corner=BLUE)).save(tmp_path / "a[1].png")
    Image.fromarray(picture(corner=RED)).save(tmp_path / "a1.png")
    assert read(tmp_path / "a[1].png")[0][0].pixels[0, 0, 2] == BLUE[2]


# --- one of several

TILED = np.array([[(40, 30, 200), (40, 100, 200), (40, 170, 200)], [(120, 30, 140), (120, 100, 140), (120, 170, 140)]])
TILED = TILED.astype(np.uint8).repeat(tiles.SIDE, 0).repeat(tiles.SIDE, 1)


@pytest.mark.parametrize("name", ["a.avif", "a.heic"])
def test_tiles_of_a_picture_are_put_together(tmp_path, name):
    if name == "a.heic":
        pytest.importorskip("pillow_heif")
    [frame], source = read(tiles.tiled(tmp_path / name, TILED, 2, 3))
    assert near(frame.pixels, TILED) and frame.name == "a" and source.single and not source.warnings


def test_tiles_are_not_taken_for_the_picture_without_the_library_for_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tiles.tiled(tmp_path / "a.heic", TILED, 2, 3)
    with pytest.raises(InputError, match="a picture in 6 parts.*install pillow-heif"):
        read(path)
    with pytest.raises(InputError, match="of HEIC: install pillow-heif"):
        read(path, path)
    monkeypatch.setattr(images.features, "check", lambda name: False)
    with pytest.raises(InputError, match="a picture in 6 parts.*or save it as PNG"):
        read(tiles.tiled(tmp_path / "a.avif", TILED, 2, 3))


@pytest.mark.parametrize("name", ["a.avif", "a.heic"])
@pytest.mark.parametrize("cut", [0.1, 0.5, 0.95])
def test_tiles_that_were_cut_off_are_one_line(tmp_path, name, cut):
    if name == "a.heic":
        pytest.importorskip("pillow_heif")
    path = tiles.tiled(tmp_path / name, TILED, 2, 3)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(InputError, match="a.(avif|heic)"):
        read(path)


def test_one_of_several_videos_is_said(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=15) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for stream in streams:
            for i in range(5):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number=i), "rgb24")))
            container.mux(stream.encode())
    frames, source = read(path)
    assert len(frames) == 5 and source.warnings == [f"{path}: holds 2 videos, of which stream 0 alone was taken"]


def test_a_jpeg_with_another_picture_behind_it_says_so(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path, "MPO", save_all=True, append_images=[Image.fromarray(picture(number=9))])
    [_], source = read(path)
    assert "holds more pictures than the first" in source.warnings[0]


def test_one_frame_in_two_files_of_a_folder(tmp_path):
    for name in ("0.png", "1.png"):
        Image.fromarray(picture()).save(tmp_path / name)
    Image.fromarray(picture()).save(tmp_path / "0.jpg")
    with pytest.raises(InputError, match="is the frame of 0.jpg a second time"):
        images.list_images(str(tmp_path))
