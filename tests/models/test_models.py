"""The models: values of the released implementation, and the laws that any weights obey."""

import functools
import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cffm_jax
from cffm_jax.models import layers
from cffm_jax.models.encoders.mit import SIZES
from cffm_jax.models.losses import clip_loss
from cffm_jax.models.methods.cffm import ClipOutputs
from cffm_jax.models.methods.cffm_families import FAMILIES, parts_of
from cffm_jax.models.methods.cffm_sizes import GLOBAL_BLOCKS, LOCAL_BLOCKS
from cffm_jax.models.methods.frame_network import PER_FRAME
from cffm_jax.models.variables import variable_shapes
from cffm_jax.weights.naming.match import convert_state_dict, export_state_dict

from helpers import golden_values
from helpers.resizes import naive_resize

# The papers'; other encoders are in test_encoders.py.
NAMES = [f"{family}_b{i}" for family in FAMILIES for i in range(6)]
# Sides of the clips of the tests without golden values: their stride-8 maps are 8 x 12, four windows.
H, W = 64, 96
DEPTHS = (1, 1, 1, 1)


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def flat(tree: dict) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def shapes_of(name: str) -> dict:
    return variable_shapes(cffm_jax.create_model(name, 124))


# --- the released implementation -----------------------------------------------------------------------------------


@pytest.mark.long  # What a clip gives shows it too; this says where.
@pytest.mark.parametrize("size", ["b0", "b1"])
def test_the_encoder_gives_the_released_values(size):
    entry, stored = golden_values.manifest()[f"mit_{size}"], golden_values.arrays(f"mit_{size}")
    model = cffm_jax.create_model(f"cffm_{size}", 124)
    variables = convert_state_dict(golden_values.state_dict(f"mit_{size}"), model, part="encoder")
    frames = nhwc(golden_values.draw_input("frames", entry["frames"]))
    maps = jax.jit(functools.partial(model.apply, method="encode_stages"))(variables, frames)
    for number, x in enumerate(maps, 1):
        np.testing.assert_allclose(x, nhwc(stored[f"c{number}"]), rtol=0, atol=1e-5, err_msg=f"stage {number}")


@pytest.mark.parametrize("case", ["cffm_b0_96x160", pytest.param("cffm_b1_160x224", marks=pytest.mark.long)])
def test_a_clip_gives_the_released_values(case):
    entry, stored = golden_values.manifest()[case], golden_values.arrays(case)
    model = cffm_jax.create_model(f"cffm_{entry['variant']}", 124)
    variables = convert_state_dict(golden_values.state_dict(case), model)
    clips = nhwc(golden_values.draw_input("frames", entry["frames"]))[None]
    outputs = jax.jit(functools.partial(model.apply, method="clip_outputs"))(variables, clips)
    np.testing.assert_allclose(outputs.frame_logits[:, 0], nhwc(stored["single_frame_logits"]), rtol=0, atol=2e-5)
    np.testing.assert_allclose(outputs.mined, nhwc(stored["target_after_cfm"]), rtol=0, atol=2e-5)
    np.testing.assert_allclose(outputs.logits, nhwc(stored["logits"]), rtol=0, atol=2e-5)


def test_cffmpp_gives_the_released_values():
    case = "cffmpp_b1_96x160"
    entry, stored = golden_values.manifest()[case], golden_values.arrays(case)
    model = cffm_jax.create_model("cffmpp_b1", 124)
    variables = convert_state_dict(golden_values.state_dict(case), model)
    clips = nhwc(golden_values.draw_input("frames", entry["frames"]))[None]
    prototypes = golden_values.draw_input("prototypes", entry["prototypes"])
    outputs = jax.jit(functools.partial(model.apply, method="clip_outputs"))(variables, clips, prototypes=prototypes)
    np.testing.assert_allclose(outputs.logits, nhwc(stored["logits"]), rtol=0, atol=2e-5)
    quarter = naive_resize(nhwc(stored["global_logits_eighth"]), outputs.logits.shape[1:3])
    np.testing.assert_allclose(outputs.global_logits, quarter, rtol=0, atol=2e-5)
    assert entry["global_depth"] == model.global_blocks and entry["lambda_"] == model.global_weight


