"""The built-in data: what it promises to whoever trains on it, and to whoever's folder it writes into."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data import class_names
from cffm_jax.data.layouts import classes
from cffm_jax.data.synthetic import generate as synthetic
from cffm_jax.data.synthetic import scenes
from cffm_jax.data.synthetic.generate import SyntheticConfig, generate
from cffm_jax.drawing import palette
from cffm_jax.errors import InputError

from helpers.runs import Refusal

pytestmark = pytest.mark.filterwarnings("error")

SMALL = SyntheticConfig(videos_train=2, videos_val=1, videos_test=0, frames=3, height=64, width=96)
REPOSITORY = Path(__file__).resolve().parents[2]


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "small"
    assert generate(root, SMALL, threads=2)
    return root


@pytest.fixture(scope="module")
def videos() -> list[list[tuple[np.ndarray, ...]]]:
    config = SyntheticConfig(frames=10)
    return [list(synthetic.frames(config, "train", index)) for index in range(10)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-W", "error", "-m", "cffm_jax.data.synthetic", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60)


# What is written


def test_layout(small: Path) -> None:
    assert (small / "train.txt").read_text() == "train_0000\ntrain_0001\n"
    assert (small / "val.txt").read_text() == "val_0000\n"
    assert (small / "test.txt").read_text() == ""
    assert classes.class_names(small, 8) == class_names.SYNTHETIC[:8]
    assert sorted(path.name for path in (small / "data").iterdir()) == ["train_0000", "train_0001", "val_0000"]
    for video in (small / "data").iterdir():
        for part, suffix in (("origin", "jpg"), ("mask", "png")):
            names = sorted(path.name for path in (video / part).iterdir())
            assert names == [f"{time:08d}.{suffix}" for time in range(3)]


def test_files_decode_to_the_rendered_frames(small: Path) -> None:
    for time, (colours, labels, _, _) in enumerate(synthetic.frames(SMALL, "val", 0)):
        folder = small / "data" / "val_0000"
        image = cv2.imread(str(folder / "origin" / f"{time:08d}.jpg"), cv2.IMREAD_COLOR)[..., ::-1]
        mask = cv2.imread(str(folder / "mask" / f"{time:08d}.png"), cv2.IMREAD_UNCHANGED)
        assert image.shape == (64, 96, 3)
        assert mask.dtype == np.uint8 and np.array_equal(mask, labels)
        # JPEG drops fine colour noise, so smoothed frames are compared; red and blue swapped would differ by far more.
        written, rendered = (cv2.blur(frame.astype(np.float32), (8, 8)) for frame in (image, colours))
        assert np.abs(written - rendered).mean() < 1.5


@pytest.mark.parametrize(
    ("height", "width", "num_classes"), [(64, 96, 2), (32, 32, 3), (96, 64, 12), (60, 101, 13), (64, 96, 124)]
)
def test_any_size_and_number_of_classes(height: int, width: int, num_classes: int) -> None:
    config = SyntheticConfig(frames=2, height=height, width=width, classes=num_classes)
    for index in range(3):
        for colours, labels, _, _ in synthetic.frames(config, "train", index):
            assert colours.shape == (height, width, 3) and colours.dtype == np.uint8
            assert labels.shape == (height, width) and labels.dtype == np.uint8
            known = labels[labels != IGNORED_LABEL]
            assert known.max() <= num_classes
            assert len(np.unique(known[known > 0])) >= 2


def test_further_classes_are_all_shown_somewhere() -> None:
    worlds = [scenes.World(np.random.default_rng(seed), 32, 48, 20) for seed in range(30)]
    assert {value for world in worlds for value in world.values.values()} == set(range(1, 21))


# Reproducibility


def test_same_options_same_bytes_whatever_the_threads(small: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", SMALL, threads=1)
    assert digests(tmp_path / "again") == digests(small)


def test_another_seed_gives_other_videos() -> None:
    other = dataclasses.replace(SMALL, seed=1)
    first, second = (next(synthetic.frames(config, "train", 0)) for config in (SMALL, other))
    assert not np.array_equal(first[0], second[0])
    assert (first[1] != second[1]).mean() > 0.1


def test_videos_and_splits_differ() -> None:
    places = (("train", 0), ("train", 1), ("val", 0))
    masks = [next(synthetic.frames(SMALL, split, index))[1] for split, index in places]
    assert all((a != b).mean() > 0.1 for a, b in itertools.combinations(masks, 2))


def test_more_videos_and_frames_leave_the_others_as_they_are(small: Path, tmp_path: Path) -> None:
    more = dataclasses.replace(SMALL, videos_train=3, videos_test=1, frames=4)
    generate(tmp_path / "more", more)
    before, after = digests(small), digests(tmp_path / "more")
    kept = [name for name in before if name.startswith("data/")]
    assert len(kept) == 3 * 3 * 2
    assert all(before[name] == after[name] for name in kept)


# What makes it worth training on


def test_classes_have_a_long_tail_and_some_pixels_have_none(videos: list[list[tuple[np.ndarray, ...]]]) -> None:
    counts = sum(np.bincount(labels.ravel(), minlength=256) for video in videos for _, labels, _, _ in video)
    labelled = counts[1:9]
    assert labelled.min() > 0
    assert labelled.max() > 10 * labelled.min()
    void = (counts[0] + counts[IGNORED_LABEL]) / counts.sum()
    assert 0.01 < void < 0.05
    assert counts[0] > 0 and counts[IGNORED_LABEL] > 0


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over the first mask's classes of intersection over union."""
    values = np.setdiff1d(first, (0, IGNORED_LABEL))
    shared = [((first == k) & (second == k)).sum() / ((first == k) | (second == k)).sum() for k in values]
    return float(np.mean(shared))


