"""Contexts as the papers describe them, against a literal reading, and beside the release's."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cffm_jax
from cffm_jax.config import ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.models import cfm
from cffm_jax.models.contexts import cffa, windows
from cffm_jax.models.contexts.centred import CentredSource, context_table
from cffm_jax.models.methods.cffm_names import without_place
from cffm_jax.runtime.command_line import run_command
from cffm_jax.tables import contexts
from cffm_jax.tables.rows import TABLES

from helpers.drawn import lively

NH, NW = 2, 3


def reference_sources(receptive, pooling, **settings):
    return context_table(ModelConfig(receptive=receptive, pooling=pooling, pooling_rule="paper", **settings))[1:]


@pytest.mark.parametrize(
    ("r", "p"), [(20, 4), (6, 2), (6, 3), (49, 5), (35, 7), (28, 7), (6, 7), (5, 1), (9, 9), (16, 8)]
)
def test_tokens_are_the_sums_of_their_places(r, p):
    """Read by index out of the grid: token (i, j) of window (a, b) is the p x p sum that begins p * (i, j) positions
    after its region; what has its middle outside the map is no token."""
    (source,) = reference_sources((r,), (p,))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 7 * NH, 7 * NW, 3)).astype(np.float32)
    weight, bias = rng.standard_normal(p * p).astype(np.float32), np.float32([0.5])
    grid = np.asarray(jax.jit(source.pooled)(x, weight, bias)).reshape(-1, 3)
    index, outside = source.cell_index(NH, NW)
    tokens = max(1, math.floor(r / p + 0.5))
    assert index.shape == (NH, NW, tokens**2) and source.tokens == tokens**2
    start = (7 - tokens * p) // 2
    padded = np.pad(x[0].astype(np.float64), ((60, 60), (60, 60), (0, 0)))
    for a, b, i, j in np.ndindex(NH, NW, tokens, tokens):
        y, x_ = 7 * a + start + p * i, 7 * b + start + p * j
        place = padded[60 + y : 60 + y + p, 60 + x_ : 60 + x_ + p]
        is_outside = not (0 <= y + p // 2 < 7 * NH and 0 <= x_ + p // 2 < 7 * NW)
        assert outside[a, b, i * tokens + j] == is_outside
        if not is_outside:
            expected = np.einsum("uv,uvc->c", weight.reshape(p, p), place) + 0.5
            np.testing.assert_allclose(grid[index[a, b, i * tokens + j]], expected, atol=1e-4)


def test_the_release_is_a_special_case():
    """Where p is the window's side and r an odd number of windows: the same row, so the same bits."""
    for r in (7, 21, 35, 49):
        assert reference_sources((r,), (7,)) == cffa.reference_sources((r,), (7,))
    assert isinstance(reference_sources((28,), (7,))[0], CentredSource)


def test_regions_of_the_papers_tables():
    """Tables 6 and 7: kernels are p, regions r where p divides it and else the nearest multiple, in the middle of the
    window to half a position."""
    rows = [row.network.changes for table in TABLES if table.name in ("table6", "table7") for row in table.rows]
    settings = [dict(changes) for changes in rows if changes]
    assert len(settings) == 9 and all(each["model.pooling_rule"] == "paper" for each in settings)
    for each in [*settings, {"model.receptive": (49, 20, 6), "model.pooling": (7, 4, 2)}]:
        receptive, pooling = each["model.receptive"], each["model.pooling"]
        for source, r, p in zip(reference_sources(receptive, pooling), receptive, pooling, strict=True):
            first, end = source.field
            assert end - first == source.reach * p and abs(end - first - r) <= p / 2
            assert abs((first + end - 7) / 2) <= 0.5


def test_the_command_says_what_is_read(capsys):
    argv = ["--receptive", "49", "20", "6", "--pooling", "5", "3", "3"]
    assert run_command(contexts.main, argv) == 0
    # The release has kernels of 7, 3.5 and 3.5 positions in place of 5, 3 and 3.
    assert [line.split("|")[5].strip() for line in capsys.readouterr().out.splitlines()[4:]] == ["7", "3.5", "3.5"]
    assert run_command(contexts.main, [*argv, "--pooling_rule", "paper"]) == 0
    assert [line.split("|")[5].strip() for line in capsys.readouterr().out.splitlines()[4:]] == ["5", "3", "3"]
    assert run_command(contexts.main, ["--receptive", "0", "20", "6", "--pooling_rule", "paper"]) == 2
    assert "r and p must be at least 1" in capsys.readouterr().err
    for rule in ("paper", "release"):
        assert run_command(contexts.main, ["--receptive", "100000", "20", "6", "--pooling_rule", rule]) == 2
        assert "more than 64 tokens a side" in capsys.readouterr().err


@pytest.mark.long
def test_a_model_reads_them():
    """Every reference matters, as far as its region reaches; nobody else has a place for such weights."""
    settings = {"receptive": (30, 12, 4), "pooling": (5, 3, 2), "pooling_rule": "paper"}
    model = cffm_jax.create_model("cffm_b0", 4, depths=(1, 1, 1, 1), **settings)
    variables, rng = lively(model), np.random.default_rng(1)
    clips = rng.standard_normal((1, 4, 64, 96, 3)).astype(np.float32)
    run = jax.jit(model.apply)
    before = run(variables, clips)
    assert before.shape == (1, 16, 24, 4) and np.isfinite(before).all()
    for frame in range(3):
        changed = clips.copy()
        changed[0, frame] = rng.standard_normal((64, 96, 3))
        assert np.abs(run(variables, changed) - before).max() > 1e-3
    assert without_place(model) == ["model.pooling_rule paper"]
    assert not without_place(cffm_jax.create_model("cffm_b0", 4))


