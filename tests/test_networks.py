"""What every network owes (`motionspec.models.table`): its reference, its stage table, gradients, learning, exports."""

import functools
import importlib
import inspect
import io
import re
import sys
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import exports  # noqa: E402

from motionspec.models import DisplacementMap, RepresentationFlow  # noqa: E402
from motionspec.models.table import STEMS, networks, operations  # noqa: E402
from motionspec.models.tables import ABLATIONS  # noqa: E402

each_network = pytest.mark.parametrize("name", networks())
CASES = [(name, k) for name, row in networks().items() for k in range(len(row.cases()))]
each_case = pytest.mark.parametrize("name, k", CASES, ids=[f"{name}-{k}" for name, k in CASES])
FORM = r"^[\w.+-]+: \w+: expected .+, got .+"  # of a message about bad input


def small(name, k=0, seed=0):
    """The k-th case of a network, in float64 and eval mode; nothing in it is still zero or one as it starts."""
    torch.manual_seed(seed)
    arguments, _ = networks()[name].cases()[k]
    network = networks()[name].build(**arguments).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 2:
                parameter += 0.1 * torch.randn_like(parameter)
        for key, buffer in network.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return network


built = functools.cache(small)  # for tests that do not change it


def clip_of(name, k=0, seed=0, samples=2):
    _, shape = networks()[name].cases()[k]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, *shape, generator=generator, dtype=torch.float64)


def close(got, want, tolerance):
    """Elementwise, relative to the largest magnitude."""
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(np.abs(want).max(), 1e-300))


def predictions(network, clip):
    """Those of all parts that are made of numbers with derivatives."""
    return {key: part for key, part in network.parts(clip).items() if part.is_floating_point()}


def test_each_network_has_one_name_and_a_source():
    rows = [
        row
        for stem in STEMS
        if (module := sys.modules.get(f"motionspec.models.{stem}")) is not None
        for row in module.NETWORKS
    ]
    assert len({row.name for row in rows}) == len(rows) == len(networks())
    for row in rows:
        assert re.search(r"\b(OFF18|OFF20|RF19|DC18|AF18)\b", row.source)
        assert row.stages and all(stage.source for stage in row.stages)


@each_case
def test_agrees_with_the_reference(name, k):
    row, network, clip = networks()[name], built(name, k), clip_of(name, k)
    stem, function = row.reference.split(".")
    reference = getattr(importlib.import_module(f"motionspec.refimpl.{stem}"), function)
    arguments, _ = row.cases()[k]
    known = {key: value for key, value in arguments.items() if key in inspect.signature(reference).parameters}
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    want = reference(weights, clip.numpy(), **known)
    with torch.no_grad():
        got = network.parts(clip)
        assert torch.equal(network(clip), got["scores"] if "scores" in got else [*got.values()][-1])
    assert got.keys() == want.keys()
    for key in got:
        assert np.abs(want[key]).max() > 0, key
        close(got[key].numpy(), want[key], 1e-9)


@each_network
def test_full_size_has_the_stages_of_its_table(name):
    row = networks()[name]
    with torch.device("meta"):
        network = row.build(**row.arguments).eval()
        clip = torch.empty(1, *row.input)
    shapes = {}
    for stage in row.stages:

        def record(module, inputs, output, key=stage.module):
            shapes.setdefault(key, tuple(output.shape[1:]))

        network.get_submodule(stage.module).register_forward_hook(record)
    with torch.no_grad():
        network.parts(clip)
    assert shapes == {stage.module: stage.shape for stage in row.stages}


@each_network
def test_every_parameter_learns(name):
    """In training, but without dropout, which may leave nothing of a narrow layer."""
    row, network = networks()[name], small(name).train()
    without_dropout(network)
    parts = predictions(network, clip_of(name))
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (part * torch.randn(part.shape, generator=generator, dtype=part.dtype)).sum()
        for part in parts.values()
        if part.requires_grad
    )
    loss.backward()
    sizes = {
        key: parameter.grad.abs().max().item() if parameter.grad is not None else 0.0
        for key, parameter in network.named_parameters()
        if parameter.requires_grad
    }
    assert np.isfinite(list(sizes.values())).all()
    for pattern in row.exempt:
        assert any(re.fullmatch(pattern, key) for key in sizes), f"{pattern} exempts nothing"
    largest = max(sizes.values())
    idle = [key for key, size in sizes.items() if not size > 1e-8 * largest]
    assert not [key for key in idle if not any(re.fullmatch(pattern, key) for pattern in row.exempt)]
    if hasattr(network, "groups"):
        grouped = [id(p) for group in network.groups() for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in network.parameters() if p.requires_grad)


def without_dropout(network):
    for module in network.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.eval()


@each_network
def test_a_small_batch_can_be_learnt(name):
    row = networks()[name]
    torch.manual_seed(0)
    network = row.build(**row.small).train()
    without_dropout(network)
    clip = clip_of(name).float()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    first = None
    for _ in range(60):
        loss = row.loss(network, clip)
        first = loss.item() if first is None else first
        if loss.item() < 0.1 * first:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss only falls from {first:.3g} to {loss.item():.3g}")


