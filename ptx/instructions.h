/* What every lane computes, instruction by instruction (PTX ISA 8.x, section 9.7), without control flow and memory.

   SCALAR(name, body): the name is an opcode as `decode.py` writes it, without default rounding (.rn) and without .ftz.
   In the body in_T(k) is operand k read as type T and out_T(x) is the result, which is operand 0.
   This file is included twice: once for the table of names, once for the cases of the switch. */

/* Families */
#define UNARY(op, T, result) SCALAR(op "." #T, T a = in_##T(1); out_##T(result);)
#define BINARY(op, T, result) SCALAR(op "." #T, T a = in_##T(1), b = in_##T(2); out_##T(result);)
#define TERNARY(op, T, result) SCALAR(op "." #T, T a = in_##T(1), b = in_##T(2), c = in_##T(3); out_##T(result);)
#define SIGNED(FAMILY, op, result) FAMILY(op, s16, result) FAMILY(op, s32, result) FAMILY(op, s64, result)
#define UNSIGNED(FAMILY, op, result) FAMILY(op, u16, result) FAMILY(op, u32, result) FAMILY(op, u64, result)
#define WHOLE(FAMILY, op, result) SIGNED(FAMILY, op, result) UNSIGNED(FAMILY, op, result)
#define BITS(FAMILY, op, result) FAMILY(op, b16, result) FAMILY(op, b32, result) FAMILY(op, b64, result)
#define NARROW(FAMILY, op, result) FAMILY(op, f32, result) FAMILY(op, f16, result) FAMILY(op, bf16, result)
#define FLOATING(FAMILY, op, result) NARROW(FAMILY, op, result) FAMILY(op, f64, result)

/* Arithmetic. The half types are computed in float and rounded again, which for + - * gives what one rounding gives:
   float has more than twice their digits. Their fused product is computed in double for the same reason. */
WHOLE(BINARY, "add", a + b)
FLOATING(BINARY, "add", a + b)
WHOLE(BINARY, "sub", a - b)
FLOATING(BINARY, "sub", a - b)
WHOLE(BINARY, "mul.lo", a * b)
FLOATING(BINARY, "mul", a * b)
WHOLE(TERNARY, "mad.lo", a * b + c)
TERNARY("fma", f32, fmaf(a, b, c))
TERNARY("fma", f64, fma(a, b, c))
TERNARY("fma", f16, (float)((double)a * b + c))
TERNARY("fma", bf16, (float)((double)a * b + c))
TERNARY("fms", f32, fmaf(a, b, -c)) /* not of PTX: what ptxas makes of a product and a difference (decode.contracted) */
TERNARY("fnma", f32, fmaf(-a, b, c))

