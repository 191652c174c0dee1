"""The papers' tables: every command parses and builds its model, bases fit, and the facts agree with each other."""

import ast
import dataclasses
import itertools
import math
import subprocess
import sys

import jax
import pytest

from cffm_jax.checkpoints.compatible import require_same_model
from cffm_jax.commands.train import TrainOptions
from cffm_jax.data.evaluation_frames import evaluation_size
from cffm_jax.data.layouts.classes import count_classes
from cffm_jax.evaluation.options import EvalOptions
from cffm_jax.models.create import build_model
from cffm_jax.models.methods.cffm_families import FAMILIES
from cffm_jax.models.variables import variable_shapes
from cffm_jax.rules import with_changes
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.settings import load_config
from cffm_jax.tables import document, networks, rows
from cffm_jax.tables.rows import TABLES
from cffm_jax.tables.table_types import CITYSCAPES, TEST_SERVER, VSPW

from helpers.runs import ROOT

ROWS = [(table, row) for table in TABLES for row in table.rows if row.network]
"""Of the systems that are here."""
NETWORKS = list(dict.fromkeys(network for _, row in ROWS for network in row.network.needs()))


def commands(row):
    """All that reproduces a row from nothing, in order; not evaluation without public labels."""
    training = tuple(networks.train_command(network) for network in row.network.needs())
    return training if row.where == TEST_SERVER else (*training, networks.eval_command(row.network))


@pytest.fixture(scope="module")
def configs():
    """What each network's training command asks for, as the command itself reads it."""

    def default(path):
        return TrainOptions(path, load_config(ROOT / path))

    commands = {network: networks.train_command(network) for network in NETWORKS}
    assert all(command[0] == "train.py" for command in commands.values())
    return {network: parse_command(TrainOptions, c[1:], default, "").settings for network, c in commands.items()}


def test_document_is_what_the_command_prints(capsys):
    assert run_command(document.main, []) == 0
    assert (ROOT / "docs" / "tables.md").read_text() == capsys.readouterr().out


def test_document_holds_every_command_once_and_in_order():
    lines = [line.removeprefix("python ") for line in document.markdown().splitlines() if line.startswith("python ")]
    needed = {" ".join(command) for _, row in ROWS for command in commands(row)}
    assert len(lines) == len(set(lines)) and set(lines) == needed
    for _, row in ROWS:
        places = [lines.index(" ".join(command)) for command in commands(row)]
        assert places == sorted(places)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.run.removeprefix("runs/"))
def test_training_command_is_the_network(configs, network):
    config = configs[network]
    expected = load_config(ROOT / networks.config_file(network))
    starts = network.files or [("init.encoder", f"mit_{network.backbone}.pth")]
    starts = [("init.model", network.base.run)] if network.base else starts
    changes = [("workdir", network.run), ("model.name", network.model), *starts, *network.changes]
    if network.prototypes:
        changes.append(("prototypes.checkpoint", network.prototypes.run))
    assert config == with_changes(expected, changes)
    model = build_model(config.model)
    assert bool(getattr(model, "local_blocks", 0)) == (network.family in ("cffm", "cffmpp"))
    assert bool(getattr(model, "global_blocks", 0)) == bool(network.base)
    assert network.family in FAMILIES or model.rows()[0].partition(" (")[0] in network.called
    if network.base:  # What the second stage demands of the run that it starts from.
        asked = with_changes(config, [("model.name", network.base.model)])
        require_same_model(configs[network.base], asked, network.base.run)
        assert network.base.model == {"cffmpp": "cffm", "cffmp": "segformer"}[network.family] + f"_{network.backbone}"


def test_evaluation_commands_parse():
    for command in {command for _, row in ROWS for command in commands(row) if command[0] == "eval.py"}:
        options = parse_command(EvalOptions, command[1:], lambda _: EvalOptions(), "")
        assert options.checkpoint in {network.run for network in NETWORKS}


