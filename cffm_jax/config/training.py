"""Settings of a training: optimiser, loss, what it starts from, and its course."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cffm_jax.rules import setting

NOTHING, REQUIRED = "none", "required"
"""Instead of a file with an encoder's weights: none is to be used; one has to be named."""
_EACH_CLASS = ("model.num_classes",)
_OF_PIXELS = ("loss.cross_entropy", "loss.focal")
"""The losses that are means over pixels."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    kind: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum as PyTorch's: the decay is added to the gradient before momentum,
    the rate is applied after it."""
    rate: float = setting(6e-5, least=0)
    """Peak learning rate of the encoder."""
    head_multiplier: float = setting(10.0, least=0)
    """Learning rate of everything outside the encoder, relative to the encoder's."""
    betas: tuple[float, float] = setting((0.9, 0.999), least=0, below=1, reads_only_if=("optim.kind", "adamw"))
    """AdamW moment decay rates."""
    momentum: float = setting(0.9, least=0, below=1, reads_only_if=("optim.kind", "sgd"))
    """Share of the direction so far that SGD adds to a gradient."""
    weight_decay: float = setting(0.01, least=0)
    """Weight decay: decoupled from the gradient in AdamW, a part of it in SGD."""
    decay: Literal["but_encoder_norms", "all", "but_biases", "but_norms_and_biases"] = "but_encoder_norms"
    """Parameters that decay: all but the encoder's norms and layer scales, as in the papers; all;
    all but biases, those of norms included; or all but the weights and biases of norms, layer
    scales, and other biases."""
    warmup_steps: int = setting(1500, least=0)
    """Iterations of the linear warm-up."""
    warmup_ratio: float = setting(1e-6, least=0, most=1)
    """Share of the scheduled rate at which the warm-up starts."""
    power: float = setting(1.0, least=0)
    """Exponent of the poly schedule."""
    least_rate: float = setting(0.0, least=0, goes_with=("optim.rate",))
    """The encoder's rate after the last iteration, to which the poly schedule falls."""
    clip_norm: float = setting(0.0, least=0, remedy="give 0 for none, or a norm")
    """Gradients with a larger norm are scaled down to it; 0: never."""
    ema: float = setting(0.0, least=0, below=1, remedy="give 0 for none, or a decay below 1, such as 0.999")
    """Decay of a moving average of the trained weights, which is then what is evaluated and loaded;
    0: none."""