def test_scenes_move_slowly(videos: list[list[tuple[np.ndarray, ...]]]) -> None:
    masks = [[labels for _, labels, _, _ in video] for video in videos]
    after_1 = [overlap(a, b) for video in masks for a, b in zip(video, video[1:], strict=False)]
    after_9 = [overlap(video[0], video[9]) for video in masks]
    assert np.mean(after_1) > 0.85
    assert 0.4 < np.mean(after_9) < np.mean(after_1)
    agree = [(video[0] == video[9]).mean() for video in masks]
    assert min(agree) > 0.6 and max(agree) < 0.999


def test_damage_is_heavy_and_new_in_each_frame(videos: list[list[tuple[np.ndarray, ...]]]) -> None:
    hidden = np.array([[where for _, _, _, where in video] for video in videos])
    assert 0.15 < hidden.mean() < 0.3
    # Independent: hidden in two neighbours about as often as chance has it.
    both = (hidden[:, 1:] & hidden[:, :-1]).mean()
    assert both == pytest.approx(hidden.mean() ** 2, rel=0.35)
    error = np.array([[np.abs(f[0].astype(int) - f[2]).mean(-1) for f in video] for video in videos])
    assert error[hidden].mean() > 1.5 * error[~hidden].mean()
    brightness = np.array([[f[0].mean() / f[2].mean() for f in video] for video in videos])
    assert brightness.std(axis=1).mean() > 0.05


# Whose folder it writes into


def test_the_same_dataset_is_left_alone(small: Path) -> None:
    before = (small / "train.txt").stat().st_mtime_ns
    assert not generate(small, SMALL)
    assert (small / "train.txt").stat().st_mtime_ns == before


def test_another_dataset_is_replaced_only_when_asked(tmp_path: Path) -> None:
    root = tmp_path / "data"
    few = dataclasses.replace(SMALL, videos_val=0)
    one = dataclasses.replace(few, videos_train=1)
    generate(root, few)
    with pytest.raises(InputError, match="other options.*--overwrite"):
        generate(root, one)
    assert (root / "train.txt").read_text() == "train_0000\ntrain_0001\n"
    assert generate(root, one, overwrite=True)
    assert (root / "train.txt").read_text() == "train_0000\n"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_stranger_s_folder_or_file_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("precious")
    before = digests(tmp_path)
    for name in ("folder", "file"):
        with pytest.raises(InputError, match="not made by this command"):
            generate(tmp_path / name, SMALL, overwrite=overwrite)
    assert digests(tmp_path) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    assert generate(tmp_path / "root", dataclasses.replace(SMALL, videos_train=1, videos_val=0))
    assert (tmp_path / "root" / "train.txt").exists()


