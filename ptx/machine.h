/* What `machine.c` and `native.py` agree on: the same fields, in the same order, stand there as ctypes structures. */

#include <stdint.h>

typedef uint8_t u8;
typedef int8_t s8;
typedef uint16_t u16;
typedef int16_t s16;
typedef uint32_t u32;
typedef int32_t s32;
typedef uint64_t u64;
typedef int64_t s64;

enum { LANES = 32, OPERANDS = 20 };

/* One instruction of a kernel, decoded. Its operands are numbers of registers: immediates are registers, too. */
typedef struct {
    s32 code;      /* row of the table of instructions */
    s32 guard;     /* predicate register under which lanes execute, or -1 */
    s32 negated;   /* the guard is @!p */
    s32 flush;     /* .ftz: subnormal inputs and results become 0 */
    s32 option;    /* comparison, rounding, direction of a shuffle, ...: what the instruction's family makes of it */
    s32 combine;   /* setp: and, or, xor with a further predicate; atom: the type */
    s32 length;    /* elements of a vector access, matrices of ldmatrix, parts of a packed register */
    s32 size;      /* bytes of an element */
    s32 shared;    /* the access goes to shared memory, not to global */
    s32 target;    /* where a branch goes */
    s64 offset;    /* bytes added to an address */
    s32 operand[OPERANDS];
} Instruction;

/* How a register begins. */
enum { NOISE, CONSTANT, THREAD, LANE, PROGRAM_X, PROGRAM_Y, PROGRAM_Z };

typedef struct {
    s32 kind;
    s32 unused;
    u64 value;     /* of a CONSTANT */
} Register;

/* A piece of global memory, with who wrote and who read each of its bytes last (see "Races" in machine.c). */
typedef struct {
    u64 base;      /* the address by which kernels know it */
    u64 length;    /* bytes */
    u8 *data;
    u64 *writers;
    u64 *readers;
} Buffer;

enum { FINE, OUT_OF_BOUNDS, NO_ALLOCATION, MISALIGNED, RACE, DIVERGED };
enum { TWO_WRITES, WRITE_AFTER_READ, READ_AFTER_WRITE };

/* What stopped a launch. */
typedef struct {
    s32 kind;
    s32 buffer;    /* number of the buffer; -1: shared memory; -2: none */
    s64 at;        /* byte within it, or the address where there is no buffer */
    s64 size;      /* bytes of the access */
    s32 detail;    /* of a race: which */
    s32 instruction;
    s32 program[3];
    s32 warp;
    s32 lane;
    s32 unused;
} Fault;

typedef struct {
    Instruction *code;
    Register *registers;
    Buffer *buffers;
    u64 *executed;     /* for each instruction: how many warps executed it */
    u64 *active;       /* ... and how many lanes did */
    s32 instructions;
    s32 register_count;
    s32 buffer_count;
    s32 warps;
    s32 shared_size;   /* bytes */
    s32 races;         /* look for them */
    u64 seed;
    double noise;      /* errors of approximate instructions, as a part of the documented ones */
    s32 grid[3];
    s32 unused;
    Fault fault;
} Launch;
