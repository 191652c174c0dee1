"""Variables of a model: drawn at random, described by their shapes, flattened to paths."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax
import jax
import jax.numpy as jnp

from cffm_jax.models.encoders.backbone import INPUT_MULTIPLE
from cffm_jax.models.encoders.names import repeat_blocks
from cffm_jax.models.flow import raft
from cffm_jax.models.flow.raft import Raft
from cffm_jax.models.methods.method import Method

T = TypeVar("T")
Network = Method | Raft
"""What has names of its own for its weights: ``foreign_names``."""


def variable_shapes(model: Network) -> dict[str, Any]:
    """Shapes of the model's variables, whatever the clips' size, without computing anything."""
    return jax.tree.map(lambda leaf: leaf, _traced_shapes(model))  # The dicts are the caller's own.


@functools.lru_cache(maxsize=128)
def _traced_shapes(model: Network) -> dict[str, Any]:
    """Traced once, which takes a second or more: all that reads or writes weights asks several
    times. Of blocks that are alike one is traced: a B5 has 52, and tracing is slower than reading
    them."""
    if isinstance(model, Raft):
        image = jax.ShapeDtypeStruct((1, raft.LEAST, raft.LEAST, 3), jnp.float32)
        return jax.eval_shape(model.init, jax.random.key(0), image, image)
    clips = jax.ShapeDtypeStruct(
        (1, model.clip_frames, INPUT_MULTIPLE, INPUT_MULTIPLE, len(model.channels)), jnp.float32
    )
    shapes = jax.eval_shape(model.templated.init, jax.random.key(0), clips)
    return shapes if model.depths else unflatten(repeat_blocks(flatten(shapes), model.backbone))


def count_parameters(model: Method) -> int:
    """The model's own parameters: what it borrows (``Method.BORROWED``) does not count."""
    own = {name: tree for name, tree in variable_shapes(model)["params"].items() if name not in model.BORROWED}
    return sum(leaf.size for leaf in jax.tree.leaves(own))


def unflatten(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by "<collection>/<path>" -> variables."""
    return flax.traverse_util.unflatten_dict(dict(arrays), sep="/")


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``unflatten``."""
    return flax.traverse_util.flatten_dict(dict(variables), sep="/")


def init_variables(model: Method, key: jax.Array) -> dict[str, Any]:
    """Random variables, compiled; ValueError for a model whose number of classes is not known."""
    if not model.num_classes:
        raise ValueError("the number of classes is 0: it comes from the data, or --model.num-classes")
    return compiled_once(draw_variables, static_argnums=0)(model, key)


def compiled_once(draw: Callable[..., T], **options: Any) -> Callable[..., T]:
    """``jax.jit`` of what runs a single time: on CPUs two thirds of the time that random
    bits take to compile is LLVM optimising them, and a blink draws them without."""
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    return jax.jit(draw, compiler_options=quick, **options)


def draw_variables(model: Method, key: jax.Array) -> dict[str, Any]:
    """Random variables; the smallest clip will do, as shapes do not depend on the clips' size."""
    return dict(model.init(key, jnp.zeros((1, model.clip_frames, INPUT_MULTIPLE, INPUT_MULTIPLE, len(model.channels)))))


def trained_parts(model: Method, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that training updates: see ``Method.is_trained``."""
    return {name: tree for name, tree in params.items() if model.is_trained(name)}
