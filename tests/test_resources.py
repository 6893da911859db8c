"""What the Triton kernels take of a GPU, compiled here without one: no spills, within limits, and as committed."""

import os
import runpy
from pathlib import Path

import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton", reason="no triton here: pip install 'motionspec[triton]'")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


# Kernels that fill all 128 registers that 512 threads leave each, and put 8 bytes of a thread aside: by the version of
# Triton and architecture. They are read back once for each window. Other ways to write the kernel moved the spill to
# another architecture or variant.
PUT_ASIDE = {
    ("3.6", "89"): ("WHOLE=True RELEASED=True",),
    ("3.7", "100"): ("WHOLE=True RELEASED=True", "WHOLE=False RELEASED=False"),
}


def put_aside(name, sm, types, constants):
    """Bytes that a thread spills: none, but for backward of representation flow in float32 where the table says so."""
    version = ".".join(triton.__version__.split(".")[:2])
    known = PUT_ASIDE.get((version, sm), ()) if (name, types) == ("tvl1_triton.backward", "*fp32 *fp64") else ()
    return 8 if any(which in constants for which in known) else 0


# A minute for each: `make test` compiles for the GPU that the benchmarks name, `make test-slow` for the others.
@pytest.mark.parametrize("capability", [90, *(pytest.param(other, marks=pytest.mark.slow) for other in (80, 89, 100))])
def test_kernels_do_not_spill_and_take_what_is_committed(monkeypatch, tmp_path, capability):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # what is compiled here is compiled now
    made = runpy.run_path(str(FOLDER / "resources.py"))
    rows = list(made["rows"]([capability]))
    kernels = {"off_triton": {"forward", "adjoint"}, "losses_triton": {"sums", "finish", "backward"}}
    kernels |= {"warp_triton": {"forward", "backward", "cells", "gather"}}
    kernels |= {"costvol_triton": {"norms", "forward", "backward"}}
    kernels |= {"tvl1_triton": {"forward", "backward", "to_frames"}}
    # Those that write float32 or integers alone.
    wide = {"losses_triton.sums", "costvol_triton.norms", "warp_triton.cells", "tvl1_triton.backward"}
    assert {row[0] for row in rows} == {f"{stem}.{name}" for stem, names in kernels.items() for name in names}
    for name, sm, types, constants, _warps, registers, local, shared, rounding, units in rows:
        line = f"{name} sm_{sm} {types}"
        assert int(registers) <= made["REGISTERS"], line
        assert int(local) == put_aside(name, sm, types, constants), line
        assert int(shared) <= made["SHARED"][capability], line
        assert rounding in ({"rn"} if "bf16" in types and name not in wide else {"rn", "-"}), line
        multiplies = name in ("costvol_triton.forward", "costvol_triton.backward")
        assert units in ({"mma", "wgmma", "tcgen05", "mma-wgmma", "mma-tcgen05"} if multiplies else {"-"}), line
    committed = made["PAGE"].read_text(encoding="utf-8")
    if not committed.startswith(f"triton {triton.__version__};"):
        pytest.skip(f"no spills; the committed table is that of another version than triton {triton.__version__}")
    lines = [line.split() for line in committed.splitlines()]
    there = [line for line in lines if line[1:2] == [str(capability)]]
    assert sorted(" ".join(row).split() for row in rows) == sorted(there), "if that is meant: make resources"


def test_every_variant_of_warp_is_compiled():
    """The later frame is None where there is none; signs of the flow and of the gradient differ by operator."""
    made = runpy.run_path(str(FOLDER / "resources.py"))
    launched = made["launches"]()
    found = {name: set() for name in ("_forward", "_backward", "_cells", "_gather")}
    for kernel, _, constants in launched:
        if kernel.__module__.endswith("warp_triton"):
            found[kernel.__name__].add(tuple(constants.get(name) for name in ("SIGN", "LATER", "MINUS")))
    signs = {(1, None, None), (-1, None, None)}
    minus = {(1, None, False), (-1, None, False), (-1, None, True)}
    forward = {(1, False, None), (-1, False, None), (-1, True, None)}
    gather = {(None, None, False), (None, None, True)}
    assert found == {"_forward": forward, "_backward": minus, "_cells": signs, "_gather": gather}


def test_both_schemes_are_compiled_for_maps_of_one_window_and_of_several():
    made = runpy.run_path(str(FOLDER / "resources.py"))
    found = {
        (constants["RELEASED"], constants["WHOLE"])
        for kernel, _, constants in made["launches"]()
        if kernel.__module__.endswith("tvl1_triton") and kernel.__name__ == "_backward"
    }
    assert found == {(released, whole) for released in (False, True) for whole in (False, True)}


def test_the_committed_table_has_these_columns_and_architectures():
    made = runpy.run_path(str(FOLDER / "resources.py"))
    head, _, columns, _, *lines = made["PAGE"].read_text(encoding="utf-8").splitlines()
    assert head.startswith("triton ")
    assert columns.split() == " ".join(made["HEADER"]).split()
    assert {int(line.split()[1]) for line in lines} == set(made["SHARED"])
