"""Disentangled dynamics (DC18): what the paper says of its maps, branches and training, by hand."""

import pytest

torch = pytest.importorskip("torch")

from motionspec.models.bn_inception import BNInception  # noqa: E402
from motionspec.models.disentangled import BRANCHES, Disentangled  # noqa: E402
from motionspec.ops import tvl1  # noqa: E402

SMALL = {"width": 1 / 16, "classes": 3, "frames": 3, "radius": 2}


def network(seed=0, **arguments):
    torch.manual_seed(seed)
    return Disentangled(**{**SMALL, **arguments}).double().eval()


def clip_of(frames=3, side=24, samples=1):
    return torch.rand(samples, 3, frames, side, side, generator=torch.Generator().manual_seed(1)).double() * 255


@pytest.mark.parametrize("stride, side, radius", [(1, 224, 10), (2, 112, 5)])
def test_maps_have_the_sides_of_the_paper(stride, side, radius):
    """DC18 §3.1: 64 channels, 8 frames; Tables 3 and 9: 112 x 112 or 224 x 224; 1024 features of each branch."""
    with torch.device("meta"):
        whole = Disentangled(stride=stride)
        parts = whole.parts(torch.empty(2, 3, 8, 224, 224))
    assert {key: tuple(part.shape) for key, part in parts.items()} == {
        "displacement": (2, 2, 7, side, side),
        "warped difference": (2, 64, 7, side, side),
        "static": (2, 101),
        "motion": (2, 101),
        "change": (2, 101),
        "scores": (2, 101),
    }
    assert whole.displacement.radius == radius
    assert {key: fc.in_features for key, fc in whole.fc.items()} == dict.fromkeys(BRANCHES, 1024)


@pytest.mark.parametrize("stride", [1, 2])
def test_static_branch_of_one_frame_is_bn_inception(stride):
    """DC18 Table 1, first row, and §4.1: ImageNet's weights fit, whatever the stride of the shared convolution."""
    one, backbone = network(frames=1, branches=("static",), stride=stride), backbone_of()
    one.start_from(backbone)
    clip = clip_of(1, side=33)
    want = one.fc["static"](backbone(clip[:, :, 0]).mean((2, 3)))
    torch.testing.assert_close(one(clip), want, rtol=0, atol=1e-12)


def backbone_of(width=1 / 16):
    torch.manual_seed(2)
    return BNInception(width=width).double().eval()


@pytest.mark.parametrize("difference, channels", [("feature", 8), ("rgb", 6)])
def test_all_branches_start_from_weights_of_rgb(difference, channels):
    """DC18 §4.1, cross-modality pre-training: the first convolutions of the maps take the mean over the colours."""
    whole, backbone = network(difference=difference), backbone_of()
    classifiers = {key: value.clone() for key, value in whole.fc.state_dict().items()}
    whole.start_from(backbone)
    state, first = backbone.state_dict(), "conv1.7x7_s2.conv.weight"
    for branch, inside in (("motion", 4), ("change", channels)):
        got = whole.get_submodule(branch).state_dict()
        assert torch.equal(got.pop(first), state[first].mean(1, keepdim=True).expand(-1, inside, -1, -1))
        assert all(torch.equal(got[key], state[key]) for key in state if key != first)
    for key, value in {**whole.conv1.state_dict(prefix="conv1."), **whole.static.state_dict()}.items():
        assert torch.equal(value, state[key])
    assert all(torch.equal(value, classifiers[key]) for key, value in whole.fc.state_dict().items())
    for other in (backbone_of(width=1 / 8), BNInception(10, width=1 / 16)):
        with pytest.raises(ValueError, match=r"^Disentangled: backbone: expected .+, got .+"):
            whole.start_from(other)


