"""`motionspec demo`: every operator on a real frame pair, held against the oracle, timed, with a picture report."""

import base64
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import motionspec
from motionspec import synthetic
from motionspec.cli.check import Verdict
from motionspec.cli.compare import as_outputs, compare, forward_tolerance
from motionspec.cli.media import read_pairs
from motionspec.cli.runner import CannotRun
from motionspec.cli.text import number, settings, table, used
from motionspec.data.video import VideoError, read_image
from motionspec.files import write_text
from motionspec.flow import encoded, flow_to_color, read_flow
from motionspec.progress import Progress
from motionspec.refimpl.equations import EQUATIONS, Equation

if TYPE_CHECKING:  # it needs torch, and this module
    from motionspec.cli.demo_model import Ran

CROP = 96  # the oracle loops over pixels in Python: it sees at most CROP x CROP of them
SHOWN = 400  # pictures are at most this wide
QUICK = 0.1  # seconds below which the oracle is called some times more
DTYPE = "float32"
# The headings of an estimate's errors. Fl is KITTI's: the share of pixels off by more than 3 pixels and 5 %.
ERRORS = ("end-point error px", "Fl %", "angle deg")
DIS_SIDE = 32  # pixels; OpenCV's DIS takes no smaller frames
GREY = 255.0  # the values' scale: frames are RGB in [0, 255]


@dataclass
class Scene:
    """A frame pair with a flow that points from the first frame to the second."""

    title: str
    first: np.ndarray  # uint8 (H, W, 3) RGB
    second: np.ndarray
    flow: np.ndarray  # float32 (2, H, W), NaN where unknown
    flow_source: str
    true: bool = False  # whether the flow was given, or is known, and not estimated


@dataclass
class Picture:
    """One picture of the report."""

    title: str
    rgb: np.ndarray  # uint8 (H, W, 3)
    exact: bool = False  # stored without loss

    @property
    def data(self) -> str:
        """As the text of an HTML image source."""
        import cv2

        image = self.rgb
        if image.shape[1] > SHOWN:
            height = max(1, round(image.shape[0] * SHOWN / image.shape[1]))
            image = cv2.resize(image, (SHOWN, height), interpolation=cv2.INTER_AREA)
        kinds = {"png": ".png"} if self.exact else {"jpeg": ".jpg", "png": ".png"}  # JPEG has sides of 16 bits only
        for kind, suffix in kinds.items():
            if (file := encoded(suffix, image[..., ::-1])) is not None:
                return f"data:image/{kind};base64,{base64.b64encode(file.tobytes()).decode()}"
        size = f"{image.shape[1]} x {image.shape[0]}"
        raise ValueError(f"OpenCV could not encode the picture {self.title!r} of {size} pixels")


@dataclass
class Result:
    """One operator on one scene."""

    row: Equation
    variant: dict[str, Any]
    verdict: Verdict
    milliseconds: float  # of the operator on the crop, which is all that the oracle sees
    oracle_milliseconds: float
    pictures: list[Picture] = field(default_factory=list)


@dataclass
class Estimate:
    """A flow that was estimated from the frames.

    errors: those of ERRORS beside the true flow, over the pixels where that is known; nothing where there is none.
    """

    name: str
    picture: Picture
    errors: tuple[float, ...]

    @property
    def said(self) -> list[str]:
        """The errors in the digits that are worth reading."""
        return [f"{error:.{digits}f}" for error, digits in zip(self.errors, (3, 2, 2), strict=False)]


@dataclass
class Shown:
    """A scene with everything that the report says of it."""

    scene: Scene
    pictures: list[Picture]
    text: str
    crop: str
    size: str  # of the crop
    results: list[Result]
    estimates: list[Estimate]
    judged: str  # where the estimates are held against what


# -- scenes ------------------------------------------------------------------------------------------------------------


