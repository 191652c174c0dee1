"""Contact sheets of a dataset: they show what the loader gives, in the classes' colours."""

import numpy as np
import pytest
from PIL import Image

from cffm_jax.data import decode, pipeline, show
from cffm_jax.data.layouts import read as layouts
from cffm_jax.drawing import masks as drawing_masks
from cffm_jax.drawing import sheets as drawing
from cffm_jax.drawing.palette import palette
from cffm_jax.runtime.command_line import run_command
from cffm_jax.settings import load_config

from helpers.runs import CONFIG, K
from helpers.sheets import find

COLOURS = palette(K)
CLIPS = 3


@pytest.fixture(scope="module")
def sheets(data, tmp_path_factory):
    """(clips.png, video.png) of the command, and what it printed."""
    folder = tmp_path_factory.mktemp("show") / "new" / "sheets"
    capture = pytest.MonkeyPatch()
    said = []
    capture.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
    argv = ["--config", CONFIG, "--data.root", data, "--output", folder, "--clips", CLIPS, "--seed", 5]
    status = run_command(show.main, [*map(str, argv), "--video", "val_0001", "--data.crop", "64", "96"])
    capture.undo()
    assert status == 0 and sorted(path.name for path in folder.iterdir()) == ["clips.png", "video.png"]
    return *(np.asarray(Image.open(folder / name)) for name in ("clips.png", "video.png")), said


def test_the_sheets_have_the_size_that_is_said(sheets):
    for sheet, name, line in zip(sheets[:2], ("clips.png", "video.png"), sheets[2], strict=True):
        assert line.endswith(f"{name}: {sheet.shape[1]}x{sheet.shape[0]}")
        assert sheet.std() > 30


def test_the_rows_are_the_clips_that_training_reads(sheets, data):
    config = load_config(CONFIG)
    videos = layouts.read_split(str(data), "train")
    changes = {"root": str(data), "crop": (64, 96)}
    settings = type(config.data)(**{**vars(config.data), **changes})
    with pipeline.training_batches(videos, settings, num_classes=K, batch_size=CLIPS, seed=5) as batches:
        batch = next(batches)
    tops = []
    for frames, labels in zip(batch["frames"], batch["labels"]):
        row = []
        for frame, mask in zip(frames, labels):
            shown = drawing_masks.views(frame, {"mask": mask}, COLOURS, drawing.CELL)
            (place,), (below,) = find(sheets[0], shown["input"]), find(sheets[0], shown["mask"])
            assert below[1] == place[1] and below[0] > place[0]
            row.append(place)
        assert len({top for top, _ in row}) == 1 and [left for _, left in row] == sorted(left for _, left in row)
        tops.append(row[0][0])
    assert tops == sorted(set(tops)) and len(tops) == CLIPS


def test_the_video_shows_its_truth_and_the_classes_over_time(sheets, data):
    sheet = sheets[1]
    video = next(v for v in layouts.read_split(str(data), "val") if v.name == "val_0001")
    masks = [decode.read_mask(path, K, video.coding) for path in video.masks]
    lefts = []
    for time in drawing.spread(5, len(masks)):
        frame, mask = decode.read_pair(video.frames[time], video.masks[time], K, video.coding)
        truth = COLOURS[mask].repeat(2, 0).repeat(2, 1)
        shown = drawing_masks.views(frame, {"mask": mask}, COLOURS, drawing.CELL)
        where = [find(sheet, picture) for picture in (shown["input"], shown["mask"], truth)]
        assert [len(each) for each in where] == [1, 1, 1] and len({each[0][1] for each in where}) == 1
        lefts.append(where[2][0])
    top, left = lefts[0]
    right = lefts[-1][1] + truth.shape[1]
    band = sheet[top + truth.shape[0] + 4 :, left:right]
    for column in (0, band.shape[1] // 2, band.shape[1] - 1):
        mask = masks[column * len(masks) // band.shape[1]]
        for k in range(K):
            height = (band[:120, column] == COLOURS[k]).all(-1).sum()
            assert height == pytest.approx(120 * (mask == k).mean(), abs=1)


def test_a_timeline_by_hand():
    shares = np.array([[0.5, 0.25, 0.0], [0.0, 0.0, 1.0]])
    band = drawing.timeline(shares, COLOURS, (8, 4))
    first = [drawing.PAPER] * 2 + [tuple(COLOURS[1])] * 2 + [tuple(COLOURS[0])] * 4
    expected = np.array([first, first, [COLOURS[2]] * 8, [COLOURS[2]] * 8], np.uint8).transpose(1, 0, 2)
    np.testing.assert_array_equal(band, expected)


def test_other_seeds_show_other_clips(data):
    config = load_config(CONFIG)
    videos = layouts.read_split(str(data), "train")
    first, same, other = (show.clip_strips(config, videos, 1, seed, palette(8))[0].cells for seed in (0, 0, 1))
    assert all(np.array_equal(a["input"], b["input"]) for a, b in zip(first, same))
    assert not all(np.array_equal(a["input"], b["input"]) for a, b in zip(first, other))


def test_misuse(data, tmp_path, refused):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    given = ["--config", CONFIG, "--data.root", data]
    refused(show.main, given, "--output: is missing")
    refused(show.main, [*given, "--output", tmp_path / "full"], "is not empty")
    for more, words in (
        (["--clips", 0], "--clips: is 0"),
        (["--seed", -1], "--seed: is -1"),
        (["--video", "nope"], "'nope' is not in train.txt or val.txt"),
        (["--data.train_split", "none"], "none.txt: cannot be read"),
        (["--model.num_classes", 3], "classes.json"),
        (["--outputs", 3], "is no option"),
    ):
        refused(show.main, [*given, "--output", tmp_path / "new", *more], words)
