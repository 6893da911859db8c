"""The figures of docs/figures.md: what each one measures, then how it is drawn.

    make figures                       # all; or: python docs/figures.py schemes linearisation

The measuring functions need NumPy, SciPy, for the peers' border rules torch, for the motion benchmark scikit-image.
tests/test_figures.py calls the same functions and holds the numbers of the captions; only the drawing needs matplotlib.
"""

import argparse
import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from motionspec.data.motion import CLASSES, Motion
from motionspec.flow import flow_to_color
from motionspec.refimpl import brightness, costvol, losses, tvl1, warp

Array = np.ndarray
FOLDER = Path(__file__).with_name("figures")
# Okabe and Ito's colours, told apart by colour-blind readers; every line has a style of its own as well.
BLUE, ORANGE, GREEN, PINK, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000"


def texture(x: Array, y: Array, reach: float, count: int = 12, seed: int = 0) -> Array:
    """A sum of plane waves at the points (x, y), of at most `reach` radians per pixel along each axis."""
    rng = np.random.default_rng(seed)
    size, phase = rng.uniform(0.5, 1, count), rng.uniform(0, 2 * np.pi, count)
    a, b = rng.uniform(-reach, reach, (2, count))
    return np.tensordot(size, np.sin(np.multiply.outer(a, x) + np.multiply.outer(b, y) + phase[:, None, None]), 1)


# -- schemes -----------------------------------------------------------------------------------------------------------

N_ITER, MARGIN = 400, 4


def frames() -> tuple[Array, Array]:
    """A texture that spans [0, 255], and the same moved by one pixel to the right."""
    y, x = np.mgrid[:32, :37].astype(float)
    f = texture(x, y, 0.45)[None, None]
    f = 255 * (f - f.min()) / (f.max() - f.min())
    return f[..., 1:].copy(), f[..., :-1].copy()


def iterates(scheme: str) -> Iterator[Array]:
    """The flow before and after each iteration of `tvl1.representation_flow`, by its steps."""
    f1, f2 = frames()
    image, flow, border = tvl1.SCHEMES[scheme]
    gx, gy = tvl1.image_gradient(f2, image)
    zero = np.zeros(f1.shape)
    u, p = [zero, zero], [(zero, zero), (zero, zero)]
    yield np.concatenate(u, axis=1)
    for _ in range(N_ITER):
        v = tvl1.threshold_step(*u, tvl1.data_residual(f2 - f1, gx, gy, *u), gx, gy)
        u = [tvl1.primal_step(v[k], *p[k], border) for k in (0, 1)]
        p = [tvl1.dual_step(*p[k], *tvl1.flow_gradient(u[k], flow)) for k in (0, 1)]
        yield np.concatenate(u, axis=1)


@functools.cache
def schemes() -> dict[str, dict[str, Array]]:
    """Per scheme, over the iterations: mean and deviation of u, change of the flow, energy (7) / its start."""
    found = {}
    for scheme in ("classic", "paper"):
        flows = list(iterates(scheme))
        inside = np.stack([flow[0, :, MARGIN:-MARGIN, MARGIN:-MARGIN] for flow in flows])
        energy = np.array([tvl1.energy(flow, *frames(), scheme=scheme).item() for flow in flows])
        found[scheme] = {
            "mean": inside[:, 0].mean((1, 2)),
            "deviation": inside[:, 0].std((1, 2)),
            "change": np.abs(np.diff(inside, axis=0)).mean((1, 2, 3)),
            "energy": energy / energy[0],
        }
    return found


def draw_schemes(figure: Any) -> None:
    left, middle, right = figure.subplots(1, 3)
    n = np.arange(N_ITER + 1)
    for (scheme, run), color, style in zip(schemes().items(), (BLUE, ORANGE), ("-", "--"), strict=True):
        left.plot(n, run["mean"], style, color=color, label=scheme)
        left.fill_between(n, *(run["mean"] + k * run["deviation"] for k in (-1, 1)), color=color, alpha=0.2, lw=0)
        middle.plot(n[1:], run["change"], style, color=color)
        right.plot(n, run["energy"], style, color=color)
    left.axhline(1, color=BLACK, lw=0.8, ls=":", label="truth")
    left.set(title="flow u, mean ± deviation", ylabel="pixels", xlabel="iteration", ylim=(-0.6, 1.9))
    left.legend(loc="upper right", ncols=3, fontsize=8)
    middle.set(title="mean change in an iteration", ylabel="pixels", xlabel="iteration", yscale="log")
    right.set(title="energy (7) / its start", xlabel="iteration", yscale="log")
    right.set_yticks(ticks := [0.2, 0.5, 1, 2, 5], [f"{tick:g}" for tick in ticks])
    right.minorticks_off()


