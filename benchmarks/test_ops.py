"""Time of each operator at the sizes that the papers' networks use: `make bench`.

An operator is timed only after it agreed with the oracle in the same process; inputs are random, never zeros. There is
no target yet, and without a GPU nothing is said about one: the rows for it are skipped as not measured.
"""

import importlib

import pytest

torch = pytest.importorskip("torch")

from motionspec.cli.check import judge  # noqa: E402
from motionspec.cli.runner import Runner  # noqa: E402
from motionspec.refimpl.equations import EQUATIONS  # noqa: E402

WORK = [
    pytest.param(
        row, dict(variant), dict(sizes), id="-".join([row.id, *map(str, [*variant.values(), *sizes.values()])])
    )
    for row in EQUATIONS.values()
    for variant in row.variants
    for sizes in row.bench
]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("row, variant, sizes", WORK)
def test_forward(benchmark, row, variant, sizes, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("not measured: no CUDA device here")
    stem, name = row.id.split(".")
    function = getattr(importlib.import_module(f"motionspec.ops.{stem}"), name)
    with Runner(timeout=None) as here:
        options = {"variant": variant, "framework": "torch", "dtypes": ["float32"], "device": device, "cases": 10}
        assert all(verdict.ok for verdict in judge(function, row.id, here, **options))
    generator = torch.Generator().manual_seed(0)

    def fill(name, shape, kind):
        low, high = {"flow": (-4.0, 4.0), "grey": (0.0, 255.0), "parameter": (0.1, 0.6)}.get(kind, (-1.0, 1.0))
        return (torch.rand(shape, generator=generator) * (high - low) + low).to(device)

    args = row.inputs(fill, **sizes)

    def call():
        function(**args, **variant)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark(call)
