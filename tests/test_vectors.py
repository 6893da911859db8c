"""Golden vectors: what `motionspec vectors` writes, and how `check --vectors-result` judges what comes back."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from generated import each_row

from motionspec.cli.cases import DTYPES, is_large, is_smooth, rounded
from motionspec.cli.compare import compare, forward_tolerance
from motionspec.cli.main import main
from motionspec.refimpl import row as row_module
from motionspec.refimpl.equations import EQUATIONS, SINGLE

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = json.loads((ROOT / "cli" / "vectors.schema.json").read_text())
READER = ROOT / "docs" / "read_vectors.py"
# A flow and a border rule; infinities and a pair as parameter; a list, a mask and a number as output; a second output
# that is bool; no gradient, and NaN.
IDS = (
    "warp.bilinear",
    "costvol.cosine",
    "losses.multiscale_endpoint_error",
    "brightness.constancy_residual",
    "metrics.per_class_accuracy",
)
WARP = "warp.bilinear"
# With every kind of input between them.
KINDS = (
    "warp.bilinear",
    "costvol.cosine",
    "costvol.hard_displacement",
    "losses.multitask",
    "pool3d.late",
    "tvl1.normalise",
    "tvl1.representation_flow",
    "detection.ps_roi_pool",
    "detection.encode_boxes",
)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """The golden vectors of a few equations."""
    folder = tmp_path_factory.mktemp("golden") / "vectors"
    assert main(["vectors", *IDS, "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def manifest(vectors):
    return json.loads((vectors / "manifest.json").read_text())


@pytest.fixture
def command(capsys):
    """`motionspec ...` in this process: (status, stdout, stderr)."""

    def run(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


def one_line(result, *parts):
    """The one line on stderr of a question that cannot be asked; it holds all `parts`."""
    status, out, err = result
    assert (status, out) == (2, ""), err or out
    assert err.startswith("motionspec: ") and err.count("\n") == 1, err
    assert all(str(part) in err for part in parts), err


def load(path):
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def entries(manifest, equation):
    return [case for case in manifest["cases"] if case["id"] == equation]


def answer(vectors, manifest, results, *ids, dtype="float64", change=lambda name, array: array):
    """Results as a perfect implementation would write them: outputs and gradients as stored, rounded to `dtype`."""
    for case in manifest["cases"]:
        if case["id"] in ids and dtype in case["exact_in"]:
            arrays = load(vectors / case["file"])
            found = {}
            for part in [*case["outputs"], *case["gradients"]]:
                if dtype in part["tolerances"]:
                    value = change(part["array"], arrays[part["array"]])
                    found[part["array"]] = value.astype(dtype) if value.dtype.kind == "f" else value
            (results / case["file"]).parent.mkdir(parents=True, exist_ok=True)
            np.savez(results / case["file"], **found)
    return results


@pytest.fixture
def results(tmp_path, vectors, manifest):
    """Right results for warp.bilinear, for a test to spoil."""
    return answer(vectors, manifest, tmp_path / "results", WARP)


def judged(command, results, vectors, *more, equation=WARP):
    return command("check", equation, "--vectors-result", results, "--vectors", vectors, *more)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_manifest_and_every_case_fit_the_schema(vectors, manifest):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(manifest)
    for change in ({"schema": 1}, {"seed": -1}, {"cases": []}, {"more": 1}):
        assert not validator.is_valid(manifest | change)
    case = manifest["cases"][0]
    for change in ({"sha256": "0"}, {"outputs": []}, {"exact_in": ["float8"]}, {"more": 1}):
        assert not validator.is_valid(manifest | {"cases": [case | change]})
    for case in manifest["cases"]:
        told = json.loads(load(vectors / case["file"])["case"].tobytes())
        assert told | {"file": case["file"], "sha256": case["sha256"]} == case | {"schema": 2}


def test_files_are_as_the_manifest_says(vectors, manifest):
    assert {case["id"] for case in manifest["cases"]} == set(IDS)
    written = {str(path.relative_to(vectors)) for path in vectors.rglob("*.npz")}
    assert written == {case["file"] for case in manifest["cases"]}
    for case in manifest["cases"]:
        data = (vectors / case["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == case["sha256"]
        arrays = load(vectors / case["file"])
        parts = [*case["inputs"], *case["outputs"], *case["cotangents"], *case["gradients"]]
        assert {part["array"] for part in parts} | {"case"} == set(arrays)
        for part in parts:
            array = arrays[part["array"]]
            assert (array.dtype.str, list(array.shape)) == (part["dtype"], part["shape"])
            assert array.dtype.str in ("<f8", "|b1", "<i8") and array.flags.c_contiguous


def test_outputs_are_the_reference_s_and_every_variant_is_there(vectors, manifest):
    for equation in IDS:
        row = EQUATIONS[equation]
        found = entries(manifest, equation)
        asked = [json.dumps(case["parameters"]) for case in found]
        assert set(asked) == {json.dumps(dict(v)) for v in row.variants}
        assert len(found) == 56 * len(row.variants)
        for case in found:
            arrays = load(vectors / case["file"])
            inputs = {part["name"]: arrays[part["array"]] for part in case["inputs"]}
            parameters = {k: tuple(v) if isinstance(v, list) else v for k, v in case["parameters"].items()}
            want = row.reference(**inputs, **parameters)
            for part, w in zip(case["outputs"], want if isinstance(want, tuple) else (want,), strict=True):
                assert compare(arrays[part["array"]], w, 1e-12, 1e-12).ok


def test_gradients_are_those_of_the_cotangents(vectors, manifest):
    """Of a directional difference of the sum of cotangent * output, which needs nothing but the file and the oracle."""
    row = EQUATIONS[WARP]
    smooth = [case for case in entries(manifest, WARP) if case["gradients"]]
    assert {case["number"] for case in smooth} == {
        case["number"] for case in entries(manifest, WARP) if is_smooth(case["number"])
    }
    assert not any(case["kinks"] for case in smooth)
    for case in smooth:
        arrays = load(vectors / case["file"])
        x, flow = arrays["input.x"], arrays["input.flow"]
        for name, kept in (("x", {"flow": flow}), ("flow", {"x": x})):
            value = arrays[f"input.{name}"]
            step = 1e-7 * np.abs(value).max()
            along = np.cos(np.arange(value.size)).reshape(value.shape)
            ahead, behind = (
                row.reference(**{name: value + sign * step * along}, **kept, **case["parameters"]) for sign in (1, -1)
            )
            slope = np.sum(arrays["cotangent.warped"] * (ahead - behind)) / (2 * step)
            got = np.sum(arrays[f"gradient.{name}"] * along)
            assert got == pytest.approx(slope, rel=1e-5, abs=1e-5 * np.abs(arrays["input.x"]).max())


@each_row()
def test_each_type_sees_each_size_with_its_gradient(row):
    from motionspec.cli.vectors import cases_of

    every = {tuple(case.sizes(0).values()) for case in cases_of(row) if case.k < 48 and not is_large(case.k)}
    for dtype in DTYPES:
        found = [case for case in cases_of(row) if case.v == 0 and dtype in case.dtypes]
        for smooth in (True, False):
            assert every <= {tuple(case.sizes(0).values()) for case in found if is_smooth(case.k) == smooth}
        gradients = [case for case in found if dtype in case.gradient_dtypes]
        assert not row.differentiable or every <= {tuple(case.sizes(0).values()) for case in gradients}
        large = sum(is_large(case.k) for case in found if is_smooth(case.k))
        assert large >= 4 or (row.long_sums and dtype != "float64" and not large)


@each_row()
def test_inputs_are_exact_in_the_types_that_are_promised(row):
    from motionspec.cli.vectors import cases_of

    promised = {case.dtypes for case in cases_of(row)}
    assert promised == {DTYPES, DTYPES[:2], DTYPES[:1]}
    for case in cases_of(row):
        for name, array in case.inputs(0).items():
            for dtype in case.dtypes:
                assert array.dtype != np.float64 or np.array_equal(rounded(array, dtype), array), (case, name, dtype)


@each_row()
def test_every_row_fits_the_schema(row):
    """Without gradients, which take torch and time."""
    jsonschema = pytest.importorskip("jsonschema")
    from motionspec.cli.vectors import cases_of

    schema = SCHEMA | {"$ref": "#/$defs/case"}
    del schema["type"], schema["properties"], schema["required"], schema["additionalProperties"]
    validator = jsonschema.Draft202012Validator(schema)
    for case in cases_of(row)[::7]:
        validator.validate(json.loads(json.dumps(case.entry(case.known(0)))))


@each_row()
def test_the_cases_are_enough_to_reject_every_plausible_mistake(row):
    """In float32 and, with it, in float64; one of 1e-6 only in float64. The largest inputs first: most show there."""
    from motionspec.cli.runner import Request, Runner
    from motionspec.cli.vectors import cases_of, part_of

    cases = [case for case in cases_of(row) if case.v == 0 and "float32" in case.dtypes]
    known = {case: case.known(0) for case in cases}
    runner = Runner(None)

    def rejects(mutant, case, dtype):
        arrays, wants = known[case], part_of(known[case], "output")
        inputs = part_of(arrays, "input")
        passed = runner.accepted(mutant, (*case.variant, *row.keyword))
        request = Request(
            {name: array for name, array in inputs.items() if name not in row.keyword or name in passed},
            {key: value for key, value in case.variant.items() if key in passed},
            keyword=row.keyword,
            expected=tuple(want.shape for want in wants.values()),
        )
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            outcome = runner.perform(mutant, request)
        return not outcome.outputs or not all(
            compare(got, want, *case.tolerance(f"output.{name}", dtype)).ok
            for got, (name, want) in zip(outcome.outputs, wants.items(), strict=True)
        )

    for label, mutant in row.mutants:
        dtype = "float64" if "1e-6" in label else "float32"
        assert any(rejects(mutant, case, dtype) for case in reversed(cases)), label


def test_tolerances_are_the_judge_s(manifest):
    for case in manifest["cases"]:
        row = EQUATIONS[case["id"]]
        for part in case["outputs"]:
            assert list(part["tolerances"]) == case["exact_in"]
            # Outputs of degree 0 are of magnitude 1 in every case; the others at the first case's scale.
            if row.degree[row.outputs.index(part["name"])] == 0 or case["number"] < 1:
                for dtype, bound in part["tolerances"].items():
                    assert (bound["relative"], bound["absolute"]) == forward_tolerance(row, dtype, 1.0)


def test_same_seed_same_bytes_other_seed_other_inputs(tmp_path, vectors, manifest, command):
    assert command("vectors", WARP, "-o", tmp_path / "again")[0] == 0
    assert command("vectors", WARP, "-o", tmp_path / "other", "--seed", 7)[0] == 0
    for case in entries(manifest, WARP):
        assert (tmp_path / "again" / case["file"]).read_bytes() == (vectors / case["file"]).read_bytes()
        mine, theirs = load(vectors / case["file"]), load(tmp_path / "other" / case["file"])
        if mine["input.x"].size > 6:
            assert not np.array_equal(mine["input.x"], theirs["input.x"])


def test_inputs_are_the_same_bytes_on_every_machine():
    """Of every kind of input. Another digest means other vectors for everybody: that is a change of the schema."""
    from motionspec.cli.vectors import cases_of

    digest, kinds = hashlib.sha256(), set()
    for equation in KINDS:
        row = EQUATIONS[equation]
        row.inputs(lambda _, shape, kind: kinds.add(kind.split(":")[0]) or np.ones(shape), **dict.fromkeys(row.dims, 2))
        for case in cases_of(row):
            for name, array in case.inputs(0).items():
                digest.update(name.encode() + array.astype(array.dtype.newbyteorder("<")).tobytes())
    described = set(re.findall(r'^    kind "(\w+)', row_module.__doc__, re.M))
    assert kinds == described
    assert digest.hexdigest() == "00176c82eb768cf0b0f568abd261dffe8211851a5bc18e8fa92e177f64a5ac4d"


def test_files_are_what_simple_readers_of_zip_understand(vectors, manifest):
    """Stored, no zip64, no data descriptor, no extra field, version 1.0 of npy: what cnpy reads."""
    for case in entries(manifest, WARP)[:3]:
        data = (vectors / case["file"]).read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.comment == b""
            for info in archive.infolist():
                assert (info.compress_type, info.flag_bits, info.extra) == (zipfile.ZIP_STORED, 0, b"")
                assert info.date_time == (1980, 1, 1, 0, 0, 0)
                header = data[info.header_offset : info.header_offset + 30]
                assert int.from_bytes(header[18:22], "little") == info.file_size
                assert archive.read(info)[:8] == b"\x93NUMPY\x01\x00"


def test_what_has_no_vectors_is_said(vectors, manifest):
    assert manifest["absent"].keys() == SINGLE.keys()


def test_stems_may_be_named(tmp_path, command):
    status, out, _ = command("vectors", "pool3d", "-o", tmp_path / "v")
    manifest = json.loads((tmp_path / "v" / "manifest.json").read_text())
    assert {case["id"] for case in manifest["cases"]} == {i for i in EQUATIONS if i.startswith("pool3d.")}
    assert status == 0 and f"{len(manifest['cases'])} cases of 3 equations" in out and str(tmp_path / "v") in out


@pytest.mark.parametrize(
    "ids, parts",
    [
        (["warp.bilnear"], ["no equation 'warp.bilnear'. Did you mean warp.bilinear?"]),
        (["detection.nms"], ["detection.nms has no row"]),
        (["sampling"], ["no equation 'sampling'"]),
    ],
)
def test_what_cannot_be_written_is_one_line(ids, parts, tmp_path, command):
    one_line(command("vectors", *ids, "-o", tmp_path / "v"), *parts)
    assert not (tmp_path / "v").exists()


def test_an_old_folder_is_not_written_into(tmp_path, command):
    (tmp_path / "file").write_text("mine")
    one_line(command("vectors", WARP, "-o", tmp_path), tmp_path, "not empty")
    one_line(command("vectors", WARP, "-o", tmp_path / "file"), tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_operator_whose_gradient_is_not_the_oracle_s_writes_nothing(tmp_path, command, monkeypatch):
    from motionspec.cli import runner
    from motionspec.ops import off

    monkeypatch.setattr(runner, "_LOADED", {})
    monkeypatch.setattr(off, "temporal_difference", lambda a, b: b - 2 * a + a.detach())
    one_line(
        command("vectors", "off.temporal_difference", "-o", tmp_path / "v"),
        "off.temporal_difference: gradient of f_prev",
        "motionspec check off.temporal_difference --grad",
    )
    assert not (tmp_path / "v" / "manifest.json").exists()


# -- what comes back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("equation", IDS)
def test_right_results_agree(equation, dtype, tmp_path, vectors, manifest, command):
    folder = answer(vectors, manifest, tmp_path, equation, dtype=dtype)
    status, out, err = judged(command, folder, vectors, equation=equation)
    row = EQUATIONS[equation]
    assert status == 0, out + err
    count = len(row.variants) * (1 + len(row.differentiable))
    assert out.endswith(f"{count} of {count} agree\n")
    numbers = {"float64": 56, "float32": 52, "float16": 44}
    assert re.search(rf"{dtype} +value +(\d+ of )?{numbers[dtype]} ", out)


def test_vectors_need_not_be_there(results, command):
    """They are computed anew from the seed."""
    status, out, _ = command("check", WARP, "--vectors-result", results)
    assert status == 0 and out.endswith("6 of 6 agree\n")
    status, out, _ = command("check", WARP, "--vectors-result", results, "--seed", 3)
    assert status == 1 and "differs" in out and "held against the vectors of seed 3" in out


def test_bfloat16_comes_in_another_type_and_is_judged_by_its_name(tmp_path, vectors, manifest, command):
    change = lambda name, array: rounded(array, "bfloat16")  # noqa: E731
    folder = answer(vectors, manifest, tmp_path / "a", WARP, dtype="float16", change=change)
    for path in folder.rglob("*.npz"):  # float32 holds every bfloat16
        np.savez(path, **{name: array.astype(np.float32) for name, array in load(path).items()})
    assert judged(command, folder, vectors, "--dtype", "bfloat16")[0] == 0
    status, out, _ = judged(command, folder, vectors)
    assert status == 1 and "what differs: the precision (agrees to bfloat16's)" in out
    one_line(judged(command, folder, vectors, "--dtype", "float32,bfloat16"), "--dtype", "one")


def test_more_results_than_the_type_allows_are_not_judged_and_the_report_says_so(tmp_path, vectors, manifest, command):
    folder = answer(vectors, manifest, tmp_path, WARP)
    for path in folder.rglob("*.npz"):
        np.savez(path, **{name: array.astype(np.float32) for name, array in load(path).items()})
    status, out, _ = judged(command, folder, vectors)
    assert status == 0 and "agrees (4 more not judged: their inputs are not exact in float32)" in out


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda a: a + 1e-6 * (np.arange(a.size).reshape(a.shape) == a.size - 1), ["differs", "expected", "got"]),
        (lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, np.nan, a), ["returns NaN", "got      nan"]),
        (lambda a: a * 0, ["differs"]),
        (lambda a: -a, ["what differs: the sign of warped"]),
        (lambda a: a[..., None], ["wrong shape", "output.warped has shape (1, 1, 1, 1, 1), expected (1, 1, 1, 1)"]),
        (lambda a: a.sum(), ["wrong shape", "output.warped has shape ()"]),
        (lambda a: a + 0j, ["wrong dtype", "output.warped has dtype complex128, expected float64"]),
        (lambda a: a.astype(int), ["wrong dtype", "output.warped has dtype int64, expected float64"]),
        (lambda a: np.full(a.shape, "x"), ["wrong dtype", "output.warped has dtype str32, expected float64"]),
    ],
)
def test_wrong_results_differ(change, says, results, vectors, manifest, command):
    for path in results.rglob("v1*.npz"):
        arrays = load(path)
        np.savez(path, **arrays | {"output.warped": change(arrays["output.warped"])})
    status, out, _ = judged(command, results, vectors)
    assert status == 1 and all(text in out for text in says), out
    assert out.endswith("5 of 6 agree\n")


def test_a_wrong_gradient_differs_at_its_element(results, vectors, command):
    path = results / WARP / "v0-00.npz"
    arrays = load(path)
    arrays["gradient.flow"][0, 1, 2, 3] += 1e-3
    np.savez(path, **arrays)
    status, out, _ = judged(command, results, vectors)
    assert status == 1 and "first wrong: warp.bilinear/v0-00.npz: gradient.flow[0, 1, 2, 3] (1 of 120 elements" in out
    want = float(load(vectors / WARP / "v0-00.npz")["gradient.flow"][0, 1, 2, 3])
    assert f"expected {want!r}" in out and f"got      {want + 1e-3!r}" in out


def test_the_line_that_reproduces_a_failure_prints_it(results, vectors, command):
    path = results / WARP / "v0-00.npz"
    arrays = load(path)
    np.savez(path, **arrays | {"output.warped": arrays["output.warped"] + 1})
    _, out, _ = judged(command, results, vectors)
    line = out.split("reproduce (prints got, expected):\n")[1].splitlines()[0].strip().removeprefix("python")
    done = subprocess.run(sys.executable + line, shell=True, capture_output=True, text=True, check=True)
    want = float(load(vectors / WARP / "v0-00.npz")["output.warped"].flat[0])
    assert done.stdout == f"{want + 1} {want}\n"


def test_the_line_that_reproduces_a_failure_needs_no_vectors(results, vectors, command):
    path = results / WARP / "v0-00.npz"
    arrays = load(path)
    np.savez(path, **arrays | {"output.warped": arrays["output.warped"] + 1})
    _, out, _ = command("check", WARP, "--vectors-result", results)
    line = out.split("reproduce (prints got, expected):\n")[1].splitlines()[0].strip().removeprefix("python")
    done = subprocess.run(sys.executable + line, shell=True, capture_output=True, text=True, check=True)
    want = float(load(vectors / WARP / "v0-00.npz")["output.warped"].flat[0])
    assert done.stdout == f"{want + 1} {want}\n"


def test_a_result_of_the_wrong_shape_hides_no_wrong_values(results, vectors, command):
    paths = sorted((results / WARP).glob("v0-*.npz"))
    for n, path in enumerate(paths):
        arrays = load(path)
        warped = -arrays["output.warped"]
        np.savez(path, **arrays | {"output.warped": warped[..., None] if n == 5 else warped})
    paths[7].unlink()
    _, out, _ = judged(command, results, vectors)
    assert "what differs: the sign of warped" in out
    came = len(paths) - 1
    assert re.search(rf"^  wrong shape on 1 of {came} cases.*v0-05.npz: output.warped has shape", out, re.M), out
    assert re.search(rf"^  missing on 1 of {came} cases.*there is no .*v0-07.npz", out, re.M), out
    assert re.search(rf"^  differs on \d+ of {came} cases", out, re.M), out


def test_missing_results_are_a_failure(results, vectors, command):
    (results / WARP / "v0-00.npz").unlink()
    status, out, _ = judged(command, results, vectors)
    assert status == 1 and re.search(r"outside=zero +float64 +value +55 .* missing\n", out)
    assert f"there is no {results / WARP / 'v0-00.npz'}; 1 of 56 results is missing" in out
    for path in results.rglob("*.npz"):
        path.unlink()
    one_line(judged(command, results, vectors), results / WARP, "no results", "warp.bilinear/v0-00.npz")
    shutil.rmtree(results / WARP)
    one_line(judged(command, results, vectors), results / WARP, "no results")
    results.rmdir()
    one_line(judged(command, results, vectors), results, "no such folder")


def test_gradients_come_all_or_not_at_all(results, vectors, command):
    path = results / WARP / "v0-00.npz"
    np.savez(path, **{k: v for k, v in load(path).items() if k != "gradient.x"})
    status, out, _ = judged(command, results, vectors)
    assert status == 1 and re.search(r"gradient of x .* missing\n", out) and "has no gradient.x" in out
    for path in results.rglob("*.npz"):
        np.savez(path, **{k: v for k, v in load(path).items() if k != "gradient.x"})
    status, out, _ = judged(command, results, vectors)
    assert status == 0 and "gradient of flow" in out and "gradient of x" not in out
    status, out, _ = judged(command, results, vectors, "--grad")
    assert status == 1 and re.search(r"gradient of x .* missing\n", out)


def test_one_variant_may_be_judged_alone(results, vectors, command):
    for path in results.rglob("v1*.npz"):
        path.unlink()
    assert judged(command, results, vectors)[0] == 1
    status, out, _ = judged(command, results, vectors, "--variant", "outside=zero")
    assert status == 0 and out.endswith("3 of 3 agree\n")


def test_a_number_may_come_as_one_element(tmp_path, vectors, manifest, command):
    """cnpy cannot write a shape ()."""
    equation = "losses.multiscale_endpoint_error"
    folder = answer(vectors, manifest, tmp_path, equation, change=lambda name, array: np.atleast_1d(array))
    assert judged(command, folder, vectors, equation=equation)[0] == 0


BAD_FILES = {
    "truncated": (lambda data: data[: len(data) // 2], "cannot be read"),
    "empty": (lambda data: b"", "cannot be read"),
    "text": (lambda data: b"hello world, " * 9, "holds a pickle"),
    "bit flipped": (lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:], "cannot be read"),
    "one array, not a zip": (lambda data: npy(np.zeros(3)), "one array"),
    "not arrays": (lambda data: zipped(readme=b"hello"), "readme is no array"),
    "empty zip": (lambda data: zipped(), "has no arrays"),
    "objects": (lambda data: saved(**{"output.warped": np.array([{}, None])}), "holds a pickle"),
    "another name": (lambda data: saved(warped=np.zeros(3)), "output.warped"),
    "one array too many": (
        lambda data: saved(**dict(np.load(io.BytesIO(data))), warped=np.zeros(3)),
        "warped, which is none of output.warped, gradient.x, gradient.flow",
    ),
    "an enormous header": (
        lambda data: zipped(**{"output.warped.npy": npy(np.zeros(3)).replace(b"(3,)", b"(99999999999999,)")}),
        "cannot be read",
    ),
}


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def saved(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_bad_result_file_is_one_line(bad, results, vectors, command):
    path = results / WARP / "v0-00.npz"
    change, says = BAD_FILES[bad]
    path.write_bytes(change(path.read_bytes()))
    one_line(judged(command, results, vectors), path, says)


def test_a_pickle_is_never_opened(results, vectors, command, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "opened",)

    np.savez(results / WARP / "v0-00.npz", **{"output.warped": np.array([Evil()], dtype=object)})
    one_line(judged(command, results, vectors), "v0-00.npz", "holds a pickle, which is never opened")
    assert not (tmp_path / "opened").exists()


def test_a_folder_in_the_place_of_a_result_is_one_line(results, vectors, command):
    path = results / WARP / "v0-00.npz"
    path.unlink()
    path.mkdir()
    one_line(judged(command, results, vectors), path)


def test_foreign_results_are_one_line(results, vectors, command):
    path = results / WARP / "v0-00.npz"
    path.rename(path.with_name("v0_00.npz"))
    one_line(judged(command, results, vectors), path.with_name("v0_00.npz"), "no case of warp.bilinear")


# -- vectors that are not as they were written -------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path, vectors):
    """A copy of the vectors, for a test to spoil."""
    return Path(shutil.copytree(vectors, tmp_path / "copy"))


def rewrite(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("bad", ["truncated", "empty", "text", "bit flipped", "one array too many", "missing"])
def test_changed_vectors_are_one_line(bad, results, copy, command):
    path = copy / WARP / "v0-00.npz"
    if bad == "missing":
        path.unlink()
    else:
        path.write_bytes(BAD_FILES[bad][0](path.read_bytes()))
    one_line(judged(command, results, copy), path, "write the vectors again")


@pytest.mark.parametrize("name", ["input.x", "output.warped", "cotangent.warped"])
def test_changed_vectors_with_a_new_digest_are_one_line(name, results, copy, command):
    """The seed says what the inputs are, the oracle what comes out."""
    path = copy / WARP / "v0-02.npz"
    arrays = load(path)
    arrays[name].flat[0] += 1e-9
    np.savez(path, **arrays)
    cases = json.loads((copy / "manifest.json").read_text())["cases"]
    for case in cases:
        if case["file"] == f"{WARP}/v0-02.npz":
            case["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(copy, cases=cases)
    one_line(judged(command, results, copy), path, name, "write the vectors again")


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "manifest.json"),
        ("{", "manifest.json"),
        ("[]", "manifest.json"),
        ('{"schema": 2}', "manifest.json"),
        ('{"schema": 2, "seed": "0", "cases": []}', "manifest.json"),
        ('{"schema": 2, "seed": 0, "cases": 3}', "manifest.json"),
        ('{"schema": 2, "seed": 0, "cases": [{"file": "a"}]}', "manifest.json"),
        ('{"schema": 2, "motionspec": "0", "seed": 0, "cases": []}', "lists no warp.bilinear/v0-00.npz"),
        (
            '{"schema": 1}',
            "is of schema 1, and this motionspec reads 2: write the vectors again with `motionspec vectors`",
        ),
        ('{"schema": "2"}', "schema '2', and this motionspec reads 2"),
        ("\udcff", "manifest.json"),
    ],
)
def test_another_manifest_is_one_line(text, says, results, copy, command):
    (copy / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    one_line(judged(command, results, copy), copy / "manifest.json", says)


def test_vectors_that_are_not_there_are_one_line(results, tmp_path, command):
    one_line(judged(command, results, tmp_path / "no"), tmp_path / "no" / "manifest.json", "motionspec vectors")
    one_line(command("check", WARP, "--vectors", tmp_path), "--vectors-result")
    one_line(command("check", WARP, "--vectors-result", results, "--impl", "a:b"), "--impl")


# -- the reader without motionspec -------------------------------------------------------------------------------------

MINE = '''
import sys
sys.modules["motionspec"] = None  # importing it raises
sys.path.insert(0, sys.argv[1])
import numpy as np
import read_vectors


def warp(inputs, parameters, cotangents):
    """All at once, not in a loop: four taps, weights of the flow's fraction."""
    x, flow = inputs["x"], inputs["flow"]
    N, C, H, W = x.shape
    whole = np.floor(flow).astype(int)
    part = (flow - whole).astype(x.dtype)
    py, px = np.mgrid[:H, :W]
    out, dx, dflow = np.zeros_like(x), np.zeros_like(x), np.zeros_like(flow)
    inside = (px + flow[:, 0] >= 0) & (px + flow[:, 0] <= W - 1) & (py + flow[:, 1] >= 0) & (py + flow[:, 1] <= H - 1)
    if parameters["outside"] == "blend":
        inside[:] = True
    n = np.arange(N)[:, None, None]
    for a in (0, 1):
        for b in (0, 1):
            qx, qy = px + whole[:, 0] + a, py + whole[:, 1] + b
            on = inside & (qx >= 0) & (qx < W) & (qy >= 0) & (qy < H)
            sx, sy = np.clip(qx, 0, W - 1), np.clip(qy, 0, H - 1)
            wx, wy = (part[:, 0] if a else 1 - part[:, 0]), (part[:, 1] if b else 1 - part[:, 1])
            tap = np.where(on[..., None], x[n, :, sy, sx], 0)  # (N, H, W, C)
            out += (SCALE * (wx * wy)[..., None] * tap).transpose(0, 3, 1, 2)
            for w in cotangents.values():
                w = w.transpose(0, 2, 3, 1)
                np.add.at(dx, (n, slice(None), sy, sx), (on * wx * wy)[..., None] * w)
                dflow[:, 0] += (2 * a - 1) * wy * (tap * w).sum(-1)
                dflow[:, 1] += (2 * b - 1) * wx * (tap * w).sum(-1)
    return [out], {"x": dx, "flow": dflow}


