"""Prototypes of whole videos (CFFM++ section 4.1): computed, kept on disk, or imported.

Dimension key: f frames of a video that are clustered, H W the model's input, h w the map at stride
8, P prototypes, C = 256 channels.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.config import Config, PrototypeConfig
from cffm_jax.data import clips, evaluation_frames
from cffm_jax.data.image_files import FileName
from cffm_jax.data.layouts.records import file_size
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.inference.engine import not_finite
from cffm_jax.inference.prototype_store import PrototypeStore
from cffm_jax.inference.tiles import Tiling, tiles_of
from cffm_jax.models.kmeans import cluster as cluster_tokens
from cffm_jax.models.methods.frame_network import FrameNetwork
from cffm_jax.models.methods.method import Method
from cffm_jax.models.normalise import normalise
from cffm_jax.runtime import cluster
from cffm_jax.runtime.compiling import compiling
from cffm_jax.runtime.progress import Progress
from cffm_jax.weights.authors_prototypes import find_centres
from cffm_jax.weights.open import complete, open_stored

FOLDER = "prototypes"
_ENCODING = ("encoder", "decoder")


def fingerprint(variables: dict[str, Any]) -> str:
    """Digest of the weights behind the features: encoder, decoder and the decoder's statistics.

    Raises:
      InputError: one is not finite, which features may hide: XLA's ReLU on CPUs turns NaN into 0.
    """
    digest = hashlib.sha256()
    for name, leaf in finite_leaves(variables):
        digest.update(f"{name}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def finite_leaves(variables: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and arrays of the weights behind the features. InputError as of `fingerprint`."""
    for collection in sorted(variables):
        for part in _ENCODING:
            leaves = jax.tree_util.tree_leaves_with_path(variables[collection].get(part, {}))
            for path, leaf in leaves:
                name = f"{part}{jax.tree_util.keystr(path)}"
                if not np.isfinite(leaf).all():
                    raise InputError("weights", f"{name} is not finite", "use an earlier checkpoint, or other weights")
                yield f"{collection}/{name}", leaf