@pytest.fixture(scope="module")
def training_step():
    """Loss, gradients under the released names, and the variables after the released training step."""
    entry, stored = golden_values.manifest()["train_b0"], golden_values.arrays("train_b0")
    model = cffm_jax.create_model("cffm_b0", 124, dropout=0.0, drop_path=0.0)
    variables = convert_state_dict(golden_values.state_dict("train_b0"), model)
    frames = nhwc(golden_values.draw_input("frames", entry["frames"]))
    clips = frames.reshape(entry["clips"], 4, *frames.shape[1:])

    @jax.jit
    def step(variables, clips, labels):
        def loss(params):
            outputs, updated = model.apply(
                variables | {"params": params}, clips, train=True, method="clip_outputs", mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )  # fmt: skip
            return clip_loss(outputs, labels)[0], updated

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (loss, updated), gradients = step(variables, clips, stored["labels"])
    after = export_state_dict({"batch_stats": updated["batch_stats"]}, model)
    return entry, stored, float(loss), export_state_dict({"params": gradients}, model), after


@pytest.mark.long
def test_the_training_loss_is_the_released_one(training_step):
    entry, _, loss, _, _ = training_step
    assert abs(loss - entry["loss"]) < 1e-6 * entry["loss"]


def cancelled(key: str) -> bool:
    """Biases that the batch's statistics take away again: their gradients are rounding noise."""
    return key == "backbone.norm4.bias" or (".linear_c" in key and key.endswith("proj.bias"))


@pytest.mark.long
def test_every_gradients_norm_is_the_released_one(training_step):
    entry, _, _, gradients, _ = training_step
    assert set(entry["grad_norms"]) == set(gradients)
    assert set(entry["no_grad"]).isdisjoint(gradients)
    assert sum(map(cancelled, gradients)) == 5
    for key, norm in entry["grad_norms"].items():
        ours = np.linalg.norm(gradients[key].astype(np.float64).ravel())
        if cancelled(key):
            assert ours < 1e-6 and norm < 1e-6, key
        else:
            assert norm > 1e-6 and abs(ours - norm) < 1e-4 * norm, (key, ours, norm)


@pytest.mark.long
def test_whole_gradients_are_the_released_ones(training_step):
    _, stored, _, gradients, _ = training_step
    keys = [name.removeprefix("grad/") for name in stored if name.startswith("grad/")]
    assert keys
    for key in keys:
        expected = stored[f"grad/{key}"]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(gradients[key], expected, rtol=0, atol=2e-5 * scale, err_msg=key)


@pytest.mark.long
def test_running_statistics_are_the_released_ones(training_step):
    _, stored, _, _, after = training_step
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose(
            after[f"decode_head.linear_fuse.bn.{name}"], stored[name], rtol=0, atol=1e-6, err_msg=name
        )


# --- sizes and names -----------------------------------------------------------------------------------------------


def parameters(name: str) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes_of(name)["params"]))


DEAD_CLASSIFIER = 128 * 124 + 124
"""``decode_head.conv_seg``, which the release builds and never calls; published counts include it."""
DEAD_IN_GLOBAL = 2 * (256 * 256 + 256) + 256 * 256 + 256 + 169 * 8
"""In each global block: two thirds of its qkv layer, the output layer and the position table of a self-attention."""


def dead(name: str) -> int:
    return DEAD_CLASSIFIER + cffm_jax.create_model(name, 124).global_blocks * DEAD_IN_GLOBAL


def test_the_dead_classifier_is_the_releases():
    shapes = golden_values.manifest()["cffm_b1_160x224"]["state_dict"]
    counts = [int(np.prod(shape)) for key, shape in shapes.items() if "conv_seg" in key]
    assert sum(counts) == DEAD_CLASSIFIER == 15_996


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("cffm_b0", 4.7),
        ("cffm_b1", 15.5),
        ("cffm_b2", 26.5),
        ("cffm_b5", 85.5),
        ("cffmpp_b0", 5.7),
        ("cffmpp_b1", 16.5),
        ("cffmpp_b2", 28.5),
        ("cffmpp_b5", 87.5),
        ("segformer_b0", 3.8),
        ("segformer_b2", 24.8),
    ],
)
def test_parameter_counts_round_to_the_papers(name, paper):
    """Millions, dead weights included (CFFM++ paper, Table 1)."""
    assert round((parameters(name) + dead(name)) / 1e6, 1) == paper


