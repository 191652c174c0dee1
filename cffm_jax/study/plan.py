"""The runs of a study: a network with a seed, and the runs that it starts from; rows of one network
share theirs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro

from cffm_jax.config import SETTINGS, Config
from cffm_jax.errors import InputError
from cffm_jax.rules import earlier_names, option_name, require_values, setting, values, with_changes, with_paths
from cffm_jax.settings import Settings, load_config
from cffm_jax.tables.networks import Network, config_file
from cffm_jax.tables.rows import TABLE1, TABLE4, TABLE8, TABLE10, TABLES
from cffm_jax.tables.table_types import Row, Table

DEFAULT_CONFIG = "synthetic"
DEFAULT_TABLES = (TABLE8, TABLE10, TABLE4)
STUDIED = (TABLE1, *(table for table in TABLES if table.ablation))
SMALL_RESNET = "r18"
"""What compared systems have in a study, in place of ResNet-101."""

SECOND_STAGE_STEPS = 40_000 / 160_000
SECOND_STAGE_RATE = 2e-4 / 6e-5
"""The training of the global blocks relative to the first stage's (CFFM++ section 5.1)."""

_OR_PAPERS = {"least": 0, "problem": "less than 0", "remedy": "give 0 for the paper's share"}


@dataclasses.dataclass(frozen=True)
class StudyOptions:
    tables: tyro.conf.Positional[tuple[str, ...]] = ()
    """table1, table4 .. table11, cffa; without any: table8 table10 table4."""
    config: str = setting(DEFAULT_CONFIG, path=True)
    """Config file; the options below override its fields, and a row's settings those. Its backbone
    is that of all rows (but Table 11's; the systems of Table 1 that are on ResNet-101 have
    ResNet-18)."""
    rows: tuple[str, ...] = ()
    """Only the rows with these labels, see docs/tables.md."""
    seeds: tuple[int, ...] = setting((0,), least=0)
    """Every network is trained for each."""
    folder: str = setting("studies", path=True)
    """Where everything goes."""
    second_steps: int = setting(0, **_OR_PAPERS)
    """Iterations of the global blocks; 0: a quarter of the others', as in the paper."""
    second_rate: float = setting(0.0, **_OR_PAPERS)
    """Learning rate of the global blocks; 0: 3.3 times the encoder's, as in the paper."""
    settings: Settings = Config()


@dataclasses.dataclass(frozen=True)
class Run:
    """A network to train with one seed.

    Attributes:
      name: the folder's, the same for all seeds.
      config: all of its settings.
      needs: runs that it starts from or takes prototypes of.
    """

    name: str
    config: Config
    needs: tuple[Run, ...]

    @property
    def workdir(self) -> Path:
        return Path(self.config.workdir)

    @property
    def result(self) -> Path:
        return self.workdir / "result.json"

    def in_order(self) -> Iterator[Run]:
        """The runs that it needs, then itself."""
        for run in self.needs:
            yield from run.in_order()
        yield self


def second_stage(config: Config, steps: int = 0, rate: float = 0.0) -> Config:
    """The global blocks' training after a first stage with this config; 0: the paper's share."""
    return with_changes(
        config,
        [
            ("train.steps", steps or max(1, round(config.train.steps * SECOND_STAGE_STEPS))),
            ("optim.rate", rate or config.optim.rate * SECOND_STAGE_RATE),
            ("optim.head_multiplier", 1.0),
            ("init.encoder", ""),
        ],
    )


def plan(network: Network, options: StudyOptions, seed: int) -> Run:
    """The run of a network, and of those that it needs, with the study's settings.

    Raises:
      InputError: the settings fit no model, or do not say where optical flow comes from.
    """
    config = with_changes(options.settings, [("model.name", network.model), ("train.seed", seed), *network.changes])
    needs = []
    if network.base:
        needs.append(plan(network.base, options, seed))
        config = second_stage(config, options.second_steps, options.second_rate)
        config = with_changes(config, [("init.model", needs[0].config.workdir)])
    if network.prototypes:
        needs.append(plan(network.prototypes, options, seed))
        config = with_changes(config, [("prototypes.checkpoint", needs[-1].config.workdir)])
    name = f"{network.model}-{_digest(config, [run.name for run in needs])}"
    workdir = Path(options.folder) / name / f"seed{seed}"
    return Run(name, with_changes(config, [("workdir", str(workdir))]), tuple(needs))


