"""A trained network of single frames, of whose outputs a student learns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from cffm_jax.config import Config
from cffm_jax.errors import InputError
from cffm_jax.models.distillation import FEATURES, LOGITS
from cffm_jax.models.encoders.names import ENCODER
from cffm_jax.models.methods.method import Batch, Method
from cffm_jax.models.normalise import normalise
from cffm_jax.runtime.compiling import compiling
from cffm_jax.training.sharding import batch_sharded, everywhere, replicated
from cffm_jax.weights.described import StoredWeights
from cffm_jax.weights.open import complete, inherited, open_stored

_OPTION = "--train.teacher"


class Teacher:
    """Adds a network's outputs to batches, in a program of its own: they have no gradient.

    Attributes:
      origin: in words what it is.
      licence: the notice about its use.
    """

    def __init__(self, weights: StoredWeights):
        self._name = weights.model.public_name
        self.origin = f"teacher: {self._name} from {weights.source}"
        self.licence = f"teacher: {inherited(weights.source, weights.licence)}"
        self._model, self._variables = weights.model, complete(weights)
        self._outputs: Callable[..., dict[str, jax.Array]] | None = None

    def start(self, mesh: Mesh) -> None:
        """Places it, before the first call; all processes have to call it."""
        split, outputs = batch_sharded(mesh), functools.partial(outputs_of_batch, self._model)
        self._variables = everywhere(self._variables, mesh)
        self._outputs = jax.jit(outputs, in_shardings=(replicated(mesh), split), out_shardings=split)

    def __call__(self, batch: Batch) -> dict[str, jax.Array]:
        """The batch with the outputs of its frames."""
        assert self._outputs is not None
        read = {name: batch[name] for name in ("frames", "size")}
        with compiling("the teacher", self._name, *read["frames"].shape):
            return {**batch, **self._outputs(self._variables, read)}

    @property
    def held(self) -> int:
        """Bytes of its weights on each device."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._variables))


def outputs_of_batch(model: Method, variables: Mapping[str, Any], batch: Batch) -> dict[str, jax.Array]:
    """A teacher's outputs of all frames of clips: see ``methods.method.Batch``."""
    clips = normalise(batch["frames"], batch["size"], model.channels)
    b, t, *shape = clips.shape
    outputs = model.apply(variables, clips.reshape(b * t, *shape), method="frame_outputs")
    features, logits = jax.tree.leaves(jax.tree.map(lambda x: x.reshape(b, t, *x.shape[1:]), outputs))
    return {FEATURES: features, LOGITS: logits}


def open_teacher(student: Method, config: Config) -> Teacher | None:
    """The network that ``train.teacher`` names, to be started; None without any.

    Raises:
      InputError: it cannot be read, does not segment frames on their own, or has other classes,
        channels or sides of frames; or the student does not learn of one.
    """
    path = config.train.teacher
    if not path:
        return None
    if not student.LEARNS:
        raise InputError(_OPTION, f"{student.public_name} does not learn of a teacher", "leave it out, or train ETC")
    with open_stored(path) as weights:
        model, problem = weights.model, ""
        remedy = f"name an image network trained on these classes for {_OPTION}"
        if weights.part == ENCODER:
            problem = "holds an encoder alone"
        elif not model.teaches:
            problem = f"holds {model.public_name}, which does not segment each frame on its own"
        elif model.num_classes != student.num_classes:
            problem = f"has {model.num_classes} classes, {student.public_name} here {student.num_classes}"
        elif model.channels != student.channels:
            problem = "reads other channels of the frames, or normalises them otherwise"
        elif any(side % model.input_multiple for side in config.data.crop):
            crop = " ".join(map(str, config.data.crop))
            problem = f"takes frames with sides that are multiples of {model.input_multiple}, and --data.crop is {crop}"
            remedy = f"give such a --data.crop, or name an image network on a ResNet or MobileNetV2 for {_OPTION}"
        if problem:
            raise InputError(path, problem, remedy)
        weights.require_sound()
        return Teacher(weights)
