"""Every setting of a run, with its default: the only place where defaults are written down.

A config file (``configs/*.py``) defines ``get_config() -> Config`` and changes fields with
``dataclasses.replace``. The comments under the fields are the command line's help; beside the
default stands what else is known of a setting, first of all the rule for its value
(`cffm_jax.rules.About`).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

from cffm_jax.channels import MEAN, RGB, STD, Channels
from cffm_jax.errors import InputError
from cffm_jax.rules import about, setting

IGNORED_LABEL = 255
"""Label of the pixels that neither the loss nor the metrics count."""
POOLINGS = {1: (7, 1), 2: (3, 2), 3: (2, 3), 4: (2, 3), 5: (1, 7), 7: (1, 7)}
"""What the papers' p may be -> cells a side of a window and side of the pooling in the release,
whose windows of 7 hold whole cells: 5 is 7 there, 4 is 3 and 2 is 2 on a resize to 6 (3 goes as
4)."""
NOTHING, REQUIRED = "none", "required"
"""Instead of a file with an encoder's weights: none is to be used; one has to be named."""
_SMALL = "{} is too small"
_OR_PAPERS = {"least": 0, "problem": "less than 0", "remedy": "give 0 for the papers' numbers"}
_EPSILONS = {
    "lengths": (0, 2),
    "above": 0,
    "problem": "is {numbers}",
    "remedy": "give two numbers above 0, or none for the backbone's own",
}
_DEPTHS = {
    "lengths": (0, 4),
    "least": 1,
    "problem": "is {numbers}",
    "remedy": "give four numbers of at least 1, or none for the backbone's own",
}
TILE: dict[str, Any] = {
    "lengths": (0, 2),
    "least": 64,
    "multiple_of": 32,
    "problem": "is {numbers}",
    "remedy": "give a width and a height of at least 64, multiples of 32, or none for whole frames",
}
"""The rule for a tile's size, wherever one is asked for."""
LayoutName = Literal["vspw", "cityscapes", "folder", "records"]
"""The layouts of datasets: each is a file of that name in ``data/layouts``."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    name: str = "cffm_b1"
    """Method and backbone: segformer_b0, cffm_b1, cffmpp_b1 (CFFM++), cffmp_b1 (global contexts
    alone, CFFM+), stppm_b1, cffm_pvtv2_b1, cffm_convnext_tiny and so on. An unknown name is
    answered with all that there are."""
    num_classes: int = setting(124, least=1, most=IGNORED_LABEL - 1, remedy=f"give a number in 1..{IGNORED_LABEL - 1}")
    """Number of classes K; labels are 0..K-1."""
    blocks: int = setting(0, **_OR_PAPERS)
    """Mining blocks N; 0: as many as the papers give the backbone."""
    global_blocks: int = setting(0, **_OR_PAPERS)
    """Global mining blocks N_g; 0: as many as the papers give the backbone."""
    receptive: tuple[int, ...] = setting((49, 20, 6), goes_with=("model.pooling",), part="method")
    """r of the references, oldest first: side of the region that a window reads, in positions of
    the stride-8 map."""
    pooling: tuple[int, ...] = setting((7, 4, 2), goes_with=("model.receptive",), part="method")
    """p of the references: side of the patch that is pooled into one context token (1, 2, 3, 4, 5
    or 7)."""
    pooling_rule: Literal["release", "paper"] = setting("release", part="method")
    """How r and p are read: as the release computes them (for p other than 7 windows are resized
    first, and regions lie off their middle), or as the papers describe them, for any r and p."""
    pooling_form: Literal["position", "full"] = setting("position", part="method")
    """What pools a patch: a weight a position that all channels share, as released, or a dense
    layer of all its positions and channels (Eq. 2). Either starts as the mean."""
    target_receptive: int = setting(35, least=1, part="method")
    """r' of the target's own pooled tokens."""
    target_pooling: int = setting(7, least=1, part="method")
    """p' of the target's own pooled tokens: 7 in the release, 5 in the papers."""
    window: int = setting(7, least=1, goes_with=("model.halo", "model.pooling_rule"), part="method")
    """s, side of the windows of the target; with pooling_rule release 7 alone."""
    halo: int = setting(3, least=0, goes_with=("model.window",), part="method")
    """Positions around a window that it reads of the target, unpooled, at most half a window: 3 in
    the release, 0 in the papers, whose r_t is s."""
    references: Literal["past", "self"] = setting("past", any_weights=True, part="method")
    """What a target is mined with: past frames, or itself in their place (static contexts
    alone)."""
    mining: Literal["attention", "positions"] = setting("attention", part="method")
    """How context tokens are weighed: by attention, or by a learned weight of their position (CFFA
    without CFM)."""
    global_weight: float = setting(0.5, least=0, changes="figures", any_weights=True, part="method")
    """Lambda, weight of the global logits beside the local ones; training does not read it."""
    norm_epsilons: tuple[float, ...] = setting((), **_EPSILONS)
    """Epsilons of the encoder's layer norms: those of its embeddings and reductions, those of its
    blocks and stages; without any the backbone's own. Weights from elsewhere may need theirs."""
    depths: tuple[int, ...] = setting((), **_DEPTHS)
    """Blocks of the encoder's four stages; without any the backbone's own, which weights from
    elsewhere need."""
    projection: Literal["linear", "normalised"] = "linear"
    """How the decoder projects the encoder's stages: dense with bias (SegFormer), or without and
    with BatchNorm and ReLU (MMSegmentation)."""
    width: int = setting(256, least=8, multiple_of=8, remedy="give a multiple of the 8 heads, at least 8")
    """Channels of the frame features; the papers have 256 for every backbone, SegFormer's own B2 to
    B5 768."""
    dtype: Literal["float32", "bfloat16"] = setting("float32", any_weights=True)
    """Compute type. Parameters, norms, softmax, logits and the loss stay in float32."""
    dropout: float = setting(0.1, least=0, below=1, any_weights=True)
    """Share of whole channels dropped before each classifier."""
    drop_path: float = setting(0.1, least=0, below=1, any_weights=True)
    """Largest probability of skipping an encoder block's branch; rises linearly from 0 over the
    blocks."""


