"""The race of the engines by the real command, on tiny frames."""

import json

import pytest

from helpers.runs import finished

pytestmark = pytest.mark.long

COMMAND = "benchmarks/inference.py"
TINY = ("--size", "64", "96", "--torch", "--dtypes", "float32", "--seconds", "0.01", "--calls", "1", "--chunk", "2")


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """(What the command printed, its JSON.)"""
    path = tmp_path_factory.mktemp("race") / "race.json"
    # A video of less than its first target with references is no chunk: two of them are compared.
    argv = ["--models", "cffm_b0", *TINY, "--modes", "clip", "offline", "--json", path]
    status, out, err = finished(COMMAND, *argv)
    assert status == 0, err
    return out, json.loads(path.read_text())


def test_a_row_for_each_engine_with_both_rates(raced):
    out, result = raced
    clip, offline = result["rows"]
    assert [clip["engine"], offline["engine"]] == ["clip by clip", "offline"]
    assert [clip["masks"], offline["masks"]] == [1, 2]
    for row in result["rows"]:
        assert row["frames_per_second"] == pytest.approx(1e3 * row["masks"] / row["ms"])
        assert row["files_per_second"] > 0 and row["compile_seconds"] > 0 and row["host_bytes"] > 1e8
        assert row["p99_ms"] >= row["ms"] * 0.999
    line = next(text for text in out.splitlines() if "| offline |" in text).split(" | ")
    ratio = offline["frames_per_second"] / clip["frames_per_second"]
    assert float(line[5]) == pytest.approx(ratio, abs=0.006)
    assert "as the model sees them 64x96" in out and result["environment"]["command"].startswith(f"python {COMMAND}")


def test_masks_are_those_of_clip_by_clip_but_for_ties(raced):
    _, result = raced
    offline = result["rows"][1]
    assert offline["differing"] < 0.01 and offline["margin"] <= 1e-4
    assert offline["classes"] > 1


def test_a_row_that_fails_says_so_and_the_run_goes_on(tmp_path):
    path = tmp_path / "race.json"
    argv = ["--models", "cffm_b0", "cffmpp_b0", *TINY, "--modes", "clip", "--minutes", "0.001", "--json", path]
    status, out, err = finished(COMMAND, *argv)
    assert status == 0, err
    rows = json.loads(path.read_text())["rows"]
    assert [row["failed"] for row in rows] == ["gave up after 0.001 minutes"] * 2
    assert "| cffmpp_b0 | float32 | clip by clip | gave up after 0.001 minutes |" in out


def test_what_keeps_a_state_has_no_masks_of_a_clip_alone():
    script = """
import sys
sys.path.insert(0, "benchmarks")
import inference
for name in ("tcb_ocr_r18", "tcb_ocr_mem_r18", "dff_r18"):
    plans = inference.plans(inference.Options(models=(name,), torch=(), dtypes=("float32",)))
    print(name, len({plan.mode for plan in plans} & {"clip", "papers"}))
"""
    status, out, err = finished("-c", script)
    assert status == 0 and out.split() == ["tcb_ocr_r18", "2", "tcb_ocr_mem_r18", "0", "dff_r18", "0"], err


REFUSED = [
    (["--streams", "1"], "error: --streams: 1 is too small; "),
    (["--size", "20", "40"], "error: --size: 20 is too small; "),
    (["--torch", "pvtv2_b0"], "error: --torch: pvtv2_b0 is no SegFormer; "),
    (["--models", "cffm_b9"], "'cffm_b9'"),
    (["--compare", "99"], "error: --compare: is 99; give at most 13"),
    (["--json", "nowhere/race.json"], "error: nowhere/race.json: its folder does not exist; "),
]


def test_what_cannot_be_measured_is_refused_at_once():
    # One process for all: its modules are called like the project's commands, so they are not imported here.
    script = """
import json, sys
sys.path.insert(0, "benchmarks")
import inference
from cffm_jax.runtime.command_line import run_command
print([run_command(inference.main, argv) for argv in json.loads(sys.argv[1])])
"""
    status, out, err = finished("-c", script, json.dumps([argv for argv, _ in REFUSED]))
    assert (status, out.strip()) == (0, str([2] * len(REFUSED))), err
    lines = err.strip().splitlines()
    assert len(lines) == len(REFUSED)
    for line, (_, said) in zip(lines, REFUSED):
        assert line.startswith("error: ") and said in line
