"""What is trained and evaluated on CamVid and DAVIS, and where the files of that lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cffm_jax.errors import InputError

SYSTEMS = {"segformer_b0": "SegFormer-B0", "cffm_b0": "CFFM-B0", "cffmpp_b0": "CFFM++-B0"}
"""Model -> title, which is its row of Table 1 too."""
SEGFORMER, CFFM, CFFMPP = SYSTEMS

RECIPE = (
    "--init.encoder none --optim.rate 1e-3 --optim.head_multiplier 1 --optim.warmup_steps 50 "
    "--train.batch_size 4 --data.crop 160 224 --second-rate 1e-3"
).split()
"""Of all trainings: from random weights, the second stage of CFFM++ at the first one's rate."""


class Dataset(NamedTuple):
    """A dataset, and what its trainings have beside the recipe."""

    title: str
    options: tuple[str, ...]
    steps: int
    """Training iterations; CFFM++ takes a quarter of them on top."""


DATASETS = {
    "camvid": Dataset("CamVid", ("--config", "b0_camvid", "--data.frame_size", "180", "240"), 800),
    "davis": Dataset("DAVIS", ("--config", "b0_davis", "--data.frame_size", "160", "284"), 400),
}


class References(NamedTuple):
    """Where the references of an evaluated frame lie, and the options for that."""

    label: str
    options: tuple[str, ...] = ()


ITSELF = References("itself as references", ("--model.references", "self"))


class Evaluated(NamedTuple):
    """A split that networks are evaluated on.

    Attributes:
      dataset: key of ``DATASETS``.
      split: of it.
      note: beside its title.
      references: as in training, then others.
      strip: the video whose masks are drawn, and how many frames lie from one to the next.
    """

    dataset: str
    split: str
    note: str
    references: tuple[References, ...]
    strip: tuple[str, int] | None = None

    @property
    def title(self) -> str:
        return f"{DATASETS[self.dataset].title}, {self.split} ({self.note})"


SPLITS = (
    Evaluated("camvid", "test", "1 Hz", (References("3, 2, 1 s back"),)),
    Evaluated(
        "camvid", "val", "15 Hz",
        (
            References("3, 2, 1 s back", ("--data.offsets", "45", "30", "15")),
            References("0.6, 0.4, 0.2 s back", ("--data.offsets", "9", "6", "3")),
        ),
        ("0016E5_val", 2),
    ),
    Evaluated("davis", "val", "24 Hz", (References("0.6, 0.4, 0.2 s back"),), ("dog", 3)),
)  # fmt: skip


def references_of(model: str, of: Evaluated) -> tuple[References, ...]:
    """Those that a network is evaluated with; SegFormer reads none, so that all are the same."""
    return of.references[:1] if model == SEGFORMER else (*of.references, ITSELF)


def figures_file(folder: Path, of: Evaluated, model: str, seed: int, references: References) -> Path:
    """The JSON of an evaluation."""
    name = references.label.replace(",", "").replace(" ", "_")
    return folder / "evaluations" / f"{of.dataset}_{of.split}" / model / f"seed{seed}_{name}.json"


def masks_folder(folder: Path, of: Evaluated, model: str, seed: int) -> Path:
    """The masks of a split, with the references of the training."""
    return folder / "evaluations" / f"{of.dataset}_{of.split}" / model / f"seed{seed}_masks"


def finished_runs(folder: Path, dataset: str, seeds: Sequence[int]) -> dict[str, dict[int, Path]]:
    """Model -> seed -> folder of the run, in the order of ``SYSTEMS``.

    Raises:
      InputError: a network was trained twice with the same seed.
    """
    found: dict[str, dict[int, Path]] = {model: {} for model in SYSTEMS}
    for path in sorted((folder / dataset).glob("*/seed*/result.json")):
        config = json.loads(path.read_text())["config"]
        model, seed = config["model"]["name"], config["train"]["seed"]
        if model not in SYSTEMS or seed not in seeds:
            continue
        if seed in found[model]:
            problem = f"is a second run of {model} with seed {seed}, beside {found[model][seed]}"
            raise InputError(path.parent, problem, "give each recipe a --folder of its own")
        found[model][seed] = path.parent
    return found
