"""The study: one small one for real; then what it shares, keeps and prints, with a training that is only pretended."""

import dataclasses
import json
import math
import shutil

import pytest

from cffm_jax.data.synthetic import generate
from cffm_jax.errors import InputError
from cffm_jax.metrics.all_metrics import METRICS
from cffm_jax.rules import values, with_changes
from cffm_jax.runtime.command_line import run_command
from cffm_jax.settings import load_config
from cffm_jax.study import command, plan
from cffm_jax.study.plan import StudyOptions, prepare
from cffm_jax.study.results import COMPARED, mean_and_spread
from cffm_jax.tables.rows import TABLE1
from cffm_jax.training import log, loop

from helpers.runs import CONFIG, ROOT, STEPS, TINY, files

pytestmark = pytest.mark.long

ABLATIONS = [table.name for table in plan.STUDIED if table.ablation]
TABLE8 = ("table8", "--rows", "A", "C", "F")


@pytest.fixture(scope="module")
def small(data, tmp_path_factory):
    """(options, folder) of a study that was done for real."""
    folder = tmp_path_factory.mktemp("study") / "studies"
    more = ("--config", CONFIG, *TINY, "--data.root", str(data), "--prototypes.count", "12", "--folder", str(folder))
    more += ("--second_steps", str(STEPS), "--second_rate", "1e-3")  # test_second_stage.py compiles the same program.
    assert run_command(command.main, [*TABLE8, *more]) == 0
    return more, folder


@dataclasses.dataclass(frozen=True)
class Pretended:
    """Stands in for ``metrics.Scores``."""

    miou: float

    def figures(self):
        values = [1, 18, 0, self.miou, *[0.25] * 3, 0.5, math.nan, *[0.5] * 6]
        return dict(zip(["videos", "frames", "left_out", *(m.key for m in METRICS)], values, strict=True))


@pytest.fixture
def trained_names(monkeypatch):
    """Makes training a pretence: mIoU is 0.5, 0.6, 0.7 .. by seed; gives the list of the workdirs trained so far."""
    done = []

    def train(config):
        done.append(config.workdir)
        return {"own": Pretended(0.5 + 0.1 * config.train.seed), "part": Pretended(0.1)}

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(log, "last_times", lambda workdir: {"productive": 90.0, "step_bytes": 2.5e9})
    return done


def options(*tables, **changes):
    given = StudyOptions(tables=tables, config=CONFIG, folder="studies", settings=load_config(CONFIG))
    return dataclasses.replace(given, **changes)


def names(opts):
    """Table and label -> name of the network's run; all of the first seed."""
    studies = prepare(opts)
    return {f"{found.table.name} {row.label}": runs[0] for found in studies for row, runs in found.runs}


def changed(opts, *changes):
    return dataclasses.replace(opts, settings=with_changes(opts.settings, changes))


# --- for real


def test_figures_are_those_of_the_own_row(small):
    tree = json.loads((small[1] / "table8.json").read_text())
    assert [row["label"] for row in tree["rows"]] == ["A", "C", "F"] and tree["seeds"] == [0]
    owns = []
    for row in tree["rows"]:
        result = json.loads((ROOT / row["runs"][0] / "result.json").read_text())
        owns.append(result["row"])
        assert row["figures"] == [result["rows"][result["row"]]]
        assert row["mean"] == {name: pytest.approx(value) for name, value in row["figures"][0].items()}
        assert set(row["spread"].values()) == {None}
    assert owns == ["per-frame (SegFormer)", "CFFM", "CFFM++"]
    assert all(row["minutes"] > 0 and row["gigabytes"] > 1e-3 for row in tree["rows"])


def test_second_stage_starts_from_its_base(small):
    tree = json.loads((small[1] / "table8.json").read_text())
    base, top = (row["runs"][0] for row in tree["rows"][1:])
    results = [json.loads((ROOT / folder / "result.json").read_text()) for folder in (base, top)]
    assert results[1]["config"]["init"]["model"] == base and results[1]["config"]["optim"]["rate"] == 1e-3
    for row in ("CFFM", "per-frame (SegFormer)"):  # Frozen: it measures what its base measured.
        assert results[1]["rows"][row]["miou"] == pytest.approx(results[0]["rows"][row]["miou"], abs=2e-3)


