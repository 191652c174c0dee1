"""Prototypes: k-means against scikit-learn's and against its own laws; the running clusters against the rule."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.config import PrototypeConfig
from cffm_jax.data.synthetic.generate import SyntheticConfig, frames
from cffm_jax.models import kmeans as prototypes
from cffm_jax.models.create import create_model
from cffm_jax.models.kmeans import RunningClusters, cluster, kmeans, start_running, update_running
from cffm_jax.models.kmeans_starts import STARTS
from cffm_jax.models.methods.frame_network import FrameFeatures
from cffm_jax.models.normalise import normalise

# Few sizes, so that few programs are compiled: N and K centres, and a set larger than the sample of k-means++.
N, K, CHANNELS = 500, 20, 8
MANY = 4500
SEEDS = range(10)
each_start = pytest.mark.parametrize("start", ["k-means++", "random"])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def blobs(size: int = N, k: int = 12, distance: float = 4.0, seed: int = 0) -> np.ndarray:
    """f32[size, CHANNELS]: k clusters of unit variance, their centres so many times as far apart."""
    rng = np.random.default_rng(seed)
    centres = distance * rng.standard_normal((k, CHANNELS))
    tokens = centres[np.arange(size) % k] + rng.standard_normal((size, CHANNELS))
    return rng.permutation(tokens).astype(np.float32)


def nearest(tokens: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In float64: each token's squared distance to every centre, and the nearest."""
    distances = np.square(np.float64(tokens)[:, None] - np.float64(centres)).sum(-1)
    return distances, distances.argmin(1)


def inertia(tokens: np.ndarray, centres: np.ndarray) -> float:
    return float(nearest(tokens, centres)[0].min(1).sum())


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """f32[720, 256]: what an encoder with random weights makes of three frames of a built-in video."""
    config = SyntheticConfig(frames=3)
    video = normalise(jnp.stack([frame for frame, *_ in frames(config, "val", 0)]))
    model = create_model("cffm_b0", 8, depths=(1, 1, 1, 1))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        """Drawn here: to compile the model's own draws takes longer than all these tests."""
        if len(leaf.shape) > 1:
            return rng.standard_normal(leaf.shape, np.float32) / np.sqrt(np.prod(leaf.shape[:-1]))
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), video, method="encode"))
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    coarse = jax.jit(lambda x: model.apply(variables, x, method="encode").coarse)(video)
    return np.asarray(coarse).reshape(-1, 256)


# --- against scikit-learn --------------------------------------------------------------------------------------------


def sklearn_kmeans(*arguments, **options):
    """Imported where it is used: it takes seconds, in each process that collects this file."""
    from sklearn.cluster import KMeans

    return KMeans(*arguments, **options)


@pytest.mark.parametrize("moves", [1, 3, 10])
def test_the_same_start_gives_scikit_learns_centres(features, moves):
    for tokens, k in ((blobs(), K), (features, K)):
        start = tokens[:: len(tokens) // k][:k]
        theirs = sklearn_kmeans(k, init=start, n_init=1, max_iter=moves, tol=0).fit(tokens)
        ours = cluster(None, tokens, k, moves, start=start)
        np.testing.assert_allclose(ours.centres, theirs.cluster_centers_, atol=2e-5)
        np.testing.assert_array_equal(ours.assignment, theirs.labels_)
        np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-5)


others = [pytest.param(data, marks=pytest.mark.long) for data in ("separate blobs", "touching blobs")]


@pytest.mark.parametrize("data", [*others, "features"])
def test_whole_calls_are_as_good_as_scikit_learns(features, data):
    tokens, k = {
        "separate blobs": (blobs(k=K, distance=10), K),
        "touching blobs": (blobs(k=K, distance=1), K),
        "features": (features, K),
    }[data]
    theirs = [sklearn_kmeans(k, n_init=1, max_iter=10, tol=0, random_state=seed).fit(tokens).inertia_ for seed in SEEDS]
    ours = [float(cluster(jax.random.key(seed), tokens, k).inertia) for seed in SEEDS]
    assert np.mean(ours) <= 1.01 * np.mean(theirs)