@pytest.mark.parametrize("pooling", ["gradual", "late"])
@pytest.mark.parametrize("frames", [2, 9])
def test_static_appearance_of_what_stands_still_is_that_of_a_frame(pooling, frames):
    one = network(frames=1, branches=("static",))
    many = network(frames=frames, branches=("static",), pooling=pooling)
    still = clip_of(1).expand(-1, -1, frames, -1, -1)
    torch.testing.assert_close(many(still), one(still[:, :, :1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling, halved", [("gradual", (4, 2, 1)), ("late", (8, 8, 8))])
def test_frames_become_fewer_where_the_paper_says(pooling, halved):
    """DC18 §4.2: after pool2, inception 3c, inception 4e. Each stage sees all frames that are left."""
    whole = network(frames=8, branches=("static",), pooling=pooling)
    seen = {}
    for name in ("inception_3a", "inception_4a", "inception_5a"):
        stage = whole.static.get_submodule(name)
        stage.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: len(output)}))
    whole(clip_of(8))
    assert tuple(seen.values()) == halved


def test_each_branch_alone_gives_its_part_of_the_whole():
    """DC18 Tables 6 and 9; §3.1: the scores are the average of the branches'."""
    whole, clip = network(), clip_of(6, samples=2)
    parts = whole.parts(clip)
    torch.testing.assert_close(parts["scores"], (parts["static"] + parts["motion"] + parts["change"]) / 3)
    for subset in (("static",), ("motion",), ("change",), ("static", "change")):
        alone = network(seed=1, branches=subset)
        assert alone.load_state_dict(whole.state_dict(), strict=False).missing_keys == []
        got = alone.parts(clip)
        for key in subset:
            torch.testing.assert_close(got[key], parts[key], rtol=0, atol=1e-13)
        torch.testing.assert_close(got["scores"], sum(parts[key] for key in subset) / len(subset))
        assert ("displacement" in got) == (subset != ("static",))


def test_nothing_is_built_that_no_branch_needs():
    for arguments, modules in (
        ({"branches": ("change",)}, {"conv1", "change", "fc"}),
        ({"branches": ("motion",), "flow": "tvl1"}, {"motion", "fc"}),
        ({"branches": ("change",), "difference": "rgb", "warping": False}, {"change", "fc"}),
    ):
        assert {key.split(".")[0] for key in network(**arguments).state_dict()} == modules


def gradient_of_conv1(**arguments):
    """Of the scores, in the shared convolution."""
    whole = network(**arguments)
    whole(clip_of()).square().sum().backward()
    gradient = whole.conv1.get_submodule("7x7_s2.conv").weight.grad
    return 0.0 if gradient is None else gradient.abs().max().item()


def test_change_trains_the_displacement():
    """DC18 §3.4: with differences of RGB, the warp is all that leads from the change to the shared convolution."""
    assert gradient_of_conv1(branches=("change",), difference="rgb") > 0
    assert gradient_of_conv1(branches=("change",), difference="rgb", flow="wta") == 0  # it has no derivative


def test_winner_takes_all_moves_a_shifted_clip_onto_itself():
    """Each frame is the one before it, moved right by a pixel: nothing changes but where that comes from outside."""
    wide = clip_of(1, side=32).expand(-1, -1, 3, -1, -1)
    clip = torch.stack([wide[:, :, t, :, 2 - t : 30 - t] for t in range(3)], 2)
    for difference in ("feature", "rgb"):
        parts = network(flow="wta", difference=difference, width=1 / 4).parts(clip)
        inside = (..., slice(8, -8), slice(8, -8))
        assert (parts["displacement"][:, 0][inside] == 1).all() and (parts["displacement"][:, 1][inside] == 0).all()
        assert parts["warped difference"][inside].abs().max() < 1e-9
        plain = network(difference=difference, warping=False, width=1 / 4).parts(clip)["difference"]
        assert plain[inside].abs().mean() > 1e-3


def test_differences_of_rgb_lie_on_the_grid_of_the_map():
    clip = clip_of()
    for stride, frames in ((1, clip), (2, clip[..., ::2, ::2])):
        plain = network(difference="rgb", warping=False, stride=stride).parts(clip)["difference"]
        assert torch.equal(plain, frames[:, :, 1:] - frames[:, :, :-1])


