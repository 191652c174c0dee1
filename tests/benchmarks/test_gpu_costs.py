"""What a compiled program costs, counted from its text."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.gpu import costs, hlo
from benchmarks.gpu.targets import LAUNCH_SECONDS, TARGETS

H200 = TARGETS["h200"]


def program(entry, computations=""):
    return f"HloModule test\n\n{computations}\n\nENTRY %main (p: f32[1]) -> f32[1] {{\n{entry}\n}}\n"


def fused(body, entry, kind="kLoop"):
    """A program of one fusion, called with ``entry``'s operands."""
    *parameters, last = entry
    call = f"  ROOT %out = {last} fusion({', '.join(f'%p{i}' for i in range(len(parameters)))}), kind={kind}, calls=%f"
    lines = [f"  %p{i} = {shape} parameter({i})" for i, shape in enumerate(parameters)]
    return program("\n".join([*lines, call]), f"%f (a: f32[1]) -> f32[1] {{\n{body}\n}}")


def only(text, **options):
    (kernel,) = costs.kernels(text, **options)
    return kernel


COPY = program("  %p = f32[8,16]{1,0} parameter(0)\n  ROOT %c = f32[8,16]{0,1} copy(%p)")


def test_a_copy_reads_and_writes_all():
    kernel = only(COPY)
    assert (kernel.kind, kernel.read, kernel.written, kernel.operations) == ("copy", 512, 512, 0)


def test_shapes_of_all_types_have_their_bytes():
    shapes = hlo.arrays("(f32[2,3]{1,0}, bf16[5], pred[], /*index=3*/s4[3], f8e4m3fn[2], token[])")
    assert [array.bytes for array in shapes] == [24, 10, 1, 2, 2, 0]
    assert str(shapes[0]) == "f32[2,3]"


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule nothing")


DOT = "  ROOT %d = {r}[3,5] dot(%a, %b), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}{more}"


@pytest.mark.parametrize(
    "dtype, more, kind",
    [
        ("f32", "", "tf32"),
        ("f32", ", operand_precision={highest,highest}", "float32"),
        ("bf16", "", "bfloat16"),
        ("f64", "", "float32"),
    ],
)
def test_a_product_has_two_operations_for_each_of_its_terms(dtype, more, kind):
    factors = f"  %a = {dtype}[3,7] parameter(0)\n  %b = {dtype}[7,5] parameter(1)\n"
    assert only(program(factors + DOT.format(r=dtype, more=more))).products == {kind: 2 * 3 * 5 * 7}


CUBLAS = """  %a = f32[4,3,7] parameter(0)
  %b = f32[4,7,5] parameter(1)
  ROOT %g = (f32[4,3,5], s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"]},\
"precision_config":{"operand_precision":["DEFAULT","DEFAULT"]}}}"""


def test_a_library_s_product_counts_alike_without_its_working_memory():
    kernel = only(program(CUBLAS))
    assert kernel.kind == "__cublas$lt$matmul" and kernel.products == {"tf32": 2 * 4 * 3 * 5 * 7}
    assert (kernel.read, kernel.written) == (4 * 4 * (21 + 35), 4 * 4 * 15)


IMAGE, FILTER, MAP = "f32[2,8,8,3]", "f32[16,5,5,3]", "f32[2,4,4,16]"


@pytest.mark.parametrize(
    "target, shapes",
    [
        ("__cudnn$convForward", (IMAGE, FILTER, MAP)),
        ("__cudnn$convBackwardInput", (MAP, FILTER, IMAGE)),
        ("__cudnn$convBackwardFilter", (IMAGE, MAP, FILTER)),
    ],
)
def test_a_convolution_and_its_gradients_have_the_same_operations(target, shapes):
    left, right, result = shapes
    text = (
        f"  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n  ROOT %c = ({result}, u8[9]) custom-call(%a, %b), "
    )
    text += f'window={{size=5x5 stride=2x2}}, dim_labels=b01f_o01i->b01f, custom_call_target="{target}"'
    assert only(program(text)).products == {"tf32": 2 * (2 * 4 * 4 * 16) * (5 * 5 * 3)}


def test_a_gather_reads_only_what_it_takes():
    text = "  %x = f32[1000,4] parameter(0)\n  %i = s32[3,1] parameter(1)\n  ROOT %g = f32[3,4] gather(%x, %i)"
    assert only(program(text)).read == 3 * 4 * 4 + 3 * 4


