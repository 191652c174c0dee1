"""Labels that cannot train, moved palettes and files that are left out: told by `check`, and before training."""

import json

import numpy as np
import pytest

from cffm_jax.config import Config, DataConfig, ModelConfig
from cffm_jax.data.check import command as check
from cffm_jax.data.labels import label_sample
from cffm_jax.data.layouts.classes import stated_classes
from cffm_jax.data.layouts.names import list_files
from cffm_jax.data.layouts.read import read_split
from cffm_jax.errors import InputError
from cffm_jax.runtime.command_line import run_command
from cffm_jax.training.setup import dataset_notes

from helpers.datasets import fails, frame, write_png, write_snippet

SIZE, LENGTH = (16, 24), 12
NAMES = ("sky", "road", "car")


def write_dataset(root, masks, names=NAMES, split="train"):
    """``masks``: video -> its masks, one a frame."""
    for video, labels in masks.items():
        for i, mask in enumerate(labels):
            write_png(root / video / "frames" / f"{i:02}.png", frame([i, *video.encode()], SIZE))
            write_png(root / video / "masks" / f"{i:02}.png", np.broadcast_to(np.asarray(mask, np.uint8), SIZE))
    (root / f"{split}.txt").write_text("".join(f"{video}\n" for video in masks))
    if names:
        (root / "classes.json").write_text(json.dumps(names))
    return root


def stripes(*values):
    return np.resize(np.asarray(values, np.uint8), (1, SIZE[1]))


ALL = stripes(0, 1, 2, 255)


def problems(capfd, root, *more, layout="folder"):
    """(problems but those for short videos, the whole report); the table is printed too."""
    argv = [str(root), "--layout", layout, *more]
    status = run_command(check.main, argv)
    capfd.readouterr()
    assert run_command(check.main, [*argv, "--json", "-"]) == status
    report = json.loads(capfd.readouterr().out)
    assert status == bool(report["problems"])
    return [(each["file"], each["problem"], each["video"]) for each in report["problems"]], report


def notes(root, classes=3, layout="folder", split="train"):
    videos = read_split(str(root), split, layout=layout)
    return label_sample.sample_notes(videos, classes, [f"n{i}" for i in range(classes)])


def test_nothing_is_said_of_labels_that_can_train(tmp_path, capfd):
    root = write_dataset(tmp_path, {"a": [ALL] * LENGTH})
    assert problems(capfd, root)[0] == [] and notes(root) == []


@pytest.mark.parametrize("names", [("background", "lane"), None])
def test_one_class_beside_ignored_pixels(tmp_path, capfd, names):
    root = write_dataset(tmp_path, {"a": [stripes(0, 255)] * LENGTH}, names)
    found, report = problems(capfd, root)
    said = f"holds one class alone in its masks (12): {report['classes'][0]['name']}, and ignored pixels"
    assert (".", said, "") in found
    absent = [problem for _, problem, _ in found if "has no pixel of 1 of 2 classes in its masks: lane" in problem]
    assert len(found) == 1 + len(absent) and bool(absent) == bool(names)
    said = notes(root, 2)
    assert "by all 12 masks, holds one class alone: n0, and ignored pixels: nothing can be learnt" in said[0]
    assert "has no pixel of 1 of 2 classes: n1" in said[1]


@pytest.mark.parametrize("names", [NAMES, None])
def test_nothing_but_ignored_pixels(tmp_path, capfd, names):
    root = write_dataset(tmp_path, {"a": [stripes(255)] * LENGTH}, names)
    assert problems(capfd, root)[0] == [(".", "holds nothing but ignored pixels in its masks (12)", "")]
    (said,) = notes(root)
    assert "holds nothing but ignored pixels: nothing can be learnt" in said


def test_classes_without_a_pixel_and_videos_without_a_label(tmp_path, capfd):
    root = write_dataset(tmp_path, {"a": [stripes(0, 2)] * LENGTH, "b": [stripes(255)] * LENGTH})
    found, _ = problems(capfd, root)
    assert found == [
        (".", "has no pixel of 1 of 3 classes in its masks: road", ""),
        ("b", "holds nothing but ignored pixels in its masks (12)", "b"),
    ]
    said = notes(root)
    assert len(said) == 2 and "classes: n1" in said[0] and "nothing but ignored pixels (12)" in said[1]


