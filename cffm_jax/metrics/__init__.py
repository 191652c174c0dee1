"""Figures of video semantic segmentation as sums: empty, update, merge, then compute.

Mean and weighted IoU and accuracies of one confusion matrix; the video consistency VC_n of Miao et al., "VSPW" (CVPR
2021, Eq. 9); and what these leave out: consistency that is also correct, flicker, and the IoU near the classes'
boundaries. ``docs/metrics.md`` has the definitions. All take one pass over a video, a frame at a time, in constant
memory.

Shapes: H, W frame; K classes. Labels and predictions are 0..K-1; ``IGNORED_LABEL`` in the labels is not counted, but
for the video consistency, where it is a label like any other.
"""

from cffm_jax.metrics.confusion import Confusion, boundary_confusion, boundary_width
from cffm_jax.metrics.consistency import LENGTHS, VideoConsistency, Windows
from cffm_jax.metrics.scores import RELEASE_LONGER_THAN, Figures, Scores, VideoScore, VideoTally, score_video

__all__ = [
    "LENGTHS",
    "RELEASE_LONGER_THAN",
    "Confusion",
    "Figures",
    "Scores",
    "VideoConsistency",
    "VideoScore",
    "VideoTally",
    "Windows",
    "boundary_confusion",
    "boundary_width",
    "score_video",
]
