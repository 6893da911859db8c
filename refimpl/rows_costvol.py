"""Rows of stem `costvol`: the fields are explained in `row.py`."""

import numpy as np

from motionspec.refimpl import costvol
from motionspec.refimpl.row import Args, Equation, Fill, change


def _pair_inputs(fill: Fill, N: int, C: int, H: int, W: int) -> Args:
    shape = (N, C, H, W)
    return {"f0": fill("f0", shape, "nonzero"), "f1": fill("f1", shape, "nonzero")}  # a zero vector is a kink


def _volume_inputs(fill: Fill, N: int, H: int, W: int, P: int, Q: int) -> Args:
    return {"c": fill("c", (N, H, W, 2 * P + 1, 2 * Q + 1), "score")}


def _window_inside(**arrays: np.ndarray) -> np.ndarray:
    """Pixels whose window is inside the map for every radius of the variants."""
    mask = np.zeros(arrays["f0"].shape[-2:], bool)
    mask[2:-2, 2:-2] = True
    return mask


_RADII = "an int >= 0 or a pair (R_h, R_w) of them"
_BAD_RADIUS = (
    (change(radius=-1), f"radius: expected {_RADII}, got -1"),
    (change(radius=1.0), f"radius: expected {_RADII}, got 1.0"),
    (change(radius=True), f"radius: expected {_RADII}, got True"),
    (change(radius=(1, 2, 3)), f"radius: expected {_RADII}, got (1, 2, 3)"),
    (change(radius=(1, -2)), f"radius: expected {_RADII}, got (1, -2)"),
    (change(border="edge"), "border: expected one of 'zero', 'exclude', got 'edge'"),
)
_BAD_TAU = (
    *((change(tau=tau), f"tau: expected a finite number above 0, got {tau}") for tau in (0, -0.1, np.inf, np.nan)),
    (change(tau="1"), "tau: expected a number, got str"),
)
_BAD_WINDOW = ((change(c=lambda c: c[..., :-1]), "c: expected a window of odd sides, got 3 x 4"),)
_TAU = ({"tau": 0.1}, {"tau": 1.0}, {"tau": 0.03})
_MAP_BENCH = ({"N": 4, "C": 64, "H": 112, "W": 112},)
_VOLUME_BENCH = ({"N": 4, "H": 112, "W": 112, "P": 5, "Q": 5},)


# Mutants that do not fit on a line.


def _separable(c: np.ndarray, tau: float = 0.1) -> tuple[np.ndarray, ...]:
    """The paper's remark: a softmax along each dimension, of the scores summed along the other."""
    found = []
    for axis in (4, 3):
        weight = np.exp((c.sum(axis) - c.sum(axis).max(-1, keepdims=True)) / tau)
        found.append(weight / weight.sum(-1, keepdims=True))
    return tuple(found)


def _last_of_ties(c: np.ndarray) -> np.ndarray:
    return -costvol.hard_displacement(c[..., ::-1, ::-1])