# --- what is returned ------------------------------------------------------------------------------------------------


@each_start
@pytest.mark.parametrize("moves", [0, 2, 10])
def test_assignment_inertia_and_counts_are_those_of_the_centres(start, moves):
    tokens = blobs()
    result = cluster(jax.random.key(1), tokens, K, moves, start=start)
    distances, index = nearest(tokens, result.centres)
    np.testing.assert_array_equal(result.assignment, index)
    np.testing.assert_allclose(result.inertia, distances.min(1).sum(), rtol=1e-5)
    np.testing.assert_array_equal(result.counts, np.bincount(index, minlength=K))
    assert result.iterations <= moves
    assert [x.dtype for x in result] == [np.float32, np.int32, np.float32, np.int32, np.float32]
    centres, assignment = kmeans(jax.random.key(1), tokens, K, moves, start=start)
    np.testing.assert_array_equal(centres, result.centres)
    np.testing.assert_array_equal(assignment, result.assignment)


@each_start
def test_the_key_decides(start):
    a, b, c = (cluster(jax.random.key(seed), blobs(), K, 0, start=start).centres for seed in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


def test_it_stops_once_nothing_changes():
    tokens = blobs(k=K, distance=20)
    start = cluster(jax.random.key(0), tokens, K, 1)
    assert cluster(None, tokens, K, start=start.centres).iterations == 1
    tokens = blobs(distance=1)
    result = cluster(jax.random.key(0), tokens, K, 500)
    assert 10 < result.iterations < 100
    means = [tokens[np.asarray(result.assignment) == i].mean(0) for i in range(K)]
    np.testing.assert_allclose(result.centres, means, atol=1e-5)


def test_no_move_makes_it_worse():
    tokens = blobs(distance=1)
    sums = [float(cluster(None, tokens, K, moves, start=tokens[:K]).inertia) for moves in range(8)]
    assert all(after <= before * (1 + 1e-6) for before, after in zip(sums, sums[1:], strict=False))
    assert sums[-1] < 0.8 * sums[0]


@pytest.mark.parametrize("chunk", [1, 7, 499])
def test_the_chunk_makes_no_difference(chunk):
    tokens = blobs()
    a, b = (cluster(None, tokens, K, 4, start=tokens[:K], chunk=c) for c in (chunk, None))
    np.testing.assert_array_equal(a.assignment, b.assignment)
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_allclose(a.centres, b.centres, atol=1e-5)
    np.testing.assert_allclose(a.inertia, b.inertia, rtol=1e-5)


def test_the_order_of_the_tokens_makes_no_difference():
    tokens = blobs()
    order = np.random.default_rng(0).permutation(N)
    a, b = (cluster(None, x, K, start=tokens[:K]) for x in (tokens, tokens[order]))
    np.testing.assert_allclose(a.inertia, b.inertia, rtol=1e-5)
    np.testing.assert_array_equal(a.assignment[order], b.assignment)


def test_far_from_the_origin_nothing_is_lost():
    tokens = np.round(64 * blobs()) / 64
    a, b = (cluster(None, tokens + offset, K, start=tokens[:K] + offset) for offset in (0, 4096))
    np.testing.assert_array_equal(a.assignment, b.assignment)
    np.testing.assert_allclose(a.inertia, b.inertia, rtol=1e-4)


def test_half_precision_tokens_are_clustered_in_single():
    tokens = jnp.asarray(blobs(), jnp.bfloat16)
    a, b = (cluster(None, x, K, start=tokens[:K]) for x in (tokens, tokens.astype(jnp.float32)))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_the_forms_for_accelerators_give_the_same():
    scores, offsets = normal(21, 300), normal(21, 1, seed=1)
    scores[5], offsets[5] = scores[3], offsets[3]
    scores, offsets = jnp.asarray(scores), jnp.asarray(offsets)
    ours = jax.jit(prototypes._least_by_loop)(scores, offsets)
    for x, y in zip(prototypes._least(scores, offsets), ours, strict=True):
        np.testing.assert_array_equal(x, y)
    x, index = normal(300, CHANNELS), np.arange(300) % 22
    expected = [x[index == i].sum(0) for i in range(21)]
    np.testing.assert_allclose(prototypes._sums(jnp.asarray(x), jnp.asarray(index), 21), expected, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_inertia_shows_values_that_are_not_finite(bad):
    tokens = blobs()
    tokens[17, 3] = bad
    for start in ("k-means++", "random", tokens[30 : 30 + K]):
        assert not np.isfinite(cluster(jax.random.key(0), tokens, K, start=start).inertia)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros((4, 3))}, r"N >= k >= 1, got \(4, 3\) and k = 5"),
        ({"k": 0}, "N >= k >= 1"),
        ({"tokens": np.zeros((2, 9, 3))}, r"tokens \[N, C\]"),
        ({"valid": np.ones(8, bool)}, r"valid must have the shape \(9,\), got \(8,\)"),
        ({"start": "farthest"}, "must be one of k-means.., random or an array, not 'farthest'"),
        ({"start": np.zeros((5, 4))}, r"start must have the shape \(5, 3\), got \(5, 4\)"),
    ],
)
def test_what_cannot_be_clustered_is_refused(change, message):
    arguments = {"tokens": np.zeros((9, 3)), "k": 5, **change}
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(cluster)(jax.random.key(0), **arguments)  # Without the checks of tests/helpers/shapes.py.


