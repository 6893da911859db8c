"""Networks at speed (`make bench-networks`): `Inference` beside plain eager float32 and the same under torch.compile.

On CUDA at the papers' sizes, with targets; on the CPU reduced (`reduced`), where only the ratios say something. Most of
the time is torch's, for compiling: so on the CPU cases are left out that others resemble, and of the branches of a
network that is there as a whole only plain eager is a peer. What a case gives is written at once.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from measure import Others, peak, rate, ratio, spread, times
from results import save
from torch import nn

from motionspec.cli.text import table
from motionspec.models import DisplacementMap
from motionspec.models.inference import TOLERANCE, Inference
from motionspec.models.table import networks, operations
from motionspec.models.tables import ablation

SECONDS = 1.0  # for each way of a case, in all its rounds
FASTER = 4  # issue 5: everywhere at least 4 times as fast as plain eager float32, on CUDA


# On the CPU: half the width and the sides, one clip, and of the ResNets the smallest.
SHALLOW = {name: {"depth": 18} for name in ("repflow", "off-rfcn", "off-tsm")}
WIDTH, PART = 1 / 2, 2


Networks = tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class Case:
    """What is timed together: networks (name, arguments on the full-size ones; "map": a displacement map) and a clip.

    batch: of clips on CUDA. target, paper: frames a second, or, where `per` is "ms", milliseconds for a batch. cpu: the
    peers there; without one the case is left out.
    """

    name: str
    networks: Networks
    clip: tuple[int, ...]  # T, H, W
    batch: int = 1
    per: str = "frames/s"
    paper: float | None = None
    target: float | None = None
    cpu: tuple[str, ...] = ("plain", "compiled")


def row(name: str, paper: str, table: str, label: str, batch: int = 8, **options: Any) -> Case:
    """A row of a paper's table as the paper timed it, on a clip of the network's full size."""
    found = ablation(paper, table, label).as_timed
    _, *clip = networks()[found[0][0]].input
    return Case(name, found, tuple(clip), batch, **{"paper": PRINTED.get((paper, table, label)), **options})


def displacement_map(name: str, label: str, **options: Any) -> Case:
    """The map alone of a row of DC18's Table 3: within the row's radius, of the 64 channels of its convolution."""
    ((network, arguments),) = ablation("DC18", "Table 3", label).as_timed
    with torch.device("meta"):
        whole = networks()[network].build(**{**networks()[network].arguments, **arguments})
    _, T, H, W = networks()[network].input
    map_clip = (T, H // whole.stride, W // whole.stride)
    return Case(name, (("map", {"radius": whole.radius}),), map_clip, 8, **options)


# The speeds that the papers print beside these rows: frames a second, and RF19's milliseconds for a clip and OFF20's
# for a frame.
PRINTED: dict[tuple[str, str, str], float] = {
    ("OFF18", "Table 1", "TSN(RGB)"): 680,
    ("OFF18", "Table 2", "RGB + OFF(RGB)"): 450,
    ("OFF18", "Table 2", "RGB + OFF(RGB) + RGB Diff + OFF(RGB Diff)"): 206,
    ("DC18", "Table 3", "Disp. Map (112x112)"): 190,
    ("DC18", "Table 9", "Static App."): 840,
    ("DC18", "Table 9", "Motion"): 53,
    ("DC18", "Table 9", "App. Change"): 51,
    ("DC18", "Table 9", "Overall"): 41,
    ("RF19", "Table 9", "Ours (2D CNN + Rep. Flow)"): 524,
    ("RF19", "Table 9", "Ours (2D CNN + FcF)"): 576,
    ("RF19", "Table 9", "Ours ((2+1)D CNN + Rep. Flow)"): 622,
    ("OFF20", "Table 7", "RFCN+OFF(MS)"): 137.7,
}
_ALONE: dict[str, Any] = {"cpu": ("plain",)}  # a branch of a network that is there as a whole
_ON_A_GPU: dict[str, Any] = {"cpu": ()}
_CLIP: dict[str, Any] = {"batch": 1, "per": "ms"}
_OFF_OF_BOTH = "RGB + OFF(RGB) + RGB Diff + OFF(RGB Diff)"
_FACTORED = "Ours ((2+1)D CNN + Rep. Flow)"
CASES = (
    row("TSN RGB", "OFF18", "Table 1", "TSN(RGB)", 32, target=20_000),
    row("RGB + OFF(RGB)", "OFF18", "Table 2", "RGB + OFF(RGB)", 32, target=13_500),
    row("RGB, RGB-diff and OFF of both", "OFF18", "Table 2", _OFF_OF_BOTH, 32, target=6_200, **_ON_A_GPU),
    displacement_map("displacement map 112", "Disp. Map (112x112)", target=60_000),
    # 15.4 ms a frame stand in brackets in Table 9.
    displacement_map("displacement map 224", "Disp. Map (224x224)", target=15_000, paper=65),
    row("motion branch 112", "DC18", "Table 3", "Disp. Map (112x112)", target=12_000, **_ON_A_GPU),
    row("motion branch 224", "DC18", "Table 9", "Motion", target=5_000, **_ALONE),
    row("disentangled", "DC18", "Table 9", "Overall", target=4_000),
    row("disentangled: static", "DC18", "Table 9", "Static App.", **_ALONE),
    row("disentangled: change", "DC18", "Table 9", "App. Change", **_ALONE),
    row("representation flow 2D", "RF19", "Table 9", "Ours (2D CNN + Rep. Flow)", target=6, **_CLIP),
    row("flow-conv-flow", "RF19", "Table 9", "Ours (2D CNN + FcF)", target=7, **_CLIP, **_ON_A_GPU),
    row("representation flow (2+1)D", "RF19", "Table 9", _FACTORED, target=8, **_CLIP, **_ON_A_GPU),
    row("R-FCN + OFF", "OFF20", "Table 7", "RFCN+OFF(MS)", target=6, **_CLIP),
    row("TSM + OFF", "OFF20", "Table 5", "Our method"),
    row("DnCNN + OFF", "OFF20", "Table 9", "DnCNN_OFF(3)"),
    row("ActionFlowNet", "AF18", "Table 1", "ActionFlowNet (UCF101)"),
)


def built(name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, int]:
    """The network and how many channels its frames have."""
    if name == "map":
        return DisplacementMap(**arguments), 64
    full = networks()[name]
    given = {**full.arguments, **arguments}
    return full.build(**given), {"rgb-diff": 15}.get(given.get("modality", ""), full.input[0])


def reduced(name: str, arguments: Mapping[str, Any], clip: tuple[int, ...]) -> tuple[dict[str, Any], tuple[int, ...]]:
    """What of a case a CPU affords."""
    T, H, W = clip
    arguments = {**arguments} if name == "map" else {**arguments, "width": WIDTH} | SHALLOW.get(name, {})
    return arguments, (T, H // PART, W // PART)


def measured(
    name: str,
    arguments: Mapping[str, Any],
    clip: tuple[int, ...],
    batch: int,
    device: str,
    beside: tuple[str, ...],
) -> Any:
    """Seconds, memory and operations of one network, beside those peers; nothing is timed before it agrees."""
    if device == "cpu":
        (arguments, clip), batch = reduced(name, arguments, clip), 1
    torch.compiler.reset()  # of one forward there are only so many compiled ones
    torch.manual_seed(0)
    network, channels = built(name, arguments)
    network = network.to(device).eval()
    given = torch.rand(batch, channels, *clip, device=device)
    fast = Inference(network, tuple(given.shape))  # type: ignore[arg-type]
    ways = {"plain": network, "compiled": torch.compile(network, dynamic=False), "fast": fast}
    calls = {key: lambda turn=0, call=ways[key]: call(given) for key in (*beside, "fast")}  # type: ignore[misc]
    with torch.no_grad():
        want, got = network(given).float(), fast(given)
        error = ((got - want).abs().max() / want.abs().max()).item()
        if not error <= TOLERANCE[fast.dtype]:
            raise ValueError(f"Inference differs from the plain float32 forward by {error:.2g}")
        for call in calls.values():
            call()
        memory = {key: peak(call, device) for key, call in calls.items()}
        with Others() as others:
            spent = times(calls, device, SECONDS)
    meta = built(name, arguments)[0].to("meta").eval()
    return {
        "network": name,
        "arguments": {key: str(value) for key, value in arguments.items()},
        "clip": list(given.shape),
        "dtype": str(fast.dtype).removeprefix("torch."),
        "error": error,
        "seconds": spread(spent["fast"]),
        **{key: ratio(spent[key], spent["fast"]) for key in beside},
        "peak": memory,
        "operations": operations(meta, torch.empty(given.shape, device="meta")),
        "others": others.share,
    }


def line(case: Case, rows: list[Any], rates: Mapping[str, float]) -> tuple[dict[str, Any], list[str]]:
    """A case from its networks: what is kept, and what is shown."""
    seconds = sum(row["seconds"]["median"] for row in rows)
    slow = {
        key: f"x {sum(row['seconds']['median'] * row[key]['median'] for row in rows) / seconds:.2f}"
        for key in ("plain", "compiled")
        if key in rows[0]
    }
    N, _, T, *_ = rows[0]["clip"]
    value = 1e3 * seconds if case.per == "ms" else N * T / seconds
    count, rate = sum(row["operations"] for row in rows), rates[rows[0]["dtype"]]
    found = {"case": case.name, "per": case.per, "value": value, "rate": rate, "share": count / seconds / rate}
    memory = [row["peak"]["fast"] for row in rows]
    shown = [
        case.name,
        "x".join(map(str, rows[0]["clip"])),
        rows[0]["dtype"],
        f"{N * T / seconds:.4g}",
        f"{1e3 * seconds:.4g}",
        slow["plain"],
        slow.get("compiled", "-"),
        f"{count / 1e9:.3g}",
        f"{found['share']:.0%}",
        "-" if None in memory else f"{max(memory) / 1e6:.0f}",
        f"{max(row['others'] or 0 for row in rows):.0%}",
    ]
    return {**found, "rows": rows}, shown


def outcome(case: Case, found: Mapping[str, Any] | None, device: str) -> str:
    """Of the target, and of being FASTER than plain eager float32."""
    if found is None or device != "cuda":
        return "not measured here"
    met = case.target is None or (found["value"] <= case.target if case.per == "ms" else found["value"] >= case.target)
    faster = all(row["plain"]["high"] >= FASTER for row in found["rows"])
    return "met" if met and faster else "MISSED" + ("" if faster else f": not {FASTER} x plain float32")


HEADER = ("case", "clip", "type", "frames/s", "ms", "plain", "compiled", "GFLOP", "of the rate", "peak MB", "others")


def run(cases: Sequence[Case], device: str, folder: Path | None) -> tuple[dict[str, Any], list[list[str]], list[str]]:
    """Of each case what is kept and what is shown; of those that fail, why. In `folder` each is written at once."""
    rates = {"float32": rate(device, torch.float32), "bfloat16": rate(device, torch.bfloat16)}
    kept: dict[str, Any] = {}
    lines, failed = [], []
    seen: dict[str, Any] = {}  # a network may be in more than one case
    for number, case in enumerate(cases, start=1):
        start = time.perf_counter()
        beside = case.cpu if device == "cpu" else ("plain", "compiled")
        try:
            rows = []
            for name, arguments in case.networks:
                key = repr((name, arguments, case.clip, case.batch, beside))
                if key not in seen:
                    seen[key] = measured(name, arguments, case.clip, case.batch, device, beside)
                rows.append(seen[key])
        except Exception as error:  # the others are measured nevertheless
            said = f"{case.name}: {type(error).__name__}: {error}".strip().splitlines()[0]
            failed.append(said)
        else:
            kept[case.name], shown = line(case, rows, rates)
            lines.append(shown)
            said = f"{case.name}: plain {shown[5]}, compiled {shown[6]}"
            if folder:
                save(folder / "networks", device, [kept[case.name]], itemgetter("case"))
        print(f"{number} of {len(cases)}, {time.perf_counter() - start:.0f} s: {said}", file=sys.stderr, flush=True)
    return kept, lines, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="keep what was measured there")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = [case for case in CASES if arguments.only in case.name and (case.cpu or device == "cuda")]
    if not cases:
        parser.error(
            f"--only {arguments.only}: no such case on {device}; there are {', '.join(case.name for case in CASES)}"
        )
    kept, lines, failed = run(cases, device, arguments.results)
    print(table(HEADER, lines, right=HEADER[3:]))
    print(
        "\nplain, compiled: times of eager float32, and of the same under torch.compile, over those of Inference;\n"
        "GFLOP: convolutions, matrix products, displacement maps, representation flow; of the rate: of a matrix\n"
        "product's, measured here; others: share of the cores that others took meanwhile\n"
    )
    outcomes = [(case, outcome(case, kept.get(case.name), device)) for case in cases]
    said = [(case.name, str(case.paper or "-"), f"{case.target or '-'} {case.per}", what) for case, what in outcomes]
    print(table(("target on an H200", "paper", "target", ""), said))
    print("".join(f"\nFAILED {what}" for what in failed))
    return 1 if failed or any(what.startswith("MISSED") for _, what in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
