"""Prototypes: k-means against scikit-learn's and against its own laws; the running clusters against the rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from cffm_jax.data.synthetic import SyntheticConfig, frames
from cffm_jax.frames import normalise
from cffm_jax.models import prototypes
from cffm_jax.models.cffm import create_model
from cffm_jax.models.prototypes import cluster, kmeans, start_running, update_running

SEEDS = range(10)
each_start = pytest.mark.parametrize("start", ["k-means++", "random"])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def blobs(
    size: int, k: int = 12, channels: int = 8, distance: float = 4.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """f32[size, channels] of k clusters of unit variance, and their centres."""
    rng = np.random.default_rng(seed)
    centres = distance * rng.standard_normal((k, channels))
    tokens = centres[np.arange(size) % k] + rng.standard_normal((size, channels))
    return rng.permutation(tokens).astype(np.float32), centres


def nearest(tokens: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In float64: each token's squared distance to every centre, and the nearest."""
    distances = np.square(np.float64(tokens)[:, None] - np.float64(centres)).sum(-1)
    return distances, distances.argmin(1)


def inertia(tokens: np.ndarray, centres: np.ndarray) -> float:
    return float(nearest(tokens, np.asarray(centres))[0].min(1).sum())


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """f32[2400, 256]: what an encoder with random weights makes of ten frames of a built-in video."""
    config = SyntheticConfig(frames=10)
    video = np.stack([frame for frame, *_ in frames(config, "val", 0)])
    model = create_model("cffm_b0", 8)

    @jax.jit
    def encode(video):
        x = normalise(video)
        variables = model.init(jax.random.key(0), x[:1], method="encode")
        return model.apply(variables, x, method="encode").coarse

    return np.asarray(encode(video)).reshape(-1, 256)


# --- against scikit-learn --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moves", [1, 3, 10])
def test_the_same_start_gives_scikit_learns_centres(features, moves):
    for tokens, k in ((blobs(500, 12)[0], 20), (features, 50)):
        start = tokens[:: len(tokens) // k][:k]
        theirs = KMeans(k, init=start, n_init=1, max_iter=moves, tol=0).fit(tokens)
        ours = cluster(None, tokens, k, moves, start=start)
        np.testing.assert_allclose(ours.centres, theirs.cluster_centers_, atol=2e-5)
        np.testing.assert_array_equal(ours.assignment, theirs.labels_)
        np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-5)


@pytest.mark.parametrize("data", ["separate blobs", "touching blobs", "features"])
def test_whole_calls_are_as_good_as_scikit_learns(features, data):
    tokens, k = {
        "separate blobs": (blobs(1200, 16, distance=10)[0], 16),
        "touching blobs": (blobs(1200, 16, distance=1)[0], 16),
        "features": (features, 50),
    }[data]
    theirs = [KMeans(k, n_init=1, max_iter=10, tol=0, random_state=seed).fit(tokens).inertia_ for seed in SEEDS]
    ours = [float(cluster(jax.random.key(seed), tokens, k).inertia) for seed in SEEDS]
    assert np.mean(ours) <= 1.01 * np.mean(theirs)


# --- what is returned ------------------------------------------------------------------------------------------------


@each_start
@pytest.mark.parametrize("moves", [0, 2, 10])
def test_assignment_inertia_and_counts_are_those_of_the_centres(start, moves):
    tokens, k = blobs(700, 12)[0], 20
    result = cluster(jax.random.key(1), tokens, k, moves, start=start)
    distances, index = nearest(tokens, result.centres)
    np.testing.assert_array_equal(result.assignment, index)
    np.testing.assert_allclose(result.inertia, distances.min(1).sum(), rtol=1e-5)
    np.testing.assert_array_equal(result.counts, np.bincount(index, minlength=k))
    assert result.iterations <= moves
    assert [x.dtype for x in result] == [np.float32, np.int32, np.float32, np.int32, np.float32]
    centres, assignment = kmeans(jax.random.key(1), tokens, k, moves, start=start)
    np.testing.assert_array_equal(centres, result.centres)
    np.testing.assert_array_equal(assignment, result.assignment)


