"""What the files of exact versions hold is what pyproject.toml declares: `constraints.txt`, and `lowest.txt`."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TESTED = [extra for name, extra in PROJECT["optional-dependencies"].items() if name != "mutants"]
DECLARED = [Requirement(line) for lines in (PROJECT["dependencies"], *TESTED) for line in lines]
OTHERS = {requirement.name: requirement for requirement in DECLARED if requirement.name != "motionspec"}
each_declared = pytest.mark.parametrize("declared", OTHERS.values(), ids=OTHERS.keys())


def exact(name):
    """The version of each package in a file, by its canonical name."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


LOWEST, USED = exact("lowest.txt"), exact("constraints.txt")


@each_declared
def test_the_lowest_version_is_the_bound_that_is_declared(declared):
    (specifier,) = declared.specifier
    bound = Version(specifier.version)
    lowest = LOWEST[canonicalize_name(declared.name)]
    assert specifier.operator == ">="
    assert (lowest.major, lowest.minor) == (bound.major, bound.minor) and lowest >= bound


@each_declared
def test_the_version_in_use_is_admitted(declared):
    assert USED[canonicalize_name(declared.name)] in declared.specifier
