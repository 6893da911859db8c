"""Writing where there is no room: one line with path and cause, nothing half-written, the old file whole."""

import json
import resource
from contextlib import contextmanager

import numpy as np
import pytest

from motionspec.cli.main import main
from motionspec.files import replaced


@contextmanager
def no_room(size=1000):
    """Files can have so many bytes: what a full disk says, another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path):
    (file := tmp_path / "x.bin").write_bytes(b"old")
    with pytest.raises(OSError) as found, no_room(), replaced(file) as opened:
        opened.write(bytes(5000))
    assert found.value.filename == str(file) and found.value.errno
    assert file.read_bytes() == b"old" and [*tmp_path.iterdir()] == [file]
    with replaced(file) as opened:
        opened.write(b"new")
    assert file.read_bytes() == b"new" and [*tmp_path.iterdir()] == [file]


def test_whatever_ends_the_writing_leaves_the_old_one(tmp_path):
    (file := tmp_path / "x.bin").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replaced(file) as opened:
        opened.write(b"ne")
        raise KeyboardInterrupt
    assert file.read_bytes() == b"old" and [*tmp_path.iterdir()] == [file]


def test_a_run_without_room_says_which_file_and_why(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from motionspec.train.runs import Run

    run = Run(tmp_path / "run", {}, resume=False)
    with pytest.raises(OSError) as found, no_room():
        try:
            run.save({"done": 0, "weights": torch.zeros(10_000)})
        finally:
            run.close()  # as `fit` does: it hides no error
    assert found.value.filename == str(tmp_path / "run" / "resume.pt")
    assert not (tmp_path / "run").exists()
    run = Run(tmp_path / "run", {}, resume=False)
    run.log(step=1, loss=1.0)
    with pytest.raises(OSError) as found, no_room():
        run.weights("best", torch.nn.Linear(100, 100))
    run.close()
    assert found.value.filename == str(tmp_path / "run" / "best.safetensors")
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_an_evaluation_without_room(tmp_path):
    pytest.importorskip("torch")
    cv2 = pytest.importorskip("cv2")
    assert cv2
    from test_evaluate import named

    from motionspec.train import evaluate

    with pytest.raises(OSError) as found, no_room():
        evaluate.write(tmp_path / "out", named(*(f"class {k}" for k in range(50))), {})
    assert found.value.filename == str(tmp_path / "out" / "result.json")
    assert not [*(tmp_path / "out").iterdir()]


def test_a_flow_cache_without_room(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("cv2")
    from motionspec.data import flow_cache

    # Not computed: numba would want to write its own cache.
    monkeypatch.setattr(flow_cache.tvl1, "pyramid_flow", lambda first, *_, **__: torch.zeros(1, 2, *first.shape[2:]))
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)

    class Source:
        classes, labels, names = (), (-1,), ("x",)

        def read(self, i, numbers):
            return frames

    with pytest.raises(OSError) as found, no_room():
        flow_cache.TVL1(Source(), tmp_path / "flow").flow(0, [0])
    assert found.value.filename.startswith(str(tmp_path / "flow"))
    assert not [path for path in (tmp_path / "flow").rglob("*") if path.is_file()]


def test_the_commands_without_room_are_one_line(tmp_path, capsys):
    pytest.importorskip("cv2")
    from clips import video

    for name in ("run", "sit"):
        (tmp_path / "data" / name).mkdir(parents=True)
        video(tmp_path / "data" / name / f"{'x' * 100}.avi", 5)
    (file := tmp_path / "found.json").write_text("old")
    with no_room(100):
        status = main(["data", "check", str(tmp_path / "data"), "--json", str(file)])
    err = capsys.readouterr().err
    assert status == 2 and err.count("\n") == 1 and f"--json {file}: " in err
    assert file.read_text() == "old" and {*tmp_path.iterdir()} == {file, tmp_path / "data"}
    with no_room(100):
        status = main(["check", "metrics.psnr", "--json", str(file)])
    err = capsys.readouterr().err
    assert status == 2 and err.count("\n") == 1 and f"--json {file}: " in err
    assert file.read_text() == "old"
    assert main(["check", "metrics.psnr", "--json", str(file)]) == 0
    assert json.loads(file.read_text())["agrees"]


def test_a_demo_without_room_is_one_line(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("jinja2")
    pytest.importorskip("skimage")
    cv2 = pytest.importorskip("cv2")
    from motionspec.cli import demo

    with pytest.raises(OSError) as found, no_room(2000):
        demo.write_report(tmp_path, "title", "environment " * 500)
    assert found.value.filename == str(tmp_path / "report.html") and not [*tmp_path.iterdir()]
    full = OSError(28, "No space left on device", "out/report.html")
    monkeypatch.setattr(demo, "shown_equations", list)
    monkeypatch.setattr(demo, "write_report", lambda *_, **__: (_ for _ in ()).throw(full))
    paths = [str(tmp_path / f"{k}.png") for k in range(2)]
    for path in paths:
        cv2.imwrite(path, np.zeros((36, 40, 3), np.uint8))
    assert main(["demo", *paths, "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "motionspec: out/report.html: No space left on device\n"
