"""Submissions of frames of every kind: masks lie on the frame as it is shown."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from cffm_jax.data.layouts.read import read_split
from cffm_jax.errors import InputError
from cffm_jax.evaluation.submission import submit_predictions

from helpers.datasets import write_png


def test_frames_that_are_turned_and_frames_of_other_kinds(tmp_path):
    frames = tmp_path / "data" / "a" / "frames"
    frames.mkdir(parents=True)
    exif, grey = Image.Exif(), np.zeros((40, 60), np.uint8)
    exif[274] = 6
    Image.fromarray(grey).save(frames / "0.jpg", exif=exif)  # 60x40 as it is stored, 40x60 as it is shown.
    Image.fromarray(grey.T).save(frames / "1.tif")
    np.save(frames / "2.npy", np.zeros((60, 40, 5), np.float32))
    (tmp_path / "data" / "test.txt").write_text("a\n")
    videos = read_split(str(tmp_path / "data"), "test", False, "folder")
    for i in range(3):
        write_png(tmp_path / "masks" / "a" / f"{i}.png", np.full((60, 40), i, np.uint8))
    out = tmp_path / "x.zip"
    submit_predictions(out, videos, tmp_path / "masks", 3, "classes", lambda: None)
    with zipfile.ZipFile(out) as made:
        assert made.namelist() == [f"a/{i}.png" for i in range(3)]
    write_png(tmp_path / "masks" / "a" / "0.png", grey)
    with pytest.raises(InputError, match="0.png: is 60x40, its frame 40x60"):
        submit_predictions(tmp_path / "y.zip", videos, tmp_path / "masks", 3, "classes", lambda: None)
