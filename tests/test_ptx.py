"""The machine that executes compiled kernels: what each instruction gives, and each kind of fault planted and found."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from motionspec.ptx import native

if native.compiler() is None:
    pytest.skip("no C compiler here: the machine is written in C", allow_module_level=True)

from motionspec import ptx
from motionspec.ptx.decode import contracted, read

LANES = np.arange(32)


# ---- One warp of hand-written PTX


def text(body, pointers=1, registers=""):
    """A kernel of those instructions. %rd0 is the address of 8 bytes for each lane in the first buffer."""
    parameters = ",\n".join(f".param .u64 k_param_{n}" for n in range(pointers))
    return f"""
.version 8.7
.target sm_80
.visible .entry k({parameters})
.reqntid 32
{{
    .reg .b32 %r<99>;
    {registers}
    ld.param.b64 %rd90, [k_param_0];
    mov.u32 %r90, %tid.x;
    mad.wide.u32 %rd0, %r90, 8, %rd90;
{body}
    ret;
}}
"""


def run(body, *inputs, conditions=ptx.Conditions(), warps=1, grid=(1,), shared=0):  # noqa: B008 (frozen)
    """What the first buffer holds afterwards: 8 bytes for each lane. %rd1, %rd2, ... are its 8 bytes of each input."""
    result = np.zeros(32 * warps, np.uint64)
    arrays = [result, *(np.ascontiguousarray(x).astype(x.dtype) for x in map(np.asarray, inputs))]
    wide = []
    for array in arrays:
        bits = array.view(f"u{array.itemsize}").astype(np.uint64)
        wide.append(np.ascontiguousarray(np.broadcast_to(bits, 32 * warps)))
    wide[0] = result
    loads = ""
    for k in range(1, len(wide)):
        loads += f"ld.param.b64 %rd8{k}, [k_param_{k}];\nmad.wide.u32 %rd8{k}, %r90, 8, %rd8{k};\n"
        loads += f"ld.global.b64 %rd{k}, [%rd8{k}];\n"
    program = ptx.Program.from_ptx(text(loads + body, len(wide)), warps=warps, shared=shared)
    memory = ptx.Memory()
    addresses = [memory.add(native.pointer(a), a.nbytes, f"buffer {k}") for k, a in enumerate(wide)]
    executed = ptx.launch(program, grid, addresses, memory, conditions)
    assert executed.warps["ret"] >= warps
    return result


def computed(opcode, *inputs, result="u8", tail=""):
    """One instruction of one result, as numbers of that type."""
    operands = ", ".join(["%rd70", *(f"%rd{k}" for k in range(1, len(inputs) + 1))])
    got = run(f"{opcode} {operands}{tail};\nst.global.b64 [%rd0], %rd70;", *inputs)
    size = np.dtype(result).itemsize
    return got.view(np.uint8).reshape(32, 8)[:, :size].copy().view(result)[:, 0]


def numbers(kind, seed=0):
    """32 numbers of a type, extreme ones among them."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(kind)
    if kind.kind == "f":
        some = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, np.finfo(kind).tiny, np.finfo(kind).max]
        with np.errstate(over="ignore"):
            drawn = (rng.normal(size=32) * 10.0 ** rng.integers(-4, 5, 32)).astype(kind)
    else:
        info = np.iinfo(kind)
        some = [0, 1, info.max, info.min, info.max - 1, 3, 7]
        drawn = rng.integers(info.min, info.max, 32, dtype=kind, endpoint=True)
    drawn[: len(some)] = np.array(some, kind)
    return rng.permutation(drawn)


