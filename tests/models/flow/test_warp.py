"""Warps and samples: the values of the VSPW authors' release, laws, and torch's grid_sample (pytest -m reference)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.models.flow.bilinear import pad, sample
from cffm_jax.models.flow.correlation import correlate, look_up
from cffm_jax.models.flow.raft import crop_map
from cffm_jax.models.flow.warp import resize_flow, warp

from helpers import golden_values


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_releases_warp():
    entry, stored = golden_values.manifest()["etc_loss_12x16"], golden_values.arrays("etc_loss_12x16")
    image1, image2, logits2, flow = (
        nhwc(golden_values.draw_input(name, entry[name], entry["seed"]))
        for name in ("image1", "image2", "logits2", "flow")
    )
    flow = entry["flow_factor"] * flow
    both = warp(jnp.concatenate([logits2, image2], -1), flow, "release")
    warped, image = both[..., :5], both[..., 5:]
    np.testing.assert_allclose(warped, nhwc(stored["warped"]), rtol=0, atol=5e-5 * entry["largest"]["warped"])
    mask = np.exp(-np.abs(np.sum(image1 - image, -1, keepdims=True)))
    np.testing.assert_allclose(mask, nhwc(stored["mask"]), rtol=0, atol=5e-5)
    assert np.abs(warp(logits2, flow) - nhwc(stored["warped"])).max() > 0.1


def test_whole_steps_move_the_map_with_zeros_outside():
    x = normal(2, 6, 8, 3)
    flow = np.broadcast_to(np.array([2, -1], np.float32), (2, 6, 8, 2))
    expected = np.zeros_like(x)
    expected[:, 1:, :-2] = x[:, :-1, 2:]
    np.testing.assert_array_equal(warp(x, flow), expected)
    for far in (8, -8, -9, -10, -11, 1e3, -1e3, 1e12):
        np.testing.assert_array_equal(warp(x, np.full_like(flow, far)), np.zeros_like(x))


def test_outside_may_be_the_border():
    x, far = normal(1, 3, 4, 2), np.full((1, 3, 4, 2), 99, np.float32)
    np.testing.assert_array_equal(warp(x, far, outside="border"), np.broadcast_to(x[:, -1:, -1:], x.shape))
    np.testing.assert_array_equal(warp(x, -far, outside="border"), np.broadcast_to(x[:, :1, :1], x.shape))
    np.testing.assert_allclose(warp(x, 0 * far, outside="border"), x)


def test_a_flow_is_resized_with_its_pixels():
    flow = np.broadcast_to(np.array([6, -8], np.float32), (1, 8, 12, 2))
    np.testing.assert_allclose(resize_flow(flow, (4, 4)), np.broadcast_to([2, -4], (1, 4, 4, 2)), rtol=1e-6)


@pytest.mark.parametrize(("frame", "size"), [((128, 136), (16, 17)), ((33, 140), (5, 18)), ((129, 131), (17, 17))])
def test_a_map_of_padded_frames_at_the_positions_of_frames(frame, size):
    """Where a pixel of such a map holds where it lies in the frame, bilinear samples are exact."""
    margins = [max(-n % 8, 128 - n) for n in frame]
    centres = [(np.arange((n + m) // 8) + 0.5) * 8 - m // 2 for n, m in zip(frame, margins)]
    x = np.stack(np.meshgrid(*centres, indexing="ij"), -1)[None].astype(np.float32)
    wanted = [np.clip((np.arange(k) + 0.5) * n / k, c[0], c[-1]) for n, k, c in zip(frame, size, centres)]
    expected = np.stack(np.meshgrid(*wanted, indexing="ij"), -1)[None]
    np.testing.assert_allclose(crop_map(x, frame, size), expected, atol=1e-3)


def test_a_plane_is_sampled_exactly():
    y, x = np.mgrid[:7, :9].astype(np.float32)
    positions = np.random.default_rng(0).uniform(2.1, 3.9, (1, 5, 2)).astype(np.float32)
    samples = sample(pad((2 * x - 3 * y + 1)[None, :, :, None], 1), positions, 1)
    steps = np.arange(-1, 2)
    expected = 2 * (positions[..., :1, None] + steps) - 3 * (positions[..., 1:, None] + steps[:, None]) + 1
    np.testing.assert_allclose(samples[..., 0], expected, atol=1e-5)


def test_a_map_of_a_row_cannot_be_warped_as_released():
    with pytest.raises(ValueError, match="1x8 cannot be warped"):
        warp(np.zeros((1, 1, 8, 3), np.float32), np.zeros((1, 1, 8, 2), np.float32), "release")


def test_warps_keep_the_type():
    assert warp(jnp.zeros((1, 4, 4, 2), jnp.bfloat16), jnp.zeros((1, 4, 4, 2))).dtype == jnp.bfloat16


def test_the_lookup_reads_correlations_of_averages():
    """By the definition: products of all pairs, averaged, read at whole positions, x slow."""
    radius, (h, w, c) = 1, (16, 18, 5)
    first, second = normal(1, h, w, c), normal(1, h, w, c, seed=1)
    found = look_up(correlate(first, second, radius), np.zeros((1, h, w, 2), np.float32) + np.float32(8), radius)
    products = np.einsum("hwc,yxc->hwyx", first[0], second[0]) / np.sqrt(c)
    for level in range(4):
        if level:
            rows, columns = (n // 2 for n in products.shape[2:])
            products = products[:, :, : 2 * rows, : 2 * columns].reshape(h, w, rows, 2, columns, 2).mean((3, 5))
        at, around = 8 >> level, np.pad(products, ((0, 0), (0, 0), (1, 1), (1, 1)))
        expected = [around[:, :, at + 1 + dy, at + 1 + dx] for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        np.testing.assert_allclose(found[0, :, :, 9 * level : 9 * level + 9], np.stack(expected, -1), rtol=0, atol=1e-5)


@pytest.mark.reference
def test_the_exact_warp_is_grid_samples():
    """With its gradients."""
    torch = pytest.importorskip("torch")
    x, flow, cotangent = normal(2, 11, 13, 3), 4 * normal(2, 11, 13, 2, seed=1), normal(2, 11, 13, 3, seed=2)
    their_x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    their_flow = torch.from_numpy(flow).requires_grad_()
    y, column = torch.meshgrid(torch.arange(11.0), torch.arange(13.0), indexing="ij")
    at = (torch.stack([column, y], -1) + their_flow) * 2 / torch.tensor([12.0, 10.0]) - 1
    expected = torch.nn.functional.grid_sample(their_x, at, align_corners=True)
    expected.backward(torch.from_numpy(cotangent.transpose(0, 3, 1, 2).copy()))
    ours, back = jax.vjp(warp, x, flow)
    of_x, of_flow = back(cotangent)
    np.testing.assert_allclose(ours, nhwc(expected.detach().numpy()), rtol=0, atol=2e-5)
    np.testing.assert_allclose(of_x, nhwc(their_x.grad.numpy()), rtol=0, atol=2e-5)
    np.testing.assert_allclose(of_flow, their_flow.grad.numpy(), rtol=0, atol=2e-5)
