"""Hand counts against the figures of the specification, the traced program and XLA's cost analysis."""

import functools

import jax
import jax.numpy as jnp
import pytest

from cffm_jax.models.create import create_model
from cffm_jax.models.encoders import mit
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.macs import Macs, macs, training_flops
from cffm_jax.models.methods.cffm import CFFM
from cffm_jax.models.variables import variable_shapes

from helpers.products import traced_elements, traced_products

HEIGHT, WIDTH = 480, 864
K = 124
DEPTHS = (1, 2, 1, 3)
"""Another number for each stage, and few: tracing takes its time."""


def giga(name: str, **options: str) -> float:
    return macs(name, HEIGHT, WIDTH, **options).total / 1e9


@pytest.mark.parametrize(
    ("backbone", "segformer", "cffm", "cffmpp"),
    [
        ("b0", 14.06, 20.37, 25.16),
        ("b1", 26.86, 39.90, 44.69),
        ("b2", 44.04, 57.07, 66.46),
        ("b5", 127.58, 154.05, 163.44),
    ],
)
def test_true_counts(backbone, segformer, cffm, cffmpp):
    assert round(giga(f"segformer_{backbone}"), 2) == segformer
    assert round(giga(f"cffm_{backbone}"), 2) == cffm
    # The specification's difference to CFFM; the last digit of its sum is that of rounded figures.
    assert abs(giga(f"cffmpp_{backbone}") - cffmpp) < 0.0151


def test_parts_of_b1():
    image, clip = macs("segformer_b1", HEIGHT, WIDTH), macs("cffm_b1", HEIGHT, WIDTH)
    attention = sum(count for part, count in image.items() if part.startswith("attention_"))
    figures = [
        (image["patch_embeddings"], 1.9), (attention, 8.5), (image["encoder_mlp"], 7.8),
        (image["fuse"], 6.8),
        (clip["cfm_qkv"], 3.6), (clip["cfm_attention"], 2.1), (clip["cfm_output"], 0.9), (clip["cfm_mlp"], 6.8),
    ]  # fmt: skip
    for count, figure in figures:
        assert round(count / 1e9, 1) == figure
    small = [("depthwise", 0.23), ("decoder_projections", 0.82), ("frame_classifier", 0.82)]
    for count, figure in [(image[part], figure) for part, figure in small]:
        assert round(count / 1e9, 2) == figure
    assert clip["frame_classifier"] == 0
    assert sum(clip.values()) == clip.total


@pytest.mark.parametrize(
    ("family", "table"),
    [
        ("segformer", {"b0": 14.6, "b1": 33.0, "b2": 57.2, "b5": 187.0}),
        ("cffm", {"b0": 25.6, "b1": 55.4, "b2": 79.6, "b5": 232.2}),
        ("cffmpp", {"b0": 34.3, "b1": 64.2, "b2": 96.9, "b5": 249.5}),
    ],
)
def test_paper_convention_is_the_papers_table(family, table):
    """CFFM++ paper, Table 1, all twelve."""
    assert {size: round(giga(f"{family}_{size}", convention="paper"), 1) for size in table} == table


@pytest.mark.parametrize("name", ["b1", "pvtv2_b0", "convnext_tiny"])
def test_what_the_paper_convention_adds_for_encoders_is_in_the_traced_layers(name):
    model, size = create_model(f"segformer_{name}", K, depths=DEPTHS), encoders.size_of(name, DEPTHS)
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    run = functools.partial(model.apply, method="encode_stages")
    traced = traced_elements(run, variable_shapes(model), images)
    assert encoders.backbone_of(name).elements(size, 64, 96) == traced
    assert "elementwise" not in macs(f"cffm_{name}", 64, 96)


def test_merged_decoder_and_keys():
    true, executed = macs("cffm_b1", HEIGHT, WIDTH), macs("cffm_b1", HEIGHT, WIDTH, convention="executed")
    assert executed["fuse"] == 0
    assert executed["cfm_attention"] * 289 == true["cfm_attention"] * 277
    assert executed["cfm_output"] * 63 * 112 == true["cfm_output"] * 60 * 108
    for part in ("patch_embeddings", "encoder_mlp", "decoder_projections", "cfm_qkv", "cfm_mlp", "clip_classifier"):
        assert executed[part] == true[part]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("cffm_b9", 64, 64), {}, "unknown model"),
        (("cffm_b0", 60, 64), {}, "multiples of 32"),
        (("cffm_b0", 64, 64), {"convention": "flops"}, "convention"),
    ],
)
def test_wrong_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        macs(*arguments, **options)


# --- against the program itself ------------------------------------------------------------------------------------