INTEGERS = {"s16": "i2", "s32": "i4", "s64": "i8", "u16": "u2", "u32": "u4", "u64": "u8"}
FLOATS = {"f32": "f4", "f64": "f8", "f16": "f2"}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name, kind", INTEGERS.items())
def test_integer_arithmetic(name, kind):
    a, b, c = (numbers(kind, seed) for seed in range(3))
    for opcode, want in {
        f"add.{name}": a + b,
        f"sub.{name}": a - b,
        f"mul.lo.{name}": a * b,
        f"min.{name}": np.minimum(a, b),
        f"max.{name}": np.maximum(a, b),
    }.items():
        assert np.array_equal(computed(opcode, a, b, result=kind), want), opcode
    assert np.array_equal(computed(f"mad.lo.{name}", a, b, c, result=kind), a * b + c)
    exact = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    bits = 8 * np.dtype(kind).itemsize
    high = np.array([x >> bits for x in exact], kind)
    assert np.array_equal(computed(f"mul.hi.{name}", a, b, result=kind), high)
    if bits < 64:
        wide = np.array(exact, f"{kind[0]}{bits // 4}")
        assert np.array_equal(computed(f"mul.wide.{name}", a, b, result=wide.dtype), wide)
    # PTX cuts a quotient off towards 0.
    divisor = np.where(b == 0, np.array(5, kind), b)
    pairs = [(int(x), int(y)) for x, y in zip(a, divisor, strict=True)]
    quotients = [abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1) for x, y in pairs]
    rests = [x - y * q for (x, y), q in zip(pairs, quotients, strict=True)]
    limit = 1 << bits
    wrapped = [np.array([q % limit for q in values], f"u{bits // 8}").view(kind) for values in (quotients, rests)]
    assert np.array_equal(computed(f"div.{name}", a, divisor, result=kind), wrapped[0])
    assert np.array_equal(computed(f"rem.{name}", a, divisor, result=kind), wrapped[1])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name, kind", FLOATS.items())
def test_floating_arithmetic_is_rounded_once(name, kind):
    a, b, c = (numbers(kind, seed) for seed in range(3))
    for opcode, want in {f"add.{name}": a + b, f"sub.{name}": a - b, f"mul.{name}": a * b, f"neg.{name}": -a}.items():
        operands = (a,) if opcode.startswith("neg") else (a, b)
        assert np.array_equal(computed(opcode, *operands, result=kind), want, equal_nan=True), opcode
    assert np.array_equal(computed(f"min.{name}", a, b, result=kind), np.fmin(a, b), equal_nan=True)
    assert np.array_equal(computed(f"max.{name}", a, b, result=kind), np.fmax(a, b), equal_nan=True)
    if name != "f64":
        assert np.array_equal(computed(f"max.NaN.{name}", a, b, result=kind), np.maximum(a, b), equal_nan=True)
        exact = (a.astype("f8") * b.astype("f8") + c.astype("f8")).astype(kind)
        assert np.array_equal(computed(f"fma.rn.{name}", a, b, c, result=kind), exact, equal_nan=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_division_and_roots():
    a, b = numbers("f4"), numbers("f4", 1)
    for opcode, want in {"div.rn.f32": a / b, "div.full.f32": a / b}.items():
        assert np.array_equal(computed(opcode, a, b, result="f4"), want, equal_nan=True), opcode
    for opcode, want in {"sqrt.rn.f32": np.sqrt(a), "rcp.rn.f32": 1 / a, "ex2.approx.f32": np.exp2(a)}.items():
        got = computed(opcode, a, result="f4")
        np.testing.assert_allclose(got, want, rtol=2**-23, atol=0, err_msg=opcode)


RELATIONS = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater}
RELATIONS |= {"ge": np.greater_equal}


def compared(opcode, a, b):
    body = f"setp.{opcode} %p1, %rd1, %rd2;\nselp.b64 %rd3, 1, 0, %p1;\nst.global.b64 [%rd0], %rd3;"
    return run(body, a, b).astype(bool)


@pytest.mark.parametrize("relation", RELATIONS)
def test_comparisons(relation):
    a, b = numbers("f4"), numbers("f4", 1)
    a[:8] = b[:8]
    unordered = np.isnan(a) | np.isnan(b)
    want = RELATIONS[relation](a, b)
    assert np.array_equal(compared(f"{relation}.f32", a, b), want & ~unordered)
    assert np.array_equal(compared(f"{relation}u.f32", a, b), want | unordered)
    for name, kind in INTEGERS.items():
        a, b = numbers(kind), numbers(kind, 1)
        a[:8] = b[:8]
        assert np.array_equal(compared(f"{relation}.{name}", a, b), RELATIONS[relation](a, b)), name