def test_classes_that_the_training_split_lacks(tmp_path, capfd):
    root = write_dataset(tmp_path, {"a": [stripes(0, 1)] * LENGTH})
    write_dataset(root, {"b": [stripes(0, 1, 2)] * LENGTH}, split="val")
    found, _ = problems(capfd, root)
    assert found == [("train.txt", "has no pixel of 1 classes that other splits have: car", "")]


def test_values_with_a_gap(tmp_path, capfd):
    root = write_dataset(tmp_path, {"a": [stripes(0, 128)] * LENGTH}, None)
    ((_, problem, _),), _ = problems(capfd, root)
    assert problem.startswith("has no pixel of 127 of 129 classes in its masks: class 1, ") and "119 more" in problem


def test_without_masks_nothing_is_said_of_classes(tmp_path, capfd):
    root = write_dataset(tmp_path, {"a": [ALL] * LENGTH})
    for mask in (root / "a" / "masks").iterdir():
        mask.unlink()
    assert problems(capfd, root, "--unlabelled", "train")[0] == []


# --- the sample


def test_a_sample_is_bounded_and_spread(tmp_path, monkeypatch):
    root = write_dataset(tmp_path, {name: [ALL] * LENGTH for name in "abcde"})
    videos = read_split(str(root), "train", layout="folder")

    def chosen(most):
        return [mask for mask, _ in label_sample.sampled_masks(videos, most)]

    everything = [mask for video in videos for mask in video.masks]
    assert sorted(chosen(1000)) == sorted(everything) and sorted(chosen(60)) == sorted(everything)
    for most in (1, 3, 5, 12, 30):
        masks = chosen(most)
        assert len(set(masks)) == len(masks) <= most
        assert len({mask.split("/")[-3] for mask in masks}) == min(most, len(videos))
    monkeypatch.setattr(label_sample, "MOST", 10)
    monkeypatch.setattr(label_sample.sampled_masks, "__defaults__", (10,))
    (said,) = notes(root, 4)
    assert "by a sample of 10 of 60 masks, has no pixel of 1 of 4 classes: n3" in said


def test_a_sample_leaves_unreadable_masks_to_training_and_refuses_wrong_ones(tmp_path):
    root = write_dataset(tmp_path, {"a": [ALL] * LENGTH})
    (root / "a" / "masks" / "03.png").write_bytes(b"")
    assert notes(root) == []
    write_png(root / "a" / "masks" / "03.png", np.full(SIZE, 7, np.uint8))
    with pytest.raises(InputError, match=r"03\.png: holds label 7"):
        notes(root)


def test_the_notes_of_a_training_are_of_both_splits_files_and_of_the_training_masks(tmp_path):
    root = write_dataset(tmp_path, {"a": [stripes(0, 255)] * LENGTH}, NAMES[:2])
    write_dataset(root, {"b": [ALL] * LENGTH}, NAMES[:2], split="val")
    (root / "b" / "frames" / "x.gif").write_text("")
    config = Config(model=ModelConfig(num_classes=2), data=DataConfig(root=str(root), layout="folder"))
    splits = [read_split(str(root), split, layout="folder") for split in ("train", "val")]
    classes = stated_classes(root, 2, "folder")
    with pytest.raises(InputError, match=r"holds label 2"):
        dataset_notes(config, classes, *splits)
    for mask in (root / "b" / "masks").iterdir():
        write_png(mask, np.zeros(SIZE, np.uint8))
    said = dataset_notes(config, classes, *splits)
    assert [line.split(":")[0] for line in said] == ["data", "labels", "labels"]
    assert "1 .gif" in said[0] and "sky, and ignored pixels" in said[1] and "1 of 2 classes: road" in said[2]


# --- files that are left out