@each_start
def test_the_key_decides(start):
    tokens = blobs(500)[0]
    a, b, c = (cluster(jax.random.key(seed), tokens, 8, 0, start=start).centres for seed in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


def test_it_stops_once_nothing_changes():
    tokens, centres = blobs(600, 6, distance=20)
    result = cluster(None, tokens, 6, 10, start=centres)
    assert result.iterations == 1
    longer = cluster(jax.random.key(0), tokens, 20, 500)
    assert 10 < longer.iterations < 100
    means = [tokens[np.asarray(longer.assignment) == i].mean(0) for i in range(20)]
    np.testing.assert_allclose(longer.centres, means, atol=1e-5)


def test_more_moves_never_hurt():
    tokens = blobs(800, 12, distance=1)[0]
    sums = [float(cluster(None, tokens, 20, moves, start=tokens[:20]).inertia) for moves in range(8)]
    assert all(after <= before * (1 + 1e-6) for before, after in zip(sums, sums[1:], strict=False))
    assert sums[-1] < 0.8 * sums[0]


@pytest.mark.parametrize("chunk", [1, 7, 100, 399, 400, 1000])
def test_the_chunk_makes_no_difference(chunk):
    tokens = blobs(400)[0]
    a, b = (cluster(jax.random.key(0), tokens, 9, 4, chunk=c) for c in (chunk, None))
    np.testing.assert_array_equal(a.assignment, b.assignment)
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_allclose(a.centres, b.centres, atol=1e-5)
    np.testing.assert_allclose(a.inertia, b.inertia, rtol=1e-5)


def test_the_order_of_the_tokens_makes_no_difference():
    tokens, start = blobs(500)[0], normal(9, 8)
    order = np.random.default_rng(0).permutation(500)
    a, b = cluster(None, tokens, 9, start=start), cluster(None, tokens[order], 9, start=start)
    np.testing.assert_allclose(a.inertia, b.inertia, rtol=1e-5)
    np.testing.assert_array_equal(a.assignment[order], b.assignment)


def test_far_from_the_origin_nothing_is_lost():
    tokens = np.round(64 * blobs(500)[0]) / 64
    a, b = (cluster(None, tokens + offset, 9, start=tokens[:9] + offset) for offset in (0, 4096))
    np.testing.assert_array_equal(a.assignment, b.assignment)
    np.testing.assert_allclose(a.inertia, b.inertia, rtol=1e-3)


def test_half_precision_tokens_are_clustered_in_single():
    tokens = jnp.asarray(blobs(500)[0], jnp.bfloat16)
    a, b = (cluster(jax.random.key(0), x, 9) for x in (tokens, tokens.astype(jnp.float32)))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_the_forms_for_accelerators_give_the_same():
    scores, offsets = normal(21, 300), normal(21, 1, seed=1)
    scores[5] = scores[3]
    offsets[5] = offsets[3]
    for x, y in zip(
        prototypes._least(scores, offsets), jax.jit(prototypes._least_by_loop)(scores, offsets), strict=True
    ):
        np.testing.assert_array_equal(x, y)
    x, index = normal(300, 8), np.arange(300) % 22
    expected = [x[index == i].sum(0) for i in range(21)]
    np.testing.assert_allclose(prototypes._sums(x, index, 21), expected, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_inertia_shows_values_that_are_not_finite(bad):
    tokens = blobs(300)[0]
    tokens[17, 3] = bad
    for start in ("k-means++", "random", tokens[:9]):
        assert not np.isfinite(cluster(jax.random.key(0), tokens, 9, start=start).inertia)


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
        cluster(jax.random.key(0), **arguments)


# --- as part of other programs ---------------------------------------------------------------------------------------


@each_start
def test_a_batch_of_videos_is_clustered_one_by_one(start):
    tokens = np.stack([blobs(300, distance=d, seed=i)[0] for i, d in enumerate((1, 4, 20))])
    valid = np.arange(300) < np.array([[300], [250], [40]])
    keys = jax.random.split(jax.random.key(0), 3)

    def one(key, tokens, valid):
        return cluster(key, tokens, 9, valid=valid, start=start, chunk=70)

    batch = jax.jit(jax.vmap(one))(keys, tokens, valid)
    assert len(set(batch.iterations.tolist())) > 1, "some stop before the others"
    for i in range(3):
        for x, y in zip(one(keys[i], tokens[i], valid[i]), batch, strict=True):
            np.testing.assert_allclose(x, y[i], rtol=1e-5, atol=1e-5)


# --- tokens that are not valid ---------------------------------------------------------------------------------------


@each_start
@pytest.mark.parametrize("garbage", [0.0, 1e30, np.nan, np.inf])
@pytest.mark.parametrize("size", [200, 8700])  # Below and above the sample of k-means++.
def test_padding_changes_nothing_wherever_it_lies(start, garbage, size):
    tokens = blobs(size)[0]
    padded = np.full((9000, 8), garbage, np.float32)
    place = np.sort(np.random.default_rng(0).permutation(9000)[:size])
    padded[place] = tokens
    valid = np.isin(np.arange(9000), place)
    for moves in (0, 2):
        a = cluster(jax.random.key(0), tokens, 9, moves, start=start)
        b = cluster(jax.random.key(0), padded, 9, moves, start=start, valid=valid)
        np.testing.assert_allclose(a.centres, b.centres, atol=0 if moves == 0 and start == "random" else 1e-5)
        np.testing.assert_allclose(a.inertia, b.inertia, rtol=1e-5)
        np.testing.assert_array_equal(a.counts, b.counts)
        np.testing.assert_array_equal(b.assignment[place], a.assignment)
        assert np.all(b.assignment[~valid] == -1)


@each_start
def test_fewer_valid_tokens_than_centres(start):
    tokens = normal(30, 4)
    for count in (5, 1):
        valid = np.arange(30) < count
        result = cluster(jax.random.key(0), np.where(valid[:, None], tokens, np.nan), 8, valid=valid, start=start)
        assert np.count_nonzero(result.counts) == count
        np.testing.assert_allclose(nearest(result.centres, tokens[:count])[0].min(1), 0, atol=1e-9)
        np.testing.assert_allclose(result.inertia, 0, atol=1e-5)
    nothing = cluster(jax.random.key(0), tokens, 8, valid=np.zeros(30, bool), start=start)
    assert np.all(nothing.assignment == -1) and nothing.inertia == 0 and np.all(np.isfinite(nothing.centres))


# --- starts and empty clusters ---------------------------------------------------------------------------------------


@each_start
@pytest.mark.parametrize("size", [9, 40, 9000])
def test_a_start_is_of_different_tokens(start, size):
    tokens = normal(size, 4)
    centres = np.asarray(cluster(jax.random.key(2), tokens, 9, 0, start=start).centres)
    distances = nearest(centres, tokens)[0]
    np.testing.assert_allclose(distances.min(1), 0, atol=1e-9)
    assert len(set(distances.argmin(1).tolist())) == 9


def test_a_random_start_draws_all_tokens_alike():
    tokens = np.arange(10, dtype=np.float32)[:, None]
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = jax.jit(jax.vmap(lambda key: cluster(key, tokens, 3, 0, start="random").centres))(keys)
    counts = np.bincount(np.round(drawn).astype(int).ravel(), minlength=10)
    assert np.all(np.abs(counts - 600) < 5 * np.sqrt(2000 * 0.3 * 0.7))


@pytest.mark.parametrize("size", [240, 9600])
def test_k_means_plus_plus_finds_every_blob(size):
    """Ones of very different size among them: the sample of a large set is even."""
    rng = np.random.default_rng(0)
    place = 100 * np.eye(12, dtype=np.float32)
    index = rng.choice(12, size, p=np.array([0.3, 0.25] + 10 * [0.045]))
    tokens = place[index] + rng.standard_normal((size, 12)).astype(np.float32)
    found = jax.jit(lambda key: cluster(key, tokens, 12, 0).assignment)
    for seed in SEEDS:
        assignment = np.asarray(found(jax.random.key(seed)))
        assert len({(a, b) for a, b in zip(assignment.tolist(), index.tolist(), strict=True)}) == 12


@pytest.mark.parametrize("moves", [2, 10])
def test_empty_clusters_start_anew_at_the_farthest_tokens(moves):
    tokens = blobs(500)[0]
    start = np.concatenate([np.repeat(tokens[:1], 5, 0), np.full((4, 8), 1e4, np.float32), tokens[1:4]])
    result = cluster(None, tokens, 12, moves, start=start)
    assert np.all(np.asarray(result.counts) > 0)
    assert np.abs(result.centres).max() < np.abs(tokens).max()

    one = cluster(None, tokens, 12, 1, start=start)
    distances, index = nearest(tokens, start)
    empty = np.setdiff1d(np.arange(12), index)
    assert len(empty) == 8
    farthest = np.argsort(-distances.min(1))[:8]
    np.testing.assert_allclose(one.centres[empty], tokens[farthest], atol=1e-5)
    full = np.unique(index)
    np.testing.assert_allclose(one.centres[full], [tokens[index == i].mean(0) for i in full], atol=1e-5)


def test_tokens_that_are_all_the_same():
    result = cluster(jax.random.key(0), np.full((50, 4), 3.0, np.float32), 6)
    np.testing.assert_array_equal(result.centres, np.full((6, 4), 3.0))
    assert result.inertia == 0 and result.counts.tolist() == [50, 0, 0, 0, 0, 0]


# --- running clusters ------------------------------------------------------------------------------------------------


def stream(length: int, size: int = 240, k: int = 12, **options) -> np.ndarray:
    """f32[length, size, 8]: frames whose tokens come from the same blobs."""
    return blobs(length * size, k, **options)[0].reshape(length, size, -1)


run = jax.jit(lambda state, video, **o: jax.lax.scan(lambda s, x: (update_running(s, x, **o), None), state, video)[0])


def test_the_first_frame_is_clustered_whole():
    tokens = blobs(300)[0]
    state, whole = start_running(jax.random.key(0), tokens, 9), cluster(jax.random.key(0), tokens, 9)
    np.testing.assert_array_equal(state.centres, whole.centres)
    np.testing.assert_array_equal(state.counts, whole.counts)
    assert state.frames == 1
    with pytest.raises(ValueError, match="N >= k"):
        start_running(jax.random.key(0), tokens[:8], 9)


@pytest.mark.parametrize("memory", [0.0, 0.5, 10.0, np.inf])
def test_an_update_is_the_rule_written_out(memory):
    first, second = blobs(300, 4, distance=2)[0], blobs(200, 4, distance=2, seed=1)[0]
    state = start_running(jax.random.key(0), first, 9)
    state = state._replace(counts=state.counts.at[2].set(0.4), centres=state.centres.at[2].set(99.0))
    distances, index = nearest(second, state.centres)
    farthest = iter(np.argsort(-distances.min(1)))
    fade = memory / (memory + 1) if np.isfinite(memory) else 1.0
    centres, counts = [], []
    for i in range(9):
        new = second[index == i]
        counts.append(fade * state.counts[i] + len(new))
        if counts[i] < 1:
            centres.append(second[next(farthest)])
            counts[i] = 1
        else:
            centres.append((fade * state.counts[i] * state.centres[i] + new.sum(0)) / counts[i])
    updated = update_running(state, second, memory=memory)
    np.testing.assert_allclose(updated.centres, centres, atol=1e-4)
    np.testing.assert_allclose(updated.counts, counts, rtol=1e-5)
    assert updated.frames == 2


def test_one_centre_that_never_forgets_is_the_mean():
    video = stream(7)
    state = run(start_running(jax.random.key(0), video[0], 1), video[1:], memory=jnp.inf)
    np.testing.assert_allclose(state.centres[0], video.mean((0, 1)), atol=1e-5)
    assert state.counts[0] == 7 * 240 and state.frames == 7


def test_a_scan_is_a_loop():
    video = stream(5)
    state = scanned = start_running(jax.random.key(0), video[0], 12)
    for frame in video[1:]:
        state = update_running(state, frame)
    for x, y in zip(state, run(scanned, video[1:]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("distance", [1.0, 4.0])
def test_a_stationary_stream_is_clustered_as_if_seen_at_once(distance):
    video = stream(40, distance=distance)
    fresh = stream(41, distance=distance)[-1]
    state = run(start_running(jax.random.key(0), video[0], 12), video[1:])
    whole = cluster(jax.random.key(0), video.reshape(-1, 8), 12)
    first = start_running(jax.random.key(0), video[0], 12)
    assert inertia(fresh, state.centres) <= 1.03 * inertia(fresh, whole.centres)
    assert inertia(fresh, state.centres) < inertia(fresh, first.centres)


def test_the_centres_follow_what_is_seen():
    before, after = stream(3), stream(30, seed=1)
    state = start_running(jax.random.key(0), before[0], 12)
    short, long = (functools.partial(run, state, memory=m) for m in (2.0, 20.0))
    target = float(cluster(jax.random.key(0), after.reshape(-1, 8), 12).inertia) / 30
    losses = [inertia(after[-1], short(after[:n]).centres) for n in (1, 5, 30)]
    assert losses[0] > losses[1] > losses[2] and losses[2] < 1.1 * target
    assert inertia(after[-1], long(after[:5]).centres) > losses[1], "a longer memory follows later"


def test_padding_and_short_frames_of_a_stream():
    video = stream(2)
    state = start_running(jax.random.key(0), video[0], 12)
    padded = np.concatenate([video[1], np.full((60, 8), np.nan, np.float32)])
    plain, masked = update_running(state, video[1]), update_running(state, padded, valid=np.arange(300) < 240)
    for x, y in zip(plain, masked, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)

    nothing = update_running(state, padded, valid=np.zeros(300, bool), memory=0.0)
    np.testing.assert_allclose(nothing.centres, state.centres, atol=1e-5)
    few = update_running(state, video[1][:3], memory=0.0)
    assert np.count_nonzero(nearest(few.centres, video[1][:3])[0].min(1) < 1e-6) >= 3
    assert np.all(np.isfinite(few.centres))
