"""ConvNeXt: its authors' figures, its initial weights, its maps; against Hugging Face's (pytest -m reference)."""

import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.models.encoders import convnext
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.encoders.backbone import ENCODER_PARTS, Size
from cffm_jax.models.macs import macs

from helpers.reference import (
    CLASSES,
    STAGES,
    agree,
    assert_same_maps,
    converted,
    drawn,
    maps,
    maps_of,
    nhwc,
    theirs,
    torch,
    transformers,
)  # fmt: skip

CONVNEXT = (
    (r"embeddings\.patch_embeddings", "downsample_layers.0.0"),
    (r"embeddings\.layernorm", "downsample_layers.0.1"),
    (r"encoder\.stages\.(\d)\.downsampling_layer\.([01])", "downsample_layers.{0}.{1}"),
    (r"encoder\.stages\.(\d)\.layers\.(\d+)\.(dwconv|pwconv[12])", "stages.{0}.{1}.{2}"),
    (r"encoder\.stages\.(\d)\.layers\.(\d+)\.layernorm", "stages.{0}.{1}.norm"),
    (r"encoder\.stages\.(\d)\.layers\.(\d+)\.layer_scale_parameter", "stages.{0}.{1}.gamma"),
    (r"hidden_states_norms\.stage(\d)", "norm{before}"),
)


def make(dtype: str = "float32"):
    return encoders.make_encoder("convnext_tiny", (1e-6, 1e-6), 0.1, jnp.dtype(dtype))


def test_convnext_tiny_has_its_authors_parameters():
    variables = jax.eval_shape(make().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    shapes = flax.traverse_util.flatten_dict(variables["params"])
    count = sum(int(np.prod(leaf.shape)) for leaf in shapes.values())
    assert count - 2 * (96 + 192 + 384) + 768_000 + 1000 == 28_589_128


@pytest.mark.parametrize(("name", "published"), [("tiny", 4.5), ("small", 8.7), ("base", 15.4)])
def test_convnexts_count_is_the_published_one(name, published):
    """Giga multiply-accumulates at 224 x 224 (ConvNeXt paper, Table 1)."""
    counted = macs(f"segformer_convnext_{name}", 224, 224)
    assert round(sum(counted[part] for part in ENCODER_PARTS) / 1e9, 1) == published


@pytest.fixture(scope="module")
def small():
    """Initial variables of a ConvNeXt with a block a stage, its compiled maps, and a frame."""
    frames = np.random.default_rng(0).standard_normal((1, 32, 64, 3)).astype(np.float32)
    quickly = {"xla_backend_optimization_level": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(convnext.SIZES, "convnext_tiny", Size((16, 24, 32, 40), (1, 1, 1, 1), "b0"))
        module = make()
        variables = jax.device_get(jax.jit(module.init, compiler_options=quickly)(jax.random.key(0), frames))
        return variables, jax.jit(module.apply).lower(variables, frames).compile(quickly), frames


@pytest.mark.long
def test_initial_weights_of_convnext(small):
    variables, _, _ = small
    for path, weight in flax.traverse_util.flatten_dict(variables["params"], sep="/").items():
        leaf = path.rpartition("/")[2]
        if leaf == "kernel":
            assert 0.9 * 0.02 < weight.std() < 1.1 * 0.02 and np.abs(weight).max() < 2.1 * 0.02 / 0.8796, path
        else:
            assert np.all(weight == {"bias": 0, "scale": 1, "gamma": np.float32(1e-6)}[leaf]), path


def test_the_next_stage_reads_the_map_before_its_norm(small):
    """The norms are the decoder's: one stage's changes its own map alone."""
    variables, run, frames = small
    before = run(variables, frames)
    changed = jax.tree.map(np.copy, variables)
    changed["params"]["stages_1"]["norm"]["scale"][:] = 2
    after = run(changed, frames)
    for i in (0, 2, 3):
        np.testing.assert_array_equal(after[i], before[i])
    np.testing.assert_allclose(after[1], 2 * before[1], rtol=1e-6)


def test_bfloat16_gives_bfloat16_maps():
    frames = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    maps, variables = jax.eval_shape(make("bfloat16").init_with_output, jax.random.key(0), frames)
    assert {x.dtype for x in maps} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


# --- against Hugging Face's


@pytest.mark.reference
def test_convnext_gives_the_maps_of_huggingface():
    sizes = {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]}
    network = transformers.ConvNextBackbone(transformers.ConvNextConfig(**sizes, out_features=STAGES))
    beside = re.compile(r"embeddings\.layernorm|.*downsampling_layer\.0")
    assert_same_maps(*maps_of(network, "convnext_tiny", CONVNEXT, lambda key: bool(beside.fullmatch(key))))


@pytest.mark.reference
@pytest.mark.parametrize("form", ["backbone", "classifier"])
def test_huggingface_convnext(tmp_path, form):
    size = convnext.SIZES["convnext_tiny"]
    config = transformers.ConvNextConfig(
        hidden_sizes=list(size.channels), depths=list(size.depths), num_labels=CLASSES,
        out_features=STAGES,
    )  # fmt: skip
    backbone = drawn(transformers.ConvNextBackbone(config))
    model = backbone
    if form == "classifier":  # ImageNet's files have no norms of the stages: they start as they are when new.
        for norm in backbone.hidden_states_norms.values():
            torch.nn.init.ones_(norm.weight)
            torch.nn.init.zeros_(norm.bias)
        model = drawn(transformers.ConvNextForImageClassification(config))
        held = backbone.state_dict()
        model.convnext.load_state_dict({k: held.get(k, v) for k, v in model.convnext.state_dict().items()})
    model.save_pretrained(tmp_path / "model")
    weights = converted(tmp_path / "model", tmp_path)
    for ours, expected in zip(maps(weights), theirs(backbone).feature_maps, strict=True):
        agree(np.asarray(ours), nhwc(expected))
