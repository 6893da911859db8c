"""Rows of stem `layers`: the fields are explained in `row.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from motionspec.refimpl import layers
from motionspec.refimpl.row import Args, Equation, Fill, change

# Two space axes, no groups; test_layers.py has the others. Options as tuples say how many axes there are, so that an
# array with more or fewer is the one to blame.


def _convolution_inputs(fill: Fill, N: int, S: int, C: int, H: int, W: int, P: int, Q: int) -> Args:
    return {
        "x": fill("x", (N, S, H + 2, W + 2), "value"),
        "weight": fill("weight", (C, S, P + 1, Q + 1), "unit"),
        "bias": fill("bias", (C,), "value"),
    }


def _transposed_inputs(fill: Fill, N: int, S: int, C: int, H: int, W: int, P: int, Q: int) -> Args:
    return {
        "x": fill("x", (N, S, H, W), "value"),
        "weight": fill("weight", (S, C, P + 3, Q + 3), "unit"),
        "bias": fill("bias", (C,), "value"),
    }


def _padding_counts(
    x: np.ndarray, size: tuple[int, int], *, stride: tuple[int, int], padding: tuple[int, int], ceil_mode: bool
) -> np.ndarray:
    """`max_pool` with zeros in the padding: they win in windows that reach over the border, and in no others."""
    out = layers.max_pool(x, size, stride=stride, padding=padding, ceil_mode=ceil_mode).shape[2:]
    wide = np.pad(x, ((0, 0), (0, 0), *((side, side) for side in padding)))
    return layers.max_pool(wide, size, stride=stride, ceil_mode=ceil_mode)[:, :, : out[0], : out[1]]


def _norm_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    return {
        "x": fill("x", (N, C, H, W), "value"),
        "mean": fill("mean", (C,), "value"),
        "var": fill("var", (C,), "parameter"),
        "weight": fill("weight", (C,), "unit"),
        "bias": fill("bias", (C,), "value"),
    }


def _linear_inputs(fill: Fill, N: int, C: int, K: int) -> Args:
    return {
        "x": fill("x", (N, C), "value"),
        "weight": fill("weight", (K, C), "unit"),
        "bias": fill("bias", (K,), "value"),
    }


def _pooled_inputs(kind: str) -> Callable[..., Args]:
    """Two pixels each way at least, because not all variants take one."""
    return lambda fill, N, C, H, W: {"x": fill("x", (N, C, H + 1, W + 1), kind)}


# Mutants that do not fit on a line.


def _joint(x: np.ndarray, axis: int) -> np.ndarray:
    return layers.softmax(x.reshape(len(x), -1)).reshape(x.shape)


def _border_repeated(x: np.ndarray, weight: np.ndarray, *, padding: tuple[int, int], **options: Any) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)), mode="edge")
    return layers.convolution(padded, weight, **options)


def _cut_behind(x: np.ndarray, weight: np.ndarray, *, padding: tuple[int, int], **options: Any) -> np.ndarray:
    y = layers.transposed_convolution(x, weight, **options)
    return y[:, :, : y.shape[2] - 2 * padding[0], : y.shape[3] - 2 * padding[1]]


ROWS = (
    Equation(
        id="layers.convolution",
        source="not in the papers: layer of OFF18 §4.1, RF19 §4, DC18 §3.1, AF18 §3.1",
        summary="weighted sum over channels and a window, kernel not flipped, zeros outside",
        reference=layers.convolution,
        dims="NSCHWPQ",
        inputs=_convolution_inputs,
        variants=(
            {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)},
            {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
        ),
        outputs=("y",),
        degree=(1,),
        differentiable=("x", "weight", "bias"),
        cost=0.25,
        long_sums=True,
        bench=({"N": 16, "S": 64, "C": 64, "H": 54, "W": 54, "P": 2, "Q": 2},),  # 3 x 3 on 56 x 56
        bad=(
            (change(stride=(0, 1)), "stride: expected an int >= 1 or a tuple of 2 of them, got (0, 1)"),
            (change(padding=-1), "padding: expected an int >= 0 or a tuple of 2 of them, got -1"),
            (change(groups=3), "x: expected C a multiple of groups=3, got C=2"),
            (change(groups=2), "weight: expected O a multiple of groups=2, got O=3"),
        ),
        mutants=(
            ("kernel flipped", lambda x, weight, **k: layers.convolution(x, weight[:, :, ::-1, ::-1], **k)),
            ("border repeated", _border_repeated),
            ("no bias", lambda x, weight, bias=None, **k: layers.convolution(x, weight, **k)),
            (
                "steps begin behind the border",
                lambda x, weight, **k: layers.convolution(np.roll(x, -1, 3), weight, **k),
            ),
        ),
    ),
    Equation(
        id="layers.transposed_convolution",
        source="not in the papers: layer of AF18 §3.1",
        summary="the adjoint of convolution: deconvolution",
        reference=layers.transposed_convolution,
        dims="NSCHWPQ",
        inputs=_transposed_inputs,
        variants=(
            {"stride": (2, 2), "padding": (1, 1), "output_padding": (1, 1)},
            {"stride": (1, 3), "padding": (0, 1), "output_padding": (0, 2)},
        ),
        outputs=("y",),
        degree=(1,),
        differentiable=("x", "weight", "bias"),
        cost=0.25,
        long_sums=True,
        bench=({"N": 16, "S": 64, "C": 64, "H": 28, "W": 28, "P": 0, "Q": 0},),  # 3 x 3
        bad=(
            (change(stride=0), "stride: expected an int >= 1 or a tuple of 2 of them, got 0"),
            (change(output_padding=2), "output_padding: expected less than stride=(2, 2), got (2, 2)"),
            (change(groups=3), "x: expected C a multiple of groups=3, got C=2"),
        ),
        mutants=(
            (
                "kernel flipped",
                lambda x, weight, **k: layers.transposed_convolution(x, weight[:, :, ::-1, ::-1], **k),
            ),
            ("no bias", lambda x, weight, bias=None, **k: layers.transposed_convolution(x, weight, **k)),
            ("cut off behind alone", _cut_behind),
        ),
    ),
    Equation(
        id="layers.batch_norm",
        source="not in the papers: layer of OFF18 §4.1, RF19 §4, AF18 §3.1",
        summary="weight (x - mean) / sqrt(var + eps) + bias, by given statistics",
        reference=layers.batch_norm,
        dims="NCHW",
        inputs=_norm_inputs,
        variants=({"eps": 1e-5},),
        outputs=("y",),
        degree=(1,),
        differentiable=("x", "mean", "var", "weight", "bias"),
        long_sums=True,
        bench=({"N": 16, "C": 64, "H": 56, "W": 56},),
        bad=((change(eps=0.0), "eps: expected a finite number above 0, got 0.0"),),
        mutants=(
            (
                "eps outside of the root",
                lambda x, mean, var, eps=1e-5, **k: layers.batch_norm(
                    x, mean, np.square(np.sqrt(var) + eps), eps=1e-300, **k
                ),
            ),
            ("no eps", lambda x, mean, var, eps=1e-5, **k: layers.batch_norm(x, mean, var, eps=1e-300, **k)),
            ("var not rooted", lambda x, mean, var, **k: layers.batch_norm(x, mean, var**2, **k)),
            ("mean not taken off", lambda x, mean, var, **k: layers.batch_norm(x, 0 * mean, var, **k)),
        ),
    ),
    Equation(
        id="layers.max_pool",
        source="not in the papers: layer of OFF18 §4.1, RF19 §4, AF18 §3.1",
        summary="maximum over a window; padding never wins",
        reference=layers.max_pool,
        dims="NCHW",
        inputs=_pooled_inputs("distinct"),  # a tie is a kink
        variants=(
            {"size": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": False},
            {"size": (3, 2), "stride": (2, 1), "padding": (0, 1), "ceil_mode": True},
        ),
        outputs=("pooled",),
        degree=(1,),
        differentiable=("x",),
        bench=({"N": 16, "C": 64, "H": 111, "W": 111},),  # 112 x 112
        bad=(
            (change(size=0), "size: expected an int >= 1 or a tuple of 2 of them, got 0"),
            (change(padding=(2, 0)), "padding: expected at most half of size=(3, 3), got (2, 0)"),
            (change(size=(9, 9)), "x: expected sides, with padding, of at least (9, 9), got (8, 9)"),
        ),
        mutants=(
            ("padding counts as 0", _padding_counts),
            ("minimum", lambda x, size, **k: -layers.max_pool(-x, size, **k)),
            ("one pixel late", lambda x, size, **k: layers.max_pool(np.roll(x, -1, 3), size, **k)),
        ),
    ),
    Equation(
        id="layers.average_pool",
        source="not in the papers: layer of OFF18 §4.1, RF19 §4, AF18 §3.1",
        summary="mean over a window; zeros outside count within the padding, or do not",
        reference=layers.average_pool,
        dims="NCHW",
        inputs=_pooled_inputs("value"),
        variants=(
            {"size": (3, 3), "stride": (1, 1), "padding": (1, 1), "ceil_mode": False, "count_include_pad": True},
            {"size": (3, 2), "stride": (2, 1), "padding": (1, 1), "ceil_mode": True, "count_include_pad": False},
        ),
        outputs=("pooled",),
        degree=(1,),
        differentiable=("x",),
        bench=({"N": 16, "C": 192, "H": 27, "W": 27},),  # 28 x 28, BN-Inception's 3a
        bad=(
            (change(size=(3, 3, 3)), "x: expected shape (N, C, T, H, W) with sides of at least 1, got (2, 3, 6, 7)"),
            (change(padding=(0, 2)), "padding: expected at most half of size=(3, 3), got (0, 2)"),
        ),
        mutants=(
            ("one pixel late", lambda x, size, **k: layers.average_pool(np.roll(x, -1, 3), size, **k)),
            (
                "the other way to count",
                lambda x, size, count_include_pad, **k: layers.average_pool(
                    x, size, count_include_pad=not count_include_pad, **k
                ),
            ),
            ("sum", lambda x, size, **k: layers.average_pool(x, size, **k) * np.prod(size)),
        ),
    ),
    Equation(
        id="layers.linear",
        source="not in the papers: layer of OFF18 §4.1, RF19 §4, AF18 §3.1",
        summary="weight x + bias",
        reference=layers.linear,
        dims="NCK",
        inputs=_linear_inputs,
        outputs=("y",),
        degree=(1,),
        differentiable=("x", "weight", "bias"),
        long_sums=True,
        bench=({"N": 128, "C": 1024, "K": 101},),
        bad=((change(weight=lambda w: w[:, :2]), "weight: expected shape (O, I) with I=3, got (3, 2)"),),
        mutants=(
            ("no bias", lambda x, weight, bias=None: layers.linear(x, weight)),
            ("kernel from the other end", lambda x, weight, **k: layers.linear(x, weight[:, ::-1], **k)),
        ),
    ),
    Equation(
        id="layers.softmax",
        source="not in the papers: layer of OFF18 §4.2, RF19 §4, OFF20 §6.1",
        summary="exponentials along an axis, divided by their sum",
        reference=layers.softmax,
        dims="NCHW",
        inputs=lambda fill, N, C, H, W: {"x": fill("x", (N, C, H, W), "logit")},
        variants=({"axis": 1},),
        outputs=("y",),
        degree=(0,),
        differentiable=("x",),
        bench=({"N": 8, "C": 1, "H": 784, "W": 784},),
        bad=(
            (change(axis=0), "axis: expected an axis of x, which has 4, but the first, got 0"),
            (change(axis=4), "axis: expected an axis of x, which has 4, but the first, got 4"),
        ),
        mutants=(
            ("the last axis", lambda x, axis: layers.softmax(x, axis=-1)),
            ("over all axes but the first", _joint),
            ("not divided", lambda x, axis: np.exp(x - x.max(axis, keepdims=True))),
        ),
    ),
)
