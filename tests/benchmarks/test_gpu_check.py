"""The check of a GPU by the real command: tiny, on the CPU, on a machine that lacks what one that was lent does."""

import json
import os

import pytest

from helpers.runs import ROOT, finished, seeing

pytestmark = pytest.mark.long

COMMAND = "benchmarks/gpu_check.py"
TRIED = ("device", "golden", "clip", "stream", "train", "k-means", "torch")
"""Parts that compile little, one of each file."""
LACKING = ("av", "grain", "tensorboardX", "tensorflow_datasets", "torch", "tyro")
FAKES = """
import os, sys, time
sys.path[:0] = [BENCHMARKS]
import gpu_check
from gpu_checks.workers import Part

def passes(bench):
    bench.report("a share", 0.25, "%", f"of | {bench.size[0]}")

def raises(bench):
    bench.report("before", 1.5, "ms")
    raise ValueError("what it says:\\n  two lines")

def stands_still(bench):
    bench.report("before", True)
    time.sleep(600)

def dies(bench):
    os._exit(3)

def disagrees(bench):
    bench.report("agreement", False)

PARTS = {
    "passes": Part("__main__:passes", 60, 0),
    "raises": Part("__main__:raises", 60, 0),
    "stands-still": Part("__main__:stands_still", 2, 0),
    "dies": Part("__main__:dies", 60, 0),
    "disagrees": Part("__main__:disagrees", 60, 0),
    "again": Part("__main__:passes", 60, 0),
    "late": Part("__main__:passes", 60, 9_999),
}
if __name__ == "__main__":
    sys.exit(gpu_check.main(sys.argv[1:], PARTS))
"""


def table_of(out):
    """The cells of the last table's rows."""
    lines = out[out.rindex("| part | what | value | note |") :].splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """The environment of a command that finds none of these packages."""
    folder = tmp_path_factory.mktemp("lacking")
    for name in LACKING:
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}', name='{name}')\n")
    return {**seeing(1), "PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def tried(tmp_path_factory, lacking):
    """(Status, what the command printed, its JSON, its errors.)"""
    path = tmp_path_factory.mktemp("check") / "check.json"
    argv = ("--tiny", "--budget", 1_000, "--json", path, "--parts", *TRIED)
    status, out, err = finished(COMMAND, *argv, env=lacking)
    return status, out, json.loads(path.read_text()), err


def test_the_parts_pass_on_a_cpu(tried):
    status, out, result, err = tried
    assert status == 0, out + err
    assert {row["part"] for row in result["rows"]} == {*TRIED, "ratios"}
    assert [row["value"] for row in result["rows"] if isinstance(row["value"], bool)] == [True] * 5, out
    numbers = [row["value"] for row in result["rows"] if row["unit"]]
    assert numbers and all(number >= 0 for number in numbers)


def test_json_and_table_hold_the_same_rows(tried):
    _, out, result, _ = tried
    for cells, row in zip(table_of(out), result["rows"], strict=True):
        assert [cells[0], cells[1], cells[3]] == [row["part"], row["what"], row["note"]]
        if row["unit"]:
            number, unit = cells[2].split(" ", 1)
            assert float(number.replace(",", "")) == pytest.approx(row["value"], rel=0.05, abs=6e-4)
            assert unit == row["unit"]
    assert result["environment"]["device"].startswith("cpu")
    assert result["environment"]["command"].startswith(f"python {COMMAND} --tiny")


def test_engines_are_measured_by_the_plain_form(tried):
    rows = {row["what"]: row["value"] for row in tried[2]["rows"]}
    plain, stream = (rows[f"cffm_b0 float32, {engine}: host to host, p50"] for engine in ("clip by clip", "stream"))
    assert rows["cffm_b0 float32, stream"] == pytest.approx(plain / stream)
    assert rows["cffm_b0 float32, stream: host to host, p99"] >= stream * 0.999
    assert rows["cffm_b0 float32, stream: pixels of another class than clip by clip"] < 1


def test_ratios_are_to_the_fastest_of_the_same_backbone_and_type(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from gpu_checks.rows import Row, ratios

    times = {
        "cffm_b1 bfloat16, clip by clip": 12.0, "cffm_b1 bfloat16, stream": 2.0, "cffm_b1 float32, stream": 3.0,
        "cffmpp_b1 bfloat16, stream": 2.5, "segformer_b1 bfloat16, PyTorch eager x1": 8.0,
        "segformer_b1 bfloat16, PyTorch eager x8": 6.0, "segformer_b2 bfloat16, PyTorch eager x8": 1.0,
    }  # fmt: skip
    rows = [Row("part", f"{label}: host to host, p50", ms, "ms/frame") for label, ms in times.items()]
    rows += [Row("part", "cffm_b1 bfloat16, stream: host to host, p99", 9.0, "ms/frame")]
    assert {(row.what, row.unit): row.value for row in ratios(rows)} == {
        ("cffm_b1 bfloat16, clip by clip", "x PyTorch eager x8"): 0.5,
        ("cffm_b1 bfloat16, stream", "x clip by clip"): 6.0,
        ("cffm_b1 bfloat16, stream", "x PyTorch eager x8"): 3.0,
        ("cffmpp_b1 bfloat16, stream", "x PyTorch eager x8"): 2.4,
    }


def test_a_part_that_fails_or_outlasts_its_limit_costs_itself_alone(tmp_path):
    script, path = tmp_path / "fakes.py", tmp_path / "check.json"
    script.write_text(FAKES.replace("BENCHMARKS", repr(str(ROOT / "benchmarks"))))
    status, out, err = finished(script, "--json", path, env=dict(os.environ))
    rows = json.loads(path.read_text())["rows"]
    said = [(row["part"], row["what"], row["value"]) for row in rows]
    assert said == [
        ("passes", "a share", 0.25),
        ("raises", "before", 1.5),
        ("raises", "failed", "ValueError: what it says: two lines"),
        ("stands-still", "before", True),
        ("stands-still", "out of time", "after 2 s"),
        ("dies", "worker died", "exit status 3"),
        ("disagrees", "agreement", False),
        ("again", "a share", 0.25),
        ("late", "not begun", said[-1][2]),
    ], err
    assert said[-1][2].endswith("s were left of 9999")
    assert status == 1
    assert table_of(out)[0] == ["passes", "a share", "0.250 %", "of / 480"]
    assert [cells[:2] for cells in table_of(out)] == [list(row[:2]) for row in said]
    assert table_of(out)[6][2] == "NO"


def test_one_good_part_alone_passes(tmp_path):
    script = tmp_path / "fakes.py"
    script.write_text(FAKES.replace("BENCHMARKS", repr(str(ROOT / "benchmarks"))))
    status, out, err = finished(script, "--parts", "again")
    assert status == 0, err
    assert len(table_of(out)) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--parts", "golden", "silver"), "--parts: there is no part silver; give some of device, golden, "),
        (("--budget", "much"), "command line: argument --budget: "),
        (("--json", "nowhere/check.json"), "nowhere/check.json: its folder does not exist; make it first"),
        (("--nothing",), "command line: unrecognized arguments: --nothing; see --help"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_run_is_refused_in_one_line(argv, said):
    status, out, err = finished(COMMAND, *argv)
    assert (status, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith(f"error: {said}")


def test_the_parts_are_listed():
    status, out, err = finished(COMMAND, "--list")
    assert (status, err) == (0, "")
    names = [line.split()[0] for line in out.splitlines()]
    assert len(names) == len(set(names)) and {*TRIED} <= {*names}
