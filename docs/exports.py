"""The table of docs/exports.md: what each network, narrow, can be turned into, and how close the result comes.

    make exports                       # some minutes; or: python docs/exports.py

The same functions are called by `make test-slow`.
"""

import platform
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from motionspec.models.table import networks

PAGE = Path(__file__).with_suffix(".md")
PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript")


def exported(network: nn.Module, clip: Tensor) -> np.ndarray:
    return torch.export.export(network, (clip,)).module()(clip).numpy()


def onnx(network: nn.Module, clip: Tensor) -> np.ndarray:
    import onnxruntime

    program = torch.onnx.export(torch.export.export(network, (clip,)), dynamo=True, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        program.save(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: clip.numpy()})[0]


def inductor(network: nn.Module, clip: Tensor) -> np.ndarray:
    torch.compiler.reset()
    return torch.compile(network, fullgraph=True, dynamic=False)(clip).numpy()


# The column: how, and the largest difference allowed, relative to the largest score.
FORMS = {"torch.export": (exported, 1e-5), "ONNX": (onnx, 1e-4), "torch.compile": (inductor, 1e-4)}


def difference(network: nn.Module, clip: Tensor, form: str) -> float:
    """Largest, relative to the largest that the network itself gives."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        want, got = network(clip).numpy(), FORMS[form][0](network, clip)
    return float(np.abs(got - want).max() / np.abs(want).max())


HEAD = """# Exports

What each network of `motionspec.models.table` can be turned into. Printed is the largest difference to the network in
eager float32, relative to its largest output, narrow and with random weights, on a CPU: as a program of `torch.export`,
as an ONNX file in onnxruntime, and compiled by inductor as one graph. `make exports` writes this page; `make test-slow`
holds the same, with limits.

Batch, height and width may be dynamic in all of them. The number of frames may not: it says how many times some layers
run. `tests/test_networks.py` exports each network at one size and compares at three others.
"""


def main() -> None:
    lines = [f"| network | {' | '.join(FORMS)} |", "|---" * (1 + len(FORMS)) + "|"]
    for name, row in networks().items():
        arguments, shape = row.cases()[0]
        torch.manual_seed(0)
        network, clip = row.build(**arguments).eval(), torch.randn(2, *shape)
        lines.append(f"| {name} | {' | '.join(f'{difference(network, clip, form):.0e}' for form in FORMS)} |")
        print(lines[-1], flush=True)
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    PAGE.write_text("\n".join([HEAD, f"Python {platform.python_version()}, {versions}:", "", *lines, ""]), "utf-8")


if __name__ == "__main__":
    main()