def test_what_is_done_is_not_done_again(small, monkeypatch, capfd):
    """Neither for the same table, nor for the rows of others that are the same networks."""
    monkeypatch.setattr(loop, "train", lambda config: pytest.fail(f"{config.workdir} is trained again"))
    more, folder = small
    before = files(folder)
    assert run_command(command.main, [*TABLE8, *more]) == 0
    assert "run 3 of 3" in capfd.readouterr().out and files(folder) == before
    again = ["table4", "table10", "--rows", "b0-segformer", "b0-n1", "b1-n1", "cffm"]
    assert run_command(command.main, [*again, *more]) == 0
    out = capfd.readouterr().out
    assert "run 2 of 2" in out and "table4 b0-n1, table4 b1-n1, table10 cffm" in out
    assert {path.name for path in files(folder)} - {path.name for path in before} == {"table4.json", "table10.json"}


# --- what is shared


def test_rows_of_the_same_network_share_a_run():
    opts = options(*ABLATIONS)
    found = {row: run.name for row, run in names(opts).items()}
    cffm, segformer, whole = (found[f"table8 {label}"] for label in "CAF")
    for row in ("table4 b0-n1", "table4 b1-n1", "table5 9-6-3", "table6 49-20-6", "table9 4-cffm", "table10 cffm"):
        assert found[row] == cffm
    assert found["table4 b0-segformer"] == found["table4 b1-segformer"] == found["table5 segformer"] == segformer
    assert found["table10 100"] == found["table11 b0"] == whole and found["cffa cffm"] == cffm
    assert found["table4 b0-n2"] == found["table4 b1-n2"] != cffm
    # SegFormer, CFFM and CFFM++; what Tables 4 to 11 and the text add.
    assert len(set(found.values())) == 3 + (3 + 4 + 6 + 3 + 3 + 5 + 3 + 3 + 1)


def test_bases_are_those_of_the_rows():
    found = names(options("table8", "table9", "table11"))
    base = {row: [run.name for run in of.needs] for row, of in found.items()}
    for row, start in {"D": "A", "E": "B", "F": "C"}.items():
        assert base[f"table8 {row}"] == [found[f"table8 {start}"].name]
        assert found[f"table8 {row}"].config.init.model == found[f"table8 {start}"].config.workdir
    assert base["table9 6-cffm++"] == [found["table9 6-cffm"].name] and not base["table8 A"]
    first, clustered = found["table11 b5"].needs
    assert (first.config.model.name, clustered.config.model.name) == ("cffm_b0", "cffm_b5")
    assert found["table11 b5"].config.prototypes.checkpoint == clustered.config.workdir


def test_all_rows_have_the_backbone_of_the_config():
    opts = changed(options(*ABLATIONS), ("model.name", "cffm_b2"))
    for row, run in names(opts).items():
        wanted = "b0" if row.startswith("table11") else "b2"
        assert {run.config.model.name[-2:]} | {run.needs[0].config.model.name[-2:] for _ in run.needs} == {wanted}


def test_a_folder_holds_one_network():
    """What changes figures makes another run, what does not makes none; each stage by its own settings."""
    first = {row: run.name for row, run in names(options("table8")).items()}

    def which(*changes, **more):
        other = names(changed(options("table8", **more), *changes))
        return "".join(row[-1] for row in first if other[row].name != first[row])

    assert which() == which(("train.log_every", 3), ("eval.chunk", 2), ("data.threads", 5)) == ""
    for change in (
        ("train.steps", 7),
        ("data.frame_size", (64, 96)),
        ("optim.betas", (0.9, 0.99)),
        ("eval.max_videos", 1),
    ):
        assert which(change) == "ABCDEF"
    assert which(("prototypes.iterations", 3)) == which(second_steps=3) == which(second_rate=0.1) == "DEF"
    assert which(("model.blocks", 1)) == which(("model.global_blocks", 1)) == ""  # B0's own numbers
    assert which(("model.blocks", 2)) == "BCEF" and which(("model.global_blocks", 2)) == "DEF"
    runs = [runs for row, runs in prepare(options("table8", seeds=(0, 1)))[0].runs]
    assert all(a.name == b.name and a.workdir != b.workdir and b.config.train.seed == 1 for a, b in runs)


