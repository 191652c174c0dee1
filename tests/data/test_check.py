"""A small dataset with everything wrong at once, split files without it, and checksums that `sha256sum` agrees with."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cffm_jax.data import decode
from cffm_jax.data.check import command as check
from cffm_jax.data.layouts import listing
from cffm_jax.data.prepare import command as prepare
from cffm_jax.errors import InputError
from cffm_jax.runtime import checksums
from cffm_jax.runtime.command_line import run_command

from helpers import datasets

K, LENGTH = 3, 10
NAMES = ("sky", "road", "car")


def write_frame(path, rng, size=(16, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rng.integers(0, 256, (*size, 3), dtype=np.uint8))


def write_mask(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(mask, np.uint8)).save(path)


def write_video(root, name, length=LENGTH):
    """Frames of noise; masks with a quarter ignored, and a quarter, a third and a sixth of the classes."""
    rng = np.random.default_rng(list(name.encode()))
    mask = np.repeat([[0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3]], 16, 0).repeat(2, 1)
    for i in range(length):
        write_frame(root / "data" / name / "origin" / f"{i:08d}.jpg", rng)
        write_mask(root / "data" / name / "mask" / f"{i:08d}.png", mask)


@pytest.fixture
def root(tmp_path):
    """Videos a, b, c to train, d to evaluate, e and f without masks to test; nothing is wrong."""
    root = tmp_path / "root"
    for name in "abcdef":
        write_video(root, name)
    for name in "ef":
        shutil.rmtree(root / "data" / name / "mask")
    for split, names in {"train": "abc", "val": "d", "test": "ef"}.items():
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "classes.json").write_text(json.dumps(NAMES))
    return root


def run(capfd, *argv):
    """(exit status, standard output) of the command."""
    capfd.readouterr()
    status = run_command(check.main, [str(part) for part in argv])
    return status, capfd.readouterr().out


def report_of(capfd, *argv):
    status, out = run(capfd, *argv, "--json", "-")
    return status, json.loads(out)


def test_a_whole_dataset(root, capfd):
    status, report = report_of(capfd, root)
    assert status == 0 and report["problems"] == []
    assert report["splits"] == {
        "train": {"videos": 3, "frames": 30},
        "val": {"videos": 1, "frames": 10},
        "test": {"videos": 2, "frames": 20},
    }
    assert report["frames"] == 60 and report["masks"] == 40 and report["unlisted_videos"] == 0
    assert report["lengths"] == {"min": 10, "median": 10, "max": 10} and report["sizes"] == {"24x16": 60}
    shares = [(each["name"], each["pixel_share"], each["frame_share"]) for each in report["classes"]]
    assert shares == [("sky", 0.25, 1.0), ("road", 1 / 3, 1.0), ("car", 1 / 6, 1.0)]
    assert report["ignored_share"] == 0.25 and report["passed_over"] == {}
    status, text = run(capfd, root)
    assert status == 0 and "no problem found" in text and "train: 3 videos, 30 frames" in text
    bars = {line.split()[1]: line.count("#") for line in text.splitlines() if "#" in line}
    assert bars == {"road": 30, "sky": 22, "car": 15}
    assert "without a pixel" not in text and "left out" not in text


def test_the_number_of_threads_changes_nothing(root, capfd):
    assert report_of(capfd, root, "--threads", 1) == report_of(capfd, root, "--threads", 5)


def spoil(root):
    """One of every kind of problem: (file, some words of what is wrong) of each."""
    data, rng = root / "data", np.random.default_rng(9)
    (data / "a" / "origin" / "00000001.jpg").write_bytes(b"no image")
    path = data / "a" / "origin" / "00000002.jpg"
    path.write_bytes(path.read_bytes()[:-30])
    (data / "a" / "mask" / "00000003.png").unlink()
    (data / "a" / "origin" / "00000004.jpg").unlink()
    write_frame(data / "b" / "origin" / "00000005.jpg", rng, (16, 20))
    write_mask(data / "b" / "mask" / "00000006.png", np.ones((8, 24)))
    write_mask(data / "b" / "mask" / "00000007.png", np.full((16, 24), K + 4))
    write_mask(data / "b" / "mask" / "00000008.png", np.ones((16, 24, 3)))
    path = data / "b" / "mask" / "00000009.png"
    path.write_bytes(path.read_bytes()[:50])
    write_video(root, "short", 3)
    write_video(root, "bare")
    shutil.rmtree(data / "bare" / "mask")
    (data / "empty").mkdir()
    shutil.copytree(data / "d", data / "copy")
    (root / "train.txt").write_text("a\nb\nc\nc\nshort\nbare\nempty\ncopy\nnowhere\ne\n")
    (root / "classes.json").write_text(json.dumps([1, 2]))
    return [
        ("classes.json", "list of names"),
        ("train.txt", "lists video 'c' 2 times"),
        ("train.txt", "'nowhere', which is not in data"),
        ("extra.txt", "No such file"),
        ("data/a/origin/00000003.jpg", "has no mask mask/00000003.png"),
        ("data/a/mask/00000004.png", "has no frame origin/00000004.jpg"),
        ("data/bare/mask", "holds no .png mask"),
        ("data/empty/origin", "holds no .jpg frame"),
        ("data/e/mask", "holds no .png mask"),
        ("data/a/origin/00000001.jpg", "no JPEG, PNG or TIFF"),
        ("data/a/origin/00000002.jpg", "truncated"),
        ("data/b/mask/00000009.png", "truncated"),
        ("data/b/origin/00000005.jpg", "is 20x16, most frames of the video 24x16"),
        ("data/b/mask/00000005.png", "is 24x16 but its frame is 20x16"),
        ("data/b/mask/00000006.png", "is 24x8 but its frame is 24x16"),
        ("data/b/mask/00000007.png", "holds label 7, but there are 3 classes (labels 1..3)"),
        ("data/b/mask/00000008.png", "mode RGB"),
        ("data/a", "has 9 frames, fewer than 10"),
        ("data/short", "has 3 frames, fewer than 10"),
        ("train.txt", "'e' is in test.txt too"),
        ("data/copy", "10 of its frames are those of video 'd' of val"),
    ]


SPLITS = ("--splits", "train", "val", "test", "extra", "--num-classes", K)


def test_every_problem_is_found_at_once(root, capfd):
    expected = spoil(root)
    status, report = report_of(capfd, root, *SPLITS)
    found = report["problems"]
    for file, words in expected:
        matching = [each for each in found if each["file"] == file and words in each["problem"]]
        assert len(matching) == 1, (file, words, found)
        assert matching[0]["remedy"]
    assert status == 1 and len(found) == len(expected)
    assert {each["group"] for each in found} == set(listing.GROUPS) - {listing.MANIFEST}


def test_the_table_holds_them_all_by_group(root, capfd):
    expected = spoil(root)
    status, text = run(capfd, root, *SPLITS)
    lines = text.splitlines()
    assert status == 1 and f"{len(expected)} problems" in lines[-1]
    places = [
        lines.index(next(line for line in lines if line.startswith(f"{group} ("))) for group in listing.GROUPS[1:]
    ]
    assert places == sorted(places)
    for file, words in expected:
        assert sum(line.startswith(f"  {file} ") and words in line for line in lines) == 1
    text = run(capfd, root, *SPLITS, "--rows", 1)[1]
    assert f"{listing.UNREADABLE} (3)" in text and "  ... and 2 more" in text and "data/b/mask/00000009" not in text


# --- split files without what is wrong


def test_split_files_are_written_anew_and_the_old_ones_kept(root, capfd):
    spoil(root)
    before = {path.name: path.read_bytes() for path in root.glob("*.txt")}
    status, report = report_of(capfd, root, "--num-classes", K, "--fix-splits")
    assert status == 1
    bad = ["a", "b", "short", "bare", "empty", "copy", "nowhere", "e"]
    assert report["left_out"] == {"train": bad, "test": ["e"]}
    assert (root / "train.txt").read_text() == "c\n" and (root / "test.txt").read_text() == "f\n"
    for split in ("train", "test"):
        assert (root / f"{split}.txt.bak").read_bytes() == before[f"{split}.txt"]
    assert {path.name for path in root.glob("*.txt*")} == {*before, "train.txt.bak", "test.txt.bak"}
    assert (root / "val.txt").read_bytes() == before["val.txt"] and not list(root.glob(".*"))
    (root / "classes.json").unlink()
    status, report = report_of(capfd, root, "--num-classes", K)
    assert (status, report["problems"], report["unlisted_videos"]) == (0, [], 7)
    assert "train.txt: written without" not in run(capfd, root)[1]


def test_what_was_left_out_is_said(root, capfd):
    shutil.rmtree(root / "data" / "b" / "mask")
    text = run(capfd, root, "--fix-splits")[1]
    assert "train.txt: written without 1 of 3 videos, the old one is train.txt.bak\n  b\n" in text


def test_without_a_problem_split_files_stay(root, capfd):
    assert run(capfd, root, "--fix-splits")[0] == 0
    assert not list(root.glob("*.bak"))


def test_split_files_are_written_all_or_none(root, capfd, monkeypatch, refused):
    for name in "ad":
        shutil.rmtree(root / "data" / name / "mask")
    refused(check.main, [root, "--fix-splits"], root / "val.txt", "would lose all its videos", progress=True)
    (root / "val.txt").write_text("c\nd\n")  # c is in train too.
    replace = Path.replace

    def fail(self, target):
        if Path(target).name == "val.txt" and self.suffix == ".partial":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    refused(check.main, [root, "--fix-splits"], "cannot be written (No space left", progress=True)
    assert (root / "train.txt").read_text() == "a\nb\nc\n" and (root / "val.txt").read_text() == "c\nd\n"


# --- checksums


def test_a_manifest_is_what_sha256sum_says(root, capfd):
    assert run(capfd, root, "--manifest")[0] == 0
    lines = (root / "manifest.sha256").read_text().splitlines()
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    files.remove("manifest.sha256")
    assert lines == [f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}" for name in files]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "manifest.sha256"], cwd=root, check=True)
    assert report_of(capfd, root, "--check-manifest")[1]["problems"] == []


def test_names_that_sha256sum_escapes(tmp_path):
    names = ["plain", "back\\slash", "line\nbreak", "ret\rurn", "\\n"]
    for name in names:
        (tmp_path / name).write_text(name)
    measured = checksums.measure(str(tmp_path), {}, threads=1, progress=False)
    checksums.write_manifest(str(tmp_path), measured)
    assert checksums.read_manifest(str(tmp_path)).digests == measured and sorted(measured) == sorted(names)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "manifest.sha256"], cwd=tmp_path, check=True)


def test_changed_missing_and_extra_files(root, capfd):
    run(capfd, root, "--manifest")
    frame = root / "data" / "a" / "origin" / "00000001.jpg"
    data = bytearray(frame.read_bytes())
    data[-100] ^= 1
    frame.write_bytes(data)
    decode.read_frame(str(frame))  # Decodes all the same.
    (root / "data" / "c" / "origin" / "00000000.jpg").unlink()
    (root / "data" / "c" / "mask" / "00000000.png").unlink()
    (root / "data" / "notes").write_text("")
    assert run(capfd, root, "--min-frames", 5)[0] == 0
    status, report = report_of(capfd, root, "--min-frames", 5, "--check-manifest", "--fix-splits")
    assert status == 1 and report["left_out"] == {"train": ["a", "c"]}
    assert [(each["file"], each["problem"].split(" manifest")[0]) for each in report["problems"]] == [
        ("data/a/origin/00000001.jpg", "has changed since"),
        ("data/c/mask/00000000.png", "is in"),
        ("data/c/origin/00000000.jpg", "is in"),
        ("data/notes", "is not in"),
    ]


def test_a_manifest_after_fixing_holds_the_new_split_files(root, capfd):
    shutil.rmtree(root / "data" / "b" / "mask")
    assert run(capfd, root, "--fix-splits", "--manifest")[0] == 1
    assert "train.txt.bak" not in (root / "manifest.sha256").read_text()
    assert run(capfd, root, "--check-manifest")[0] == 0


@pytest.mark.parametrize(
    ("text", "words"), [("", "names no file"), ("abc  x\n", "manifest.sha256:1"), (None, "cannot")]
)
def test_manifests_at_fault(root, refused, text, words):
    if text is not None:
        (root / "manifest.sha256").write_text(text)
    refused(check.main, [root, "--check-manifest"], words, "--manifest")
    with pytest.raises(InputError):
        checksums.read_manifest(str(root))


# --- other layouts


def of_problems(report):
    return sorted((each["file"], each["problem"]) for each in report["problems"])


def test_ones_own_videos(tmp_path, capfd):
    root = datasets.write_own(tmp_path, {"a": (10, (0, 4)), "b": (10, ()), "few": (2, (1,))})
    datasets.write_own(tmp_path, {"c": (10, ())}, "val")
    (root / "test.txt").write_text("b\n")
    (root / "a" / "frames" / "0003.png").write_bytes(b"")
    datasets.write_png(root / "a" / "masks" / "0099.png", np.zeros(datasets.SIZE, np.uint8))
    datasets.write_png(root / "few" / "masks" / "0000.png", np.full(datasets.SIZE, 9, np.uint8))
    (root / "classes.json").write_text(json.dumps({"names": [f"n{i}" for i in range(8)], "ignored": 200}))
    options = (root, "--layout", "folder")
    status, report = report_of(capfd, *options)
    assert status == 1 and of_problems(report) == [
        ("a/frames/0003.png", "is damaged or no image (no JPEG, PNG or TIFF)"),
        ("a/masks/0099.png", "has no frame frames/0099"),
        ("few", "has 2 frames, fewer than 10: its clips lack references"),
        ("few/masks/0000.png", "holds label 9, but there are 8 classes (labels 0..7, ignored: 200)"),
        ("train.txt", "video 'b' is in test.txt too"),
        ("val.txt", "lists no video with a mask"),
    ]
    assert report["unlisted_videos"] == 0 and report["masks"] == 5
    assert run(capfd, *options, "--manifest", "--fix-splits", "--splits", "train")[0] == 1
    assert (root / "train.txt").read_text() == "b\n"
    (root / "b" / "frames" / "0001.png").write_bytes(b"other")
    report = report_of(capfd, *options, "--check-manifest")[1]
    changed = [each for each in report["problems"] if each["group"] == listing.MANIFEST]
    assert [(each["file"], each["video"]) for each in changed] == [("b/frames/0001.png", "b")]


def test_without_a_class_file_ones_own_classes_are_counted(tmp_path, capfd):
    root = datasets.write_own(tmp_path, {"a": (10, (0, 4))}, classes=5)
    status, report = report_of(capfd, root, "--layout", "folder")
    largest = max(each["index"] for each in report["classes"] if each["pixels"])
    assert status == 0 and [each["name"] for each in report["classes"]] == [f"class {i}" for i in range(largest + 1)]


@pytest.fixture
def cities(tmp_path):
    for city, split in (("aachen", "train"), ("bonn", "val")):
        for first in (0, 30):
            datasets.write_snippet(tmp_path, split, city, 1 + (city == "bonn"), first)
    for path in tmp_path.glob("gtFine/*/*/*.png"):
        mask = np.array(Image.open(path))
        mask[9, :19] = range(19)  # Every class has a pixel.
        datasets.write_png(path, mask)
    return tmp_path


def test_cityscapes(cities, capfd):
    status, report = report_of(capfd, cities, "--layout", "cityscapes")
    assert status == 0 and report["problems"] == [] and report["masks"] == 4
    assert report["splits"] == {split: {"videos": 2, "frames": 60} for split in ("train", "val")}
    assert len(report["classes"]) == 19 and report["classes"][0]["name"] == "road"


def test_cityscapes_with_everything_wrong(cities, capfd):
    frame, mask = datasets.frame_path, datasets.mask_path
    for number in (10, 28):
        frame(cities, "train", "aachen", 1, number).unlink()
    frame(cities, "train", "aachen", 1, 49).unlink()
    frame(cities, "val", "bonn", 2, 31).write_bytes(b"")
    (frame(cities, "train", "aachen", 1, 0).parent / "aachen_leftImg8bit.png").write_bytes(b"")
    mask(cities, "val", "bonn", 2, 19).unlink()
    datasets.write_png(mask(cities, "val", "bonn", 2, 49), np.full(datasets.SIZE, 40, np.uint8))
    (cities / "leftImg8bit_sequence" / "val" / "celle").mkdir()
    status, report = report_of(capfd, cities, "--layout", "cityscapes")
    base = "leftImg8bit_sequence/train/aachen/aachen"
    label = "gtFine/val/bonn/bonn_000002_000049_gtFine_labelTrainIds.png"
    assert status == 1 and [each[0] for each in of_problems(report)] == [
        label,
        "gtFine/val/celle",
        f"{base}_000001_000019_leftImg8bit.png",
        f"{base}_000001_000049_leftImg8bit.png",
        f"{base}_leftImg8bit.png",
        "leftImg8bit_sequence/val/bonn/bonn_000002_000000_leftImg8bit.png",
        "leftImg8bit_sequence/val/bonn/bonn_000002_000031_leftImg8bit.png",
    ]
    assert "neither frame 10 nor frame 28" in str(of_problems(report)) and "holds label 40" in str(of_problems(report))


def test_cityscapes_has_no_split_files(cities, refused):
    refused(check.main, [cities, "--layout", "cityscapes", "--fix-splits"], "--fix-splits", "has no split files")
    refused(check.main, [cities], "has none of train.txt", "--layout")
    refused(check.main, [cities / "gtFine", "--layout", "cityscapes"], "has none of leftImg8bit_sequence/train")


def test_records(root, tmp_path, capfd, refused):
    shutil.rmtree(root / "data" / "c" / "mask")
    (root / "train.txt").write_text("a\nb\n")
    write_mask(root / "data" / "a" / "mask" / "00000002.png", np.full((16, 24), K + 4))
    (root / "data" / "b" / "origin" / "00000003.jpg").write_bytes(b"no image")
    expected = report_of(capfd, root)[1]
    assert run_command(prepare.main, [str(root), str(tmp_path / "out")]) == 0
    made = tmp_path / "out" / "vspw" / "1.0.0"
    status, report = report_of(capfd, made, "--layout", "records")
    assert status == 1 and len(expected["problems"]) == 2
    for key in ("splits", "frames", "masks", "lengths", "sizes", "classes"):
        assert report[key] == expected[key], key
    found = [(each["group"], each["file"].split(":")[1], each["problem"]) for each in report["problems"]]
    assert found == [(each["group"], each["file"], each["problem"]) for each in expected["problems"]]
    for option in ("--manifest", "--check-manifest", "--fix-splits"):
        refused(check.main, [made, "--layout", "records", option], option)


# --- misuse


def test_misuse(root, tmp_path, refused):
    refused(check.main, [tmp_path / "none"], "there is no such folder")
    refused(check.main, [tmp_path], "has none of train.txt, val.txt, test.txt")
    refused(check.main, [root, "--thread", 2], "--thread", "is no option")
    for option in ("--threads", "--min-frames"):
        refused(check.main, [root, option, 0], option, "give at least 1")
    refused(check.main, [root, "--num-classes", 255], "--num-classes", "less than 255")
    refused(check.main, [root, "--json", tmp_path / "none" / "a.json"], "a.json")
    (root / "val.txt.bak").write_text("kept")
    refused(check.main, [root, "--fix-splits"], root / "val.txt.bak", "would be lost")
    (root / "manifest.sha256").write_text("kept")
    refused(check.main, [root, "--manifest"], "is there already")
    (root / "data").rename(root / "videos")
    refused(check.main, [root], "has no data folder", "or give another --layout")
    (root / "videos" / "a" / "frames").mkdir(parents=True)
    shutil.copytree(root / "videos", root, dirs_exist_ok=True)
    refused(check.main, [root], "its <video>/frames are of the layout folder: give --layout folder")


def test_a_file_of_json_beside_the_table(root, tmp_path, capfd):
    status, text = run(capfd, root, "--json", tmp_path / "report.json")
    assert status == 0 and "no problem found" in text
    assert json.loads((tmp_path / "report.json").read_text()) == report_of(capfd, root)[1]