# -- linearisation -----------------------------------------------------------------------------------------------------

STEPS = 0.5 ** np.arange(0, 7)


def linearisation() -> dict[str, Array]:
    """The largest residual of the linearised constancy, moved by s along a diagonal, for each step s in STEPS."""
    found: dict[str, list[float]] = {"(3)": [], "(4)": [], "fixed grid": [], "finer grid": []}

    def residual(s: float, h: float, sampled: bool) -> Array:
        """Fx u + Fy v + Ft on a grid of spacing h, its border line left out; u, v and the derivatives per grid step."""
        x, y = np.meshgrid(np.arange(-h, 16 + 2 * h, h), np.arange(-h, 16 + 2 * h, h))
        u, v = 0.8 * s, 0.6 * s
        f0, f1 = texture(x, y, 0.3)[None, None], texture(x - u, y - v, 0.3)[None, None]
        if sampled:
            fx, fy = brightness.gradient(f0)
        else:  # by differences so small that their error is below 1e-9
            e = 1e-5
            fx, fy = (
                h * (texture(x + a, y + b, 0.3) - texture(x - a, y - b, 0.3))[None, None] / (2 * e)
                for a, b in ((e, 0.0), (0.0, e))
            )
        flow = np.zeros((1, 2, *x.shape)) + np.array([u / h, v / h]).reshape(1, 2, 1, 1)
        return brightness.linearised_residual(fx, fy, f1 - f0, flow)[..., 1:-1, 1:-1]

    for s in STEPS:
        exact = np.abs(residual(s, 1.0, sampled=False)).max()
        found["(3)"].append(exact)
        found["(4)"].append(exact / s)
        found["fixed grid"].append(np.abs(residual(s, 1.0, sampled=True)).max())
        found["finer grid"].append(np.abs(residual(s, s, sampled=True)).max())
    return {name: np.array(errors) for name, errors in found.items()}


def slopes(errors: Array) -> Array:
    """log2 of how much each halving of the step gains."""
    return np.log2(errors[:-1] / errors[1:])


def draw_linearisation(figure: Any) -> None:
    axes = figure.subplots()
    labels = {
        "(4)": "(4) = (3) / s, exact gradient",
        "(3)": "(3), exact gradient",
        "fixed grid": "(3), central differences, spacing 1",
        "finer grid": "(3), central differences, spacing s",
    }
    lines = {"(4)": (PINK, "s-"), "(3)": (BLUE, "-"), "fixed grid": (ORANGE, "^--"), "finer grid": (BLACK, "o:")}
    found = linearisation()
    for name, label in labels.items():
        color, style = lines[name]
        last = slopes(found[name])[-1]
        axes.loglog(STEPS, found[name], style, base=2, color=color, mfc="none", label=f"{label}: slope {last:.2f}")
    axes.set(xlabel="displacement s (pixels of spacing 1)", ylabel="largest residual (of values within ±2.2)")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))


# -- borders -----------------------------------------------------------------------------------------------------------

OURS, PEERS = ("zero", "blend"), ("border", "reflection")


def sample(f: Array, flow: Array, rule: str) -> Array:
    """The map (1, 1, H, W) at p + flow(p) under a border rule of ours or of grid_sample."""
    if rule in OURS:
        return warp.bilinear(f, flow, outside=rule)
    import torch

    H, W = f.shape[2:]
    y, x = np.mgrid[:H, :W]
    grid = np.stack([2 * (x + flow[:, 0]) / (W - 1) - 1, 2 * (y + flow[:, 1]) / (H - 1) - 1], -1)
    sampled = torch.nn.functional.grid_sample(
        torch.tensor(f), torch.tensor(grid), padding_mode=rule, align_corners=True
    )
    return np.asarray(sampled)


def profile(line: Array, positions: Array, rule: str) -> Array:
    """A line of pixels at any positions, 0 being the centre of its first pixel."""
    f = np.tile(line, (2, 1))[None, None]
    values = []
    for position in positions:
        flow = np.zeros((1, 2, *f.shape[2:]))
        flow[0, 0, 0, 0] = position
        values.append(sample(f, flow, rule)[0, 0, 0, 0])
    return np.array(values)


