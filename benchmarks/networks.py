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

SECONDS = 1.0  # for each way of a case, in all its rounds
FASTER = 4  # issue 5: everywhere at least 4 times as fast as plain eager float32, on CUDA


# On the CPU: half the width and the sides, one clip, and of the ResNets the smallest.
SHALLOW = {name: {"depth": 18} for name in ("repflow", "off-rfcn", "off-tsm")}
WIDTH, PART = 1 / 2, 2


@dataclass(frozen=True)
class Case:
    """What is timed together: networks (name, arguments on the full-size ones; "map": a displacement map) and a clip.

    batch: of clips on CUDA. target, paper: frames a second, or, where `per` is "ms", milliseconds for a batch. cpu: the
    peers there; without one the case is left out.
    """

    name: str
    networks: tuple[tuple[str, Mapping[str, Any]], ...]
    clip: tuple[int, int, int]  # T, H, W
    batch: int = 1
    per: str = "frames/s"
    paper: float | None = None
    target: float | None = None
    cpu: tuple[str, ...] = ("plain", "compiled")


_SEGMENTS, _SNIPPET, _VIDEO = (7, 224, 224), (8, 224, 224), (32, 224, 224)
_FLOW = {"depth": 34}
_BRANCHES = [
    Case(f"disentangled: {branch}", (("disentangled", {"branches": (branch,)}),), _SNIPPET, 8, cpu=("plain",))
    for branch in ("static", "motion", "change")
]
# The displacement map alone is of the 64 channels of the shared convolution, radius 10 at 224.
CASES = (
    Case("TSN RGB", (("tsn", {}),), _SEGMENTS, 32, paper=680, target=20_000),
    Case("RGB + OFF(RGB)", (("off-tsn", {}),), _SEGMENTS, 32, paper=450, target=13_500),
    Case(
        "RGB, RGB-diff and OFF of both",
        (("off-tsn", {}), ("off-tsn", {"modality": "rgb-diff"})),
        _SEGMENTS,
        32,
        paper=206,
        target=6_200,
        cpu=(),
    ),
    Case("displacement map 112", (("map", {"radius": 5}),), (8, 112, 112), 8, target=60_000),
    Case("displacement map 224", (("map", {"radius": 10}),), _SNIPPET, 8, paper=65, target=15_000),
    Case(
        "motion branch 112",
        (("disentangled", {"branches": ("motion",), "stride": 2}),),
        _SNIPPET,
        8,
        paper=190,
        target=12_000,
        cpu=(),
    ),
    Case("motion branch 224", _BRANCHES[1].networks, _SNIPPET, 8, paper=53, target=5_000, cpu=("plain",)),
    Case("disentangled", (("disentangled", {}),), _SNIPPET, 8, paper=41, target=4_000),
    _BRANCHES[0],
    _BRANCHES[2],
    Case("representation flow 2D", (("repflow", _FLOW),), _VIDEO, per="ms", paper=524, target=6),
    Case(
        "flow-conv-flow",
        (("repflow", {**_FLOW, "motion": "flow-conv-flow"}),),
        _VIDEO,
        per="ms",
        paper=576,
        target=7,
        cpu=(),
    ),
    Case(
        "representation flow (2+1)D",
        (("repflow", {**_FLOW, "kind": "(2+1)D"}),),
        _VIDEO,
        per="ms",
        paper=622,
        target=8,
        cpu=(),
    ),
    Case("R-FCN + OFF", (("off-rfcn", {}),), (2, 600, 1000), per="ms", paper=137.7, target=6),
    Case("TSM + OFF", (("off-tsm", {}),), _SNIPPET, 8),
    Case("DnCNN + OFF", (("off-dncnn", {}),), (3, 256, 448), 8),
    Case("ActionFlowNet", (("actionflownet", {}),), (16, 224, 224), 8),
)


def built(name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, int]:
    """The network and how many channels its frames have."""
    if name == "map":
        return DisplacementMap(**arguments), 64
    row = networks()[name]
    given = {**row.arguments, **arguments}
    return row.build(**given), {"rgb-diff": 15}.get(given.get("modality", ""), row.input[0])


def reduced(
    name: str, arguments: Mapping[str, Any], clip: tuple[int, int, int]
) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """What of a case a CPU affords."""
    T, H, W = clip
    arguments = {**arguments} if name == "map" else {**arguments, "width": WIDTH} | SHALLOW.get(name, {})
    return arguments, (T, H // PART, W // PART)


def measured(
    name: str,
    arguments: Mapping[str, Any],
    clip: tuple[int, int, int],
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