def photograph() -> Scene:
    """A photograph that ships with scikit-image: a turn and a zoom, and a disc of it that goes its own way."""
    from skimage import data

    texture = synthetic.picture(data.astronaut().transpose(2, 0, 1))
    shift = synthetic.translation([0, 2], [0, -1])
    ground = shift @ synthetic.rotation([0, 0.6]) @ synthetic.zoom([1, 1.012])
    layers = [
        synthetic.Layer(texture, ground),
        synthetic.Layer(texture, synthetic.translation([0, -3.6], [0, 2.7]), synthetic.disc(60)),
    ]
    clip = synthetic.Scene(layers, (512, 512)).clip()
    first, second = np.clip(clip.frames, 0, 255).round().astype(np.uint8).transpose(1, 2, 3, 0)
    title = "photograph (scikit-image's astronaut) moved by a known flow"
    return Scene(title, first, second, clip.flow[:, 0].astype(np.float32), "known by construction", true=True)


def estimated_flow(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, str]:
    """A flow to show and to warp by where none is given: OpenCV's DIS, not ours. Zero where it cannot be had."""
    import cv2

    if min(first.shape[:2]) < DIS_SIDE:
        return np.zeros((2, *first.shape[:2]), np.float32), "zero: the frames are too small to estimate one"
    grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in (first, second)]
    estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = estimator.calc(*grey, None)
    return flow.transpose(2, 0, 1), "estimated by OpenCV's DIS, not by motionspec"


def scenes(inputs: Sequence[str], flow: str | None, pairs: int, progress: Progress) -> list[Scene]:
    """The frame pairs that the command names. Raises CannotRun or VideoError with one line."""
    if len(inputs) > 2:
        raise CannotRun(f"demo takes one video or two images, got {len(inputs)} files")
    if flow and len(inputs) != 2:
        raise CannotRun("--flow belongs to two images: motionspec demo IMAGE0 IMAGE1 --flow FILE")
    if not inputs:
        return [photograph()]
    if len(inputs) == 1:
        name = Path(inputs[0]).name
        found = read_pairs(inputs[0], pairs, lambda done, total: progress(f"decoding {name}", done, total))
        return [
            Scene(f"{name}, frames {p.index} and {p.index + 1}", p.first, p.second, *estimated_flow(p.first, p.second))
            for p in found
        ]
    first, second = (read_image(path) for path in inputs)
    if first.shape != second.shape:
        sizes = " and ".join(f"{image.shape[1]} x {image.shape[0]}" for image in (first, second))
        raise VideoError(f"the images differ in size: {sizes}; a pair needs one size")
    if flow:
        try:
            truth, _ = read_flow(flow)
        except OSError as error:
            raise VideoError(f"{flow}: {error.strerror}") from error
        if truth.shape[1:] != first.shape[:2]:
            sizes = f"{truth.shape[2]} x {truth.shape[1]}, the images {first.shape[1]} x {first.shape[0]}"
            raise VideoError(f"{flow}: the flow is {sizes}")
        source = f"read from {Path(flow).name}"
    else:
        truth, source = estimated_flow(first, second)
    return [Scene(" and ".join(Path(path).name for path in inputs), first, second, truth, source, true=bool(flow))]


# -- operators on a scene ----------------------------------------------------------------------------------------------

# What a scene has to give, by argument name. An equation that asks for anything else (labels, boxes) is not shown.
ARGUMENTS = frozenset(
    [
        "c",
        "f2",
        "f",
        "f0",
        "f1",
        "f_prev",
        "f_next",
        "s_prev",
        "g_prev",
        "g_next",
        "d_prev",
        "x",
        "clip",
        "fx",
        "fy",
        "ft",
        "flow",
    ]
)


def shown_equations() -> list[Equation]:
    """The equations whose every argument a scene can give; optional ones are left to their defaults.

    Without the layers of networks: they have no motion to show.
    """

    def names(row: Equation) -> set[str]:
        return set(row.inputs(lambda name, shape, kind: np.zeros(shape), **dict.fromkeys(row.dims, 2)))

    rows = [row for row in EQUATIONS.values() if not row.id.startswith("layers.")]
    return [row for row in rows if names(row) - {*row.keyword} <= ARGUMENTS]


