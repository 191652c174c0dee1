"""The plain layout: some frames with masks, class files, and every fault as one line."""

import dataclasses
import json

import numpy as np
import pytest

from cffm_jax.config import DataConfig
from cffm_jax.data import decode
from cffm_jax.data.check import command as check
from cffm_jax.data.clips import reference_indices, training_clip
from cffm_jax.data.layouts import class_file, classes
from cffm_jax.data.layouts import read as layouts
from cffm_jax.data.pipeline import training_batches
from cffm_jax.drawing import palette
from cffm_jax.errors import InputError

from helpers.datasets import SIZE, fails, frame, write_own, write_png

DATA = DataConfig(layout="folder", frame_size=SIZE, crop=(64, 64), workers=0)

OFFSETS = (9, 6, 3)


def read(root, split="train", masks=True):
    return layouts.read_split(str(root), split, masks, layout="folder")


def first_batch(videos, data=DATA, **kwargs):
    with training_batches(videos, data, num_classes=8, batch_size=2, seed=0, **kwargs) as batches:
        return next(batches)


def test_frames_without_masks_are_no_targets(tmp_path):
    write_own(tmp_path, {"b": (12, {3, 11}), "a": (2, set()), "c": (2, {0, 1})})
    videos = read(tmp_path)
    assert [video.name for video in videos] == ["b", "c"], "a video without masks is left out"
    assert [video.targets for video in videos] == [(3, 11), (0, 1)]
    assert [video.sparse for video in videos] == [True, False]
    assert [len(video.frames) for video in videos] == [12, 2] and not videos[0].numbers
    assert [video.name for video in read(tmp_path, masks=False)] == ["b", "a", "c"]
    assert read(tmp_path, masks=False)[0].masks == ()


def test_frames_are_jpeg_or_png_in_order_of_their_numbers(tmp_path):
    write_own(tmp_path, {"a": (1, set())})
    for name in ("10.png", "9.jpg", "11.jpeg"):
        write_png(tmp_path / "a" / "frames" / name, frame(1))
    write_png(tmp_path / "a" / "masks" / "9.png", np.zeros(SIZE, np.uint8))
    (video,) = read(tmp_path)
    assert [path.rsplit("/", 1)[1] for path in video.frames] == ["0000.png", "9.jpg", "10.png", "11.jpeg"]
    assert video.targets == (1,)


# --- clips


@pytest.mark.parametrize(
    ("targets", "drawn"), [((3, 9, 14), {9, 14}), ((2, 3, 8), {3, 8}), ((0, 2), {0, 2}), ((11,), {11})]
)
def test_targets_are_drawn_among_the_labelled(targets, drawn):
    rng = np.random.default_rng(0)
    clips = {training_clip(15, rng, OFFSETS, 0.0, targets) for _ in range(200)}
    references = {t: reference_indices(t) or (t, t, t) for t in targets}
    assert clips == {(*references[t], t) for t in drawn}


def test_read_backwards_the_labelled_stay_the_targets():
    rng = np.random.default_rng(0)
    clips = {training_clip(15, rng, OFFSETS, 1.0, (0, 5, 12)) for _ in range(200)}
    assert clips == {(9, 6, 3, 0), (14, 11, 8, 5)}


def test_naming_all_frames_as_targets_changes_nothing():
    for length in (1, 3, 7, 20):
        one, two = np.random.default_rng(1), np.random.default_rng(1)
        for _ in range(20):
            assert training_clip(length, one) == training_clip(length, two, targets=tuple(range(length)))


def test_batches_hold_the_targets_labels_alone_unless_all_frames_have_masks(tmp_path):
    write_own(tmp_path, {"a": (12, {11}), "b": (12, set(range(12)))})
    sparse = first_batch(read(tmp_path))
    assert sparse["frames"].shape == (2, 4, 64, 64, 3) and sparse["labels"].shape == (2, 1, 64, 64)
    dense = first_batch(read(tmp_path)[1:])
    assert dense["labels"].shape == (2, 4, 64, 64)


def test_the_targets_labels_follow_its_frame(tmp_path):
    write_own(tmp_path, {"a": (12, {11})})
    plain = DataConfig(layout="folder", frame_size=SIZE, ratio=(1, 1), crop=SIZE, reverse=0, flip=1, distort=0)
    batch = first_batch(read(tmp_path), plain)
    for frames, labels in zip(batch["frames"], batch["labels"]):
        np.testing.assert_array_equal(frames, [frame([i, *b"a"])[:, ::-1] for i in (2, 5, 8, 11)])
        np.testing.assert_array_equal(labels[0], (frames[-1].mean(-1) * 8 / 256).astype(np.uint8))


# --- labels


@pytest.mark.parametrize("ignored", [255, 200, 0])
def test_labels_are_the_classes_but_for_the_ignored(tmp_path, ignored):
    write_own(tmp_path, {"a": (1, {0})})
    (tmp_path / "classes.json").write_text(json.dumps({"names": list("abc"), "ignored": ignored}))
    path = tmp_path / "a" / "masks" / "0000.png"
    write_png(path, np.array([[0, 1, 2, ignored]], np.uint8))
    (video,) = read(tmp_path)
    expected = [255 if value == ignored else value for value in (0, 1, 2, ignored)]
    np.testing.assert_array_equal(decode.read_mask(str(path), 3, video.coding), [expected])
    for value in (3, 254) + ((255,) if ignored != 255 else ()):
        write_png(path, np.array([[0, value]], np.uint8))
        message = fails(path, decode.read_mask, str(path), 3, video.coding)
        assert f"label {value} " in message and "0..2" in message and str(ignored) in message


# --- class files


