"""What the README says is so."""

import re
from pathlib import Path

import pytest

from motionspec.cli.main import main, markdown_index

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)
SIDE_BY_SIDE, MINE, SUITE = (text for language, text in BLOCKS if language == "python")


def test_readme_is_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_index_is_the_table_s():
    index = README.split("<!-- index: motionspec list --markdown -->\n")[1].split("<!-- end -->")[0]
    assert index == markdown_index() + "\n", "run `motionspec list --markdown` and paste it into the README"


def test_example_of_spec_and_operator(capsys):
    pytest.importorskip("torch")
    assert len(SIDE_BY_SIDE.splitlines()) <= 12
    exec(SIDE_BY_SIDE, {})
    assert float(capsys.readouterr().out) < 1e-14


def test_example_of_a_network():
    pytest.importorskip("torch")
    namespace: dict = {}
    page = (ROOT / "docs/networks.md").read_text(encoding="utf-8")
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[0], namespace)
    parts = namespace["parts"]
    assert parts["scores"].shape == (1, 101) and {"scores28", "scores14", "scores7", "off7"} <= parts.keys()


def test_example_of_checking_one_s_own(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command, *shown = next(text for _, text in BLOCKS if text.startswith("$ motionspec check")).splitlines()
    assert main(command.split()[2:]) == 1
    out = capsys.readouterr().out
    assert all(line in out for line in shown if line.strip() != "...")
    namespace: dict = {}
    exec(SUITE, namespace)
    namespace["test_warp_is_grid_sample_s"]()


def test_every_file_and_make_target_that_it_names_exists():
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"make (\w+) ", README)) - {"is"} <= set(targets)
    for name in [*re.findall(r"`((?:tests|refimpl|ops|cli)/\w+\.py)", README), "CITATION.cff", "LICENSE"]:
        assert (ROOT / name).is_file(), name