def test_second_stage_is_that_of_the_vspw_configs():
    first, second = (load_config(ROOT / "configs" / f"b1_vspw{end}.py") for end in ("", "_pp"))
    derived = plan.second_stage(first)
    assert derived.train.steps == second.train.steps
    assert dataclasses.replace(derived.optim, rate=0) == dataclasses.replace(second.optim, rate=0)
    assert derived.optim.rate == pytest.approx(second.optim.rate)
    given = plan.second_stage(first, steps=5, rate=0.1)
    assert (given.train.steps, given.optim.rate) == (5, 0.1)


def test_systems_of_table_1_in_small():
    """Each once, with what the papers have on the backbone of the study; one budget for all."""
    whole = changed(options("table1"), ("init.flow", "none"))
    found = {row.removeprefix("table1 "): run for row, run in names(whole).items()}
    models = {label: run.config.model.name for label, run in found.items()}
    assert list(models)[:3] == ["segformer-b0", "cffm-b0", "cffm++-b0"]
    here = [row.network for row in TABLE1.rows if row.network]
    assert set(models.values()) == {f"{of.family}_{'r18' if of.called else 'b0'}" for of in here}
    assert len({run.name for run in found.values()}) == len(found)
    usual, of_system = values(whole.settings), {"workdir", "model.name", "model.form", "data.samples"}
    for label, run in found.items():
        own, references = values(run.config), {"data.offsets", "model.receptive", "model.pooling"}
        others = {name for name in own if own[name] != usual[name]} - of_system
        assert run.needs or others == (references if "etc" in label or "netwarp" in label else set())
    assert found["pspnet-resnet-101"].config.data.samples == "frames"
    assert found["pspnet-resnet-101"].config.model.form == "vspw"
    other = names(changed(whole, ("model.name", "cffm_b2")))
    assert [row for row in other if "cffm" in row] == ["table1 cffm-b2", "table1 cffm++-b2"]


# --- what is kept and printed


def test_mean_and_spread():
    assert mean_and_spread([0.5, 0.6, 0.7]) == (pytest.approx(0.6), pytest.approx(0.1))
    assert mean_and_spread([1, 3]) == (2, pytest.approx(math.sqrt(2)))
    assert mean_and_spread([0.5]) == (0.5, None)
    assert mean_and_spread([0.5, None]) == mean_and_spread([]) == (None, None)


def test_table_of_three_seeds(trained_names, data, tmp_path, capfd):
    argv = ["table8", "--rows", "C", "F", "--seeds", "0", "1", "2", "--config", CONFIG, "--data.root", data]
    assert run_command(command.main, [*map(str, argv), "--folder", str(tmp_path)]) == 0
    out = capfd.readouterr().out
    line = "| C | A + static/motional (CFFM) | 38.5 | 60.0 ± 10.0 | 88.6 | 50.0 ± 0.0 | 84.1 | - |"
    assert line in out and "3 seed(s)" in out and "| 39.9 | 50.0 | 89.1 |" in out  # After the first seed, and the last.
    assert "| cffm_b0 | 1.50 | 2.50 |" in out
    tree = json.loads((tmp_path / "table8.json").read_text())
    assert tree["seeds"] == [0, 1, 2] and len(trained_names) == len(set(trained_names)) == 6
    row = tree["rows"][0]
    published = {"miou": 38.5, "vc8": 88.6, "vc16": 84.1}
    assert row["published"] == published and set(published) == set(COMPARED.values())
    assert row["mean"]["miou"] == pytest.approx(0.6) and row["spread"]["miou"] == pytest.approx(0.1)
    assert row["mean"]["vc16"] is None and row["runs"] == [name for name in trained_names if "cffm_b0" in name]