@pytest.mark.parametrize(("name", "paper"), [("segformer_b1", 13.8), ("segformer_b5", 82.1)])
def test_parameter_counts_that_the_papers_round_up(name, paper):
    """13.73 and 82.02 M: within 0.1 M of the table, which rounds its SegFormer rows up."""
    assert 0 < paper - (parameters(name) + DEAD_CLASSIFIER) / 1e6 < 0.1


@pytest.mark.parametrize(
    ("name", "millions"), [("cffm_b0", 4.67), ("cffm_b1", 15.48), ("cffm_b2", 26.53), ("cffmpp_b1", 16.50)]
)
def test_parameter_counts_of_the_release(name, millions):
    assert round((parameters(name) + dead(name)) / 1e6, 2) == millions


@pytest.mark.parametrize("case", ["cffm_b0_96x160", "cffm_b1_160x224", "cffmpp_b1_96x160"])
def test_parameter_counts_are_those_of_the_released_state_dict(case):
    entry = golden_values.manifest()[case]
    counted = sum(
        int(np.prod(shape))
        for key, shape in entry["state_dict"].items()
        if not key.endswith(("num_batches_tracked", "running_mean", "running_var"))
    )
    name = f"{entry['kind']}_{entry['variant']}"
    assert parameters(name) + dead(name) == counted


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name.endswith(("b3", "b4")) else name for name in NAMES]
)
def test_names_give_their_models(name):
    model = cffm_jax.create_model(name, 19, dtype="bfloat16", dropout=0.3, drop_path=0.2)
    family, size = name.split("_")
    assert model.backbone == size and model.num_classes == 19 and model.dtype == jnp.bfloat16
    assert (model.dropout, model.drop_path) == (0.3, 0.2)
    assert model.local_blocks == (LOCAL_BLOCKS[size] if family in ("cffm", "cffmpp") else 0)
    assert model.global_blocks == (GLOBAL_BLOCKS[size] if family in ("cffmp", "cffmpp") else 0)
    blocks = {path.split("/")[0] for path in flat(shapes_of(name)["params"]) if path.startswith(("local_", "globals_"))}
    expected = {f"local_{i}" for i in range(model.local_blocks)}
    assert blocks == expected | {f"globals_{i}" for i in range(model.global_blocks)}


def test_the_papers_numbers_of_blocks():
    assert [LOCAL_BLOCKS[size] for size in ("b0", "b1", "b2", "b5")] == [1, 2, 2, 4]
    assert [GLOBAL_BLOCKS[size] for size in ("b0", "b1", "b2", "b5")] == [1, 1, 2, 2]


@pytest.mark.parametrize("name", ["cffm_b6", "cffm", "b1", "cffm-b1", "mit_b0", "", "CFFM_B1", "cffm_b1_", "cffmpp_1"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="unknown model"):
        cffm_jax.create_model(name, 124)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_families_parts_are_its_rows(family):
    model = cffm_jax.create_model(f"{family}_b0", 19)
    parts = parts_of(family)
    assert model.family == parts[0] == family and parts[-1] == "segformer"
    assert model.rows() == (*(FAMILIES[part].title for part in parts[:-1]), PER_FRAME)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        *(pytest.param(*size, marks=pytest.mark.long) for size in ((480, 480), (512, 1024), (32, 224))),
        (32, 32),
    ],
)
@pytest.mark.parametrize("name", [pytest.param("segformer_b0", marks=pytest.mark.long), "cffmpp_b0"])
def test_shapes_for_many_sizes(name, height, width):
    check_shapes(name, height, width)


@pytest.mark.parametrize(
    "family", [*(pytest.param(name, marks=pytest.mark.long) for name in ("segformer", "cffm", "cffmp")), "cffmpp"]
)
def test_shapes_of_larger_models(family):
    check_shapes(f"{family}_b5", 480, 864)


