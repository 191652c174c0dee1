"""Datasets as records: the same videos, bytes and batches as from the folder, and every fault as one line."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cffm_jax.config import DataConfig
from cffm_jax.data import decode, image_files, show
from cffm_jax.data.layouts import classes, records
from cffm_jax.data.layouts import read as layouts
from cffm_jax.data.pipeline import training_batches
from cffm_jax.data.prepare import builders
from cffm_jax.data.prepare import command as prepare
from cffm_jax.runtime import checksums
from cffm_jax.runtime.command_line import run_command
from cffm_jax.settings import load_config
from cffm_jax.training import setup
from cffm_jax.training.sharding import make_mesh

from helpers import runs
from helpers.datasets import SIZE, assert_same_batches, fails, write_own, write_snippet

NAMES = {"vspw": "vspw", "cityscapes": "cityscapes_video", "folder": "video_folder"}
CLASSES = {"vspw": runs.K, "cityscapes": 19, "folder": 8}

CLIPS = 3


@pytest.fixture(scope="module")
def folders(data, tmp_path_factory):
    """Layout -> a dataset as a folder; VSPW's has splits with masks, without any and with some."""
    made = tmp_path_factory.mktemp("folders")
    vspw = Path(shutil.copytree(data, made / "vspw"))
    for video in ("val_0000", "val_0001"):
        shutil.copytree(vspw / "data" / video, vspw / "data" / f"{video}_bare")
        shutil.rmtree(vspw / "data" / f"{video}_bare" / "mask")
    assert not (vspw / "test.txt").read_text()
    (vspw / "test.txt").write_text("val_0000_bare\nval_0001_bare\n")
    write_snippet(made / "cityscapes", "train", "aachen", 0, kinds=("labelTrainIds", "labelIds"))
    write_snippet(made / "cityscapes", "train", "aachen", 1, kinds=("labelIds",))
    # Snippets that share frames, so that a frame that one of them labels has no mask in the other.
    write_snippet(made / "cityscapes", "train", "ulm", 0, first=0)
    write_snippet(made / "cityscapes", "train", "ulm", 0, first=5)
    write_own(made / "folder", {"b": (12, {3, 11}), "none": (2, set()), "a ü": (4, {0, 1, 2, 3})})
    tree = {"names": list("abcdefgh"), "colours": [[i, 0, 9] for i in range(8)], "ignored": 7}
    (made / "folder" / "classes.json").write_text(json.dumps(tree))
    return {layout: str(made / layout) for layout in NAMES}


@pytest.fixture(scope="module")
def prepared(folders, tmp_path_factory):
    """Layout -> the same dataset as records: VSPW's by a process of its own, the others by the command's function."""
    output = tmp_path_factory.mktemp("prepared")
    status, out, err = runs.finished("-W", "error", "-m", "cffm_jax.data.prepare", folders["vspw"], output)
    assert status == 0, err
    assert "Traceback" not in err and "B/s" in err and "Downloading" not in out + err
    root = output / "vspw" / "1.0.0"
    last = f"python train.py --config configs/b1_vspw.py --data.layout records --data.root {root} --init.encoder FILE"
    lines = out.splitlines()
    assert len(lines) == 5 and lines[0].startswith("train: 4 videos, 72 frames, 72 masks") and lines[4].strip() == last
    assert "without masks" in lines[2] and "144 frames" in lines[3]
    for layout in ("cityscapes", "folder"):
        assert run(folders[layout], output, "--layout", layout) == 0
    assert sorted(path.name for path in output.iterdir()) == sorted(NAMES.values()), "nothing is left behind"
    return {layout: str(output / name / "1.0.0") for layout, name in NAMES.items()}


def run(*argv):
    return run_command(prepare.main, [str(part) for part in argv])


@pytest.fixture
def copy(prepared, tmp_path):
    """Records of one's own videos to spoil."""
    return Path(shutil.copytree(prepared["folder"], tmp_path / "copy"))


def read(root, split="train", masks=True):
    return layouts.read_split(str(root), split, masks, "records")


