"""Weights of classes by their frequencies."""

import json

import numpy as np
import pytest

from cffm_jax.data.check import command as check
from cffm_jax.data.check.class_weights import class_weights
from cffm_jax.runtime.command_line import run_command


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
    option, *numbers = capsys.readouterr().out.splitlines()[-1].split()
    counted = [each["pixels"] for each in json.loads((tmp_path / "check.json").read_text())["classes"]]
    assert option == "--loss.class_weights" and len(numbers) == len(counted) == 8
    np.testing.assert_allclose(list(map(float, numbers)), class_weights(counted, rule), rtol=1e-3)
