"""The public constructor of models, and the model that a config names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp

from cffm_jax.config import IGNORED_LABEL, Config, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.models import cffa, cffm_names, cfm
from cffm_jax.models.cffa import reference_sources
from cffm_jax.models.cffm import CFFM, FAMILIES
from cffm_jax.models.cfm import HEADS
from cffm_jax.models.encoders.names import names, size_of

FOREIGN_NAMES = (cffm_names.NAMES,)
"""Other people's names for the methods' weights: one row a method."""

LOCAL_BLOCKS = {"b0": 1, "b1": 2, "b2": 2, "b3": 2, "b4": 4, "b5": 4}
"""Mining blocks N for each MiT (CFFM section 4.1; B3 and B4, which the papers leave out, as their neighbours)."""

GLOBAL_BLOCKS = {"b0": 1, "b1": 1, "b2": 2, "b3": 2, "b4": 2, "b5": 2}
"""Global mining blocks N_g for each MiT (CFFM++ section 5.1: 1 for the small ones, 2 for the large ones)."""


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
) -> CFFM:
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
    if family not in FAMILIES or backbone not in names():
        known = f"{', '.join(FAMILIES)}, each followed by _ and one of {', '.join(names())}"
        raise ValueError(f"unknown model {name!r}; known: {known}")
    if blocks < 0 or global_blocks < 0:
        raise ValueError(f"{blocks} blocks, {global_blocks} global blocks: at least 1, or 0 for the papers' number")
    if len(norm_epsilons) not in (0, 2) or any(epsilon <= 0 for epsilon in norm_epsilons):
        raise ValueError(f"norm_epsilons {tuple(norm_epsilons)}: two numbers above 0, or none for the backbone's own")
    if projection not in ("linear", "normalised"):
        raise ValueError(f"projection must be 'linear' or 'normalised', not {projection!r}")
    if width < 1 or width % cfm.HEADS:
        raise ValueError(f"width {width}: not a multiple of the {cfm.HEADS} heads")
    has_local, has_global = FAMILIES[family]
    size = size_of(backbone)
    return CFFM(
        backbone,
        num_classes,
        local_blocks=(blocks or LOCAL_BLOCKS[size.like]) if has_local else 0,
        norm_epsilons=tuple(norm_epsilons) or size.norm_epsilons,
        global_blocks=(global_blocks or GLOBAL_BLOCKS[size.like]) if has_global else 0,
        sources=cffa.reference_sources(receptive, pooling),
        static=references == "self",
        attention=mining == "attention",
        projection=projection,
        width=width,
        dropout=dropout,
        drop_path=drop_path,
        dtype=jnp.dtype(dtype),
    )


def build_model(config: Config) -> CFFM:
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