@pytest.mark.parametrize("rule", ["release", "paper"])
@pytest.mark.parametrize("at", range(4))
def test_a_dense_pooling_of_equal_channels_is_a_weight_a_position(rule, at):
    """Eq. 2 with the kernel w_p times the identity: the same tokens; and what it mixes is another channel."""
    settings = ModelConfig(pooling_rule=rule)
    plain = context_table(settings)[at]
    full = context_table(dataclasses.replace(settings, pooling_form="full"))[at]
    rng, p, c = np.random.default_rng(2), plain.pool, 3
    x = rng.standard_normal((1, 7 * NH, 7 * NW, c)).astype(np.float32)
    weight = rng.standard_normal(p * p).astype(np.float32)
    mixed = rng.standard_normal((c, c)).astype(np.float32)
    found = full.pooled(x, weight[:, None, None] * mixed, jnp.full(c, 0.5))
    np.testing.assert_allclose(found, plain.pooled(x @ mixed, weight, jnp.full(1, 0.5)), atol=1e-4)


def test_either_form_of_pooling_starts_as_the_mean():
    source = context_table(ModelConfig(pooling_rule="paper", pooling_form="full"))[2]
    x = np.random.default_rng(0).standard_normal((1, 14, 14, 8)).astype(np.float32)
    start = cfm._Pool(source).init_with_output(jax.random.key(0), x)[0]
    plain = dataclasses.replace(source, full=False)
    np.testing.assert_allclose(start, cfm._Pool(plain).init_with_output(jax.random.key(0), x)[0], atol=1e-6)


@pytest.mark.parametrize(("side", "halo"), [(7, 0), (4, 2), (1, 0)])
def test_windows_of_any_side(side, halo):
    """A block's target reads its region, its pooled tokens and its references', and no position beyond."""
    own, near = context_table(
        ModelConfig(
            receptive=(6,), pooling=(2,), target_receptive=9, target_pooling=3, window=side, pooling_rule="paper"
        )
    )
    index = windows.fine_index(3, 3, side, halo)[1, 1]
    inside = np.arange(side - halo, 2 * side + halo)
    np.testing.assert_array_equal(index.reshape(len(inside), -1), inside[:, None] * 3 * side + inside)
    ring = windows.ring_index(side, halo)
    entries = ring[ring != windows.ring_tokens(side, halo)]
    np.testing.assert_array_equal(np.sort(entries), np.arange(windows.ring_tokens(side, halo)))
    block = cfm.MiningBlock((near,), 16, own=own, halo=halo)
    rng = np.random.default_rng(4)
    target, reference = rng.standard_normal((2, 1, 3 * side, 3 * side, 16)).astype(np.float32)

    def run(block, target, reference):
        return block(target, block.reference_cells(reference[:, None]))

    # Drawn, not initialised, and jitted: eager blocks are a hundred programs.
    shapes = jax.eval_shape(functools.partial(block.init, method=run), jax.random.key(0), target, reference)
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    apply = jax.jit(functools.partial(block.apply, method=run))
    assert ("bias_ring" in variables["params"]) == (halo > 0)
    before = apply(variables, target, reference)
    moved = reference.copy()
    moved[0, 0, 0] += rng.standard_normal(16)
    changed = np.abs(apply(variables, target, moved) - before).max(-1)[0] > 1e-6
    first, end = near.field
    for a, b in np.ndindex(3, 3):  # The tokens whose middle lies on the map, and which hold position (0, 0).
        holds = all(side * w + first <= 0 < side * w + end for w in (a, b))
        assert changed[side * a : side * a + side, side * b : side * b + side].any() <= holds
    assert changed[:side, :side].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 5, "halo": 2}, "window: 5: the release has windows of 7 alone"),
        ({"halo": 4}, "halo: 4 is more than half a window"),
        ({"target_pooling": 6}, "target_pooling: 6 is none of"),
    ],
)
def test_targets_that_are_none(settings, message):
    with pytest.raises(ValueError, match=message):
        cffm_jax.create_model("cffm_b0", 4, **settings)


def test_settings_without_a_place_in_released_files():
    paper = {"pooling_rule": "paper", "target_pooling": 5, "halo": 0, "pooling_form": "full", "window": 5}
    assert without_place(cffm_jax.create_model("cffm_b0", 4, **paper)) == [
        "model.pooling_rule paper", "model.pooling_form full", "model.window 5", "model.halo 0"
    ]  # fmt: skip


def test_rules_that_are_none():
    with pytest.raises(ValueError, match="^receptive, pooling: r and p must be at least 1"):
        cffm_jax.create_model("cffm_b0", 4, receptive=(49, 20, 6), pooling=(7, 0, 2), pooling_rule="paper")
    with pytest.raises(InputError, match="--model.pooling-rule"):
        cffm_jax.models.create.build_model(dataclasses.replace(ModelConfig(), pooling_rule="mine"))