def test_a_comparison_may_be_combined_and_asks_of_numbers():
    a = numbers("f4")
    assert np.array_equal(compared("nan.f32", a, a), np.isnan(a))
    assert np.array_equal(compared("num.f32", a, a), ~np.isnan(a))
    body = "setp.lt.u32 %p2, %r90, 20;\nsetp.gt.and.u32 %p1, %r90, 4, %p2;\nselp.b64 %rd3, 1, 0, %p1;\n"
    assert np.array_equal(run(body + "st.global.b64 [%rd0], %rd3;"), (LANES > 4) & (LANES < 20))


@pytest.mark.parametrize("name, kind", INTEGERS.items())
def test_shifts_beyond_the_width(name, kind):
    a, n = numbers(kind), np.resize(np.array([0, 1, 5, 15, 16, 31, 32, 63, 64, 200], "u4"), 32)
    bits = 8 * np.dtype(kind).itemsize
    right = np.array([int(x) >> min(int(k), bits) for x, k in zip(a, n, strict=True)], kind)
    assert np.array_equal(computed(f"shr.{name}", a, n, result=kind), right)
    left = np.array([(int(x) << int(k)) % (1 << bits) for x, k in zip(a, n, strict=True)], f"u{bits // 8}")
    assert np.array_equal(computed(f"shl.b{bits}", a, n, result=f"u{bits // 8}"), left)


def test_fields_and_permutations_of_bits():
    a, b, c = (numbers("u4", seed) for seed in range(3))
    field = computed("bfe.u32", a, np.uint32(5), np.uint32(7), result="u4")
    assert np.array_equal(field, a >> 5 & 127)
    signed = computed("bfe.s32", a, np.uint32(6), np.uint32(1), result="i4")
    assert np.array_equal(signed, -(a >> 6 & 1).astype("i4"))
    assert np.array_equal(computed("popc.b32", a, result="u4"), [int(x).bit_count() for x in a])
    majority = computed("lop3.b32", a, b, c, np.uint32(0xE8), result="u4")
    assert np.array_equal(majority, (a & b) | (a & c) | (b & c))
    swapped = computed("prmt.b32", a, b, np.uint32(0x0123), result="u4")
    assert np.array_equal(swapped, a.byteswap())
    assert np.array_equal(computed("prmt.b32", a, b, np.uint32(0x7654), result="u4"), b)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_half_is_read_and_rounded_as_numpy_does():
    halves = np.arange(2**16, dtype="u2").view("f2")
    finite = halves[~np.isnan(halves)]
    for chunk in np.array_split(np.resize(finite, 64 * 1024), 2048)[::31]:
        wide = computed("cvt.f32.f16", chunk, result="f4")
        assert np.array_equal(wide, chunk.astype("f4"))
        assert np.array_equal(computed("cvt.rn.f16.f32", wide, result="f2"), chunk)
    between = np.float32([2049, 2051, 65519, 65520, 2**-25, 1.0001 * 2**-25, 1e-10, -1.0000001, 0.1, np.nan])
    drawn = np.resize(np.concatenate([between, numbers("f4", 5)]), 64).reshape(2, 32)
    for chunk in drawn:
        assert np.array_equal(computed("cvt.rn.f16.f32", chunk, result="f2"), chunk.astype("f2"), equal_nan=True)


def test_bfloat16_is_rounded_to_nearest_and_to_even():
    torch = pytest.importorskip("torch")
    for seed in range(20):
        a = numbers("f4", seed)
        a[:4] = np.uint32([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF]).view("f4")
        want = torch.tensor(a).bfloat16().view(torch.int16).numpy()
        got = computed("cvt.rn.bf16.f32", a, result="i2")
        assert np.array_equal(np.where(np.isnan(a), 0, got), np.where(np.isnan(a), 0, want))


@pytest.mark.parametrize(
    "rounding, function", {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}.items()
)
def test_conversions_to_integers_saturate(rounding, function):
    a = np.resize(np.float32([0.5, 1.5, -0.5, -1.5, 3e9, -3e9, 1e20, -1e20, np.inf, -np.inf, np.nan, 7.3, -7.3]), 32)
    for name, kind in (("s32", "i4"), ("u32", "u4"), ("s64", "i8"), ("s16", "i2")):
        info = np.iinfo(kind)
        whole = [0 if np.isnan(x) else x for x in function(a.astype("f8"))]
        want = [max(info.min, min(info.max, int(np.clip(x, -1e30, 1e30)))) for x in whole]
        assert np.array_equal(computed(f"cvt.{rounding}.{name}.f32", a, result=kind), want), name
    assert np.array_equal(computed(f"cvt.{rounding}.f32.f32", a, result="f4"), function(a), equal_nan=True)


