"""CamVid and DAVIS come out in the layout folder, and what does not belong to them is refused."""

import numpy as np
import pytest
from PIL import Image

from cffm_jax.data.check import command as check
from cffm_jax.data.import_labels import camvid, command
from cffm_jax.data.layouts.class_file import read_class_file
from cffm_jax.runtime.command_line import run_command

from helpers import raw_videos
from helpers.datasets import write_png
from helpers.exports import mask_values

PARTS = {
    "train": {"0001TP_train": 10, "0006R0_train": 10, "0016E5_train": 10},
    "val": {"0016E5_val": 11},
    "test": {"0001TP_test": 10, "Seq05VD_test": 18},
}


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def said(source, out, capfd):
    """What the command says of an import that works."""

    def run(*more):
        assert run_command(command.main, [str(source), str(out), *more]) == 0
        return capfd.readouterr().out

    return run


@pytest.fixture
def fails(source, out, refused):
    return lambda *told, progress=False, more=(): refused(command.main, [source, out, *more], *told, progress=progress)


def frames_of(root):
    """Split -> video -> number of its masks, each of which is a frame's."""
    found = {}
    for path in root.glob("*.txt"):
        found[path.stem] = {}
        for video in path.read_text().split():
            stems = [sorted(each.stem for each in (root / video / part).iterdir()) for part in ("frames", "masks")]
            assert stems[0] == stems[1]
            found[path.stem][video] = len(stems[1])
    return found


def found_clean(root, capfd):
    assert run_command(check.main, [str(root), "--layout", "folder"]) == 0
    assert "no problem found" in capfd.readouterr().out


@pytest.mark.parametrize("form", ["camvid", "camvid_original"])
def test_camvid(form, source, out, said, capfd):
    getattr(raw_videos, form)(source)
    (source / "README.txt").write_text("of the archive")
    told = said()
    original = form == "camvid_original"
    assert "6 videos (test 2, train 3, val 1), 69 frames, 69 with labels" in told and "0001TP_train (10)" in told
    assert ("32 labels become 11 classes" in told) == original and "left out" not in told
    assert "train.py --config b0_camvid --init.encoder mit_b0.pth --data.root" in told
    assert frames_of(out) == PARTS
    for mask in out.glob("*/masks/*.png"):
        values, palette = mask_values(mask)
        expected = raw_videos.labels(mask.stem)
        np.testing.assert_array_equal(values, np.where(expected == 11, 255, expected))
    stated = read_class_file(out)
    assert stated.names[0] == "sky" and stated.names[-1] == "bicyclist" and len(stated.names) == 11
    assert stated.colours[[0, 3]].tolist() == [[128, 128, 128], [128, 64, 128]]
    np.testing.assert_array_equal(palette[255], [0, 0, 0])
    found_clean(out, capfd)


def test_every_label_of_camvid_is_of_a_class():
    """32 names and colours, no two alike; each class has the place that its name has."""
    table, united = camvid._TABLE, camvid._UNITED
    assert len({*map(tuple, table.colours.tolist())}) == len(set(table.names)) == 32
    assert united[table.names.index("Void")] == 255
    assert [*camvid._CLASSES].index("pavement") == united[table.names.index("ParkingBlock")] == 4
    assert sorted({*united.tolist()}) == [*range(11), 255]


@pytest.mark.parametrize("year", [2016, 2017])
def test_davis(year, source, out, said, capfd):
    raw_videos.davis(source, year, length=10)
    told = said()
    assert "6 videos (train 4, val 2), 60 frames, 60 with labels" in told
    assert "soccerball is left out: its object, a ball, is of no class" in told
    assert "train.py --config b0_davis --init.encoder mit_b0.pth --data.root" in told
    new = "2 videos are left out, as DAVIS 2016 does not have them: boxing-fisheye, bike-packing"
    assert (new in told) == (year == 2017)
    assert frames_of(out) == {
        split: {video: 10 for video in videos if video != "soccerball"} for split, videos in raw_videos.DAVIS.items()
    }
    assert read_class_file(out).names == ("background", "person", "animal", "vehicle", "rider")
    for video, label in {"breakdance": 1, "hike": 1, "bear": 2, "dog": 2, "bus": 3, "bmx-bumps": 4}.items():
        for i in range(10):
            values, _ = mask_values(out / video / "masks" / f"{i:05}.png")
            np.testing.assert_array_equal(values, np.where(raw_videos.inside(i), label, 0))
    found_clean(out, capfd)


def test_the_list_of_2016_names_what_is_read_of_2017(source, out, said):
    raw_videos.davis(source, 2017, length=2)
    (source / "ImageSets" / "2016").mkdir()
    for split, videos in raw_videos.DAVIS.items():
        (source / "ImageSets" / "2016" / f"{split}.txt").write_text("\n".join(videos))
    assert "DAVIS 2016 does not have" not in said() and len(frames_of(out)["train"]) == 4