def require_channels(option: str, names: tuple[str, ...]) -> None:
    """InputError unless these can be the names of a frame's channels."""
    if not names or len(set(names)) < len(names) or not all(re.fullmatch(r"[^\s,]+", name) for name in names):
        remedy = "give each channel a name of its own, without commas, and spaces between them"
        raise InputError(option, f"is {' '.join(names) or 'empty'}", remedy)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    root: str = setting("data/VSPW_480p", changes="figures", path=True)
    """Dataset folder."""
    layout: LayoutName = "vspw"
    """How it is laid out: VSPW_480p (data/<video>/origin/*.jpg, data/<video>/mask/*.png,
    <split>.txt), Cityscapes (leftImg8bit_sequence, gtFine), plain (<video>/frames, <video>/masks,
    <split>.txt, classes.txt), or any of these as python -m cffm_jax.data.prepare wrote it; see the
    README."""
    channels: tuple[str, ...] = setting(RGB, of_weights=True)
    """Names of the frames' channels, in the order of the files. Other than red green blue (thermal,
    depth, near-infrared) they keep the files' values, as float32, and need data.mean and
    data.std."""
    mean: tuple[float, ...] = setting((), goes_with=("data.channels",), of_weights=True)
    """Mean of each channel, in the files' units; without any ImageNet's, of red green blue alone.
    python -m cffm_jax.data.check ROOT --channels NAME ... --statistics prints a dataset's."""
    std: tuple[float, ...] = setting((), goes_with=("data.channels",), of_weights=True)
    """Standard deviation of each channel, as data.mean."""
    train_split: str = "train"
    """Split file (without .txt; in Cityscapes a folder's name) to train on."""
    eval_split: str = setting("val", changes="figures")
    """Split file (without .txt; in Cityscapes a folder's name) to evaluate on."""
    offsets: tuple[int, ...] = setting((9, 6, 3), goes_with=("model.receptive",))
    """How many frames before the target the references lie, oldest first."""
    scale: tuple[int, int] = setting((853, 480), goes_with=("data.ratio",))
    """Width and height that frames are resized to fit, aspect kept; 0 0: their own size, which
    training does not take."""
    ratio: tuple[float, float] = setting((0.5, 2.0), above=0, ascending=True)
    """Range of the training resize, relative to the scale."""
    crop: tuple[int, int] = setting((480, 480), least=32, multiple_of=32, remedy="give multiples of 32, at least 32")
    """Height and width of a training crop."""
    max_class_share: float = setting(0.75, above=0, most=1)
    """A crop is redrawn while one class covers more than this of the target's labelled pixels."""
    crop_tries: int = setting(10, least=1)
    """How often a crop is drawn at most."""
    flip: float = setting(0.5, least=0, most=1)
    """Probability of a horizontal flip of the whole clip."""
    reverse: float = setting(0.5, least=0, most=1)
    """Probability of reversing a video's order."""
    distort: float = setting(0.5, least=0, most=1)
    """Probability of each photometric distortion, drawn anew for each frame."""
    brightness: float = setting(32.0, least=0)
    """Largest brightness shift, in grey levels of 255."""
    contrast: tuple[float, float] = setting((0.5, 1.5), least=0, ascending=True)
    """Range of the contrast factor."""
    saturation: tuple[float, float] = setting((0.5, 1.5), least=0, ascending=True)
    """Range of the saturation factor."""
    hue: int = setting(18, least=0, most=180)
    """Largest hue shift, of 180."""
    workers: int = setting(0, least=0, problem=_SMALL, part="loader", changes="nothing")
    """Loader processes; 0 loads in threads of this process."""
    threads: int = setting(2, least=1, problem=_SMALL, part="loader", changes="nothing")
    """Loader threads per process."""
    prefetch: int = setting(4, least=1, problem=_SMALL, part="loader", changes="nothing")
    """Batches kept ready."""
    stall_seconds: float = setting(300.0, least=0, problem=_SMALL, part="loader", changes="nothing")
    """Training stops if no batch comes for so long, for example since a loader process is stuck; 0:
    waits for ever."""
    max_unreadable: int = setting(0, least=0, problem=_SMALL, part="loader", changes="nothing")
    """Training clips of this process that may be replaced by others since a file of theirs is
    unreadable; 0: none."""
    verify: bool = setting(False, part="loader", changes="nothing")
    """Compare every training file's sha256 with <root>/manifest.sha256 (cffm_jax.data.check writes
    it) when reading. Records are compared with checksums of their own, always."""

    @property
    def frame_channels(self) -> Channels:
        """The channels with their statistics. InputError: these are missing, or do not fit."""
        names, mean, std = self.channels, self.mean, self.std
        require_channels("--data.channels", names)
        known = names == RGB
        for option, values in (("--data.mean", mean), ("--data.std", std)):
            if len(values) != len(names) and (mean or std or not known):
                problem = f"has {len(values)} numbers, --data.channels {len(names)} names"
                command = (
                    f"python -m cffm_jax.data.check ROOT --layout folder --channels {' '.join(names)} --statistics"
                )
                raise InputError(option, problem, f"give those that this prints: {command}")
        if min(std, default=1) <= 0:
            raise InputError("--data.std", f"is {' '.join(map(str, std))}", "give numbers above 0")
        return Channels(names, mean or MEAN, std or STD)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    rate: float = setting(6e-5, least=0)
    """Peak learning rate of the encoder (AdamW)."""
    head_multiplier: float = setting(10.0, least=0)
    """Learning rate of everything outside the encoder, relative to the encoder's."""
    betas: tuple[float, float] = setting((0.9, 0.999), least=0, below=1)
    """AdamW moment decay rates."""
    weight_decay: float = setting(0.01, least=0)
    """Decoupled weight decay; the encoder's norms and layer scales have none."""
    warmup_steps: int = setting(1500, least=0)
    """Iterations of the linear warm-up."""
    warmup_ratio: float = setting(1e-6, least=0, most=1)
    """Share of the scheduled rate at which the warm-up starts."""
    power: float = setting(1.0, least=0)
    """Exponent of the poly schedule."""
    clip_norm: float = setting(0.0, least=0, remedy="give 0 for none, or a norm")
    """Gradients with a larger norm are scaled down to it; 0: never."""
    ema: float = setting(0.0, least=0, below=1, remedy="give 0 for none, or a decay below 1, such as 0.999")
    """Decay of a moving average of the trained weights, which is then what is evaluated and loaded;
    0: none."""


