"""Runs an exported stream with JAX (and its flatbuffers) alone; it is copied beside the export.

stream = load("folder")
state = stream.start()
state, masks = stream.step(state, frames)  # u8[S,H,W,3] in RGB -> u8[S,H,W]

Frames of other channels (model.json) are f32[S,H,W,K] with the files' own values.
"""

import hashlib
import json
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np


def load(folder):
    """Reads an export and compares it with its checksums."""
    data = {}
    for name, sha256 in json.loads(Path(folder, "model.json").read_text())["sha256"].items():
        data[name] = Path(folder, name).read_bytes()
        if hashlib.sha256(data[name]).hexdigest() != sha256:
            raise ValueError(f"{Path(folder, name)}: is not what was written (other sha256); copy it again")
    return Stream(jax.export.deserialize(bytearray(data["step.jax"])), data["weights.safetensors"])


class Stream:
    def __init__(self, exported, file):
        (shapes, self._state, _), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        start = 8 + int.from_bytes(file[:8], "little")
        header, self._weights = json.loads(file[8:start]), {}
        for name, of in shapes.items():
            array = np.frombuffer(file, of.dtype, of.size, start + header[name]["data_offsets"][0])
            self._weights[name] = jnp.asarray(array.reshape(of.shape))
        self._step = jax.jit(exported.call, donate_argnums=1)

    def start(self):
        """The state of streams that have seen nothing."""
        return jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), self._state)

    def step(self, state, frames):
        """The next state, in the memory of the one given, which is gone then; and the masks. A
        stream starts anew where its number in state[1], its age, is set to 0."""
        return self._step(self._weights, state, frames)
