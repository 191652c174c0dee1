"""Runs an exported stream: masks of frames, with JAX (and its flatbuffers) alone. It is copied beside the export.

stream = load("folder")
state = stream.start()
state, masks = stream.step(state, frames)  # u8[S,H,W,3] in RGB -> u8[S,H,W]
"""

import hashlib
import json
import math
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

TYPES = {"F32": "float32", "F16": "float16", "I32": "int32"}


class Stream:
    def __init__(self, exported, weights):
        self.exported, self.weights = exported, weights
        self._call = jax.jit(exported.call, donate_argnums=1)

    def start(self):
        """The state of streams that have seen nothing."""
        (_, state, _), _ = jax.tree.unflatten(self.exported.in_tree, self.exported.in_avals)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)

    def step(self, state, frames):
        """The next state and the masks. A stream starts anew where its number in state[1], its age, is set to 0."""
        return self._call(self.weights, state, frames)


def load(folder):
    """Reads an export and compares it with its checksums."""
    folder = Path(folder)
    about = json.loads((folder / "model.json").read_text())
    data = {name: (folder / name).read_bytes() for name in about["sha256"]}
    for name, sha256 in about["sha256"].items():
        if hashlib.sha256(data[name]).hexdigest() != sha256:
            raise ValueError(f"{folder / name}: is not what was written (other sha256); copy it again")
    file, weights = data["weights.safetensors"], {}
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    header.pop("__metadata__", None)
    for key, entry in header.items():
        count, offset = math.prod(entry["shape"]), start + entry["data_offsets"][0]
        array = np.frombuffer(file, TYPES[entry["dtype"]], count, offset).reshape(entry["shape"])
        weights[key] = jnp.asarray(array)
    return Stream(jax.export.deserialize(bytearray(data["step.jax"])), weights)
