"""Coarse-to-fine feature assembling: the fast forms against the specification's, written out."""

import collections
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.models.cfm import HEADS, MiningBlock
from cffm_jax.models.contexts import cffa, windows
from cffm_jax.models.contexts.assemble import assemble

from helpers.resizes import naive_matrix

SOURCES = (cffa.TARGET, *cffa.REFERENCES)
WINDOWS = [(1, 1), (1, 2), (2, 3), (9, 16)]
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
each_size = pytest.mark.parametrize(("nh", "nw"), WINDOWS)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_table_is_the_specifications():
    table = {s.name: (s.cells, s.pool, s.reach, s.tokens, s.bias_side) for s in SOURCES}
    assert table == {
        "target": (1, 7, 5, 25, 11),
        "far": (1, 7, 7, 49, 13),
        "middle": (2, 3, 5, 25, 11),
        "near": (3, 2, 3, 9, 9),
    }
    assert 49 + 132 + sum(s.tokens for s in SOURCES) == 289
    assert (windows.WINDOW + 2 * windows.HALO) ** 2 + sum(s.tokens for s in SOURCES) == 277 == 289 - 12


# --- windows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "padded"), [(1, 7), (6, 7), (7, 7), (8, 14), (60, 63), (108, 112)])
def test_padding_to_whole_windows(size, padded):
    assert windows.padded_size(size) == padded
    x = normal(1, size, 3, 2)
    y = windows.pad_to_windows(jnp.asarray(x))
    assert y.shape == (1, padded, 7, 2)
    np.testing.assert_array_equal(y[:, :size, :3], x)
    assert not np.any(y[:, size:]) and not np.any(y[:, :, 3:])


@each_size
def test_splitting_and_joining_windows(nh, nw):
    x = normal(2, 3, 7 * nh, 7 * nw, 2)
    cut = windows.split_windows(jnp.asarray(x))
    assert cut.shape == (2, 3, nh, nw, 49, 2)
    for a, b in np.ndindex(nh, nw):
        window = x[:, :, 7 * a : 7 * a + 7, 7 * b : 7 * b + 7]
        np.testing.assert_array_equal(cut[:, :, a, b], window.reshape(2, 3, 49, 2))
    np.testing.assert_array_equal(windows.join_windows(cut), x)


# --- pooling -------------------------------------------------------------------------------------------------------


@each_source
@pytest.mark.parametrize(("nh", "nw"), [(1, 1), (2, 3)])
def test_pooling_is_a_resize_of_the_whole_map_and_a_strided_kernel(source, nh, nw):
    p, m = source.pool, source.cells
    x, weight, bias = normal(2, 7 * nh, 7 * nw, 3), normal(p * p, seed=1), normal(1, seed=2)
    down, right = naive_matrix(7 * nh, m * p * nh), naive_matrix(7 * nw, m * p * nw)
    resized = np.einsum("uh,vw,nhwc->nuvc", down, right, x.astype(np.float64))
    expected = np.zeros((2, m * nh, m * nw, 3))
    for u, v in np.ndindex(m * nh, m * nw):
        patch = resized[:, p * u : p * u + p, p * v : p * v + p].reshape(2, p * p, 3)
        expected[:, u, v] = np.einsum("q,nqc->nc", weight, patch) + bias
    np.testing.assert_allclose(jax.jit(cffa.pool, static_argnums=3)(x, weight, bias, source), expected, atol=1e-5)


@each_source
def test_initial_pooling_is_a_mean(source):
    weight = np.full(source.pool**2, 1 / source.pool**2, np.float32)
    kernel = np.asarray(cffa.pooling_weights(jnp.asarray(weight), source))
    assert kernel.shape == (source.cells, source.cells, 7, 7)
    np.testing.assert_allclose(kernel.sum((2, 3)), 1, atol=1e-6)
    assert kernel.min() >= 0


def test_cells_larger_than_a_window_are_refused():
    with pytest.raises(ValueError, match="must not exceed the window side"):
        cffa.pooling_weights(jnp.ones(9), cffa.PooledSource("wide", cells=3, pool=3, reach=3))


# --- which tokens a window reads -----------------------------------------------------------------------------------


