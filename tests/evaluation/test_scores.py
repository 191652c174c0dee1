"""Scores of masks on disk: tables, JSON, and faults in one line."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from cffm_jax.config import Config, DataConfig, EvalConfig
from cffm_jax.data.layouts.classes import Classes
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.layouts.vspw import CODING
from cffm_jax.data.prepare import command as prepare
from cffm_jax.drawing.palette import palette
from cffm_jax.errors import InputError
from cffm_jax.evaluation import predictions as evaluation_predictions
from cffm_jax.evaluation import score_tables
from cffm_jax.evaluation.options import cutoff_of
from cffm_jax.evaluation.report.figures import About
from cffm_jax.evaluation.report.page import page
from cffm_jax.metrics.all_metrics import METRICS
from cffm_jax.metrics.scores import Scores, score_video
from cffm_jax.runtime.command_line import run_command

from helpers.datasets import write_png

K = 4
NAMES = ("sky", "road", "person", "cat")
FRAMES = {"short": 9, "long": 20}
COLUMNS = {metric.title: metric.key for metric in METRICS if metric.in_papers}
BEYOND = {metric.title: metric.key for metric in METRICS if not metric.in_papers}


def write_indexed(path, classes):
    """Palette PNG of class indices."""
    image = Image.fromarray(classes)
    image.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    assert image.mode == "P"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def split(tmp_path):
    """Two videos on disk with predictions: (videos, predictions folder, labels and predictions by video)."""
    rng = np.random.default_rng(0)
    videos, arrays = [], {}
    for name, frames in FRAMES.items():
        labels = rng.integers(0, K, (1, 6, 8)).repeat(frames, 0).astype(np.uint8)
        labels[:, 0] = 255
        labels[frames // 2 :, 1] = 3
        predictions = np.where(rng.random(labels.shape) < 0.05, 1, labels % K).astype(np.uint8)
        folder = tmp_path / "data" / name
        for t in range(frames):
            raw = np.where(labels[t] == 255, 255 * (t % 2), labels[t] + 1).astype(np.uint8)
            (folder / "mask").mkdir(parents=True, exist_ok=True)
            Image.fromarray(raw).save(folder / "mask" / f"{t:08}.png")
            write_indexed(tmp_path / "predictions" / name / f"{t:08}.png", predictions[t])
        stems = [f"{t:08}" for t in range(frames)]
        images = tuple(str(folder / "origin" / f"{stem}.jpg") for stem in stems)
        videos.append(Video(name, images, tuple(str(folder / "mask" / f"{stem}.png") for stem in stems), CODING))
        arrays[name] = labels, predictions
    return tuple(videos), tmp_path / "predictions", arrays


@pytest.fixture
def rows(split):
    scored = Scores.empty(K)
    for name, (labels, predictions) in split[2].items():
        scored = scored.update(score_video(name, zip(labels, predictions, strict=True), K))
    return {"CFFM": scored, "per-frame (SegFormer)": scored.counted()}


def test_score_predictions(split, rows, capfd):
    videos, folder, _ = split
    found = evaluation_predictions.score_predictions(videos, folder, K, NAMES)
    assert found.figures() == rows["CFFM"].figures()
    assert found.figures()["left_out"] == 1 and 0.8 < found.figures()["miou"] < 1
    assert [v.name for v in found.videos] == ["long", "short"]
    for video in found.videos:
        expected = next(v for v in rows["CFFM"].videos if v.name == video.name)
        np.testing.assert_array_equal(video.sums["confusion"].counts, expected.sums["confusion"].counts)
        assert video.sums["steadiness"] == expected.sums["steadiness"]
    progress = capfd.readouterr().err
    assert "29/29" in progress and "frame/s" in progress


def test_short_videos_are_left_out_for_vspw_alone(split, tmp_path):
    """Of 9 frames; a setting overrules it, and records have the rule of what they were made of."""
    videos, folder, _ = split
    for name in FRAMES:
        for mask in (tmp_path / "data" / name / "mask").iterdir():
            write_png(tmp_path / "data" / name / "origin" / f"{mask.stem}.jpg", np.zeros((6, 8, 3), np.uint8))
    (tmp_path / "val.txt").write_text("\n".join(FRAMES))
    assert run_command(prepare.main, [str(tmp_path), str(tmp_path / "records"), "--splits", "val"]) == 0
    records = tmp_path / "records" / "vspw" / "1.0.0"
    for layout, root, left_out in (
        ("vspw", tmp_path, 1),
        ("folder", tmp_path, 0),
        ("cityscapes", tmp_path, 0),
        ("records", records, 1),
    ):
        for rule, expected in (("auto", left_out), ("left_out", 1), ("counted", 0)):
            config = Config(data=DataConfig(root=str(root), layout=layout), eval=EvalConfig(short_videos=rule))
            cutoff = cutoff_of(config)
            found = evaluation_predictions.score_predictions(videos, folder, K, NAMES, cutoff)
            figures, tree = found.figures(), score_tables.to_json({"x": found}, NAMES)["x"]
            assert figures["left_out"] == expected and figures["videos"] == 2 - expected
            assert tree["videos_longer_than"] == cutoff and tree["miou"] == figures["miou"]
            note = "count in VC8 Eq. 9, VC16 Eq. 9, CC8, CC16 alone"
            assert (note in score_tables.main_table({"x": found})) == bool(expected)
            assert sum(entry["pixels"] for entry in tree["per_class"]) == figures["frames"] * 5 * 8
            report = page({"x": found}, About("", {}), Classes(NAMES, palette(K)), [], [])
            assert "Videos that could be measured: VC8 " in report


def test_a_mask_that_does_not_say_how_it_lies_is_refused(split, tmp_path):
    videos, folder, _ = split
    exif = Image.Exif()
    exif[0x0112] = 3
    path = tmp_path / "data" / "long" / "origin" / "00000004.jpg"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(path, exif=exif)
    with pytest.raises(InputError, match=r"mask/00000004\.png: does not say whether it is turned"):
        evaluation_predictions.score_predictions(videos, folder, K, NAMES)


def test_grey_predictions_count_as_well(split):
    videos, folder, arrays = split
    before = evaluation_predictions.score_predictions(videos, folder, K, NAMES).figures()
    Image.fromarray(arrays["long"][1][2]).save(folder / "long" / "00000002.png")
    assert evaluation_predictions.score_predictions(videos, folder, K, NAMES).figures() == before


def remove_folder(folder):
    folder.rename(folder.with_name("elsewhere"))


def remove_video(folder):
    (folder / "long").rename(folder / "other")


def remove_frame(folder):
    (folder / "long" / "00000003.png").unlink()


def remove_two_frames(folder):
    remove_frame(folder)
    (folder / "long" / "00000007.png").rename(folder / "long" / "00000007.jpg")


def other_size(folder):
    write_indexed(folder / "long" / "00000003.png", np.zeros((3, 5), np.uint8))


def no_class(folder):
    write_indexed(folder / "long" / "00000003.png", np.full((6, 8), K, np.uint8))


def no_png(folder):
    (folder / "long" / "00000003.png").write_bytes(b"nothing")


def cut_off(folder):
    path = folder / "long" / "00000003.png"
    Image.fromarray(np.random.default_rng(0).integers(0, K, (60, 80)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-600])


def folder_in_place(folder):
    remove_frame(folder)
    (folder / "long" / "00000003.png").mkdir()


def colours(folder):
    Image.new("RGB", (8, 6)).save(folder / "long" / "00000003.png")


@pytest.mark.parametrize(
    ("spoil", "where", "problem"),
    [
        (remove_folder, "predictions", "no such folder"),
        (remove_video, "long", "no predictions of this video"),
        (remove_frame, "00000003.png", "prediction is missing;"),
        (remove_two_frames, "00000003.png", "prediction is missing (2 of 20 frames of the video)"),
        (other_size, "00000003.png", "is 5x3, its mask 8x6"),
        (no_class, "00000003.png", "holds the value 4"),
        (no_png, "00000003.png", "is damaged or no image"),
        (cut_off, "00000003.png", "cannot be read (truncated"),
        (folder_in_place, "00000003.png", "cannot be read (Is a directory)"),
        (colours, "00000003.png", "has pixels of mode RGB"),
    ],
)
def test_faults_are_one_line(split, spoil, where, problem):
    videos, folder, _ = split
    spoil(folder)
    with pytest.raises(InputError) as caught:
        evaluation_predictions.score_predictions(videos, folder, K, NAMES)
    message = str(caught.value)
    assert message.startswith(str(folder)) and f"{where}: {problem}" in message and "\n" not in message


def test_class_names_must_fit(split):
    videos, folder, _ = split
    with pytest.raises(ValueError, match="4 class names for 5 classes"):
        evaluation_predictions.score_predictions(videos, folder, 5, NAMES)


def test_main_table(rows):
    lines = score_tables.main_table(rows).splitlines()
    figures = rows["CFFM"].figures()
    assert lines[0].split("  ")[0] == "%" and len(set(map(len, lines[:4]))) == 1
    for heading in COLUMNS:
        assert heading in lines[0]
    assert lines[2].startswith("CFFM ") and lines[3].startswith("per-frame (SegFormer) ")
    expected = [f"{100 * figures[field]:.2f}" for field in COLUMNS.values()]
    assert lines[2].split() == ["CFFM", *expected, "1", "20"]
    assert lines[4:] == [
        "Videos of at most 16 frames (1 here) count in VC8 Eq. 9, VC16 Eq. 9, CC8, CC16 alone.",
        "VC is video consistency (docs/metrics.md).",
        "Videos that could be measured: VC8 1, VC16 1, VC8 Eq. 9 2, VC16 Eq. 9 1.",
    ]
    every = score_tables.main_table({"a": dataclasses.replace(rows["CFFM"], cutoff=0)}).splitlines()
    assert every[2].split()[-2:] == ["2", "29"]
    assert every[4:] == ["Videos that could be measured: VC8 2, VC16 1, VC8 Eq. 9 2, VC16 Eq. 9 1."]


def test_class_table(rows):
    one = score_tables.class_table({"CFFM": dataclasses.replace(rows["CFFM"], cutoff=0)}, NAMES).splitlines()
    confusion = rows["CFFM"].confusion()
    assert one[0].split() == ["class", "%", "of", "pixels", "IoU", "acc."]
    assert [line.split()[0] for line in one[2:]] == list(NAMES)
    share, iou, accuracy = map(float, one[3].split()[1:])
    assert share == pytest.approx(100 * confusion.pixels()[1] / confusion.pixels().sum(), abs=0.006)
    assert iou == pytest.approx(100 * confusion.ious()[1], abs=0.006)
    assert accuracy == pytest.approx(100 * confusion.accuracies()[1], abs=0.006)
    two = score_tables.class_table(rows, NAMES).splitlines()
    assert "IoU CFFM" in two[0] and "acc. per-frame (SegFormer)" in two[0]


def test_classes_that_do_not_occur_are_left_out():
    labels = np.full((2, 3, 3), 2, np.uint8)
    scored = Scores.empty(K, cutoff=0).update(score_video("a", zip(labels, labels, strict=True), K))
    lines = score_tables.class_table({"x": scored}, NAMES).splitlines()
    assert [line.split() for line in lines[2:]] == [["person", "100.00", "100.00", "100.00"]]


def test_video_table(rows):
    lines = score_tables.video_table(rows).splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["long", "CFFM"], ["long", "per-frame"], ["short", "CFFM"]]
    assert lines[4].split()[2] == "9" and lines[4].split()[-1] == "-"  # No window of 16 frames.
    one = score_tables.video_table({"CFFM": rows["CFFM"]}).splitlines()
    assert "row" not in one[0] and [line.split()[0] for line in one[2:]] == ["long", "short"]


def test_report_holds_every_table(rows):
    text = score_tables.report(rows, NAMES)
    for table in (
        score_tables.main_table(rows),
        score_tables.beyond_table(rows),
        score_tables.class_table(rows, NAMES),
        score_tables.video_table(rows),
    ):
        assert table in text
    assert text.endswith("\n")


def test_tables_of_nothing():
    rows = {"x": Scores.empty(K)}
    assert score_tables.main_table(rows).splitlines()[2].split() == ["x", *"-" * len(COLUMNS), "0", "0"]
    assert len(score_tables.class_table(rows, NAMES).splitlines()) == 2
    assert len(score_tables.video_table(rows).splitlines()) == 2
    assert score_tables.to_json(rows, NAMES)["x"]["miou"] is None


def test_json(rows):
    tree = json.loads(json.dumps(score_tables.to_json(rows, NAMES), allow_nan=False))
    figures, cffm = rows["CFFM"].figures(), tree["CFFM"]
    assert list(tree) == list(rows)
    for field in COLUMNS.values():
        assert cffm[field] == figures[field]
    assert all(cffm[field] == figures[field] for field in BEYOND.values())
    assert (cffm["videos"], cffm["frames"], cffm["left_out"], cffm["videos_longer_than"]) == (1, 20, 1, 16)
    counts = cffm["measured_videos"]
    assert counts == {"vc8": 1, "vc16": 1, "vc8_paper": 2, "vc16_paper": 1, "cc8": 2, "cc16": 1, "flicker": 1}
    assert [entry["name"] for entry in cffm["per_class"]] == list(NAMES)
    assert sum(entry["pixels"] for entry in cffm["per_class"]) == 20 * 5 * 8
    long, short = cffm["per_video"]
    assert (long["name"], long["frames"], short["name"]) == ("long", 20, "short")
    assert long["vc16"] == figures["vc16"] and short["vc16_paper"] is None
