"""Which implementation `impl` chooses."""

import re
import warnings
from pathlib import Path
from typing import ClassVar

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


def test_torch_has_the_private_names_that_tell_transforms():
    """torch 2.11, the lowest that pyproject.toml admits, to 2.13 have them; `ops/support.py` alone uses them."""
    torch._C._are_functorch_transforms_active  # noqa: B018
    torch.autograd.forward_ad._current_level  # noqa: B018
    torch._C._functorch.is_legacy_batchedtensor  # noqa: B018
    private = re.compile(r"_functorch|_are_functorch|_current_level|_dispatch_tls")
    folder = Path(support.__file__).parent
    assert [path.name for path in folder.glob("*.py") if private.search(path.read_text("utf-8"))] == ["support.py"]


def test_a_transform_is_seen_where_it_begins_and_ends():
    seen = []
    torch.func.vmap(lambda a: seen.append(support.transforming()) or a)(F32)
    with warnings.catch_warnings(), torch.autograd.forward_ad.dual_level():
        warnings.simplefilter("ignore")  # of torch's own jit, on first use
        seen.append(support.transforming())
    assert seen == [True, True]
    assert not support.transforming()
    x = torch.ones(2, requires_grad=True)
    Note.seen.clear()
    torch.autograd.grad(Note.apply(x), x, torch.eye(2), is_grads_batched=True)
    torch.autograd.grad(Note.apply(x), x, torch.ones(2))
    assert Note.seen == [True, False]


class Note(torch.autograd.Function):
    """Remembers whether gradients came many at once."""

    seen: ClassVar[list] = []

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Note.seen.append(support._batched(grad))
        return grad.clone()


def test_auto_falls_back_and_a_name_refuses_under_a_transform(table):
    def choose(impl):
        found = []
        torch.func.vmap(lambda a: found.append(select("stem.fast", impl, F32)) or a)(F32)
        return found

    assert choose("auto") == choose("torch") == ["torch"]
    line = r"^stem.fast: impl: expected 'auto' or 'torch', because numba lacks a rule for torch.func's transforms"
    with pytest.raises(ValueError, match=line):
        choose("numba")


def test_a_derivative_is_eager_where_it_is_differentiated_again_or_many_at_once():
    assert [support.by_eager("stem.fast", "numba", named) for named in (True, False)] == [False, True]
    assert not support.by_eager("stem.fast", "numba", False, linear=True)
    with torch.no_grad():  # as a backward is without create_graph
        assert not support.by_eager("stem.fast", "numba", False)


def test_a_tensor_that_is_given_twice_has_a_gradient_for_each_place():
    x = torch.tensor([3.0], requires_grad=True)
    first, second, none = support.eager_gradients(lambda a, b, c: a * a * b + c, (x, x, F32), torch.ones(1))
    assert (first.item(), second.item(), none) == (18, 9, None)
