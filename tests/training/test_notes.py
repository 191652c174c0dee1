"""Lines at the start of a training about frames that do not fill a crop."""

import pytest

from cffm_jax.config import DataConfig
from cffm_jax.data.layouts.read import read_split
from cffm_jax.training.notes import padding_notes, sampled_sizes

from helpers.datasets import write_own

WIDE, TALL, FLAT = (480, 853), (853, 480), (100, 400)


@pytest.mark.parametrize(
    ("crop", "sizes", "padding"),
    [
        ((480, 480), [WIDE, TALL, (240, 320)], None),  # All fill it when they fit 480x853.
        ((480, 864), [TALL], 1 - 480 / 864),
        ((480, 480), [WIDE, FLAT], 1 - 213 / 480),
        ((960, 960), [WIDE], 1 - 480 * 853 / 960**2),
    ],
)
def test_padding_is_told(crop, sizes, padding):
    said = padding_notes(DataConfig(crop=crop), sizes)
    assert len(said) == (padding is not None)
    if padding is not None:
        assert f"a crop is {crop[0]}x{crop[1]}: about {100 * padding:.0f} % of it is padding" in said[0]


def test_sizes_are_those_of_the_files(tmp_path):
    write_own(tmp_path, {"a": (2, {0}), "b": (1, {0})}, size=(40, 60))
    (tmp_path / "b" / "frames" / "0000.png").write_bytes(b"no picture")
    assert sampled_sizes(read_split(str(tmp_path), "train", layout="folder")) == [(40, 60)]
