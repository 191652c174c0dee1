"""The encoders beside MiT (PVTv2, ConvNeXt), the epsilons of their norms, and what both mean for a whole model."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cffm_jax
from cffm_jax.checkpoints.compatible import require_same_model
from cffm_jax.config import Config, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.models import by_platform, convolutions
from cffm_jax.models.create import build_model
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.methods.cffm_families import FAMILIES
from cffm_jax.models.methods.cffm_sizes import GLOBAL_BLOCKS, LOCAL_BLOCKS
from cffm_jax.models.variables import flatten, variable_shapes
from cffm_jax.rules import option_name

OTHERS = [name for name in encoders.names() if name not in ("b0", "b1", "b2", "b3", "b4", "b5")]

PUBLISHED = {
    "pvtv2_b0": 3.7, "pvtv2_b1": 14.0, "pvtv2_b2": 25.4, "pvtv2_b3": 45.2, "pvtv2_b4": 62.6, "pvtv2_b5": 82.0,
    "convnext_tiny": 28.6, "convnext_small": 50.2, "convnext_base": 88.6,
    "r18_plain": 11.7, "r50_plain": 25.6, "r101_plain": 44.5, "mobilenetv2": 3.5,
}  # fmt: skip
"""Millions of parameters with ImageNet's classifier (PVTv2 paper, Table 1; ConvNeXt paper, Table 1; torchvision's for
the others). The counts of other stems are those of whole models, see test_image_heads."""
AFTER_THE_LAST_MAP = {"mobilenetv2": 320 * 1280 + 2 * 1280 + (1280 - 320) * 1000}
"""Parameters of a classifier that is more than a dense layer of the last map's mean."""


def make(name: str, depths: tuple[int, ...] = ()) -> nn.Module:
    return encoders.make_encoder(name, encoders.size_of(name).norm_epsilons, 0.1, jnp.dtype("float32"), depths)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def traced(name: str) -> tuple[list[tuple[int, ...]], dict]:
    """Shapes of the maps of three frames and of the parameters, with one trace of a block or two a stage: further ones
    are alike (weights/test_conversion.py)."""
    frames = jax.ShapeDtypeStruct((3, 96, 160, 3), jnp.float32)
    encoder = make(name, depths=encoders.backbone_of(name).template_depths)
    maps, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), frames)
    assert {x.dtype for x in maps} == {jnp.dtype("float32")}
    leaves = flatten({"params": {encoders.ENCODER: variables["params"]}})
    return [x.shape for x in maps], encoders.repeat_blocks(leaves, name)


