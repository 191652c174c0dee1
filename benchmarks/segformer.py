"""The row of ``inference.py`` in PyTorch, an engine as those of ``engines.py``."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import numpy as np
from engines import Engine, Masks, Scene

from cffm_jax.channels import MEAN, STD
from cffm_jax.config import ModelConfig
from cffm_jax.data.class_names import VSPW
from cffm_jax.models.encoders.mit import SIZES


def hugging_face(size: str, scene: Scene, compiled: bool = False) -> Engine:
    """transformers' SegFormer in PyTorch, frame by frame or in batches: full-size logits, their arg-max.

    ``compiled``: by torch.compile, with CUDA graphs; it compiles in the first call."""
    import torch
    from torch.nn.functional import interpolate
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    shape, on_gpu = SIZES[size], torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # As JAX by default.
    config = SegformerConfig(
        depths=list(shape.depths), hidden_sizes=list(shape.channels), num_labels=len(VSPW),
        decoder_hidden_size=ModelConfig().width, num_attention_heads=[1, 2, 5, 8], sr_ratios=[8, 4, 2, 1],
        mlp_ratios=[4, 4, 4, 4],
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config).to(device).eval()
    mean, std = (torch.tensor(each, device=device).reshape(1, 3, 1, 1) for each in (MEAN, STD))
    frames = np.stack([scene.read(t) for t in range(scene.batch)])

    def segment(pixels: torch.Tensor) -> torch.Tensor:
        x = (pixels.permute(0, 3, 1, 2).float() - mean) / std
        cast = torch.autocast(device.type, torch.bfloat16) if scene.dtype == "bfloat16" else contextlib.nullcontext()
        with cast:
            logits = model(pixel_values=x).logits.float()
        for to in (pixels.shape[1:3], scene.size):
            logits = interpolate(logits, to, mode="bilinear", align_corners=False)
        return logits.argmax(1).byte()

    if compiled:
        torch.compiler.reset()  # What another batch was compiled to would let this one's size vary, which is slower.
        segment = torch.compile(segment, mode="reduce-overhead", dynamic=False)
    segment = torch.inference_mode()(segment)

    def masks_of(pixels: np.ndarray) -> np.ndarray:
        return segment(torch.from_numpy(pixels).to(device)).cpu().numpy()

    def from_files() -> Iterator[Masks]:
        for start in itertools.count(0, scene.batch):
            numbers = range(start, start + scene.batch)
            yield list(zip(numbers, masks_of(np.stack([scene.read(t) for t in numbers])), strict=True))

    def peak() -> int | None:
        return torch.cuda.max_memory_allocated() if on_gpu else None

    def wait(masks: torch.Tensor) -> None:
        if on_gpu:
            torch.cuda.synchronize()

    there = torch.from_numpy(frames).to(device)
    return Engine(scene.batch, lambda: masks_of(frames), lambda: segment(there), wait=wait, files=from_files, peak=peak)
