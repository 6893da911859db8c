/* Executes PTX of sm_80 on a CPU: one program (CTA) after another, warp by warp, and watches what they do to memory.

   A warp runs until a barrier or its end. Then another one runs, in an order drawn from the seed; programs come in a
   drawn order, too. Each of these orders is one that a GPU may take, so a result that depends on it is a fault of the
   kernel. Lanes that took different branches wait for one another at the lowest instruction.

   Races. Each byte remembers who wrote it last and who read it last: which program, how many barriers that program had
   passed, which warp. Two accesses are concurrent if they are of two programs, or of two warps of one program with no
   barrier between them. A concurrent pair of which one writes is a race, unless it writes the value that is there
   (Triton lets warps that hold copies of a value all store it) or both are atomic.

   What is not initialised holds noise: registers begin as random bits, shared memory as NaN in every type. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"

typedef __int128 s128;
typedef unsigned __int128 u128;
typedef u8 b8;
typedef u16 b16;
typedef u32 b32;
typedef u64 b64;
typedef u64 pred;
typedef float f32;
typedef double f64;
typedef float f16;  /* the half types are computed in float ... */
typedef float bf16; /* ... and rounded when they are written */

enum { ALL = 0xFFFFFFFF };

/* ---- Numbers as bits */

static inline float float_of(u64 bits) {
    u32 low_half = (u32)bits;
    float x;
    memcpy(&x, &low_half, 4);
    return x;
}

