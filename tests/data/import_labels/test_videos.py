"""Which frames are one video, in which order, and in which split."""

import pytest

from cffm_jax.data.import_labels.interface import Frame
from cffm_jax.data.import_labels.source import Source, is_split
from cffm_jax.data.import_labels.videos import arrange
from cffm_jax.errors import InputError


def placed(files, way="auto", split=""):
    """[(video, name, split)] and what is told."""
    frames = [each if isinstance(each, Frame) else Frame(each, split) for each in files]
    videos = arrange(frames, way)
    return [(each.video, each.name, each.split) for each in videos.placed], "\n".join(videos.notes)


@pytest.mark.parametrize(
    ("files", "videos"),
    [
        (["images/c_10.jpg", "images/c_9.jpg", "images/d-1.jpg"], [("c", "c_9"), ("c", "c_10"), ("d", "d-1")]),
        (["img/x/2.jpg", "img/x/10.jpg", "img/y/1.jpg"], [("x", "2"), ("x", "10"), ("y", "1")]),
        (["train2017/0001.jpg"], [("train", "0001")]),
        (["day/x/f1.jpg", "day/y/f1.jpg"], [("day_x", "f1"), ("day_y", "f1")]),
        (["frame_000001.PNG", "frame_000000.PNG"], [("frame", "frame_000000"), ("frame", "frame_000001")]),
        (["cover.jpg"], [("cover", "cover")]),
        (["c_1_jpg.rf.0af2.jpg", "c_2_png.rf.b4.jpg"], [("c", "c_1"), ("c", "c_2")]),
        (["0123abcd-c_1.jpg", "89ab0123-c_2.jpg"], [("c", "c_1"), ("c", "c_2")]),
        (["20240101-c_1.jpg", "20240102-c_1.jpg"], [("20240101-c", "20240101-c_1"), ("20240102-c", "20240102-c_1")]),
        (["0123abcd-c_1.jpg", "0123abcd-c_2.jpg"], [("0123abcd-c", f"0123abcd-c_{i}") for i in (1, 2)]),
        (["..a/1.jpg", "b /1.jpg"], [("a", "1"), ("b", "1")]),
        (["0123abcd-c_1.jpg", "c_2.jpg"], [("0123abcd-c", "0123abcd-c_1"), ("c", "c_2")]),
    ],
)
def test_folders_or_names(files, videos):
    found, said = placed(files)
    assert found == [(*each, "train") for each in videos]
    assert ("a folder is a video" in said) == ("/x/" in files[0] or files[0] == "..a/1.jpg")


def test_a_format_may_name_the_videos():
    frames = [Frame(f"x/c_{i}.jpg", "val", video="drive") for i in (10, 9)]
    found, said = placed(frames)
    assert found == [("drive", "c_9", "val"), ("drive", "c_10", "val")]
    assert "videos are those of the dataset: drive (2)" in said
    assert {each[0] for each in placed(frames, "folder")[0]} == {"x"}


def test_several_names_in_a_folder_are_asked_for():
    files = ["day/c_1.jpg", "day/d_1.jpg"]
    with pytest.raises(InputError, match=r"day: holds frames of 2 names \(c, d\).*--videos folder .* or stem"):
        placed(files)
    assert placed(files, "folder")[0] == [("day", "c_1", "train"), ("day", "d_1", "train")]
    assert placed(files, "stem")[0] == [("day_c", "c_1", "train"), ("day_d", "d_1", "train")]


def test_folders_that_are_splits_and_those_that_may_be_videos():
    assert all(map(is_split, ("train", "Val", "val2017", "test1999")))
    assert not any(map(is_split, ("test1", "test2", "train12", "value", "2017")))


def test_a_video_in_two_splits_is_cut_and_that_is_told():
    files = [Frame(f"c_{i}.jpg", split) for i, split in enumerate(("val", "train", None, "train"))]
    found, said = placed(files)
    assert "gaps" not in said and "1 videos have gaps" in placed(["c_0.jpg", "c_1.jpg", "c_3.jpg"])[1]
    assert found == [("c_train", "c_1", "train"), ("c_train", "c_3", "train"), ("c_val", "c_0", "val")]
    assert "1 names of videos are in several splits, and become a video in each: c" in said
    assert "1 images are in no split, nor their videos in one: left out" in said


def test_images_that_no_file_lists_go_with_their_video():
    files = [Frame("c_0.jpg", None), Frame("c_1.jpg", "val"), Frame("d_0.jpg", "train")]
    assert placed(files)[0] == [("d", "d_0", "train"), ("c", "c_0", "val"), ("c", "c_1", "val")]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["c_1_jpg.rf.aa.jpg", "c_1_jpg.rf.ab.jpg"], "would be frame c_1 of the video c, as .* would; .*augmentations"),
        (["c_1.jpg", "c_01.jpg"], "would be frame c_01 of the video c"),
        (["c_1.jpg", "images/c_1.png"], "would be frame c_1"),
        (["c_1.jpg", "c_2.webp", "c_3.bmp"], "c_2.webp: is not read as a frame, nor are 1 more; save frames as .jpg"),
        (["a/b/1.jpg", "a_b/1.jpg"], "a_b: is the name of two videos"),
        (["0123abcd-...jpg"], "would be a hidden frame, named '..'"),
        (["0123abcd-.jpg", "0123abce-c_1.jpg"], "0123abcd-.jpg: would be a hidden frame, named ''"),
        (["c/._jpg.rf.aa.jpg"], "would be a hidden frame, named '.'"),
        (["0123abcd-.c_1.jpg"], "named '.c_1'"),
        (["Train.txt/1.jpg"], "would be of the video Train.txt, and the dataset has a file of that name"),
        (["classes.json_1.jpg"], "would be of the video classes.json"),
        (["a\nb/1.jpg"], r"a\\nb/1.jpg: has a control character"),
        (["a/\x1b[2J1.jpg"], "has a control character"),
        (["a\udcff/1.jpg"], "has a control character"),
    ],
)
def test_names_that_collide_or_cannot_be_used_are_refused(files, said):
    with pytest.raises(InputError, match=said):
        placed(files)


@pytest.mark.parametrize(
    ("said", "near", "found"),
    [
        ("videoA/1.jpg", "", None),
        ("./videoA/1.jpg", "labels", None),
        ("1.jpg", "videoA", None),
        ("videoB/1.jpg", "labels", "videoB/1.jpg"),
        ("images/videoB/1.jpg", "", "videoB/1.jpg"),
        ("project/videoB/1.jpg", "", "videoB/1.jpg"),
        ("1.jpg", "labels", "videoB/1.jpg"),
        ("/mnt/all/1.jpg", "", "videoB/1.jpg"),
        ("s3://bucket/1.jpg", "videoA", "videoB/1.jpg"),
        ("C:\\all\\1.jpg", "", "videoB/1.jpg"),
        ("../../upload/1.jpg", "labels", "videoB/1.jpg"),
        ("videoC/3.jpg", "", "images/3.jpg"),
        ("videoC/4.jpg", "", None),
    ],
)
def test_a_path_that_names_a_video_means_no_other(said, near, found, tmp_path):
    for file in ("videoA/2.jpg", "videoB/1.jpg", "images/3.jpg", "images/4.jpg", "videoD/4.jpg"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert Source(tmp_path).find("labels.json", said, near) == found
