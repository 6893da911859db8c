"""Result files, `results/<version>/<machine>--<device>.json`, as results.schema.json describes them."""

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from measure import environment, slug

Row = dict[str, Any]
SCHEMA = Path(__file__).with_name("results.schema.json")


def key(row: Mapping[str, Any]) -> str:
    """What a row is about: the same in every file."""
    return json.dumps([row[part] for part in ("operator", "sizes", "options", "sweep", "dtype", "direction")])


def save(folder: Path, device: str, rows: Iterable[Row], key: Callable[[Row], str] = key) -> Path:
    """Write rows beside those that the file has, if it is of the same commit and environment; else begin it anew.

    Rows of one key are the same.
    """
    here = environment(device)
    path = folder / here["versions"]["motionspec"] / f"{slug(here['machine'])}--{slug(here['device'])}.json"
    kept: dict[str, Row] = {}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["environment"] == here:
            kept = {key(row): row for row in before["rows"]}
    kept |= {key(row): row for row in rows}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = {"schema": 1, "date": date, "environment": here, "rows": [kept[k] for k in sorted(kept)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def rounded(value: Any) -> Any:
    """Floats to four digits, which is more than their spread allows."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