def assert_same_videos(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        for field in ("name", "coding", "numbers", "targets", "sparse"):
            assert getattr(ours, field) == getattr(theirs, field), field
        assert len(ours.frames) == len(theirs.frames) and len(ours.masks) == len(theirs.masks)
        names = [*ours.frames, *filter(None, ours.masks)], [*theirs.frames, *filter(None, theirs.masks)]
        assert records.read_all(names[0]) == [Path(name).read_bytes() for name in names[1]]
        assert [os.path.basename(name) for name in names[0]] == [os.path.basename(name) for name in names[1]]


# --- what is read


@pytest.mark.parametrize(
    ("layout", "split", "masks"),
    [
        *itertools.product(["vspw"], ["train", "val"], [True, False]),
        ("vspw", "test", False),
        *itertools.product(["cityscapes", "folder"], ["train"], [True, False]),
    ],
)
def test_the_videos_are_those_of_the_folder(folders, prepared, layout, split, masks):
    expected = layouts.read_split(folders[layout], split, masks, layout)
    assert_same_videos(read(prepared[layout], split, masks), expected)


def test_training_is_set_up_with_records(prepared):
    data = DataConfig(layout="records", root=prepared["folder"], verify=True)
    config = dataclasses.replace(load_config(runs.CONFIG), data=data)
    setup.check(config, make_mesh(1))
    model = dataclasses.replace(config.model, num_classes=9)
    fails("classes.json", setup.check, dataclasses.replace(config, model=model), make_mesh(1))


def take(root, layout, count, source, **kwargs):
    """The first batches of a dataset whose layout was ``source``."""
    crop = (64, 64)
    data = DataConfig(root=root, layout=layout, frame_size=SIZE, crop=crop, prefetch=2, **kwargs.pop("data", {}))
    videos = layouts.read_videos(data, "train")
    with training_batches(videos, data, num_classes=CLASSES[source], batch_size=2, seed=3, **kwargs) as batches:
        return list(itertools.islice(batches, count))


@pytest.mark.parametrize("layout", NAMES)
def test_batches_are_those_of_the_folder_to_the_bit(folders, prepared, layout):
    expected = take(folders[layout], layout, 4, layout)
    assert_same_batches(take(prepared[layout], "records", 4, layout, data={"verify": True}), expected)
    assert_same_batches(take(prepared[layout], "records", 2, layout, start_step=2), expected[2:])


def test_frames_of_other_channels_are_the_same(tmp_path):
    """An array a frame, in records and in loader processes."""
    root = write_own(tmp_path / "own", {"a": (12, {11})})
    for path in sorted((root / "a" / "frames").iterdir()):
        np.save(path.with_suffix(".npy"), np.random.default_rng([*path.name.encode()]).random((*SIZE, 2), np.float32))
        path.unlink()
    assert run(root, tmp_path / "out", "--layout", "folder") == 0
    data = {"channels": ("nir", "depth"), "mean": (0.5, 0.5), "std": (0.3, 0.2)}
    expected = take(root, "folder", 2, "folder", data=data)
    assert expected[0]["frames"].dtype == np.float32 and expected[0]["frames"].shape[-1] == 2
    made = tmp_path / "out" / "video_folder" / "1.0.0"
    assert_same_batches(take(made, "records", 2, "folder", data=data | {"workers": 1}), expected)


@pytest.mark.long
def test_batches_of_loader_processes_are_the_same(folders, prepared):
    expected = take(folders["vspw"], "vspw", 4, "vspw")
    assert_same_batches(take(prepared["vspw"], "records", 3, "vspw", data={"workers": 2}, start_step=1), expected[1:])


def test_every_record_of_a_clip_is_read_once_in_one_call(prepared, monkeypatch):
    video = read(prepared["vspw"])[0]
    source = records._source(prepared["vspw"], "train")
    asked = []

    class Counting:
        dataset_info = source.dataset_info

        def __getitems__(self, numbers):
            asked.append(numbers)
            return source.__getitems__(numbers)

    monkeypatch.setattr(records, "_source", lambda *_: Counting())
    names = [video.frames[2], video.masks[2], video.frames[5], video.masks[5], video.frames[2]]
    found = records.read_all(names)
    assert asked == [[2, 5]] and found[0] == found[4] and len({*found}) == 4


def test_records_and_files_are_read_together(folders, prepared):
    ours, theirs = read(prepared["vspw"])[0], layouts.read_split(folders["vspw"], "train")[0]
    names = [theirs.frames[1], ours.frames[0], theirs.masks[0], ours.masks[1]]
    expected = [theirs.frames[1], theirs.frames[0], theirs.masks[0], theirs.masks[1]]
    assert records.read_all(names) == [Path(name).read_bytes() for name in expected]


def test_a_path_that_looks_like_a_record_is_a_path(tmp_path):
    path = tmp_path / "train[0]:a.jpg"
    path.write_bytes(b"file")
    assert records.read_all([str(path)]) == [b"file"]


@pytest.mark.parametrize("layout", NAMES)
def test_classes_are_those_of_the_folder(folders, prepared, layout):
    expected = classes.read_classes(folders[layout], CLASSES[layout], layout)
    found = classes.read_classes(prepared[layout], CLASSES[layout], "records")
    assert found.names == expected.names and "class 0" not in found.names
    np.testing.assert_array_equal(found.colours, expected.colours)


def test_the_sheets_are_those_of_the_folder(folders, prepared, tmp_path, capfd):
    for name, root, layout in (("a", folders["vspw"], "vspw"), ("b", prepared["vspw"], "records")):
        argv = ["--config", runs.CONFIG, "--data.root", root, "--data.layout", layout, "--clips", str(CLIPS)]
        assert run_command(show.main, [*argv, "--output", str(tmp_path / name), "--data.crop", "64", "64"]) == 0
    for name in ("clips.png", "video.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    capfd.readouterr()


def test_anybody_reads_them_with_tfds(folders, prepared):
    video = layouts.read_split(folders["folder"], "train", True, "folder")[0]
    builder = tfds.builder_from_directory(prepared["folder"])
    assert builder.info.name == "video_folder" and builder.info.splits["train"].num_examples == 18
    source = builder.as_data_source("train")
    np.testing.assert_array_equal(source[3]["frame"], decode.read_frame(video.frames[3]))
    np.testing.assert_array_equal(source[3]["masks"][0][..., 0], np.asarray(Image.open(video.masks[3])))
    assert len(source[2]["masks"]) == 0 and source[2]["frame_name"] == b"b/frames/0002.png"
    data_dir = Path(prepared["folder"]).parents[1]
    assert len(tfds.data_source("video_folder", data_dir=str(data_dir), split="train")) == 18


# --- preparing


def test_nothing_is_left_in_the_temporary_folder(folders, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert run(folders["folder"], tmp_path / "out", "--layout", "folder") == 0
    assert list((tmp_path / "temporary").iterdir()) == []


def test_files_are_cut_between_frames(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(builders, "SHARD_BYTES", 30_000)
    assert run(folders["folder"], tmp_path, "--layout", "folder", "--threads", 3) == 0
    root = tmp_path / "video_folder" / "1.0.0"
    shards = tfds.builder_from_directory(root).info.splits["train"].shard_lengths
    assert len(shards) > 3 and sum(shards) == 18
    assert_same_videos(read(root), layouts.read_split(folders["folder"], "train", True, "folder"))


def test_empty_splits_are_not_written_unless_named(data, tmp_path, refused):
    refused(prepare.main, [data, tmp_path / "out", "--splits", "test"], "test.txt: lists no video")
    assert run(data, tmp_path / "out") == 0
    assert set(records.read_index(str(tmp_path / "out" / "vspw" / "1.0.0"))["splits"]) == {"train", "val"}


def test_a_shard_is_not_kept_in_memory(folders):
    planned = builders.plan(folders["folder"], "train", "folder", False)
    sizes = []
    layout, root = layouts.layout_of("folder"), folders["folder"]
    made = builders.Frames(layout, root, {}, written=sizes.append, data_dir=root, threads=2)
    read = []
    for i, example in made.examples(planned.frames):
        assert example["frame"] and len(sizes) == i and not any(read)
        read.append(example)
    assert len(read) == 18 and not any(read) and sum(sizes) == planned.size


def test_what_is_there_is_replaced_only_when_told(folders, tmp_path, refused, capfd):
    other = write_own(tmp_path / "other", {"z": (1, {0})})
    argv = ["--layout", "folder"]
    assert run(folders["folder"], tmp_path / "out", *argv) == 0
    root = tmp_path / "out" / "video_folder" / "1.0.0"
    refused(prepare.main, [other, tmp_path / "out", *argv], root, "--overwrite")
    assert run(other, tmp_path / "out", *argv, "--overwrite") == 0
    assert [video.name for video in read(root)] == ["z"]
    # As a try leaves it that is killed just before its end.
    shutil.copytree(root, root.with_name(".1.0.0.preparing") / "video_folder" / "1.0.0")
    assert run(folders["folder"], tmp_path / "out", *argv, "--overwrite") == 0
    assert [video.name for video in read(root)] == ["b", "a ü"]
    assert [path.name for path in root.parent.iterdir()] == ["1.0.0"]
    (root / records.INDEX).unlink()
    refused(prepare.main, [other, tmp_path / "out", *argv, "--overwrite"], root, "did not write it")


def test_a_fault_in_the_middle_leaves_nothing(tmp_path, refused, monkeypatch):
    root = write_own(tmp_path / "own", {"a": (6, {0})})
    monkeypatch.setattr(image_files, "MAX_BYTES", 50_000)
    (root / "a" / "frames" / "0004.png").write_bytes(bytes(50_001))
    argv = [root, tmp_path / "out", "--layout", "folder"]
    said = root / "a" / "frames" / "0004.png", "50001 bytes"
    refused(prepare.main, argv, *said, progress=True)
    (root / "a" / "frames" / "0004.png").unlink()
    assert run(*argv) == 0
    assert len(read(tmp_path / "out" / "video_folder" / "1.0.0")[0].frames) == 5


def test_killed_halfway_it_looks_unfinished_and_the_next_try_works(folders, tmp_path):
    root = tmp_path / "own"
    frames = root / "v" / "frames"
    shutil.copytree(Path(folders["folder"]) / "b", root / "v")
    (root / "train.txt").write_text("v\n")
    os.mkfifo(frames / "0099.png")  # It waits for this file.
    process = runs.started("-m", "cffm_jax.data.prepare", root, tmp_path / "out", "--layout", "folder")
    output = tmp_path / "out" / "video_folder"
    try:
        while not list(output.rglob("*.array_record*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (output / "1.0.0").exists()
    fails(records.INDEX, read, next(path.parent for path in output.rglob("*.array_record*")))
    (frames / "0099.png").unlink()
    assert run(root, tmp_path / "out", "--layout", "folder") == 0
    assert [path.name for path in output.iterdir()] == ["1.0.0"] and len(read(output / "1.0.0")[0].frames) == 12


def test_files_are_compared_with_the_manifest(tmp_path, refused, capfd):
    root = write_own(tmp_path / "own", {"a": (2, {0})})
    argv = [root, tmp_path / "out", "--layout", "folder", "--verify"]
    refused(prepare.main, argv, "manifest.sha256: cannot be read")
    checksums.write_manifest(str(root), checksums.measure(str(root), {}, 1, progress=False))
    path = root / "a" / "masks" / "0000.png"
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + b"x")
    (tmp_path / "out" / "video_folder").mkdir(parents=True)
    refused(prepare.main, argv, path, "other sha256", progress=True)
    path.write_bytes(kept)
    assert run(*argv) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--threads", "0"], ["--threads", "at least 1"]),
        (["--splits", "train[:1]"], ["--splits", "train[:1]"]),
        (["--splits", "all"], ["--splits", "all"]),
        (["--splits", "val"], ["val.txt: cannot be read"]),
        (["--layout", "cityscapes"], ["has none of leftImg8bit_sequence", "--layout"]),
        (["--layout", "records"], ["command line", "layout"]),
    ],
)
def test_options_at_fault(folders, tmp_path, refused, more, said):
    refused(prepare.main, [folders["folder"], tmp_path / "out", "--layout", "folder", *more], *said)


def test_places_at_fault(folders, tmp_path, refused, monkeypatch):
    argv = ["--layout", "folder"]
    refused(prepare.main, [tmp_path / "gone", tmp_path / "out", *argv], tmp_path / "gone", "no such folder")
    (tmp_path / "file").write_text("")
    refused(prepare.main, [folders["folder"], tmp_path / "file", *argv], tmp_path / "file", "cannot be written")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (tmp_path / "out" / "video_folder").mkdir(parents=True)
    refused(prepare.main, [folders["folder"], tmp_path / "out", *argv], "free", "another disk")


def test_a_disk_that_is_full_leaves_nothing(folders, tmp_path):
    """Its stand-in is a limit of the process on the size of its files."""
    lines = [
        "import resource, signal, sys",
        "from cffm_jax.data.prepare.command import main",
        "from cffm_jax.runtime.command_line import run_command",
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))",
        "sys.exit(run_command(main, sys.argv[1:]))",
    ]
    status, _, err = runs.finished("-c", "\n".join(lines), folders["vspw"], tmp_path / "out")
    runs.Refusal.check(status, err.replace("\r", "\n"), "cannot be written", "File too large", progress=True)
    assert not (tmp_path / "out").exists()


def test_masks_may_be_missing_only_where_that_is_said(folders, tmp_path, refused):
    root = Path(shutil.copytree(folders["vspw"], tmp_path / "vspw"))
    (root / "data" / "train_0001" / "mask" / "00000004.png").unlink()
    refused(prepare.main, [root, tmp_path / "out"], root / "data" / "train_0001" / "origin" / "00000004.jpg", "no mask")


# --- faults of what was prepared


def flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_flipped_bits_of_records_are_noticed(copy):
    """Anywhere: an error, or the bytes are what they were (filling between blocks and after the last record)."""
    (path,) = copy.glob("*.array_record-*")
    kept = path.read_bytes()
    video = read(copy)[0]
    names = [*video.frames, *filter(None, video.masks)]
    expected = records.read_all(names)
    size, noticed = len(kept), 0
    rng = np.random.default_rng(0)
    places = [*range(0, 64, 4), *range(size - 65536, size - 65536 + 200, 5), *rng.integers(0, size, 80)]
    for place in map(int, places):
        flip(path, place, int(rng.integers(8)))
        records._opened.cache_clear()
        try:
            assert records.read_all(names) == expected
        except image_files.UnreadableFile as error:
            noticed += 1
            assert str(error).startswith(f"{path}: record ") and "frames/" in str(error) and "\n" not in str(error)
        path.write_bytes(kept)
    assert noticed > 40


def test_a_damaged_record_is_left_out_like_a_file(prepared, tmp_path, capfd):
    root = Path(shutil.copytree(prepared["vspw"], tmp_path / "copy"))
    (path,) = root.glob("*-train.array_record-*")
    frame, size = read(root)[1].frames[4], path.stat().st_size
    for place in range(size // 5, size, 200):  # Somewhere it is, compressed.
        records._opened.cache_clear()
        flip(path, place)
        try:
            records.read_all([frame])
        except image_files.UnreadableFile:
            break
        flip(path, place)
    with pytest.raises(
        image_files.UnreadableFile, match=r"record 22 \(data/train_0001/origin/00000004.jpg\) cannot be read"
    ):
        take(str(root), "records", 40, "vspw")
    batches = take(str(root), "records", 4, "vspw", data={"max_unreadable": 50})
    assert len(batches) == 4 and "record 22" in capfd.readouterr().err


def edit(index, **changes):
    tree = json.loads(index.read_text()) | changes
    index.write_text(json.dumps(tree | {"sha256": records.digest(tree)}))


def test_faults_of_the_folder(copy, tmp_path):
    (shard,) = copy.glob("*.array_record-*")
    index, info = copy / records.INDEX, copy / "dataset_info.json"
    for path in (shard, info, copy / "features.json", copy / "classes.json", index):
        path.rename(tmp_path / "away")
        assert "cannot be read" in fails(path, read, copy)
        (tmp_path / "away").rename(path)
    kept = shard.read_bytes()
    shard.write_bytes(kept[:-65536])
    assert f"has {len(kept) - 65536} bytes, not the {len(kept)}" in fails(shard, read, copy)
    shard.write_bytes(kept)
    for path in (info, index):
        kept = path.read_bytes()
        for place in (0, 40, len(kept) // 2):
            flip(path, place)
            fails(path, read, copy)
            path.write_bytes(kept)
    assert "'val', but train" in fails(index, read, copy, "val")
    edit(index, format=2)
    assert "format 2" in fails(index, read, copy)
    index.write_text("[]")
    fails(index, read, copy)


def test_truncated_or_exchanged_after_it_was_listed(copy):
    (shard,) = copy.glob("*.array_record-*")
    (video, *_), kept = read(copy), shard.read_bytes()
    for end in (65536, 65536 + 100, 0):
        records._opened.cache_clear()
        shard.write_bytes(kept[:end])
        with pytest.raises(image_files.UnreadableFile):
            records.read_all(video.frames)
    records._opened.cache_clear()
    shard.unlink()
    assert "open() failed" in fails(shard, records.read_all, video.frames)


def test_records_of_other_frames_are_noticed(copy):
    index = copy / records.INDEX
    splits = json.loads(index.read_text())["splits"]
    stored = splits["train"]["files"]
    stored[0], stored[1] = stored[1], stored[0]
    edit(index, splits=splits)
    assert "other files" in fails(read(copy)[0].frames[0], records.read_all, read(copy)[0].frames[:1])


def test_a_wrong_image_is_named_by_its_record(tmp_path):
    root = write_own(tmp_path / "own", {"a": (2, {0, 1})})
    (root / "a" / "frames" / "0001.png").write_bytes(b"no image")
    assert run(root, tmp_path / "out", "--layout", "folder") == 0
    video = read(tmp_path / "out" / "video_folder" / "1.0.0")[0]
    assert "train[1]:a/frames/0001.png: " in fails(video.frames[1], decode.read_frame, video.frames[1])
    assert "train[1]:a/masks/0001.png: " in fails(video.masks[1], decode.read_mask, video.masks[1], 2, video.coding)


def test_the_folder_above_names_the_one_below(prepared):
    above = Path(prepared["vspw"]).parents[1]
    assert f"point --data.root to {above}" in fails(records.INDEX, read, above)
    assert "without masks" in fails(records.INDEX, read, prepared["vspw"], "test")


def test_names_of_records_say_their_place():
    name = records.RecordedFile("/a[1]/b", "train", 12, "data/x[3]:y/0001.jpg")
    assert str(name) == os.fspath(name) == "/a[1]/b/train[12]:data/x[3]:y/0001.jpg"
    assert name == ("/a[1]/b", "train", 12, "data/x[3]:y/0001.jpg")


def test_names_of_folders_may_look_like_records(folders, prepared, tmp_path):
    root = shutil.copytree(prepared["folder"], tmp_path / "a[1]:b]:")
    assert_same_videos(read(root), layouts.read_split(folders["folder"], "train", True, "folder"))


def test_sizes_are_those_of_the_files(folders, prepared):
    ours, theirs = read(prepared["vspw"])[0], layouts.read_split(folders["vspw"], "train")[0]
    assert [*map(records.file_size, ours.frames[:3])] == [os.path.getsize(path) for path in theirs.frames[:3]]


def test_only_who_reads_records_pays_for_tfds():
    lines = "import sys, cffm_jax.data.pipeline, cffm_jax.data.prepare; print('tensorflow_datasets' in sys.modules)"
    assert runs.finished("-c", lines)[:2] == (0, "False\n")
