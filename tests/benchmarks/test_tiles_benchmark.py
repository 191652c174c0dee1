"""Memory of frames in tiles by the real command, on tiny frames."""

import pytest

from helpers.runs import finished

pytestmark = pytest.mark.long


def test_a_row_for_each_tiling():
    argv = ("--models", "segformer_b0", "--size", 60, 96, "--tiles", "whole", "64x64", "--overlap", 32)
    status, out, err = finished("benchmarks/tiles.py", *argv)
    assert status == 0, err
    whole, tiles = ([part.strip() for part in line.split("|")[2:-1]] for line in out.splitlines()[-2:])
    assert whole[:2] == ["60x96", "whole"] and tiles[:2] == ["60x96", "2 of 64x64, 32"]
    assert all(float(value) > 0 for row in (whole, tiles) for value in (row[2], row[3]))