class Inputs:
    """A fill for `Equation.inputs` that hands out a scene's frames, flow and gradients by the argument's name."""

    def __init__(self, scene: Scene, top: int, left: int, height: int, width: int):
        window = np.s_[top : top + height, left : left + width]
        import torch

        from motionspec.ops import costvol

        self.sizes = {"N": 1, "C": 3, "S": 3, "T": 2, "H": height, "W": width, "P": 1, "Q": 2}
        first, second = (
            image[window].astype(np.float64).transpose(2, 0, 1)[None] for image in (scene.first, scene.second)
        )
        # A pixel of unknown flow does not move.
        flow = np.nan_to_num(scene.flow[(slice(None), *window)].astype(np.float64), nan=0.0)[None]
        fy, fx = (np.gradient(first, axis=axis) if first.shape[axis] > 1 else 0 * first for axis in (2, 3))
        self.known = {"fx": fx, "fy": fy, "ft": second - first, "flow": flow, "clip": np.stack([first, second], 2)}
        self.known |= dict.fromkeys(("f", "f0", "f_prev", "s_prev", "g_prev"), first)
        self.known |= dict.fromkeys(("f1", "f2", "f_next", "g_next"), second)
        # The clean frame, where the noise is what lies below 16 levels.
        self.known["d_prev"] = 16 * np.floor(first / 16)
        # On a lattice: two scores are equal or well apart, and what counts as a tie is the same in every precision.
        cosine = costvol.cosine(torch.tensor(first), torch.tensor(second), radius=(self.sizes["P"], self.sizes["Q"]))
        self.known["c"] = np.round(cosine.numpy() * 2**10) / 2**10
        assert {*self.known, "x"} == ARGUMENTS
        # warp.motion moves the first frame along the flow, tvl1.normalise takes both; all others sample the second.
        self.x = {"warp.motion": first, "tvl1.normalise": self.known["clip"]}
        self.second = second

    def of(self, row: Equation) -> dict[str, np.ndarray]:
        """The arguments of a row, as float64 arrays that hold float32 values."""

        def fill(name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
            if name in row.keyword:
                return np.zeros(shape)
            value = self.x.get(row.id, self.second) if name == "x" else self.known[name]
            if name == "clip":  # an operator that needs more channels than a frame's three gets them again
                value = value[:, np.arange(shape[1]) % value.shape[1]]
            assert value.shape == shape, (row.id, name, value.shape, shape)
            return value.astype(DTYPE).astype(np.float64)

        arrays = row.inputs(fill, **{dim: self.sizes[dim] for dim in row.dims})
        if "f2" in arrays:  # RF19 counts its frames from 1
            arrays["f1"] = self.known["f0"]
        return {name: array for name, array in arrays.items() if name not in row.keyword}


def run(row: Equation, variant: dict[str, Any], whole: Inputs, crop: Inputs, device: str) -> Result:
    """One operator: compared with the oracle on the crop, where both are timed, and pictured on the whole frames."""
    import importlib

    import torch

    stem, name = row.id.split(".")
    function = getattr(importlib.import_module(f"motionspec.ops.{stem}"), name)

    def call(inputs: Inputs) -> tuple[Callable[[], Any], list[np.ndarray]]:
        args = [torch.tensor(a, dtype=getattr(torch, DTYPE), device=device) for a in inputs.of(row).values()]
        outputs = as_outputs(function(*args, **variant))
        return lambda: function(*args, **variant), [o.cpu().numpy() for o in outputs]

    again, got = call(crop)
    arrays = crop.of(row)
    start = time.perf_counter()
    want = as_outputs(row.reference(**arrays, **variant))
    oracle = time.perf_counter() - start
    if oracle < QUICK:  # the first call of a quick one measures what is done once
        oracle = median_time(lambda: row.reference(**arrays, **variant), "cpu")
    verdict, pictures = Verdict(row.id, variant, DTYPE, "value", cases=1), []
    for output, g, w, degree in zip(row.outputs, got, want, row.degree, strict=True):
        relative, absolute = forward_tolerance(row, DTYPE, GREY**degree)
        result = compare(g, w, relative, absolute)
        verdict.fold(result.error, result.tolerance)
        if not result.ok:
            verdict.kind, verdict.note = (
                "differs",
                f"{output}{result.first}: got {g[result.first]}, expected {w[result.first]}",
            )
        if w.dtype != bool:
            error = np.abs(np.subtract(g, w, out=np.zeros_like(w), where=g != w))
            share = pixels_last(crop, error / (absolute + relative * np.abs(np.where(np.isfinite(w), w, 0))))
            title = f"error of {output} on the crop: worst {100 * share.max():.0f} % of the tolerance (white)"
            pictures.append(Picture(title, error_map(share), exact=True))

    _, outputs = call(whole)
    pictures = [
        p
        for output, o in zip(row.outputs, outputs, strict=True)
        for p in output_pictures(row, output, pixels_last(whole, o))
    ] + pictures
    return Result(row, variant, verdict, 1e3 * median_time(again, device), 1e3 * oracle, pictures)


def median_time(function: Callable[[], Any], device: str) -> float:
    """Median seconds of up to seven calls after the one that warmed up; of a slow operator three: no benchmark."""
    import torch

    times: list[float] = []
    while len(times) < 3 or (len(times) < 7 and sum(times) < 0.2):
        start = time.perf_counter()
        function()
        if device != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


# -- pictures ----------------------------------------------------------------------------------------------------------


def pixels_last(inputs: Inputs, output: np.ndarray) -> np.ndarray:
    """What stands behind the pixels (N, H, W, ...) becomes channels before them; all else stays as it is."""
    H, W = inputs.sizes["H"], inputs.sizes["W"]
    if output.shape[1:3] != (H, W):
        return output
    return np.moveaxis(output.reshape(1, H, W, -1), -1, 1)


def signed_map(values: np.ndarray) -> np.ndarray:
    """Red where positive, blue where negative, white at 0; full colour at the 99th percentile of the magnitude."""
    finite = np.where(np.isfinite(values), values, 0.0).astype(np.float64)
    level = np.clip(finite / (np.percentile(np.abs(finite), 99) or 1.0), -1, 1)[..., None]
    red, blue, white = np.array([178, 24, 43.0]), np.array([33, 102, 172.0]), np.array([255, 255, 255.0])
    color = white + np.where(level > 0, red - white, blue - white) * np.abs(level)
    return np.where(np.isnan(values)[..., None], 0, color).astype(np.uint8)


def error_map(share: np.ndarray) -> np.ndarray:
    """Black where exact, white at the tolerance, red beyond; the largest over all leading axes."""
    worst = np.nan_to_num(share, nan=np.inf).reshape(-1, *share.shape[-2:]).max(0)
    grey = np.repeat((255 * np.clip(worst, 0, 1)).astype(np.uint8)[..., None], 3, axis=2)
    grey[worst > 1] = (255, 0, 0)
    return grey


def grey_difference(difference: np.ndarray) -> np.ndarray:
    """|difference| in grey levels, four times brighter; black where it is NaN."""
    level = np.clip(4 * np.abs(np.nan_to_num(difference)), 0, 255).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=2)