def test_suffixes_count_in_capitals_too(tmp_path):
    for name in ("a.JPG", "b.jpg", "c.Jpeg", "d.PNG", "e.bmp", "f", ".g.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "more").mkdir()
    others = []
    found = list_files(str(tmp_path), (".jpg", ".jpeg", ".png"), others)
    assert list(found) == ["a", "b", "c", "d"] and found["c"].endswith("c.Jpeg")
    assert [path.removeprefix(str(tmp_path)) for path in others] == ["/e.bmp", "/f", "/more/"]
    (tmp_path / "b.JPG").write_bytes(b"")
    with pytest.raises(InputError, match=r"is there beside"):
        list_files(str(tmp_path), (".jpg",))


@pytest.mark.parametrize("part", ["frames", "masks"])
def test_one_s_own_files_in_capitals(tmp_path, part):
    root = write_dataset(tmp_path, {"a": [ALL] * 4})
    for path in sorted((root / "a" / part).iterdir())[1:]:
        path.rename(path.with_suffix(".PNG"))
    (video,) = read_split(str(root), "train", layout="folder")
    assert len(video.frames) == len(video.targets) == 4 and not video.passed_over


def test_cityscapes_files_in_capitals(tmp_path):
    write_snippet(tmp_path, "train", "bonn", 1)
    expected = [v.name for v in read_split(str(tmp_path), "train", layout="cityscapes")]
    for path in list(tmp_path.rglob("*.png")):
        path.rename(path.with_suffix(".PNG"))
    (tmp_path / "gtFine" / "train" / "bonn" / "x_gtFine_polygons.json").write_text("{}")
    (tmp_path / "gtFine" / "train" / "bonn" / "x_gtFine_color.png").write_text("")
    stray = tmp_path / "leftImg8bit_sequence" / "train" / "bonn" / "a.bmp"
    stray.write_text("")
    for masks in (True, False):
        (video,) = read_split(str(tmp_path), "train", masks, layout="cityscapes")
        assert [video.name] == expected and len(video.frames) == 30 and video.passed_over == (str(stray),)


def test_what_is_left_out_is_counted_and_told(tmp_path, capfd):
    root = write_dataset(tmp_path, {"a": [ALL] * LENGTH, "b": [ALL] * LENGTH})
    for path in (root / "b" / "masks").iterdir():
        path.rename(path.with_suffix(".bmp"))
    (root / "a" / "frames" / "notes.txt").write_text("")
    found, report = problems(capfd, root)
    assert found == [("b/masks/00.bmp", "is not read as a mask, nor are 11 more of the folder", "b")]
    assert report["passed_over"] == {".bmp": 12, ".txt": 1}
    run_command(check.main, [str(root), "--layout", "folder"])
    said = "left out, as neither frames nor masks: 12 .bmp, 1 .txt, such as a/frames/notes.txt"
    assert said in capfd.readouterr().out
    (video,) = read_split(str(root), "train", layout="folder")
    assert len(video.passed_over) == 13, "those of the video that has no mask as well"
    for path in (root / "a" / "masks").iterdir():
        path.rename(path.with_suffix(".tif"))
    with pytest.raises(InputError, match=r"no video with a mask \(12 \.tif, 12 \.bmp, 1 \.txt\)"):
        read_split(str(root), "train", layout="folder")
    for path in (root / "a" / "frames").iterdir():
        path.rename(path.with_suffix(".gif"))
    with pytest.raises(
        InputError, match=r"holds no \.jpg or \.jpeg or \.png or \.tif or \.tiff or \.npy frame \(13 \.gif\)"
    ):
        read_split(str(root), "train", layout="folder")


def test_images_of_other_kinds_are_a_problem_unless_they_are_second_versions(tmp_path, capfd):
    root = write_dataset(tmp_path, {"a": [ALL] * LENGTH})
    masks, frames = root / "a" / "masks", root / "a" / "frames"
    for i in range(LENGTH):
        (masks / f"{i:02}.jpg").write_bytes(b"")
        (frames / f"{i:02}.webp").write_bytes(b"")
    (masks / "about.txt").write_bytes(b"")
    assert problems(capfd, root)[0] == []
    (masks / "03.png").rename(masks / "03.TIF")
    (frames / "12.webp").write_bytes(b"")
    (masks / "03.jpg").unlink()
    found, _ = problems(capfd, root)
    assert found == [
        ("a/frames/12.webp", "is not read as a frame", "a"),
        ("a/masks/03.TIF", "is not read as a mask", "a"),
    ]
    assert problems(capfd, root, "--unlabelled", "train")[0] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a/frames", "(Frames is there: capitals count)"),
        ("a/masks", "there is no such folder (Masks is there: capitals count)"),
        ("a", "(A is there: capitals count)"),
        ("train.txt", "(Train.txt is there: capitals count)"),
    ],
)
def test_names_in_other_capitals_are_told(tmp_path, capfd, name, said):
    root = write_dataset(tmp_path, {"a": [ALL] * LENGTH, "b": [ALL] * LENGTH})
    path = root / name
    path.rename(path.with_name(path.name.capitalize()))
    message = fails("", read_split, str(root), "train", layout="folder")
    assert said in message and path.name in message
    if path.is_dir() or name == "train.txt":
        assert run_command(check.main, [str(root), "--layout", "folder"]) and said in "".join(capfd.readouterr())
    if name == "a/masks":
        assert len(read_split(str(root), "train", False, "folder")) == 2, "where no masks are asked for"