def test_classes_of_a_text_file(tmp_path):
    (tmp_path / "classes.txt").write_bytes("\ufeffroad\r\n side walk \r\nhaus fünf\n\r\n".encode())
    for layout in ("folder", "vspw"):
        names, colours = classes.read_classes(tmp_path, 3, layout)
        assert names == ("road", "side walk", "haus fünf")
        np.testing.assert_array_equal(colours, palette.palette(3))
    assert class_file.ignored_label(tmp_path) == 255
    with pytest.raises(InputError, match="names 3 classes, not 4"):
        classes.read_classes(tmp_path, 4, "folder")


def test_classes_with_colours(tmp_path):
    tree = {"names": ["a", "b"], "colours": [[1, 2, 3], [250, 0, 9]], "ignored": 7}
    (tmp_path / "classes.json").write_text(json.dumps(tree))
    names, colours = classes.read_classes(tmp_path, 2, "folder")
    assert names == ("a", "b") and colours.dtype == np.uint8 and not colours[2:].any()
    np.testing.assert_array_equal(colours[:2], tree["colours"])
    assert class_file.ignored_label(tmp_path) == 7
    assert "--data.layout" in fails("classes.json", classes.read_classes, tmp_path, 2, "vspw")


def test_without_a_class_file(tmp_path):
    assert classes.class_names(tmp_path, 2, "folder") == ("class 0", "class 1")
    assert classes.class_names(tmp_path, 124, "folder")[0] == "class 0"


@pytest.mark.parametrize(
    "tree",
    [
        "ab",
        [1, 2],
        [],
        {"colours": [[0, 0, 0]]},
        {"names": ["a"], "void": 3},
        {"names": "ab"},
        {"names": ["a"], "colours": [[0, 0, 0], [1, 1, 1]]},
        {"names": ["a"], "colours": [[0, 0]]},
        {"names": ["a"], "colours": [[0, 0, 256]]},
        {"names": ["a"], "colours": [[0, 0.5, 1]]},
        {"names": ["a"], "ignored": -1},
        {"names": ["a"], "ignored": True},
        {"names": ["a"], "ignored": "255"},
        ["x"] * 255,
    ],
)
def test_faults_of_a_class_file(tmp_path, tree):
    write_own(tmp_path, {"a": (1, {0})})
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(tree))
    fails(path, classes.read_classes, tmp_path, 1, "folder")
    fails(path, read, tmp_path)


def test_class_files_of_other_kinds(tmp_path):
    write_own(tmp_path, {"a": (1, {0})})
    (tmp_path / "classes.yaml").write_text("a: 1")
    assert "classes.txt" in fails(tmp_path / "classes.yaml", read, tmp_path)
    (tmp_path / "classes.yaml").rename(tmp_path / "classes")
    assert "classes.txt" in fails(tmp_path / "classes", read, tmp_path)
    (tmp_path / "classes").rename(tmp_path / "classes.txt~")
    assert read(tmp_path)
    (tmp_path / "classes.txt~").unlink()
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\xff")
    fails(tmp_path / "classes.txt", read, tmp_path)
    (tmp_path / "classes.txt").write_text("a\n\nb\n")
    assert "has a blank line 2 between names" in fails(tmp_path / "classes.txt", read, tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text('{"names": ["a"], "names": ["b"]}')
    assert "the key 'names' is there twice" in fails(tmp_path / "classes.json", read, tmp_path)
    (tmp_path / "classes.json").unlink()
    (tmp_path / "classes.txt").write_text("a\n")
    (tmp_path / "classes.json").write_text('["a"]')
    assert "classes.json" in fails(tmp_path / "classes.txt", read, tmp_path)


# --- faults


def test_faults_of_the_folders(tmp_path):
    write_own(tmp_path, {"a": (2, {0}), "b": (1, set())})
    fails(tmp_path / "val.txt", read, tmp_path, "val")
    (tmp_path / "val.txt").write_text("b\n")
    assert "mask" in fails(tmp_path / "val.txt", read, tmp_path, "val")
    (tmp_path / "val.txt").write_text("c\n")
    fails(tmp_path / "c", read, tmp_path, "val")
    (tmp_path / "c").mkdir()
    assert ".jpeg" in fails(tmp_path / "c" / "frames", read, tmp_path, "val")
    write_png(tmp_path / "a" / "masks" / "0007.png", np.zeros(SIZE, np.uint8))
    fails(tmp_path / "a" / "masks" / "0007.png", read, tmp_path)
    (tmp_path / "a" / "masks" / "0007.png").unlink()
    write_png(tmp_path / "a" / "frames" / "0001.jpg", frame(1))
    assert "0001.jpg" in fails(tmp_path / "a" / "frames" / "0001.png", read, tmp_path)


def test_frames_of_several_sizes(tmp_path):
    write_own(tmp_path, {"a": (12, {11})})
    path = tmp_path / "a" / "frames" / "0005.png"
    write_png(path, frame(0, (64, 120)))
    data = dataclasses.replace(DATA, reverse=0.0)
    assert "differs in size" in fails(path, first_batch, read(tmp_path), data)


def test_a_root_in_another_layout_names_the_option(tmp_path):
    write_own(tmp_path, {"a": (1, {0})})
    assert "--data.layout" in fails(tmp_path, layouts.read_split, str(tmp_path), "train")


@pytest.mark.parametrize("name", ["../other/b", "/b"])
def test_a_video_outside_of_the_dataset_is_refused(tmp_path, name, capsys):
    root = write_own(tmp_path / "own", {"a": (10, (0,))})
    (root / "val.txt").write_text(f"{name}\n")
    fails("lies outside of the dataset", layouts.read_split, str(root), "val", True, "folder")
    assert check.main([str(root), "--layout", "folder"]) == 1
    assert f"lists {name!r}, which lies outside" in capsys.readouterr().out
