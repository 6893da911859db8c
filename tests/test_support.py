"""Which implementation `impl` chooses."""

import pytest

torch = pytest.importorskip("torch")

from motionspec.ops import support  # noqa: E402
from motionspec.ops.support import select  # noqa: E402

F32, F64 = torch.zeros(1), torch.zeros(1, dtype=torch.float64)


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setitem(support.FUSED, "stem.fast", ("triton", "numba"))
    for package in support._INSTALLED:
        monkeypatch.setitem(support._INSTALLED, package, True)
    monkeypatch.setattr(support, "_INTERPRETED", False)
    return monkeypatch


def test_auto_takes_the_first_that_can(table):
    assert select("stem.fast", "auto", F32) == "numba"
    assert select("stem.fast", "auto", F32.to(torch.bfloat16)) == "numba"
    assert select("stem.fast", "auto", F64) == "torch"
    assert select("stem.fast", "auto", F32, numba="scheme='paper'") == "torch"
    assert select("stem.fast", "auto", F32, triton="scheme='paper'") == "numba"
    assert select("stem.fast", "auto", F32.to("meta")) == "torch"
    assert select("stem.plain", "auto", F32) == "torch"
    table.setitem(support._INSTALLED, "numba", False)
    assert select("stem.fast", "auto", F32) == "torch"


def test_a_name_is_obeyed_or_refused(table):
    assert select("stem.fast", "torch", F32) == "torch"
    assert select("stem.fast", "numba", F64) == "numba"
    refused = {
        ("triton", F32): "triton lacks tensors on cpu",
        ("numba", F32.to("meta")): "numba lacks tensors on meta",
    }
    for (impl, first), reason in refused.items():
        with pytest.raises(ValueError, match=rf"^stem.fast: impl: expected 'auto' or 'torch', because {reason}, got"):
            select("stem.fast", impl, first)
    with pytest.raises(ValueError, match="because numba lacks scheme='paper', got 'numba'"):
        select("stem.fast", "numba", F32, numba="scheme='paper'")
    table.setitem(support._INSTALLED, "numba", False)
    with pytest.raises(ValueError, match="because numba lacks its package: pip install numba"):
        select("stem.fast", "numba", F32)
    with pytest.raises(ValueError, match=r"^stem.plain: impl: expected one of 'auto', 'torch', got 'numba'"):
        select("stem.plain", "numba", F32)


def test_the_interpreter_runs_triton_on_cpu(table):
    table.setattr(support, "_INTERPRETED", True)
    assert select("stem.fast", "auto", F32) == "triton"
    assert select("stem.fast", "auto", F64) == "torch"
    assert select("stem.fast", "triton", F64) == "triton"