static inline u32 bits_of(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline double double_of(u64 bits) {
    double x;
    memcpy(&x, &bits, 8);
    return x;
}

static inline u64 bits_of_double(double x) {
    u64 bits;
    memcpy(&bits, &x, 8);
    return bits;
}

static inline float bfloat_value(u16 bits) { return float_of((u32)bits << 16); }

/* Round to nearest, ties to even. */
static inline u16 bfloat_bits(float x) {
    u32 bits = bits_of(x);
    return x != x ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

static inline float half_value(u16 bits) {
    u32 sign = (u32)(bits & 0x8000) << 16;
    u32 exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31)
        return float_of(sign | 0x7F800000 | fraction << 13);
    if (exponent == 0)
        return copysignf(ldexpf(fraction, -24), float_of(sign));
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

/* Round to nearest, ties to even, subnormal numbers and overflow included. */
static inline u16 half_bits(float x) {
    u32 bits = bits_of(x);
    u16 sign = bits >> 16 & 0x8000;
    float size = fabsf(x);
    if (x != x)
        return 0x7FFF;
    if (size >= 65520)
        return sign | 0x7C00;
    if (size < 0x1p-14f)
        return sign | (u16)nearbyintf(size * 0x1p24f);
    u32 rounded = (bits & 0x7FFFFFFF) + 0xFFF + (bits >> 13 & 1);
    return sign | (u16)((rounded >> 13) - (112 << 10));
}

static inline float flushed(int flush, float x) { return flush && fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

static inline u64 low(u64 bits, int size) { return size < 8 ? bits & (((u64)1 << 8 * size) - 1) : bits; }

/* ---- What instructions.h computes with */

#define LEAST(a, b) (a != a ? b : b != b ? a : a < b || (a == b && signbit(a)) ? a : b)
#define GREATEST(a, b) (a != a ? b : b != b ? a : a > b || (a == b && signbit(b)) ? a : b)

/* cvt.rni, .rzi, .rmi, .rpi; 0: none of them */
static inline double integral(int rounding, double x) {
    return rounding == 1 ? rint(x) : rounding == 2 ? trunc(x) : rounding == 3 ? floor(x) : rounding == 4 ? ceil(x) : x;
}

#define SATURATED(T, least_value, limit, greatest_value) \
    static inline T saturated_##T(double x) { \
        return x != x ? 0 : x >= limit ? greatest_value : x <= (double)(least_value) ? least_value : (T)x; \
    }
SATURATED(u8, 0, 0x1p8, UINT8_MAX)
SATURATED(u16, 0, 0x1p16, UINT16_MAX)
SATURATED(u32, 0, 0x1p32, UINT32_MAX)
SATURATED(u64, 0, 0x1p64, UINT64_MAX)
SATURATED(s8, INT8_MIN, 0x1p7, INT8_MAX)
SATURATED(s16, INT16_MIN, 0x1p15, INT16_MAX)
SATURATED(s32, INT32_MIN, 0x1p31, INT32_MAX)
SATURATED(s64, INT64_MIN, 0x1p63, INT64_MAX)

/* `count` bits from `first` on, as the least of a number; with their sign, where the type has one. */
#define FIELD_OF(T, U, S, bits) \
    static inline T field_##T(T x, u32 first, u32 count) { \
        if (count == 0) return 0; \
        U above = first < bits ? (U)(x >> first) : (T)-1 < 0 && x < 0 ? (U)-1 : 0; \
        u32 unused = count < bits ? bits - count : 0; \
        return (T)-1 < 0 ? (T)((S)(above << unused) >> unused) : (T)((U)(above << unused) >> unused); \
    }
FIELD_OF(u32, u32, s32, 32)
FIELD_OF(s32, u32, s32, 32)
FIELD_OF(u64, u64, s64, 64)
FIELD_OF(s64, u64, s64, 64)

static inline u64 inserted(u64 field, u64 into, u32 first, u32 count, u32 bits) {
    if (first >= bits || count == 0) return into;
    u64 mask = (count >= 64 ? ~(u64)0 : ((u64)1 << count) - 1) << first;
    return (into & ~mask) | (field << first & mask);
}

/* prmt: four bytes of eight, or their signs. */
static inline u32 permuted(u64 bytes, u32 selection) {
    u32 result = 0;
    for (int k = 0; k < 4; k++) {
        u32 choice = selection >> 4 * k & 15;
        u32 byte = bytes >> 8 * (choice & 7) & 255;
        if (choice & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * k;
    }
    return result;
}

/* lop3: any function of three bits, given as its table. */
static inline u32 looked_up(u32 a, u32 b, u32 c, u32 table) {
    u32 result = 0;
    for (int k = 0; k < 8; k++)
        if (table >> k & 1) result |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    return result;
}

static inline int combined(int how, int met, u64 with) {
    return how == 0 ? met : how == 1 ? met & with : how == 2 ? met | with : met ^ with;
}

static inline u64 mixed(u64 x) {
    x ^= x >> 30, x *= 0xBF58476D1CE4E5B9;
    x ^= x >> 27, x *= 0x94D049BB133111EB;
    return x ^ x >> 31;
}

/* The result of an approximate instruction, moved by at most `noise` times its documented error in units of the last
   place. The error is a function of the result: the same in all warps that hold a copy of a value, as in hardware. */
static inline float approximated(const Launch *launch, double x, double units) {
    if (launch->noise == 0) return (float)x;
    double between = (mixed(bits_of_double(x) ^ launch->seed * 0x9E3779B97F4A7C15) >> 11) * 0x1p-52 - 1;
    return (float)(x * (1 + launch->noise * units * 0x1p-23 * between));
}

/* ---- Faults and races */

typedef struct {
    Launch *launch;
    u64 random;
    s32 program[3];
    u64 number;  /* of the program, in the order of execution */
    u64 epoch;   /* barriers that this program has passed */
    u64 *registers;
    u8 *shared;
    u64 *shared_writers;
    u64 *shared_readers;
} State;

static inline u64 drawn(State *state) {
    state->random += 0x9E3779B97F4A7C15;
    return mixed(state->random);
}

static int stop(State *state, int kind, int buffer, s64 at, s64 size, int detail) {
    Fault *fault = &state->launch->fault;
    fault->kind = kind;
    fault->buffer = buffer;
    fault->at = at;
    fault->size = size;
    fault->detail = detail;
    memcpy(fault->program, state->program, sizeof fault->program);
    return -1;
}

/* A stamp says who: program + 1 (32 bits), epoch (23), warp (8), atomic (1). 0: nobody. */
enum { SEVERAL_WARPS = 255 };
static const u64 SEVERAL_PROGRAMS = 0xFFFFFFFF;

static inline u64 stamp(const State *state, int warp, int atomic) {
    return (state->number + 1) << 32 | (state->epoch & 0x7FFFFF) << 9 | (u64)warp << 1 | (u64)atomic;
}

static inline int concurrent(u64 past, u64 now) {
    if (past == 0 || (past & now & 1)) return 0;
    if (past >> 32 != now >> 32) return 1;
    if ((past >> 9 & 0x7FFFFF) != (now >> 9 & 0x7FFFFF)) return 0;
    return (past >> 1 & 255) != (now >> 1 & 255);
}

/* Of two readers, or two atomic writers, a later access may race with either: remember both. */
static inline u64 together(u64 past, u64 now) {
    if (past == now || !concurrent(past, now & ~(u64)1)) return now;
    u64 both_atomic = past & now & 1;
    if (past >> 32 != now >> 32) return SEVERAL_PROGRAMS << 32 | both_atomic;
    return (now & ~(u64)1) | SEVERAL_WARPS << 1 | both_atomic;
}

typedef struct {
    u8 *data;
    u64 *writers, *readers;
    s32 buffer;
    s64 at;
} Place;

/* Where an access goes, or a fault. */
static inline int place(State *state, int shared, s64 address, s64 size, Place *found) {
    const Launch *launch = state->launch;
    if (shared) {
        if (address < 0 || address + size > launch->shared_size)
            return stop(state, OUT_OF_BOUNDS, -1, address, size, 0);
        if (address % size) return stop(state, MISALIGNED, -1, address, size, 0);
        *found = (Place){state->shared + address, state->shared_writers + address, state->shared_readers + address, -1, address};
        return 0;
    }
    s64 number = (address >> 40) - 1; /* buffers lie 2**40 bytes apart */
    if (number < 0 || number >= launch->buffer_count) return stop(state, NO_ALLOCATION, -2, address, size, 0);
    Buffer *buffer = launch->buffers + number;
    s64 at = address - (s64)buffer->base;
    if (at < 0 || at + size > (s64)buffer->length) return stop(state, OUT_OF_BOUNDS, number, at, size, 0);
    if (address % size) return stop(state, MISALIGNED, number, at, size, 0);
    *found = (Place){buffer->data + at, buffer->writers + at, buffer->readers + at, number, at};
    return 0;
}

static inline int race(State *state, const Place *at, int size, int which) {
    return stop(state, RACE, at->buffer, at->at, size, which);
}

static inline int note_read(State *state, const Place *at, int size, u64 who) {
    if (!state->launch->races) return 0;
    for (int k = 0; k < size; k++) {
        if (concurrent(at->writers[k], who)) return race(state, at, size, READ_AFTER_WRITE);
        at->readers[k] = together(at->readers[k], who);
    }
    return 0;
}

static inline int note_write(State *state, const Place *at, int size, u64 who) {
    if (!state->launch->races) return 0;
    for (int k = 0; k < size; k++) {
        if (concurrent(at->writers[k], who)) return race(state, at, size, TWO_WRITES);
        if (concurrent(at->readers[k], who)) return race(state, at, size, WRITE_AFTER_READ);
        at->writers[k] = who & 1 ? together(at->writers[k], who) : who;
    }
    return 0;
}

/* ---- Memory */

/* Registers of a warp: LANES of the first, LANES of the second, ... */
#define REG(k) (registers + (size_t)LANES * I->operand[k])
#define EACH_ACTIVE(l) for (int l = 0; l < LANES; l++) if (active >> l & 1)

static inline s64 address_of(const Instruction *I, const u64 *pointers, int l) {
    return (I->shared ? (s64)(u32)pointers[l] : (s64)pointers[l]) + I->offset;
}

/* ld: operands are `length` destinations, then the pointer. */
static int load(State *state, const Instruction *I, u64 *registers, u32 active, int warp) {
    u64 who = stamp(state, warp, 0);
    int bytes = I->size * I->length;
    const u64 *pointers = REG(I->length);
    EACH_ACTIVE(l) {
        Place at;
        state->launch->fault.lane = l;
        if (place(state, I->shared, address_of(I, pointers, l), bytes, &at)) return -1;
        if (note_read(state, &at, bytes, who)) return -1;
        for (int k = 0; k < I->length; k++) {
            u64 value = 0;
            memcpy(&value, at.data + k * I->size, I->size);
            REG(k)[l] = value;
        }
    }
    return 0;
}

/* st: operands are `length` sources, then the pointer. A value that is there already is no change. */
static int store(State *state, const Instruction *I, u64 *registers, u32 active, int warp) {
    u64 who = stamp(state, warp, 0);
    int bytes = I->size * I->length;
    EACH_ACTIVE(l) {
        Place at;
        u8 value[64];
        state->launch->fault.lane = l;
        for (int k = 0; k < I->length; k++) memcpy(value + k * I->size, &REG(k)[l], I->size);
        if (place(state, I->shared, address_of(I, REG(I->length), l), bytes, &at)) return -1;
        if (memcmp(at.data, value, bytes) == 0) continue;
        if (note_write(state, &at, bytes, who)) return -1;
        memcpy(at.data, value, bytes);
    }
    return 0;
}

enum { ADD, MIN, MAX, AND, OR, XOR, EXCHANGE, COMPARE };
enum { UNSIGNED_32, SIGNED_32, UNSIGNED_64, SIGNED_64, FLOAT_32, FLOAT_64 };

#define CHANGED(T, a, b) \
    (how == ADD ? (T)((a) + (b)) : how == MIN ? ((a) < (b) ? (a) : (b)) : ((a) > (b) ? (a) : (b)))

static u64 changed(int how, int type, u64 old, u64 by, u64 instead) {
    if (how == EXCHANGE) return by;
    if (how == COMPARE) return old == by ? instead : old;
    if (how == AND) return old & by;
    if (how == OR) return old | by;
    if (how == XOR) return old ^ by;
    switch (type) {
        case UNSIGNED_32: return CHANGED(u32, (u32)old, (u32)by);
        case SIGNED_32: return (u32)CHANGED(s32, (s32)old, (s32)by);
        case UNSIGNED_64: return CHANGED(u64, old, by);
        case SIGNED_64: return CHANGED(s64, (s64)old, (s64)by);
        case FLOAT_32: return bits_of(CHANGED(float, float_of(old), float_of(by)));
        default: return bits_of_double(CHANGED(double, double_of(old), double_of(by)));
    }
}

/* atom and red, lanes in a drawn order: destination, pointer, value (and for cas the value to put there). */
static int change(State *state, const Instruction *I, u64 *registers, u32 active, int warp) {
    u64 who = stamp(state, warp, 1);
    int first = drawn(state) % LANES, step = drawn(state) % LANES | 1;
    for (int k = 0; k < LANES; k++) {
        int l = (first + k * step) % LANES;
        if (!(active >> l & 1)) continue;
        Place at;
        state->launch->fault.lane = l;
        if (place(state, I->shared, address_of(I, REG(1), l), I->size, &at)) return -1;
        if (note_write(state, &at, I->size, who)) return -1;
        u64 old = 0;
        memcpy(&old, at.data, I->size);
        u64 now = changed(I->option, I->combine, old, low(REG(2)[l], I->size), low(REG(3)[l], I->size));
        memcpy(at.data, &now, I->size);
        REG(0)[l] = old;
    }
    return 0;
}

/* ---- What the lanes of a warp do together */

enum { BUTTERFLY, INDEX, UP, DOWN };

static void shuffle(const Instruction *I, u64 *registers, u32 active) {
    u64 before[LANES];
    memcpy(before, REG(1), sizeof before);
    EACH_ACTIVE(l) {
        int by = (int)REG(2)[l] & 31, from = l;
        if (I->option == BUTTERFLY) from = l ^ by;
        if (I->option == INDEX) from = by;
        if (I->option == UP) from = l - by < 0 ? l : l - by;
        if (I->option == DOWN) from = l + by > 31 ? l : l + by;
        REG(0)[l] = (u32)before[from];
    }
}

static void reduce(const Instruction *I, u64 *registers, u32 active) {
    u64 result = 0;
    int begun = 0;
    EACH_ACTIVE(l) {
        result = begun ? changed(I->option, I->combine, result, (u32)REG(1)[l], 0) : (u32)REG(1)[l];
        begun = 1;
    }
    EACH_ACTIVE(l) REG(0)[l] = (u32)result;
}

/* ldmatrix: `length` matrices of 8 x 8 halves. Lanes 8 j to 8 j + 7 point to the rows of matrix j; afterwards lane l
   holds elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4, or of column l / 4 with .trans. */
static int load_matrices(State *state, const Instruction *I, u64 *registers, int warp) {
    u64 who = stamp(state, warp, 0);
    u16 matrix[4][8][8];
    for (int j = 0; j < I->length; j++)
        for (int row = 0; row < 8; row++) {
            Place at;
            state->launch->fault.lane = 8 * j + row;
            if (place(state, 1, address_of(I, REG(I->length), 8 * j + row), 16, &at)) return -1;
            if (note_read(state, &at, 16, who)) return -1;
            memcpy(matrix[j][row], at.data, 16);
        }
    for (int j = 0; j < I->length; j++)
        for (int l = 0; l < LANES; l++) {
            int across = l / 4, along = 2 * (l % 4);
            u32 first = I->option ? matrix[j][along][across] : matrix[j][across][along];
            u32 second = I->option ? matrix[j][along + 1][across] : matrix[j][across][along + 1];
            REG(j)[l] = first | second << 16;
        }
    return 0;
}

/* mma.m16n8k16: D = A B + C of 16 x 16, 16 x 8 and 16 x 8 elements, a few of each in every lane (PTX ISA 9.7.14.5).
   Products of halves are exact in double; sums are rounded to float once, more exactly than hardware does. */
static void multiply_matrices(const Instruction *I, u64 *registers) {
    float (*value)(u16) = I->option ? bfloat_value : half_value;
    double a[16][16], b[16][8], c[16][8];
    for (int l = 0; l < LANES; l++) {
        int group = l / 4, pair = 2 * (l % 4);
        for (int k = 0; k < 4; k++) { /* registers of A: rows group and group + 8, then both 8 columns further */
            u32 two = (u32)REG(4 + k)[l];
            a[group + 8 * (k % 2)][pair + 8 * (k / 2)] = value((u16)two);
            a[group + 8 * (k % 2)][pair + 8 * (k / 2) + 1] = value(two >> 16);
        }
        for (int k = 0; k < 2; k++) {
            u32 two = (u32)REG(8 + k)[l];
            b[pair + 8 * k][group] = value((u16)two);
            b[pair + 8 * k + 1][group] = value(two >> 16);
        }
        for (int k = 0; k < 4; k++) c[group + 8 * (k / 2)][pair + k % 2] = float_of(REG(10 + k)[l]);
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) c[i][j] += a[i][k] * b[k][j];
    for (int l = 0; l < LANES; l++)
        for (int k = 0; k < 4; k++) REG(k)[l] = bits_of((float)c[l / 4 + 8 * (k / 2)][2 * (l % 4) + k % 2]);
}

/* ---- What each lane does by itself */

#define in_b8(k) ((u8)r##k[l])
#define in_u8(k) ((u8)r##k[l])
#define in_s8(k) ((s8)r##k[l])
#define in_b16(k) ((u16)r##k[l])
#define in_u16(k) ((u16)r##k[l])
#define in_s16(k) ((s16)r##k[l])
#define in_b32(k) ((u32)r##k[l])
#define in_u32(k) ((u32)r##k[l])
#define in_s32(k) ((s32)r##k[l])
#define in_b64(k) (r##k[l])
#define in_u64(k) (r##k[l])
#define in_s64(k) ((s64)r##k[l])
#define in_pred(k) (r##k[l] & 1)
#define in_f16(k) half_value((u16)r##k[l])
#define in_bf16(k) bfloat_value((u16)r##k[l])
#define in_f32(k) flushed(flush, float_of(r##k[l]))
#define in_f64(k) double_of(r##k[l])

#define out_b16(x) r0[l] = (u16)(x)
#define out_u8(x) r0[l] = (u8)(x)
#define out_s8(x) r0[l] = (u64)(s64)(s8)(x)
#define out_u16(x) r0[l] = (u16)(x)
#define out_s16(x) r0[l] = (u16)(x)
#define out_b32(x) r0[l] = (u32)(x)
#define out_u32(x) r0[l] = (u32)(x)
#define out_s32(x) r0[l] = (u32)(x)
#define out_b64(x) r0[l] = (u64)(x)
#define out_u64(x) r0[l] = (u64)(x)
#define out_s64(x) r0[l] = (u64)(x)
#define out_pred(x) r0[l] = (x) & 1
#define out_f16(x) r0[l] = half_bits(x)
#define out_bf16(x) r0[l] = bfloat_bits(x)
#define out_f32(x) r0[l] = bits_of(flushed(flush, x))
#define out_f64(x) r0[l] = bits_of_double(x)

#define APPROXIMATE(x, units) approximated(launch, x, units)
/* `option` holds a bit for each relation in which the comparison is true: less, equal, greater, unordered. */
#define COMPARED(a, b, unordered) \
    int met = I->option >> ((unordered) ? 3 : a < b ? 0 : a == b ? 1 : 2) & 1
#define COMBINED(k) combined(I->combine, met, in_pred(k))

/* Names of control flow, memory and what lanes do together; scalar instructions follow. */
enum { BRANCH, RETURN, BARRIER, NOTHING, LOAD, STORE, ATOMIC, SHUFFLE, REDUCE, LOAD_MATRICES, MULTIPLY_MATRICES, SCALARS };

static const char *const NAMES[] = {
    "bra", "ret", "bar", "nothing", "ld", "st", "atom", "shfl", "redux", "ldmatrix", "mma",
#define SCALAR(name, ...) name,
#include "instructions.h"
#undef SCALAR
};

int names(const char *const **table) {
    *table = NAMES;
    return sizeof NAMES / sizeof *NAMES;
}

/* One instruction of a warp that is no branch, return or barrier: 0, or -1 after a fault. */
static int execute(State *state, const Instruction *I, u64 *registers, u32 active, int warp) {
    const Launch *launch = state->launch;
    const int flush = I->flush;
    u64 *r0 = REG(0), *r1 = REG(1), *r2 = REG(2), *r3 = REG(3), *r4 = REG(4);
    switch (I->code) {
        case NOTHING: return 0;
        case LOAD: return load(state, I, registers, active, warp);
        case STORE: return store(state, I, registers, active, warp);
        case ATOMIC: return change(state, I, registers, active, warp);
        case SHUFFLE: return shuffle(I, registers, active), 0;
        case REDUCE: return reduce(I, registers, active), 0;
        case LOAD_MATRICES: return load_matrices(state, I, registers, warp);
        case MULTIPLY_MATRICES: return multiply_matrices(I, registers), 0;
/* The whole warp is the common case, of which the compiler makes vectors: lanes do not see one another. */
#define SCALAR(name, ...) \
        case __COUNTER__ - FIRST + SCALARS: \
            if (active == ALL) { \
                _Pragma("GCC ivdep") \
                for (int l = 0; l < LANES; l++) { __VA_ARGS__ } \
            } else EACH_ACTIVE(l) { __VA_ARGS__ } \
            return 0;
        enum { FIRST = __COUNTER__ + 1 };
#include "instructions.h"
#undef SCALAR
    }
    return 0;
}

/* ---- Warps and programs */

enum { ENDED = -1 };

/* The instruction that comes next and the lanes that are there. Lanes further on wait. */
static int next(const s32 *counters, u32 *there, int *together_again) {
    int at = INT32_MAX;
    u32 alive = 0;
    for (int l = 0; l < LANES; l++)
        if (counters[l] != ENDED) {
            alive |= 1u << l;
            if (counters[l] < at) at = counters[l];
        }
    *there = 0;
    for (int l = 0; l < LANES; l++) *there |= (u32)(counters[l] == at) << l;
    *together_again = *there == alive;
    return alive ? at : ENDED;
}

static u32 guarded(const Instruction *I, const u64 *registers, u32 lanes) {
    if (I->guard < 0) return lanes;
    const u64 *guard = registers + (size_t)LANES * I->guard;
    u32 met = 0;
    for (int l = 0; l < LANES; l++) met |= (u32)((guard[l] ^ I->negated) & 1) << l;
    return lanes & met;
}

/* Lanes of a warp that execute these have to be at the same place. */
static int is_joint(const Instruction *I) {
    return I->code == BARRIER || (I->code >= SHUFFLE && I->code <= MULTIPLY_MATRICES);
}

/* Until the next barrier (0), the end (1) or a fault (-1). While all living lanes are at one instruction (`united`), `at`
   alone says where, and the counters of the lanes are out of date. */
static int run_warp(State *state, int warp, s32 *counters) {
    Launch *launch = state->launch;
    u64 *registers = state->registers + (size_t)warp * launch->register_count * LANES;
    u32 there;
    int united;
    int at = next(counters, &there, &united);
    while (at != ENDED) {
        const Instruction *I = launch->code + at;
        u32 active = guarded(I, registers, there);
        launch->executed[at]++;
        launch->active[at] += __builtin_popcount(active);
        launch->fault.instruction = at;
        launch->fault.warp = warp;
        if (is_joint(I) && !united) return stop(state, DIVERGED, -2, 0, 0, 0);
        if (active && I->code > BARRIER && execute(state, I, registers, active, warp)) return -1;
        if (united && (I->code > BARRIER || (I->code == BRANCH && (active == there || !active)))) {
            at = I->code == BRANCH && active ? I->target : at + 1;
            continue;
        }
        for (int l = 0; l < LANES; l++)
            if (there >> l & 1) {
                int takes = active >> l & 1;
                counters[l] = I->code == BRANCH && takes ? I->target : I->code == RETURN && takes ? ENDED : at + 1;
            }
        if (I->code == BARRIER) return 0;
        at = next(counters, &there, &united);
    }
    return 1;
}

static void begin_registers(State *state, int warp) {
    const Launch *launch = state->launch;
    u64 *lanes = state->registers + (size_t)warp * launch->register_count * LANES;
    for (int r = 0; r < launch->register_count; r++, lanes += LANES) {
        const Register *begins = launch->registers + r;
        u64 noise = drawn(state);
        for (int l = 0; l < LANES; l++)
            switch (begins->kind) {
                case CONSTANT: lanes[l] = begins->value; break;
                case THREAD: lanes[l] = LANES * warp + l; break;
                case LANE: lanes[l] = l; break;
                case PROGRAM_X: lanes[l] = state->program[0]; break;
                case PROGRAM_Y: lanes[l] = state->program[1]; break;
                case PROGRAM_Z: lanes[l] = state->program[2]; break;
                default: lanes[l] = noise * (2 * l + 1);
            }
    }
}

static void shuffle_order(State *state, s64 *order, s64 count) {
    for (s64 i = count - 1; i > 0; i--) {
        s64 j = drawn(state) % (i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

static int run_program(State *state, s32 *counters, s64 *order) {
    Launch *launch = state->launch;
    memset(counters, 0, (size_t)launch->warps * LANES * sizeof *counters);
    memset(state->shared, 0xFF, launch->shared_size);
    memset(state->shared_writers, 0, 8 * (size_t)launch->shared_size);
    memset(state->shared_readers, 0, 8 * (size_t)launch->shared_size);
    for (int warp = 0; warp < launch->warps; warp++) {
        order[warp] = warp;
        begin_registers(state, warp);
    }
    int alive = launch->warps;
    for (state->epoch = 0; alive; state->epoch++) {
        shuffle_order(state, order, alive);
        int waiting = 0;
        for (int k = 0; k < alive; k++) {
            int came = run_warp(state, order[k], counters + LANES * order[k]);
            if (came < 0) return -1;
            if (came == 0) order[waiting++] = order[k];
        }
        alive = waiting;
    }
    return 0;
}

/* All programs of a launch, in a drawn order: 0, or -1 with `launch->fault` filled in. -2: no memory. */
int run(Launch *launch) {
    s64 programs = (s64)launch->grid[0] * launch->grid[1] * launch->grid[2];
    size_t shared = launch->shared_size;
    State state = {.launch = launch, .random = launch->seed};
    state.registers = malloc((size_t)launch->warps * launch->register_count * LANES * sizeof(u64));
    state.shared = malloc(shared + 1);
    state.shared_writers = malloc(8 * shared + 1);
    state.shared_readers = malloc(8 * shared + 1);
    s32 *counters = malloc((size_t)launch->warps * LANES * sizeof *counters);
    s64 *warps = malloc((size_t)launch->warps * sizeof *warps);
    s64 *order = malloc((size_t)programs * sizeof *order + 1);
    int result = -2;
    if (state.registers && state.shared && state.shared_writers && state.shared_readers && counters && warps && order) {
        for (s64 k = 0; k < programs; k++) order[k] = k;
        shuffle_order(&state, order, programs);
        result = 0;
        for (s64 k = 0; k < programs && result == 0; k++) {
            state.number = k;
            state.program[0] = order[k] % launch->grid[0];
            state.program[1] = order[k] / launch->grid[0] % launch->grid[1];
            state.program[2] = order[k] / launch->grid[0] / launch->grid[1];
            result = run_program(&state, counters, warps);
        }
    }
    free(state.registers), free(state.shared), free(state.shared_writers), free(state.shared_readers);
    free(counters), free(warps), free(order);
    return result;
}
