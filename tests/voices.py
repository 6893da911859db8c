"""The two voices of one stem, so that a hand-written fact is stated once and holds for both."""

import importlib

import numpy as np
import pytest


class Voice:
    """One stem of `refimpl` or `ops`: NumPy in, NumPy out."""

    def __init__(self, package, stem):
        self.torch = pytest.importorskip("torch") if package == "ops" else None
        self.module = importlib.import_module(f"motionspec.{package}.{stem}")

    def __getattr__(self, name):
        function = getattr(self.module, name)
        if self.torch is None:
            return function

        def call(*arrays, **options):
            out = function(*map(self.tensors, arrays), **{k: self.tensors(v) for k, v in options.items()})
            return out.numpy() if isinstance(out, self.torch.Tensor) else tuple(o.numpy() for o in out)

        return call

    def tensors(self, value):
        """A tensor of an array, a list of them of a list; anything else as it is."""
        if isinstance(value, list):
            return [self.tensors(v) for v in value]
        return self.torch.tensor(value) if isinstance(value, np.ndarray) else value


def both(stem):
    """A fixture that runs a test with the reference and with the operator (skipped where there is no torch)."""

    @pytest.fixture(params=["refimpl", "ops"])
    def voice(request):
        return Voice(request.param, stem)

    return voice