def test_commands_come_after_what_they_need():
    for _, row in ROWS:
        made = set()
        for command in commands(row):
            named = dict(itertools.pairwise(command))
            for option in ("--init.model", "--prototypes.checkpoint", "--checkpoint"):
                name = named.get(option, "")
                assert not name or name.endswith(".pth") or name in made  # A file is somebody else's.
            made.add(named.get("--workdir"))
        evaluated = [command for command in commands(row) if command[0] == "eval.py"]
        assert evaluated == ([] if row.where == TEST_SERVER else [networks.eval_command(row.network)])


def test_a_run_is_one_network(configs):
    assert len({network.run for network in NETWORKS}) == len(NETWORKS)
    plain = [with_changes(config, [("workdir", "")]) for config in configs.values()]
    assert len(set(plain)) == len(plain)


def test_one_network_has_the_same_published_figures_in_every_table():
    found = {}
    for table, row in ROWS:
        for figure in ("miou", "vc8", "vc16", "weighted_iou"):
            value = getattr(row, figure)
            if value is not None:
                assert 0 < value < 100
                first = found.setdefault((row.network, row.where, figure), value)
                assert value == first, (table.name, row.label)


def test_labels_name_rows():
    assert [table.name for table in TABLES] == [f"table{n}" for n in range(1, 12)] + ["cffa"]
    for table in TABLES:
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels) and not any(set(label) & set(" ,|") for label in labels)
        assert {row.where for row in table.rows} <= {VSPW, TEST_SERVER, CITYSCAPES}
        assert table.ablation == (table.name not in ("table1", "table2", "table3"))


@pytest.mark.parametrize(
    ("table", "count", "here"), [(rows.TABLE1, 23, 23), (rows.TABLE2, 20, 20), (rows.TABLE3, 14, 14)]
)
def test_every_row_of_the_papers_is_there(table, count, here):
    assert len(table.rows) == count and sum(row.network is not None for row in table.rows) == here
    lines = [line for line in document.markdown().splitlines() if line.startswith("| ") and line.endswith(" | - |")]
    for row in table.rows:
        assert (row.network is None) == any(line.startswith(f"| {row.label} | {row.method} | ") for line in lines)


def test_configs_of_compared_systems_say_the_command_of_the_tables():
    compared = [network for network in NETWORKS if network.called]
    assert len(compared) == 19
    for network in compared:
        command, file = networks.train_command(network), ROOT / networks.config_file(network)
        assert command[-2:] == ("--workdir", network.run) == ("--workdir", load_config(file).workdir)
        said = ast.get_docstring(ast.parse(file.read_text())).partition("Command:")[2].partition("Cost:")[0]
        assert said.replace("\\\n", "").split() == ["python", *command[:-2]]


def test_configs_expect_the_figures_of_table_1():
    for row in rows.TABLE1.rows:
        if row.network is None or row.network.family == "segformer":
            continue
        text = (ROOT / networks.config_file(row.network)).read_text()
        assert f"mIoU {row.miou}, weighted IoU {row.weighted_iou}, mVC8 {row.vc8}, mVC16 {row.vc16}" in text


def test_cityscapes_is_its_own_table_and_configs(configs):
    for table, row in ROWS:
        needed = row.network.needs()
        assert {network.data for network in needed} == ({"cityscapes"} if table.name == "table3" else {"vspw"})
        assert (row.where == CITYSCAPES) == (table.name == "table3")
        for network in needed:
            data = configs[network].data
            assert data.layout == network.data and network.data in configs[network].workdir.split("_")
    for row in filter(lambda row: row.network, rows.TABLE3.rows):
        config = configs[row.network]
        assert count_classes("none", config.data.layout) == 19
        own = row.network.family in FAMILIES or row.network.backbone == "mobilenetv2"  # Its figure is its own.
        assert not own or (config.data.reverse == 0 and config.data.crop == (512, 1024))
        size = (1024, 2048) if row.network.called else config.data.crop  # MMSegmentation takes whole frames.
        assert evaluation_size(1024, 2048, config.data.frame_size) == size
        if row.network.family != "segformer" and own:
            assert f"mIoU {row.miou} " in (ROOT / networks.config_file(row.network)).read_text()


