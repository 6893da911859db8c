"""The ResNet with representation-flow layers: what RF19 states, by hand; evaluation, streaming, published weights."""

import doctest

import pytest

torch = pytest.importorskip("torch")

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: E402

from motionspec.models import repflow  # noqa: E402
from motionspec.models.repflow import MOTIONS, Motion, NonLocal, RepFlowResNet, released  # noqa: E402
from motionspec.models.resnet import ResNet  # noqa: E402
from motionspec.models.tables import ABLATIONS  # noqa: E402
from motionspec.models.weights import load  # noqa: E402
from motionspec.ops import tvl1  # noqa: E402
from motionspec.synthetic import Layer, Scene, translation, waves  # noqa: E402

SMALL = {"depth": 18, "width": 1 / 16, "channels": 4, "n_iter": 2}
FLOW = {"n_iter": 2, "scheme": "classic"}


def count(network):
    return sum(p.numel() for p in network.parameters())


def clip_of(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_has_21_million_parameters_where_two_streams_have_42():
    """RF19 §4, computation time: ResNet-34, 2D; the two streams are one network for RGB and one for flow."""
    with torch.device("meta"):
        ours = count(RepFlowResNet(150, depth=34))
        two_stream = count(ResNet(150, depth=34)) + count(ResNet(150, depth=34, in_channels=2))
        plain = count(ResNet(150, depth=34))
    assert (ours // 10**6, two_stream // 10**6) == (21, 42)
    # C = 128, C' = 32: two 1 x 1 convolutions, a batch norm, and tau, lambda, theta, w_x, w_y
    assert ours - plain == 128 * 32 + 64 * 128 + 2 * 128 + 3 + 2 + 2


def test_the_defaults_are_the_final_network():
    """RF19 §4, comparison: 2D ResNet-50, after block 3, hyper-parameters and divergence learned, 20 iterations."""
    with torch.device("meta"):
        network = RepFlowResNet()
    (flow,) = network.motion.flows
    assert (network.kind, network.place, flow.n_iter) == ("2D", 3, 20)
    assert {name for name, _ in flow.named_parameters()} == {"log_tau", "log_lam", "log_theta", "wx", "wy"}
    assert network.motion.reduce.weight.shape[:2] == (32, 512) and network.motion.widen.weight.shape[:2] == (512, 64)


@pytest.mark.parametrize("motion", MOTIONS)
def test_each_flow_layer_takes_a_frame(motion):
    """RF19 Table 5, Fig. 6. C' = 4: a flow has 2C' channels, the flow of all of these 4C'; a convolution gives C'."""
    network = RepFlowResNet(5, **SMALL, motion=motion).double().eval()
    parts = network.parts(clip_of(1, 3, 5, 32, 40))
    n = motion.count("flow")
    flows = {f"flow{k}" if k > 1 else "flow": 8 * 2 ** (k - 1) if motion == "flow-flow" else 8 for k in range(1, n + 1)}
    assert {key: tuple(parts[key].shape) for key in parts} == {
        **{key: (1, channels, 5 - k, 4, 5) for k, (key, channels) in enumerate(flows.items(), start=1)},
        "steps": (1, 5 - n, 5),
        "scores": (1, 5),
    }


def test_on_the_input_it_is_the_flow_of_the_frames():
    """RF19 Table 1 "Flow Layer on RGB Input": a scene that moves right by 1 px per frame, in all three colours."""
    scene = Scene([Layer(waves((40, 48), seed=0, wavelengths=(13, 40)), translation([0, 1, 2], [0, 0, 0]))], (40, 48))
    frames = torch.tensor(scene.clip().frames)[None].expand(1, 3, -1, -1, -1)
    network = RepFlowResNet(5, **{**SMALL, "channels": None, "n_iter": 100}, place=0).double().eval()
    flow = network.parts(frames)["flow"]
    assert flow.shape == (1, 6, 2, 40, 48)
    inside = flow[..., 4:-4, 4:-4].mean((0, 2, 3, 4))
    torch.testing.assert_close(inside[:3], torch.ones_like(inside[:3]), rtol=0, atol=0.06)
    assert inside[3:].abs().max() < 0.06


def test_a_pair_belongs_to_its_own_clip_and_time():
    """With a stated range of values each score needs the two frames of its pair alone, so it can be streamed."""
    network = RepFlowResNet(5, **SMALL, value_range=(-3.0, 3.0)).double().eval()
    clip = clip_of(2, 3, 4, 32, 32)
    with torch.no_grad():
        steps = network.parts(clip)["steps"]
        for t in range(3):
            alone = network.parts(clip[:, :, t : t + 2])["steps"]
            torch.testing.assert_close(alone[:, 0], steps[:, t], rtol=0, atol=1e-12)
        assert not torch.equal(steps[:, 0], steps[:, 1])


CONSTANT = {  # what motion features of the constant 2 make of features x of frames 0 and 1 (RF19 Fig. 4, Table 4)
    "none": lambda x0, x1: torch.full_like(x0, 2),
    "late": lambda x0, x1: torch.full_like(x0, 2),
    "add": lambda x0, x1: torch.relu(x0 + 2),
    "multiply": lambda x0, x1: torch.relu(2 * x0),
    "layer+multiply": lambda x0, x1: torch.relu(-3 * x0),  # one more layer, which gives -3
    "concat": lambda x0, x1: torch.relu(x0 + 5 * 2),  # [x, y] weighed by (1, 5)
    "released": lambda x0, x1: torch.relu((x0 + x1) / 2 + 2),
}


@pytest.mark.parametrize("fusion", CONSTANT)
def test_fusions_by_hand(fusion):
    block = Motion(3, "flow", channels=2, fusion=fusion, rectified=True, **FLOW).double().eval()
    with torch.no_grad():
        block.norm.weight.zero_()
        block.norm.bias.fill_(2)
        if fusion == "layer+multiply":
            block.fuse.norm.weight.zero_()
            block.fuse.norm.bias.fill_(-3)
        if fusion == "concat":
            block.fuse.conv.weight.copy_(torch.cat([torch.eye(3), 5 * torch.eye(3)], 1)[..., None, None])
        x = clip_of(1, 3, 2, 5, 6)
        _, got = block(x)
    torch.testing.assert_close(got, CONSTANT[fusion](x[:, :, :1], x[:, :, 1:]), rtol=1e-5, atol=1e-5)


def test_late_fusion_is_the_mean_of_two_networks_of_their_own():
    network = RepFlowResNet(5, **SMALL, fusion="late").double().eval()
    rgb = ResNet(5, depth=18, width=1 / 16).double().eval()
    rgb.load_state_dict(network.rgb.state_dict())
    clip = clip_of(2, 3, 3, 32, 32)
    parts = network.parts(clip)
    assert torch.equal(parts["rgb"], rgb(clip)) and torch.equal(parts["motion"], parts["steps"].mean(1))
    torch.testing.assert_close(parts["scores"], (parts["rgb"] + parts["motion"]) / 2)
    assert not {id(p) for p in network.rgb.parameters()} & {id(p) for p in network.motion.parameters()}


def test_a_non_local_block_begins_as_nothing_and_without_likeness_sees_the_mean():
    block, clip = NonLocal(4).double().eval(), clip_of(2, 4, 3, 5, 6)
    assert torch.equal(block(clip), clip)
    with torch.no_grad():
        block.norm.weight.fill_((1 + 1e-5) ** 0.5)
        block.theta.weight.zero_()
        mean = block.out(block.g(clip)).mean((2, 3, 4), keepdim=True)
        torch.testing.assert_close(block(clip), clip + mean, rtol=0, atol=1e-12)


def test_a_non_local_block_sees_most_what_is_most_alike():
    """One channel in two, all weights 1: place i gets the mean of x_j, weighed by exp(x_i x_j)."""
    block = NonLocal(1).double().eval()
    with torch.no_grad():
        for part in (block.theta, block.phi, block.g, block.out):
            part.weight.fill_(1)
        block.norm.weight.fill_((1 + 1e-5) ** 0.5)
        x = torch.tensor([0.0, 1, 2], dtype=torch.float64)
        weight = torch.exp(x[:, None] * x)
        want = x + (weight * x).sum(1) / weight.sum(1)
        torch.testing.assert_close(block(x.reshape(1, 1, 3, 1, 1)).flatten(), want, rtol=0, atol=1e-12)


def test_the_example_runs():
    torch.set_default_dtype(torch.float64)  # no kernel to compile
    try:
        assert doctest.testmod(repflow) == (0, 3)
    finally:
        torch.set_default_dtype(torch.float32)


def test_flow_parameters_learn_at_a_hundredth_of_the_rate():
    network = RepFlowResNet(5, **SMALL, motion="flow-flow")
    rest, flow = network.groups(lr=0.01)
    assert flow["lr"] == pytest.approx(0.01 * rest["lr"]) and len(flow["params"]) == 2 * 5
    torch.optim.SGD(network.groups(), momentum=0.9)
    fixed = RepFlowResNet(5, **SMALL, learn_numbers=False, learn_divergence=False)
    assert [group["name"] for group in fixed.groups()] == ["network"]


def test_a_running_mean_of_the_parameters_evaluates():
    """RF19 §4: "a running average of the parameters over time", torch's own."""
    network = RepFlowResNet(5, **SMALL).double()
    mean = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.75)).eval()
    values = dict.fromkeys(("motion.flows.0.log_theta", "fc.bias"), 0.0)
    for step in range(1, 4):
        with torch.no_grad():
            for name in values:
                network.get_parameter(name).fill_(step)
                values[name] = step if step == 1 else 0.75 * values[name] + 0.25 * step
            network.bn1.running_mean.fill_(step)
        mean.update_parameters(network)
    for name, value in values.items():
        got = mean.module.get_parameter(name)
        torch.testing.assert_close(got, torch.full_like(got, value))
    assert (mean.module.bn1.running_mean == 3).all()
    clip = clip_of(1, 3, 2, 32, 32)
    torch.testing.assert_close(mean(clip), mean.module.parts(clip)["scores"])
    assert not torch.equal(mean(clip), network.eval()(clip))


