"""What a network says of a frame, on the host."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Prediction(NamedTuple):
    """A frame's mask, and how sure the network is.

    Attributes:
      mask: u8[H0, W0], the class of each pixel.
      scores: f32[H0, W0], the softmax probability of that class; None unless asked for. A network
        is not calibrated: 0.9 does not mean that nine of ten such pixels are right.
      logits: f32[h, w, K] at the network's own stride; None unless asked for. Resized to the
        network's input and then to (H0, W0), the mask is their arg-max.
    """

    mask: np.ndarray
    scores: np.ndarray | None = None
    logits: np.ndarray | None = None
