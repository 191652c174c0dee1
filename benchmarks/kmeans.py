"""Clustering of a video's prototypes beside scikit-learn and fast-pytorch-kmeans, and beside encoding its frames.

    python benchmarks/kmeans.py [--rounds 7] [--large]     # 10 of 71 frames of 480x864: 64,800 tokens
    python benchmarks/kmeans.py --data mixture             # tokens drawn from a mixture: no encoder

All run the same number of iterations without a tolerance, in rounds (each program once a round); a time is the least
of all rounds, after a call that compiles. The start "given" is one and the same for all, the others are each one's own.
The inertia is that of the final centres by our own assignment. fast-pytorch-kmeans returns the assignment to the
centres before the last move and so saves one pass of eleven.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from cffm_jax.data.synthetic.generate import SyntheticConfig, video_rng
from cffm_jax.data.synthetic.scenes import World
from cffm_jax.models.create import create_model
from cffm_jax.models.kmeans import cluster, start_running, update_running
from cffm_jax.models.normalise import normalise

FRAMES, CHANNELS = 10, 256
GIVEN = "given"
SLOW = 10.0
"""Seconds; a program that takes longer (compilation aside) is timed once only."""


@dataclasses.dataclass(frozen=True)
class Options:
    data: Literal["features", "mixture"] = "features"
    """Features of a model with random weights, or draws from a mixture of 300 normal distributions, cut off at zero."""
    model: str = "cffm_b1"
    """Model that encodes the frames."""
    length: int = 71
    """Frames of the video, of which 10 are clustered."""
    height: int = 480
    """Height of the frames, a multiple of 32."""
    width: int = 864
    """Width of the frames, a multiple of 32."""
    k: int = 100
    """Centres."""
    iterations: int = 10
    """Moves of the centres."""
    chunk: int | None = None
    """Tokens of a block; None: the default."""
    rounds: int = 7
    """Calls of every program."""
    large: bool = False
    """Ten times the tokens (each with a little noise) as well."""


def sampled_frames(options: Options) -> np.ndarray:
    """u8[10, H, W, 3]: the frames of a built-in video that prototypes are made of."""
    config = SyntheticConfig(height=options.height, width=options.width)
    world = World(video_rng(config, "val", 0), options.height, options.width, config.classes)
    indices = [int((i + 0.5) * (options.length // FRAMES)) for i in range(FRAMES)]
    return np.stack([world.render(index)[0] for index in indices])


def mixture(size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((300, CHANNELS), np.float32)
    spread = rng.uniform(0.2, 0.8, (300, 1)).astype(np.float32)
    index = rng.integers(300, size=size)
    return np.maximum(centres[index] + spread[index] * rng.standard_normal((size, CHANNELS), np.float32), 0)


def least_seconds(programs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, Any]]:
    """Least time and last result of each program; they take turns."""
    found: dict[str, tuple[float, Any]] = {}
    slow: set[str] = set()
    for turn in range(rounds + 1):
        for name, program in programs.items():
            if name in slow:
                continue
            began = time.perf_counter()
            result = jax.block_until_ready(program())
            seconds = time.perf_counter() - began
            if turn == 0:
                found[name] = (np.inf, result)
                continue
            found[name] = (min(found[name][0], seconds), result)
            slow |= {name} if seconds > SLOW else set()
    return found


def scikit_learn(tokens: np.ndarray, options: Options) -> Callable[[Any], np.ndarray] | None:
    """Clusters from a start; None if it is not installed."""
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        return None

    def run(start: Any) -> np.ndarray:
        theirs = KMeans(options.k, init=start, n_init=1, max_iter=options.iterations, tol=0, random_state=0)
        return theirs.fit(tokens).cluster_centers_

    return run


def fast_pytorch(tokens: np.ndarray, options: Options) -> Callable[[Any], np.ndarray] | None:
    """Clusters from a start; None if it is not installed."""
    try:
        import torch
        from fast_pytorch_kmeans import KMeans
    except ImportError:
        return None
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    on_device = torch.from_numpy(tokens).to(device)

    def run(start: Any) -> np.ndarray:
        given = None if isinstance(start, str) else torch.from_numpy(start.copy()).to(device)
        method = start if given is None else "random"
        theirs = KMeans(options.k, max_iter=options.iterations, tol=0, init_method=method)
        theirs.fit_predict(on_device, given)
        return theirs.centroids.cpu().numpy()

    return run


def race(tokens: np.ndarray, options: Options, rounds: int, starts: tuple[str, ...]) -> dict[str, float]:
    """Prints the table of one set of tokens. Returns the seconds of our calls by their start."""
    on_device = jnp.asarray(tokens)
    start = tokens[np.random.default_rng(0).permutation(len(tokens))[: options.k]]

    def ours(start: Any, iterations: int = options.iterations) -> Any:
        return cluster(jax.random.key(0), on_device, options.k, iterations, start=start, chunk=options.chunk)

    libraries = {
        "cffm_jax": lambda start: ours(start).centres,
        "scikit-learn": scikit_learn(tokens, options),
        "fast-pytorch-kmeans": fast_pytorch(tokens, options),
    }
    programs = {
        (library, name): lambda run=run, given=start if name == GIVEN else name: run(given)
        for name in (GIVEN, *starts)
        for library, run in libraries.items()
        if run and (library, name) != ("fast-pytorch-kmeans", "k-means++")
    }
    found = least_seconds(programs, rounds)
    size, channels = tokens.shape
    print(
        f"\n| {size:,} x {channels}, k = {options.k}, {options.iterations} iterations | start | s | x ours | inertia |"
    )
    print("|---|---|---|---|---|")
    for (library, name), (seconds, centres) in found.items():
        inertia = float(ours(np.asarray(centres), 0).inertia)
        print(f"| {library} | {name} | {seconds:.3f} | {seconds / found['cffm_jax', name][0]:.2f} | {inertia:,.0f} |")
    for library, run in libraries.items():
        if not run:
            print(f"| {library} | not installed | | | |")
    return {name: found["cffm_jax", name][0] for name in (GIVEN, *starts)}


def race_running(tokens: np.ndarray, options: Options) -> None:
    """Prints what a stream pays for its prototypes."""
    first, second = (jnp.asarray(x) for x in np.array_split(tokens, FRAMES)[:2])
    state = start_running(jax.random.key(0), first, options.k, options.iterations)
    programs = {
        "first": lambda: start_running(jax.random.key(0), first, options.k, options.iterations),
        "next": lambda: update_running(state, second),
    }
    found = least_seconds(programs, 3 * options.rounds)
    times = [f"{1e3 * found[name][0]:.1f} ms" for name in programs]
    print(f"\nRunning prototypes, {len(first):,} tokens a frame: first frame {times[0]}, every other {times[1]}.")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, {datetime.date.today()}")
    print(options)
    seconds = None
    if options.data == "features":
        model = create_model(options.model, 124)
        frames = [normalise(jnp.asarray(frame[None])) for frame in sampled_frames(options)]
        variables = jax.jit(lambda x: model.init(jax.random.key(0), x, method="encode"))(frames[0][:, :32, :32])
        encode = jax.jit(lambda x: model.apply(variables, x, method="encode").coarse)
        found = least_seconds({"encode": lambda: [encode(x) for x in frames]}, options.rounds)
        seconds, features = found["encode"]
        tokens = np.concatenate(jax.device_get(features)).reshape(-1, CHANNELS)
    else:
        tokens = mixture(FRAMES * (options.height // 8) * (options.width // 8))
    ours = race(tokens, options, options.rounds, ("k-means++", "random"))["k-means++"]
    if seconds is not None:
        share = ours / (ours + seconds)
        print(
            f"\nEncoding the {FRAMES} frames with {options.model}: {seconds:.2f} s; clustering is {share:.0%} of both."
        )
    race_running(tokens, options)
    if options.large:
        noise = np.random.default_rng(1).standard_normal((FRAMES * len(tokens), CHANNELS), np.float32)
        race(np.tile(tokens, (FRAMES, 1)) + 0.1 * tokens.std() * noise, options, 1, ())


if __name__ == "__main__":
    main()
