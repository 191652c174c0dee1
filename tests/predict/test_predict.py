"""predict.py: what it writes, what it refuses, and that an end of any kind leaves no halves behind.

A stand-in takes the network's place, whose masks follow the colours; the real network runs once, in the real command.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cffm_jax
from cffm_jax.commands.predict import predict_command
from cffm_jax.data.class_names import CITYSCAPES
from cffm_jax.drawing.masks import overlay
from cffm_jax.drawing.palette import palette
from cffm_jax.errors import InputError
from cffm_jax.predict import class_choice, writers
from cffm_jax.predict.overlays import Painter
from cffm_jax.runtime.command_line import run_command

from helpers.films import NAMES, Network, drifting, film, frames_of, picture, sound, spoilt_at
from helpers.runs import ROOT, Refusal, files, finished

COLOURS = palette(len(NAMES))


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """The stand-in, also of the references' offsets that were asked for."""
    made = Network()
    monkeypatch.setattr("cffm_jax.inference.load.load", lambda path: made)
    return made


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with a.mp4, 20 frames of 48x64 at 15 a second."""
    folder = tmp_path_factory.mktemp("films")
    film(folder / "a.mp4", 20)
    return folder


def ran(*argv):
    """Runs the command in this process; it must succeed."""
    assert run_command(predict_command, [*map(str, argv), "--checkpoint", "none"]) == 0


def masks_in(folder):
    images = {path.stem: Image.open(path) for path in sorted((folder / "masks").iterdir())}
    assert all(
        image.mode == "P" and bytes(image.getpalette()[:9]) == COLOURS[:3].tobytes() for image in images.values()
    )
    return {name: np.asarray(image) for name, image in images.items()}


def rows_in(folder):
    return list(csv.DictReader((folder / "shares.csv").read_text().splitlines()))


# --- what is written


def test_everything_of_a_video(shared, tmp_path, capfd):
    ran(shared / "a.mp4", "--output", tmp_path / "out", "--alpha", "0.5", "--scores", "--logits")
    out, written = tmp_path / "out", ["logits", "masks", "overlay.mp4", "prediction.json", "scores", "shares.csv"]
    assert f"{out}: 20 frames" in capfd.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == written
    frames, times, _ = frames_of(shared / "a.mp4")
    masks = masks_in(out)
    assert list(masks) == [f"{i:06}" for i in range(20)]
    for i, (mask, frame) in enumerate(zip(masks.values(), frames)):
        assert mask.shape == (48, 64) and (mask == Network.mask(frame)).mean() > 0.95, i
        values = frame[..., ::-1].astype(np.float64) / 64
        scores = np.asarray(Image.open(out / "scores" / f"{i:06}.png"))
        assert scores.dtype == np.uint16
        sure = np.exp(values).max(-1) / np.exp(values).sum(-1)
        np.testing.assert_allclose(scores / 65535, sure, atol=1e-5)
        stored = np.load(out / "logits" / f"{i:06}.npz")
        np.testing.assert_allclose(stored["logits"], values[::4, ::4], atol=1e-6)
        assert tuple(stored["names"]) == NAMES and stored["size"].tolist() == [48, 64]
        assert stored["input_size"].tolist() == [480, 640]
    drawn, drawn_times, kind = frames_of(out / "overlay.mp4")
    assert kind == ("h264", "yuv420p", 15) and len(drawn) == 20
    np.testing.assert_allclose(drawn_times, times, atol=1e-3)
    expected = overlay(frames[7], masks["000007"], COLOURS, 0.5)
    assert np.quantile(np.abs(drawn[7].astype(int) - expected), 0.85) < 16
    rows = rows_in(out)
    assert list(rows[0]) == ["frame", "seconds", *NAMES] and [row["frame"] for row in rows] == list(masks)
    for row, mask, time_ in zip(rows, masks.values(), times):
        np.testing.assert_allclose(
            [float(row[name]) for name in NAMES], [(mask == k).mean() for k in range(3)], atol=1e-6
        )
        assert float(row["seconds"]) == pytest.approx(time_, abs=1e-4)
    about = json.loads((out / "prediction.json").read_text())
    assert about["licence"] == "as nobody knows"
    assert (
        about["scores"]
        and about["logits"]
        and about["frames"] == 20
        and (about["height"], about["width"]) == (48, 64)
        and about["offsets"] == [9, 6, 3]
    )
    assert about["classes"] == {"0": "class 0", "1": "class 1", "2": "class 2"}
    assert about["tiles"] == 1 and about["overlap"] == 0


def test_damaged_frames_are_counted_and_told_or_refused(tmp_path, capfd, refused):
    whole = film(tmp_path / "a.mkv", 30, codec="mpeg4", pictures=drifting(30))
    path, plain = spoilt_at(whole, 5), ("--masks", "none", "--no-overlay")
    ran(whole, "--output", tmp_path / "whole", "--refuse-damaged", *plain)
    assert json.loads((tmp_path / "whole" / "prediction.json").read_text())["damaged_frames"] == 0
    assert "damaged" not in capfd.readouterr().err
    ran(path, "--output", tmp_path / "out", *plain)
    about = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert about["frames"] == 30 and about["damaged_frames"] == 7 and about["damaged_ranges"] == [[5, 11]]
    err = capfd.readouterr().err
    assert f"warning: {path}: 7 frames are damaged" in err and "from frame 5, at 0.33 s" in err
    assert ", 7 damaged\n" in err  # The last line of progress.
    argv = [path, "--checkpoint", "none", "--output", tmp_path / "refused", "--refuse-damaged"]
    refused(predict_command, argv, f"{path}: frame 5, at 0.33 s, is damaged", "--refuse-damaged", progress=True)


def test_frames_that_cannot_be_decoded_are_refused_with_the_damaged(tmp_path, refused):
    path = film(tmp_path / "a.avi", 80, codec="png", pixels="rgb24", pictures=drifting(80))
    for number, said in ((40, "frame 40, at 2.73 s, follows one that"), (79, "its last frames cannot be decoded")):
        argv = [spoilt_at(path, number, 50), "--checkpoint", "none", "--refuse-damaged"]
        refused(predict_command, argv, said, progress=True)


def test_an_archive_of_masks_in_one_file(shared, tmp_path):
    ran(shared / "a.mp4", "--output", tmp_path / "npz", "--masks", "npz", "--no-overlay", "--no-csv", "--every", "3")
    ran(shared / "a.mp4", "--output", tmp_path / "png", "--no-overlay", "--no-csv", "--every", "3")
    assert sorted(path.name for path in (tmp_path / "npz").iterdir()) == ["masks.npz", "prediction.json"]
    with np.load(tmp_path / "npz" / "masks.npz") as stored:
        np.testing.assert_array_equal(stored["masks"], np.stack(list(masks_in(tmp_path / "png").values())))
        np.testing.assert_array_equal(stored["numbers"], range(0, 20, 3))
        np.testing.assert_allclose(stored["times"], np.arange(0, 20, 3) / 15, atol=1e-4)
        assert stored["names"].tolist() == list(NAMES) and stored["masks"].dtype == np.uint8
        np.testing.assert_array_equal(stored["colours"], COLOURS)


def test_the_overlay_keeps_frame_times_and_makes_odd_sides_even(tmp_path):
    times = [0, 40, 50, 400, 1000]
    path = film(tmp_path / "a.mkv", size=(47, 63), pixels="yuv444p", times=times)
    ran(path, "--output", tmp_path / "out")
    frames, shown, kind = frames_of(tmp_path / "out" / "overlay.mp4")
    np.testing.assert_allclose(shown, np.array(times) / 600, atol=2e-3)
    assert float(5 / kind[2]) == pytest.approx(1000 / 600 + 1 / 15, abs=2e-3)  # What it says that it lasts.
    assert frames[0].shape == (48, 64, 3) and next(iter(masks_in(tmp_path / "out").values())).shape == (47, 63)


def test_only_some_frames_and_classes(shared, tmp_path, network):
    out = tmp_path / "out"
    ran(shared / "a.mp4", "--output", out, "--start", "0.4", "--end", "1", "--every", "3", "--classes", "Class_2,1")
    assert list(masks_in(out)) == ["000006", "000009", "000012"]
    assert set(np.unique(list(masks_in(out).values()))) == {1, 2, 255}
    assert list(rows_in(out)[0]) == ["frame", "seconds", "class 1", "class 2"]
    assert network.asked == [(3, 2, 1)]  # 9, 6 and 3 frames of the video.
    drawn, times, kind = frames_of(out / "overlay.mp4")
    np.testing.assert_allclose(times, [0, 0.2, 0.4], atol=1e-3)
    assert kind[2] == 5
    np.testing.assert_allclose(drawn[0][40, 40], picture()[40, 40], atol=12)  # Class 0 is shown as it is.


@pytest.mark.parametrize(
    ("options", "offsets"),
    [
        (["--reference-seconds"], (9, 6, 3)),
        (["--reference-seconds", "--every", "3"], (3, 2, 1)),
        (["--reference-seconds", "1", "0.5", "0.2"], (15, 8, 3)),
        (["--reference-seconds", "--rate", "30"], (9, 6, 3)),
    ],
)
def test_references_at_times(shared, tmp_path, network, options, offsets):
    ran(shared / "a.mp4", "--output", tmp_path / "out", "--masks", "none", "--no-overlay", *options)
    assert network.asked == [offsets]


def test_images_stand_for_so_many_frames_a_second(tmp_path, network):
    for i in range(3):
        Image.fromarray(picture(number=i)).save(tmp_path / f"{i}.png")
    ran(tmp_path, "--output", tmp_path / "out", "--rate", "29.97", "--reference-seconds")
    assert network.asked == [(18, 12, 6)]
    assert float(frames_of(tmp_path / "out" / "overlay.mp4")[2][2]) == pytest.approx(29.97, abs=0.01)


def test_one_image_has_one_overlay(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    ran(tmp_path / "a.png", "--legend")
    out = tmp_path / "a_prediction"
    assert sorted(path.name for path in out.iterdir()) == ["masks", "overlay.png", "prediction.json", "shares.csv"]
    np.testing.assert_array_equal(masks_in(out)["a"], Network.mask(picture()))


def test_side_by_side_and_the_legend():
    frame = picture((240, 320))
    mask = Network.mask(frame)
    plain = Painter(NAMES, COLOURS).paint(frame, mask)
    np.testing.assert_array_equal(plain, overlay(frame, mask, COLOURS))
    pair = Painter(NAMES, COLOURS, side_by_side=True).paint(frame, mask)
    np.testing.assert_array_equal(pair, np.concatenate([frame, plain], 1))
    drawn = Painter(NAMES, COLOURS, legend=True).paint(frame, mask)
    changed = (drawn != plain).any(-1)
    assert changed[:20, :20].any() and not changed[60:].any() and not changed[:, 100:].any()
    for k in range(3):  # Each class's colour on its square.
        assert (drawn[:60, :20] == COLOURS[k]).all(-1).sum() > 40
    narrow, mask_ = picture((1000, 60)), Network.mask(picture((1000, 60)))
    changed = (Painter(NAMES, COLOURS, legend=True).paint(narrow, mask_) != overlay(narrow, mask_, COLOURS)).any(-1)
    assert changed[:60, :40].any() and not changed[:, 58:].any()
    for height, width in ((64, 96), (480, 853), (1080, 1920)):  # Letters grow with the frame, and stay inside.
        alone = Painter(["H" * 500], COLOURS, legend=True)
        drawn = (alone.paint(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)) > 200).all(-1)
        assert np.count_nonzero(drawn.any(1)) >= max(6, height // 45)
        assert drawn[:, width // 2 :].any() and not drawn[:, -2:].any()
    without = Painter(NAMES, COLOURS, legend=True).paint(frame, np.full_like(mask, 255))
    np.testing.assert_array_equal(without, frame)


def test_overwriting_replaces_only_what_is_ours(shared, tmp_path, refused):
    argv = [shared / "a.mp4", "--output", tmp_path / "out", "--end", "0.2", "--checkpoint", "none"]
    ran(*argv[:-2])
    refused(predict_command, argv, "is there already", "--overwrite")
    ran(*argv[:-2], "--overwrite", "--masks", "npz", "--no-overlay")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks.npz", "prediction.json", "shares.csv"]
    (tmp_path / "out" / "thesis.txt").write_text("x")
    refused(predict_command, [*argv, "--overwrite"], "thesis.txt")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "masks").mkdir()
    refused(predict_command, [argv[0], "--output", tmp_path / "photos", "--overwrite", *argv[-2:]], "not of predict.py")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]


def test_the_names_are_those_of_the_weights(shared, tmp_path, monkeypatch):
    """What lies below the folder where the command was started is not looked at."""
    names = ("sky", "a road", "sea")
    colours = palette(3)[[2, 0, 1, *range(3, 256)]]
    data = dataclasses.replace(Network().config.data, root="data/own")
    config = dataclasses.replace(Network().config, data=data)
    named = Network(config, names=names, colours=colours)
    monkeypatch.setattr("cffm_jax.inference.load.load", lambda path: named)
    (tmp_path / "data" / "own").mkdir(parents=True)
    (tmp_path / "data" / "own" / "classes.txt").write_text("cat\ndog\nhen\n")
    monkeypatch.chdir(tmp_path)
    ran(shared / "a.mp4", "--output", "out", "--no-overlay", "--end", "0.2", "--classes", "a_road,sky")
    about = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert about["classes"] == {"0": "sky", "1": "a road"}
    assert about["colours"] == {"0": colours[0].tolist(), "1": colours[1].tolist()}
    assert list(rows_in(tmp_path / "out")[0]) == ["frame", "seconds", "sky", "a road"]


def test_names_of_classes():
    assert class_choice.chosen_classes(["traffic_LIGHT", "0,car"], CITYSCAPES) == (0, 6, 13)
    assert class_choice.chosen_classes(["Cat", "cat", "0"], ("cat", "CAT", "Cat")) == (0, 2)
    with pytest.raises(InputError, match="'cAt' names 3 classes; give an index: 0, 1, 2"):
        class_choice.chosen_classes(["cAt"], ("cat", "CAT", "Cat"))
    with pytest.raises(InputError, match="is no class of this model; name some of a, b$"):
        class_choice.chosen_classes(["7" * 5000], ("a", "b"))
    with pytest.raises(InputError, match="did you mean traffic light"):
        class_choice.chosen_classes(["trafic light"], CITYSCAPES)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("-", "stdin_prediction"),
        ("0", "camera0_prediction"),
        ("x/*.png", "x_prediction"),
        ("*.png", "images_prediction"),
    ],
)
def test_default_output(name, folder):
    assert writers.default_output([name]) == folder


# --- inputs that are odd, damaged or hostile


def text(path, words):
    path.write_text(words)
    return path


def raw(path, data):
    path.write_bytes(data)
    return path


def cut(path, share):
    return raw(path, path.read_bytes()[: int(path.stat().st_size * share)])


def saved(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def folder_of(folder, **images):
    folder.mkdir()
    for name, pixels in images.items():
        saved(folder / f"{name}.png", pixels)
    return folder


def joined(folder):
    """One stream that changes its size."""
    parts = [film(folder / f"{i}.h264", 3, size=size, format="h264") for i, size in enumerate(((48, 64), (64, 96)))]
    return raw(folder / "a.h264", b"".join(part.read_bytes() for part in parts))


def no_frames(path):
    """A whole .mp4 whose only track has no frame."""
    film(path, 1)
    data = path.read_bytes()
    at = data.index(b"stsz") - 4
    size = struct.unpack(">I", data[at : at + 4])[0]
    data = data[:at] + struct.pack(">I4sIII", size, b"stsz", 0, 0, 0) + data[at + 20 :]
    return raw(path, data)


def bomb(path):
    """A PNG that claims 60,000 x 60,000 pixels."""
    saved(path, picture())
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return raw(path, bytes(data))


def covered(path):
    """Sound with a picture of its cover."""
    import av

    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        image = io.BytesIO()
        Image.fromarray(picture()).save(image, "PNG")
        container.add_attachment("cover.png", "image/png", image.getvalue())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def spoilt(path):
    """A video whose every packet is damaged."""
    film(path, 5, codec="ffv1", pixels="bgr0")
    with_header = path.read_bytes()
    at = with_header.index(b"\x1f\x43\xb6\x75")  # A cluster.
    return raw(path, with_header[: at + 40] + bytes(len(with_header) - at - 40))


def huge(path):
    """A WebP image that claims 16,384 x 16,384 pixels."""
    header = struct.pack("<4sI4s4sI", b"RIFF", 22, b"WEBP", b"VP8X", 10) + bytes(4) + b"\xff\x3f\0" * 2
    return raw(path, header + bytes(100))


def piped(folder):
    """Images, and among them a pipe that nobody writes into."""
    os.mkfifo(folder / "b.png")
    return folder


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.mp4\n#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"

REFUSED = {
    "missing": (lambda f: f / "nothing.mp4", "No such file"),
    "empty": (lambda f: raw(f / "a.mp4", b""), "is empty"),
    "zeros": (lambda f: raw(f / "a.mp4", bytes(10_000)), "no video"),
    "noise": (lambda f: raw(f / "a.mkv", np.random.default_rng(0).bytes(10_000)), "no video"),
    "text": (lambda f: text(f / "a.mp4", "hello " * 500), "no video"),
    "a page": (lambda f: text(f / "a.webm", "<!DOCTYPE html><title>404</title>"), "no video"),
    "playlist": (lambda f: text(film(f / "secret.mp4").with_name("a.mp4"), PLAYLIST), "no video"),
    "list of files": (lambda f: text(f / "a.mp4", "ffconcat version 1.0\nfile secret.mp4\n"), "no video"),
    "session": (lambda f: text(f / "a.mp4", SDP), "no video"),
    "without its index": (lambda f: cut(film(f / "a.mp4"), 0.6), "is cut off"),
    "header alone": (lambda f: cut(film(f / "a.mkv"), 0.1), "a.mkv: "),
    "no frames": (lambda f: no_frames(f / "a.mp4"), "no frame that can be decoded"),
    "no frame whole": (lambda f: spoilt(f / "a.mkv"), "no frame that can be decoded"),
    "sound": (lambda f: sound(f / "a.m4a"), "holds no video"),
    "sound with a cover": (lambda f: covered(f / "a.mkv"), "holds no video"),
    "two sizes": (joined, "frame 3 is 96x64, the first 64x48"),
    "too large": (lambda f: raw(f / "a.gif", b"GIF89a" + b"\xff" * 4 + bytes(3) + bytes(50)), "a.gif"),
    "cut JPEG": (lambda f: cut(saved(f / "a.jpg", picture((200, 200))), 0.9), "truncated"),
    "cut PNG": (lambda f: cut(saved(f / "a.png", picture((200, 200))), 0.5), "a.png"),
    "PNG header alone": (lambda f: cut(saved(f / "a.png", picture()), 0.02), "a.png"),
    "PNG bomb": (lambda f: bomb(f / "a.png"), "60000x60000"),
    "WebP bomb": (lambda f: huge(f / "a.webp"), "claims more than"),
    "floats": (lambda f: saved(f / "a.tif", np.zeros((8, 8), np.float32)), "floats"),
    "empty folder": (lambda f: folder_of(f / "d"), "holds no image"),
    "folder of films of one name": (
        lambda f: film(film(folder_of(f / "d") / "a.mkv").with_name("a.mp4")).parent,
        "has the name of",
    ),
    "folder, two sizes": (lambda f: folder_of(f / "d", a=picture(), b=picture((32, 32))), "b.png: is 32x32"),
    "folder, one damaged": (lambda f: cut(folder_of(f / "d", a=picture(), b=picture()) / "b.png", 0.5).parent, "b.png"),
    "folder with a pipe": (lambda f: piped(folder_of(f / "d", a=picture())), "b.png: is no ordinary file"),
    "pattern": (lambda f: f / "*.jpg", "fits no file"),
    "device": (lambda f: "/dev/zero", "no ordinary file"),
    "named pipe": (lambda f: os.mkfifo(f / "a.mp4") or f / "a.mp4", "is a pipe"),
    "camera": (lambda f: "97", "camera 97: is not there"),
    "long name": (lambda f: f / ("x" * 300 + ".mp4"), "too long"),
    "long path": (lambda f: "/".join([str(f), *["y" * 200] * 30]), "too long"),
    "two lines": (lambda f: f / "a\n\x1b[1mb.mp4", r"a\n\x1b[1mb.mp4: "),
    "nothing": (lambda f: "", "names no input"),
    "an address": (lambda f: "http://localhost:1/a.mp4", "only files and folders of this machine"),
    "a protocol": (lambda f: f"concat:{f}/a.mp4", "only files and folders of this machine"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_inputs(case, tmp_path, refused):
    make, says = REFUSED[case]
    path = make(tmp_path)
    began = time.monotonic()
    refused(predict_command, [path, "--checkpoint", "none", "--output", tmp_path / "out"], says, progress=True)
    assert time.monotonic() - began < 10


HANDLED = {
    "one pixel": (lambda f: film(f / "a.mkv", 2, size=(1, 1), codec="ffv1", pixels="bgr0"), (1, 1)),
    "one pixel image": (lambda f: saved(f / "a.png", np.zeros((1, 1, 3), np.uint8)), (1, 1)),
    "8192 wide": (lambda f: film(f / "a.mp4", 2, size=(32, 8192)), (32, 8192)),
    "8192 high": (lambda f: saved(f / "a.png", picture((8192, 16))), (8192, 16)),
    "not ASCII": (lambda f: film(f / "żółw 🐢 #1 %d.mp4"), (48, 64)),
    "no text": (lambda f: film(f / "a.mp4").rename(os.fsdecode(os.fsencode(f) + b"/\xff\xfe.mp4")), (48, 64)),
    "image, no text": (lambda f: saved(f / "a.png", picture()).rename(os.fsdecode(bytes(f) + b"/\xff.png")), (48, 64)),
    "longest name": (lambda f: film(f / "a.mp4").rename(f / ("x" * 251 + ".mp4")), (48, 64)),
    "cut": (lambda f: cut(film(f / "a.mkv", 40, codec="ffv1", pixels="bgr0"), 0.5), (48, 64)),
}


@pytest.mark.parametrize("case", HANDLED)
def test_odd_inputs_that_are_fine(case, tmp_path):
    make, size = HANDLED[case]
    path = make(tmp_path)
    ran(path, "--output", tmp_path / "out", "--legend", "--side-by-side")
    assert all(mask.shape == size for mask in masks_in(tmp_path / "out").values())
    assert not list(tmp_path.glob(".*"))


def test_a_cut_video_is_told_of(tmp_path, capfd):
    ran(cut(film(tmp_path / "a.mkv", 40, codec="ffv1", pixels="bgr0"), 0.5), "--no-overlay")
    assert "warning: " in (said := capfd.readouterr().err) and "may be cut off" in said


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "names no input"),
        (["A", "--start", "9"], "no frame from --start 9 on"),
        (["A", "--start", "0.41", "--end", "0.42"], "no frame from --start 0.41 to --end 0.42"),
        (["A", "--start", "-1"], "--start: is -1"),
        (["A", "--end", "0"], "--end: is 0"),
        (["A", "--end", "nan"], "--end: is nan"),
        (["A", "--every", "0"], "--every: is 0"),
        (["A", "--alpha", "2"], "--alpha: is 2"),
        (["A", "--rate", "0"], "--rate: is 0"),
        (["A", "--classes", "clas 2"], "did you mean class 2"),
        (["A", "--reference-seconds", "2", "1"], "give 3, oldest first"),
        (["A", "--reference-seconds", "0.2", "0.4", "0.6"], "is 0.2 0.4 0.6; give the longest first"),
        (["A", "--reference-seconds", "1", "2", "inf"], "inf is given"),
        (["A", "--masks", "none", "--no-overlay", "--no-csv"], "leaves nothing to write"),
        (["A", "--frame-size", "0", "853"], "is 0 853; give a height and a width of at least 1, or 0 0 for the frames"),
        (["A", "--frame-size", "853"], "--frame-size: is 853; give a height and a width"),
        (["A", "--scale", "853", "480"], "--scale: is --frame-size now, the height before the width; give it by this"),
        (["A", "--tile-size", "64", "100"], "--tile-size: is 64 100; give a height and a width of at least 64, mult"),
        (["A", "--tile-size", "64", "96", "--overlap", "64"], "--overlap: is 64; give a multiple of 32 below 64"),
        (["A", "--tile", "96", "64"], "--tile: is --tile-size now, the height before the width; give it by this"),
        (["A", "--overlap", "32"], "--overlap: has no use without --tile-size"),
        (["A", "--masks", "jpg"], "--masks"),
        (["A", "--overwrit"], "--overwrite"),
        (["A", "A"], "is named twice"),
    ],
)
def test_refused_options(argv, says, shared, tmp_path, refused):
    argv = [shared / "a.mp4" if part == "A" else part for part in argv]
    refused(predict_command, [*argv, "--checkpoint", "none", "--output", tmp_path / "out"], says)


def test_no_checkpoint(shared, tmp_path, refused):
    refused(predict_command, [shared / "a.mp4", "--output", tmp_path / "out"], "--checkpoint: is missing")


# --- outputs that cannot be written


@pytest.mark.parametrize("output", ["file", "file/below", "/proc/nothing/out", "/dev/null/out", "x" * 300])
def test_unwritable_outputs(output, shared, tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    refused(predict_command, [shared / "a.mp4", "--checkpoint", "none", "--output", tmp_path / output], "; ")


@pytest.mark.parametrize(
    "options", [["--masks", "none"], ["--masks", "npz", "--no-overlay"], ["--no-overlay", "--no-csv"]]
)
def test_a_full_disk(options, tmp_path, refused):
    """Files cannot grow beyond 3,000 bytes; folders above that were made go again."""
    noise = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(40)]
    path = film(tmp_path / "a.mkv", 40, codec="ffv1", pixels="bgr0", pictures=noise)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    argv = [path, "--checkpoint", "none", "--output", tmp_path / "new" / "folder" / "out", *options]
    size = 300 if "npz" not in options and "none" not in options else 3000
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    stderr = sys.stderr
    try:
        sys.stderr = io.StringIO()  # In memory: the limit is also that of the file behind.
        status = run_command(predict_command, [str(part) for part in argv])
        said = sys.stderr.getvalue()
    finally:
        sys.stderr = stderr
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    Refusal.check(status, said, "cannot be written (File too large)", progress=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def test_without_pyav(shared, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    argv = ["--checkpoint", "none", "--output", tmp_path / "out"]
    refused(predict_command, [shared / "a.mp4", *argv], "a.mp4: ", "make install-video")
    for i in range(2):
        saved(tmp_path / f"{i}.png", picture())
    refused(predict_command, [tmp_path, *argv], "--overlay: ", "--no-overlay")
    ran(tmp_path, "--output", tmp_path / "out", "--no-overlay")
    ran(tmp_path / "0.png")


@pytest.mark.parametrize("name", ["link", "link/"])
def test_a_link_as_output_stays(name, shared, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for options in ([], ["--overwrite"]):
        ran(shared / "a.mp4", "--end", "0.2", "--output", f"{tmp_path}/{name}", *options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
        assert (tmp_path / "link").is_symlink() and len(masks_in(tmp_path / "real")) == 3


# --- signals and pipes

STAND_IN = """
import sys, time
sys.path.insert(0, "tests")
from helpers import films
import cffm_jax.inference.load
from cffm_jax.commands.predict import predict_command
from cffm_jax.runtime.command_line import run_command

