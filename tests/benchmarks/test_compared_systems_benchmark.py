"""Rows beside torchvision by the real command, on a tiny frame (pytest -m reference)."""

import pytest

from helpers.reference import torch
from helpers.runs import finished

pytestmark = pytest.mark.reference
COMMAND = "benchmarks/compared_systems.py"


def test_a_row_for_each_network():
    assert torch.__version__  # Without it the test is skipped.
    size = ("--height", 64, "--width", 96, "--calls", 1)
    status, out, err = finished(COMMAND, "--rows", "resnet18", "mobilenetv2", *size)
    assert status == 0, err
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in out.splitlines()[-2:]]
    assert [row[:2] for row in rows] == [["resnet18", "upernet_r18_plain"], ["mobilenetv2", "upernet_mobilenetv2"]]
    for row in rows:
        assert abs(float(row[2]) - float(row[3])) <= 0.1 and all(float(value) > 0 for value in row[4:8])


def test_unknown_rows_are_refused():
    status, _, err = finished(COMMAND, "--rows", "nothing")
    assert status == 2 and "--rows: nothing is none" in err and "resnet18" in err