def test_receptive_fields_are_whole_cells(configs):
    for row in rows.TABLE6.rows:
        model = configs[row.network].model
        assert all(r % p == 0 for r, p in zip(model.receptive, model.pooling, strict=True))
        assert "-".join(map(str, model.receptive)) == row.label
    for row in rows.TABLE7.rows:
        assert "-".join(map(str, configs[row.network].model.pooling)) == row.label
    for row in rows.TABLE5.rows[1:]:
        assert "-".join(map(str, configs[row.network].data.offsets)) == row.label


def test_blocks_are_those_of_the_rows(configs):
    for row in rows.TABLE4.rows:
        wanted = 0 if row.label.endswith("segformer") else int(row.label[-1])
        assert build_model(configs[row.network].model).local_blocks == wanted


def test_with_another_backbone():
    network = next(row.network for row in rows.TABLE11.rows if row.label == "b5").on("b2")
    assert (network.model, network.base.model, network.prototypes.model) == ("cffmpp_b2", "cffm_b2", "cffm_b5")
    assert rows.TABLE8.rows[4].network.on("b0").needs()[0].model == "cffm_b0"


def test_needs_no_jax():
    program = "import cffm_jax.tables, cffm_jax.data.consistency, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_options_at_fault(refused):
    refused(document.main, ["--format", "html"], "--format", "is no option")


def counted(network, configs):
    """Millions of parameters: the network's with what the release adds and never calls; one global block's MLP's."""
    config = configs[network]
    classes = count_classes("none", config.data.layout)
    shapes = variable_shapes(build_model(dataclasses.replace(config.model, num_classes=classes)))["params"]
    sizes = {name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()}
    # A classifier; of each global block two thirds of its qkv layer, an output layer and a table of positions.
    blocks = sum(name.startswith("globals") for name in sizes)
    dead = 129 * classes + blocks * (3 * (256 * 256 + 256) + 169 * 8)
    mlp = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.get("globals_0", {}).get("mlp", {})))
    return (sum(sizes.values()) + dead) / 1e6, mlp / 1e6


@pytest.mark.parametrize(
    ("table", "row"),
    [(t, r) for t, r in ROWS if t.name in ("table1", "table3") and r.network.family in FAMILIES],
    ids=lambda each: getattr(each, "label", None),
)
def test_published_parameters_are_those_of_the_network(configs, table, row):
    """Rounded as printed, but SegFormer's larger ones, which are rounded up. Table 3's CFFM++ is CFFM and an MLP."""
    count, mlp = counted(row.network, configs)
    if table.name == "table3" and row.network.base:
        count = counted(row.network.base, configs)[0] + mlp
    rounded_up = 0.12 if row.network.family == "segformer" else 0.05
    assert -0.05 < row.costs.parameters - count < rounded_up


@pytest.mark.long
@pytest.mark.parametrize(
    "row",
    [
        row for _, row in ROWS if row.network.called and row.costs.parameters and row.network.backbone != "r18"
    ],  # ETC's is not explained.
    ids=lambda row: f"{row.where} {row.label}",
)
def test_published_parameters_of_compared_systems(configs, row):
    """In the form, and with the classes, that the notes of the tables name."""
    model, city = configs[row.network].model, row.where == CITYSCAPES
    form = "mmsegmentation" if row.network.family == "deeplabv3plus" else model.form
    network = build_model(dataclasses.replace(model, form=form, num_classes=150 if city else 124))
    trained = {name: tree for name, tree in variable_shapes(network)["params"].items() if name not in network.BORROWED}
    if row.network.family in ("etc_psp", "netwarp_psp"):
        trained["twice"] = trained["head"]["fuse"]
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained)) / 1e6
    assert row.costs.parameters == pytest.approx(count, abs=0.05)
