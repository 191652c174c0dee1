"""Programs in ONNX's operators give in onnxruntime what they give in JAX, one primitive or a few at a time."""

import functools

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.export.resize_bytes import resize_bytes
from cffm_jax.models import by_platform, layers, operators
from cffm_jax.models.convolutions import convolution, depthwise
from cffm_jax.models.flow.bilinear import pad, sample
from cffm_jax.models.gather import take_of
from cffm_jax.models.resize import resize_bilinear, resize_corners

pytestmark = pytest.mark.onnx

RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((2, 6, 9, 4)).astype(np.float32)
KERNEL = RNG.standard_normal((3, 3, 4, 8)).astype(np.float32)
ROWS = RNG.standard_normal((5, 7)).astype(np.float32)
FLAGS = RNG.integers(0, 2, (5, 7)).astype(bool)
NUMBER, NUMBERS = np.array(1, np.int32), np.arange(12, dtype=np.int32)


def converted_of(function, *arrays):
    """The model, with inputs x0, x1 and so on, and outputs y0, y1."""
    from cffm_jax.export.lowering.operators import with_layer_norms
    from cffm_jax.export.lowering.program import converted

    with by_platform.only("default"), operators.shown(), nn.intercept_methods(with_layer_norms):
        program = jax.make_jaxpr(lambda *values: function(*values))(*arrays)
    names = [f"x{i}" for i in range(len(arrays))]
    return converted(program, "test", names, [f"y{i}" for i in range(len(program.out_avals))])


def by_onnxruntime(function, *arrays):
    import onnxruntime

    model = converted_of(function, *arrays)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    read = {each.name for each in session.get_inputs()}
    given = {f"x{i}": array for i, array in enumerate(arrays) if f"x{i}" in read}
    found = session.run(None, given)
    return found, [node.op_type for node in model.graph.node]


def which(index, x):
    return jax.lax.switch(index, [lambda x: (x + 1, x), lambda x: (x * 2, x), lambda x: (x, -x)], x)


def reversed_sums(rows):
    return jax.lax.scan(lambda total, row: (total + row, total * row), jnp.zeros(rows.shape[1]), rows, reverse=True)


def norm_after_convolution(x):
    y = convolution(x, KERNEL, (2, 2), ((1, 1), (1, 1)))
    return nn.relu((y - ROWS[0, :1]) * jnp.arange(1.0, 9.0) + 3.0)


def norm(x):
    module = layers.layer_norm(1e-5, jnp.float32)
    parameters = {"scale": jnp.arange(1.0, 5.0), "bias": jnp.arange(4.0)}
    return module.apply({"params": parameters}, x)


