"""Small systems with key frames, and their rules frame by frame."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import cffm_jax
from cffm_jax.models.flow.raft import Raft
from cffm_jax.models.flow.warp import resize_flow, warp
from cffm_jax.models.methods.grfp import Gate
from cffm_jax.models.normalise import normalise
from cffm_jax.models.pyramid import bin_means
from cffm_jax.models.resize import resize_bilinear

from helpers.drawn import lively

SIZE, HALF, MAP, STRIDE_8 = (33, 45), (17, 23), (5, 6), (3, 3)
SMALL = {"flow": "raft_small", "flow_updates": 1, "receptive": (7,), "pooling": (7,)}


def small(name, **settings):
    """A system, and variables that predict several classes."""
    model = cffm_jax.create_model(f"{name}_mobilenetv2", 5, **SMALL | settings)
    variables = lively(model)
    if name == "cc":
        # Of the two scores neither alone decides.
        variables["params"]["classifier"]["kernel"] *= 2
    return model, variables


def drawn_frames(count, seed=0):
    """Frames that differ less than any two."""
    rng = np.random.default_rng(seed)
    first, others = rng.integers(0, 256, (1, *SIZE, 3)), rng.integers(-60, 61, (count, *SIZE, 3))
    return np.clip(first + others, 0, 255).astype(np.uint8)


class Rules:
    """The rules of the systems, frame by frame, by parts of a model."""

    def __init__(self, name, model, variables):
        self.name, self.model, self.variables = name, model, variables
        self.params, self.jitted = variables["params"], {}
        raft = {collection: tree["flow"] for collection, tree in variables.items() if "flow" in tree}

        def flow(present, before):
            halves = (resize_bilinear(each.astype(np.float32), HALF) for each in (present, before))
            return Raft("raft_small").apply(raft, *halves, 1, method="flow_between")

        self.half_flow, self.raft = jax.jit(flow), raft

    def call(self, method, *arguments):
        apply = self.jitted.setdefault(method, jax.jit(functools.partial(self.model.apply, method=method)))
        return apply(self.variables, *arguments)

    def flow(self, present, before):
        return resize_flow(self.half_flow(present, before), MAP)

    def features(self, frame):
        return self.call("own_features", normalise(frame))

    def of_raft(self, method, frame, size):
        """A map of RAFT's of the halved frame, which lies in 128x128 with 55 rows and 52 columns before."""
        padded = np.zeros((1, 128, 128, 3), np.float32)
        padded[:, 55 : 55 + 17, 52 : 52 + 23] = resize_bilinear(frame.astype(np.float32), HALF)
        whole = np.asarray(Raft("raft_small").apply(self.raft, padded / 127.5 - 1, method=method))[0]
        rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in zip(size, HALF))
        rows, columns = (rows + 55) / 8 - 0.5, (columns + 52) / 8 - 0.5
        found = np.zeros((*size, whole.shape[-1]), np.float32)
        for i, y in enumerate(rows):
            for j, x in enumerate(columns):
                for v in (int(y), int(y) + 1):
                    for u in (int(x), int(x) + 1):
                        found[i, j] += (1 - abs(y - v)) * (1 - abs(x - u)) * whole[v, u]
        return found[None]

    def scale(self, frame):
        conv = self.params["scale"]["conv"]
        return self.of_raft("context", frame, MAP) @ conv["kernel"] + conv["bias"]

    def run(self, frames):
        return getattr(self, self.name)([frame[None] for frame in frames])

    def dff(self, frames):
        key, features = frames[0], self.features(frames[0])
        for i, frame in enumerate(frames):
            if i % 3 == 0:
                key, features = frame, self.features(frame)
                yield self.call("classified", features)
            else:
                yield self.call("classified", warp(features, self.flow(frame, key)) * self.scale(frame))

    def accel(self, frames):
        def update(model, frame):
            return model.update_classifier(model.update_head(model.update_encoder(normalise(frame)), None))

        features = self.features(frames[0])
        for i, frame in enumerate(frames):
            if i % 3 == 0:
                features = self.features(frame)
                yield self.call("classified", features)
            else:
                features = warp(features, self.flow(frame, frames[i - 1]))
                both = self.call("classified", features), self.call(update, frame)
                fusion = self.params["fusion"]
                yield np.concatenate(both, -1) @ fusion["kernel"] + fusion["bias"]

    def grfp(self, frames):
        gate, logits = {"params": self.params["gate"]}, np.zeros(())
        for i, frame in enumerate(frames):
            x = self.call("classified", self.features(frame))
            if i % 3 == 0:
                logits = x
            else:
                pair = (each.astype(np.float32) for each in (frame, frames[i - 1]))
                logits = Gate().apply(gate, x, logits, *pair, self.half_flow(frame, frames[i - 1]))
            yield logits

    def dvsn(self, frames):
        key, logits = frames[0], self.call("classified", self.features(frames[0]))
        yield logits
        for frame in frames[1:]:
            if self.percentage(frame, key) >= self.model.least_agreement:
                yield warp(logits, self.flow(frame, key), outside="border") * self.scale(frame)
            else:
                key, logits = frame, self.call("classified", self.features(frame))
                yield logits

    def percentage(self, frame, key):
        now, before = (self.of_raft("features", each, STRIDE_8) for each in (frame, key))
        flow = resize_flow(self.half_flow(frame, key), STRIDE_8)
        x = bin_means(jnp.concatenate([jnp.abs(now - warp(before, flow, outside="border")), flow], -1), (4, 8))
        return float(self.call(lambda model, x: model.decision(x), x)[0])

    def cc(self, frames):
        def scores(model, frame):
            maps = model.encode_stages(normalise(frame))
            return model.regions(maps), model.classified(model.head(maps, None))

        before = upper = np.zeros(())
        for i, frame in enumerate(frames):
            lower, own = self.call(scores, frame)
            if i == 0 or (lower.argmax(-1) != before).mean() >= self.model.update_share:
                before, upper = lower.argmax(-1), own
            yield lower + upper


CASES = {
    "dff": {"key_interval": 3},
    "accel": {"key_interval": 3},
    "grfp": {"key_interval": 3},
    "dvsn": {"least_agreement": 8.2},
    "cc": {"update_share": 0.3},
}