@each_network
def test_inference_is_deterministic_and_each_sample_is_on_its_own(name):
    network, clip = built(name), clip_of(name)
    with torch.no_grad():
        both, again = network.parts(clip), network.parts(clip)
        alone = [network.parts(clip[n : n + 1]) for n in range(2)]
    for key in both:
        assert torch.equal(both[key], again[key])
        assert len(both[key]) == 2
        close(torch.cat([part[key] for part in alone]).numpy(), both[key].numpy(), 1e-11)


@each_network
def test_weights_survive_a_file(name):
    network, other = built(name), small(name, seed=1)
    clip = clip_of(name)
    with torch.no_grad():
        before = other(clip)
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other(clip), network(clip)) and not torch.equal(before, network(clip))


@each_network
def test_bad_arguments_are_refused_in_one_form(name):
    row, network, clip = networks()[name], built(name), clip_of(name)
    known = {key: parameter.default for key, parameter in inspect.signature(row.build).parameters.items()}
    for arguments, _ in row.cases():
        known |= arguments
    wrong = dict.fromkeys({"width", "classes"} & known.keys(), 0)
    wrong |= {key: "nonsense" for key, value in known.items() if isinstance(value, str)}
    wrong |= dict.fromkeys({"dropout", "spatial_dropout"} & known.keys(), 1.5)
    for argument, value in wrong.items():
        with pytest.raises(ValueError, match=FORM):
            row.build(**{**row.small, argument: value})
    for bad in (clip[0], clip[:, :-1], clip[:, :, :0]):
        with pytest.raises(ValueError, match=FORM):
            network(bad)
    with pytest.raises(TypeError, match=FORM):
        network(clip.long())


@each_network
def test_compiles_as_one_graph(name):
    torch.compiler.reset()  # for what two networks share, another size is compiled as any size, which takes far longer
    network, clip = built(name), clip_of(name, samples=1)
    compiled = torch.compile(network, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.no_grad():
        close(compiled(clip).numpy(), network(clip).numpy(), 1e-12)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", exports.FORMS)
@each_network
def test_exports(name, form):
    if form == "ONNX":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    assert exports.difference(small(name).float(), clip_of(name).float(), form) < exports.FORMS[form][1]


# The fastest; `make test-slow` exports them all.
QUICK = "off-dncnn"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == QUICK else pytest.mark.slow) for n in networks()])
def test_exports_with_dynamic_batch_height_and_width(name):
    """The program, exported at one size, gives the network's result at others."""
    _, (C, T, _, _) = networks()[name].cases()[0]
    network, generator = small(name).float(), torch.Generator().manual_seed(0)

    def clip(N, H, W):
        return torch.randn(N, C, T, H, W, generator=generator)

    free = dict.fromkeys((0, 3, 4), torch.export.Dim.DYNAMIC)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.export.export(network, (clip(2, 96, 128),), dynamic_shapes=(free,)).module()
        for size in ((3, 96, 128), (1, 128, 96), (5, 64, 192)):
            x = clip(*size)
            close(program(x).numpy(), network(x).numpy(), 1e-4)


def test_the_page_of_exports_has_every_network_and_what_the_limits_allow():
    head, *rows = re.findall(r"^\| (?!-)(.*) \|$", exports.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert head.split(" | ") == ["network", *exports.FORMS]
    cells = [row.split(" | ") for row in rows]
    assert [name for name, *_ in cells] == list(networks()), "make exports"
    for name, *numbers in cells:
        for number, (_, most) in zip(numbers, exports.FORMS.values(), strict=True):
            assert float(number) < most, name


@pytest.mark.parametrize("device", ["meta", "cpu"])  # the eager operators; kernels, where they are installed
def test_operations_are_those_of_layers_and_operators_whichever_runs(device):
    layers = (torch.nn.Conv3d(3, 8, 1), DisplacementMap((2, 1)), RepresentationFlow(n_iter=3))
    clip = torch.empty(2, 3, 4, 6, 7, device=device)
    found = operations(torch.nn.Sequential(*layers).to(device), clip)
    frame, pairs = 6 * 7, 2 * 3
    flow = 60 * 3 * (2 * 2 * 2) * frame  # of 2 channels between 3 maps each
    assert found == 2 * 2 * 4 * 3 * 8 * frame + 2 * pairs * 8 * (5 * 3) * frame + flow
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def test_every_row_of_the_ablation_tables_can_be_built():
    known = networks()
    assert len({(row.paper, row.table, row.label) for row in ABLATIONS}) == len(ABLATIONS)
    assert all(row.networks for row in ABLATIONS)
    different = {f"{name} {arguments}": (name, arguments) for row in ABLATIONS for name, arguments in row.networks}
    for name, arguments in different.values():
        with torch.device("meta"):
            known[name].build(**known[name].arguments | arguments)