# --- batches, and tokens that are not valid --------------------------------------------------------------------------


def test_a_batch_of_videos_is_clustered_one_by_one():
    tokens = np.stack([blobs(k=K, distance=d, seed=i) for i, d in enumerate((1, 4, 20))])
    valid = np.arange(N) < np.array([[N], [450], [40]])
    keys = jax.random.split(jax.random.key(0), 3)

    def one(key, tokens, valid):
        return cluster(key, tokens, K, valid=valid)

    batch = jax.jit(jax.vmap(one))(keys, tokens, valid)
    assert len(set(batch.iterations.tolist())) > 1, "some stop before the others"
    for i in range(3):
        for x, y in zip(one(keys[i], tokens[i], valid[i]), batch, strict=True):
            np.testing.assert_allclose(x, y[i], rtol=1e-4, atol=1e-5)


@each_start
@pytest.mark.parametrize("garbage", [0.0, 1e30, np.nan, np.inf])
@pytest.mark.parametrize("size", [N, MANY])
def test_padding_changes_nothing_wherever_it_lies(start, garbage, size):
    tokens, length = blobs(size), MANY + 200
    place = np.sort(np.random.default_rng(0).permutation(length)[:size])
    padded = np.full((length, CHANNELS), garbage, np.float32)
    padded[place] = tokens
    valid = np.isin(np.arange(length), place)
    for moves in (0, 2):
        a = cluster(jax.random.key(0), tokens, K, moves, start=start)
        b = cluster(jax.random.key(0), padded, K, moves, start=start, valid=valid)
        np.testing.assert_allclose(a.centres, b.centres, atol=1e-5)
        np.testing.assert_allclose(a.inertia, b.inertia, rtol=1e-5)
        np.testing.assert_array_equal(a.counts, b.counts)
        np.testing.assert_array_equal(b.assignment[place], a.assignment)
        assert np.all(b.assignment[~valid] == -1)


@each_start
def test_fewer_valid_tokens_than_centres(start):
    tokens = normal(N, CHANNELS)
    for count in (5, 1):
        valid = np.arange(N) < count
        result = cluster(jax.random.key(0), np.where(valid[:, None], tokens, np.nan), K, valid=valid, start=start)
        assert np.count_nonzero(result.counts) == count
        np.testing.assert_allclose(nearest(result.centres, tokens[:count])[0].min(1), 0, atol=1e-9)
        np.testing.assert_allclose(result.inertia, 0, atol=1e-5)
    nothing = cluster(jax.random.key(0), tokens, K, valid=np.zeros(N, bool), start=start)
    assert np.all(nothing.assignment == -1) and nothing.inertia == 0 and np.all(np.isfinite(nothing.centres))


