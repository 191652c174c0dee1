"""Kernels by part of the model, and the picture of them."""

import dataclasses

import numpy as np
import pytest

from benchmarks.gpu import costs, parts, plot
from benchmarks.gpu.targets import TARGETS

H200 = TARGETS["h200"]
COPY = costs.Kernel("copy", "copy", "", "f32[8]", 1, "", 10**8, 10**8, {}, 0, 0, False)
STAGE = "jit(step)/jvp(CFFM.loss)/CFFM.encode/CFFM.encode_stages/encoder/stage{}/block0/"


def kernel(op_name, **changes):
    return dataclasses.replace(COPY, op_name=op_name, **changes)


@pytest.mark.parametrize(
    "op_name, part",
    [
        (STAGE.format(1) + "attn/kv/dot_general", "encoder: attention"),
        (STAGE.format(2).replace("jvp(CFFM.loss)", "transpose(jvp(CFFM.loss))") + "mlp/mul", "encoder: MLP (backward)"),
        ("jit(function)/CFFM.encode/decoder/stack", "decoder"),
        ("jit(function)/CFFM.segment/CFFM.mine_cells/local_0/local_0._weigh/proj/dot_general", "mining"),
        ("jit(function)/CFFM.remember/local_0.reference_cells/pools_far/transpose", "pooled cells"),
        ("jit(step)/jvp(CFFM.loss)/CFFM.mine_global/globals_0/max", "global blocks"),
        ("jit(step)/jvp(CFFM.loss)/CFFM.clip_outputs/CFFM.classify_clip/mul", "classifiers"),
        ("jit(step)/jvp(CFFM.loss)/checkpoint/exp", "loss"),
        ("jit(function)/while/body/add", "loops"),
        ("jit(function)/dynamic_update_slice", "rest"),
    ],
)
def test_an_operation_belongs_to_a_part(op_name, part):
    assert parts.part_of(kernel(op_name)) == part


def test_work_on_weights_alone_is_a_part_of_its_own():
    assert (
        parts.part_of(kernel(STAGE.format(1) + "attn/kv/convert_element_type", weights_alone=True)) == "weights alone"
    )


def test_parts_add_up_the_longest_first():
    kernels = [kernel("jit(f)/CFFM.encode/decoder/add")] + 3 * [kernel(STAGE.format(1) + "attn/add", times=2)]
    found = parts.by_part(kernels, H200)
    assert [*found] == ["encoder: attention", "decoder"]
    assert found["encoder: attention"].launches == 6 and found["encoder: attention"].bytes == 6 * 2e8
    whole = costs.summary(kernels, H200)
    assert sum(part.launch_ms for part in found.values()) == pytest.approx(whole.launch_ms)
    assert whole.waiting == {"bandwidth": whole.launch_ms}


def test_kernels_that_differ_in_their_block_alone_are_one_row():
    kernels = [kernel(STAGE.format(1) + "attn/add"), kernel(STAGE.format(2) + "attn/add")]
    ((kind, total),) = parts.alike(kernels, H200)
    assert (kind.part, kind.operation, total.launches) == ("encoder: attention", "add", 2)


def shows(panel, colour):
    return (np.abs(panel.astype(int) - colour).sum(-1) < 12).any()


def test_a_plot_shows_each_dot_in_the_colour_of_what_it_waits_for():
    dots = [plot.Dot("products", 1e3, 7e14, 2.0, "products"), plot.Dot("tiny", 1, 1e3, 0.1, "launch")]
    panel = plot.roofline_plot(H200, "title", dots)
    assert panel.dtype == np.uint8 and panel.ndim == 3
    plotted = panel[:400]  # Above the legend, which has all colours.
    assert shows(plotted, plot.COLOURS["products"]) and not shows(plotted, plot.COLOURS["elementwise"])


def test_panels_stand_in_rows_of_two():
    panel = np.zeros((2, 3, 3), np.uint8)
    sheet = plot.in_rows([panel] * 3)
    assert sheet.shape == (4, 6, 3) and (sheet[2:, 3:] == 255).all() and not sheet[2:, :3].any()