def program(model: CFFM, height: int, width: int, frames: int) -> tuple:
    """What runs for new frames with cached reference features, and the shapes of its arguments."""
    images = jax.ShapeDtypeStruct((frames, height, width, 3), jnp.float32)
    references = jax.ShapeDtypeStruct((frames, 3, height // 8, width // 8, model.width), jnp.float32)

    prototypes = jax.ShapeDtypeStruct((frames, 100, model.width), jnp.float32)

    def run(variables, images, references, prototypes):
        bound = model.bind(variables)
        features = bound.encode(images)
        logits = bound.classify_frames(features.fine)
        if not model.local_blocks:
            return logits
        logits = logits, bound.classify_clip(features.coarse, bound.mine_local(features.coarse, references))
        if not model.global_blocks:
            return logits
        return logits, bound.classify_global(bound.mine_global(features.coarse, prototypes))

    return run, (variable_shapes(model), images, references, prototypes)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cffmpp_b0", (64, 96)),
        pytest.param("segformer_b0", (64, 96), marks=pytest.mark.long),
        pytest.param("cffm_b0", (128, 224), marks=pytest.mark.long),
        pytest.param("cffm_b2", (96, 64), marks=pytest.mark.long),
        pytest.param("segformer_pvtv2_b0", (64, 96), marks=pytest.mark.long),
        ("cffm_convnext_tiny", (64, 96)),
    ],
)
def test_executed_count_equals_the_traced_products(name, size):
    """Exactly, but for depthwise convolutions, no products there; a second frame leaves out what runs once a call."""
    check_products(name, size, "linear")


def test_normalised_projections_in_the_traced_products():
    check_products("segformer_b0", (64, 96), "normalised")
    image, plain = macs("segformer_b0", 64, 96, projection="normalised"), macs("segformer_b0", 64, 96)
    assert image == plain, "in the order of the definition they are the same products"


@pytest.mark.parametrize("rule", ["release", pytest.param("paper", marks=pytest.mark.long)])
def test_dense_poolings_in_the_traced_products(rule):
    check_products("cffm_b0", (64, 96), "linear", pooling_form="full", pooling_rule=rule)


@pytest.mark.long
def test_contexts_of_the_papers_in_the_traced_products():
    paper = {"pooling_rule": "paper", "target_pooling": 5, "halo": 0, "window": 6, "pooling_form": "full"}
    check_products("cffm_b0", (64, 96), "linear", **paper)


def check_products(name: str, size: tuple[int, int], projection: str, **settings) -> None:
    model = create_model(name, K, projection=projection, depths=DEPTHS, **settings)
    counts = []
    for frames in (1, 2):
        run, arguments = program(model, *size, frames)
        counts.append(traced_products(jax.make_jaxpr(run)(*arguments).jaxpr))
    expected = Macs(model.macs(*size, prototypes=100, executed=True))
    assert counts[1] - counts[0] == expected.total - expected["depthwise"]


def test_xla_cost_analysis():
    """XLA counts two operations for a multiply-accumulate and adds all elementwise work, at most a tenth here."""
    size, frames, model = (64, 96), 2, create_model("cffm_b0", K, depths=(1, 1, 1, 1))
    run, arguments = program(model, *size, frames)
    flops = jax.jit(run).lower(*arguments).compile().cost_analysis()["flops"]
    once_a_call = sum(mit.SIZES["b0"].channels) * model.width**2  # the decoder's merged kernels
    expected = 2 * (frames * sum(model.macs(*size, prototypes=100, executed=True).values()) + once_a_call)
    assert 1.0 < flops / expected < 1.1


@pytest.mark.parametrize("name", [pytest.param("cffm_b0", marks=pytest.mark.long), "cffmpp_b0"])
def test_the_work_of_training_is_about_what_its_gradient_multiplies(name):
    """Traced: the pass back of the first layer lacks its frames' gradients, resizes are products there, and depthwise
    convolutions none. The decoder merges its kernels once a call, and with a pass back three times."""
    model, clips, size = create_model(name, K), 1, (64, 96)
    clip = jax.ShapeDtypeStruct((clips, 4, *size, 3), jnp.float32)
    variables = variable_shapes(model)
    prototypes = jax.ShapeDtypeStruct((clips, 100, model.width), jnp.float32)
    trained = {k: v for k, v in variables["params"].items() if not model.global_blocks or k.startswith("global")}

    def loss(trained, variables, clip, prototypes):
        variables = {**variables, "params": {**variables["params"], **trained}}
        rngs = {"dropout": jax.random.key(0)}
        if model.global_blocks:
            return model.apply(variables, clip[:, -1], prototypes, method="train_global", rngs=rngs).sum()
        outputs, _ = model.apply(variables, clip, train=True, method="clip_outputs", mutable=["batch_stats"], rngs=rngs)
        return outputs.logits.sum() + outputs.frame_logits.sum()

    traced = traced_products(jax.make_jaxpr(jax.grad(loss))(trained, variables, clip, prototypes).jaxpr)
    once_a_call = (1 if model.global_blocks else 3) * sum(mit.SIZES["b0"].channels) * model.width**2
    assert 0.95 < 2 * (traced - once_a_call) / training_flops(model, *size) < 1.05


def test_total_is_the_sum():
    names = list(macs("cffmpp_b0", 64, 96))
    assert Macs({name: 10**i for i, name in enumerate(names)}).total == int("1" * len(names))