def test_interrupted_study_goes_on(trained_names, data, tmp_path, monkeypatch, capfd):
    pretend = loop.train

    def stops(config):
        if len(trained_names) == 3:
            raise KeyboardInterrupt
        return pretend(config)

    monkeypatch.setattr(loop, "train", stops)
    argv = ["table8", "--config", CONFIG, "--data.root", str(data), "--folder", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        run_command(command.main, argv)
    assert end.value.code == 130 and "goes on" in capfd.readouterr().err and len(list(tmp_path.glob("*/*/*"))) == 3
    monkeypatch.setattr(loop, "train", pretend)
    assert run_command(command.main, argv) == 0
    assert len(trained_names) == len(set(trained_names)) == 6
    assert [row["label"] for row in json.loads((tmp_path / "table8.json").read_text())["rows"]] == list("ABCDEF")


def test_without_a_table_those_of_the_default(trained_names, data, tmp_path):
    assert run_command(command.main, ["--config", CONFIG, "--data.root", str(data), "--folder", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.glob("*.json")} == {"table8.json", "table10.json", "table4.json"}


def test_built_in_videos_are_written_where_there_are_none(trained_names, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(generate, "generate", lambda root, config: made.append(str(root)))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    assert run_command(command.main, ["table8", "--rows", "A"]) == 0
    assert made == ["data/synthetic"]
    (tmp_path / "data" / "synthetic").mkdir(parents=True)
    assert run_command(command.main, ["table8", "--rows", "A"]) == 0
    (tmp_path / "configs" / "synthetic.py").rename(tmp_path / "configs" / "mine.py")
    argv = ["table8", "--rows", "A", "--config", "configs/mine.py", "--data.root", "nowhere"]
    assert run_command(command.main, argv) == 0
    assert len(made) == 1 and len(trained_names) == 2


# --- bad input


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["table12"], ["table12", "is no table that can be studied", "table4"]),
        (["table2"], ["table2", "is no table that can be studied", "table1"]),
        (["table1"], ["--init.flow", "is missing: etc_psp_r18", "--init.flow none"]),
        (["table1", "--rows", "etc"], ["--rows", "etc is no row of table1", "segformer-b0"]),
        (["table8", "--rows", "A", "G"], ["--rows", "G is no row of table8", "A, B, C, D, E, F"]),
        (["--rows", "7-5-3"], ["--rows", "7-5-3 is no row of table8, table10, table4"]),
        (["table8", "--seeds", "1", "1"], ["--seeds", "is 1 1"]),
        (["table8", "--seeds"], ["--seeds", "is empty"]),
        (["table8", "--steps", "3"], ["--steps", "is no option"]),
        (["table8", "--model.receptive", "49"], ["--model.receptive, --model.pooling", "one of each for a reference"]),
        (["table8", "--model.name", "cffmpp_b0"], ["--model.name", "second stage"]),
        (["table8", "--model.name", "cffm_b9"], ["--model.name", "unknown model"]),
        (["table8", "--workdir", "here"], ["--workdir", "has no use here"]),
        (["table8", "--init.model", "here"], ["--init.model", "has no use here"]),
        (["table8", "--second_steps", "-1"], ["--second-steps", "less than 0"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_options_at_fault(data, tmp_path, refused, argv, said):
    more = ["--config", CONFIG, "--data.root", data, "--folder", tmp_path / "studies"]
    refused(command.main, [*argv, *more], *said)


def test_faults_of_a_run_are_one_line(tmp_path, refused, monkeypatch):
    argv = ["table8", "--config", tmp_path / "none.py"]
    refused(command.main, argv, tmp_path / "none.py", "no such config file")
    (tmp_path / "file").write_text("")
    (tmp_path / "config.py").write_text((ROOT / "configs" / "synthetic.py").read_text())
    argv = ["table8", "--config", tmp_path / "config.py", "--data.root", tmp_path, "--folder", tmp_path / "file"]

    def train(config):
        raise InputError(config.data.root, "has no data folder inside", "point --data.root to it")

    monkeypatch.setattr(loop, "train", train)
    refused(command.main, argv, "has no data folder inside")
    monkeypatch.setattr(loop, "train", lambda config: {"own": Pretended(0.5)})
    monkeypatch.setattr(log, "last_times", lambda workdir: {})
    refused(command.main, argv, tmp_path / "file", "cannot be written")