def test_integers_are_lengthened_by_their_sign():
    a = numbers("i4")
    assert np.array_equal(computed("cvt.s64.s32", a, result="i8"), a.astype("i8"))
    assert np.array_equal(computed("cvt.u64.u32", a, result="u8"), a.view("u4").astype("u8"))
    assert np.array_equal(computed("cvt.rn.f32.s32", a, result="f4"), a.astype("f4"))
    assert np.array_equal(computed("cvt.u32.u64", numbers("u8"), result="u4"), numbers("u8").astype("u4"))


def test_ftz_flushes_inputs_and_results():
    tiny = np.resize(np.float32([1e-39, -1e-39, 1e-30, 2.0]), 32)
    flushed = np.where(np.abs(tiny) < 2**-126, np.copysign(np.float32(0), tiny), tiny)
    got = computed("add.ftz.f32", tiny, np.float32(0), result="f4")
    assert np.array_equal(got, flushed)
    product = computed("mul.ftz.f32", np.float32(1e-20), np.float32(1e-20), result="f4")
    assert not product.any() and computed("mul.f32", np.float32(1e-20), np.float32(1e-20), result="f4").all()


def test_approximate_instructions_move_within_their_error_the_same_for_the_same_value():
    a = np.resize(np.abs(numbers("f4")[:16]), 32)
    a = np.where(np.isfinite(a), a, np.float32(3))
    body = "sqrt.approx.f32 %rd3, %rd1;\nst.global.b64 [%rd0], %rd3;"
    found = [run(body, a, conditions=ptx.Conditions(seed, noise=1.0)).astype("u4").view("f4") for seed in range(4)]
    for got in found:
        np.testing.assert_allclose(got, np.sqrt(a.astype("f8")), rtol=3 * 2**-24, atol=0)
        assert np.array_equal(got[:16], got[16:])
    assert len({got.tobytes() for got in found}) == 4


def test_packed_registers_and_moves():
    a, b = numbers("u4"), numbers("u4", 1)
    body = "mov.b64 %rd3, {%rd1, %rd2};\nst.global.b64 [%rd0], %rd3;"
    assert np.array_equal(run(body, a, b), a.astype("u8") | b.astype("u8") << np.uint64(32))
    body = "mov.b64 {%r1, _}, %rd1;\nmov.b32 {%rs1, %rs2}, %r1;\nmov.b32 %r3, {%rs2, %rs1};\ncvt.u64.u32 %rd3, %r3;\n"
    assert np.array_equal(
        run(body + "st.global.b64 [%rd0], %rd3;", a), a >> 16 | (a & 0xFFFF).astype("u8") << np.uint64(16)
    )


@pytest.mark.parametrize(
    "mode, source", {"bfly": LANES ^ 5, "idx": LANES * 0 + 5, "up": LANES - 5, "down": LANES + 5}.items()
)
def test_shuffles(mode, source):
    source = np.where((source < 0) | (source > 31), LANES, source)
    clamp = 0 if mode == "up" else 31
    body = f"shfl.sync.{mode}.b32 %r2, %r90, 5, {clamp}, -1;\ncvt.u64.u32 %rd3, %r2;\nst.global.b64 [%rd0], %rd3;"
    assert np.array_equal(run(body), source)


