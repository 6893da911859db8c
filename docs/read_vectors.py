"""Run a function on the golden vectors of `motionspec vectors` and write back what it returns. Needs NumPy only.

python read_vectors.py VECTORS RESULTS; motionspec check off.temporal_difference --vectors-result RESULTS
"""

import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np


def run(vectors, results, equation, function, dtype="float64"):
    """Call function(inputs, parameters, cotangents) -> (list of outputs, gradients by name) on each case of `equation`.

    Arrays come by name. No cotangents: no gradients are asked for. Returns the number of cases.
    """
    manifest = json.loads(Path(vectors, "manifest.json").read_bytes())
    assert manifest["schema"] == 1, f"{vectors}: schema {manifest['schema']}, this reads 1"
    cases = [case for case in manifest["cases"] if case["id"] == equation and dtype in case["exact_in"]]
    for case in cases:
        data, path = Path(vectors, case["file"]).read_bytes(), Path(results, case["file"])
        if hashlib.sha256(data).hexdigest() != case["sha256"]:
            sys.exit(f"{case['file']} is damaged: write the vectors again")
        arrays = {k: a.astype(dtype) if a.dtype == "<f8" else a for k, a in np.load(io.BytesIO(data)).items()}
        inputs, cotangents = ({p["name"]: arrays[p["array"]] for p in case[k]} for k in ("inputs", "cotangents"))
        outputs, gradients = function(inputs, case["parameters"], cotangents)
        found = {p["array"]: output for p, output in zip(case["outputs"], outputs, strict=True)}
        found |= {p["array"]: gradients[p["name"]] for p in case["gradients"] if p["name"] in gradients}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found)
    return len(cases)


def difference(inputs, parameters, cotangents):
    gradients = {"f_prev": -w, "f_next": w} if (w := cotangents.get("Ft")) is not None else {}
    return [inputs["f_next"] - inputs["f_prev"]], gradients


if __name__ == "__main__":
    print(run(sys.argv[1], sys.argv[2], "off.temporal_difference", difference), "cases")