def _first_of_ties(c: np.ndarray) -> np.ndarray:
    N, H, W, P, Q = c.shape
    v, u = np.unravel_index(c.reshape(N, H, W, P * Q).argmax(-1), (P, Q))
    return np.stack([u - Q // 2, v - P // 2], axis=1).astype(float)


ROWS = (
    Equation(
        id="costvol.cosine",
        source="DC18 §3.3, Fig. 4",
        summary="cosine of f_t(i, j) and f_(t+1)(i + di, j + dj) over a window; outside the map: zero, or exclude",
        reference=costvol.cosine,
        dims="NCHW",
        inputs=_pair_inputs,
        variants=(
            {"radius": 1, "border": "zero"},
            {"radius": 1, "border": "exclude"},
            {"radius": (1, 2), "border": "zero"},
            {"radius": (2, 1), "border": "exclude"},
        ),
        outputs=("C",),
        degree=(0,),
        differentiable=("f0", "f1"),
        interior=lambda **arrays: _window_inside(**arrays)[..., None, None],
        cost=1.75,
        bench=_MAP_BENCH,
        bad=_BAD_RADIUS,
        mutants=(
            ("frames swapped", lambda f0, f1, **k: costvol.cosine(f1, f0, **k)),
            ("offset backwards", lambda f0, f1, **k: costvol.cosine(f0, f1, **k)[..., ::-1, ::-1]),
            (
                "f0 not normalised",
                lambda f0, f1, **k: (
                    costvol.cosine(f0, f1, **k) * np.linalg.norm(f0, axis=1).clip(1e-300)[..., None, None]
                ),
            ),
            ("angle, not cosine", lambda f0, f1, **k: np.arccos(np.clip(costvol.cosine(f0, f1, **k), -1, 1))),
            (
                "the other border rule",
                lambda f0, f1, radius=1, border="zero": costvol.cosine(
                    f0, f1, radius=radius, border="zero" if border == "exclude" else "exclude"
                ),
            ),
        ),
    ),
    Equation(
        id="costvol.marginals",
        source="DC18 (2)",
        summary="marginals of the joint softmax of c / tau over the window",
        reference=costvol.marginals,
        dims="NHWPQ",
        inputs=_volume_inputs,
        variants=_TAU,
        outputs=("rho_y", "rho_x"),
        degree=(0, 0),
        differentiable=("c",),
        nonfinite=("c",),
        cost=0.75,
        bench=_VOLUME_BENCH,
        bad=(*_BAD_WINDOW, *_BAD_TAU),
        mutants=(
            ("two separable softmaxes", _separable),
            ("tau multiplies", lambda c: costvol.marginals(c, tau=1 / 0.1)),
            ("window backwards", lambda c, tau=0.1: costvol.marginals(c[..., ::-1, ::-1], tau=tau)),
            ("a distance, not a similarity", lambda c, tau=0.1: costvol.marginals(-c, tau=tau)),
        ),
    ),
    Equation(
        id="costvol.soft_displacement",
        source="DC18 (1)",
        summary="expected offset under the marginals, as (u, v)",
        reference=costvol.soft_displacement,
        dims="NHWPQ",
        inputs=_volume_inputs,
        variants=_TAU,
        outputs=("flow",),
        degree=(0,),
        differentiable=("c",),
        nonfinite=("c",),
        blocks=("u", "v"),
        cost=0.75,
        bench=_VOLUME_BENCH,
        bad=(*_BAD_WINDOW, *_BAD_TAU),
        mutants=(
            ("u and v swapped", lambda c, tau=0.1: costvol.soft_displacement(c, tau=tau)[:, ::-1]),
            ("sign", lambda c, tau=0.1: -costvol.soft_displacement(c, tau=tau)),
            ("winner takes all", lambda c, tau=0.1: costvol.hard_displacement(c)),
            ("offsets from 0", lambda c, tau=0.1: costvol.soft_displacement(c, tau=tau) + 1),
        ),
    ),
    Equation(
        id="costvol.hard_displacement",
        source="DC18 §3.3",
        summary="offset of the highest score, ties to the nearest, as (u, v); gradient 0",
        reference=costvol.hard_displacement,
        dims="NHWPQ",
        inputs=_volume_inputs,
        outputs=("flow",),
        degree=(0,),
        differentiable=("c",),
        flat=("c",),
        nonfinite=("c",),
        blocks=("u", "v"),
        cost=0.75,
        bench=_VOLUME_BENCH,
        bad=_BAD_WINDOW,
        mutants=(
            ("u and v swapped", lambda c: costvol.hard_displacement(c)[:, ::-1]),
            ("sign", lambda c: -costvol.hard_displacement(c)),
            ("ties to the first", _first_of_ties),
            ("a tie of 1e-3", lambda c: costvol.hard_displacement(c.round(3))),
            ("of two nearest, the last", _last_of_ties),
        ),
    ),
    Equation(
        id="costvol.displacement_map",
        source="DC18 §3.3",
        summary="soft displacement of the cosine cost volume, from two feature maps",
        reference=costvol.displacement_map,
        dims="NCHW",
        inputs=_pair_inputs,
        variants=(
            {"radius": 1, "tau": 0.1, "border": "zero"},
            {"radius": 1, "tau": 0.1, "border": "exclude"},
            {"radius": (1, 2), "tau": 1.0, "border": "zero"},
            {"radius": (2, 1), "tau": 0.3, "border": "exclude"},
        ),
        outputs=("flow",),
        degree=(0,),
        differentiable=("f0", "f1"),
        blocks=("u", "v"),
        interior=_window_inside,
        cost=1.75,
        bench=_MAP_BENCH,
        bad=(*_BAD_RADIUS, *_BAD_TAU),
        mutants=(
            ("frames swapped", lambda f0, f1, **k: costvol.displacement_map(f1, f0, **k)),
            ("u and v swapped", lambda f0, f1, **k: costvol.displacement_map(f0, f1, **k)[:, ::-1]),
            (
                "the other border rule",
                lambda f0, f1, radius=1, tau=0.1, border="zero": costvol.displacement_map(
                    f0, f1, radius=radius, tau=tau, border="zero" if border == "exclude" else "exclude"
                ),
            ),
        ),
    ),
)
