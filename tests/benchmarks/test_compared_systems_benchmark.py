"""Rows beside PyTorch by the real command, on a tiny frame (pytest -m reference)."""

import importlib.util

import pytest

from helpers.reference import torch
from helpers.runs import finished

pytestmark = pytest.mark.reference
COMMAND = "benchmarks/compared_systems.py"


@pytest.fixture(autouse=True)
def with_torch():
    """Without it the tests are skipped."""
    assert torch.__version__


def rows_of(*names):
    status, out, err = finished(COMMAND, "--rows", *names, "--height", 64, "--width", 96, "--calls", 1)
    assert status == 0, err
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in out.splitlines()[-len(names) :]]
    for row in rows:
        assert abs(float(row[3]) - float(row[4])) <= 0.1 and all(float(value) > 0 for value in row[5:9])
    return rows


def test_a_row_for_each_network():
    rows = rows_of("resnet18", "mobilenetv2")
    assert [row[:3] for row in rows] == [
        ["resnet18", "torchvision", "upernet_r18_plain"],
        ["mobilenetv2", "torchvision", "upernet_mobilenetv2"],
    ]


@pytest.mark.skipif(not importlib.util.find_spec("mmseg"), reason="without MMSegmentation")
def test_mmsegmentation_takes_our_weights_and_gives_the_same_logits():
    for row in rows_of("pspnet_mobilenetv2", "ocrnet_r101"):
        assert row[1] == "MMSegmentation" and row[0] == row[2] and float(row[-1]) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("mmseg") is not None, reason="with MMSegmentation")
def test_what_to_install_is_said():
    status, _, err = finished(COMMAND)
    assert status == 2 and "pip install --no-deps mmseg" in err and err.strip().endswith("mobilenetv2 upernet")


def test_unknown_rows_are_refused():
    status, _, err = finished(COMMAND, "--rows", "nothing")
    assert status == 2 and "--rows: nothing is none" in err and "resnet18" in err