def test_a_fusion_reads_of_a_slice_what_is_taken_even_behind_a_conversion():
    body = """  %a = bf16[1000,4] parameter(0)
  %b = f32[4] parameter(1)
  %w = f32[1000,4] convert(%a)
  %s = f32[10,4] slice(%w), slice={[0:10], [0:4]}
  %m = f32[10,4] broadcast(%b), dimensions={1}
  %e = f32[10,4] exponential(%s)
  ROOT %r = f32[10,4] multiply(%e, %m)"""
    kernel = only(fused(body, ("bf16[1000,4]", "f32[4]", "f32[10,4]")))
    assert (kernel.kind, kernel.read, kernel.written) == ("fusion kLoop", 2 * 40 + 16, 160)
    assert (kernel.elementwise, kernel.transcendental) == (40, 40)


def test_shifted_slices_of_one_array_read_it_once():
    slices = "\n".join(f"  %s{i} = f32[98] slice(%a), slice={{[{i}:{98 + i}]}}" for i in range(3))
    body = f"  %a = f32[100] parameter(0)\n{slices}\n  %x = f32[98] add(%s0, %s1)\n  ROOT %y = f32[98] add(%x, %s2)"
    kernel = only(fused(body, ("f32[100]", "f32[98]")))
    assert kernel.read == 400 and kernel.elementwise == 2 * 98


def test_an_update_in_place_writes_the_update_alone():
    body = """  %a = f32[1000] parameter(0)
  %b = f32[10] parameter(1)
  %i = s32[] parameter(2)
  ROOT %u = f32[1000] dynamic-update-slice(%a, %b, %i)"""
    kernel = only(fused(body, ("f32[1000]", "f32[10]", "s32[]", "f32[1000]")))
    assert (kernel.read, kernel.written) == (44, 40)


def test_a_reduction_adds_what_it_reads():
    body = """  %a = f32[32,100] parameter(0)
  %z = f32[] constant(0)
  ROOT %r = f32[32] reduce(%a, %z), dimensions={1}, to_apply=%add"""
    kernel = only(fused(body, ("f32[32,100]", "f32[32]")))
    assert (kernel.read, kernel.written, kernel.elementwise) == (12800, 128, 3200)


LOOP = """%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8] get-tuple-element(%t), index=1
  %y = f32[8] copy(%x)
  ROOT %n = (s32[], f32[8]) tuple(%i, %y)
}

%cond (t: (s32[], f32[8])) -> pred[] {
  %t = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%i, %i), direction=LT
}
"""


def looping(known):
    config = f', backend_config={{"known_trip_count":{{"n":"{known}"}}}}' if known else ""
    entry = "  %p = (s32[], f32[8]) parameter(0)\n"
    return program(f"{entry}  ROOT %w = (s32[], f32[8]) while(%p), condition=%cond, body=%body{config}", LOOP)


def test_a_loop_of_known_length_counts_so_often():
    kernel = only(looping(12))
    assert (kernel.kind, kernel.times, kernel.loop) == ("copy", 12, "w/")
    (loop,) = costs.loops(looping(12))
    assert (loop.kind, loop.trips, loop.host_driven, loop.waits) == ("while", 12, False, 0)
    assert costs.summary([kernel], H200).bytes == 12 * 64


def test_a_loop_of_unknown_length_waits_for_the_host_and_decides_once_more():
    times = {kernel.kind: kernel.times for kernel in costs.kernels(looping(None), unknown_trips=5)}
    assert times == {"compare": 6, "copy": 5}
    (loop,) = costs.loops(looping(None), unknown_trips=5)
    assert loop.host_driven and loop.waits == 6


def test_branches_are_equally_likely():
    branch = "%{n} (x: f32[8]) -> f32[8] {{\n  %x{n} = f32[8] parameter(0)\n  ROOT %c{n} = f32[8] copy(%x{n})\n}}\n"
    entry = "  %i = s32[] parameter(0)\n  %p = f32[8] parameter(1)\n"
    entry += "  ROOT %o = f32[8] conditional(%i, %p, %p, %p, %p), branch_computations={%a, %b, %c, %d}"
    text = program(entry, "\n".join(branch.format(n=name) for name in "abcd"))
    assert [kernel.times for kernel in costs.kernels(text)] == [0.25] * 4
    assert costs.loops(text)[0].waits == 1