@dataclasses.dataclass(frozen=True)
class InitConfig:
    encoder: str = setting("", path=True, hub=True)
    """File with ImageNet weights of the encoder, or hf:owner/name; the rest starts at random. none:
    all of it does. Configs of real datasets say required: one of the two has to be given."""
    model: str = setting("", set_by_study=True, path=True, hub=True)
    """File (released CFFM or SegFormer state dict), checkpoint folder or hf:owner/name with weights
    of the whole model; for CFFM++ those of its CFFM will do: the global blocks start at random."""

    flow: str = setting("", path=True, part="method")
    """File with torchvision's weights of RAFT, for methods that read optical flow and do not start
    from weights that hold it. none: random ones in their place, to try things out."""

    @property
    def source(self) -> str:
        """The file or folder that is named; "" to start at random."""
        return self.model or ("" if self.encoder in (NOTHING, REQUIRED) else self.encoder)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    steps: int = setting(160_000, least=1)
    """Training iterations."""
    batch_size: int = setting(8, least=1)
    """Clips in a global batch, over all devices."""
    frame_loss_weight: float = setting(0.5, least=0, part="method")
    """Weight of the per-frame logits' cross-entropy beside the clip's."""
    teacher: str = setting("", path=True, hub=True, part="method")
    """Run, file or hf:owner/name with a larger network of single frames and the same classes, of
    whose outputs ETC learns too; default: none."""
    log_every: int = setting(50, least=1, changes="nothing")
    """Iterations between two lines of the log."""
    eval_every: int = setting(16_000, least=0, changes="nothing")
    """Iterations between two evaluations; the last iteration is always evaluated. 0: only at the
    end."""
    checkpoint_every: int = setting(2_000, least=1, changes="nothing")
    """Iterations between two checkpoints; those that are evaluated and the last one are always
    saved."""
    keep: int = setting(3, least=1, changes="nothing")
    """Latest checkpoints kept; the one with the best mIoU is kept beside them."""
    bad_steps: int = setting(10, least=1, changes="nothing")
    """The run stops after so many iterations in a row whose loss or gradients are not finite; each
    is skipped."""
    devices: int = setting(0, least=0, changes="nothing")
    """Devices to use, of this process; 0 uses all, with several processes those of all of them."""
    fsdp: int = setting(1, least=1, changes="nothing")
    """Devices that share the parameters and the optimiser's state, each holding a part; 1: every
    device holds all."""
    accumulate: int = setting(1, least=1)
    """Parts that a batch is computed in, one after the other, for less memory; BatchNorm sees a
    part at a time."""
    remat: Literal["none", "products", "blocks"] = setting("none", changes="nothing")
    """What encoder and mining blocks keep for the backward pass, which computes the rest anew:
    everything, the results of their dense layers, or only what goes into a block. Less memory for
    more time."""
    peak_tflops: float = setting(0.0, least=0, changes="nothing", remedy="give 0, or the device's peak in TFLOP/s")
    """Peak of a device in TFLOP/s for the compute type, to tell the MFU; 0: as
    cffm_jax/training/speed.py knows it."""
    seed: int = setting(0, least=0, problem="{} is too small", set_by_study=True)
    """Seed of the initial weights, the data order, the augmentation and the dropouts."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The training loss of logits and labels; the papers' is the cross-entropy alone. The clip's
    and the frames' logits (train.frame_loss_weight) have the same."""

    cross_entropy: float = setting(1.0, least=0, goes_with=("loss.focal", "loss.dice"))
    """Weight of the cross-entropy."""
    focal: float = setting(0.0, least=0)
    """Weight of the focal loss: the cross-entropy of a pixel times (1 - p) ** focal_gamma."""
    focal_gamma: float = setting(2.0, least=0, reads_only_with=("loss.focal",))
    """Exponent of the focal loss."""
    dice: float = setting(0.0, least=0)
    """Weight of the dice loss, the mean over the classes that a batch's labels have."""
    class_weights: tuple[float, ...] = setting((), least=0, goes_with=_EACH_CLASS, reads_only_with=_OF_PIXELS)
    """Weight of each class in cross-entropy and focal loss; without any all are 1. They are no part
    of what the mean is divided by, see loss.mean. python -m cffm_jax.data.check ROOT
    --class-weights log prints some for a dataset."""
    label_smoothing: float = setting(0.0, least=0, below=1, reads_only_with=("loss.cross_entropy",))
    """Share of the cross-entropy that is spread over all classes."""
    ohem_threshold: float = setting(0.0, least=0, below=1, reads_only_with=("loss.cross_entropy", "loss.focal"))
    """Only hard pixels count: those whose class has at most this probability; 0: all do (OHEM)."""
    ohem_kept: int = setting(100_000, least=1, reads_only_with=("loss.ohem_threshold",))
    """The hardest pixels that count in any case, of each set of logits of a batch."""
    resized: Literal["logits", "log_probabilities"] = "logits"
    """What is enlarged to the labels' size, bilinearly with half-pixel centres: the logits, or
    their log-softmax at their own stride."""
    mean: Literal["all", "labelled"] = setting("all", reads_only_with=_OF_PIXELS)
    """Pixels whose number cross-entropy and focal loss are divided by: all, or the labelled ones of
    the batch, with train.accumulate of each part (OHEM: those that it keeps, in any case)."""
