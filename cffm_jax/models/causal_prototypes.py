"""Prototypes of the frames so far, the recurrent state of streams, which the papers do not have.

Dimension key: S streams, H W the model's input, h w the map at stride 8, P prototypes, C channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from cffm_jax.config import PrototypeConfig
from cffm_jax.errors import InputError
from cffm_jax.models.kmeans import RunningClusters, start_running, update_running


def no_prototypes(size: tuple[int, int], width: int, settings: PrototypeConfig) -> RunningClusters:
    """Zeros of one stream, for inputs of size (H, W) and features of so many channels.

    Raises:
      InputError: a frame has fewer tokens than prototypes are wanted.
    """
    count, tokens = settings.count, size[0] // 8 * (size[1] // 8)
    if tokens < count:
        problem = f"{tokens} tokens at {size[0]}x{size[1]} are fewer than {count} prototypes"
        raise InputError("--prototypes.count", problem, "give fewer")
    return RunningClusters(jnp.zeros((count, width)), jnp.zeros(count), jnp.zeros((), jnp.int32))


def with_frame(
    state: RunningClusters, frames: Float[Array, "S h w C"], age: Int32[Array, " S"], settings: PrototypeConfig
) -> RunningClusters:
    """The state of S streams with a frame of each, the ``age``-th of its video: the first is
    clustered whole, of those after it every ``interval``-th moves the centres."""

    def take_in(one: tuple[RunningClusters, jax.Array, jax.Array]) -> RunningClusters:
        running, frame, t = one
        tokens, key = frame.reshape(-1, frame.shape[-1]).astype(jnp.float32), jax.random.key(settings.seed)
        branches = (
            lambda: running,
            lambda: update_running(running, tokens, memory=settings.memory),
            lambda: start_running(key, tokens, settings.count, settings.iterations, start=settings.start),
        )
        choice = jnp.where(t == 0, 2, jnp.where(t % settings.interval == 0, 1, 0))
        return jax.lax.switch(choice, branches)

    # One stream after the other: of a batch of switches all branches would be computed.
    streams = [jax.tree.map(lambda x, i=i: x[i], (state, frames, age)) for i in range(len(age))]
    return jax.tree.map(lambda *each: jnp.stack(each), *map(take_in, streams))