#define WIDE(T, W) \
    SCALAR("mul.wide." #T, out_##W((W)in_##T(1) * (W)in_##T(2));) \
    SCALAR("mad.wide." #T, out_##W((W)in_##T(1) * (W)in_##T(2) + in_##W(3));)
WIDE(s16, s32)
WIDE(u16, u32)
WIDE(s32, s64)
WIDE(u32, u64)

#define HIGH(T, W, bits) SCALAR("mul.hi." #T, out_##T((T)(((W)in_##T(1) * (W)in_##T(2)) >> bits));)
HIGH(s16, s32, 16)
HIGH(u16, u32, 16)
HIGH(s32, s64, 32)
HIGH(u32, u64, 32)
HIGH(s64, s128, 64)
HIGH(u64, u128, 64)

/* A quotient by 0 is unspecified, and no trap: all bits are set. The least number by -1 wraps around. */
UNSIGNED(BINARY, "div", b ? a / b : -1)
UNSIGNED(BINARY, "rem", b ? a % b : -1)
SIGNED(BINARY, "div", b == 0 ? -1 : b == -1 ? -a : a / b)
SIGNED(BINARY, "rem", b == 0 ? -1 : b == -1 ? 0 : a % b)
BINARY("div", f32, a / b)
BINARY("div", f64, a / b)
BINARY("div.full", f32, APPROXIMATE((double)a / b, 2))
BINARY("div.approx", f32, APPROXIMATE((double)a / b, 2))

WHOLE(BINARY, "min", a < b ? a : b)
WHOLE(BINARY, "max", a > b ? a : b)
/* Of a number and NaN the number, or with .NaN the NaN; -0 is less than +0. */
FLOATING(BINARY, "min", LEAST(a, b))
FLOATING(BINARY, "max", GREATEST(a, b))
NARROW(BINARY, "min.NaN", a != a || b != b ? NAN : LEAST(a, b))
NARROW(BINARY, "max.NaN", a != a || b != b ? NAN : GREATEST(a, b))

SIGNED(UNARY, "neg", -a)
FLOATING(UNARY, "neg", -a)
SIGNED(UNARY, "abs", a < 0 ? -a : a)
FLOATING(UNARY, "abs", fabs(a))
SCALAR("neg.f16x2", out_b32(in_b32(1) ^ 0x80008000u);)
SCALAR("neg.bf16x2", out_b32(in_b32(1) ^ 0x80008000u);)
SCALAR("abs.f16x2", out_b32(in_b32(1) & 0x7FFF7FFFu);)
SCALAR("abs.bf16x2", out_b32(in_b32(1) & 0x7FFF7FFFu);)

UNARY("sqrt", f32, sqrtf(a))
UNARY("sqrt", f64, sqrt(a))
UNARY("sqrt.approx", f32, APPROXIMATE(sqrt((double)a), 1))
UNARY("rsqrt.approx", f32, APPROXIMATE(1 / sqrt((double)a), 2))
UNARY("rcp", f32, 1 / a)
UNARY("rcp", f64, 1 / a)
UNARY("rcp.approx", f32, APPROXIMATE(1 / (double)a, 1))
UNARY("ex2.approx", f32, a == 0 ? 1 : APPROXIMATE(exp2((double)a), 2))
UNARY("lg2.approx", f32, APPROXIMATE(log2((double)a), 2))
UNARY("sin.approx", f32, APPROXIMATE(sin((double)a), 4))
UNARY("cos.approx", f32, APPROXIMATE(cos((double)a), 4))
UNARY("tanh.approx", f32, APPROXIMATE(tanh((double)a), 4096)) /* 2**-11 */

/* Bits */
#define LOGIC(op, result) BITS(BINARY, op, result) BINARY(op, pred, result)
LOGIC("and", a & b)
LOGIC("or", a | b)
LOGIC("xor", a ^ b)
BITS(UNARY, "not", ~a)
UNARY("not", pred, a ^ 1)
#define SHIFTS(B, U, S, bits) \
    SCALAR("shl." #B, u32 n = in_u32(2); out_##B(n < bits ? (u64)in_##B(1) << n : 0);) \
    SCALAR("shr." #U, u32 n = in_u32(2); out_##U(n < bits ? in_##U(1) >> n : 0);) \
    SCALAR("shr." #B, u32 n = in_u32(2); out_##B(n < bits ? in_##B(1) >> n : 0);) \
    SCALAR("shr." #S, u32 n = in_u32(2); out_##S(in_##S(1) >> (n < bits ? n : bits - 1));)
SHIFTS(b16, u16, s16, 16)
SHIFTS(b32, u32, s32, 32)
SHIFTS(b64, u64, s64, 64)
SCALAR("shf.l.wrap.b32", u64 both = in_u32(1) | (u64)in_u32(2) << 32; out_b32((both << (in_u32(3) & 31)) >> 32);)
SCALAR("shf.r.wrap.b32", u64 both = in_u32(1) | (u64)in_u32(2) << 32; out_b32(both >> (in_u32(3) & 31));)
#define FIELD(T, bits) SCALAR("bfe." #T, out_##T(field_##T(in_##T(1), in_u32(2) & 255, in_u32(3) & 255));)
FIELD(u32, 32)
FIELD(s32, 32)
FIELD(u64, 64)
FIELD(s64, 64)
SCALAR("bfi.b32", out_b32(inserted(in_b32(1), in_b32(2), in_u32(3) & 255, in_u32(4) & 255, 32));)
SCALAR("bfi.b64", out_b64(inserted(in_b64(1), in_b64(2), in_u32(3) & 255, in_u32(4) & 255, 64));)
SCALAR("popc.b32", out_u32(__builtin_popcount(in_b32(1)));)
SCALAR("popc.b64", out_u32(__builtin_popcountll(in_b64(1)));)
SCALAR("clz.b32", u32 a = in_b32(1); out_u32(a ? __builtin_clz(a) : 32);)
SCALAR("clz.b64", u64 a = in_b64(1); out_u32(a ? __builtin_clzll(a) : 64);)
SCALAR("prmt.b32", out_b32(permuted(in_u32(1) | (u64)in_u32(2) << 32, in_u32(3)));)
SCALAR("lop3.b32", out_b32(looked_up(in_b32(1), in_b32(2), in_b32(3), in_u32(4)));)

/* Moves and choices */
BITS(UNARY, "mov", a)
UNARY("mov", pred, a)
#define CHOICE(T) SCALAR("selp." #T, out_##T(in_pred(3) ? in_##T(1) : in_##T(2));)
CHOICE(b16)
CHOICE(b32)
CHOICE(b64)

/* Comparisons: `option` says which, `combine` what is done with a further predicate. */
#define COMPARISON(T) SCALAR("setp." #T, T a = in_##T(1), b = in_##T(2); COMPARED(a, b, 0); out_pred(COMBINED(3));)
COMPARISON(b16)
COMPARISON(b32)
COMPARISON(b64)
COMPARISON(u16)
COMPARISON(u32)
COMPARISON(u64)
COMPARISON(s16)
COMPARISON(s32)
COMPARISON(s64)
#define COMPARISON_OF_FLOATS(T) \
    SCALAR("setp." #T, T a = in_##T(1), b = in_##T(2); COMPARED(a, b, a != a || b != b); out_pred(COMBINED(3));)
COMPARISON_OF_FLOATS(f16)
COMPARISON_OF_FLOATS(bf16)
COMPARISON_OF_FLOATS(f32)
COMPARISON_OF_FLOATS(f64)
/* Of both halves of a register: two results. */
#define COMPARISON_OF_PAIRS(T, value) SCALAR("setp." #T "x2", \
    { float a = value((u16)in_u32(2)), b = value((u16)in_u32(3)); COMPARED(a, b, a != a || b != b); r0[l] = met; } \
    { float a = value(in_u32(2) >> 16), b = value(in_u32(3) >> 16); COMPARED(a, b, a != a || b != b); r1[l] = met; })
COMPARISON_OF_PAIRS(f16, half_value)
COMPARISON_OF_PAIRS(bf16, bfloat_value)

/* Conversions. Those of floating-point numbers to integers saturate, and NaN becomes 0. */
#define CONVERSION(D, S) SCALAR("cvt." #D "." #S, out_##D((D)in_##S(1));)
#define CONVERSIONS_TO_WHOLE(D) \
    CONVERSION(D, u8) CONVERSION(D, s8) CONVERSION(D, u16) CONVERSION(D, s16) \
    CONVERSION(D, u32) CONVERSION(D, s32) CONVERSION(D, u64) CONVERSION(D, s64) \
    TO_WHOLE(D, f16) TO_WHOLE(D, bf16) TO_WHOLE(D, f32) TO_WHOLE(D, f64)
#define TO_WHOLE(D, S) SCALAR("cvt." #D "." #S, out_##D(saturated_##D(integral(I->option, in_##S(1))));)
CONVERSIONS_TO_WHOLE(u8)
CONVERSIONS_TO_WHOLE(s8)
CONVERSIONS_TO_WHOLE(u16)
CONVERSIONS_TO_WHOLE(s16)
CONVERSIONS_TO_WHOLE(u32)
CONVERSIONS_TO_WHOLE(s32)
CONVERSIONS_TO_WHOLE(u64)
CONVERSIONS_TO_WHOLE(s64)
#define CONVERSIONS_TO_FLOATING(D) \
    CONVERSION(D, u8) CONVERSION(D, s8) CONVERSION(D, u16) CONVERSION(D, s16) \
    CONVERSION(D, u32) CONVERSION(D, s32) CONVERSION(D, u64) CONVERSION(D, s64) \
    TO_FLOATING(D, f16) TO_FLOATING(D, bf16) TO_FLOATING(D, f32) TO_FLOATING(D, f64)
#define TO_FLOATING(D, S) SCALAR("cvt." #D "." #S, S a = in_##S(1); out_##D(I->option ? (S)integral(I->option, a) : a);)
CONVERSIONS_TO_FLOATING(f16)
CONVERSIONS_TO_FLOATING(bf16)
CONVERSIONS_TO_FLOATING(f32)
CONVERSIONS_TO_FLOATING(f64)
SCALAR("cvt.f16x2.f32", out_b32((u32)half_bits(in_f32(1)) << 16 | half_bits(in_f32(2)));)
SCALAR("cvt.bf16x2.f32", out_b32((u32)bfloat_bits(in_f32(1)) << 16 | bfloat_bits(in_f32(2)));)

/* Registers of several parts: `length` parts of `size` bytes. */
SCALAR("pack", u64 whole = 0; for (int k = 0; k < I->length; k++) whole |= low(REG(1 + k)[l], I->size) << 8 * I->size * k;
    r0[l] = whole;)
SCALAR("unpack", u64 whole = REG(I->length)[l]; for (int k = 0; k < I->length; k++)
    REG(k)[l] = low(whole >> 8 * I->size * k, I->size);)
