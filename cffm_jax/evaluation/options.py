"""The options of ``eval.py``."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cffm_jax.config import ClusterConfig, Config
from cffm_jax.settings import Settings


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    config: str = ""
    """Config file; without one, the config stored with the checkpoint."""
    checkpoint: str = ""
    """Folder of a run, whose latest checkpoint is evaluated (RUN/checkpoints/best, RUN/checkpoints/STEP: another), or a
    file of weights of any kind, see convert.py."""
    raw: bool = False
    """Of a run with --optim.ema, evaluate the last weights and not their average."""
    predictions: str = ""
    """Score PNGs (0..K-1) in DIR/<video>/<frame>.png that any program wrote, without a model."""
    output: str = ""
    """Write all figures to this JSON file; default: <checkpoint>/eval.json, or next to the predictions."""
    save_predictions: str = ""
    """Write the masks as indexed PNGs to this new folder: DIR/<video>/<frame>.png."""
    pictures: str = ""
    """Draw some of the videos to this folder: sheet.png (frame, per-frame, CFFM, truth) and overlay.mp4."""
    report: str = ""
    """Write a page to this new folder that shows all figures beside the papers', the best and the worst videos, and
    what is taken for what: DIR/index.html, for any browser, without a network."""
    submission: str = ""
    """Write the masks of all frames of the split "test" (or --data.eval_split) to this new .zip, for a challenge's
    server: <video>/<frame>.png. No labels are needed, and there are no figures."""
    submission_values: Literal["stored", "classes"] = "stored"
    """What these masks hold: the dataset's own values (in VSPW's masks class k is k + 1), or the classes 0..K-1."""
    settings: Settings = Config()
    cluster: ClusterConfig = ClusterConfig()