def draw_borders(figure: Any) -> None:
    def name(rule: str) -> str:
        return f"{rule} ({'ours' if rule in OURS else 'grid_sample'})"

    rules = dict(zip((*OURS, *PEERS), ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PINK, ":")), strict=True))
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    y, x = np.mgrid[:20, :26].astype(float)
    f = texture(x, y, 0.5)[None, None]
    f = 0.35 + 0.65 * (f - f.min()) / (f.max() - f.min())
    flow = np.zeros((1, 2, 20, 26)) + np.array([-6.5, 4.5]).reshape(1, 2, 1, 1)
    pictures = {"the map": f} | {name(rule): sample(f, flow, rule) for rule in rules}
    for axes, (title, picture) in zip(above.subplots(1, 5), pictures.items(), strict=True):
        axes.imshow(picture[0, 0], cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[])
    axes = below.subplots()
    line, q = np.array([0.9, 0.5, 0.8, 0.3, 0.6, 1.0]), np.linspace(-2.5, 7.5, 401)
    for rule, (color, style) in rules.items():
        axes.plot(q, profile(line, q, rule), style, color=color, label=name(rule), lw=2)
    axes.plot(np.arange(6), line, "o", color=BLACK, label="pixels", ms=5)
    axes.set(xlabel="position (pixels; 0 and 5 are the centres of the first and last pixel)", ylabel="value")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


# -- displacement ------------------------------------------------------------------------------------------------------

SHIFTS, TEMPERATURES = np.linspace(0, 1, 17), (0.01, 0.03, 0.1, 1.0)
FALLING = 0.5 ** np.arange(0, 10)


def scores(u: float) -> Array:
    """The cost volume of 24 smooth channels that move u to the right, radius 2, away from the border."""
    y, x = np.mgrid[:9, :10].astype(float)
    f0, f1 = (np.stack([texture(x - s, y, 1.2, count=1, seed=c) for c in range(24)])[None] for s in (0, u))
    return costvol.cosine(f0, f1, radius=2)[:, 2:-2, 2:-2]


def off_by(flow: Array, u: float) -> float:
    """Mean distance from (u, 0), in pixels."""
    return float(np.hypot(flow[:, 0] - u, flow[:, 1]).mean())


@functools.cache
def displacement() -> tuple[dict[str, Array], dict[str, Array]]:
    """Mean error over SHIFTS per assignment; and over FALLING temperatures for a whole and for half a pixel."""
    volumes = [(u, scores(u)) for u in SHIFTS]
    over = {"hard": np.array([off_by(costvol.hard_displacement(c), u) for u, c in volumes])}
    for tau in TEMPERATURES:
        over[f"{tau:g}"] = np.array([off_by(costvol.soft_displacement(c, tau=tau), u) for u, c in volumes])
    falling = {
        name: np.array([off_by(costvol.soft_displacement(scores(u), tau=tau), u) for tau in FALLING])
        for name, u in (("1 pixel", 1.0), ("0.5 pixels", 0.5))
    }
    return over, falling