def test_what_lies_beside_the_folder_in_other_capitals_is_told(tmp_path, capfd):
    """Half of the masks were passed over without a word."""
    root = write_dataset(tmp_path, {"a": [ALL] * LENGTH})
    mask = sorted((root / "a" / "masks").iterdir())[0]
    (root / "a" / "Masks").mkdir()
    mask.rename(root / "a" / "Masks" / mask.name)
    said = "is there beside Masks: capitals count"
    assert said in fails("masks", read_split, str(root), "train", layout="folder")
    assert ("a/masks", said, "a") in problems(capfd, root)[0]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("Classes.txt", "is no classes.txt: capitals count"),
        ("classes.JSON", "is no classes.json: capitals count"),
        ("Classes.yaml", "is no class file that is read here"),
    ],
)
def test_a_class_file_of_another_name_is_refused(tmp_path, capfd, file, said):
    """By all that reads the dataset alike, check too."""
    root = write_dataset(tmp_path, {"a": [ALL] * LENGTH}, None)
    (root / file).write_text("sky\nroad")
    assert said in fails(root / file, stated_classes, root, 2, "folder")
    assert said in fails(root / file, read_split, str(root), "train", layout="folder")
    assert run_command(check.main, [str(root), "--layout", "folder", "--num_classes", "2"])
    assert said in "".join(capfd.readouterr())


def test_vspws_folders_in_other_capitals_and_masks_of_another_kind(tmp_path):
    for i in range(3):
        write_png(tmp_path / "data" / "a" / "origin" / f"{i}.jpg", frame(i, SIZE))
        write_png(tmp_path / "data" / "a" / "mask" / f"{i}.png", np.ones(SIZE, np.uint8))
    (tmp_path / "train.txt").write_text("a\n")
    assert len(read_split(str(tmp_path), "train")) == 1
    (tmp_path / "data" / "a" / "mask" / "1.png").rename(tmp_path / "data" / "a" / "mask" / "1.bmp")
    assert "has no mask mask/1.png (1 .bmp)" in fails("1.jpg", read_split, str(tmp_path), "train")
    (tmp_path / "data").rename(tmp_path / "Data")
    assert "no data folder inside (Data is there" in fails(tmp_path, read_split, str(tmp_path), "train")


@pytest.mark.parametrize("file", ["classes.txt", "classes.json"])
def test_two_classes_of_one_name_are_refused(tmp_path, capfd, file):
    root = write_dataset(tmp_path, {"a": [ALL] * LENGTH}, None)
    names = ["sky", "road", "sky "]
    (root / file).write_text("\n".join(names) if file.endswith("txt") else json.dumps({"names": names}))
    said = "names the classes 0 and 2 both 'sky'"
    assert said in fails(file, stated_classes, root, 3, "folder")
    assert (file, said, "") in problems(capfd, root)[0]


# --- Cityscapes without a package


def test_cityscapes_without_a_package_is_told_which(tmp_path, capfd):
    write_snippet(tmp_path, "train", "bonn", 1)
    write_snippet(tmp_path, "val", "celle", 1)
    (tmp_path / "gtFine").rename(tmp_path / "elsewhere")
    found, _ = problems(capfd, tmp_path, layout="cityscapes")
    assert found == [(".", "holds no gtFine", "")]
    (tmp_path / "leftImg8bit_sequence").rename(tmp_path / "leftImg8bit")
    assert run_command(check.main, [str(tmp_path), "--layout", "cityscapes"]) == 2
    said = capfd.readouterr().err
    assert "holds leftImg8bit alone" in said and "leftImg8bit_sequence_trainvaltest.zip" in said