def output_pictures(row: Equation, name: str, output: np.ndarray) -> list[Picture]:
    """One picture per output or per block of channels it consists of; channels are averaged, the first pair is shown.

    An output that is a flow (blocks u, v) comes in the colour wheel, so operators of later stems need nothing here.
    """
    image = output[0] if output.ndim == 4 else output[0, :, 0]
    if output.dtype == bool:
        return [Picture(name, np.repeat((255 * image[0]).astype(np.uint8)[..., None], 3, axis=2))]
    if row.blocks == ("u", "v"):
        flow = np.stack([half.mean(0) for half in np.split(image, 2)])
        limit = float(np.percentile(np.hypot(*flow), 95)) or 1.0
        return [Picture(f"{name}, mean over channels; full colour at {limit:.2g} px", flow_to_color(flow, limit))]
    if row.blocks:
        blocks = zip(row.blocks, np.split(image, len(row.blocks)), strict=True)
        return [Picture(f"{block}, mean over channels", signed_map(part.mean(0))) for block, part in blocks]
    image = np.where(np.isinf(image), 0.0, image)  # what a border rule excludes
    return [Picture(f"{name}, mean over channels", signed_map(image.mean(0)))]


def scene_pictures(scene: Scene) -> tuple[list[Picture], str]:
    """The frames, the flow, and what warping the second frame back by it leaves; with a sentence on the last."""
    import torch

    from motionspec.ops.brightness import constancy_residual

    f0, f1 = (image.astype(np.float32).mean(2)[None, None] for image in (scene.first, scene.second))
    residual, mask = constancy_residual(
        *(torch.from_numpy(np.ascontiguousarray(a)) for a in (f0, f1, scene.flow[None]))
    )
    inside = mask[0, 0].numpy()
    before, after = (f1 - f0)[0, 0], residual[0, 0].numpy()
    speed = np.hypot(*np.nan_to_num(scene.flow))
    pictures = [
        Picture("first frame", scene.first),
        Picture("second frame", scene.second),
        Picture(
            f"flow ({scene.flow_source}); full colour at {speed.max():.2g} px, black where unknown",
            flow_to_color(scene.flow),
        ),
        Picture("|second - first| x 4", grey_difference(before)),
        Picture(
            "|second warped back by the flow - first| x 4, black where it leaves the frame", grey_difference(after)
        ),
        wheel(),
    ]
    if not inside.any():
        return pictures, "No pixel has a known flow that stays within the frame."
    a, b = float(np.abs(before[inside]).mean()), float(np.abs(after[inside]).mean())
    text = (
        f"Mean grey difference of the frames {a:.2f}; after warping the second back by the flow {b:.2f} "
        f"({100 * inside.mean():.0f} % of the pixels: flow known, source within the frame)."
    )
    if b > a:
        text += " Warping makes it worse: this flow does not belong to these frames, or points the other way."
    return pictures, text