# --- starts and empty clusters ---------------------------------------------------------------------------------------


@each_start
@pytest.mark.parametrize("size", [K, N, MANY])
def test_a_start_is_of_different_tokens(start, size):
    tokens = normal(size, CHANNELS)
    distances, index = nearest(cluster(jax.random.key(2), tokens, K, 0, start=start).centres, tokens)
    np.testing.assert_allclose(distances.min(1), 0, atol=1e-9)
    assert len(set(index.tolist())) == K


def test_a_random_start_draws_all_tokens_alike():
    tokens = np.arange(10, dtype=np.float32)[:, None]
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = jax.vmap(lambda key: STARTS["random"](key, jnp.asarray(tokens), None, 3))(keys)
    counts = np.bincount(np.round(drawn).astype(int).ravel(), minlength=10)
    assert np.all(np.abs(counts - 600) < 5 * np.sqrt(2000 * 0.3 * 0.7))


@pytest.mark.parametrize("size", [N, MANY])
def test_k_means_plus_plus_finds_every_blob(size):
    rng = np.random.default_rng(0)
    place = 100 * rng.standard_normal((K, CHANNELS))
    index = rng.choice(K, size, p=[0.23, 0.23] + 18 * [0.03])
    tokens = (place[index] + rng.standard_normal((size, CHANNELS))).astype(np.float32)
    for seed in SEEDS:
        assignment = np.asarray(cluster(jax.random.key(seed), tokens, K, 0).assignment)
        assert len(set(zip(assignment.tolist(), index.tolist(), strict=True))) == K


@pytest.mark.parametrize("moves", [2, 10])
def test_no_cluster_stays_empty(moves):
    tokens = blobs()
    far = np.full((6, CHANNELS), 1e4, np.float32)
    start = np.concatenate([np.repeat(tokens[:1], 7, 0), far, tokens[1:8]])
    result = cluster(None, tokens, K, moves, start=start)
    assert np.all(np.asarray(result.counts) > 0)
    assert np.abs(result.centres).max() < np.abs(tokens).max()


def test_empty_clusters_start_anew_at_the_farthest_tokens():
    tokens = blobs()
    start = np.concatenate([np.repeat(tokens[:1], 13, 0), tokens[1:8]])
    result = cluster(None, tokens, K, 1, start=start)
    distances, index = nearest(tokens, start)
    full = np.unique(index)
    np.testing.assert_array_equal(full, [0, *range(13, K)])
    np.testing.assert_allclose(result.centres[full], [tokens[index == i].mean(0) for i in full], atol=1e-5)
    np.testing.assert_allclose(result.centres[1:13], tokens[np.argsort(-distances.min(1))[:12]], atol=1e-5)


def test_tokens_that_are_all_the_same():
    result = cluster(jax.random.key(0), np.full((N, CHANNELS), 3.0, np.float32), K)
    np.testing.assert_array_equal(result.centres, np.full((K, CHANNELS), 3.0))
    assert result.inertia == 0 and result.counts.tolist() == [N, *[0] * (K - 1)]


# --- running clusters ------------------------------------------------------------------------------------------------


def stream(length: int, **options) -> np.ndarray:
    """f32[length, N, CHANNELS]: frames whose tokens come from the same blobs."""
    return blobs(length * N, **options).reshape(length, N, CHANNELS)


def run(state: RunningClusters, video: np.ndarray, memory: float = PrototypeConfig.memory) -> RunningClusters:
    for frame in video:
        state = update_running(state, frame, memory=memory)
    return state


def test_causal_prototypes_start_as_the_settings_say():
    settings = PrototypeConfig(count=5, start="random", iterations=1, seed=3)
    model = create_model("cffmpp_b0", 4, width=16)
    tokens = np.random.default_rng(0).normal(size=(1, 6, 4, 16)).astype(np.float32)
    state = jax.tree.map(lambda x: x[None], model.start((48, 32), settings))
    features = FrameFeatures(tokens, tokens)
    state, centres = model.bind({}).advance(state, features, jnp.zeros(1, jnp.int32), settings)
    expected = cluster(jax.random.key(3), tokens.reshape(24, 16), 5, 1, start="random").centres
    np.testing.assert_allclose(centres[0], expected, rtol=1e-5, atol=1e-6)


