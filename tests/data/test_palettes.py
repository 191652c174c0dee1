"""Palettes that contradict each other where no colours are stated: refused by every command, a problem in `check`."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from cffm_jax.commands.eval import eval_command
from cffm_jax.commands.train import train_command
from cffm_jax.data.check import command as check
from cffm_jax.data.labels import label_sample
from cffm_jax.data.labels.mask_files import claims_of_file
from cffm_jax.data.layouts.layout import Layout
from cffm_jax.data.layouts.read import layout_of, read_split
from cffm_jax.data.layouts.video import plain_coding
from cffm_jax.data.palettes import Palettes
from cffm_jax.data.prepare import command as prepare
from cffm_jax.drawing.palette import palette
from cffm_jax.errors import InputError
from cffm_jax.evaluation.mask_folder import read_prediction
from cffm_jax.runtime.command_line import run_command

from helpers.datasets import fails, frame, write_png

RED, GREEN, BLUE, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)
RIGHT, MOVED = (BLACK, RED, GREEN, BLUE), (BLACK, BLUE, RED, GREEN)
NAMES = ("background", "red", "green", "blue")
VOC = (BLACK, (128, 0, 0), (0, 128, 0), (128, 128, 0))
GREY = None


def png(colours, values=(0, 1, 2, 3), size=(4, 16)):
    """A mask with these values; without colours a grey one."""
    image = Image.fromarray(np.resize(np.asarray(values, np.uint8), size))
    if colours is not GREY:
        image.putpalette(np.asarray(colours, np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def padded(colours, ignored=BLACK):
    return (*colours, *[BLACK] * (255 - len(colours)), ignored)


def contradiction(*files, ignored=255):
    """The first of the masks that contradicts those before, as its file, the problem and the remedy."""
    met, coding = Palettes(), plain_coding(ignored)
    found = (met.meet(f"{i}.png", claims_of_file(f"{i}.png", data, coding)) for i, data in enumerate(files))
    return next(filter(None, found), None)


FULL = padded(RIGHT)
CYCLE = (BLACK, RED, GREEN) * 4


@pytest.mark.parametrize(
    "files",
    [
        (png(RIGHT), png(RIGHT, (0, 2)), png(RIGHT, (1, 3))),
        (png(RIGHT), png(FULL), png((*RIGHT[:3], WHITE), (0, 1, 2))),
        (png(FULL, (0, 1, 255)), png(padded(RIGHT, WHITE), (0, 1, 255)), png(RIGHT, (0, 1, 255))),
        (png(GREY), png(RIGHT), png(GREY, (0, 255))),
        (png(GREY), png(MOVED)),
        (png(VOC), png(GREY)),
        (png([(i, i, i) for i in range(256)]), png(GREY)),
        (png(GREY, (0, 1, 255)), png((BLACK, WHITE), (0, 1)), png(GREY, (0, 1))),
        (png(palette(4), (0, 1, 2, 3, 255)), png(GREY)),
        (png(CYCLE[:3], (0, 1, 2)), png(CYCLE, (3, 4, 5))),
        (png(MOVED), png(MOVED, (2, 3))),
        (png(VOC[::-1]), png(VOC[::-1], (1, 2))),
    ],
)
def test_no_contradiction(files):
    assert contradiction(*files) is None and contradiction(*files[::-1]) is None


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((png(RIGHT), png(MOVED)), "1.png has value 1 as (0, 0, 255) in its palette, but 0.png as (255, 0, 0)"),
        ((png(RIGHT, (0, 1)), png(GREY), png(MOVED, (0, 1))), "2.png has value 1 as (0, 0, 255)"),
        ((png(RIGHT, (0, 2)), png((BLACK, GREEN), (0, 1))), "1.png has (0, 255, 0) as value 1 of its palette, but 0"),
        (
            (png(VOC[::-1]), png(GREY)),
            "0.png has value 3 as (0, 0, 0) in its palette, PASCAL VOC's colour of 0, but 1.png is grey",
        ),
        (
            (png(GREY), png([(i, i, i) for i in (2, 0, 1)], (0, 1, 2))),
            "has value 1 as (0, 0, 0) in its palette, the grey of 0",
        ),
        ((png(GREY), png(palette(4)[[1, 0, 2, 3]])), "this package's colour of 0"),
    ],
)
def test_contradictions(files, said):
    found = contradiction(*files)
    assert found and said in f"{found[0]} {found[1]}" and "classes.json" in found[2]
    other = contradiction(*files[::-1])
    assert other and all(name in " ".join(other) for name in ("0.png", f"{len(files) - 1}.png")), "in any order"


def test_pixels_that_do_not_count_may_have_any_colour():
    assert contradiction(png(RIGHT), png((WHITE, *RIGHT[1:])), ignored=0) is None
    assert contradiction(png(RIGHT), png((WHITE, *RIGHT[1:]))) is not None


@pytest.fixture
def own(tmp_path):
    """Two videos, of which the second has one mask in another order."""
    root = tmp_path / "own"
    for video in "abc":
        for i in range(10):
            write_png(root / video / "frames" / f"{i:02}.png", frame([i, ord(video)], (64, 64)))
            mask = root / video / "masks" / f"{i:02}.png"
            mask.parent.mkdir(exist_ok=True)
            mask.write_bytes(png(MOVED if (video, i) == ("b", 7) else RIGHT, size=(64, 64)))
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    (root / "classes.json").write_text(json.dumps(NAMES))
    return root


def said_of(capfd, command, *argv):
    status = run_command(command, [*map(str, argv)])
    return status, "".join(capfd.readouterr())


def test_every_command_refuses_them(own, tmp_path, capfd):
    told = (
        "masks/07.png",
        "has value 1 as (0, 0, 255) in its palette, but ",
        "00.png as (255, 0, 0)",
        "for 3 values",
    )
    options = ("--data.root", own, "--data.layout", "folder", "--model.num_classes", 4)
    config = tmp_path / "config.py"
    config.write_text("from cffm_jax.config import Config\ndef get_config(): return Config()\n")
    run, done = tmp_path / "run", tmp_path / "out"
    commands = [
        (check.main, own, "--layout", "folder"),
        (prepare.main, own, done, "--layout", "folder"),
        (eval_command, "--predictions", own, "--config", config, *options, "--data.eval_split", "train"),
        (train_command, "--config", config, *options, "--workdir", run),
    ]
    for command, *argv in commands:
        status, text = said_of(capfd, command, *argv)
        assert status == (1 if command is check.main else 2) and all(each in text for each in told), text
        assert command is check.main or len(text.splitlines()) == 1
    assert not run.exists() and not done.exists()
    (own / "classes.json").write_text(json.dumps({"names": NAMES, "colours": RIGHT}))
    status, text = said_of(capfd, check.main, own, "--layout", "folder")
    assert status == 0 and "no problem found" in text, "where colours are stated, they decide"
    assert said_of(capfd, prepare.main, own, done, "--layout", "folder")[0] == 0


def test_what_a_sample_misses_is_refused_where_it_is_read(own, tmp_path, monkeypatch, capfd):
    videos = read_split(str(own), "train", layout="folder")
    label_sample.require_palettes_agree(videos, most=2)
    # In a process of the loader too.
    for video in (videos[1], pickle.loads(pickle.dumps(videos))[1]):
        said = fails("07.png", label_sample.decode.read_pair, video.frames[7], video.mask(7), 4, video.coding)
        assert "own/" in said.split(", but ")[1]
    monkeypatch.setattr(prepare, "require_splits_agree", lambda *_: None)
    status, text = said_of(capfd, prepare.main, own, tmp_path / "out", "--layout", "folder")
    assert status == 2 and "07.png: has value 1 as" in text
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_the_order_is_that_of_the_other_splits(own, tmp_path, capfd):
    """A network was trained on one of them."""
    (own / "train.txt").write_text("a\n")
    (own / "val.txt").write_text("b\n")
    for path in (own / "b" / "masks").iterdir():
        path.write_bytes(png(MOVED, size=(64, 64)))
    assert said_of(capfd, prepare.main, own, tmp_path / "a", "--layout", "folder", "--splits", "val")[0] == 2
    options = ("--data.root", own, "--data.layout", "folder", "--model.num_classes", 4)
    status, text = said_of(capfd, eval_command, "--predictions", own, *options)
    assert status == 2 and "has value 1 as" in text and "own/a/masks" in text and "own/b/masks" in text
    (own / "train.txt").write_text("nothing\n")  # A split that cannot be read says nothing.
    assert said_of(capfd, prepare.main, own, tmp_path / "a", "--layout", "folder", "--splits", "val")[0] == 0


def test_a_layout_that_fixes_the_values_takes_any_palette(own, monkeypatch):
    plain = type(layout_of("folder"))
    assert issubclass(plain, Layout)
    monkeypatch.setattr(plain, "fixed_labels", True)
    label_sample.require_palettes_agree(read_split(str(own), "train", layout="folder"))


def test_predictions_of_another_program(tmp_path):
    met = Palettes()
    for name, colours in (("a.png", RIGHT), ("b.png", MOVED)):
        (tmp_path / name).write_bytes(png(colours))
    read_prediction(tmp_path / "a.png", 4, b"", met)
    with pytest.raises(InputError, match=r"b\.png: has value 1 as"):
        read_prediction(tmp_path / "b.png", 4, b"", met)