@pytest.mark.parametrize("existing", [False, True])
def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool) -> None:
    root = tmp_path / "root"
    if existing:
        generate(root, dataclasses.replace(SMALL, videos_train=1, videos_val=0))
    before = digests(tmp_path)
    write_video = synthetic.write_video

    def fail_later(folder: Path, config: SyntheticConfig, split: str, index: int) -> None:
        if index == 1:
            raise OSError(28, "No space left on device")
        write_video(folder, config, split, index)

    monkeypatch.setattr(synthetic, "write_video", fail_later)
    with pytest.raises(InputError, match="cannot be written .No space left on device"):
        generate(root, SMALL, overwrite=True)
    assert digests(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["root"] if existing else [])


@pytest.mark.parametrize(
    ("option", "value"),
    [("classes", 1), ("classes", 125), ("frames", 0), ("height", 8), ("width", 31), ("seed", -1), ("videos_val", -1)],
)
def test_options_out_of_range(tmp_path: Path, option: str, value: int) -> None:
    with pytest.raises(InputError, match="--" + option.replace("_", "-")):
        generate(tmp_path / "root", dataclasses.replace(SMALL, **{option: value}))
    assert list(tmp_path.iterdir()) == []


# The command


def test_command(tmp_path: Path) -> None:
    root = tmp_path / "root"
    options = ("--videos-train", 1, "--videos-val", 1, "--videos-test", 0, "--frames", 2, "--height", 64, "--width", 96)
    done = run(root, *options, "--classes", 9, "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert "written" in done.stdout
    assert json.loads((root / "classes.json").read_text())[-1] == "water"
    again = run(root, *options, "--classes", 9, "--seed", 3)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    other = run(root, *options, "--classes", 8, "--seed", 3)
    assert other.returncode == 2 and other.stdout == ""
    assert other.stderr.startswith("error: ") and other.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--classes", "200"), ("--no-such-option", "1"), ("--frames", "many")])
def test_command_with_a_bad_option(refused: Refusal, tmp_path: Path, arguments: tuple[str, str]) -> None:
    refused(synthetic.main, [tmp_path / "root", *arguments], arguments[0])


# Names and colours of classes


def test_vspw_names() -> None:
    assert len(class_names.VSPW) == len(set(class_names.VSPW)) == 124
    assert (class_names.VSPW[0], class_names.VSPW[13], class_names.VSPW[123]) == ("wall", "floor", "train")


def test_class_names(tmp_path: Path) -> None:
    assert classes.class_names(tmp_path, 124) == class_names.VSPW
    assert classes.class_names(tmp_path, 3) == ("class 0", "class 1", "class 2")
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    assert classes.class_names(tmp_path, 2) == ("cat", "dog")
    with pytest.raises(InputError, match="names 2 classes, not 124"):
        classes.class_names(tmp_path, 124)


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": 1}', "[", '"ab"', "\xff"])
def test_class_names_of_a_broken_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="classes.json") as caught:
        classes.class_names(tmp_path, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_classes", [1, 8, 124, 255])
def test_palette(num_classes: int) -> None:
    table = palette.palette(num_classes)
    assert table.shape == (256, 3) and table.dtype == np.uint8
    assert len(np.unique(table[:num_classes], axis=0)) == num_classes
    assert table[:num_classes].any(axis=1).all()
    assert not table[num_classes:].any()
    assert np.array_equal(table[:1], palette.palette(1)[:1])


def test_palette_is_spread_for_the_eye() -> None:
    """Far apart in CIELAB, whose distance of 2.3 is just noticeable; far from black too, which stands for nothing."""
    table = palette.palette(124)[:124].astype(np.float32)[None] / 255
    lab = cv2.cvtColor(np.concatenate([table, np.zeros((1, 1, 3), np.float32)], axis=1), cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(len(lab))
    for count, least in ((8, 50), (19, 30), (124, 12)):
        assert distance[:count, :count].min() > least
    assert distance[-1, :-1].min() > 25
    assert np.hypot(lab[:, 1], lab[:, 2]).max() < 65.01


def test_palette_out_of_range() -> None:
    for num_classes in (0, 256):
        with pytest.raises(ValueError, match="num_classes"):
            palette.palette(num_classes)
