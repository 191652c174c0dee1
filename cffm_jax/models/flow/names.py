"""torchvision's names for RAFT's weights."""

from __future__ import annotations

from cffm_jax.models.foreign.layouts import BATCH_NORM, CONV
from cffm_jax.models.foreign.names import AS_RELEASED, RELEASED, HeadOrigin, Layer, MethodNames, Origin

ENCODERS = ("feature_encoder", "context_encoder")
_UNITS = (
    ("convnormrelu", "convnormrelu"),
    ("layer{stage}_{block}/convnormrelu{number}", "layer{stage}.{block}.convnormrelu{number}"),
    ("layer{stage}_{block}/downsample", "layer{stage}.{block}.downsample"),
)
_MOTION, _GRU = "update_block/motion_encoder/", "update_block.recurrent_block.convgru{number}."
LAYERS = (
    *(
        Layer(f"{encoder}/{path}/{part}", f"{encoder}.{key}.{i}", kind)
        for encoder in ENCODERS
        for path, key in _UNITS
        for i, (part, kind) in enumerate((("conv", CONV), ("norm", BATCH_NORM)))
    ),
    *(Layer(f"{encoder}/conv", f"{encoder}.conv", CONV) for encoder in ENCODERS),
    *(
        Layer(_MOTION + name, f"update_block.motion_encoder.{name}.0", CONV)
        for name in ("convcorr{number}", "convflow{number}", "conv")
    ),
    *(Layer("update_block/convgru{number}/" + name, _GRU + name, CONV) for name in ("convz", "convr", "convq")),
    Layer("update_block/flow_head_conv{number}", "update_block.flow_head.conv{number}", CONV),
    Layer("mask_predictor/convrelu", "mask_predictor.convrelu.0", CONV),
    Layer("mask_predictor/conv", "mask_predictor.conv", CONV),
)

NAME = "torchvision RAFT"
ORIGIN = Origin(
    name=NAME, prefix="", marks="", rules=AS_RELEASED, dead=(), licence="torchvision's weights: BSD-3-Clause",
    heads=RELEASED,
)  # fmt: skip
NAMES = MethodNames(prefix="", layers=LAYERS, origins={RELEASED: HeadOrigin({"": NAME}, AS_RELEASED)}, families={})
