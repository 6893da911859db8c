"""`motionspec models`: every network with what it costs, and one with its stages and arguments."""

import inspect
import json
import re

import pytest

torch = pytest.importorskip("torch")

from motionspec.cli.main import main  # noqa: E402
from motionspec.models.table import Network, networks  # noqa: E402


def command(capsys, *words):
    status = main(["models", *words])
    return status, *capsys.readouterr()


def test_the_list_has_every_network_with_its_cost(capsys, monkeypatch):
    costs = {name: row.cost() for name, row in networks().items()}
    monkeypatch.setattr(Network, "cost", lambda row: costs[row.name])  # counted once for three lists
    status, out, err = command(capsys)
    assert (status, err) == (0, "")
    _, _, *lines = out.split("\n\n")[0].splitlines()
    rows = {cells[0]: cells[1:] for cells in (re.split(r" {2,}", line) for line in lines)}
    assert list(rows) == list(networks())
    for name, (source, _, _, shape) in rows.items():
        assert source == networks()[name].source and shape == " x ".join(map(str, networks()[name].input))
    # Published: BN-Inception 2.03 G multiply-adds a frame, of 7; ResNet-50 4.09 G, of 8, and 25.6 M with 1000 classes.
    assert rows["tsn"][1:3] == ["10.4 M", "28.4 G"]
    assert rows["resnet"][1:3] == ["24.3 M", "65.4 G"]
    # 7 pairs of 64 channels, 224 x 224, see 21 x 21 offsets: 19.8 G beside the 65.2 G of the layers.
    assert rows["disentangled"][2] == "85.0 G"

    status, marked, err = command(capsys, "--markdown")
    assert (status, err) == (0, "")
    _, _, *lines = marked.splitlines()
    assert [line.strip("| ").split(" | ") for line in lines] == [[f"`{name}`", *cells] for name, cells in rows.items()]

    status, given, err = command(capsys, "--json")
    assert (status, err) == (0, "")
    for row, (name, cells) in zip(json.loads(given), rows.items(), strict=True):
        cost = [f"{row['parameters'] / 1e6:.1f} M", f"{row['operations'] / 1e9:.1f} G"]
        assert [row["name"], row["source"], *cost, " x ".join(map(str, row["input"]))] == [name, *cells]


@pytest.mark.parametrize("name", networks())
def test_a_network_has_its_stages_sources_and_arguments(capsys, name):
    row = networks()[name]
    status, out, err = command(capsys, name)
    assert (status, err) == (0, "")
    assert out.startswith(f"{name}   [{row.source}]\n") and inspect.getdoc(row.build).split("\n")[0] in out
    for stage in row.stages:
        shape = " x ".join(map(str, stage.shape))
        assert re.search(rf"^{re.escape(stage.module)} +{shape} +{re.escape(stage.source)}$", out, re.M), stage
    arguments = {**row.small, **row.arguments}
    for argument in arguments:
        assert re.search(rf"^  {argument} = ", out, re.M), argument
    for argument, value in row.arguments.items():
        assert re.search(rf"^  {argument} .*here {re.escape(repr(value))}$", out, re.M), argument
    status, given, err = command(capsys, name, "--json")
    assert (status, err) == (0, "")
    found = json.loads(given)
    assert found["stages"][0]["shape"] == list(row.stages[0].shape) and len(found["stages"]) == len(row.stages)
    assert arguments.keys() <= found["arguments"].keys() and row.arguments.items() <= found["arguments"].items()


def test_what_a_class_gives_its_base_is_no_argument(capsys):
    _, out, _ = command(capsys, "off-tsm", "--json")
    given = json.loads(out)["arguments"]
    assert {"depth", "scheme", "fusion"} <= given.keys() and not {"backbone", "taps", "channels"} & given.keys()


def test_a_name_that_is_none_gets_a_hint(capsys):
    status, out, err = command(capsys, "tns")
    assert (status, out) == (2, "")
    assert err == "motionspec: no network 'tns'. Did you mean tsn? `motionspec models` shows all\n"
    status, out, err = command(capsys, "tsn", "--markdown")
    assert (status, out) == (2, "") and err.startswith("motionspec: --markdown is for the list")
    with pytest.raises(SystemExit):
        main(["models", "--json", "--markdown"])