def pyramid(first: np.ndarray, second: np.ndarray, device: str) -> np.ndarray:
    """The flow (2, H, W) of two grey frames by `tvl1.pyramid_flow` with its defaults."""
    import torch

    from motionspec.ops import tvl1

    images = [torch.tensor(grey, dtype=torch.float32, device=device)[None, None] for grey in (first, second)]
    return tvl1.pyramid_flow(*images)[0].cpu().numpy()


def estimators(scene: Scene, device: str) -> dict[str, np.ndarray]:
    """The flow that each finds between the frames of a scene; no motion is what all of them have to beat."""
    grey = [image.astype(np.float64).mean(2) for image in (scene.first, scene.second)]
    found = {"tvl1.pyramid_flow": pyramid(grey[0], grey[1], device)}
    if min(grey[0].shape) >= DIS_SIDE:
        found["OpenCV's DIS, not motionspec's"] = estimated_flow(scene.first, scene.second)[0]
    return found | {"no motion": np.zeros_like(scene.flow)}


def estimates(scene: Scene, device: str) -> tuple[list[Estimate], str]:
    """What each estimator finds, and what it is held against, in words; no words without a true flow."""
    known = np.isfinite(scene.flow).all(0)
    judged = scene.true and bool(known.any())
    flows = estimators(scene, device)
    limit = max(float(np.percentile(np.hypot(*flow), 99)) for flow in flows.values()) or 1.0
    found = []
    for name, flow in flows.items():
        picture = Picture(f"flow by {name}; full colour at {limit:.2g} px", flow_to_color(flow, limit))
        found.append(Estimate(name, picture, errors(flow, scene.flow, known) if judged else ()))
    where = f"flow {scene.flow_source}, on the {known.sum()} of {known.size} pixels where it is known"
    return found, where if judged else ""


def errors(flow: np.ndarray, truth: np.ndarray, known: np.ndarray) -> tuple[float, float, float]:
    """Those of ERRORS: means over the pixels where the truth is known."""
    import torch

    from motionspec.ops import metrics

    pair = [torch.tensor(np.nan_to_num(f), dtype=torch.float64)[None] for f in (flow, truth)]
    mask = torch.tensor(known)[None, None]
    outliers = 100 * metrics.outlier_rate(*pair, mask=mask)
    measured = metrics.endpoint_error(*pair, mask=mask), outliers, metrics.angular_error(*pair, mask=mask)
    return float(measured[0]), float(measured[1]), float(measured[2])


def wheel() -> Picture:
    """The colour of every direction and length."""
    y, x = np.mgrid[-60:61, -60:61] / 60.0
    disc = np.where((np.hypot(x, y) <= 1)[..., None], flow_to_color(np.stack([x, y]), 1.0), 255).astype(np.uint8)
    return Picture("the wheel: colour is direction, saturation is length", disc, exact=True)


# -- the command -------------------------------------------------------------------------------------------------------