SCALE = float(sys.argv[5])
print(read_vectors.run(sys.argv[2], sys.argv[3], "warp.bilinear", warp, sys.argv[4]))
'''


@pytest.mark.parametrize("dtype, cases", [("float64", 112), ("float32", 104)])
@pytest.mark.parametrize("scale, status", [(1.0, 0), (1.001, 1)], ids=["right", "wrong"])
def test_reader_needs_no_motionspec(dtype, cases, scale, status, tmp_path, vectors, command):
    words = [READER.parent, vectors, tmp_path / "out", dtype, scale]
    done = subprocess.run([sys.executable, "-c", MINE, *map(str, words)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{cases}\n"), done.stderr
    got, out, _ = judged(command, tmp_path / "out", vectors, "--grad")
    assert got == status, out
    assert ("the gain of warped: 1.001 times the expected" in out) == bool(status)


def test_reader_is_short_and_runs_as_a_script(tmp_path, command):
    assert len(READER.read_text().splitlines()) <= 65
    assert command("vectors", "off.temporal_difference", "-o", tmp_path / "v")[0] == 0
    line = [sys.executable, READER, tmp_path / "v", tmp_path / "r"]
    assert (
        subprocess.run(line, capture_output=True, text=True, check=True).stdout
        == "56 cases of off.temporal_difference\n"
    )
    assert judged(command, tmp_path / "r", tmp_path / "v", "--grad", equation="off.temporal_difference")[0] == 0
    (tmp_path / "v" / "off.temporal_difference" / "v0-03.npz").write_bytes(b"PK")
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2 and "v0-03.npz" in done.stderr and done.stderr.count("\n") == 1


def test_reader_names_what_it_looked_for_and_what_is_there(tmp_path, vectors):
    def refused(*words):
        done = subprocess.run([sys.executable, READER, *words], capture_output=True, text=True)
        assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
        return done.stderr

    says = refused(vectors, tmp_path / "r")
    assert "no cases of off.temporal_difference" in says and all(name in says for name in IDS)
    mine = tmp_path / "mine.py"
    mine.write_text("def f(inputs, parameters, cotangents): return list(inputs.values()), {}\n")
    assert "no cases of warp.bilnear" in refused(vectors, tmp_path / "r", "warp.bilnear", f"{mine}:f")
    assert "python read_vectors.py" in refused(vectors)
    old = tmp_path / "old"
    old.mkdir()
    (old / "manifest.json").write_text('{"schema": 1, "cases": []}')
    assert "is of schema 1, this reads 2: write the vectors again" in refused(old, tmp_path / "r")


ORACLE = """
from motionspec.refimpl.equations import EQUATIONS
from motionspec.refimpl.row import arguments


def f(inputs, parameters, cotangents):
    parameters = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
    found = EQUATIONS["NAME"].reference(**arguments(inputs), **parameters)
    return (list(found) if isinstance(found, tuple) else [found]), {}
"""


@pytest.mark.parametrize("equation", IDS)
def test_reader_answers_every_equation_from_a_file(equation, tmp_path, vectors, command):
    mine = tmp_path / "mine.py"
    mine.write_text(ORACLE.replace("NAME", equation))
    line = [sys.executable, READER, vectors, tmp_path / "r", equation, f"{mine}:f"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{56 * len(EQUATIONS[equation].variants)} cases of {equation}\n")
    assert judged(command, tmp_path / "r", vectors, equation=equation)[0] == 0