# --- faults


def test_masks_that_are_missing(source, fails):
    raw_videos.camvid(source)
    masks = source / "valannot"
    for mask in masks.iterdir():
        mask.unlink()
    masks.rmdir()
    fails("0016E5_07959.png: is one of 11 images without a mask", masks / "0016E5_07959.png")
    fails("--colours: has no use: CamVid's masks say", more=("--colours", "x.txt"))


def test_original_masks_that_are_missing(source, fails):
    raw_videos.camvid_original(source)
    (source / "LabeledApproved_full").rename(source / "labels")
    fails("0001TP_008250.png: is one of 69 images without a mask", "LabeledApproved_full/0001TP_008250_L.png")
    (source / "labels").rename(source / "LabeledApproved_full")
    (source / "701_StillsRaw_full" / "0006R0_f00930.png").unlink()
    fails("0006R0_f00930_L.png: is one of 1 masks without an image")


def test_values_of_no_class(source, fails):
    raw_videos.camvid(source)
    name = "0016E5_07959.png"
    wrong = raw_videos.labels(name[:-4]).copy()
    wrong[0, :3] = 12
    write_png(source / "valannot" / name, wrong)
    fails(source / "valannot" / name, "has 3 pixels of values above 11 (12)", progress=True)
    write_png(source / "valannot" / name, wrong[:32] % 12)
    fails("is 96x32 but its frame is 96x64", progress=True)


def test_colours_of_no_class(source, out, fails, said):
    """But in the mask that is known for them."""
    raw_videos.camvid_original(source)
    mask = source / "LabeledApproved_full" / "Seq05VD_f00030_L.png"
    good = mask.read_bytes()
    blended = np.asarray(Image.open(mask)).copy()
    blended[0, :5] = (128, 128, 77)
    write_png(mask, blended)
    fails(mask, "has 5 pixels of 1 colours that the table lacks", "the nearest is", progress=True)
    mask.write_bytes(good)
    write_png(mask.with_name("Seq05VD_f02610_L.png"), blended)
    write_png(source / "701_StillsRaw_full" / "Seq05VD_f02610.png", blended)
    assert "pixels of Seq05VD_f02610_L.png that have the colour of no class are ignored" in said()
    values, _ = mask_values(out / "Seq05VD_test" / "masks" / "Seq05VD_f02610.png")
    assert (values[0, :5] == 255).all()


def test_frames_of_no_drive(source, fails):
    raw_videos.camvid_original(source)
    for folder, end in (("701_StillsRaw_full", ""), ("LabeledApproved_full", "_L")):
        path = source / folder / f"0006R0_f00930{end}.png"
        path.rename(path.with_name(f"0007R0_f00930{end}.png"))
    fails("0007R0_f00930.png: is of the drive 0007R0, and CamVid's are 0001TP, 0006R0, 0016E5, Seq05VD")
    for folder, end in (("701_StillsRaw_full", ""), ("LabeledApproved_full", "_L")):
        path = source / folder / f"0007R0_f00930{end}.png"
        path.rename(path.with_name(f"cover{end}.png"))
    fails("cover.png: is named as no frame of CamVid is")


def test_folders_of_davis_that_are_missing(source, fails):
    raw_videos.davis(source, length=2)
    (source / "Annotations").rename(source / "elsewhere")
    fails("bear/00000.jpg: is one of 12 frames without a mask", source / "Annotations" / "480p")
    (source / "elsewhere").rename(source / "Annotations")
    (source / "JPEGImages" / "480p" / "dog").rename(source / "JPEGImages" / "480p" / "hound")
    fails("JPEGImages/480p: lacks 1 of the videos that are listed: dog")
    (source / "ImageSets").rename(source / "lists")
    fails("has neither ImageSets/480p/train.txt nor ImageSets/2017/train.txt")


def test_masks_that_are_not_of_davis(source, fails):
    raw_videos.davis(source, length=3)
    mask = source / "Annotations" / "480p" / "dog" / "00001.png"
    good = mask.read_bytes()
    write_png(mask, raw_videos.inside(1).astype(np.uint8) * 100)
    fails(mask, "has 100 as its largest value", progress=True)
    write_png(mask, raw_videos.inside(1).astype(np.uint8)[:30] * 255)
    fails("is 96x30 but its frame is 96x64", progress=True)
    mask.write_bytes(good)
    mask = source / "Annotations" / "480p" / "bear" / "00002.png"
    mask.write_bytes(mask.read_bytes()[:-40])
    fails(mask, "cannot be read (truncated or damaged)", progress=True)