def test_the_first_frame_is_clustered_whole():
    state, whole = start_running(jax.random.key(0), blobs(), K), cluster(jax.random.key(0), blobs(), K)
    np.testing.assert_array_equal(state.centres, whole.centres)
    np.testing.assert_array_equal(state.counts, whole.counts)
    assert state.frames == 1
    with pytest.raises(ValueError, match="N >= k"):
        start_running(jax.random.key(0), blobs(K - 1), K)


@pytest.mark.parametrize("memory", [0.0, 0.5, 10.0, np.inf])
def test_an_update_is_the_rule_written_out(memory):
    state = start_running(jax.random.key(0), blobs(distance=2), K)
    state = state._replace(counts=state.counts.at[2].set(0.4), centres=state.centres.at[2].set(99.0))
    tokens = blobs(distance=2, seed=1)
    distances, index = nearest(tokens, state.centres)
    farthest = iter(np.argsort(-distances.min(1)))
    fade = memory / (memory + 1) if np.isfinite(memory) else 1.0
    centres, counts = [], []
    for i in range(K):
        new, kept = tokens[index == i], fade * float(state.counts[i])
        if kept + len(new) < 1:
            centres.append(tokens[next(farthest)])
        else:
            centres.append((kept * np.asarray(state.centres[i]) + new.sum(0)) / (kept + len(new)))
        counts.append(max(kept + len(new), 1))
    updated = update_running(state, tokens, memory=memory)
    np.testing.assert_allclose(updated.centres, centres, atol=1e-4)
    np.testing.assert_allclose(updated.counts, counts, rtol=1e-5)
    assert counts[2] == 1 and updated.frames == 2


def test_one_centre_that_never_forgets_is_the_mean():
    video = stream(7)
    state = run(start_running(jax.random.key(0), video[0], 1), video[1:], memory=np.inf)
    np.testing.assert_allclose(state.centres[0], video.mean((0, 1)), atol=1e-5)
    assert state.counts[0] == 7 * N and state.frames == 7


def test_a_scan_is_a_loop():
    video = stream(5)
    start = start_running(jax.random.key(0), video[0], K)
    scanned = jax.jit(lambda s, video: jax.lax.scan(lambda s, x: (update_running(s, x), None), s, video)[0])
    for x, y in zip(run(start, video[1:]), scanned(start, video[1:]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("distance", [1.0, 4.0])
def test_a_stationary_stream_is_clustered_as_if_seen_at_once(distance):
    *video, fresh = stream(31, distance=distance)
    first = start_running(jax.random.key(0), video[0], K)
    state = run(first, video[1:])
    whole = cluster(jax.random.key(0), np.concatenate(video), K)
    assert inertia(fresh, state.centres) <= 1.03 * inertia(fresh, whole.centres)
    assert inertia(fresh, state.centres) < inertia(fresh, first.centres)


def test_the_centres_follow_what_is_seen():
    *after, fresh = stream(31, seed=1)
    state = start_running(jax.random.key(0), blobs(), K)
    short = [inertia(fresh, run(state, after[:n], memory=2.0).centres) for n in (0, 1, 5, 30)]
    assert short[0] > short[1] > short[2] > short[3]
    assert short[3] < 1.1 * inertia(fresh, cluster(jax.random.key(0), np.concatenate(after), K).centres)
    assert short[2] < inertia(fresh, run(state, after[:5], memory=20.0).centres), "a longer memory follows later"


def test_short_frames_of_a_stream():
    first, second = stream(2)
    state = start_running(jax.random.key(0), first, K)
    few = second[:3]
    assert np.all(np.isfinite(update_running(state, few, memory=10.0).centres))
    forgetful = update_running(state, few, memory=0.0)
    np.testing.assert_allclose(nearest(few, forgetful.centres)[0].min(1), 0, atol=1e-9)