PROGRAMS = {
    "sums": (lambda x: (x.sum(0), x.max((0, 1)), x.min(1), x.argmax(1), jnp.argmin(x, 0), jnp.cumsum(x, 1)), ROWS),
    "of flags": (lambda x: (x.any(0), x.all(1), ~x, x & x[:1], x.astype(jnp.float32)), FLAGS),
    "numbers": (lambda x: (jnp.exp(x), jnp.log1p(jnp.abs(x)), jnp.tanh(x), jax.nn.sigmoid(x), x**3, jnp.sign(x)), ROWS),
    "small numbers": (lambda x: 1e6 * jnp.log1p(1e-6 * jnp.abs(x)), ROWS),
    "bits": (lambda x: (x & 3, x | 8, ~x), NUMBERS),
    "no axis": (lambda x: (x.sum(()), x[:, :0].sum(1), jnp.arange(70_000, dtype=jnp.float32)[::9] * x[0, 0]), ROWS),
    "a number to all": (lambda x: (jnp.where(x[0, 0] > 0, jnp.ones((5, 7)), 0.0), x.sum().reshape(1) + 1.0), ROWS),
    "sums of what moved": (lambda x: x.transpose(0, 3, 1, 2).reshape(-1, 9) + np.arange(9.0, dtype=np.float32), MAP),
    "softmax of another axis": (jax.jit(lambda x: jax.nn.softmax(x, 0)), ROWS),
    "sums of constants": (lambda x: ((x + ROWS[0] + ROWS) * 2 + 1 - ROWS[:1] + 0, 1 + (2 + x) + x), ROWS),
    "more numbers": (lambda x: (jnp.round(3 * x), jnp.floor(x), jnp.clip(x, -0.5, 0.25), jax.lax.rsqrt(x * x)), ROWS),
    "integers": (lambda x: (x // 3, x % 3, -x // 3, -x % 3, jax.lax.rem(-x, jnp.int32(3)), x == 1), NUMBERS),
    "broadcasts": (lambda x: (x + jnp.zeros((3, 5, 7)), jnp.broadcast_to(x[:, None], (5, 2, 7)) * x[:, None]), ROWS),
    "slices of broadcasts": (lambda x: jnp.broadcast_to(x[:, None], (5, 4, 7))[1::2, 1:3, 2:], ROWS),
    "shapes": (lambda x: (x.T.reshape(7, 5, 1)[::2, 1:4], jnp.stack([x, x + 1], 1), jnp.split(x, 5)[3]), ROWS),
    "pads": (lambda x: (jax.lax.pad(x, 2.0, ((1, -2, 0), (-1, 3, 0))), jnp.concatenate([x, x[:2]])), ROWS),
    "a dynamic slice": (lambda x, i: jax.lax.dynamic_slice(x, (i * 9, i), (2, 3)), ROWS, NUMBER),
    "a dynamic update": (lambda x, i: jax.lax.dynamic_update_slice_in_dim(x, x[:2] + 1, i * 9, 0), ROWS, NUMBER),
    "products": (lambda x: (x @ x.mT, jnp.einsum("nhwc,nhxc->hnwx", x, x), jnp.einsum("nhwc,nhwd->cd", x, x)), MAP),
    "a product from the left": (lambda x: jnp.einsum("sh,nhwc->nswc", ROWS[:, :6], x), MAP),
    "a gather along an axis": (lambda x: take_of((x, x + 1), 2, np.array([[0, 17], [18, 3]])), MAP),
    "slices by places": (lambda x: sample(pad(x, 1), 4 * x[:, 0, :, :2], 1), MAP),
    "rows by places": (lambda x, i: x[jnp.stack([i, i + 1]), 2], ROWS.reshape(5, 7), NUMBER),
    "a choice of three": (which, NUMBER, ROWS),
    "a loop backwards": (reversed_sums, ROWS),
    "a convolution and its norm": (norm_after_convolution, MAP),
    "a dilated depthwise one": (lambda x: depthwise(x, KERNEL[..., 0], KERNEL[0, 0, :, 1], 2), MAP),
    "pooling": (lambda x: (nn.max_pool(x, (3, 3), (2, 2), "SAME"), nn.avg_pool(x, (2, 3), (2, 3))), MAP),
    "layers": (lambda x: (layers.gelu(x), layers.softmax(x, jnp.float32), norm(x)), MAP),
    "resizes": (lambda x: (resize_bilinear(x.repeat(8, 3), (13, 20)), resize_corners(x, (5, 11))), MAP),
    "what is transposed, summed, transposed back": (lambda x: (x.transpose(0, 3, 1, 2) + 1).transpose(0, 2, 3, 1), MAP),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    function, *arrays = PROGRAMS[name]
    found, _ = by_onnxruntime(function, *arrays)
    expected = jax.tree.leaves(jax.jit(lambda *values: function(*values))(*arrays))
    for mine, theirs in zip(expected, found, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-5)


def test_bytes_are_resized_in_both_engines_as_in_opencv(tmp_path):
    """Noise has every remainder, and the extremes."""
    from cffm_jax.inference.onnx_engines import ENGINES

    frames = RNG.choice(np.array([0, 1, 2, *range(5, 250, 7), 254, 255], np.uint8), (2, 97, 131, 3))
    for size in ((64, 96), (97, 160), (130, 131), (192, 256)):
        expected = [cv2.resize(frame, size[::-1]) for frame in frames]
        resize = functools.partial(resize_bytes, size=size)
        model = converted_of(resize, frames.astype(np.int32))
        (tmp_path / "resize.onnx").write_bytes(model.SerializeToString())
        for engine in ("onnxruntime", "openvino"):
            (found,) = ENGINES[engine](tmp_path / "resize.onnx").runner()({"x0": frames.astype(np.int32)}, ["y0"])
            np.testing.assert_array_equal(found, expected)


def test_every_class_that_may_win_is_compared():
    """As many classes as there are, all of them, and one."""
    from cffm_jax.inference.argmax import segmentation_masks

    logits = RNG.standard_normal((2, 6, 8, 40)).astype(np.float32)
    masks = functools.partial(segmentation_masks, input_size=(24, 32), output_size=(23, 33))
    for more in (0, 9 * (np.arange(40) > 36), 99 * (np.arange(40) == 7)):
        each = np.float32(logits + more)
        (found,), _ = by_onnxruntime(masks, each)
        assert (found == masks(each)).all()


def test_elements_go_next_to_the_product_that_they_can_be_part_of():
    _, kinds = by_onnxruntime(norm_after_convolution, MAP)
    assert kinds == ["Transpose", "Conv", "Add", "Mul", "Add", "Relu", "Transpose"]
    _, kinds = by_onnxruntime(lambda x: (x.reshape(-1, 4) @ KERNEL[0, 0]).reshape(2, 6, 9, 8) + ROWS[0, 0], MAP)
    assert kinds == ["Reshape", "MatMul", "Add", "Reshape"]
    _, kinds = by_onnxruntime(lambda x: x + ROWS[0] + ROWS + 1, ROWS)
    assert kinds == ["Add"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x), "while"),
        (lambda x: jnp.sort(x), "sort"),
        (lambda x: jax.lax.scan(lambda y, _: (y + 1, None), x, length=100)[0], "loops 100 times"),
        (lambda x: jax.lax.conv_general_dilated(x[None, None], x[None, None], (1, 1), "VALID"), "convolves other"),
        (lambda x: x.at[jnp.array([9])].get(mode="fill", fill_value=0), "outside"),
    ],
)
def test_what_has_no_rule_is_told(function, said):
    from cffm_jax.export.lowering.lower import Unsupported

    with pytest.raises(Unsupported, match=said):
        by_onnxruntime(function, ROWS)
