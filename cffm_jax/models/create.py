"""The public constructor of models, and the model that a config names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp

from cffm_jax.config import IGNORED_LABEL, Config, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.models import cffm, stppm
from cffm_jax.models.cffa import reference_sources
from cffm_jax.models.cfm import HEADS
from cffm_jax.models.encoders.names import names
from cffm_jax.models.method import Method

METHODS: dict[str, type[Method]] = {
    **dict.fromkeys(cffm.FAMILIES, cffm.CFFM),
    stppm.FAMILY: stppm.TemporalPyramid,
}
"""The first part of a model's public name -> its method: one row a method."""


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
      name: ``segformer_b0`` .. ``segformer_b5`` (the image baseline), ``cffm_b0`` .. (local temporal contexts),
        ``cffmpp_b0`` .. (local and global ones), ``cffmp_b0`` .. (global ones alone, the papers' CFFM+). In place of
        MiT ``b0`` each also takes ``pvtv2_b0`` .. ``pvtv2_b5``, ``convnext_tiny``, ``convnext_small`` and
        ``convnext_base``.
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
      norm_epsilons: of the encoder's norms: those of embeddings and reductions, those of blocks and stages; () takes
        the backbone's own.
      projection: of the encoder's stages: "linear" as SegFormer's, "normalised" as MMSegmentation's.
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
    settings = ModelConfig(
        name, num_classes, blocks=blocks, global_blocks=global_blocks, receptive=tuple(receptive),
        pooling=tuple(pooling), references=references, mining=mining, norm_epsilons=tuple(norm_epsilons),
        projection=projection, width=width, dtype=jnp.dtype(dtype).name, dropout=dropout, drop_path=drop_path,
    )  # fmt: skip
    return METHODS[family].create(family, backbone, settings)


def build_model(config: Config) -> Method:
    """The model that a config names. InputError on an unknown name, or settings that fit no model."""
    m, offsets = config.model, config.data.offsets
    if not 1 <= m.num_classes < IGNORED_LABEL:
        raise InputError("--model.num_classes", f"is {m.num_classes}", f"give a number in 1..{IGNORED_LABEL - 1}")
    if len(offsets) != len(m.receptive) or min(offsets, default=0) < 1 or list(offsets) != sorted(offsets)[::-1]:
        remedy = f"give {len(m.receptive)} numbers of at least 1, the largest first; as many as --model.receptive"
        raise InputError("--data.offsets", f"is {' '.join(map(str, offsets))}", remedy)
    if config.eval.chunk < 0:
        raise InputError("--eval.chunk", f"is {config.eval.chunk}", "give at least 1, or 0 for what suits the device")
    if min(config.data.scale) < 1:
        raise InputError("--data.scale", f"is {config.data.scale}", "give at least 1")
    try:
        reference_sources(m.receptive, m.pooling)
    except ValueError as error:
        raise InputError(
            "--model.receptive, --model.pooling", str(error), "see Tables 6 and 7 of the papers"
        ) from error
    if min(m.blocks, m.global_blocks) < 0:
        raise InputError("--model.blocks, --model.global_blocks", "less than 0", "give 0 for the papers' numbers")
    if len(m.norm_epsilons) not in (0, 2) or min(m.norm_epsilons, default=1.0) <= 0:
        problem = f"is {' '.join(map(str, m.norm_epsilons))}"
        raise InputError("--model.norm_epsilons", problem, "give two numbers above 0, or none for the backbone's own")
    if m.width < 1 or m.width % HEADS:
        raise InputError("--model.width", f"is {m.width}", f"give a multiple of the {HEADS} heads")
    try:
        return create_model(**dataclasses.asdict(m))
    except ValueError as error:
        raise InputError("--model.name", str(error), "name one of these") from error
