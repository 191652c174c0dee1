"""The decoder against its definition: project, enlarge, concatenate, fuse, in this order."""

import jax
import numpy as np
import pytest

from cffm_jax.models.decoder import FrameDecoder

from helpers.resizes import naive_resize

CHANNELS, WIDTH, SIZE = (5, 7, 6, 9), 8, (24, 16)


def batch_norm(x: np.ndarray, params: dict, stats: dict | None) -> np.ndarray:
    tokens = x.reshape(-1, x.shape[-1])
    mean, var = (stats["mean"], stats["var"]) if stats else (tokens.mean(0), tokens.var(0))
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def defined(variables: dict, maps: list[np.ndarray], projection: str, train: bool) -> np.ndarray:
    params, stats = variables["params"], {} if train else variables["batch_stats"]
    enlarged = []
    for i, x in enumerate(maps, 1):
        project = params[f"project{i}"]
        y = x @ project["kernel"]
        if projection == "linear":
            y = y + project["bias"]
        else:
            y = np.maximum(batch_norm(y, project["norm"], stats.get(f"project{i}", {}).get("norm")), 0)
        enlarged.append(naive_resize(y, SIZE))
    fused = np.concatenate(enlarged[::-1], -1) @ params["fuse"].reshape(-1, WIDTH)
    return np.maximum(batch_norm(fused, params["norm"], stats.get("norm")), 0)


@pytest.fixture(scope="module")
def maps() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal((2, SIZE[0] // s, SIZE[1] // s, c)).astype(np.float32)
        for s, c in zip((1, 2, 4, 8), CHANNELS, strict=True)
    ]


def drawn(module: FrameDecoder, maps: list[np.ndarray]) -> dict:
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        value = 0.5 * rng.standard_normal(leaf.shape)
        return (np.abs(value) + 0.5 if path[-1].key == "var" else value).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(module.init, jax.random.key(0), maps))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("projection", ["linear", "normalised"])
def test_the_decoder_is_its_definition(maps, projection, train):
    module = FrameDecoder(WIDTH, projection=projection)
    variables = drawn(module, maps)
    features, updated = jax.jit(lambda v, x: module.apply(v, x, train, mutable=["batch_stats"]))(variables, maps)
    assert features.shape == (2, *SIZE, WIDTH) and np.abs(features).max() > 1
    np.testing.assert_allclose(features, defined(variables, maps, projection, train), rtol=0, atol=2e-5)
    before, after = jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(updated["batch_stats"])
    assert len(before) == (2 if projection == "linear" else 10)
    assert all(np.array_equal(a, b) != train for a, b in zip(before, after, strict=True))


def test_projections_differ_in_bias_and_norm(maps):
    linear, normalised = (
        jax.eval_shape(FrameDecoder(WIDTH, projection=p).init, jax.random.key(0), maps)["params"]
        for p in ("linear", "normalised")
    )
    assert set(linear["project3"]) == {"kernel", "bias"} and set(normalised["project3"]) == {"kernel", "norm"}
    assert linear["fuse"].shape == normalised["fuse"].shape == (4, WIDTH, WIDTH)


def test_running_statistics_of_a_projection_are_those_of_its_own_stride(maps):
    module = FrameDecoder(WIDTH, projection="normalised")
    variables = drawn(module, maps)
    _, updated = jax.jit(lambda v, x: module.apply(v, x, True, mutable=["batch_stats"]))(variables, maps)
    tokens = (maps[2] @ variables["params"]["project3"]["kernel"]).reshape(-1, WIDTH)
    before, after = (v["batch_stats"]["project3"]["norm"] for v in (variables, updated))
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * tokens.mean(0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * tokens.var(0, ddof=1), rtol=0, atol=1e-5)