def draw_displacement(figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    over, falling = displacement()
    styles = ((BLACK, "-"), (SKY, "-."), (BLUE, "--"), (GREEN, "-"), (ORANGE, ":"))
    for (name, errors), (color, style) in zip(over.items(), styles, strict=True):
        label = "winner takes all" if name == "hard" else f"soft, temperature {name}"
        left.plot(SHIFTS, errors, style, color=color, label=label, lw=2)
    left.set(xlabel="true shift (pixels)", ylabel="mean error (pixels)", ylim=(0, 1.05))
    left.legend()
    for (name, errors), color, style in zip(falling.items(), (BLUE, ORANGE), ("o-", "s--"), strict=True):
        right.loglog(FALLING, errors, style, color=color, label=f"soft, true shift {name}", ms=5)
    right.axhline(0.5, color=BLACK, lw=1, ls=":", label="winner takes all, 0.5 pixels")
    right.set(xlabel="temperature", ylabel="mean error (pixels)", ylim=(1e-9, 3))
    right.legend(loc="lower right")


# -- indicator ---------------------------------------------------------------------------------------------------------

GAPS = np.linspace(-4, 4, 161)
TRAINING = 300


def softmax(G: Array) -> Array:
    e = np.exp(G - G.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def indicator_losses() -> dict[str, Array]:
    """Of two classes, over the gap between the true one's score and the other's: AF18 (2) as printed, and as meant."""
    literal, meant = [], []
    for gap in GAPS:
        G = np.array([[gap, 0.0]])
        right = G.argmax(1) == 0
        literal.append(-(right * np.log(softmax(G).max(1))).item())
        meant.append(losses.cross_entropy(G, np.array([0])).item())
    return {"literal": np.array(literal), "cross entropy": np.array(meant)}


@functools.cache
def training() -> dict[str, Array]:
    """Accuracy over the steps of gradient descent of a linear classifier of five clouds of points, for either loss."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(5), 40)
    angle = 2 * np.pi * label / 5
    points = 3 * np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(size=(200, 2))
    X = np.concatenate([points, np.ones((200, 1))], 1)
    start = 0.1 * rng.normal(size=(3, 5))
    found = {}
    for name in ("literal", "cross entropy"):
        W, accuracy = start.copy(), []
        for _ in range(TRAINING + 1):
            G = X @ W
            right = G.argmax(1) == label
            accuracy.append(right.mean())
            slope = softmax(G) - np.eye(5)[label]  # of the cross entropy in G; the indicator is constant where it is 0
            W -= 0.1 * X.T @ (slope * right[:, None] if name == "literal" else slope) / len(X)
        found[name] = np.array(accuracy)
    return found


def draw_indicator(figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    for name, color, style in (("cross entropy", BLUE, "-"), ("literal", ORANGE, "--")):
        left.plot(GAPS, indicator_losses()[name], style, color=color, label=name, lw=2)
        right.plot(100 * training()[name], style, color=color, label=name, lw=2)
    left.set(xlabel="score of the true class - score of the other", ylabel="loss (nats)", ylim=(-0.7, 4.3))
    left.axvline(0, color=BLACK, lw=0.8, ls=":")
    left.text(-2, -0.45, "wrong answers", ha="center")
    left.text(2, -0.45, "right answers", ha="center")
    left.legend()
    right.set(xlabel="step of gradient descent", ylabel="right answers (%)", ylim=(0, 103))
    right.axhline(20, color=BLACK, lw=0.8, ls=":", label="chance")
    right.legend(loc="center right", bbox_to_anchor=(1, 0.65))


# -- motion ------------------------------------------------------------------------------------------------------------

SHOWN, FASTEST = (0, 3, 6), 3.0  # frames of a clip; pixels per frame of a full colour


def clips() -> list[Array]:
    """The first test clip of each class of the motion benchmark: frames, and the flow of one in colours."""
    source, rows = Motion("tiny", "test"), []
    for i in range(len(source.classes)):
        flow, _ = source.flow(i, SHOWN[1:2])
        images = [*source.read(i, SHOWN), flow_to_color(flow[0], FASTEST)]
        rows.append(np.concatenate(images, 1) // 8 * 8)  # 32 levels make a PNG of half the size
    return rows


def draw_motion(figure: Any) -> None:
    rows = clips()
    half = -(-len(rows) // 2)
    for column, axes in enumerate(figure.subplots(1, 2)):
        shown = rows[column * half : (column + 1) * half]
        shown += [np.full_like(rows[0], 255)] * (half - len(shown))
        axes.imshow(np.concatenate(shown), interpolation="nearest")
        names = CLASSES[column * half : (column + 1) * half]
        side = len(rows[0])
        axes.set_yticks([side * (k + 0.5) for k in range(len(names))], names)
        ticks = [*(f"frame {t}" for t in SHOWN), "flow"]
        axes.set_xticks([side * (k + 0.5) for k in range(len(ticks))], ticks)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)


# -- all ---------------------------------------------------------------------------------------------------------------

FIGURES: dict[str, tuple[tuple[float, float], Callable[[Any], None]]] = {
    "schemes": ((10, 3.0), draw_schemes),
    "linearisation": ((9, 3.6), draw_linearisation),
    "borders": ((9, 4.4), draw_borders),
    "displacement": ((9, 3.4), draw_displacement),
    "indicator": ((9, 3.2), draw_indicator),
    "motion": ((7, 4.9), draw_motion),
}


def draw(name: str, folder: Path) -> Path:
    """Write one figure as PNG."""
    from matplotlib.figure import Figure

    size, fill = FIGURES[name]
    figure = Figure(figsize=size, layout="constrained")
    fill(figure)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=100, metadata={"Software": None})  # the same bytes from any machine with these versions
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of docs/figures.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)} (default: all)")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, metavar="DIR", help="default: docs/figures")
    options = parser.parse_args()
    for name in options.names:
        if name not in FIGURES:
            parser.error(f"no figure {name!r}: expected some of {', '.join(FIGURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("drawing needs matplotlib: pip install 'motionspec[figures]'")
    for name in options.names or FIGURES:
        path = draw(name, options.output)
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