def test_lanes_that_part_meet_again():
    """Each lane goes through a loop as often as its number says; then they all shuffle."""
    body = """
    mov.b32 %r1, 0;
    mov.b32 %r2, 0;
$LOOP:
    setp.ge.u32 %p1, %r1, %r90;
    @%p1 bra $END;
    add.s32 %r1, %r1, 1;
    add.s32 %r2, %r2, %r1;
    bra.uni $LOOP;
$END:
    shfl.sync.bfly.b32 %r3, %r2, 1, 31, -1;
    cvt.u64.u32 %rd3, %r3;
    st.global.b64 [%rd0], %rd3;"""
    other = LANES ^ 1
    assert np.array_equal(run(body), other * (other + 1) // 2)


def test_a_lane_may_end_before_the_others():
    body = "setp.lt.u32 %p1, %r90, 7;\n@%p1 ret;\nbar.sync 0;\nst.global.b64 [%rd0], 9;"
    assert np.array_equal(run(body), np.where(LANES < 7, 0, 9))


def test_atomics_add_and_return_what_was_there():
    body = "atom.global.gpu.relaxed.add.u64 %rd3, [%rd90], 3;\nbar.sync 0;\n"
    assert run(body)[0] == 96
    body = "red.global.add.f32 [%rd90], 0f3F800000;"
    assert run(body).view("f4")[0] == 32


def test_programs_and_warps_have_their_numbers():
    body = "mov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %nctaid.x;\nmov.u32 %r3, %ntid.x;\nmad.lo.s32 %r4, %r1, 1000, %r2;\n"
    body += "setp.ne.u32 %p1, %r1, 2;\n@%p1 ret;\nmad.lo.s32 %r4, %r3, 10000, %r4;\ncvt.u64.u32 %rd3, %r4;\n"
    assert np.array_equal(run(body + "st.global.b64 [%rd0], %rd3;", grid=(3,), warps=2), np.full(64, 642003))


# ---- Faults


def test_an_access_out_of_bounds_is_found_and_said():
    with pytest.raises(
        ptx.Fault, match=r"^out of bounds: lane 31 touches 8 bytes from byte 256 of 256 of buffer 0 in program"
    ):
        run("st.global.b64 [%rd0+8], 1;")
    with pytest.raises(ptx.Fault, match="out of bounds: lane 0 touches 8 bytes from byte -8"):
        run("ld.global.b64 %rd3, [%rd0+-8];")
    with pytest.raises(ptx.Fault, match="no allocation: lane 0 touches 4 bytes at address 0x10"):
        run("mov.b64 %rd3, 16;\nld.global.b32 %r3, [%rd3];")
    with pytest.raises(ptx.Fault, match="shared memory"):
        run("mov.b32 %r1, global_smem;\nst.shared.b32 [%r1+64], 1;", shared=64)
    run("setp.lt.u32 %p1, %r90, 31;\n@%p1 st.global.b64 [%rd0+8], 1;")  # a lane without guard does not touch it


def test_a_misaligned_vector_is_found():
    run("ld.global.v2.b32 {%r1, %r2}, [%rd0];")
    with pytest.raises(ptx.Fault, match="misaligned: lane 0 touches 8 bytes from byte 4 of 256 of buffer 0"):
        run("setp.eq.u32 %p1, %r90, 0;\n@%p1 ld.global.v2.b32 {%r1, %r2}, [%rd0+4];")
    with pytest.raises(ptx.Fault, match="misaligned"):
        run("add.s64 %rd3, %rd90, 2;\nld.global.b32 %r1, [%rd3];")


def store(where, value):
    return f"st.{where} [%rd90], {value};\n" if where == "global.b64" else f"st.{where} [%r80], {value};\n"


WARP = "shr.u32 %r81, %r90, 5;\nsetp.eq.u32 %p1, %r81, 0;\nsetp.eq.u32 %p2, %r81, 1;\nmov.b32 %r80, global_smem;\n"
SPACES = {"global.b64": "[%rd90]", "shared.b32": "[%r80]"}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("space, at", SPACES.items())
def test_races_between_warps_are_found_in_any_order(space, at, seed):
    def runs(body):
        return run(WARP + body, warps=2, shared=64, conditions=ptx.Conditions(seed))

    begin = f"@%p1 st.{space} {at}, 5;\nbar.sync 0;\n"
    to = "%rd3" if space == "global.b64" else "%r3"
    reads, writes = f"@%p1 ld.{space} {to}, {at};\n", f"@%p2 st.{space} {at}, 7;\n"
    with pytest.raises(ptx.Fault, match=r"race on .*read"):
        runs(begin + reads + writes)
    runs(begin + reads + "bar.sync 0;\n" + writes)
    with pytest.raises(ptx.Fault, match=r"race on .* two of them write"):
        runs(begin + f"@%p1 st.{space} {at}, 6;\n" + writes)
    runs(begin + writes.replace("%p2", "%p1") + writes)  # the same value: warps that hold copies of it
    with pytest.raises(ptx.Fault, match="race"):  # both warps read, so whichever writes races with the other
        runs(begin + f"ld.{space} {to}, {at};\n" + writes)


def test_races_between_programs_have_no_barrier():
    first, second = "setp.eq.u32 %p1, %r1, 0;\n", "setp.eq.u32 %p2, %r1, 1;\n"
    begin = "mov.u32 %r1, %ctaid.x;\n" + first + second
    with pytest.raises(ptx.Fault, match="race on 8 bytes from byte 0"):
        run(begin + "@%p1 st.global.b64 [%rd90], 7;\nbar.sync 0;\n@%p2 ld.global.b64 %rd3, [%rd90];", grid=(2,))
    with pytest.raises(ptx.Fault, match="race"):
        run(begin + "@%p1 st.global.b64 [%rd90], 7;\n@%p2 st.global.b64 [%rd90], 8;", grid=(2,))
    assert run("red.global.add.u64 [%rd90], 1;", grid=(3,))[0] == 96  # atomics do not race with one another
    with pytest.raises(ptx.Fault, match="race"):
        run(begin + "red.global.add.u64 [%rd90], 1;\n@%p2 ld.global.b64 %rd3, [%rd90];", grid=(2,))
    body = begin + "@%p1 st.global.b64 [%rd90], 7;\n@%p2 ld.global.b64 %rd3, [%rd90];"
    run(body, grid=(2,), conditions=ptx.Conditions(races=False))


def test_what_depends_on_the_order_differs_between_seeds():
    body = "mov.u32 %r1, %ctaid.x;\ncvt.u64.u32 %rd3, %r1;\nst.global.b64 [%rd90], %rd3;"
    last = {int(run(body, grid=(8,), conditions=ptx.Conditions(s, races=False))[0]) for s in range(12)}
    assert len(last) > 3


def test_what_nobody_wrote_is_noise():
    drawn = {int(run("st.global.b64 [%rd0], %rd55;", conditions=ptx.Conditions(s))[3]) for s in range(4)}
    assert len(drawn) == 4
    shared = run(
        "mov.b32 %r1, global_smem;\nld.shared.b32 %r2, [%r1];\ncvt.u64.u32 %rd3, %r2;\nst.global.b64 [%rd0], %rd3;",
        shared=64,
    )
    assert np.isnan(shared.astype("u4").view("f4")).all()


def test_a_barrier_within_a_branch_is_a_fault():
    body = "setp.lt.u32 %p1, %r90, 7;\n@%p1 bra $A;\nbar.sync 0;\n$A:\nst.global.b64 [%rd0], 1;"
    with pytest.raises(ptx.Fault, match="diverged: not all lanes"):
        run(body)
    with pytest.raises(ptx.Fault, match="diverged"):
        run(body.replace("bar.sync 0", "shfl.sync.bfly.b32 %r2, %r90, 1, 31, -1"))


@pytest.mark.parametrize(
    "instruction",
    [
        "wgmma.fence.sync.aligned",
        "cp.async.cg.shared.global [%r1], [%rd1], 16",
        "add.rz.f32 %r1, %r2, %r3",
        "bar.sync 1, 64",
        "ld.local.b32 %r1, [%rd1]",
        "cvt.rna.tf32.f32 %r1, %r2",
        "shfl.sync.bfly.b32 %r1, %r2, 1, 15, -1",
        "vote.sync.ballot.b32 %r1, %p1, -1",
    ],
)
def test_what_the_machine_does_not_know_is_refused_by_name(instruction):
    with pytest.raises(ptx.NotModelled, match=re.escape(instruction.split(",")[0])):
        ptx.Program.from_ptx(text(instruction + ";"), warps=1, shared=0)


def test_products_are_fused_with_sums_only_where_that_is_asked_for():
    a, b = np.float32(1 + 2**-12), np.float32(-(1 + 2**-11))
    body = "mul.f32 %rd3, %rd1, %rd1;\nadd.f32 %rd4, %rd3, %rd2;\nst.global.b64 [%rd0], %rd4;"
    assert not run(body, a, b).any()
    made = contracted(read(text(body)))
    assert [s.opcode for s in made.statements if "f32" in s.opcode] == ["mul.f32", "fma.rn.f32"]
    label = body.replace("add.f32", "$HERE:\nadd.f32")  # another way may lead there
    assert [s.opcode for s in contracted(read(text(label))).statements if "f32" in s.opcode] == ["mul.f32", "add.f32"]


# ---- Kernels that Triton compiled

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton", reason="no triton here: pip install 'motionspec[triton]'")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)
import triton.language as tl  # noqa: E402


@triton.jit
def scale(x, y, n, WRONG: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n + WRONG) * 2, mask=i < n)