def usable(device: str | None) -> str:
    """The device, by default CUDA if there is any. Raises CannotRun where torch cannot compute on it."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a CPU build of torch asserts that there is CUDA
        raise CannotRun(f"--device {device}: {str(error).splitlines()[0]}") from error
    return device


def demo(
    inputs: Sequence[str],
    flow: str | None,
    output: str,
    pairs: int,
    device: str,
    progress: Progress,
    *,
    model: str | None = None,
    weights: str | None = None,
    options: Mapping[str, str] | None = None,
) -> int:
    """Run it all, print the table, write `output`/report.html. Returns 0 when all agree, 1 when not."""
    if model is None and (weights or options):
        raise CannotRun("--weights and --set belong to a network: --model NAME")
    if model is not None and len(inputs) != 1:
        raise CannotRun(f"--model takes one video, got {len(inputs)} files")
    try:
        import cv2  # noqa: F401
        import jinja2  # noqa: F401
        import skimage  # noqa: F401
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise CannotRun(f"demo needs {error.name}: pip install 'motionspec[demo]'") from error
    usable(device)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotRun(f"-o {output}: {error.strerror}") from error
    try:
        found = scenes(inputs, flow, pairs, progress)
        network = None
        if model is not None:
            from motionspec.cli.demo_model import run_network

            network = run_network(model, inputs[0], weights, options or {}, device, progress)
    except ValueError as error:  # VideoError is one too
        raise CannotRun(str(error)) from error

    jobs = [(row, dict(variant)) for row in shown_equations() for variant in row.variants]
    shown = []
    for n, scene in enumerate(found):
        H, W = scene.first.shape[:2]
        height, width = min(H, CROP), min(W, CROP)
        top, left = (H - height) // 2, (W - width) // 2
        whole, crop = Inputs(scene, 0, 0, H, W), Inputs(scene, top, left, height, width)
        results = []
        for done, (row, variant) in enumerate(jobs, 1):
            progress(f"{row.id} {settings(variant)}", n * len(jobs) + done, len(found) * len(jobs))
            results.append(run(row, variant, whole, crop, device))
        pictures, text = scene_pictures(scene)
        where = f"crop of {width} x {height} pixels at ({left}, {top}) of {W} x {H}"
        shown.append(Shown(scene, pictures, text, where, f"{width} x {height}", results, *estimates(scene, device)))
    environment = said_environment(device)
    path = write_report(folder, "every operator against its equation", environment, scenes=shown, network=network)
    for one in shown:
        print(text_report(one))
    if network is not None:
        print("\n".join([*network.text, ""]))
    print(environment)
    print(f"report: {path.resolve()}")
    return 0 if all(result.verdict.ok for one in shown for result in one.results) else 1


def said_environment(device: str) -> str:
    """What computed it, in one line."""
    import cv2
    import torch

    return (
        f"motionspec {motionspec.__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"OpenCV {cv2.__version__}; device {device}, {torch.get_num_threads()} threads, {DTYPE}"
    )


def write_report(
    folder: Path, title: str, environment: str, *, scenes: Sequence[Shown] = (), network: "Ran | None" = None
) -> Path:
    """Write folder/report.html, which needs no other file, and return its path."""
    import jinja2

    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    )
    html = template.render(
        title=title,
        scenes=scenes,
        network=network,
        environment=environment,
        number=number,
        used=used,
        settings=settings,
        sources=EQUATIONS,
        errors=ERRORS,
    )
    path = folder / "report.html"
    write_text(path, html)
    return path


def text_report(one: Shown) -> str:
    """Title, warping sentence, table of the operators and, where the flow is known, of estimates of one scene."""
    times = (f"operator ms on {one.size}", f"oracle ms on {one.size}")
    header = ("equation", "variant", "worst error", "tolerance", "used", "verdict", *times)
    rows = [
        [
            r.row.id,
            settings(r.variant) or "-",
            number(r.verdict.error),
            number(r.verdict.tolerance),
            used(r.verdict),
            r.verdict.kind,
            f"{r.milliseconds:.2f}",
            f"{r.oracle_milliseconds:.2f}",
        ]
        for r in one.results
    ]
    lines = [one.scene.title, one.text, f"Errors and times are of a {one.crop}, of operator and oracle alike."]
    lines += ["", table(header, rows, right=header[2:5] + header[6:]), ""]
    if one.judged:
        errors = table(("estimated flow", *ERRORS), [[e.name, *e.said] for e in one.estimates], right=ERRORS)
        lines += [f"Mean errors of whole frames against the {one.judged}:", "", errors, ""]
    return "\n".join(lines)