def test_flow_of_tvl1_flow_by_the_recipe():
    """RF19 Table 5 "TVL-1 twice": three frames, two TV-L1 flows, one flow of these."""
    frames = 255 * torch.rand(3, 1, 24, 24, dtype=torch.float64)
    flow = tvl1.pyramid_flow(frames[:-1], frames[1:], n_warps=1, n_iter=2)
    clip = flow.transpose(0, 1)[None]
    fixed = {"channels": None, "learn_numbers": False, "learn_divergence": False}
    network = RepFlowResNet(5, **{**SMALL, **fixed}, place=0, in_channels=2).double().eval()
    parts = network.parts(clip)
    assert parts["flow"].shape == (1, 4, 1, 24, 24) and not list(network.motion.flows.parameters())


def test_imagenet_weights_go_around_the_flow_layer(tmp_path):
    state = ResNet(5, depth=18, width=1 / 16).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    network = RepFlowResNet(5, **SMALL)
    report = load(network, tmp_path / "resnet18.pth", keep=[r"motion\..*"])
    assert torch.equal(network.layer3[0].conv1.weight, state["layer3.0.conv1.weight"])
    assert set(report.kept) == {key for key in network.state_dict() if key.startswith("motion.")}


# -- published weights -------------------------------------------------------------------------------------------------