@each_source
@each_size
def test_cell_index_is_the_neighbourhood_of_the_first_cell(source, nh, nw):
    index, outside = cffa.cell_index(nh, nw, source)
    m, k = source.cells, source.reach
    assert index.shape == outside.shape == (nh, nw, k * k)
    for a, b in {(0, 0), (nh - 1, nw - 1), (nh // 2, nw // 2), (0, nw - 1)}:
        for token in range(k * k):
            y, x = m * a + token // k - k // 2, m * b + token % k - k // 2
            inside = 0 <= y < m * nh and 0 <= x < m * nw
            assert outside[a, b, token] == (not inside)
            assert index[a, b, token] == (y * m * nw + x if inside else 0)


def maps_of(nh: int, nw: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The padded target and the grid of every source: 2 heads, 3 channels."""
    grids = [normal(2, s.cells * nh, s.cells * nw, 3, seed=1 + i) for i, s in enumerate(SOURCES)]
    return normal(2, 7 * nh, 7 * nw, 3), grids


@each_size
def test_assembling_is_the_static_gather_of_each_source(nh, nw):
    """Forwards the tokens that the index tables name, zeros outside; backwards each token's sum over its readers."""
    fine, grids = maps_of(nh, nw)
    tables = [(fine_index := windows.fine_index(nh, nw), np.zeros(fine_index.shape, bool))]
    tables += [cffa.cell_index(nh, nw, s) for s in SOURCES]
    expected, sums = [], []
    cotangent = normal(2, nh, nw, 277, 3, seed=9)
    start = 0
    for x, (index, outside) in zip((fine, *grids), tables, strict=True):
        expected.append(np.take(x.reshape(2, -1, 3), index, axis=1) * ~outside[..., None])
        part = cotangent[:, :, :, start : start + index.shape[-1]] * ~outside[..., None]
        total = np.zeros((2, x.shape[1] * x.shape[2], 3))
        np.add.at(total, (slice(None), index.ravel()), part.reshape(2, -1, 3))
        sums.append(total.reshape(x.shape))
        start += index.shape[-1]
    assert start == 277

    @jax.jit
    def both(fine, grids, cotangent):
        tokens, pull = jax.vjp(lambda fine, grids: assemble(fine, grids, SOURCES), fine, grids)
        return tokens, pull(cotangent)

    tokens, (by_fine, by_grids) = both(fine, grids, cotangent)
    np.testing.assert_array_equal(tokens, np.concatenate(expected, 3))
    for ours, total in zip((by_fine, *by_grids), sums, strict=True):
        np.testing.assert_allclose(ours, total, atol=5e-5)


@each_size
def test_fine_index_wraps_around(nh, nw):
    index = windows.fine_index(nh, nw).reshape(nh, nw, 13, 13)
    height, width = 7 * nh, 7 * nw
    for a, b in {(0, 0), (nh - 1, nw - 1), (nh // 2, nw // 2)}:
        for y, x in np.ndindex(13, 13):
            assert index[a, b, y, x] == (7 * a + y - 3) % height * width + (7 * b + x - 3) % width


@each_size
def test_the_mask_hides_the_cells_outside_alone(nh, nw):
    mask = cffa.context_mask(nh, nw, SOURCES)
    assert mask.shape == (nh, nw, 277) and mask.dtype == np.float32
    assert set(np.unique(mask)) <= {-100.0, 0.0}
    assert not mask[:, :, :169].any(), "the fine region wraps around and is never masked"
    for a, b in np.ndindex(nh, nw):
        seen = 0
        for s in SOURCES:
            rows = [
                y for y in range(s.cells * a - s.reach // 2, s.cells * a + s.reach // 2 + 1) if 0 <= y < s.cells * nh
            ]
            columns = [
                x for x in range(s.cells * b - s.reach // 2, s.cells * b + s.reach // 2 + 1) if 0 <= x < s.cells * nw
            ]
            seen += len(rows) * len(columns)
        assert (mask[a, b] == 0).sum() == 169 + seen
    if (nh, nw) == (9, 16):
        assert not mask[4, 8].any(), "in the middle of a large map everything is seen"
        # A corner: 3x3 of 5x5, 4x4 of 7x7, 3x3 of 5x5 and 2x2 of 3x3 cells.
        assert (mask[0, 0] == 0).sum() == 169 + 9 + 16 + 9 + 4


# --- the ring ------------------------------------------------------------------------------------------------------


def ring_places() -> list[tuple[int, int]]:
    """Row and column, relative to the window, of the 132 ring entries in the specification's order."""
    places = []
    for down, right, kept in (
        (3, 3, lambda i, j: i >= 4 or j >= 4),
        (3, -3, lambda i, j: i >= 4 or j < 3),
        (-3, 3, lambda i, j: i < 3 or j >= 4),
        (-3, -3, lambda i, j: i < 3 or j < 3),
    ):
        copy = [(i + down, j + right) for i in range(7) for j in range(7) if kept(i, j)]
        assert len(copy) == 33
        places += copy
    return places


def test_ring_index_lists_every_entry_once():
    table = windows.ring_index()
    assert table.shape == (169, 2)
    entries = table[table != windows.ring_tokens()]
    assert sorted(entries) == list(range(132))
    readers = (table != windows.ring_tokens()).sum(1).reshape(13, 13)
    assert not readers[3:10, 3:10].any(), "the window itself is no part of the ring"
    assert collections.Counter(readers.ravel().tolist()) == {0: 49, 1: 108, 2: 12}
    for entry, (y, x) in enumerate(ring_places()):
        assert entry in table[(y + 3) * 13 + x + 3], f"entry {entry} lies at {y}, {x}"


@pytest.mark.parametrize("reach", [3, 5, 7])
def test_relative_index_is_the_specifications(reach):
    index = windows.relative_index(reach)
    for q, k in np.ndindex(49, reach**2):
        row, column = q // 7 - k // reach + reach - 1, q % 7 - k % reach + reach - 1
        assert index[q, k] == row * (6 + reach) + column
    assert set(index.ravel()) == set(range((6 + reach) ** 2)), "the whole table is in use"


# --- one block -----------------------------------------------------------------------------------------------------


def layer_norm(x: jax.Array, p: dict) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def dense(x: jax.Array, p: dict) -> jax.Array:
    return x @ p["kernel"] + p["bias"]


def literal_pool(x: jax.Array, p: dict, source: cffa.PooledSource) -> jax.Array:
    """Resize of the whole padded map, then a strided window of learned weights: [N, H, W, C] -> [N, nh m, nw m, C]."""
    n, height, width, c = x.shape
    rows, columns, k = height // 7 * source.cells, width // 7 * source.cells, source.pool
    x = jnp.einsum("uh,vw,nhwc->nuvc", naive_matrix(height, rows * k), naive_matrix(width, columns * k), x)
    x = x.reshape(n, rows, k, columns, k, c)
    return jnp.einsum("ij,nuivjc->nuvc", p["weight"].reshape(k, k), x) + p["bias"]


def literal_block(params: dict, target: jax.Array, references: jax.Array) -> jax.Array:
    """Section 3 of the specification word by word: rolled copies, 289 keys, window after window."""
    n, h, w, c = target.shape
    head = c // HEADS
    height, width = math.ceil(h / 7) * 7, math.ceil(w / 7) * 7
    padding = ((0, 0), (0, height - h), (0, width - w), (0, 0))
    maps = [jnp.pad(layer_norm(x, params["norm1"]), padding) for x in (*jnp.moveaxis(references, 1, 0), target)]
    far, middle, near, own = maps

    def heads(x: jax.Array) -> jax.Array:
        """[..., 3 c] -> [3, ..., heads, head]."""
        return jnp.moveaxis(x.reshape(*x.shape[:-1], 3, HEADS, head), -3, 0)

    fine = heads(dense(own, params["qkv"]))  # [3, N, H, W, A, D]
    # Reading at offset +3 is rolling by -3.
    copies = [jnp.roll(fine, (-down, -right), (2, 3)) for down, right in ((3, 3), (3, -3), (-3, 3), (-3, -3))]
    i, j = np.mgrid[0:7, 0:7].reshape(2, 49)
    kept = [(i >= 4) | (j >= 4), (i >= 4) | (j < 3), (i < 3) | (j >= 4), (i < 3) | (j < 3)]
    grids = [
        heads(dense(literal_pool(x, params[f"pools_{s.name}"], s), params["qkv"]))
        for s, x in zip(SOURCES, (own, far, middle, near), strict=True)
    ]

    # Position biases [A, 49, keys].
    biases = [params["bias_own"][:, i[:, None] - i[None] + 6, j[:, None] - j[None] + 6], params["bias_ring"]]
    for s in SOURCES:
        y, x = np.mgrid[0 : s.reach, 0 : s.reach].reshape(2, -1)
        table = params[f"bias_{s.name}"]
        biases.append(table[:, i[:, None] - y[None] + s.reach - 1, j[:, None] - x[None] + s.reach - 1])
    bias = jnp.concatenate(biases, -1)
    assert bias.shape[1:] == (49, 289)

    rows = []
    for a in range(height // 7):
        row = []
        for b in range(width // 7):
            window = np.s_[:, :, 7 * a : 7 * a + 7, 7 * b : 7 * b + 7]
            tokens = [fine[window].reshape(3, n, 49, HEADS, head)]
            tokens += [
                x[window].reshape(3, n, 49, HEADS, head)[:, :, keep] for x, keep in zip(copies, kept, strict=True)
            ]
            penalty = [np.zeros(49 + 132)]
            for s, grid in zip(SOURCES, grids, strict=True):
                border = s.reach
                padded = jnp.pad(grid, ((0, 0), (0, 0), (border, border), (border, border), (0, 0), (0, 0)))
                inside = np.pad(np.ones(grid.shape[2:4], bool), border)
                top, left = s.cells * a - s.reach // 2 + border, s.cells * b - s.reach // 2 + border
                around = np.s_[top : top + s.reach, left : left + s.reach]
                tokens.append(padded[:, :, *around].reshape(3, n, s.reach**2, HEADS, head))
                penalty.append(np.where(inside[around], 0.0, -100.0).ravel())
            q = tokens[0][0] * head**-0.5
            k, v = jnp.concatenate(tokens, 2)[1:]
            logits = jnp.einsum("nqad,nkad->naqk", q, k) + bias + np.concatenate(penalty)
            y = jnp.einsum("naqk,nkad->nqad", jax.nn.softmax(logits, -1), v)
            row.append(y.reshape(n, 7, 7, c))
        rows.append(jnp.concatenate(row, 2))
    x = target + dense(jnp.concatenate(rows, 1)[:, :h, :w], params["proj"])
    y = dense(layer_norm(x, params["norm2"]), params["mlp"]["fc1"])
    return x + dense(jax.nn.gelu(y, approximate=False), params["mlp"]["fc2"])


WIDTH = 16


@pytest.fixture(scope="module")
def block():
    """A block, weights drawn so that every one matters, and inputs with a padded border."""
    module = MiningBlock(width=WIDTH)
    target, references = normal(2, 12, 20, WIDTH), normal(2, 3, 12, 20, WIDTH, seed=1)

    def both(module: MiningBlock, target: jax.Array, references: jax.Array) -> jax.Array:
        return module(target, module.reference_cells(references))

    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), target, references, method=both))["params"]
    params = {}
    for number, (path, leaf) in enumerate(flax.traverse_util.flatten_dict(shapes).items()):
        drawn = normal(*leaf.shape, seed=100 + number)
        if path[-1] == "scale":
            drawn = 1 + 0.1 * drawn
        elif path[-1] == "kernel":
            drawn = 2 * drawn / np.sqrt(leaf.shape[0])
        elif path[-1] == "weight":
            drawn = (1 + 0.5 * drawn) / np.sqrt(leaf.shape[0])
        else:
            drawn = 0.5 * drawn
        params[path] = drawn
    params = flax.traverse_util.unflatten_dict(params)
    cotangent = normal(2, 12, 20, WIDTH, seed=2)

    def value_and_gradients(function, *arguments):
        """The block's output and the gradients of its product with a fixed array."""

        def product(*arguments):
            y = function(*arguments)
            return jnp.sum(y * cotangent), y

        return jax.jit(jax.grad(product, (0, 1, 2), has_aux=True))(*arguments)

    gradients, value = value_and_gradients(
        lambda p, t, r: module.apply({"params": p}, t, r, method=both), params, target, references
    )
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, target, references))
        expected_gradients, expected = value_and_gradients(literal_block, *wide)
    return (value, gradients), jax.device_get((expected, expected_gradients))


def test_the_literal_block_is_float64(block):
    assert block[1][0].dtype == np.float64


def test_a_block_is_the_attention_over_289_keys(block):
    (value, _), (expected, _) = block
    np.testing.assert_allclose(value, expected, atol=5e-5)  # Values reach 15.
    assert np.std(expected - normal(2, 12, 20, WIDTH)) > 0.5, "the block does something"


def test_gradients_of_a_block_are_those_of_the_attention_over_289_keys(block):
    (_, gradients), (_, expected) = block
    ours, theirs = (jax.tree_util.tree_leaves_with_path(tree) for tree in (gradients, expected))
    assert len(ours) == len(theirs) == 28
    for (path, gradient), (_, literal) in zip(ours, theirs, strict=True):
        scale = np.abs(literal).max()
        assert scale > 1e-3, f"{path} takes part"
        np.testing.assert_allclose(gradient, literal, atol=2e-5 * max(scale, 1), err_msg=str(path))
