"""Networks at speed (`make bench-networks`): `Inference` beside plain eager float32 and the same under torch.compile.

On CUDA at the papers' sizes, with targets; on the CPU narrow and small, where only the ratios say something.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import Others, environment, peak, rate, ratio, slug, spread, times
from results import rounded
from torch import nn

from motionspec.cli.text import table
from motionspec.models import DisplacementMap
from motionspec.models.inference import TOLERANCE, Inference
from motionspec.models.table import networks, operations

FASTER = 4  # issue 5: everywhere at least 4 times as fast as plain eager float32, on CUDA


@dataclass(frozen=True)
class Case:
    """What is timed together: networks (name, arguments on the full-size ones; "map": a displacement map) and a clip.

    batch: of clips on CUDA. target, paper: frames a second, or, where `per` is "ms", milliseconds for a batch.
    """

    name: str
    networks: tuple[tuple[str, Mapping[str, Any]], ...]
    clip: tuple[int, int, int]  # T, H, W
    batch: int = 1
    per: str = "frames/s"
    paper: float | None = None
    target: float | None = None


_SEGMENTS, _SNIPPET, _VIDEO = (7, 224, 224), (8, 224, 224), (32, 224, 224)
_FLOW = {"depth": 34}
_BRANCHES = [
    Case(f"disentangled: {branch}", (("disentangled", {"branches": (branch,)}),), _SNIPPET, 8)
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
    ),
    Case("motion branch 224", _BRANCHES[1].networks, _SNIPPET, 8, paper=53, target=5_000),
    Case("disentangled", (("disentangled", {}),), _SNIPPET, 8, paper=41, target=4_000),
    _BRANCHES[0],
    _BRANCHES[2],
    Case("representation flow 2D", (("repflow", _FLOW),), _VIDEO, per="ms", paper=524, target=6),
    Case(
        "flow-conv-flow", (("repflow", {**_FLOW, "motion": "flow-conv-flow"}),), _VIDEO, per="ms", paper=576, target=7
    ),
    Case(
        "representation flow (2+1)D", (("repflow", {**_FLOW, "kind": "(2+1)D"}),), _VIDEO, per="ms", paper=622, target=8
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


def measured(name: str, arguments: Mapping[str, Any], clip: tuple[int, int, int], batch: int, device: str) -> Any:
    """Seconds, memory and operations of one network; nothing is timed before it agrees."""
    if device == "cpu":
        arguments = dict(arguments) if name == "map" else {**arguments, "width": 1 / 4}
        clip, batch = (clip[0], clip[1] // 4, clip[2] // 4), 1
    torch.manual_seed(0)
    network, channels = built(name, arguments)
    network = network.to(device).eval()
    given = torch.rand(batch, channels, *clip, device=device)
    fast = Inference(network, tuple(given.shape))  # type: ignore[arg-type]
    compiled = torch.compile(network)
    with torch.no_grad():
        want, got = network(given).float(), fast(given)
        compiled(given)
        error = ((got - want).abs().max() / want.abs().max()).item()
        calls = {"plain": network, "compiled": compiled, "fast": fast}
        memory = {key: peak(lambda call=call: call(given), device) for key, call in calls.items()}  # type: ignore[misc]
        with Others() as others:
            spent = times({key: lambda turn, call=call: call(given) for key, call in calls.items()}, device, 2.0)
    meta = built(name, arguments)[0].to("meta").eval()
    return {
        "network": name,
        "arguments": {key: str(value) for key, value in arguments.items()},
        "clip": list(given.shape),
        "dtype": str(fast.dtype).removeprefix("torch."),
        "error": error,
        "agrees": error <= TOLERANCE[fast.dtype],
        "seconds": spread(spent["fast"]),
        "plain": ratio(spent["plain"], spent["fast"]),
        "compiled": ratio(spent["compiled"], spent["fast"]),
        "peak": memory,
        "operations": operations(meta, torch.empty(given.shape, device="meta")),
        "others": others.share,
    }


def line(case: Case, rows: list[Any], rates: Mapping[str, float]) -> tuple[dict[str, Any], list[str]]:
    """A case from its networks: what is kept, and what is shown."""
    seconds = sum(row["seconds"]["median"] for row in rows)
    slow = {key: sum(row["seconds"]["median"] * row[key]["median"] for row in rows) for key in ("plain", "compiled")}
    N, _, T, *_ = rows[0]["clip"]
    value = 1e3 * seconds if case.per == "ms" else N * T / seconds
    count = sum(row["operations"] for row in rows)
    share = count / seconds / rates[rows[0]["dtype"]]
    found = {"case": case.name, "per": case.per, "value": value, "share of the rate": share, "rows": rows}
    memory = [row["peak"]["fast"] for row in rows]
    shown = [
        case.name,
        "x".join(map(str, rows[0]["clip"])),
        rows[0]["dtype"],
        f"{N * T / seconds:.4g}",
        f"{1e3 * seconds:.4g}",
        *(f"x {time / seconds:.2f}" for time in slow.values()),
        f"{count / 1e9:.3g}",
        f"{share:.0%}",
        "-" if None in memory else f"{max(memory) / 1e6:.0f}",
        f"{max(row['others'] or 0 for row in rows):.0%}",
        "yes" if all(row["agrees"] for row in rows) else f"NO, by {max(row['error'] for row in rows):.1g}",
    ]
    return found, shown


def outcome(case: Case, found: Mapping[str, Any] | None, device: str) -> str:
    """Of the target, and of being FASTER than plain eager float32."""
    if found is None or device != "cuda":
        return "not measured here"
    met = case.target is None or (found["value"] <= case.target if case.per == "ms" else found["value"] >= case.target)
    faster = all(row["plain"]["high"] >= FASTER for row in found["rows"])
    return "met" if met and faster else "MISSED" + ("" if faster else f": not {FASTER} x plain float32")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="keep what was measured there")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = {"float32": rate(device, torch.float32), "bfloat16": rate(device, torch.bfloat16)}
    kept, lines = {}, []
    for case in [case for case in CASES if arguments.only in case.name]:
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        rows = [measured(name, given, case.clip, case.batch, device) for name, given in case.networks]
        kept[case.name], shown = line(case, rows, rates)
        lines.append(shown)
    if not lines:
        parser.error(f"--only {arguments.only}: no such case; there are {', '.join(case.name for case in CASES)}")
    header = (
        "case",
        "clip",
        "type",
        "frames/s",
        "ms",
        "plain",
        "compiled",
        "GFLOP",
        "of the rate",
        "peak MB",
        "others",
        "agrees",
    )
    print(table(header, lines, right=header[3:11]))
    print(
        "\nplain, compiled: times of eager float32, and of the same under torch.compile, over those of Inference;\n"
        "GFLOP: convolutions and matrix products alone; others: share of the cores that others took meanwhile\n"
    )
    outcomes = [(case, outcome(case, kept.get(case.name), device)) for case in CASES]
    said = [(case.name, str(case.paper or "-"), f"{case.target or '-'} {case.per}", what) for case, what in outcomes]
    print(table(("target on an H200", "paper", "target", ""), said))
    if arguments.results:
        here = environment(device)
        name = f"{slug(here['machine'])}--{slug(here['device'])}.json"
        path = arguments.results / here["versions"]["motionspec"] / "networks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        content = {"schema": 1, "date": date, "environment": here, "rates": rates, "cases": list(kept.values())}
        path.write_text(json.dumps(rounded(content), indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten: {path}")
    wrong = [shown[0] for shown in lines if shown[-1] != "yes"]
    return 1 if wrong or any(what.startswith("MISSED") for _, what in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