OLD = {"motion": "flow-conv-flow", "fusion": "released", "scheme": "released", "learn_divergence": False}
HEAD = {"fusion": "add", "scheme": "released", "learn_divergence": False, "learn_numbers": False}
C, INNER = 8, 4  # of block 3 of SMALL


def flow_layer(prefix, channels, inside=1):
    """A released flow layer that has learned nothing, depthwise as in the older version, where inside is 1."""
    image, flow = torch.tensor([-0.5, 0, 0.5]).double(), torch.tensor([-1.0, 1]).double()
    kernels = {"img_grad": image, "f_grad": flow, "div": flow}
    state = {f"{prefix}.{key}": k.repeat(channels, inside, 1, 1) for key, k in kernels.items()}
    return state | {f"{prefix}.{key}2": k[:, None].repeat(channels, inside, 1, 1) for key, k in kernels.items()}


def norm(prefix):
    values = {"weight": 0.5, "bias": 0.1, "running_mean": 0.2, "running_var": 0.9}
    return {f"{prefix}.{key}": value + 0.1 * clip_of(C).abs() for key, value in values.items()}


def older():
    """Its motion block, as flow_2p1d_resnets.py names it; the numbers of both layers are learned."""
    state = {
        "flow_cmp.weight": clip_of(INNER, C, 1, 1, 1),
        "flow_conv.weight": clip_of(2 * INNER, 2 * INNER, 1, 3, 3),
        "flow_cmp2.weight": clip_of(INNER, 2 * INNER, 1, 1, 1),
        "flow_conv2.weight": clip_of(C, 2 * INNER, 1, 3, 3),
    }
    for layer in ("flow_layer", "flow_layer2"):
        state |= flow_layer(layer, INNER)
        state |= {
            f"{layer}.{key}": torch.tensor([v], dtype=torch.float64) for key, v in (("t", 0.4), ("l", 0.1), ("a", 0.2))
        }
    return state | norm("bnf")


