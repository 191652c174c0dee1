"""Weights of classes by their frequencies."""

import json

import numpy as np
import pytest

from cffm_jax.data.check import command as check
from cffm_jax.data.check.class_weights import class_weights
from cffm_jax.runtime.command_line import run_command

from helpers.datasets import write_own


def test_rules_are_their_formulas():
    pixels = [10, 0, 40, 50]
    np.testing.assert_allclose(class_weights(pixels, "median"), [4, 0, 1, 0.8])
    np.testing.assert_allclose(class_weights(pixels, "log"), [1 / np.log(1.12), 0, 1 / np.log(1.42), 1 / np.log(1.52)])
    for rule in ("median", "log"):
        assert not class_weights([0, 0], rule).any()


@pytest.mark.parametrize("rule", ["median", "log"])
def test_the_command_prints_the_option(data, tmp_path, capsys, rule):
    argv = [str(data), "--class-weights", rule, "--json", str(tmp_path / "check.json"), "--splits", "val"]
    run_command(check.main, argv)
    over, said = capsys.readouterr().out.splitlines()[-1].split(": ")
    option, *numbers = said.split()
    counted = [each["pixels"] for each in json.loads((tmp_path / "check.json").read_text())["classes"]]
    assert over == "over val" and option == "--loss.class-weights" and len(numbers) == len(counted) == 8
    np.testing.assert_allclose(list(map(float, numbers)), class_weights(counted, rule), rtol=1e-3)


def test_weights_are_those_of_the_training_split(tmp_path, capsys):
    """What only other splits hold has no weight, and counts for none."""
    root = write_own(tmp_path, {"a": (10, (0, 5))}, classes=2)
    write_own(tmp_path, {"b": (10, (0, 5))}, "val", classes=8)
    outcome = []
    for splits in (["train"], ["train", "val"]):
        argv = [str(root), "--layout", "folder", "--num-classes", "8", "--class-weights", "log", "--splits", *splits]
        run_command(check.main, argv)
        outcome.append(capsys.readouterr().out.splitlines()[-1])
    assert outcome[0] == outcome[1] and outcome[0].startswith("over train: ") and outcome[0].endswith(" 0 0 0 0 0 0")
