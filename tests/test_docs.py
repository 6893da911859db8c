"""What the pages under docs/ say is so."""

import inspect
import re
from pathlib import Path

import pytest

from motionspec.refimpl.equations import EQUATIONS, SINGLE

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEST = re.compile(r"test_\w+\.py::\w+")
REFERENCES = {row.id: row.reference for row in EQUATIONS.values()} | {name: f for name, (_, f) in SINGLE.items()}
# id: what its docstring says under "Deviations", unless that is "none ..."
DEVIATIONS = {
    name: found[1]
    for name, function in REFERENCES.items()
    if (found := re.search(r"^Deviations: (?!none)(.*?)(?=^\S|\Z)", inspect.getdoc(function) or "", re.M | re.S))
}


def table_rows(page):
    """The cells of the rows of all tables of a page, without headers."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    rules = [i for i, row in enumerate(cells) if set("".join(row)) <= set("-: ")]
    return [[cell.strip() for cell in row] for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


@pytest.mark.parametrize("page", ["deviations.md", "conventions.md"])
def test_every_line_of_a_table_names_its_test(page):
    rows = table_rows(page)
    assert len(rows) >= 20
    for row in rows:
        assert len(row) == 5 and all(row), row
        assert TEST.search(row[-1]), row


def test_deviations_are_of_equations_that_exist():
    assert {row[0].strip("`") for row in table_rows("deviations.md")} <= REFERENCES.keys()


@pytest.mark.parametrize("name", DEVIATIONS)
def test_deviations_that_a_docstring_states_are_on_the_page_with_its_tests(name):
    tests = [row[-1] for row in table_rows("deviations.md") if row[0] == f"`{name}`"]
    assert tests, DEVIATIONS[name]
    assert set(TEST.findall(DEVIATIONS[name])) <= set(TEST.findall(" ".join(tests)))


def test_conventions_are_the_tests_of_their_file():
    tests = re.findall(r"^def (test_\w+)", Path(__file__).with_name("test_conventions.py").read_text(), re.M)
    page = (DOCS / "conventions.md").read_text(encoding="utf-8")
    assert [test for test in tests if f"test_conventions.py::{test}`" not in page] == []


def test_links_between_the_pages_lead_somewhere():
    for page in DOCS.glob("*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)  # code has brackets, too
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#]+)#?([^)]*)\)", text):
            assert (DOCS / path).is_file(), f"{page.name}: {path}"
            if anchor:
                headings = re.findall(r"^#+ (.*)", (DOCS / path).read_text(encoding="utf-8"), re.M)
                assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], anchor


def test_every_time_of_a_triton_kernel_is_said_to_be_predicted():
    """None has run on a GPU: so every block of the page that has a time says so."""
    text = (DOCS / "kernels.md").read_text(encoding="utf-8")
    triton = text[text.index("# Triton kernels") : text.index("# Kernels by numba")]
    blocks = [block for block in triton.split("\n\n") if re.search(r"\d (us|ms|ns)\b", block)]
    assert len(blocks) >= 5
    assert not [block for block in blocks if "predicted" not in block.lower()]