def _digest(config: Config, needs: Sequence[str]) -> str:
    """Digests all that a network's figures depend on but the seed."""
    from cffm_jax.evaluation.options import cutoff_of
    from cffm_jax.models.create import build_model
    from cffm_jax.weights.flow import flow_weights

    model = build_model(config.model, config.data.frame_channels)
    flow_weights(model, config.init.flow)  # Raises what would stop its run.
    resolved = model.settings_resolved
    flat = values(config) | {f"model.{name}": resolved.get(name, 0) for name in ("blocks", "global_blocks")}
    # Runs that differ in nothing else are one.
    kept = {
        name: flat[name]
        for name, about in SETTINGS.items()
        if about.changes != "nothing"
        and not about.set_by_study
        and (about.part != "method" or not {name, f"{name.partition('.')[0]}."}.isdisjoint(model.settings_read))
    }
    kept |= {earlier: kept.pop(name)[::-1] for earlier, name in earlier_names(Config).items()}  # As they were named.
    if not config.optim.clip_norm:
        del kept["optim.clip_norm"]
    if cutoff_of(config):  # As before there was a choice.
        del kept["eval.short_videos"]
    return hashlib.sha256(json.dumps([kept, needs], sort_keys=True).encode()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True)
class Study:
    """A table's rows and their runs, one for each seed."""

    table: Table
    runs: tuple[tuple[Row, tuple[Run, ...]], ...]


def chosen_tables(options: StudyOptions) -> list[tuple[Table, tuple[Row, ...]]]:
    """The tables and rows that are asked for. InputError for one that does not exist."""
    known = {table.name: table for table in STUDIED}
    for name in options.tables:
        if name not in known:
            raise InputError(name, "is no table that can be studied", f"name some of {', '.join(known)}")
    tables = [known[name] for name in dict.fromkeys(options.tables)] or DEFAULT_TABLES
    there = {table: tuple(row for row in table.rows if row.network) for table in tables}
    labels = [row.label for rows in there.values() for row in rows]
    for label in options.rows:
        if label not in labels:
            remedy = "name some of " + ", ".join(labels)
            raise InputError("--rows", f"{label} is no row of {', '.join(table.name for table in tables)}", remedy)
    kept = [(t, tuple(r for r in rows if not options.rows or r.label in options.rows)) for t, rows in there.items()]
    return [(table, rows) for table, rows in kept if rows]


def small_networks(table: Table, rows: Sequence[Row], backbone: str) -> list[tuple[Row, Network]]:
    """What stands for the rows' networks in a study on this backbone. Of a system that a table has
    in several sizes the row with this backbone is kept, else the first."""
    if table.keeps_backbones:
        return [(row, row.network) for row in rows if row.network]
    found = [(row, _small(row.one_backbone or row.network, backbone)) for row in rows if row.network]
    if table.ablation:
        return found
    kept: dict[Network, Row] = {}
    for row, network in found:
        if network not in kept or (row.network and row.network.backbone == backbone):
            kept[network] = row
    return [(row, network) for network, row in kept.items()]


def _small(network: Network, backbone: str) -> Network:
    """The network on this backbone. A compared system has a small ResNet, and what its own config
    says of the method: form of the head, samples, references; nothing of the recipe."""
    if not network.called:
        return network.on(backbone)
    own, usual = values(load_config(Path(config_file(network)).stem)), values(Config())
    of_method = ["data.samples", *(name for name in own if name.startswith("model.") and name != "model.name")]
    if own["data.samples"] == usual["data.samples"]:
        of_method.append("data.offsets")
    changes = tuple((name, own[name]) for name in of_method if own[name] != usual[name])
    return dataclasses.replace(network, backbone=SMALL_RESNET, changes=changes)


def prepare(options: StudyOptions) -> list[Study]:
    """All there is to do. InputError for options that do not fit, before anything is written."""
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise InputError("--seeds", f"is {' '.join(map(str, options.seeds)) or 'empty'}", "give different numbers")
    asked, given = values(options.settings), values(with_paths(load_config(options.config)))
    for name, about in SETTINGS.items():
        if about.set_by_study and asked[name] != given[name]:
            raise InputError(
                option_name(name), "has no use here: a study sets it for each run", "give --folder, --seeds"
            )
    require_values(options)
    from cffm_jax.models.create import build_model  # JAX takes its time to be imported.

    backbone = options.settings.model.name.partition("_")[2]
    if build_model(options.settings.model, options.settings.data.frame_channels).base is not None:
        problem = f"{options.settings.model.name} is trained in the second stage"
        raise InputError("--model.name", problem, "give the config of its first stage: a study derives the second")
    # Runs of several seeds must not share a file.
    cleared = [(name, "") for name in ("init.model", "prototypes.checkpoint", "prototypes.folder")]
    options = dataclasses.replace(options, settings=with_changes(options.settings, cleared))
    studies = []
    for table, rows in chosen_tables(options):
        runs = []
        for row, network in small_networks(table, rows, backbone):
            runs.append((row, tuple(plan(network, options, seed) for seed in options.seeds)))
        studies.append(Study(table, tuple(runs)))
    return studies


def distinct_runs(studies: Sequence[Study], seed: int) -> list[tuple[Run, list[str]]]:
    """Runs of the seed at that place, in order, each once, with the rows they are measured for."""
    needed: dict[str, tuple[Run, list[str]]] = {}
    for study in studies:
        for row, runs in study.runs:
            for run in runs[seed].in_order():
                needed.setdefault(run.name, (run, []))
            needed[runs[seed].name][1].append(f"{study.table.name} {row.label}")
    return list(needed.values())
