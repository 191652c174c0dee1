"""Cityscapes: snippets from file names, references by number, label ids, and every fault as one line."""

import shutil

import numpy as np
import pytest

from cffm_jax.config import DataConfig
from cffm_jax.data import class_names, decode
from cffm_jax.data.clips import numbered_references
from cffm_jax.data.layouts import cityscapes, classes
from cffm_jax.data.layouts import read as layouts

from helpers.datasets import fails, frame, frame_path, mask_path, write_png, write_snippet

OFFSETS = (9, 6, 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes")
    write_snippet(root, "train", "aachen", 0, kinds=("labelTrainIds", "labelIds"))
    write_snippet(root, "train", "aachen", 1, kinds=("labelIds",))
    write_snippet(root, "train", "ulm", 0, first=275)
    write_snippet(root, "val", "jena", 0)
    return root


@pytest.fixture
def root(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


def read(root, split="train", masks=True):
    return layouts.read_split(str(root), split, masks, layout="cityscapes")


def checked(root, split="train"):
    return layouts.read_videos(DataConfig(root=str(root), layout="cityscapes"), split)


# --- snippets


def test_snippets_are_found_by_their_masks(source):
    videos = read(source)
    assert [video.name for video in videos] == ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000294"]
    for video in videos:
        assert len(video.frames) == len(video.masks) == 30 and video.targets == (19,) and video.sparse
        assert list(video.numbers) == list(range(video.numbers[0], video.numbers[0] + 30))
        assert video.frames[19].endswith(f"{video.name}_leftImg8bit.png") and video.name in video.masks[19]
        assert video.references(19, OFFSETS) == (10, 13, 16)
    kinds = [video.masks[19].rsplit("_", 1)[1] for video in videos]
    assert kinds == ["labelTrainIds.png", "labelIds.png", "labelTrainIds.png"], "train ids before label ids"
    assert checked(source) == videos


def test_snippets_of_one_sequence_may_follow_on_each_other(root):
    write_snippet(root, "train", "ulm", 0, first=305)
    write_snippet(root, "train", "ulm", 0, first=500)
    found = [(video.name, video.numbers[0], video.numbers[-1]) for video in read(root)[2:]]
    names = [f"ulm_000000_{number:06}" for number in (294, 324, 519)]
    assert found == list(zip(names, (275, 305, 500), (304, 334, 529)))


def test_without_masks_the_frames_make_the_same_snippets(root):
    shutil.rmtree(root / "gtFine")
    write_snippet(root, "train", "ulm", 0, first=305)
    shutil.rmtree(root / "gtFine")
    videos = read(root, masks=False)
    names = [f"aachen_00000{i}_000019" for i in (0, 1)] + [f"ulm_000000_{i:06}" for i in (294, 324)]
    assert [video.name for video in videos] == names
    assert all(video.masks == () and len(video.frames) == 30 and not video.sparse for video in videos)
    assert videos[0].targets == tuple(range(30))


def test_a_frame_of_a_snippet_that_nobody_reads_may_be_missing(root):
    for number in (*range(10), 11, 12, *range(20, 30)):
        frame_path(root, "train", "aachen", 0, number).unlink()
    video = checked(root)[0]
    assert video.numbers == (10, 13, 14, 15, 16, 17, 18, 19) and video.targets == (7,)
    assert [video.numbers[i] for i in video.references(7, OFFSETS)] == [10, 13, 16]


# --- references


@pytest.mark.parametrize(
    ("missing", "backwards", "expected"),
    [
        ((), False, (10, 13, 16)),
        ((10,), False, (28, 13, 16)),
        ((13, 16), False, (10, 25, 22)),
        ((10, 13, 16), False, (28, 25, 22)),
        ((10, 28), False, (None, 13, 16)),
        ((28, 25, 22), False, (10, 13, 16)),
        ((), True, (28, 25, 22)),
        ((25,), True, (28, 13, 22)),
    ],
)
def test_a_missing_past_frame_is_replaced_by_the_future_one(missing, backwards, expected):
    for first in (0, 275):
        numbers = [first + n for n in range(30) if n not in missing]
        found = numbered_references(numbers.index(first + 19), numbers, OFFSETS, backwards)
        assert tuple(None if i is None else numbers[i] - first for i in found) == expected
    assert numbered_references(0, (5,), ()) == ()


def test_training_clips_have_the_labelled_target(root):
    frame_path(root, "train", "aachen", 0, 13).unlink()
    video = read(root)[0]
    rng = np.random.default_rng(0)
    clips = {tuple(video.numbers[i] for i in video.training_clip(rng, OFFSETS, 0.0)) for _ in range(20)}
    assert clips == {(10, 25, 16, 19)}
    clips = {tuple(video.numbers[i] for i in video.training_clip(rng, OFFSETS, 1.0)) for _ in range(20)}
    assert clips == {(28, 25, 22, 19)}
    assert video.training_clip(rng, (), 0.0) == video.targets


# --- labels


def test_label_ids_become_train_ids(tmp_path):
    path = str(tmp_path / "mask.png")
    write_png(tmp_path / "mask.png", np.arange(34, dtype=np.uint8).reshape(2, 17))
    labels = decode.read_mask(path, 19, cityscapes.LABEL_IDS).ravel()
    wanted = {
        "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
        "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26,
        "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
    }  # fmt: skip
    assert {class_names.CITYSCAPES[label]: value for value, label in enumerate(labels) if label != 255} == wanted
    assert (labels == 255).sum() == 34 - 19


def test_train_ids_stay_what_they_are(tmp_path):
    values = np.array([[*range(19), 255]], np.uint8)
    write_png(tmp_path / "mask.png", values)
    np.testing.assert_array_equal(decode.read_mask(str(tmp_path / "mask.png"), 19, cityscapes.TRAIN_IDS), values)


@pytest.mark.parametrize(("coding", "value"), [(cityscapes.TRAIN_IDS, 19), (cityscapes.LABEL_IDS, 34)])
def test_unknown_ids_are_refused(tmp_path, coding, value):
    write_png(tmp_path / "mask.png", np.array([[7, value, 255]], np.uint8))
    message = fails(tmp_path / "mask.png", decode.read_mask, str(tmp_path / "mask.png"), 19, coding)
    assert f"label {value} " in message


def test_names_and_colours(tmp_path):
    names, colours = classes.read_classes(tmp_path, 19, "cityscapes")
    assert names == class_names.CITYSCAPES and len(set(names)) == 19
    assert colours.shape == (256, 3) and not colours[19:].any()
    assert colours[0].tolist() == [128, 64, 128] and colours[13].tolist() == [0, 0, 142]
    assert len(np.unique(colours[:19], axis=0)) == 19
    assert classes.class_names(tmp_path, 19) == tuple(f"class {i}" for i in range(19)), "another layout"


# --- faults


def test_a_missing_package_is_named(root):
    (root / "leftImg8bit_sequence").rename(root / "leftImg8bit")
    message = fails(root, read, root)
    assert "leftImg8bit alone" in message and "leftImg8bit_sequence_trainvaltest.zip" in message
    shutil.rmtree(root / "leftImg8bit")
    assert "leftImg8bit_sequence_trainvaltest.zip" in fails(root, read, root)
    write_snippet(root, "train", "ulm", 0)
    shutil.rmtree(root / "gtFine")
    assert "gtFine_trainvaltest.zip" in fails(root, read, root)
    fails(root / "nowhere", read, root / "nowhere")


def test_faults_of_splits_and_cities(root):
    fails(root / "leftImg8bit_sequence" / "valid", read, root, "valid")
    (root / "leftImg8bit_sequence" / "valid").mkdir()
    assert "no city" in fails(root / "leftImg8bit_sequence" / "valid", read, root, "valid")
    assert "not public" in fails(root / "gtFine" / "test", read, root, "test")
    (root / "gtFine" / "train" / "ulm").rename(root / "gtFine" / "train" / "bonn")
    fails(root / "leftImg8bit_sequence" / "train" / "bonn", read, root)
    shutil.rmtree(root / "gtFine" / "train" / "bonn")
    fails(root / "gtFine" / "train" / "ulm", read, root)
    (root / "gtFine" / "train" / "ulm").mkdir()
    assert "labelIds" in fails(root / "gtFine" / "train" / "ulm", read, root)
    shutil.rmtree(root / "leftImg8bit_sequence" / "train" / "ulm")
    (root / "leftImg8bit_sequence" / "train" / "ulm").mkdir()
    assert "no frame" in fails(root / "leftImg8bit_sequence" / "train" / "ulm", read, root)


def test_the_labelled_frame_must_be_there(root):
    path = frame_path(root, "train", "ulm", 0, 294)
    path.unlink()
    assert str(mask_path(root, "train", "ulm", 0, 294)) in fails(path, read, root)


def test_a_snippet_without_a_mask_is_a_fault(root):
    mask_path(root, "train", "aachen", 1, 19, "labelIds").unlink()
    message = fails(frame_path(root, "train", "aachen", 1, 0), read, root)
    assert "gtFine/train/aachen/aachen_000001_000019_gtFine" in message


def test_a_gap_where_both_references_are_missing(root):
    for number in (275 + 19 - 6, 275 + 19 + 6):
        frame_path(root, "train", "ulm", 0, number).unlink()
    assert len(read(root)) == 3
    message = fails(frame_path(root, "train", "ulm", 0, 294), checked, root)
    assert "288" in message and "300" in message and "t-6" in message


def test_a_snippet_that_is_too_short(root):
    for number in (*range(11), *range(20, 30)):
        frame_path(root, "val", "jena", 0, number).unlink()
    assert "t-9" in fails(frame_path(root, "val", "jena", 0, 19), checked, root, "val")


def test_unknown_file_names_are_refused(root):
    path = frame_path(root, "train", "ulm", 0, 275)
    odd = path.with_name("ulm_275_leftImg8bit.png")
    path.rename(odd)
    fails(odd, read, root)
    odd.rename(path)
    mask = mask_path(root, "train", "ulm", 0, 294)
    other = mask.with_name("aachen_000000_000294_gtFine_labelTrainIds.png")
    mask.rename(other)
    fails(other, read, root)


def test_sizes_that_differ(root):
    mask = mask_path(root, "train", "ulm", 0, 294)
    write_png(mask, np.zeros((64, 120), np.uint8))
    video = read(root)[2]
    assert "120x64" in fails(mask, decode.read_pair, video.frames[19], video.masks[19], 19, video.coding)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_truncated_png_frame_is_refused(tmp_path, share):
    path = tmp_path / "a.png"
    write_png(path, frame(0))
    data = path.read_bytes()
    for content in (data[: int(len(data) * share)], data[: int(len(data) * share)].ljust(len(data), b"\0")):
        path.write_bytes(content)
        fails(path, decode.read_frame, str(path))
