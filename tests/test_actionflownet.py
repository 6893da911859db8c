"""ActionFlowNet (AF18): parameters counted by hand, T flows, pairs, tasks that come and go, what is frozen, losses."""

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from motionspec.models.actionflownet import ActionFlowNet, Stacked, flow_loss, multitask_loss  # noqa: E402
from motionspec.models.weights import load  # noqa: E402
from motionspec.ops import losses  # noqa: E402

SMALL = {"width": 1 / 16}
PAIRS = {"frames": "pairs", **SMALL}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def operations(network):
    """Of one pair, counted by torch."""
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        network.eval()(torch.empty(1, 3, 2, 224, 224))
    return counted.get_total_flops()


def test_parameters_are_those_counted_by_hand():
    """§3.3.1: Stacked has about twice those of the ResNet, and costs twice as much; §4.3: 2F has about half of them."""
    resnet = 11_689_512 - 513_000  # ResNet-18 without its classifier of 1000
    fc = 513 * 101
    two_frames = resnet + 3 * 64 * 49  # three channels more
    decoder = (512 * 256 + 514 * 128 + 258 * 64) * 16 + 3 * 2 * 2 * 16 + (512 + 514 + 258 + 130) * 2 * 9
    # Without conv1 and its norm; layer1's first convolution is of 2 channels, not 64, and has a shortcut of 2 to 64.
    of_flow = resnet - (3 * 64 * 49 + 2 * 64) - 62 * 64 * 9 + (2 * 64 + 2 * 64)
    norms = 2 * (5 * 64 + 5 * 128 + 5 * 256 + 5 * 512)
    shortcuts = 64 * 128 + 128 * 256 + 256 * 512
    deconvolutions = (512 * 256 + 512 * 128 + 256 * 64) * 48
    with torch.device("meta"):
        assert parameters(ActionFlowNet(frames="pairs")) == two_frames + decoder + fc
        assert parameters(ActionFlowNet(None, frames="pairs")) == two_frames + decoder
        assert parameters(ActionFlowNet(frames="pairs", flow=False)) == two_frames + fc
        stacked = parameters(Stacked())
        assert stacked == two_frames + decoder + of_flow + fc
        times_3 = 3 * (resnet - norms - shortcuts) + norms + shortcuts
        assert parameters(ActionFlowNet()) == times_3 + deconvolutions + 128 * 2 * 27 + fc
        plain, costly = (operations(network) for network in (ActionFlowNet(frames="pairs", flow=False), Stacked()))
    assert 2 < stacked / (resnet + fc) < 2.5
    assert 2 < costly / plain < 2.5
    assert 0.5 < (two_frames + decoder + fc) / stacked < 0.6


def test_kernels_over_time_are_3_also_of_the_deconvolutions():
    with torch.device("meta"):
        network = ActionFlowNet()
    kernels = {tuple(m.weight.shape[2:]) for m in network.decoder.modules() if hasattr(m, "weight")}
    assert kernels == {(3, 4, 4), (3, 3, 3)}


@pytest.mark.parametrize("T", [1, 5])
def test_there_is_a_flow_for_each_frame_and_none_of_the_encoder_s_sides_need_be_even(T):
    with torch.device("meta"):
        parts = ActionFlowNet(4, **SMALL).parts(torch.empty(2, 3, T, 45, 70))
    assert {key: tuple(part.shape) for key, part in parts.items()} == {"flow4": (2, 2, T, 12, 18), "scores": (2, 4)}


