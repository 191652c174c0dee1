"""Tables of the trainings on real videos; and the documented command, traced, on datasets as they are downloaded."""

import importlib
import json
import re
import statistics

import pytest
from PIL import Image

from benchmarks.real import plan, tables
from cffm_jax.errors import InputError

from helpers import documented, in_process, raw_videos, runs, tiny_world

[COMMAND] = [words for words, _ in documented.CASES if words[1] == "benchmarks/real_videos.py"]
VAL = plan.SPLITS[1]
USUAL, NEAR = VAL.references
MIOU, FLICKER = (next(metric for metric in tables.SHOWN if metric.key == key) for key in ("miou", "flicker"))


def seeds_of(*shares):
    return {seed: dict.fromkeys(tables.KEYS, share) for seed, share in enumerate(shares)}


def write(folder, model, seed, references, *shares):
    """The JSON of an evaluation, with a row for each share."""
    path = plan.figures_file(folder, VAL, model, seed, references)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": {f"row {i}": seeds_of(share)[0] for i, share in enumerate(shares)}}))


def cells_of(text, start):
    """The cells of the table's line that starts so."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_cell_is_mean_and_sample_deviation():
    shares = 0.31, 0.36, 0.37
    mean, spread = 100 * statistics.fmean(shares), 100 * statistics.stdev(shares)
    assert tables.cell(MIOU, seeds_of(*shares)) == f"{mean:.2f} ± {spread:.2f}"
    assert tables.cell(MIOU, seeds_of(0.31)) == "31.00"
    assert tables.cell(FLICKER, seeds_of(0.31, None)) == "-"


def test_a_difference_is_of_the_same_seeds():
    """What all seeds share has no spread, however far apart they are."""
    shares = 0.3, 0.5, 0.1
    one, other = seeds_of(*(share + 0.02 for share in shares)), seeds_of(*shares)
    assert tables.paired_cell(MIOU, one, other) == "+2.00 ± 0.00 (3 of 3)"
    assert tables.paired_cell(MIOU, other, one) == "-2.00 ± 0.00 (3 of 3)"
    del other[1]
    assert tables.paired_cell(MIOU, one, other) == "+2.00 ± 0.00 (2 of 2)"
    assert tables.paired_cell(MIOU, one, {2: other[2]}) == "+2.00"


def test_seeds_that_do_not_agree_are_counted():
    differences = 0.04, 0.01, -0.02
    one, other = seeds_of(*(0.3 + each for each in differences)), seeds_of(0.3, 0.3, 0.3)
    assert tables.paired_cell(MIOU, one, other) == f"+1.00 ± {100 * statistics.stdev(differences):.2f} (2 of 3)"


def test_a_table_of_what_is_there(tmp_path):
    assert not tables.markdown(tmp_path, VAL, (0, 1))
    for seed, image in enumerate((0.5, 0.6)):
        write(tmp_path, plan.SEGFORMER, seed, USUAL, image)
        write(tmp_path, plan.CFFM, seed, USUAL, image + 0.03, image - 0.01)
    write(tmp_path, plan.CFFM, 1, plan.ITSELF, 0.62, 0.59)
    write(tmp_path, plan.CFFM, 2, USUAL, 0.9, 0.9)  # No seed that is asked for.
    text = tables.markdown(tmp_path, VAL, (0, 1))
    expected = {
        "SegFormer-B0": ["2", "55.00 ± 7.07"],
        "CFFM-B0, per-frame logits": ["2", "54.00 ± 7.07"],
        f"CFFM-B0, {USUAL.label}": ["2", "58.00 ± 7.07"],
        "CFFM-B0, itself as references": ["1", "62.00"],
        f"CFFM-B0, {USUAL.label} − SegFormer-B0": ["2", "+3.00 ± 0.00 (2 of 2)"],
        f"CFFM-B0, {USUAL.label} − CFFM-B0, itself as references": ["1", "+1.00"],
    }
    for start, cells in expected.items():
        assert cells_of(text, start)[:2] == cells
    assert NEAR.label not in text and "CFFM++" not in text


def test_a_network_that_was_trained_twice_is_refused(tmp_path):
    config = {"model": {"name": plan.CFFM}, "train": {"seed": 0}}
    for name in ("cffm_b0-1", "cffm_b0-2"):
        path = tmp_path / "camvid" / name / "seed0" / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"config": config}))
    with pytest.raises(InputError, match=r"-2/seed0: is a second run of cffm_b0 with seed 0, beside .*-1/seed0; "):
        plan.finished_runs(tmp_path, "camvid", (0,))
    assert plan.finished_runs(tmp_path, "camvid", (1,))[plan.CFFM] == {}


@pytest.mark.long
def test_the_command_trains_evaluates_and_draws_what_is_missing(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(runs.ROOT / "benchmarks")
    small = (*plan.RECIPE, "--train.devices", "1", "--train.batch_size", "1", "--data.crop", "64", "64")
    monkeypatch.setattr(importlib.import_module("real.plan"), "RECIPE", small)
    raw_videos.camvid(tmp_path / "CamVid")
    raw_videos.davis(tmp_path / "DAVIS")
    for name in ("CamVid", "DAVIS"):
        words = ("python", "-m", "cffm_jax.data.import_labels", name, f"data/{name.lower()}")
        documented.run(words, monkeypatch.setattr)
    folder, texts = tmp_path / COMMAND[COMMAND.index("--folder") + 1], []
    for _ in range(2):
        with tiny_world.sized(), tiny_world.traced(), in_process.starting_here():
            with pytest.raises(SystemExit) as ended:
                documented.run((*COMMAND, "--steps", "2", "--seeds", "0"), monkeypatch.setattr)
        out, err = capfd.readouterr()
        assert not ended.value.code, err
        texts.append(out)
    # SegFormer on three splits; the others with the references of the training, near ones, and themselves.
    assert [text.count("eval.py --checkpoint") for text in texts] == [3 + 2 * 7, 0]
    for text in texts:
        rows = [line for line in text.splitlines() if re.match(r"\| (SegFormer|CFFM).*\d", line)]
        assert (folder / "results.md").read_text() in text and len(rows) >= (6 + 5) + (8 + 7) + (6 + 5)
    for name in ("curves.png", "strip.webp"):
        with Image.open(folder / name) as picture:
            assert picture.width <= 1400