def check_shapes(name: str, height: int, width: int) -> None:
    model = cffm_jax.create_model(name, 124, depths=(1, 1, 1, 1))  # Further blocks change no shape.
    variables = variable_shapes(model)
    clips = jax.ShapeDtypeStruct((2, 4, height, width, 3), jnp.float32)
    prototypes = jax.ShapeDtypeStruct((2, 100, 256), jnp.float32) if model.global_blocks else None
    apply = functools.partial(model.apply, method="clip_outputs")
    outputs = jax.eval_shape(apply, variables, clips, prototypes=prototypes)
    assert (outputs.global_logits is None) == (prototypes is None)
    assert isinstance(outputs, ClipOutputs)
    assert outputs.logits.shape == (2, height // 4, width // 4, 124)
    assert outputs.frame_logits.shape == (2, 4, height // 4, width // 4, 124)
    assert outputs.mined.shape == (2, height // 8, width // 8, 256)
    assert outputs.logits.dtype == outputs.frame_logits.dtype == jnp.float32
    frames = jax.ShapeDtypeStruct((3, height, width, 3), jnp.float32)
    maps = jax.eval_shape(functools.partial(model.apply, method="encode_stages"), variables, frames)
    channels = SIZES[model.backbone].channels
    assert [x.shape for x in maps] == [
        (3, height // s, width // s, c) for s, c in zip((4, 8, 16, 32), channels, strict=True)
    ]


@pytest.mark.parametrize("name", ["segformer_b0", "cffm_b0"])
@pytest.mark.parametrize(("height", "width"), [(64, 100), (100, 64), (33, 33), (16, 32), (480, 853)])
def test_sides_that_are_no_multiples_of_32_are_refused(name, height, width):
    model = cffm_jax.create_model(name, 124)
    clips = jax.ShapeDtypeStruct((1, 4, height, width, 3), jnp.float32)
    with pytest.raises(ValueError, match=f"{height}x{width}.*multiples of 32"):
        jax.eval_shape(model.apply, shapes_of(name), clips)


# --- laws of the whole model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def b0():
    """The model with one block a stage, the drawn weights of the release, and its jitted ``method="clip_outputs"`` on
    two clips."""
    model = cffm_jax.create_model("cffm_b0", 124, depths=DEPTHS)
    released = golden_values.state_dict("cffm_b0_96x160")
    first = {key: value for key, value in released.items() if not re.match(r"backbone\.block\d\.1\.", key)}
    variables = convert_state_dict(first, model)
    return model, jax.device_put(variables), jax.jit(functools.partial(model.apply, method="clip_outputs"))


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return normal(2, 4, H, W, 3)


@pytest.fixture(scope="module")
def outputs(b0, clips) -> ClipOutputs:
    _, variables, run = b0
    return jax.device_get(run(variables, clips))


def test_clips_of_a_batch_do_not_meet(b0, clips, outputs):
    _, variables, run = b0
    changed = clips.copy()
    changed[1] = normal(4, H, W, 3, seed=5)
    other = run(variables, changed)
    for before, after in zip(jax.tree.leaves(outputs), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(after[0], before[0])
        assert np.abs(after[1] - before[1]).max() > 0.1


def test_the_order_of_a_batch_is_the_order_of_its_results(b0, clips, outputs):
    _, variables, run = b0
    other = run(variables, clips[::-1])
    for before, after in zip(jax.tree.leaves(outputs), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(after, before[::-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("frame", [0, 1, 2, 3])
def test_every_frame_matters_for_the_clip_and_for_its_own_logits_alone(b0, clips, outputs, frame):
    _, variables, run = b0
    changed = clips.copy()
    changed[1, frame] = normal(H, W, 3, seed=6)
    other = run(variables, changed)
    assert np.abs(other.logits[1] - outputs.logits[1]).max() > 1e-3
    np.testing.assert_array_equal(other.logits[0], outputs.logits[0])
    own = np.abs(other.frame_logits[1] - outputs.frame_logits[1]).max((1, 2, 3))
    assert own[frame] > 0.1 and np.all(np.delete(own, frame) == 0)


def test_the_order_of_the_references_matters(b0, clips, outputs):
    _, variables, run = b0
    swapped = run(variables, clips[:, [1, 0, 2, 3]])
    assert np.abs(swapped.logits - outputs.logits).max() > 1e-3
    np.testing.assert_allclose(swapped.frame_logits, outputs.frame_logits[:, [1, 0, 2, 3]], rtol=0, atol=1e-5)


def test_the_stages_of_the_paper_make_up_the_clip(b0, clips, outputs):
    """What streaming relies on: encode once, mine and classify later, gives what ``__call__`` gives."""
    model, variables, _ = b0

    @jax.jit
    def stages(variables, frames):
        features = model.apply(variables, frames, method="encode")
        coarse = features.coarse.reshape(2, 4, *features.coarse.shape[1:])
        mined = model.apply(variables, coarse[:, -1], coarse[:, :-1], method="mine_local")
        return (
            model.apply(variables, coarse[:, -1], mined, method="classify_clip"),
            model.apply(variables, features.fine, method="classify_frames"),
            mined,
            features,
        )

    logits, frame_logits, mined, features = stages(variables, clips.reshape(8, H, W, 3))
    np.testing.assert_allclose(logits, outputs.logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        frame_logits.reshape(outputs.frame_logits.shape), outputs.frame_logits, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(mined, outputs.mined, rtol=0, atol=1e-5)
    fine, coarse = np.asarray(features.fine), np.asarray(features.coarse)
    assert fine.shape == (8, H // 4, W // 4, 256) and fine.min() == 0, "features end in a ReLU"
    # The coarse features are the means of 2 x 2 fine ones: a bilinear half with half-pixel centres.
    means = fine.reshape(8, H // 8, 2, W // 8, 2, 256).mean((2, 4))
    np.testing.assert_allclose(coarse, means, rtol=0, atol=1e-6)


def test_frame_logits_are_segformers_of_each_frame_alone(b0, clips, outputs):
    """The image model takes the same weights, less those of the clip, and any number of frames."""
    variables = b0[1]
    segformer = cffm_jax.create_model("segformer_b0", 124, depths=DEPTHS)
    part = {"params": {key: variables["params"][key] for key in shapes_of("segformer_b0")["params"]}}
    part["batch_stats"] = variables["batch_stats"]
    alone = jax.jit(functools.partial(segformer.apply, method="clip_outputs"))(part, clips[0][:, None])
    np.testing.assert_allclose(alone.frame_logits[:, 0], outputs.frame_logits[0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(alone.logits, alone.frame_logits[:, -1])


@pytest.mark.long
def test_bfloat16_is_close_to_float32(b0, clips, outputs):
    """Relative root mean square below 3 %, bfloat16 having 8 bits; parameters and logits stay float32."""
    _, variables, _ = b0
    model = cffm_jax.create_model("cffm_b0", 124, depths=DEPTHS, dtype="bfloat16")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    features = jax.eval_shape(functools.partial(model.apply, method="encode"), variables, clips[0])
    assert features.fine.dtype == features.coarse.dtype == jnp.bfloat16
    halves = jax.jit(functools.partial(model.apply, method="clip_outputs"))(variables, clips)
    assert halves.logits.dtype == halves.frame_logits.dtype == jnp.float32
    for name in ("logits", "frame_logits"):
        ours, exact = np.asarray(getattr(halves, name)), getattr(outputs, name)
        error = np.sqrt(np.mean((ours - exact) ** 2) / np.mean((exact - exact.mean()) ** 2))
        assert 1e-4 < error < 3e-2, (name, error)


# --- laws of the mining --------------------------------------------------------------------------------------------

WINDOWS = 10  # Side by side, in one row.
PLACES = {"far": 0, "middle": 1, "near": 2}


@pytest.fixture(scope="module")
def mine(b0):
    """Windows whose mined target changes (b[4 variants, WINDOWS]) by changes of a strip of 7 x 70 features."""
    model, variables, _ = b0
    run = jax.jit(functools.partial(model.apply, method="mine_local"))
    target, references = normal(1, 7, 7 * WINDOWS, 256, seed=7), normal(1, 3, 7, 7 * WINDOWS, 256, seed=8)

    def both(targets: np.ndarray, references: np.ndarray) -> np.ndarray:
        return np.asarray(run(variables, targets, references))

    return both, np.repeat(target, 4, 0), np.repeat(references, 4, 0)


def changed_windows(before: np.ndarray, after: np.ndarray) -> list[set[int]]:
    difference = np.abs(after - before).reshape(4, 7, WINDOWS, 7, 256).max((1, 3, 4))
    return [set(np.flatnonzero(row).tolist()) for row in difference]


@pytest.mark.parametrize(
    ("source", "first", "last"),
    [
        # 7x7 windows around the own one.
        ("far", {1, 2, 3, 4, 5, 6, 7}, {1, 2, 3, 4, 5, 6, 7}),
        # 5x5 half windows around the own window's first: the last half of window 4 is seen from 4 and 5 alone.
        ("middle", {3, 4, 5}, {4, 5}),
        # 3x3 thirds around the own window's first: its own last third is out of reach.
        ("near", {4}, {5}),
    ],
)
def test_a_reference_pixel_is_seen_in_its_neighbourhood_alone(mine, source, first, last):
    """Changes the first and the last column of window 4 of one reference, in both cases in all rows."""
    run, target, references = mine
    changed = references.copy()
    changed[1, PLACES[source], :, 28] = normal(7, 256, seed=9)
    changed[2, PLACES[source], :, 34] = normal(7, 256, seed=9)
    seen = changed_windows(run(target, references), run(target, changed))
    assert seen == [set(), first, last, set()]


def test_a_target_pixel_is_seen_by_the_windows_around(mine):
    run, target, references = mine
    changed = target.copy()
    changed[1, 3, 31] = normal(256, seed=9)  # The middle of window 4: 5x5 windows pooled.
    changed[2, 3, 0] = normal(256, seed=9)  # The first column: read by the last window too, whose ring wraps around.
    changed[3, 3, 3] = normal(256, seed=9)  # Deeper than the ring.
    seen = changed_windows(run(target, references), run(changed, references))
    assert seen == [set(), {2, 3, 4, 5, 6}, {0, 1, 2, 9}, {0, 1, 2}]


def test_mining_moves_with_the_video_by_whole_windows(mine):
    """Away from the borders, which windows 3 to 6 do not see, the result depends on what is seen and not on where."""
    run, target, references = mine
    before = run(target, references)
    after = run(np.roll(target, 7, 2), np.roll(references, 7, 3))
    np.testing.assert_allclose(after[:, :, 7 * 4 : 7 * 7], before[:, :, 7 * 3 : 7 * 6], rtol=0, atol=2e-5)
    # Not by parts of a window.
    after = run(np.roll(target, 1, 2), np.roll(references, 1, 3))
    assert np.abs(after[:, :, 29:49] - before[:, :, 28:48]).max() > 1e-2


def test_mining_reads_normalised_references(mine):
    """LayerNorm comes first: scaled and shifted references are the same references (up to its epsilon)."""
    run, target, references = mine
    np.testing.assert_allclose(run(target, 100 * references + 3), run(target, 100 * references), rtol=0, atol=1e-4)


# --- training mode -------------------------------------------------------------------------------------------------


def train_outputs(model, variables, clips, key):
    changes = {"mutable": ["batch_stats"], "rngs": {"dropout": key}}
    return model.apply(variables, clips, train=True, method="clip_outputs", **changes)


@pytest.mark.long
def test_dropouts_follow_their_key(b0, clips):
    _, variables, _ = b0
    model = cffm_jax.create_model("cffm_b0", 124, depths=DEPTHS, dropout=0.5, drop_path=0.5)
    run = jax.jit(functools.partial(train_outputs, model))
    small = clips[:, :, :32, :32]
    first, updated = run(variables, small, jax.random.key(1))
    again, _ = run(variables, small, jax.random.key(1))
    other, _ = run(variables, small, jax.random.key(2))
    for a, b, c in zip(*map(jax.tree.leaves, (first, again, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 0.1
    before, after = flat(variables["batch_stats"]), flat(updated["batch_stats"])
    assert set(before) == set(after) == {"decoder/norm/mean", "decoder/norm/var"}
    assert all(np.abs(after[path] - before[path]).max() > 1e-3 for path in before)


def test_drop_path_rises_linearly_over_the_blocks():
    model = cffm_jax.create_model("cffm_b1", 124, drop_path=0.14)
    seen = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, layers.DropPath) and context.method_name == "__call__":
            seen.append(context.module.rate)
        return call(*args, **kwargs)

    variables, frames = shapes_of("cffm_b1"), jax.ShapeDtypeStruct((1, H, W, 3), jnp.float32)
    with nn.intercept_methods(note):
        jax.eval_shape(functools.partial(model.apply, method="encode_stages"), variables, frames)
    # Two branches in each of 2 + 2 + 2 + 2 blocks.
    np.testing.assert_allclose(seen, np.repeat([0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14], 2), atol=1e-9)


def test_drop_path_drops_whole_images_at_its_rate():
    module = layers.DropPath(0.3)
    x = jnp.ones((4000, 2, 3, 1))
    y = np.asarray(module.apply({}, x, True, rngs={"dropout": jax.random.key(0)}))
    assert np.all(y == y[:, :1, :1])
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
    assert abs((y[:, 0, 0, 0] == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)
    np.testing.assert_array_equal(module.apply({}, x, False), x)


def test_channel_dropout_drops_whole_channels_at_its_rate():
    module = layers.channel_dropout(0.1)
    y = np.asarray(
        module.apply({}, jnp.ones((20, 3, 4, 256)), deterministic=False, rngs={"dropout": jax.random.key(0)})
    )
    assert np.all(y == y[:, :1, :1])
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.9], rtol=1e-6)
    assert abs((y[:, 0, 0] == 0).mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / y[:, 0, 0].size)
    assert (y[:, 0, 0] == 0).any(1).all() and len(np.unique(y[:, 0, 0], axis=0)) == 20, "each image draws its own"


def test_batch_norm_is_its_definition():
    module = layers.BatchNorm()
    x = 2 + 3 * normal(2, 4, 5, 6)
    variables = {
        "params": {"scale": normal(6, seed=1), "bias": normal(6, seed=2)},
        "batch_stats": {"mean": normal(6, seed=3), "var": np.abs(normal(6, seed=4))},
    }
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    mean, var = variables["batch_stats"]["mean"], variables["batch_stats"]["var"]
    np.testing.assert_allclose(
        module.apply(variables, x, False), (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-4, atol=1e-4
    )
    y, updated = module.apply(variables, x, True, mutable=["batch_stats"])
    tokens = x.reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(
        y, (x - tokens.mean(0)) / np.sqrt(tokens.var(0) + 1e-5) * scale + bias, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.9 * mean + 0.1 * tokens.mean(0), rtol=1e-5, atol=1e-6)
    # PyTorch's running variance is the unbiased one.
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 * var + 0.1 * tokens.var(0, ddof=1), rtol=1e-5)


# --- initial weights -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def initial():
    model = cffm_jax.create_model("cffm_b0", 124, depths=DEPTHS)
    # Hundreds of draws: optimising them takes longer than they do.
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    clips = jnp.zeros((1, 4, 32, 32, 3))
    first, again, other = (jax.device_get(init(jax.random.key(seed), clips)) for seed in (0, 0, 1))
    return flat(first["params"]), flat(again["params"]), flat(other["params"]), flat(first["batch_stats"])


def test_initial_weights_follow_their_key(initial):
    first, again, other, _ = initial
    for path, weight in first.items():
        np.testing.assert_array_equal(weight, again[path], err_msg=path)
        constant = path.endswith(("/bias", "/scale", "/weight", "bias_own"))
        assert constant == np.array_equal(weight, other[path]), path


def test_initial_weights_are_the_specifications(initial):
    params, _, _, stats = initial
    assert np.all(stats["decoder/norm/mean"] == 0) and np.all(stats["decoder/norm/var"] == 1)
    for path, weight in params.items():
        leaf = path.rpartition("/")[2]
        if leaf == "scale":
            assert np.all(weight == 1), path
        elif leaf == "bias" or leaf == "bias_own":
            assert np.all(weight == 0), path
        elif leaf == "weight":  # Of a pooling.
            np.testing.assert_allclose(weight, 1 / weight.size, rtol=1e-6, err_msg=path)
        else:
            expected = 0.02
            if path.endswith(("embed/kernel", "reduce/kernel")):
                expected = np.sqrt(2 / (weight.shape[0] * weight.shape[1] * weight.shape[3]))
            elif path.endswith("dwconv/kernel"):
                expected = np.sqrt(2 / 9)
            # A normal cut at two standard deviations has 0.88 of its own.
            assert 0.85 * expected < weight.std() < 1.15 * expected, (path, weight.std(), expected)
            assert abs(weight.mean()) < 5 * expected / np.sqrt(weight.size), path
