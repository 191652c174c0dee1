"""An exported stream runs with JAX alone and gives the masks of the stream it came from."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.commands.convert import convert_command
from cffm_jax.data import evaluation_frames
from cffm_jax.data.layouts.classes import read_classes
from cffm_jax.export import exported, stablehlo
from cffm_jax.export.resize_bytes import resize_bytes
from cffm_jax.inference import streaming
from cffm_jax.inference.load import Weights

from helpers.streams import CLASSES, CONFIG, made

SIZE = (64, 96)
"""What the model sees: nothing is resized, so that nothing is rounded."""


@pytest.fixture(scope="module")
def network():
    return made("cffm_b0")


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (8, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def config():
    return dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, frame_size=SIZE))


@pytest.fixture(scope="module")
def folder(network, config, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "stream"
    weights = Weights(*network, config, "ours", "Apache-2.0", *read_classes("nowhere", CLASSES))
    stablehlo.export_stream(weights, path, SIZE)
    return path


ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"cffm_jax", "flax", "optax", "orbax", "cv2", "safetensors", "tensorflow", "grain"}:
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, Refuse())
import numpy as np
import exported
stream = exported.load(".")
state, masks = stream.start(), []
for frame in np.load(sys.argv[1]):
    state, mask = stream.step(state, frame[None])
    masks.append(np.asarray(mask[0]))
np.save(sys.argv[2], np.stack(masks))
"""


def test_with_jax_alone_the_masks_are_the_same(network, config, frames, folder, tmp_path):
    np.save(tmp_path / "frames.npy", frames)
    argv = [sys.executable, "-c", ALONE, str(tmp_path / "frames.npy"), str(tmp_path / "masks.npy")]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    expected = np.stack(list(streaming.stream(*network, config, frames)))
    assert len(np.unique(expected)) > 1
    assert (np.load(tmp_path / "masks.npy") != expected).mean() < 1e-3


def test_the_loader_has_30_lines_of_code():
    code = re.sub(r'""".*?"""', "", Path(exported.__file__).read_text(), flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 30


def test_what_the_folder_says_of_itself(folder):
    about = json.loads((folder / "model.json").read_text())
    assert about["platforms"] == ["cpu", "cuda"] and about["offsets"] == [5, 3, 1]
    assert about["classes"] == [f"class {i}" for i in range(CLASSES)] and len(about["colours"]) == CLASSES
    names = {path.name for path in folder.iterdir()} - {"__pycache__"}  # Of exported.py, where it was imported.
    assert names == {*about["sha256"], "model.json", "exported.py"}


@pytest.mark.parametrize("name", ["step.jax", "weights.safetensors"])
def test_a_flipped_bit_is_found(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}: is not what was written"):
        exported.load(copy)


RESIZED = [
    ((64, 90), (64, 96)), ((64, 96), (101, 96)), ((90, 120), (64, 96)), ((90, 120), (97, 131)), ((72, 96), (36, 48)),
    ((108, 192), (48, 85)), ((1, 2), (3, 5)), ((9, 9), (9, 9)), ((97, 50), (33, 64)),
]  # fmt: skip


@pytest.mark.parametrize(("size", "wanted"), RESIZED)
def test_frames_are_resized_as_opencv_resizes_bytes(size, wanted):
    """Noise has every remainder, and the extremes."""
    frame = np.random.default_rng(0).choice(np.array([0, 1, 2, *range(5, 250, 7), 254, 255], np.uint8), (*size, 3))
    expected = cv2.resize(frame, wanted[::-1])
    for resize in (resize_bytes, jax.jit(resize_bytes, static_argnums=1)):
        np.testing.assert_array_equal(resize(jnp.int32(frame[None]), wanted)[0], expected)


def test_the_step_sees_the_bytes_that_the_other_engines_see(network, config):
    """Twice resized: to fit the box, and to multiples of 32."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 180, 240, 3), np.uint8)
    segmenter = streaming.StreamSegmenter(network[0], config, (180, 240))
    found = stablehlo.resized(segmenter, jnp.asarray(frames))
    np.testing.assert_array_equal(found[0], evaluation_frames.fit_frame(frames[0], config.data.frame_size))


def test_misuse_of_the_command(tmp_path, refused):
    (tmp_path / "there").mkdir()
    refused(convert_command, ["x", tmp_path / "there", "--to", "jax-export"], "is there already")
    refused(convert_command, ["x", tmp_path / "new", "--to", "jax-export", "--size", 0, 5], "--size")
    refused(convert_command, [tmp_path / "none", tmp_path / "new", "--to", "jax-export"], "none")