def test_pairs_are_of_neighbours_and_scores_their_mean():
    torch.manual_seed(0)
    network = ActionFlowNet(4, **PAIRS).eval()
    clip = random(2, 3, 4, 40, 33)
    with torch.no_grad():
        parts = network.parts(clip)
        each = [network.parts(clip[:, :, t : t + 2]) for t in range(3)]
    assert list(parts) == ["flow32", "flow16", "flow8", "flow4", "scores"]
    for key, part in parts.items():
        want = torch.stack([pair[key] for pair in each]).mean(0)
        if key != "scores":
            want = torch.cat([pair[key] for pair in each], 2)
        torch.testing.assert_close(part, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", ["clip", "pairs"])
def test_a_network_for_one_task_is_the_multitask_network_without_the_other(frames, tmp_path):
    """Fine-tuning is: a FlowNet's weights into what only scores, which begins with a classifier of its own."""
    torch.manual_seed(0)
    options = {"frames": frames, **SMALL}
    both, flow, scores = (
        ActionFlowNet(classes, flow=flow, **options).eval() for classes, flow in ((4, True), (None, True), (4, False))
    )
    torch.save(both.state_dict(), tmp_path / "both.pth")
    assert load(flow, tmp_path / "both.pth", drop=(r"fc\..*",)).dropped == ("fc.weight", "fc.bias")
    torch.save(flow.state_dict(), tmp_path / "flow.pth")
    report = load(scores, tmp_path / "flow.pth", drop=(r"decoder\..*",), keep=(r"fc\..*",))
    assert report.kept == ("fc.weight", "fc.bias")
    scores.fc.load_state_dict(both.fc.state_dict())
    clip = random(1, 3, 2, 32, 32)
    with torch.no_grad():
        parts = both.parts(clip)
        assert torch.equal(scores(clip), parts["scores"]) and list(scores.parts(clip)) == ["scores"]
        assert torch.equal(flow(clip), parts.pop("flow4"))
    assert [*flow.parts(clip)][:-1] == [*parts][:-1]


def test_stacked_learns_its_classifier_alone():
    """The FlowNet keeps weights and batch statistics in training, and so its flow is that of inference."""
    torch.manual_seed(0)
    network = Stacked(4, **SMALL).eval()
    clip = random(2, 3, 2, 64, 64)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    want = network.parts(clip)["flow4"]
    (group,) = network.train().groups()
    assert group["name"] == "network"
    optimizer = torch.optim.Adam(group["params"], lr=group["lr"])
    parts = network.parts(clip)
    assert torch.equal(parts["flow4"], want)
    losses.cross_entropy(parts["scores"], torch.tensor([0, 1])).backward()
    optimizer.step()
    changed = {key.split(".")[0] for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"network"}


def test_stacked_takes_the_flow_at_a_quarter_of_the_side_or_on_the_frames():
    with torch.device("meta"):
        quarter, whole = Stacked(), Stacked(upsample=True)
    assert not hasattr(quarter.network, "conv1") and whole.network.conv1.in_channels == 2


def test_groups_are_the_parts_at_the_paper_s_rate():
    network = ActionFlowNet(4, **PAIRS)
    assert [(group["name"], group["lr"]) for group in network.groups()] == [
        ("backbone", 3e-4),
        ("decoder", 3e-4),
        ("fc", 3e-4),
    ]


def test_the_loss_of_clips_is_2():
    """On the grid of the flow itself, where (1) is printed; the last map's target is the flow to frame T + 1."""
    parts = {"flow4": random(2, 2, 3, 4, 6), "scores": random(2, 5, seed=1)}
    label, target = torch.tensor([4, 0]), random(2, 2, 3, 4, 6, seed=2)
    want = losses.multitask(parts["scores"], label, parts["flow4"], target, lam=0.3)
    torch.testing.assert_close(multitask_loss(parts, label, target, lam=0.3, alpha=[1]), want)
    fine = 4 * target.repeat_interleave(4, 3).repeat_interleave(4, 4)  # the same motion in pixels of the frames
    torch.testing.assert_close(multitask_loss(parts, label, fine, lam=0.3, alpha=[1]), want)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_of_a_pair_is_4(reduction):
    parts = {f"flow{s}": random(2, 2, 1, 32 // s, 64 // s, seed=s) for s in (32, 16, 8, 4)}
    parts["scores"] = random(2, 5)
    label, target, mask = torch.tensor([4, 0]), random(2, 2, 1, 32, 64, seed=1), random(2, 1, 1, 32, 64, seed=2) > 0
    flows = [parts[f"flow{s}"][:, :, 0] for s in (32, 16, 8, 4)]
    options = {"lam": 0.3, "alpha": [1, 2, 3, 4], "reduction": reduction}
    want = losses.multitask(parts["scores"], label, flows, target[:, :, 0], mask=mask[:, :, 0], **options)
    torch.testing.assert_close(multitask_loss(parts, label, target, mask=mask, **options), want)


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"classes": None, "flow": False}, "flow: expected True where classes is None, got False"),
        ({"frames": "two"}, "frames: expected one of 'clip', 'pairs', got 'two'"),
    ],
)
def test_what_cannot_be_built_says_so(bad, says):
    with pytest.raises(ValueError, match=f"^ActionFlowNet: {says}"):
        ActionFlowNet(**bad)


def test_one_frame_is_no_pair():
    with pytest.raises(ValueError, match=r"^ActionFlowNet: clip: expected at least T=2 frames, got T=1"):
        ActionFlowNet(4, **PAIRS)(torch.zeros(1, 3, 1, 32, 32))


def test_a_target_of_other_frames_is_refused():
    parts = {"flow4": random(2, 2, 3, 4, 6)}
    with pytest.raises(ValueError, match=r"^flow_loss: target: expected shape \(N, 2, S, H, W\) with N=2, S=3"):
        flow_loss(parts, random(2, 2, 2, 16, 24), alpha=[1])
    with pytest.raises(ValueError, match=r"^multitask_loss: lam: "):
        multitask_loss(parts, torch.tensor([0]), random(2, 2, 3, 16, 24), lam=0, alpha=[1])