@dataclasses.dataclass(frozen=True)
class InitConfig:
    encoder: str = setting("", path=True)
    """File with ImageNet weights of the encoder, or hf:owner/name; the rest starts at random. none:
    all of it does. Configs of VSPW and Cityscapes say required: one of the two has to be given."""
    model: str = setting("", set_by_study=True, path=True)
    """File (released CFFM or SegFormer state dict), checkpoint folder or hf:owner/name with weights
    of the whole model; for CFFM++ those of its CFFM will do: the global blocks start at random."""

    @property
    def source(self) -> str:
        """The file or folder that is named; "" to start at random."""
        return self.model or ("" if self.encoder in (NOTHING, REQUIRED) else self.encoder)


@dataclasses.dataclass(frozen=True)
class PrototypeConfig:
    count: int = setting(100, least=1)
    """Prototypes N_p of a video."""
    frames: int = setting(10, least=1)
    """Frames of a video whose features are clustered."""
    rule: Literal["release", "paper"] = "release"
    """Which frames: int((i + 0.5) * d), or i * d (counted from 0), where d = length // frames."""
    start: Literal["k-means++", "random"] = "k-means++"
    """Start of k-means; the release draws tokens at random."""
    iterations: int = setting(10, least=1)
    """Iterations of k-means at most."""
    seed: int = setting(0, least=0)
    """Seed of the start."""
    checkpoint: str = setting("", set_by_study=True, path=True)
    """Run, file or hf:owner/name whose network computes the features that are clustered; default:
    the weights of the model itself."""
    imported: str = setting("", path=True)
    """Prototypes that the authors' code computed, to be used instead of computing any: their folder
    with <video>/centers.pt, a zip of it, or a .safetensors with a key for each video."""
    folder: str = setting("", changes="figures", set_by_study=True, path=True)
    """Where computed prototypes are kept, to be used again; default: <workdir>/prototypes."""
    memory: float = setting(10.0, above=0, changes="figures")
    """Causal prototypes: frames' worth of tokens that a centre remembers: as many as the paper
    clusters of a video."""
    interval: int = setting(1, least=1, changes="figures")
    """Causal prototypes: every so many frames one is taken in."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    steps: int = setting(160_000, least=1)
    """Training iterations."""
    batch_size: int = setting(8, least=1)
    """Clips in a global batch, over all devices."""
    frame_loss_weight: float = setting(0.5, least=0)
    """Weight of the per-frame logits' cross-entropy beside the clip's."""
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
    seed: int = setting(0, least=0, problem=_SMALL, set_by_study=True)
    """Seed of the initial weights, the data order, the augmentation and the dropouts."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The training loss of logits and labels; the papers' is the cross-entropy alone. The clip's
    and the frames' logits (train.frame_loss_weight) have the same."""

    cross_entropy: float = setting(1.0, least=0, goes_with=("loss.focal", "loss.dice"))
    """Weight of the cross-entropy."""
    focal: float = setting(0.0, least=0)
    """Weight of the focal loss: the cross-entropy of a pixel times (1 - p) ** focal_gamma."""
    focal_gamma: float = setting(2.0, least=0)
    """Exponent of the focal loss."""
    dice: float = setting(0.0, least=0)
    """Weight of the dice loss, the mean over the classes that a batch's labels have."""
    class_weights: tuple[float, ...] = setting((), least=0, goes_with=("model.num_classes",))
    """Weight of each class in cross-entropy and focal loss; without any all are 1. python -m
    cffm_jax.data.check ROOT --class-weights log prints some for a dataset."""
    label_smoothing: float = setting(0.0, least=0, below=1)
    """Share of the cross-entropy that is spread over all classes."""
    ohem_threshold: float = setting(0.0, least=0, below=1)
    """Only hard pixels count: those whose class has at most this probability; 0: all do (OHEM)."""
    ohem_kept: int = setting(100_000, least=1)
    """The hardest pixels that count in any case, of each set of logits of a batch."""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    chunk: int = setting(0, least=0, changes="nothing", remedy="give at least 1, or 0 for what suits the device")
    """Target frames segmented in one jitted call; 0: 8, on a CPU as many as have together no more
    pixels than one frame of 480p, and at least 1."""
    prototypes: Literal["video", "causal", "both"] = setting("video", changes="figures", part="method")
    """Prototypes of the whole video, of the frames seen so far, or a row of figures for each
    (CFFM++)."""
    devices: int = setting(0, least=0, changes="nothing")
    """Devices that share the videos, of each process; 0 uses all."""
    short_videos: Literal["auto", "left_out", "counted"] = setting("auto", changes="figures")
    """Whether videos of at most 16 labelled frames are left out of mIoU, the best checkpoint and so
    on, as the released script has it for VSPW; auto: left out in VSPW's layout, counted in
    others."""
    max_videos: int = setting(0, least=0, changes="figures", remedy="give at least 1, or 0 for all")
    """Evaluate the first so many videos of the split only; 0 evaluates all."""
    tile: tuple[int, ...] = setting((), changes="figures", **TILE)
    """Width and height of the tiles that frames, resized as data.scale says, are segmented in, one
    after another: less memory for large ones. Without any they are segmented whole."""
    overlap: int = setting(-1, goes_with=("eval.tile",), changes="figures")
    """Pixels that neighbouring tiles share at least, where their logits are blended; -1: a quarter
    of a tile's shorter side."""


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = setting("runs/cffm_b1_vspw", changes="figures", set_by_study=True, path=True)
    """Folder of the run: checkpoints, logs, results."""
    model: ModelConfig = setting(ModelConfig(), evaluated=True)
    data: DataConfig = setting(DataConfig(), evaluated=True)
    optim: OptimConfig = OptimConfig()
    init: InitConfig = InitConfig()
    prototypes: PrototypeConfig = setting(PrototypeConfig(), evaluated=True, part="method")
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = setting(EvalConfig(), evaluated=True)


SETTINGS = about(Config)
"""All settings by dotted name."""
SECTIONS = tuple(field.name for field in dataclasses.fields(Config) if field.name != "workdir")
EVALUATED = tuple(dict.fromkeys(name.partition(".")[0] for name, known in SETTINGS.items() if known.evaluated))
"""The sections that an evaluation reads."""


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Where a process stands among those of its run: no part of what the run is, so it is not
    stored with it."""

    coordinator: str = ""
    """HOST:PORT of process 0, for a run of several processes; default: what SLURM, Open MPI or
    Kubernetes say."""
    processes: int = setting(0, least=0, remedy="give the number of processes")
    """Number of processes; 0: what SLURM, Open MPI or Kubernetes say, or else 1."""
    process: int = setting(-1, least=-1)
    """Number of this process, from 0; -1: what SLURM, Open MPI or Kubernetes say."""
    connect_seconds: float = setting(300.0, least=0)
    """How long a process waits for the others at the start."""
    heartbeat_seconds: int = setting(60, least=1)
    """All processes end when nothing was heard of one for so long."""
