"""Image heads whose streams have key frames: there a state is taken anew, on others it is moved.

Systems of Cityscapes (DFF, Accel, GRFP, DVSN, CC), each after its paper's rule, on other networks:
an image head on any backbone.

Dimension key: as in ``method``; h w the map of the logits.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from cffm_jax.config import ModelConfig, PrototypeConfig
from cffm_jax.models.criterion import Criterion
from cffm_jax.models.foreign.names import NO_NAMES, MethodNames
from cffm_jax.models.heads.head import HeadKind
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.methods.image_head import ClipOutputs, ImageHead
from cffm_jax.models.methods.method import Batch, Method, Prototypes, Tree
from cffm_jax.models.normalise import normalise
from cffm_jax.models.products import Counts, counts


def kind_after(title: str, kind: HeadKind, *, auxiliary: bool = False) -> HeadKind:
    """MMSegmentation's form of a head within a system after another one; its weights are nobody
    else's."""
    form = kind.forms["mmsegmentation"]
    form = dataclasses.replace(form, names=NO_NAMES, auxiliary=form.auxiliary if auxiliary else None)
    return HeadKind(title, {"mmsegmentation": form})


class KeyFrames(ImageHead):
    """An image head whose frames between key frames read a state.

    Attributes:
      key_interval: every so many frames one is a key frame.
      references: past frames of a training clip, whose first frame is a key frame.
    """

    key_interval: int = 5
    references: int = 1

    if TYPE_CHECKING:

        def __hash__(self) -> int: ...

    READS_CLIPS: ClassVar[bool] = True
    ONE_FORM: ClassVar[bool] = True
    INTERVAL: ClassVar[int] = 5
    """The authors' ``key_interval``."""
    BASE: ClassVar[str] = "pspnet"
    """The image system whose trained weights ``ADDED`` are trained on top of."""
    ADDED: ClassVar[Mapping[str, str]] = {}
    """First names of the parameters -> what messages call them, where these alone are trained."""

    @classmethod
    def all_foreign_names(cls) -> tuple[MethodNames, ...]:
        return ()

    @classmethod
    def of(cls, family: str, backbone: str, settings: ModelConfig) -> dict[str, Any]:
        return super().of(family, backbone, settings) | {
            "key_interval": settings.key_interval or cls.INTERVAL,
            "references": len(settings.receptive),
        }

    @property
    def settings_resolved(self) -> dict[str, Any]:
        return super().settings_resolved | {"key_interval": self.key_interval}

    @property
    def settings_read(self) -> tuple[str, ...]:
        interval = () if self.chooses_key_frames else ("model.key_interval",)
        return *super().settings_read, "model.receptive", *interval  # The number of references.

    @property
    def chooses_key_frames(self) -> bool:
        """Whether the frames themselves tell which of them are key frames."""
        return False

    @property
    def clip_frames(self) -> int:
        return self.references + 1

    def training_offsets(self, offsets: Sequence[int]) -> tuple[int, ...]:
        return tuple(offsets)

    def contexts(self, prototypes: Prototypes = "video") -> tuple[Literal["video", "causal"], ...]:
        return ("causal",)

    # --- what a system is

    def keyed(
        self, features: Tree, train: bool = False
    ) -> tuple[Tree, Float32[Array, "N h w {self.num_classes}"]]:  # fmt: skip
        """The state after key frames, arrays [N, ...] of which the first is a map [N, h, w, _], and
        their logits."""
        raise NotImplementedError

    def moved(
        self, state: Tree, features: Tree, train: bool = False
    ) -> tuple[Tree, Float32[Array, "N h w {self.num_classes}"]]:
        """The state after frames between key frames, from that before them, and their logits."""
        raise NotImplementedError

    def is_key(self, state: Tree, features: Tree, age: Int32[Array, " S"]) -> Bool[Array, " S"]:
        """Whether the streams' present frames are key frames; their first ones are."""
        return age % self.key_interval == 0

    # --- the stages

    def start(self, size: tuple[int, int], settings: PrototypeConfig) -> Tree:
        return jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), _state_shapes(self, size))

    def advance(
        self,
        state: Tree,
        features: Tree,
        age: Int32[Array, " S"],
        settings: PrototypeConfig,
        memory: Sequence[Tree] = (),
    ) -> tuple[Tree, Float32[Array, "S h w {self.num_classes}"]]:
        """The state with a frame of each stream, and their logits. What key frames take is computed
        where one of the streams has one, and what the others take likewise."""
        call, key = self.unbound(), self.is_key(state, features, age)
        held = self.keyed_if(jnp.any(key), state, features)
        moved = jax.lax.cond(jnp.all(key), lambda: held, lambda: call("moved", state, features))
        return select(key, held, moved)

    def keyed_if(self, needed: Bool[Array, ""], state: Tree, features: Tree) -> tuple[Tree, Array]:
        """``keyed`` of streams where that is needed; else the state as it is, and zeros."""
        call, shape = self.unbound(), jax.tree.leaves(state)[0].shape[:-1]
        blank = state, jnp.zeros((*shape, self.num_classes), jnp.float32)
        return jax.lax.cond(needed, lambda: call("keyed", features), lambda: blank)

    def unbound(self) -> Callable[..., Any]:
        """(Name of a method, arguments) -> what it gives, by the weights that the module is bound
        to: Flax cannot call these within branches of JAX."""
        model, variables = self.unbind()
        return lambda method, *arguments: model.apply(variables, *arguments, method=method)

    def segment(
        self, features: Tree, memory: Sequence[Tree], referring: Bool[Array, " N"], contexts: Mapping[str, Tree]
    ) -> dict[str, Float32[Array, "N h w {self.num_classes}"]]:
        return {self.kind.title: contexts["causal"]}

    def own_features(self, frames: Float[Array, "N H W K"], train: bool = False) -> Float[Array, "N h w _"]:
        """The image system's, in front of the classifier; without statistics of the batch where its
        weights are not trained."""
        train = train and not self.ADDED
        return self.head(self.encode_stages(frames, train), None, train)

    # --- training

    def clip_outputs(self, clips: Float[Array, "B T H W K"], train: bool = False) -> ClipOutputs:
        """As of streams whose key frame is the clips' first frame."""
        b, t, *shape = clips.shape
        features = self.encode(clips.reshape(b * t, *shape), train)
        features = jax.tree.map(lambda x: x.reshape(b, t, *x.shape[1:]), features)
        first, *others = (jax.tree.map(lambda x, i=i: x[:, i], features) for i in range(t))
        state, logits = self.keyed(first, train)
        every = [logits]
        for each in others:
            state, logits = self.moved(state, each, train)
            every.append(logits)
        return ClipOutputs(logits, jnp.stack(every, 1))

    def loss(
        self, batch: Batch, frame_loss_weight: float, criterion: Criterion = cross_entropy
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
        """The loss of the clips' last frames; ``frame_loss_weight`` is not read."""
        clips = normalise(batch["frames"], batch["size"], self.channels)
        return self.weighted_loss(self.clip_outputs(clips, True).logits, None, batch["labels"], criterion)

    @property
    def base(self) -> Method | None:
        if not self.ADDED:
            return None
        names = {field.name for field in dataclasses.fields(ImageHead)} - {"parent", "name"}
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        return ImageHead(**own | {"head_name": self.BASE})

    @property
    def fresh_parts(self) -> tuple[str, ...] | None:
        return tuple(self.ADDED.values()) or None

    def is_trained(self, name: str) -> bool:
        """All, or what the system adds to a trained one."""
        return name in self.ADDED if self.ADDED else super().is_trained(name)

    @property
    def least_samples(self) -> int:
        return 1 if self.ADDED else super().least_samples

    # --- counts

    def macs(self, height: int, width: int, *, prototypes: int, executed: bool) -> dict[str, int]:
        """The mean over key frames and those between; where frames tell, of a new key frame."""
        return {name: int(each) for name, each in self._mean_counts(height, width, "products").items()}

    def elements(self, height: int, width: int, *, prototypes: int) -> int:
        return sum(map(int, self._mean_counts(height, width, "elements").values()))

    def _mean_counts(self, height: int, width: int, field: str) -> dict[str, float]:
        every, key, between = (getattr(each, field) for each in self._stage_counts(height, width))
        n = self.key_interval
        weights = (1.0, 1.0) if self.chooses_key_frames else (1 / n, 1 - 1 / n)
        return {"every_frame": every, "key_frames": weights[0] * key, "between": weights[1] * between}

    def _stage_counts(self, height: int, width: int) -> tuple[Counts, Counts, Counts]:
        """Of what every frame takes, of what key frames do, and of what those between do."""
        frame = jax.ShapeDtypeStruct((1, height, width, len(self.channels)), jnp.float32)

        def moved(model: KeyFrames, frame: jax.Array) -> Any:
            features = model.encode(frame)
            return model.moved(model.keyed(features)[0], features)

        methods = (lambda model, x: model.encode(x), lambda model, x: model.keyed(model.encode(x)), moved)
        init = functools.partial(self.init_with_output, jax.random.key(0))
        every, key, whole = (counts(lambda x, of=of: init(x, method=of)[0], frame) for of in methods)
        key_alone, between = (Counts(*(a - b for a, b in zip(*pair))) for pair in ((key, every), (whole, key)))
        return every, key_alone, between

    def training_macs(self, height: int, width: int, *, prototypes: int) -> int:
        return 3 * self.clip_macs(height, width) - 2 * self.frozen_macs(height, width)

    def frozen_macs(self, height: int, width: int) -> int:
        """Multiply-accumulates of a training clip that have no backward pass."""
        return 0


@functools.lru_cache(maxsize=64)
def _state_shapes(model: KeyFrames, size: tuple[int, int]) -> Tree:
    """Of one stream; an encoder of few blocks gives the same, and is traced faster."""
    small = model.templated

    def state(frame: jax.Array) -> Tree:
        of_key_frame = small.init_with_output(
            jax.random.key(0), frame, method=lambda model, x: model.keyed(model.encode(x))
        )
        return of_key_frame[0][0]

    return jax.eval_shape(state, jax.ShapeDtypeStruct((1, *size, len(model.channels)), jnp.float32))


def select(key: Bool[Array, " S"], of_key: Tree, others: Tree) -> Tree:
    """For each stream what key frames give, or others."""
    return jax.tree.map(lambda a, b: jnp.where(key.reshape(-1, *(1,) * (a.ndim - 1)), a, b), of_key, others)