def later():
    """Its motion block, as kinetics_2p1d_model.py names it."""
    state = {"rep_flow.bottleneck.weight": clip_of(INNER, C, 1, 1, 1)}
    state["rep_flow.unbottleneck.weight"] = clip_of(C, 2 * INNER, 1, 1, 1)
    return state | norm("rep_flow.bn") | flow_layer("rep_flow", INNER, INNER)


def loaded(state, path, options, **arguments):
    """The motion block of a network with these weights; everything else stays as it is."""
    torch.save({f"module.{key}": value for key, value in state.items()}, path)
    network = RepFlowResNet(5, **SMALL, **options).double().eval()
    load(network, path, convert=released, keep=[r"(?!motion\.).*"], **arguments)
    return network.motion


def test_the_released_flow_conv_flow_is_the_same_map(tmp_path):
    """Step by step as the released code computes it, with its own normalisation, for one clip."""
    state, clip = older(), clip_of(1, C, 5, 6, 7)

    def flow(x):
        x = 255 * (x - x.min()) / (x.min() - x.max())
        numbers = {"theta": 0.4, "lam": 0.1, "tau": 0.2}
        f1, f2 = (x[0, :, frames].transpose(0, 1) for frames in (slice(0, -1), slice(1, None)))
        return tvl1.representation_flow(f1, f2, n_iter=2, scheme="released", **numbers).transpose(0, 1)[None]

    conv3d = torch.nn.functional.conv3d
    x = flow(conv3d(clip, state["flow_cmp.weight"]))
    x = flow(conv3d(conv3d(x, state["flow_conv.weight"], padding=(0, 1, 1)), state["flow_cmp2.weight"]))
    x = conv3d(x, state["flow_conv2.weight"], padding=(0, 1, 1))
    mean, var, weight, bias = (state[f"bnf.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    x = torch.nn.functional.batch_norm(x, mean, var, weight, bias)
    want = torch.relu(x + torch.nn.functional.avg_pool3d(clip, (3, 1, 1), 1, 0))
    _, got = loaded(state, tmp_path / "old.pth", OLD)(clip)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


def test_released_kernels_that_have_been_learned_turn_into_ours(tmp_path):
    """Cross-correlation there; true convolution here, but for the divergence."""
    state = older()
    for layer in ("flow_layer", "flow_layer2"):
        for key, taps in (("img_grad", [1, 2, 4]), ("f_grad", [3, 5]), ("div2", [6, 7])):
            state[f"{layer}.{key}"] = (
                torch.tensor(taps).double().reshape(state[f"{layer}.{key}"][:1].shape).repeat(INNER, 1, 1, 1)
            )
    learned = {"learn_divergence": True, "learn_image_kernel": True, "learn_flow_kernel": True}
    for flow in loaded(state, tmp_path / "old.pth", OLD | learned).flows:
        assert flow.image_kernel.tolist() == [[[0, 0, 0], [4, 2, 1], [0, 0, 0]], [[0, 0.5, 0], [0, 0, 0], [0, -0.5, 0]]]
        assert flow.flow_kernel.tolist() == [[[0, 0, 0], [5, 3, 0], [0, 0, 0]], [[0, 1, 0], [0, -1, 0], [0, 0, 0]]]
        assert (flow.wx.tolist(), flow.wy.tolist()) == ([-1, 1], [6, 7])
        assert (flow.theta.item(), flow.lam.item(), flow.tau.item()) == pytest.approx((0.4, 0.1, 0.2))


def test_the_later_release_is_refused_but_for_what_is_no_flow(tmp_path):
    """Its flow layer sums over all channels, and both of its derivatives are vertical."""
    state, path = later(), tmp_path / "head.pt"
    with pytest.raises(ValueError, match=r"^released: state: expected rep_flow\.img_grad .*drop.*got .* sum over 4"):
        loaded(state, path, HEAD)
    apart = flow_layer("rep_flow", INNER)
    dense = {key: value * torch.eye(INNER).double()[..., None, None] for key, value in apart.items()}
    vertical = dense | {"rep_flow.f_grad": dense["rep_flow.f_grad2"]}
    with pytest.raises(ValueError, match=r"^released: state: expected rep_flow\.f_grad along x.*drop"):
        loaded(state | vertical, path, HEAD)
    for motion in (
        loaded(state | dense, path, HEAD),
        loaded(state, path, HEAD, drop=[r"module\.rep_flow\.(img_grad|f_grad|div)2?"]),
    ):
        assert torch.equal(motion.reduce.weight, state["rep_flow.bottleneck.weight"][:, :, 0])
        assert torch.equal(motion.widen.weight, state["rep_flow.unbottleneck.weight"][:, :, 0])
        assert torch.equal(motion.norm.running_var, state["rep_flow.bn.running_var"])


@pytest.mark.parametrize(
    "key, value, says", [("t", -0.1, "above 0"), ("a", 1e9, "above 0"), ("div", None, "all channels")]
)
def test_released_values_that_have_no_place_here_are_refused(tmp_path, key, value, says):
    state = older()
    if value is None:
        state[f"flow_layer2.{key}"][1] *= 2
    else:
        state[f"flow_layer2.{key}"].fill_(value)
    with pytest.raises(ValueError, match=rf"^released: state: expected flow_layer2\.{key} .*{says}"):
        loaded(state, tmp_path / "old.pth", OLD)


def test_the_trunk_of_the_released_network_is_refused(tmp_path):
    trunk = {"layer1.0.conv1.weight": clip_of(4, 4, 1, 3, 3)}
    with pytest.raises(ValueError, match=r"^load: file: expected .*layer1\.0\.conv1\.weight is \(4, 4, 1, 3, 3\)"):
        torch.save(older() | trunk, tmp_path / "old.pth")
        load(RepFlowResNet(5, **SMALL, **OLD), tmp_path / "old.pth", convert=released)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"place": 6}, "place: expected 0, the input, or a block, 1 to 5, got 6"),
        ({"place": -1}, "place: expected at least 0, got -1"),
        ({"channels": 0}, "channels: expected at least 1, got 0"),
        ({"motion": "flow-conv"}, "motion: expected one of 'flow', 'flow-flow', "),
        ({"depth": 19}, "depth: expected one of"),
    ],
)
def test_what_cannot_be_built_says_so(bad, says):
    with pytest.raises(ValueError, match=f"^RepFlowResNet: {says}"):
        RepFlowResNet(5, **{**SMALL, **bad})


@pytest.mark.parametrize("motion, least", [("flow", 2), ("flow-conv-flow-conv-flow", 4)])
def test_too_few_frames_are_refused(motion, least):
    network = RepFlowResNet(5, **SMALL, motion=motion).eval()
    with pytest.raises(
        ValueError, match=rf"^RepFlowResNet: clip: expected at least T={least} frames .*, got T={least - 1}"
    ):
        network(torch.rand(1, 3, least - 1, 32, 32))


def test_the_tables_of_rf19_have_their_rows():
    """How many rows are printed; of Tables 6 to 9 those whose network is in the five papers."""
    tables = [row.table for row in ABLATIONS if row.paper == "RF19"]
    rows = {"1": 9, "2": 6, "3": 6 * 2, "4": 6 * 3, "5": 5, "6": 6, "7": 6, "8": 3, "9": 10}
    assert {f"Table {table}": n for table, n in rows.items()} == {table: tables.count(table) for table in tables}
