"""What a student learns of a teacher's outputs beside the labels (ETC, Liu et al., ECCV 2020): each
pixel's classes, and how alike the pixels of two frames are.

Dimension key: N frames, B pairs of frames, h w their maps, K classes, C channels of the student's
features, D of the teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from cffm_jax.models.resize import resize_bilinear

FEATURES, LOGITS = "taught_features", "taught_logits"
"""A batch's keys of a teacher's outputs."""


class FrameOutputs(NamedTuple):
    """Of frames: the features in front of the classifier, and the logits."""

    features: Float[Array, "*frames h w C"]
    logits: Float32[Array, "*frames h w K"]


def distillation(outputs: FrameOutputs, batch: Mapping[str, jax.Array]) -> dict[str, Float32[Array, ""]]:
    """The two losses of a batch by name; none without a teacher.

    Args:
      outputs: the student's, of the frames of clips of two, one clip after the other.
      batch: with the teacher's of them, [B, 2, ...], on whichever map: they are resized.
    """
    if LOGITS not in batch:
        return {}
    height, width = outputs.logits.shape[1:3]
    taught = (batch[name].reshape(-1, *batch[name].shape[2:]) for name in (FEATURES, LOGITS))
    features, logits = (resize_bilinear(x, (height, width)) for x in taught)
    pairs = (x.reshape(-1, 2, *x.shape[1:]) for x in (outputs.features, features))
    return {"pixel_loss": pixel_loss(outputs.logits, logits), "pair_loss": pair_loss(*pairs)}


def pixel_loss(logits: Float32[Array, "N h w K"], taught: Float32[Array, "N h w K"]) -> Float32[Array, ""]:
    """Mean over all pixels of KL(teacher || student), in nats; ``taught``: the teacher's logits."""
    wanted, given = jax.nn.log_softmax(taught), jax.nn.log_softmax(logits)
    return jnp.mean(jnp.sum(jnp.exp(wanted) * (wanted - given), -1))


def pair_loss(features: Float[Array, "B 2 h w C"], taught: Float[Array, "B 2 h w D"]) -> Float32[Array, ""]:
    """Mean over all pairs of a pixel of a first frame and one of its second of the squared
    difference between the student's cosine and the teacher's.

    For unit vectors X, Y of the student and U, V of the teacher, one a row, this is
    ||X Y' - U V'||^2 / (h w)^2, where ||X Y'||^2 = <X'X, Y'Y> and <X Y', U V'> = <X'U, Y'V>: no
    matrix of all pairs, of which a crop of 769x769 has 88 million.
    """
    student, teacher = (_unit(each.astype(jnp.float32)) for each in (features, taught))
    count = student.shape[2]
    products = _alike(student, student) - 2 * _alike(student, teacher) + _alike(teacher, teacher)
    return jnp.mean(products) / count**2


def _unit(x: Float32[Array, "B 2 h w C"]) -> Float32[Array, "B 2 h*w C"]:
    """Vectors of length 1; those of zeros stay so."""
    x = x.reshape(*x.shape[:2], -1, x.shape[-1])
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), -1, keepdims=True), 1e-12))


def _alike(one: Float32[Array, "B 2 n C"], other: Float32[Array, "B 2 n D"]) -> Float32[Array, " B"]:
    """<X'U, Y'V> of X, Y the first and the second frame of one, U, V of the other."""
    products = jnp.einsum("btic,btid->btcd", one, other, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(products[:, 0] * products[:, 1], (1, 2))