def test_work_on_weights_alone_is_known():
    text = """  %w = f32[8] parameter(0), metadata={op_name="variables[\\'params\\'][\\'bias\\']"}
  %x = f32[8] parameter(1), metadata={op_name="frames"}
  %a = f32[8] copy(%w)
  %b = f32[8] add(%a, %x)
  ROOT %c = f32[8] copy(%b)"""
    assert [kernel.weights_alone for kernel in costs.kernels(program(text))] == [True, False, False]


def scattering(promise):
    body = f"""  %a = bf16[1000,4] parameter(0)
  %i = s32[10,1] parameter(1)
  %u = bf16[10,4] parameter(2)
  ROOT %s = bf16[1000,4] scatter(%a, %i, %u), update_window_dims={{1}}{promise}, to_apply=%add"""
    return fused(body, ("bf16[1000,4]", "s32[10,1]", "bf16[10,4]", "bf16[1000,4]"), "kInput")


def test_a_scatter_is_atomic_unless_its_places_are_promised_to_differ():
    assert costs.atomic_scatters(scattering("")) == ["bf16[1000,4] "]
    assert not costs.atomic_scatters(scattering(", unique_indices=true"))
    kernel = only(scattering(""))
    assert (kernel.read, kernel.written) == (80 + 40 + 80, 80)  # In place: what it adds to is read, too.


def test_float64_is_found_within_fusions():
    body = "  %a = f32[4] parameter(0)\n  %d = f64[4] convert(%a)\n  ROOT %r = f32[4] convert(%d)"
    assert costs.float64_values(fused(body, ("f32[4]", "f32[4]"))) == ["f64[4] "]
    assert not costs.float64_values(COPY)


def test_collectives_have_the_bytes_of_their_results():
    text = """  %p = f32[8] parameter(0)
  %a = f32[8] all-reduce(%p), to_apply=%add
  %s = (f32[8], f32[2]) all-reduce-start(%a, %a), to_apply=%add
  %d = (f32[8], f32[2]) all-reduce-done(%s)
  %g = (f32[8], f32[16]) all-gather-start(%p), dimensions={0}
  ROOT %h = f32[16] all-gather-done(%g)"""
    assert costs.collectives(program(text)) == {"all-reduce": [32, 40], "all-gather": [64]}


def test_a_kernel_waits_for_what_takes_longest():
    copy = "  %p = f32[{n}] parameter(0)\n  ROOT %c = f32[{n}] copy(%p)"
    large, small = (only(program(copy.format(n=n))) for n in (10**9, 10))
    assert (large.waits_for(H200), small.waits_for(H200)) == ("bandwidth", "launch")
    assert large.roof(H200) == pytest.approx(8e9 / H200.bandwidth_peak)
    assert costs.summary([small], H200).launch_ms == 1e3 * LAUNCH_SECONDS
    square = "  %a = bf16[8192,8192] parameter(0)\n  ROOT %d = bf16[8192,8192] dot(%a, %a), lhs_contracting_dims={1}"
    product = only(program(square))
    assert product.read == 2 * 8192**2 and product.waits_for(H200) == "products"
    assert product.waits_for(TARGETS["l4"]) == "products"


def test_a_compiled_program_is_read():
    """XLA's own text, of a CPU: a loop of a known length with a product in it."""

    def power(x, y):
        return jax.lax.fori_loop(0, 7, lambda i, x: jnp.tanh(x @ y), x)

    array = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    text = jax.jit(power).lower(array, array).compile().as_text()
    assert [loop.trips for loop in costs.loops(text)] == [7]
    products = sum(kernel.times * sum(kernel.products.values()) for kernel in costs.kernels(text))
    assert products == 7 * 2 * 32**3
    assert sum(kernel.times * kernel.transcendental for kernel in costs.kernels(text)) == 7 * 32 * 32


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_figures_of_a_target_fit_together(target):
    lanes = 2 * target.cores * target.lanes * target.clock * 1e9
    assert target.float32 == pytest.approx(lanes, rel=0.03)
    assert target.float32 <= target.tf32 < target.bfloat16
    assert ("ACCELERATED" in target.config) == (target.capability >= (9, 0))
    assert f"device_memory_size: {target.memory}" in target.config
