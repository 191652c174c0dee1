"""Every setting of a run, with its default: the only place where defaults are written down.

A config file (``configs/*.py``) defines ``get_config() -> Config`` and changes fields with ``dataclasses.replace``.
The comments under the fields are the command line's help.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

IGNORED_LABEL = 255
"""Label of the pixels that neither the loss nor the metrics count."""
LayoutName = Literal["vspw", "cityscapes", "folder", "records"]
"""The layouts of datasets: each is a file of that name in ``data/layouts``."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    name: str = "cffm_b1"
    """segformer_b0 .. b5, cffm_b0 .. b5, cffmpp_b0 .. b5 (CFFM++), cffmp_b0 .. b5 (global contexts alone, CFFM+); in
    place of MiT b0 .. b5 also pvtv2_b0 .. b5 and convnext_tiny, _small, _base."""
    num_classes: int = 124
    """Number of classes K; labels are 0..K-1."""
    blocks: int = 0
    """Mining blocks N; 0: as many as the papers give the backbone."""
    global_blocks: int = 0
    """Global mining blocks N_g; 0: as many as the papers give the backbone."""
    receptive: tuple[int, ...] = (49, 20, 6)
    """r of the references, oldest first: side of the region that a window reads, in positions of the stride-8 map."""
    pooling: tuple[int, ...] = (7, 4, 2)
    """p of the references: side of the patch that is pooled into one context token (1, 2, 3, 4, 5 or 7)."""
    references: Literal["past", "self"] = "past"
    """What a target is mined with: past frames, or itself in their place (static contexts alone)."""
    mining: Literal["attention", "positions"] = "attention"
    """How context tokens are weighed: by attention, or by a learned weight of their position (CFFA without CFM)."""
    norm_epsilons: tuple[float, ...] = ()
    """Epsilons of the encoder's layer norms: those of its embeddings and reductions, those of its blocks and stages;
    without any the backbone's own. Weights from elsewhere may need theirs."""
    projection: Literal["linear", "normalised"] = "linear"
    """How the decoder projects the encoder's stages: dense with bias (SegFormer), or without and with BatchNorm and
    ReLU (MMSegmentation)."""
    width: int = 256
    """Channels of the frame features; the papers have 256 for every backbone, SegFormer's own B2 to B5 768."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type. Parameters, norms, softmax, logits and the loss stay in float32."""
    dropout: float = 0.1
    """Share of whole channels dropped before each classifier."""
    drop_path: float = 0.1
    """Largest probability of skipping an encoder block's branch; rises linearly from 0 over the blocks."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    root: str = "data/VSPW_480p"
    """Dataset folder."""
    layout: LayoutName = "vspw"
    """How it is laid out: VSPW_480p (data/<video>/origin/*.jpg, data/<video>/mask/*.png, <split>.txt), Cityscapes
    (leftImg8bit_sequence, gtFine), plain (<video>/frames, <video>/masks, <split>.txt, classes.txt), or any of these
    as python -m cffm_jax.data.prepare wrote it; see the README."""
    train_split: str = "train"
    """Split file (without .txt; in Cityscapes a folder's name) to train on."""
    eval_split: str = "val"
    """Split file (without .txt; in Cityscapes a folder's name) to evaluate on."""
    offsets: tuple[int, ...] = (9, 6, 3)
    """How many frames before the target the references lie, oldest first."""
    scale: tuple[int, int] = (853, 480)
    """Width and height that frames are resized to fit, aspect kept."""
    ratio: tuple[float, float] = (0.5, 2.0)
    """Range of the training resize, relative to the scale."""
    crop: tuple[int, int] = (480, 480)
    """Height and width of a training crop."""
    max_class_share: float = 0.75
    """A crop is redrawn while one class covers more than this of the target's labelled pixels."""
    crop_tries: int = 10
    """How often a crop is drawn at most."""
    flip: float = 0.5
    """Probability of a horizontal flip of the whole clip."""
    reverse: float = 0.5
    """Probability of reversing a video's order."""
    distort: float = 0.5
    """Probability of each photometric distortion, drawn anew for each frame."""
    brightness: float = 32.0
    """Largest brightness shift, in grey levels of 255."""
    contrast: tuple[float, float] = (0.5, 1.5)
    """Range of the contrast factor."""
    saturation: tuple[float, float] = (0.5, 1.5)
    """Range of the saturation factor."""
    hue: int = 18
    """Largest hue shift, of 180."""
    workers: int = 0
    """Loader processes; 0 loads in threads of this process."""
    threads: int = 2
    """Loader threads per process."""
    prefetch: int = 4
    """Batches kept ready."""
    stall_seconds: float = 300.0
    """Training stops if no batch comes for so long, for example since a loader process is stuck; 0: waits for ever."""
    max_unreadable: int = 0
    """Training clips of this process that may be replaced by others since a file of theirs is unreadable; 0: none."""
    verify: bool = False
    """Compare every training file's sha256 with <root>/manifest.sha256 (cffm_jax.data.check writes it) when reading.
    Records are compared with checksums of their own, always."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    rate: float = 6e-5
    """Peak learning rate of the encoder (AdamW)."""
    head_multiplier: float = 10.0
    """Learning rate of everything outside the encoder, relative to the encoder's."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW moment decay rates."""
    weight_decay: float = 0.01
    """Decoupled weight decay; the encoder's norms and layer scales have none."""
    warmup_steps: int = 1500
    """Iterations of the linear warm-up."""
    warmup_ratio: float = 1e-6
    """Share of the scheduled rate at which the warm-up starts."""
    power: float = 1.0
    """Exponent of the poly schedule."""
    clip_norm: float = 0.0
    """Gradients with a larger norm are scaled down to it; 0: never."""
    ema: float = 0.0
    """Decay of a moving average of the trained weights, which is then what is evaluated and loaded; 0: none."""


@dataclasses.dataclass(frozen=True)
class InitConfig:
    encoder: str = ""
    """File with ImageNet weights of the MiT encoder; the rest starts at random."""
    model: str = ""
    """File (released CFFM or SegFormer state dict) or checkpoint folder with weights of the whole model; for CFFM++
    those of its CFFM will do, and the global blocks start at random."""


@dataclasses.dataclass(frozen=True)
class PrototypeConfig:
    count: int = 100
    """Prototypes N_p of a video."""
    frames: int = 10
    """Frames of a video whose features are clustered."""
    rule: Literal["release", "paper"] = "release"
    """Which frames: int((i + 0.5) * d), or i * d (counted from 0), where d = length // frames."""
    start: Literal["k-means++", "random"] = "k-means++"
    """Start of k-means; the release draws tokens at random."""
    iterations: int = 10
    """Iterations of k-means at most."""
    seed: int = 0
    """Seed of the start."""
    checkpoint: str = ""
    """Run whose network computes the features that are clustered; default: the weights of the model itself."""
    imported: str = ""
    """Prototypes that the authors' code computed, to be used instead of computing any: their folder with
    <video>/centers.pt, a zip of it, or a .safetensors with a key for each video."""
    folder: str = ""
    """Where computed prototypes are kept, to be used again; default: <workdir>/prototypes."""
    memory: float = 10.0
    """Causal prototypes: frames' worth of tokens that a centre remembers: as many as the paper clusters of a video."""
    interval: int = 1
    """Causal prototypes: every so many frames one is taken in."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    steps: int = 160_000
    """Training iterations."""
    batch_size: int = 8
    """Clips in a global batch, over all devices."""
    frame_loss_weight: float = 0.5
    """Weight of the per-frame logits' cross-entropy beside the clip's."""
    log_every: int = 50
    """Iterations between two lines of the log."""
    eval_every: int = 16_000
    """Iterations between two evaluations; the last iteration is always evaluated. 0: only at the end."""
    checkpoint_every: int = 2_000
    """Iterations between two checkpoints; those that are evaluated and the last one are always saved."""
    keep: int = 3
    """Latest checkpoints kept; the one with the best mIoU is kept beside them."""
    bad_steps: int = 10
    """The run stops after so many iterations in a row whose loss or gradients are not finite; each is skipped."""
    devices: int = 0
    """Devices to use, of this process; 0 uses all, with several processes those of all of them."""
    fsdp: int = 1
    """Devices that share the parameters and the optimiser's state, each holding a part; 1: every device holds all."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, for less memory; BatchNorm sees a part at a time."""
    remat: Literal["none", "products", "blocks"] = "none"
    """What encoder and mining blocks keep for the backward pass, which computes the rest anew: everything, the results
    of their dense layers, or only what goes into a block. Less memory for more time."""
    peak_tflops: float = 0.0
    """Peak of a device in TFLOP/s for the compute type, to tell the MFU; 0: as cffm_jax/training/speed.py knows it."""
    seed: int = 0
    """Seed of the initial weights, the data order, the augmentation and the dropouts."""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    chunk: int = 0
    """Target frames segmented in one jitted call; 0: 8, on a CPU as many as one frame of 480p has pixels."""
    prototypes: Literal["video", "causal", "both"] = "video"
    """Prototypes of the whole video, of the frames seen so far, or a row of figures for each (CFFM++)."""
    devices: int = 0
    """Devices that share the videos, of each process; 0 uses all."""
    max_videos: int = 0
    """Evaluate the first so many videos of the split only; 0 evaluates all."""


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = "runs/cffm_b1_vspw"
    """Folder of the run: checkpoints, logs, results."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    init: InitConfig = InitConfig()
    prototypes: PrototypeConfig = PrototypeConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Where a process stands among those of its run: no part of what the run is, so it is not stored with it."""

    coordinator: str = ""
    """HOST:PORT of process 0, for a run of several processes; default: what SLURM, Open MPI or Kubernetes say."""
    processes: int = 0
    """Number of processes; 0: what SLURM, Open MPI or Kubernetes say, or else 1."""
    process: int = -1
    """Number of this process, from 0; -1: what SLURM, Open MPI or Kubernetes say."""
    connect_seconds: float = 300.0
    """How long a process waits for the others at the start."""
    heartbeat_seconds: int = 60
    """All processes end when nothing was heard of one for so long."""


WITHOUT_EFFECT = (
    "data.workers", "data.threads", "data.prefetch", "data.stall_seconds", "data.max_unreadable", "data.verify",
    "train.log_every", "train.eval_every", "train.checkpoint_every", "train.keep", "train.bad_steps", "train.devices",
    "train.fsdp", "train.remat", "train.peak_tflops", "eval.chunk", "eval.devices",
)  # fmt: skip
"""Settings that change no figure."""