class Prototyper:
    """Gives the prototypes of videos: out of the store, or in one jitted call a video, then stored.
    Several threads may ask, each for its own videos and computing on its default device."""

    def __init__(self, model: Method, variables: dict[str, Any], config: Config, store: PrototypeStore | None = None):
        """``model`` and ``variables``: the network to cluster; its width is the prototypes'."""
        self.config = config
        self._model, self._store = model, store
        self._tiles = Tiling.of(config.eval.tile_size, config.eval.overlap, "eval.")
        self._variables = {c: {k: v for k, v in tree.items() if k in _ENCODING} for c, tree in variables.items()}
        self._key = self._digest()

    def _digest(self) -> str:
        """Digests the weights and every setting that changes prototypes."""
        plan = dataclasses.asdict(self.config.prototypes)
        used = {name: plan[name] for name in ("count", "frames", "rule", "start", "iterations", "seed")}
        model = self._model
        size = self.config.data.frame_size[::-1]  # As it was when the first prototypes were kept.
        settings = [used, jnp.dtype(model.dtype).name, model.norm_epsilons, model.channels, size]
        settings += [self._tiles] if self._tiles else []
        text = json.dumps([fingerprint(self._variables), *settings], default=dataclasses.asdict)
        return hashlib.sha256(text.encode()).hexdigest()

    def _key_of(self, video: Video) -> str:
        """Digest with the names and sizes of the frames' files: where they lie does not matter."""
        sizes = [[os.path.basename(path), file_size(path)] for path in self._frames(video)]
        return hashlib.sha256(json.dumps([self._key, len(video.frames), sizes]).encode()).hexdigest()

    def _frames(self, video: Video) -> list[FileName]:
        plan = self.config.prototypes
        return [video.frames[i] for i in clips.prototype_indices(len(video.frames), plan.frames, plan.rule)]

    def of(self, video: Video) -> np.ndarray:
        """Prototypes f32[P, C] of a video.

        Raises:
          InputError: a frame cannot be read, the video has fewer tokens than prototypes, or its
            features are not finite.
        """
        if not self._store:
            return self._compute(video)
        try:
            key = self._key_of(video)
        except OSError as error:
            raise InputError(error.filename, f"cannot be read ({error.strerror})", "copy it again") from error
        prototypes = self._store.get(video.name, key)
        if prototypes is None:
            prototypes = self._compute(video)
            self._store.put(video.name, key, prototypes)
        return prototypes

    def _compute(self, video: Video) -> np.ndarray:
        plan = self.config.prototypes
        read = functools.partial(
            evaluation_frames.load_evaluation_frame, box=self.config.data.frame_size, channels=self._model.channels
        )
        with ThreadPoolExecutor(max(1, self.config.data.threads)) as pool:
            frames = [frame for frame, _ in pool.map(read, self._frames(video))]
        if any(frame.shape != frames[0].shape for frame in frames):
            raise InputError(video.frames[0], "its video has frames of several sizes", "give a video one size")
        h, w = frames[0].shape[:2]
        tokens = len(frames) * (h // 8) * (w // 8)
        if tokens < plan.count:
            problem = f"its {len(frames)} frame(s) of {h}x{w} have {tokens} tokens, fewer than {plan.count} prototypes"
            raise InputError(video.frames[0], problem, "give fewer with --prototypes.count, or a longer video")
        valid = np.arange(plan.frames) < len(frames)
        frames = np.stack(frames + frames[-1:] * (plan.frames - len(frames)))
        with compiling("the clustering of prototypes", self.config.model.name, *frames.shape[:3]):
            clusters = _cluster(self._model, plan, self._tiles, self._variables, frames, valid)
        centres, inertia = jax.device_get(clusters)
        if not np.isfinite(inertia):
            raise not_finite(video.frames[0])
        return centres


# Not a function of each Prototyper: training has two, for both splits, and one compiled program.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _cluster(
    model: Method,
    plan: PrototypeConfig,
    tiling: Tiling | None,
    variables: dict[str, Any],
    frames: jax.Array,
    valid: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """u8[f, H, W, 3] or f32[f, H, W, K], valid bool[f] -> centres f32[P, C], inertia f32[]; some
    frames at a time, so that memory does not grow with f, or of each frame in tiles one."""
    h, w = frames.shape[1:3]
    tiles = tiles_of(tiling, (h, w))

    def encode(frame: jax.Array) -> jax.Array:
        return model.apply(variables, normalise(frame[None], channels=model.channels), method="prototype_tokens")[0]

    def encode_in_tiles(frame: jax.Array) -> jax.Array:
        blank = jnp.zeros((h // 8, w // 8, model.width))
        return jax.lax.fori_loop(
            0, tiles.count, lambda i, blend: tiles.add(blend, encode(tiles.cut(frame, i)), i), blank
        )

    if tiles.count == 1:
        features = jax.lax.map(encode, frames, batch_size=min(len(frames), 5))
    else:
        features = jax.lax.map(encode_in_tiles, frames)
    _, h, w, c = features.shape
    tokens = features.reshape(-1, c).astype(jnp.float32)
    clusters = cluster_tokens(
        jax.random.key(plan.seed), tokens, plan.count, plan.iterations,
        valid=jnp.repeat(valid, h * w), start=plan.start,
    )  # fmt: skip
    return clusters.centres, clusters.inertia


def all_prototypes(source: Prototyper | ImportedPrototypes, videos: Sequence[Video], name: str) -> np.ndarray:
    """Prototypes f32[V, P, C] of all videos, with a progress bar; only those not stored are
    computed, the videos being shared by the processes.

    Raises:
      InputError: those of a video cannot be had, or videos differ in their number of prototypes.
    """
    with cluster.together():
        mine = Progress(
            cluster.share(tuple(videos)), f"prototypes, {name}", unit="video", leave=False, disable=not cluster.first()
        )
        share = {video.name: source.of(video) for video in mine}
    known = {name: prototypes for share in cluster.gathered(share) for name, prototypes in share.items()}
    in_order = [known[video.name] for video in videos]
    for video, prototypes in zip(videos, in_order, strict=True):
        if len(prototypes) != len(in_order[0]):
            problem = f"video {video.name} has {len(prototypes)} prototypes, {videos[0].name} {len(in_order[0])}"
            raise InputError(name, problem, "give all videos the same number")
    return np.stack(in_order)


def prototype_source(
    config: Config, model: Method, variables: dict[str, Any], split: str, folder: str | Path = ""
) -> Prototyper | ImportedPrototypes:
    """The source of a split's prototypes, as ``config.prototypes`` says: imported ones, or those of
    another run's network or the model itself, computed and kept in one file a split.

    Args:
      config: of the model.
      model: that will use them.
      variables: its weights.
      split: names the file.
      folder: of the file, where the config names none; default: ``<workdir>/prototypes``.

    Raises:
      InputError: the folder, the other run or the file cannot be used.
    """
    plan = config.prototypes
    if plan.imported:
        return ImportedPrototypes(plan.imported, model.width)
    if plan.checkpoint:
        with open_stored(plan.checkpoint) as weights:
            if not isinstance(weights.model, FrameNetwork):
                problem = f"{plan.checkpoint} holds {weights.model.public_name}, which has no features to cluster"
                raise InputError("--prototypes.checkpoint", problem, "name one of SegFormer, CFFM or CFFM++")
            model, variables = weights.model, jax.device_put(complete(weights))
    folder = Path(plan.folder or folder or Path(config.workdir) / FOLDER)
    return Prototyper(model, variables, config, PrototypeStore(folder / f"{split}.sqlite"))


class ImportedPrototypes:
    """Prototypes computed elsewhere, [P, C] a video; see ``weights.authors_prototypes``."""

    def __init__(self, path: str, width: int):
        self._path, self._width = Path(path), width
        self._lock = threading.Lock()  # A zip is one open file.
        self._found = find_centres(path)

    def of(self, video: Video) -> np.ndarray:
        """f32[P, C]; InputError if the video has none, or they are unreadable or misshapen."""
        if video.name not in self._found:
            problem = f"holds no prototypes of video {video.name}"
            raise InputError(self._path, problem, "name prototypes of all videos of the split")
        where, load = self._found[video.name]
        with self._lock:
            array = load()
        array = array[0] if array.ndim == 3 and len(array) == 1 else array
        if array.ndim != 2 or array.shape[1] != self._width or not len(array):
            problem = f"video {video.name} is {list(array.shape)}, not [prototypes, {self._width}]"
            raise InputError(where, problem, "give the prototypes of a network of this family")
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise InputError(where, f"video {video.name} has values that are not finite", "compute it again")
        return array
