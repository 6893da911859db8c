"""What all operators by numba owe beside tests/test_kernels.py: threads, forked processes, folders without a cache."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")
numba = pytest.importorskip("numba")

from test_equations import as_list, tensors  # noqa: E402
from test_kernels import IMPL, each_row, each_variant, gradients, kernel, without_eager  # noqa: E402

from motionspec.cli.cases import SeededFill  # noqa: E402
from motionspec.ops import compiled  # noqa: E402

if IMPL != "numba":
    pytest.skip("the interpreter's process has Triton's kernels", allow_module_level=True)

SIZE = {"N": 8, "C": 12, "T": 4, "H": 28, "W": 30}  # enough work for three threads


LARGE = {"N": 2, "C": 8, "T": 3, "H": 96, "W": 96}  # what torch converts in more than one thread


def inputs(row):
    fill = SeededFill((0,), 1.0, True, "float64")
    return without_eager(row, row.inputs(fill, **{dim: SIZE[dim] for dim in row.dims}))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@each_variant
def test_the_number_of_threads_does_not_show(row, variant, threads, monkeypatch):
    """In any bit of values and gradients."""
    arrays, found, used = inputs(row), [], set()
    for name in ("_in_team", "_pool"):
        run = getattr(compiled, name)
        monkeypatch.setattr(compiled, name, lambda what, number, run=run: used.add(number) or run(what, number))
    for number in (1, 2, 3):
        threads(number)
        values = as_list(kernel(row)(**tensors(arrays), **variant))
        found.append([*values, *gradients(kernel(row), row, variant, arrays)])
    assert used == {2, 3}
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def _child(queue, row, args):
    queue.put(
        [out.float().numpy() if out.dtype == torch.bfloat16 else out.numpy() for out in as_list(kernel(row)(**args))]
    )


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@each_row
def test_runs_in_a_forked_process_and_in_threads_of_the_caller(row, threads):
    """As in the workers of a DataLoader, after the parent has used its threads."""
    threads(2)
    # Made here: torch itself may hang in the child where it shares out work.
    args = tensors(inputs(row)) | dict(row.variants[0])
    want = as_list(kernel(row)(**args))
    with ThreadPoolExecutor(4) as callers:
        for got in callers.map(lambda _: as_list(kernel(row)(**args)), range(16)):
            assert all(map(torch.equal, got, want))
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_child, args=(queue, row, args))
    child.start()
    for got, out in zip(queue.get(timeout=60), want, strict=True):
        np.testing.assert_array_equal(got, out.numpy())
    child.join()
    assert child.exitcode == 0


def _child_of_one_thread(queue, row, args):
    torch.set_num_threads(1)
    _child(queue, row, args)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@each_row
def test_half_types_run_in_a_forked_process_that_sets_one_thread(row, threads):
    """As the workers of a DataLoader do; without it torch's own conversion hangs (docs/kernels.md)."""
    threads(2)
    torch.ones(1 << 20).bfloat16().float()  # the parent uses its threads
    # Large, so that torch would share out the conversion.
    arrays = without_eager(
        row, row.inputs(SeededFill((0,), 1.0, True, "bfloat16"), **{dim: LARGE[dim] for dim in row.dims})
    )
    args = tensors(arrays, "bfloat16") | dict(row.variants[0])
    queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=_child_of_one_thread, args=(queue, row, args))
    want = [out.float().numpy() for out in as_list(kernel(row)(**args))]
    child.start()
    for got, out in zip(queue.get(timeout=60), want, strict=True):
        np.testing.assert_array_equal(got, out)
    child.join()
    assert child.exitcode == 0


def test_compiles_where_no_cache_can_be_written():
    names = {}
    exec("def double(a, low, high): a[low:high] *= 2", names)  # of no file, beside which a cache would lie
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(names["double"], cache=True)
    a = np.ones(3)
    compiled.kernel(names["double"])(a, 0, 2)
    assert a.tolist() == [2, 2, 1]


def test_apart_tells_llvm_that_arrays_do_not_overlap():
    """By a flag that is numba's own: were it gone, loops over many arrays would be slow and right."""

    def add(out, a):
        for i in range(out.size):
            out[i] += a[i]

    told = []
    for decorate in (compiled.part, compiled.apart):
        function, out = decorate(add), np.ones(3)
        function(out, np.ones(3))
        assert out.tolist() == [2, 2, 2]
        told.append("vector.memcheck" in function.inspect_llvm(function.signatures[0]))
    assert told == [True, False]


@pytest.mark.parametrize("chunk", [1, 9, 40])
@pytest.mark.parametrize("last", [False, True], ids=["planes", "channels last"])
def test_spatial_gradient_does_not_depend_on_how_many_rows_are_walked_as_one(chunk, last, monkeypatch):
    """Nor its gradient: chunks of one row, of some, of all."""
    from motionspec.ops import off, off_numba

    monkeypatch.setattr(off_numba, "_CHUNK", chunk)
    x, *weights = torch.randn(3, 2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for impl in ("torch", "numba"):
        leaf = x.clone().to(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
        values = off.spatial_gradient(leaf, impl=impl)
        found += [*values, *torch.autograd.grad(values, leaf, weights)]
    for a, b in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
