"""The public constructor of models, and the model that a config names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.config import ModelConfig
from cffm_jax.config_checks import check_model
from cffm_jax.errors import InputError
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
    pooling_rule: Literal["release", "paper"] = ModelConfig.pooling_rule,
    pooling_form: Literal["position", "full"] = ModelConfig.pooling_form,
    target_receptive: int = ModelConfig.target_receptive,
    target_pooling: int = ModelConfig.target_pooling,
    window: int = ModelConfig.window,
    halo: int = ModelConfig.halo,
    global_weight: float = ModelConfig.global_weight,
    references: Literal["past", "self"] = ModelConfig.references,
    mining: Literal["attention", "positions"] = ModelConfig.mining,
    norm_epsilons: Sequence[float] = ModelConfig.norm_epsilons,
    depths: Sequence[int] = ModelConfig.depths,
    projection: Literal["linear", "normalised"] = ModelConfig.projection,
    width: int = ModelConfig.width,
    channels: Channels = COLOURS,
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
      pooling_rule: "release" computes with r and p what the release does, "paper" what the papers
        describe.
      pooling_form: "position" pools by a weight a position, "full" by a dense layer (Eq. 2).
      target_receptive: the papers' r' of the target's own pooled tokens.
      target_pooling: their p'.
      window: s, side of the target's windows.
      halo: positions around a window that it reads of the target, unpooled; the papers have 0.
      global_weight: lambda, the weight of the global logits.
      references: "self" has the target in place of its references (static contexts).
      mining: "positions" leaves the attention to the content out (CFFA only).
      norm_epsilons: of the encoder's norms: those of embeddings and reductions, those of blocks and
        stages; () takes the backbone's own.
      depths: blocks of the encoder's four stages; () takes the backbone's own.
      projection: of the encoder's stages: "linear" as SegFormer's, "normalised" as
        MMSegmentation's.
      width: channels of the frame features, a multiple of 8, the mining's heads.
      channels: of the frames; the default is RGB.

    Raises:
      ValueError: the name is unknown, or a setting breaks its rule (``ModelConfig``).

    Example:
      >>> model = create_model("cffm_b0", num_classes=124)
      >>> model.local_blocks
      1
    """
    settings = ModelConfig(
        name, num_classes, blocks=blocks, global_blocks=global_blocks, receptive=tuple(receptive),
        pooling=tuple(pooling), pooling_rule=pooling_rule, pooling_form=pooling_form,
        target_receptive=target_receptive, target_pooling=target_pooling, window=window, halo=halo,
        global_weight=global_weight, references=references, mining=mining,
        norm_epsilons=tuple(norm_epsilons), depths=tuple(depths), projection=projection, width=width,
        dropout=dropout, drop_path=drop_path,
        dtype=jnp.dtype(dtype).name,  # pyrefly: ignore[bad-argument-type]  # Its rule is asked next.
    )  # fmt: skip
    try:
        return build_model(settings, channels)
    except InputError as error:
        raise ValueError(str(error).replace("--model.", "")) from error


def build_model(settings: ModelConfig, channels: Channels = COLOURS) -> Method:
    """The model of a run's settings, for frames of these channels.

    Raises:
      InputError: an unknown name, or a setting against its rule.
    """
    check_model(settings)
    family, _, backbone = settings.name.partition("_")
    if family not in METHODS or backbone not in names():
        known = f"{', '.join(METHODS)}, each followed by _ and one of {', '.join(names())}"
        raise InputError("--model.name", f"unknown model {settings.name!r}; known: {known}", "name one of these")
    return METHODS[family].create(family, backbone, settings).clone(channels=channels)
