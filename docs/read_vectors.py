"""Run a function on the golden vectors of `motionspec vectors` and write back what it returns. Needs NumPy only.

python read_vectors.py VECTORS RESULTS [EQUATION FILE.py:FUNCTION]; motionspec check EQUATION --vectors-result RESULTS
"""

import hashlib
import io
import json
import runpy
import sys
from pathlib import Path

import numpy as np


def run(vectors, results, equation, function, dtype="float64"):
    """Call function(inputs, parameters, cotangents) -> (list of outputs, gradients by name) on each case of `equation`.

    Arrays come by name. No cotangents: no gradients are asked for. Returns the number of cases.
    """
    manifest = json.loads(Path(vectors, "manifest.json").read_bytes())
    if manifest["schema"] != 2:
        refuse(f"{vectors}: is of schema {manifest['schema']}, this reads 2: write the vectors again")
    cases = [case for case in manifest["cases"] if case["id"] == equation and dtype in case["exact_in"]]
    if not cases or dtype == "bfloat16":
        there = ", ".join(sorted({case["id"] for case in manifest["cases"]}))
        refuse(f"{vectors}: no cases of {equation} for {dtype} arrays of NumPy; there are those of {there}")
    for case in cases:
        data, path = Path(vectors, case["file"]).read_bytes(), Path(results, case["file"])
        if hashlib.sha256(data).hexdigest() != case["sha256"]:
            refuse(f"{case['file']} is damaged: write the vectors again")
        arrays = {k: a.astype(dtype) if a.dtype == "<f8" else a for k, a in np.load(io.BytesIO(data)).items()}
        inputs, cotangents = ({p["name"]: arrays[p["array"]] for p in case[k]} for k in ("inputs", "cotangents"))
        outputs, gradients = function(inputs, case["parameters"], cotangents)
        found = {p["array"]: output for p, output in zip(case["outputs"], outputs, strict=True)}
        found |= {p["array"]: gradients[p["name"]] for p in case["gradients"] if p["name"] in gradients}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found)
    return len(cases)


def refuse(line):
    print(line, file=sys.stderr)
    sys.exit(2)


def difference(inputs, parameters, cotangents):
    gradients = {"f_prev": -w, "f_next": w} if (w := cotangents.get("Ft")) is not None else {}
    return [inputs["f_next"] - inputs["f_prev"]], gradients


if __name__ == "__main__":
    if len(sys.argv) not in (3, 5):
        refuse(__doc__.splitlines()[2])
    vectors, results, equation, target = (*sys.argv[1:], "off.temporal_difference", f"{__file__}:difference")[:4]
    file, _, name = target.rpartition(":")
    print(run(vectors, results, equation, runpy.run_path(file)[name]), f"cases of {equation}")