class Slow(films.Network):
    def predictions(self, frames, **options):
        for prediction in super().predictions(frames, **options):
            time.sleep(float(sys.argv[1]))
            yield prediction

cffm_jax.inference.load.load = lambda path: Slow()
sys.exit(run_command(predict_command, sys.argv[2:]))
"""


def slow(seconds, *argv, **kwargs):
    command = [sys.executable, "-c", STAND_IN, str(seconds), *map(str, argv), "--checkpoint", "none"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, **kwargs)


def test_standard_output_that_takes_nothing(shared, tmp_path, capfd, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        argv = [shared / "a.mp4", "--output", tmp_path / "out", "--checkpoint", "none"]
        status = run_command(predict_command, [str(part) for part in argv])
    Refusal.check(status, capfd.readouterr().err, "standard output: cannot be written (No space", progress=True)
    assert len(masks_in(tmp_path / "out")) == 20


def wait_for(path, process):
    until = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_signal_leaves_nothing_of_a_file(number, shared, tmp_path):
    process = slow(0.3, shared / "a.mp4", "--output", tmp_path / "out")
    wait_for(tmp_path / ".out.partial" / "masks" / "000001.png", process)
    process.send_signal(number)
    err = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 128 + number and "Traceback" not in err and f"stopped by {number.name}" in err
    assert not files(tmp_path)


def test_a_signal_ends_a_stream_and_keeps_it(tmp_path):
    """The pipe stays open, as a camera's would."""
    path = film(tmp_path / "a.ts", 200, pictures=[picture((96, 128), number=i) for i in range(200)], size=(96, 128))
    process = slow(0, "-", "--output", tmp_path / "out", stdin=subprocess.PIPE)
    process.stdin.write(path.read_bytes())
    process.stdin.flush()
    wait_for(tmp_path / ".out.partial" / "masks" / "000009.png", process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    err = process.communicate()[1].decode()
    masks = masks_in(tmp_path / "out")
    assert len(masks) >= 10 and len(frames_of(tmp_path / "out" / "overlay.mp4")[0]) == len(masks)
    assert len(rows_in(tmp_path / "out")) == len(masks)
    assert "Traceback" not in err


@contextlib.contextmanager
def stdin_of(monkeypatch, data):
    assert len(data) < 2**16  # What a pipe holds.
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    with os.fdopen(read) as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield


def test_standard_input(tmp_path, monkeypatch, refused):
    with stdin_of(monkeypatch, film(tmp_path / "a.mkv", 5).read_bytes()):
        ran("-", "--output", tmp_path / "out")
    assert len(masks_in(tmp_path / "out")) == 5
    argv = ["-", "--checkpoint", "none", "--output", tmp_path / "other"]
    for data in (b"", b"hello" * 100, PLAYLIST.encode()):
        with stdin_of(monkeypatch, data):
            refused(predict_command, argv, "standard input: ", "no video")
    monkeypatch.setattr(sys, "stdin", None)
    refused(predict_command, argv, "standard input: ", "nothing to read")


@pytest.mark.long
def test_the_real_command_in_tiles(trained, tmp_path, monkeypatch):
    """Of a film larger than a tile, at its own size."""
    monkeypatch.undo()
    path = film(tmp_path / "a.mkv", 4, size=(90, 160), codec="ffv1", pixels="bgr0", pictures=drifting(4, (90, 160)))
    argv = [path, "--checkpoint", trained[0], "--output", tmp_path / "out", "--logits", "--frame-size", "0", "0"]
    status, _, err = finished("predict.py", *argv, "--tile-size", "64", "96", "--overlap", "32")
    assert status == 0 and "GB, weights included (4 tiles, height x width 64x96)\n" in err, err
    about = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert (about["height"], about["width"]) == (90, 160) and about["input_size"] == [96, 160] and about["memory"] > 1e6
    assert about["tile_size"] == [64, 96] and about["tiles"] == 4 and about["overlap"] == 32
    frames = frames_of(path)[0]
    sizes = {"frame_size": (0, 0), "tile_size": (64, 96), "overlap": 32}
    expected = list(cffm_jax.load(trained[0]).predictions(frames, logits=True, **sizes))
    masks = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "masks").iterdir())]
    assert len(masks) == 4
    for i, (mask, prediction) in enumerate(zip(masks, expected, strict=True)):
        stored = np.load(tmp_path / "out" / "logits" / f"{i:06}.npz")
        assert mask.shape == (90, 160) and (mask == prediction.mask).mean() > 0.999
        assert stored["input_size"].tolist() == [96, 160]
        np.testing.assert_allclose(stored["logits"], prediction.logits, atol=1e-4)


@pytest.mark.long
def test_the_real_command(trained, data, tmp_path, monkeypatch):
    """With the network that was trained: images of the dataset by a pattern; its masks are the stream's."""
    monkeypatch.undo()
    folder = sorted((data / "data").iterdir())[0] / "origin"
    argv = [folder / "*.jpg", "--checkpoint", trained[0], "--end", "4", "--legend", "--output", tmp_path / "out"]
    status, out, err = finished("predict.py", *argv)
    assert status == 0, err
    assert "4 frames" in out and "frame/s" in err
    frames = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())[:4]]
    expected = np.stack(list(cffm_jax.load(trained[0]).stream(frames)))
    masks = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "masks").iterdir())]
    assert (np.stack(masks) == expected).mean() > 0.999
    assert list(rows_in(tmp_path / "out")[0])[2:4] == ["grass", "sky"]
    assert Path(tmp_path / "out" / "overlay.mp4").stat().st_size > 500