@pytest.mark.parametrize("name", OTHERS)
def test_maps_of_every_size(name):
    channels = encoders.size_of(name).channels
    assert traced(name)[0] == [(3, 96 // s, 160 // s, c) for s, c in zip((4, 8, 16, 32), channels, strict=True)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    leaves = traced(name)[1]
    channels = encoders.size_of(name).channels
    count = sum(int(np.prod(leaf.shape)) for leaf in leaves.values()) + 1000 * channels[-1] + 1000
    count += AFTER_THE_LAST_MAP.get(name, 0)
    if name.startswith("convnext"):  # A classifier needs the norm of the last stage alone.
        count -= 2 * sum(channels[:-1])
    assert round(count / 1e6, 1) == PUBLISHED[name]


@pytest.mark.parametrize("name", OTHERS)
def test_every_method_takes_every_encoder(name):
    for family, (_, has) in FAMILIES.items():
        model = cffm_jax.create_model(f"{family}_{name}", 19)
        assert (model.backbone, model.public_name) == (name, f"{family}_{name}")
        assert model.local_blocks == (LOCAL_BLOCKS[encoders.size_of(name).like] if "blocks" in has else 0)
        assert model.global_blocks == (GLOBAL_BLOCKS[encoders.size_of(name).like] if "global_blocks" in has else 0)
        others = {"convnext": (1e-6, 1e-6), "pvtv2": (1e-5, 1e-6)}
        assert model.norm_epsilons == others.get(name.partition("_")[0], (1e-5, 1e-5))


@pytest.mark.parametrize("name", ["cffm_pvtv2", "cffm_pvtv2_b6", "pvtv2_b0", "cffm_convnext", "cffm_tiny"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="unknown model .* convnext_tiny"):
        cffm_jax.create_model(name, 19)


@pytest.mark.parametrize("name", ["cffm_pvtv2_b0", "segformer_convnext_tiny"])
def test_sides_that_are_no_multiples_of_32_are_refused(name):
    model, frames = cffm_jax.create_model(name, 19), jax.ShapeDtypeStruct((1, 64, 100, 3), jnp.float32)
    with pytest.raises(ValueError, match="64x100.*multiples of 32"):
        jax.eval_shape(functools.partial(model.init, method="encode_stages"), jax.random.key(0), frames)


@pytest.mark.parametrize("platform", ["cpu", "default"])
@pytest.mark.parametrize("side", [3, 7])
def test_depthwise_convolution_and_its_gradients_are_xlas(side, platform):
    x, kernel, bias = normal(2, 6, 9, 5), normal(side, side, 5, seed=1), normal(5, seed=2)
    cotangent = normal(2, 6, 9, 5, seed=3)

    def grouped(x, kernel, bias):
        filters, dimensions = kernel[:, :, None], ("NHWC", "HWIO", "NHWC")
        form = {"dimension_numbers": dimensions, "feature_group_count": 5, "precision": "highest"}
        return bias + jax.lax.conv_general_dilated(x, filters, (1, 1), "SAME", **form)

    expected, expected_back = jax.vjp(grouped, x, kernel, bias)
    with by_platform.only(platform):
        ours, back = jax.vjp(convolutions.depthwise, x, kernel, bias)
        half = jax.vjp(convolutions.depthwise, *(each.astype(jnp.bfloat16) for each in (x, kernel, bias)))[1]
        gradients, halves = back(cotangent), half(cotangent.astype(jnp.bfloat16))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)
    for gradient, other in zip(gradients, expected_back(cotangent), strict=True):
        np.testing.assert_allclose(gradient, other, rtol=0, atol=5e-5)
    for gradient, other in zip(halves, expected_back(cotangent), strict=True):
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(gradient, other, rtol=0, atol=0.02 * np.abs(other).max())


# --- epsilons ------------------------------------------------------------------------------------------------------


def epsilons_of(name: str, norm_epsilons: tuple[float, float]) -> dict[str, float]:
    """Path of every norm of an encoder -> its epsilon."""
    found = {}

    def note(call, args, kwargs, context):
        if isinstance(context.module, nn.LayerNorm):
            found["/".join(context.module.path)] = context.module.epsilon
        return call(*args, **kwargs)

    module = encoders.make_encoder(name, norm_epsilons, 0.0, jnp.dtype("float32"))
    with nn.intercept_methods(note):
        jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    return found


@pytest.mark.parametrize(("name", "count"), [("b0", 4 + 6 + 16 + 4), ("pvtv2_b0", 30), ("convnext_tiny", 4 + 18 + 4)])
def test_epsilons_of_reductions_and_of_blocks(name, count):
    found = epsilons_of(name, (0.25, 0.5))
    assert len(found) == count
    for path, epsilon in found.items():
        assert epsilon == (0.25 if path.endswith(("embed_norm", "reduce_norm")) else 0.5), path


@pytest.mark.parametrize(
    ("setting", "given", "said"),
    [
        *(("norm_epsilons", given, "is .*; give two numbers above 0") for given in [(1e-5,), (0.0, 1e-6), (1.0,) * 3]),
        *(("depths", given, "is .*; give four numbers of at least 1") for given in [(1, 1, 1), (2, 2, 0, 2)]),
        ("projection", "square", "is 'square'; give one of linear, normalised"),
        ("width", 60, "is 60; give a multiple of the 8 heads"),
        ("blocks", -1, "less than 0; give 0 for the papers' numbers"),
        ("num_classes", 255, "is 255; give a number in 1..254"),
    ],
)
def test_settings_that_are_none(setting, given, said):
    arguments = {"name": "cffm_b0", "num_classes": 19, setting: given}
    with pytest.raises(ValueError, match=f"^{setting}: {said}"):
        cffm_jax.create_model(**arguments)
    with pytest.raises(InputError, match=f"^{option_name(f'model.{setting}')}: {said}"):
        build_model(ModelConfig(**arguments))


def test_a_backbone_whose_depths_cannot_be_set():
    with pytest.raises(ValueError, match=r"^depths: 1 1 1 1: the numbers of blocks of mobilenetv2 cannot be set"):
        cffm_jax.create_model("fcn_mobilenetv2", 19, depths=(1, 1, 1, 1))


def test_a_backbone_of_other_depths():
    """Its blocks, its parameters and its counts."""
    small = cffm_jax.create_model("cffm_b0", 19, depths=[1, 2, 1, 3])
    blocks = {tuple(path.split("/")[:4]) for path in flatten(variable_shapes(small)) if "/block" in path}
    assert len(blocks) == 7
    whole = cffm_jax.create_model("cffm_b0", 19, depths=(2, 2, 2, 2))
    usual = cffm_jax.create_model("cffm_b0", 19)
    assert variable_shapes(whole) == variable_shapes(usual)
    counts = [model.frame_macs(64, 96, executed=True)["encoder_mlp"] for model in (small, whole, usual)]
    assert counts[0] < counts[1] == counts[2]


def test_a_checkpoint_of_other_arithmetic_is_refused():
    plain = Config()

    def with_model(**changes) -> Config:
        return dataclasses.replace(plain, model=dataclasses.replace(plain.model, **changes))

    require_same_model(plain, with_model(norm_epsilons=(1e-5, 1e-6)), "run")  # Its backbone's own.
    with pytest.raises(InputError, match=r"model.norm_epsilons \[1e-05, 1e-06\].*--model.norm-epsilons 1e-05 1e-06"):
        require_same_model(plain, with_model(norm_epsilons=(1e-6, 1e-6)), "run")
    with pytest.raises(InputError, match='model.projection "normalised".*--model.projection normalised'):
        require_same_model(with_model(projection="normalised"), plain, "run")


def test_sizes_name_one_encoder_each():
    assert len(set(encoders.names())) == len(encoders.names())
    assert {encoders.size_of(name).like for name in encoders.names()} == set(LOCAL_BLOCKS) == set(GLOBAL_BLOCKS)


@pytest.mark.parametrize("name", ["b0", "convnext_tiny", "r18", "mobilenetv2"])
def test_norms_of_an_encoder_do_not_decay(name):
    model = cffm_jax.create_model(f"segformer_{name}", 19)
    paths = [path.split("/")[1:] for path in flatten(variable_shapes(model)) if path.startswith("params/encoder/")]
    norms = [path for path in paths if path[-1] == "scale"]
    kernels = [path for path in paths if path[-1] == "kernel"]
    assert norms and kernels and not any(map(model.decays, norms)) and all(map(model.decays, kernels))


@pytest.mark.long
@pytest.mark.parametrize("name", ["b0", "convnext_tiny", "r18", "mobilenetv2"])
def test_stages_one_after_the_other_are_the_encoder(name):
    encoder, frames = make(name), normal(1, 64, 96, 3)
    variables = jax.jit(encoder.init)(jax.random.key(0), frames)

    def in_parts(encoder, frames):
        between, lower = encoder.stages(frames, last=1)
        between, third = encoder.stages(between, first=2, last=2)
        return *lower, *third, *encoder.stages(between, first=3)[1]

    found = jax.jit(lambda v: encoder.apply(v, frames, method=in_parts))(variables)
    for one, other in zip(found, jax.jit(encoder.apply)(variables, frames), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
