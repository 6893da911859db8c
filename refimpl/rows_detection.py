"""Rows of stem `detection`: the fields are explained in `row.py`."""

from collections.abc import Callable

import numpy as np

from motionspec.refimpl import detection
from motionspec.refimpl.row import Args, Equation, Fill, change

_K = 2
_CORNER = np.array([0, 0, 1, 1])


def _score_maps(fill: Fill, C: int, H: int, W: int, R: int) -> Args:
    """Two samples; both variants have the same k. Regions reach as far as the map does."""
    rois = fill("rois", (R, 5), "rois:2")
    rois[:, 1:] *= 2 ** np.floor(np.log2(np.maximum([W, H, W, H], 12) / 12))
    return {"x": fill("x", (2, C * _K**2, H, W), "value"), "rois": rois}


def _pairs(first: str, kind: str) -> Callable[..., Args]:
    return lambda fill, R: {first: fill(first, (R, 4), kind), "anchors": fill("anchors", (R, 4), "boxes")}


# Mutants that do not fit on a line.


def _without_last(x: np.ndarray, rois: np.ndarray, k: int, spatial_scale: float) -> np.ndarray:
    """torchvision's forward: bins clipped to H - 1 and W - 1."""
    _, C, H, W = x.shape
    if min(H, W) == 1:
        return np.zeros((len(rois), C // k**2, k, k))
    return detection.ps_roi_pool(x[..., :-1, :-1], rois, k, spatial_scale)


def _turned(x: np.ndarray, rois: np.ndarray, k: int, spatial_scale: float) -> np.ndarray:
    turned = detection.ps_roi_pool(x.swapaxes(2, 3), rois[:, [0, 2, 1, 4, 3]], k, spatial_scale)
    return turned.swapaxes(2, 3)


def _maps_first(x: np.ndarray, rois: np.ndarray, k: int, spatial_scale: float) -> np.ndarray:
    N, C, H, W = x.shape
    maps = x.reshape(N, k**2, C // k**2, H, W).swapaxes(1, 2).reshape(x.shape)
    return detection.ps_roi_pool(maps, rois, k, spatial_scale)


def _py_faster_rcnn(deltas: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    return detection.decode_boxes(deltas, anchors) + _CORNER


ROWS = (
    Equation(
        id="detection.ps_roi_pool",
        source="OFF20 §6.1",
        summary="position-sensitive RoI pooling of R-FCN: bin (i, j) is the mean of that bin in a map of its own",
        reference=detection.ps_roi_pool,
        dims="CHWR",
        inputs=_score_maps,
        variants=({"k": _K, "spatial_scale": 1.0}, {"k": _K, "spatial_scale": 0.5}),
        outputs=("pooled",),
        degree=(1,),
        differentiable=("x",),
        bench=({"C": 380, "H": 38, "W": 63, "R": 300},),
        bad=(
            (change(x=lambda x: x[:, :-2]), "x: expected C a multiple of k^2=4, got C=10"),
            (change(k=0), "k: expected at least 1, got 0"),
            (change(spatial_scale=0.0), "spatial_scale: expected a finite number above 0, got 0.0"),
        ),
        mutants=(
            ("last row and column never pooled (torchvision)", _without_last),
            ("maps in the order of columns", _turned),
            ("class last in the order of maps", _maps_first),
            (
                "corners not rounded",
                lambda x, rois, k, spatial_scale: detection.ps_roi_pool(
                    x, np.c_[rois[:, :1], np.floor(rois[:, 1:])], k, spatial_scale
                ),
            ),
            (
                "last pixel left out",
                lambda x, rois, k, spatial_scale: detection.ps_roi_pool(x, rois - [0, 0, 0, 1, 1], k, spatial_scale),
            ),
            (
                "sample ignored",
                lambda x, rois, k, spatial_scale: detection.ps_roi_pool(x, rois * [0, 1, 1, 1, 1], k, spatial_scale),
            ),
        ),
    ),
    Equation(
        id="detection.encode_boxes",
        source="OFF20 §6.1",
        summary="dx, dy, dw, dh that make a box of its anchor, inclusive boxes",
        reference=detection.encode_boxes,
        dims="R",
        inputs=_pairs("boxes", "boxes"),
        outputs=("deltas",),
        degree=(0,),
        differentiable=("boxes", "anchors"),
        bench=({"R": 21546},),
        bad=(),
        mutants=(
            ("one pixel too wide", lambda b, a: detection.encode_boxes(b + _CORNER, a + _CORNER)),
            ("in sizes of the box", lambda b, a: -detection.encode_boxes(a, b)),
            (
                "corners for centres",
                lambda b, a: np.c_[(b - a)[:, :2] / (a[:, 2:] - a[:, :2] + 1), detection.encode_boxes(b, a)[:, 2:]],
            ),
        ),
    ),
    Equation(
        id="detection.decode_boxes",
        source="OFF20 §6.1",
        summary="the boxes that dx, dy, dw, dh make of their anchors, inverse of encode_boxes",
        reference=detection.decode_boxes,
        dims="R",
        inputs=_pairs("deltas", "unit"),
        outputs=("boxes",),
        degree=(0,),
        differentiable=("deltas", "anchors"),
        bench=({"R": 21546},),
        bad=(),
        mutants=(
            ("one pixel too large (py-faster-rcnn)", _py_faster_rcnn),
            ("growth without exp", lambda d, a: detection.decode_boxes(np.c_[d[:, :2], np.log1p(np.abs(d[:, 2:]))], a)),
            ("x and y swapped", lambda d, a: detection.decode_boxes(d[:, [1, 0, 3, 2]], a)),
        ),
    ),
)