def test_flow_of_tvl1_is_in_pixels_of_the_map():
    clip = clip_of(2, side=15)
    want = tvl1.pyramid_flow(*clip.mean(1, keepdim=True).unbind(2))[:, :, None]
    assert want.abs().mean() > 0.1
    small = {"branches": ("motion",), "frames": 2, "flow": "tvl1"}
    got = {stride: network(stride=stride, **small).parts(clip)["displacement"] for stride in (1, 2)}
    torch.testing.assert_close(got[1], want)
    torch.testing.assert_close(got[2], want[..., ::2, ::2] / 2)


def test_no_pair_reaches_from_one_snippet_into_the_next():
    """TSN on top (DC18 Table 5): the scores of several snippets are the mean of theirs."""
    whole, clip = network(stride=2), clip_of(6, samples=2)
    with torch.no_grad():
        both, apart = whole.parts(clip), [whole.parts(half) for half in clip.split(3, 2)]
    for key, part in both.items():
        if part.ndim == 2:
            want = torch.stack([half[key] for half in apart]).mean(0)
        else:
            want = torch.cat([half[key] for half in apart], 2)
        torch.testing.assert_close(part, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("partial_bn", [True, False])
def test_partial_batch_norm_keeps_all_statistics_but_those_of_the_first_layers(partial_bn):
    """DC18 §4.1: on UCF101 only. First is the shared convolution, and that of each stack of maps."""
    whole = network(partial_bn=partial_bn).train()
    before = {key: value.clone() for key, value in whole.named_buffers() if "running" in key}
    whole(clip_of(samples=2))
    moved = {key for key, value in whole.named_buffers() if key in before and not torch.equal(value, before[key])}
    first = {key for key in before if "conv1." in key}
    assert len(first) == 6
    assert moved == (first if partial_bn else set(before))


def test_groups_learn_at_the_rates_of_the_paper():
    """DC18 §4.1, UCF101: 0.001 for static appearance, 0.005 for the others."""
    groups = {group["name"]: group for group in network().groups()}
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates == {"shared": 0.001, "static": 0.001, "motion": 0.005, "change": 0.005}
    assert all(group["params"] for group in groups.values())
    alone = [group["name"] for group in network(branches=("motion",), flow="tvl1").groups()]
    assert alone == ["motion"]


@pytest.mark.parametrize("side", [7, 8])
def test_the_smallest_maps_work(side):
    for stride in (1, 2):
        assert network(stride=stride)(clip_of(side=side)).isfinite().all()


@pytest.mark.parametrize(
    "error, arguments",
    [
        (ValueError, {"branches": ()}),
        (ValueError, {"branches": ("static", "static")}),
        (ValueError, {"branches": ("appearance",)}),
        (ValueError, {"branches": "static"}),
        (ValueError, {"frames": 1}),  # of one frame there is no motion
        (TypeError, {"frames": 8.0}),
        (ValueError, {"stride": 4}),
        (ValueError, {"radius": -1}),
        (ValueError, {"tau": 0.0}),
    ],
)
def test_bad_arguments_are_refused(error, arguments):
    (argument,) = arguments
    with pytest.raises(error, match=rf"^\w+: {argument}: expected .+, got .+"):
        network(**arguments)


@pytest.mark.parametrize("frames, side", [(4, 24), (2, 24), (3, 6)])
def test_bad_clips_are_refused(frames, side):
    with pytest.raises(ValueError, match=r"^Disentangled: clip: expected .+, got .+"):
        network()(clip_of(frames, side=side))


def test_bn_inception_of_maps_refuses_what_is_too_small():
    with pytest.raises(ValueError, match=r"^BNInception: stride: expected 1 or 2, got 3"):
        BNInception(stride=3)
    network = BNInception(2, stride=1, width=1 / 16).eval()
    assert network(torch.rand(1, 2, 4, 5)).shape == (1, 64, 1, 1)
    with pytest.raises(ValueError, match=r"^BNInception: frames: expected H and W of at least 4, got .+"):
        network(torch.rand(1, 2, 3, 5))


def test_tvl1_is_not_exported():
    """Thousands of iterations, one after the other in the saved program."""
    whole = network(branches=("motion",), frames=2, flow="tvl1")
    with pytest.raises(ValueError, match=r"^Disentangled: flow: expected 'map' or 'wta' to export, .+, got 'tvl1'"):
        torch.export.export(whole, (clip_of(2, side=16),))