@triton.jit
def total(x, y, BLOCK: tl.constexpr):
    tl.store(y, tl.sum(tl.load(x + tl.arange(0, BLOCK)), 0))


@triton.jit
def product(a, b, c, K: tl.constexpr):
    i, j, k = tl.arange(0, 32), tl.arange(0, 16), tl.arange(0, K)
    x = tl.load(a + i[:, None] * K + k[None, :])
    y = tl.load(b + k[:, None] * 16 + j[None, :])
    tl.store(c + i[:, None] * 16 + j[None, :], tl.dot(x, y))


@triton.jit
def neighbours(x, y, n, SHARED: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of three in a row, of which two begin as 0."""
    i = tl.arange(0, BLOCK)
    a = tl.zeros((BLOCK,), tl.float32)
    if SHARED:
        b = a
    else:
        b = tl.zeros((BLOCK,), tl.float32)
    for k in range(n):
        c = tl.load(x + k * BLOCK + i)
        tl.store(y + k * BLOCK + i, a + b + c)
        a = b
        b = c


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_kernel_takes_tensors_of_the_cpu(dtype):
    x = torch.randn(1000).to(dtype)
    y = torch.empty_like(x)
    with ptx.executing() as log:
        scale[(8,)](x, y, 1000, WRONG=0, BLOCK=128)
    assert torch.equal(y, x * 2)
    assert [(launched.kernel, launched.grid) for launched in log.launches] == [("scale", (8, 1, 1))]
    assert log.launches[0].executed.warps["ret"] == 8 * 4


def test_a_mask_one_element_too_long_is_found_with_its_line():
    x = torch.randn(1000)
    with ptx.executing(), pytest.raises(ptx.Fault, match=r"out of bounds: lane \d+ touches .* at test_ptx\.py:\d+: "):
        scale[(8,)](x, torch.empty_like(x), 1000, WRONG=1, BLOCK=128)


def test_what_a_kernel_leaves_unwritten_is_nan():
    with ptx.executing():
        y = torch.empty(64)
        scale[(1,)](torch.ones(64), y, 40, WRONG=0, BLOCK=64)
    assert (y[:40] == 2).all() and y[40:].isnan().all()
    asked = torch.are_deterministic_algorithms_enabled()
    with ptx.executing():
        assert torch.are_deterministic_algorithms_enabled() == asked
    assert torch.are_deterministic_algorithms_enabled() == asked


def program(kernel, *arguments, **constants):
    """The PTX of a launch, warps and shared memory."""
    with ptx.executing():
        made = kernel.warmup(*arguments, grid=(1,), **constants)
    return made.asm["ptx"].decode(), made.metadata.num_warps, made.metadata.shared


def launched(text, warps, shared, grid, *arguments, **conditions):
    """That PTX on these tensors."""
    memory = ptx.Memory()
    values = [
        memory.add(a.data_ptr(), a.nbytes, f"argument {k}") if isinstance(a, torch.Tensor) else a
        for k, a in enumerate(arguments)
    ]
    made = ptx.Program.from_ptx(text, warps=warps, shared=shared)
    return ptx.launch(made, grid, values, memory, ptx.Conditions(**conditions))


def without(text, pattern, number):
    """The text without the match of that number."""
    match = list(re.finditer(pattern, text))[number]
    return text[: match.start()] + text[match.end() :]


def test_each_missing_barrier_is_found():
    x, y = torch.randn(1024), torch.empty(1)
    made, warps, shared = program(total, x, y, BLOCK=1024)
    launched(made, warps, shared, (1,), x, y)
    torch.testing.assert_close(y[0], x.sum())
    barriers = len(re.findall(r"bar\.sync\s+0;", made))
    assert barriers >= 1
    for number in range(barriers):
        with pytest.raises(ptx.Fault, match="race on"):
            for seed in range(4):
                launched(without(made, r"bar\.sync\s+0;", number), warps, shared, (1,), x, y, seed=seed)


def test_each_wrong_shuffle_shows():
    x, y = torch.randn(1024, dtype=torch.float64).float(), torch.empty(1)
    made, warps, shared = program(total, x, y, BLOCK=1024)
    shuffles = list(re.finditer(r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+, )(\d+)", made))
    assert len(shuffles) >= 5
    for match in shuffles:
        wrong = {1: 2, 2: 4, 4: 8, 8: 16, 16: 8}[int(match[2])]
        changed = made[: match.start()] + match[1] + str(wrong) + made[match.end() :]
        launched(changed, warps, shared, (1,), x, y)
        assert abs(y[0] - x.sum()) > 1e-3, match[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_each_wrong_layout_of_the_tensor_cores_shows(dtype):
    a, b, c = torch.randn(32, 32).to(dtype), torch.randn(32, 16).to(dtype), torch.empty(32, 16)
    want = a.double() @ b.double()
    made, warps, shared = program(product, a, b, c, K=32)
    launched(made, warps, shared, (1,), a, b, c)
    torch.testing.assert_close(c.double(), want, rtol=1e-5, atol=1e-5)
    assert ".trans." in made and "mma.sync" in made
    for k, match in enumerate(re.finditer(r"ldmatrix\S+?(\.trans)?\.shared", made)):
        changed = (
            made[: match.start()]
            + (match[0].replace(".trans", "") if match[1] else match[0].replace(".shared", ".trans.shared"))
            + made[match.end() :]
        )
        launched(changed, warps, shared, (1,), a, b, c)
        assert (c.double() - want).abs().max() > 0.1, k
    products = r"(mma\.sync\S+\s+\{[^}]*\}, \{ )(%r\d+), (%r\d+)"
    for match in re.finditer(products, made):
        changed = made[: match.start()] + f"{match[1]}{match[3]}, {match[2]}" + made[match.end() :]
        launched(changed, warps, shared, (1,), a, b, c)
        assert (c.double() - want).abs().max() > 0.1


def test_a_vector_of_a_pointer_that_is_less_aligned_than_was_compiled_for_is_found():
    x, y = torch.randn(513), torch.empty(512)
    made, warps, shared = program(scale, x, y, 512, WRONG=0, BLOCK=512)
    assert "ld.global.v4" in made
    with pytest.raises(ptx.Fault, match="misaligned: lane 0 touches 16 bytes"):
        launched(made, warps, shared, (1,), x[1:], y, 512)
    with ptx.executing():  # Triton, asked, compiles for it anew
        scale[(1,)](x[1:], y, 512, WRONG=0, BLOCK=512)
    assert torch.equal(y, 2 * x[1:])


def test_a_variable_that_the_compiler_drops_from_a_loop_is_found():
    """Names that begin as one value: Triton takes `a = b` for no change. Its interpreter does not."""
    x, y = torch.randn(5, 64), torch.empty(5, 64)
    padded = torch.cat([torch.zeros(2, 64), x])
    want = padded[:-2] + padded[1:-1] + x
    with ptx.executing():
        neighbours[(1,)](x, y, 5, SHARED=False, BLOCK=64)
        torch.testing.assert_close(y, want)
        neighbours[(1,)](x, y, 5, SHARED=True, BLOCK=64)
    if torch.allclose(y, want):
        pytest.skip(f"triton {triton.__version__} compiles it rightly")
    torch.testing.assert_close(y, padded[1:-1] + x)  # without what `a` should hold


def test_the_driver_of_before_is_there_afterwards():
    before = triton.runtime.driver._active
    with ptx.executing():
        assert triton.runtime.driver.active.get_current_target().arch == 80
    with pytest.raises(ZeroDivisionError), ptx.executing():
        raise ZeroDivisionError
    assert triton.runtime.driver._active is before


def test_the_example_of_the_page_prints_what_the_page_says(capsys):
    import check_kernel

    check_kernel.main()
    page = Path(check_kernel.__file__).with_name("machine.md").read_text(encoding="utf-8")
    said = capsys.readouterr().out.split(": @")[0]  # the registers are other ones in each version of Triton
    assert said.startswith("out of bounds") and said in page.replace("\n", " ")
