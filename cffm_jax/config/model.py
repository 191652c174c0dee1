"""Settings of the network, and of the prototypes that its global contexts are."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cffm_jax.config.data import IGNORED_LABEL
from cffm_jax.rules import setting

POOLINGS = {1: (7, 1), 2: (3, 2), 3: (2, 3), 4: (2, 3), 5: (1, 7), 7: (1, 7)}
"""What the papers' p may be -> cells a side of a window and side of the pooling in the release,
whose windows of 7 hold whole cells: 5 is 7 there, 4 is 3 and 2 is 2 on a resize to 6 (3 goes as
4)."""
_OR_PAPERS = {"least": 0, "problem": "less than 0", "remedy": "give 0 for the papers' numbers"}
_OR_AUTHORS = {"least": 0, "problem": "less than 0", "remedy": "give 0 for the authors' number"}
_TAUGHT = {"least": 0, "reads_only_with": ("train.teacher",)}
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


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    name: str = "cffm_b1"
    """Method and backbone: segformer_b0, cffm_b1, cffmpp_b1 (CFFM++), cffmp_b1 (global contexts
    alone, CFFM+), stppm_b1, cffm_pvtv2_b1, cffm_convnext_tiny and so on. An unknown name is
    answered with all that there are."""
    num_classes: int = setting(0, least=0, most=IGNORED_LABEL - 1, remedy=f"give a number in 1..{IGNORED_LABEL - 1}")
    """Number of classes K; labels are 0..K-1. 0: as many as the data's classes.txt or classes.json
    names, without one VSPW's 124 or Cityscapes' 19; where nothing names them it has to be given."""
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
    first, and regions lie off their middle), or as the papers describe them, for any r and p; where
    p does not divide r, a window reads the nearest whole number of tokens, see python -m
    cffm_jax.tables.contexts."""
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
    projection: Literal["linear", "normalised"] = setting("linear", part="method")
    """How the decoder projects the encoder's stages: dense with bias (SegFormer), or without and
    with BatchNorm and ReLU (MMSegmentation)."""
    width: int = setting(256, least=8, multiple_of=8, part="method", remedy="give a multiple of the 8 heads")
    """Channels of the frame features; the papers have 256 for every backbone, SegFormer's own B2 to
    B5 768."""
    form: Literal["mmsegmentation", "vspw", "etc"] = setting("mmsegmentation", part="method")
    """Whose form of PSPNet, DeepLabv3+, UperNet and OCRNet: MMSegmentation's, for which checkpoints
    are public, or that of the VSPW baselines, from which the papers' figures on VSPW come. Of ETC
    on PSPNet that of its own code too (etc), which is for Cityscapes."""
    auxiliary_weight: float = setting(0.4, least=0, any_weights=True, part="method")
    """Weight of the loss of the auxiliary head that these have in training."""
    memory: Literal["newest", "first"] = setting("newest", changes="figures", any_weights=True, part="method")
    """Which earlier contexts ST-OCR-Mem keeps: the newest, as its paper says, or a video's first
    ones for good, as its release does."""
    flow: Literal["raft_small", "raft_large"] = setting("raft_large", part="method")
    """The RAFT that methods read optical flow of."""
    flow_updates: int = setting(20, least=1, any_weights=True, part="method")
    """Its updates of the flow."""
    warp: Literal["release", "exact"] = setting("release", any_weights=True, part="method")
    """Where warps sample: as the code that the VSPW authors released, or where the flow points."""
    motion_weight: float = setting(0.1, least=0, any_weights=True, part="method")
    """Weight of ETC's motion loss in training."""
    distillation_weight: float = setting(0.1, any_weights=True, part="method", **_TAUGHT)
    """Weight of each of ETC's losses of a teacher's outputs, with train.teacher."""
    key_interval: int = setting(0, changes="figures", any_weights=True, part="method", **_OR_AUTHORS)
    """Every so many frames of a stream one is a key frame of the systems after DFF, Accel, GRFP and
    CC; 0: their authors' 5, of CC 2."""
    update_share: float = setting(0.25, least=0, most=1, changes="figures", any_weights=True, part="method")
    """Share of the pixels whose lower score has to change its class before CC updates the upper
    one; 0: it does every key_interval frames."""
    least_agreement: float = setting(90.0, least=0, most=100, changes="figures", any_weights=True, part="method")
    """Percentage of pixels on which warped masks have to agree with new ones, as DVSN predicts it;
    below it a frame is segmented anew."""
    dtype: Literal["float32", "bfloat16"] = setting("float32", any_weights=True)
    """Compute type. Parameters, norms, softmax, logits and the loss stay in float32."""
    dropout: float = setting(0.1, least=0, below=1, any_weights=True, part="method")
    """Share of whole channels dropped before each classifier."""
    drop_path: float = setting(0.1, least=0, below=1, any_weights=True, part="method")
    """Largest probability of skipping an encoder block's branch; rises linearly from 0 over the
    blocks."""


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
    checkpoint: str = setting("", set_by_study=True, path=True, hub=True)
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
