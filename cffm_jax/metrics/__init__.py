"""Metrics of video semantic segmentation: sums of single videos, which merge exactly, in any order.

Mean and weighted IoU and accuracies of one confusion matrix; the video consistency VC_n of Miao et
al., "VSPW" (CVPR 2021, Eq. 9); and what these leave out: consistency that is also correct, flicker,
and the IoU near the classes' boundaries. ``docs/metrics.md`` has the definitions, ``all_metrics``
the list. All take one pass over a video, a frame at a time, in constant memory.

Shapes: H, W frame; K classes. Labels and predictions are 0..K-1; ``IGNORED_LABEL`` in the labels is
not counted, but for the video consistency, where it is a label like any other.
"""
