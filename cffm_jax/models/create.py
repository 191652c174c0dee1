"""The public constructor of models, and the model that a config names."""

from __future__ import annotations

import re
from typing import Any, Literal, overload

import jax.numpy as jnp

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.config import ModelConfig
from cffm_jax.config.checks import check_model
from cffm_jax.errors import InputError
from cffm_jax.models.encoders.names import names, size_of
from cffm_jax.models.flow import raft
from cffm_jax.models.flow.raft import Raft
from cffm_jax.models.methods import clockwork, dff, dvsn, etc, grfp, netwarp, stppm, tcb
from cffm_jax.models.methods.cffm import CFFM
from cffm_jax.models.methods.cffm_families import FAMILIES
from cffm_jax.models.methods.image_head import HEADS, ImageHead
from cffm_jax.models.methods.method import Method

METHODS: dict[str, type[Method]] = {
    **dict.fromkeys(FAMILIES, CFFM),
    stppm.FAMILY: stppm.TemporalPyramid,
    **dict.fromkeys(HEADS, ImageHead),
    **dict.fromkeys(tcb.KINDS, tcb.TemporalContextBlending),
    **dict.fromkeys(tcb.MEMORY_KINDS, tcb.BlendingWithMemory),
    **dict.fromkeys(netwarp.KINDS, netwarp.NetWarp),
    **dict.fromkeys(etc.KINDS, etc.MotionConsistent),
    "dff": dff.DeepFeatureFlow,
    "accel": dff.Accel,
    "grfp": grfp.GatedRecurrence,
    "dvsn": dvsn.DynamicNetwork,
    "cc": clockwork.Clockwork,
}
"""The first part of a model's public name -> its method: one row a method."""

FOREIGN_NAMES = tuple(dict.fromkeys(names for each in METHODS.values() for names in each.all_foreign_names()))
"""Other people's names for the methods' weights, each table once."""


@overload
def create_model(name: Literal["raft_small", "raft_large"], *, dtype: Any = ...) -> Raft: ...
@overload
def create_model(name: str, num_classes: int, *, channels: Channels = ..., **settings: Any) -> Method: ...
def create_model(name: str, num_classes: int = 0, *, channels: Channels = COLOURS, **settings: Any) -> Method | Raft:
    """A model by its public name. The defaults are those of ``config.ModelConfig``.

    Args:
      name: method and backbone. Methods: ``segformer`` (the image baseline), ``cffm`` (local
        temporal contexts), ``cffmpp`` (local and global ones), ``cffmp`` (global ones alone, the
        papers' CFFM+), ``stppm`` (see ``methods.stppm``); ``pspnet``, ``deeplabv3plus``,
        ``upernet``, ``ocrnet``, ``fcn`` (``methods.image_head``), ``tcb_ppm``, ``tcb_ocr``,
        ``tcb_ocr_mem`` (``methods.tcb``), ``netwarp_psp``, ``netwarp_ocr`` (``methods.netwarp``),
        ``etc_psp``, ``etc_ocr`` (``methods.etc``), ``dff``, ``accel`` (``methods.dff``), ``grfp``,
        ``dvsn``, ``cc`` (``methods.clockwork``). Backbones: ``encoders.names.names()``, such as
        ``b0``, ``pvtv2_b1``, ``convnext_tiny``, ``r101``, ``mobilenetv2``. So ``cffm_b1``. Or
        ``raft_small`` or ``raft_large``: optical flow, with ``dtype`` its only setting.
      num_classes: K.
      channels: of the frames; the default is RGB.
      **settings: fields of ``config.ModelConfig``, which documents them: ``dtype``, ``depths``,
        ``pooling_rule`` and so on.

    Raises:
      TypeError: there is no such setting.
      ValueError: the name is unknown, or a setting breaks its rule (``ModelConfig``).

    Examples:
      >>> model = create_model("cffm_b0", num_classes=124)
      >>> model.local_blocks
      1
    """
    if name in raft.SIZES:
        if unknown := settings.keys() - {"dtype"}:
            raise TypeError(f"{name} has no setting {min(unknown)}")
        if num_classes or channels != COLOURS:
            raise ValueError(f"{name} has no classes, and its images are red, green and blue")
        return Raft(name, jnp.dtype(settings.get("dtype", "float32")))
    if not num_classes:
        raise ValueError("num_classes: is 0; here are no data that say how many there are")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    if "dtype" in settings:
        settings["dtype"] = jnp.dtype(settings["dtype"]).name
    try:
        return build_model(ModelConfig(name, num_classes, **settings), channels)
    except InputError as error:
        said = re.sub(r"--model\.([a-z-]+)", lambda option: option[1].replace("-", "_"), str(error))
        raise ValueError(said) from error


def build_model(settings: ModelConfig, channels: Channels = COLOURS) -> Method:
    """The model of a run's settings, for frames of these channels.

    Raises:
      InputError: an unknown name, or a setting against its rule.
    """
    check_model(settings)
    families = [family for family in METHODS if settings.name.startswith(f"{family}_")]
    family = max(families, key=len, default="")
    backbone = settings.name.removeprefix(f"{family}_")
    if not family or backbone not in names():
        known = f"{', '.join(METHODS)}, each followed by _ and one of {', '.join(names())}"
        raise InputError("--model.name", f"unknown model {settings.name!r}; known: {known}", "name one of these")
    blocks = size_of(backbone).depths
    if settings.depths and len(settings.depths) != len(blocks):
        problem = f"{' '.join(map(str, settings.depths))}: the numbers of blocks of {backbone} cannot be set"
        raise InputError("--model.depths", problem, "leave it out, or take another backbone")
    model = METHODS[family].create(family, backbone, settings).clone(channels=channels)
    if model.BORROWED and channels != COLOURS:
        problem = f"{settings.name} reads optical flow, which is of red, green and blue"
        raise InputError("--data.channels", problem, "leave it out, or take another --model.name")
    return model
