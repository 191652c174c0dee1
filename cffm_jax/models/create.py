"""The public constructor of models, and the model that a config names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp

from cffm_jax.config import EVALUATED, Config, ModelConfig, check_settings
from cffm_jax.errors import InputError
from cffm_jax.models.cfm import HEADS
from cffm_jax.models.encoders.names import names
from cffm_jax.models.methods import cffm, stppm
from cffm_jax.models.methods.method import Method

METHODS: dict[str, type[Method]] = {
    **dict.fromkeys(cffm.FAMILIES, cffm.CFFM),
    stppm.FAMILY: stppm.TemporalPyramid,
}
"""The first part of a model's public name -> its method: one row a method."""

FOREIGN_NAMES = tuple(dict.fromkeys(each.foreign_names for each in METHODS.values() if each.foreign_names.families))
"""Other people's names for the methods' weights, each table once."""


def create_model(
    name: str,
    num_classes: int,
    *,
    dtype: str | jnp.dtype = ModelConfig.dtype,
    dropout: float = ModelConfig.dropout,
    drop_path: float = ModelConfig.drop_path,
    blocks: int = ModelConfig.blocks,
    global_blocks: int = ModelConfig.global_blocks,
    receptive: Sequence[int] = ModelConfig.receptive,
    pooling: Sequence[int] = ModelConfig.pooling,
    references: Literal["past", "self"] = ModelConfig.references,
    mining: Literal["attention", "positions"] = ModelConfig.mining,
    norm_epsilons: Sequence[float] = ModelConfig.norm_epsilons,
    projection: Literal["linear", "normalised"] = ModelConfig.projection,
    width: int = ModelConfig.width,
) -> Method:
    """A model by its public name. The defaults are those of ``config.ModelConfig``.

    Args:
      name: method and backbone. Methods: ``segformer`` (the image baseline), ``cffm`` (local
        temporal contexts), ``cffmpp`` (local and global ones), ``cffmp`` (global ones alone, the
        papers' CFFM+), ``stppm`` (see ``methods.stppm``). Backbones: ``encoders.names.names()``,
        such as ``b0``, ``pvtv2_b1``, ``convnext_tiny``. So ``cffm_b1``.
      num_classes: K.
      dtype: compute type, "float32" or "bfloat16".
      dropout: share of channels dropped before each classifier.
      drop_path: the encoder's largest drop path rate.
      blocks: mining blocks N; 0 takes the papers' number for the backbone.
      global_blocks: global mining blocks N_g; 0 likewise.
      receptive: the papers' r, one number a reference frame, oldest first.
      pooling: the papers' p.
      references: "self" has the target in place of its references (static contexts).
      mining: "positions" leaves the attention to the content out (CFFA only).
      norm_epsilons: of the encoder's norms: those of embeddings and reductions, those of blocks and
        stages; () takes the backbone's own.
      projection: of the encoder's stages: "linear" as SegFormer's, "normalised" as
        MMSegmentation's.
      width: channels of the frame features, a multiple of 8, the mining's heads.

    Raises:
      ValueError: the name is unknown, or a number fits no model.

    Example:
      >>> model = create_model("cffm_b0", num_classes=124)
      >>> model.local_blocks
      1
    """
    family, _, backbone = name.partition("_")
    if family not in METHODS or backbone not in names():
        known = f"{', '.join(METHODS)}, each followed by _ and one of {', '.join(names())}"
        raise ValueError(f"unknown model {name!r}; known: {known}")
    if blocks < 0 or global_blocks < 0:
        raise ValueError(f"{blocks} blocks, {global_blocks} global blocks: at least 1, or 0 for the papers' number")
    if len(norm_epsilons) not in (0, 2) or any(epsilon <= 0 for epsilon in norm_epsilons):
        raise ValueError(f"norm_epsilons {tuple(norm_epsilons)}: two numbers above 0, or none for the backbone's own")
    if projection not in ("linear", "normalised"):
        raise ValueError(f"projection must be 'linear' or 'normalised', not {projection!r}")
    if width < 1 or width % HEADS:
        raise ValueError(f"width {width}: not a multiple of the {HEADS} heads")
    kind = jnp.dtype(dtype).name
    settings = ModelConfig(
        name, num_classes, blocks=blocks, global_blocks=global_blocks, receptive=tuple(receptive),
        pooling=tuple(pooling), references=references, mining=mining, norm_epsilons=tuple(norm_epsilons),
        projection=projection, width=width, dropout=dropout, drop_path=drop_path,
        dtype=kind,  # pyrefly: ignore[bad-argument-type]  # The choice of names is checked where options are read.
    )  # fmt: skip
    return METHODS[family].create(family, backbone, settings)


def build_model(config: Config) -> Method:
    """The model that a config names. InputError on an unknown name, or a setting, of those that an
    evaluation reads, that breaks its rule."""
    check_settings(config, EVALUATED)
    try:
        return create_model(**dataclasses.asdict(config.model))
    except ValueError as error:
        raise InputError("--model.name", str(error), "name one of these") from error
