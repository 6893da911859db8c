"""A Triton kernel of one's own, executed as compiled, without a GPU: python docs/check_kernel.py

The kernel has a mistake that the interpreter does not show: its mask lets one element too many be read.
"""

import torch
import triton
import triton.language as tl

from motionspec import ptx


@triton.jit
def difference(x, y, n, BLOCK: tl.constexpr):
    """y[i] = x[i + 1] - x[i] for i < n - 1."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = tl.load(x + i, mask=i < n)
    after = tl.load(x + i + 1, mask=i < n)  # should be i < n - 1
    tl.store(y + i, after - here, mask=i < n - 1)


def main() -> None:
    """Say what is wrong with it."""
    x = torch.randn(1000)
    y = torch.empty(999)
    try:
        with ptx.executing(seed=0):
            difference[(4,)](x, y, 1000, BLOCK=256)
    except ptx.Fault as fault:
        print(fault)


if __name__ == "__main__":
    main()
