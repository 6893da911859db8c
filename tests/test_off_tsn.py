"""The OFF network: parameters as released, what a pair sees, frozen means frozen, what switches leave out."""

import pytest

torch = pytest.importorskip("torch")

from motionspec.models.off_tsn import OFFNetwork  # noqa: E402

SMALL = {"classes": 4, "width": 1 / 16}
CLIP = (3, 4, 40, 33)


def built(**arguments):
    torch.manual_seed(0)
    return OFFNetwork(**{**SMALL, **arguments}).double().eval()


def clip_of(samples=2):
    return torch.randn(samples, *CLIP, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def parts(network, clip):
    with torch.no_grad():
        return network.parts(clip)


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_released_has_as_many_parameters_as_its_prototxt():
    """The released code: 9.87 M, in which 2880 are the fixed 3 x 3 kernels with their biases, here no parameters."""
    taps = 256 + 320 + 576 + 576 + 576 + 608 + 608 + 1024 + 1024
    units = taps * (128 + 32) + 9 * (128 + 32)
    level28 = (320 * 49 * 64 + 64) + 64 * (64 + 9 * 64 + 2 * 256) + 640 + 2 * (64 * (256 + 9 * 64 + 256) + 384)
    level14 = (1056 * 25 * 128 + 128) + 128 * (128 + 9 * 128 + 2 * 512) + 1280 + 128 * (512 + 9 * 128 + 9 * 512) + 768
    level7 = (832 * 9 * 256 + 256) + 256 * (256 + 9 * 256 + 2 * 1024) + 2560
    classifiers = 101 * (256 + 512 + 1024 + 3)
    with torch.device("meta"):
        network = OFFNetwork(scheme="released")
        flow = OFFNetwork(scheme="released", modality="flow", gradients="temporal")
    want = units + level28 + level14 + level7 + classifiers
    assert millions(network.off) == want / 1e6 and round(want / 1e6, 2) == 9.87
    assert want + 9 * 32 * (9 + 1) == 9_872_975
    assert round(millions(network.backbone.backbone), 2) == 10.27  # and 0.10 M of classifier: 10.37 M
    less = taps * 32 + 9 * 32 + 32 * (2 * 49 * 64 + 5 * 25 * 128 + 2 * 9 * 256)
    assert millions(flow.off) == (want - less) / 1e6


def test_released_has_the_stages_of_its_prototxt():
    """The released code: 2, 5 and 2 units of 32 + 128 channels; the maps of 25 segments in test."""
    with torch.device("meta"):
        network = OFFNetwork(scheme="released").eval()
        maps = network.parts(torch.empty(1, 3, 25, 224, 224))
        flow = OFFNetwork(scheme="released", modality="flow", gradients="temporal").eval()
        fewer = flow.parts(torch.empty(1, 10, 7, 224, 224))
    assert {key: tuple(map_.shape[1:]) for key, map_ in maps.items()} == {
        "segments": (25, 101),
        "backbone": (101,),
        "off28": (320, 24, 28, 28),
        "off14": (800, 24, 14, 14),
        "off7": (320, 24, 7, 7),
        **{f"pairs{level}": (24, 101) for level in (28, 14, 7)},
        **{f"scores{level}": (101,) for level in (28, 14, 7)},
        "scores": (101,),
    }
    assert [fewer[f"off{level}"].shape[1:3] for level in (28, 14, 7)] == [(256, 6), (640, 6), (256, 6)]
    assert network.off["14"].reduce.in_channels == 1056 and network.off["7"].reduce.in_channels == 832


def test_the_published_table_of_the_paper_s_network():
    """OFF18 §4.1: 128 channels whatever comes in; the released code: 18 convolutions in 3, 2 and 1 residual blocks."""
    with torch.device("meta"):
        network = OFFNetwork()
    assert [network.off[level].unit.off.reduce.in_channels for level in ("28", "14", "7")] == [576, 2944, 2048]
    assert {network.off[level].unit.off.reduce.out_channels for level in ("28", "14", "7")} == {128}
    blocks = [name for name, m in network.off.named_modules() if ".blocks." in name and ".conv" in name]
    assert len(blocks) == 18
    assert not [m for m in network.off.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("scheme", ["paper", "released"])
@pytest.mark.parametrize("gradients, felt", [("both", {0, 1}), ("temporal", {0, 1}), ("spatial", {1}), ("none", {1})])
def test_a_pair_sees_its_two_frames(scheme, gradients, felt):
    """A change of frame 1 of clip 1 is felt there in pairs (0, 1), (1, 2); by space, and a frame alone, in 1 only."""
    network, clip = built(scheme=scheme, gradients=gradients), clip_of()
    other = clip.clone()
    other[1, :, 1] += 1
    before, after = parts(network, clip), parts(network, other)
    for level in (28, 14, 7):
        moved = (before[f"pairs{level}"] - after[f"pairs{level}"]).abs().amax(2)
        assert moved.shape == (2, 4 if gradients == "none" else 3)
        assert {(int(n), int(t)) for n, t in moved.nonzero()} == {(1, t) for t in felt}


def test_the_last_frame_has_no_spatial_gradient():
    """It is the later frame of its only pair."""
    network, clip = built(gradients="spatial"), clip_of()
    other = clip.clone()
    other[:, :, -1] += 1
    before, after = parts(network, clip), parts(network, other)
    assert all(torch.equal(before[f"off{level}"], after[f"off{level}"]) for level in (28, 14, 7))
    assert not torch.equal(before["backbone"], after["backbone"])


@pytest.mark.parametrize("scheme, spatial", [("paper", 16), ("released", 2)])
def test_of_a_clip_that_stands_still_only_space_is_left(scheme, spatial):
    """128/16 = 8 channels: [Fx | Fy] are 16 and Ft 8; released, 32/16 = 2 and 8 of each tapped map."""
    still = clip_of()[:, :, :1].expand(-1, -1, 4, -1, -1)
    both, temporal, alone = (parts(built(scheme=scheme, gradients=g), still) for g in ("both", "temporal", "spatial"))
    for level, units in ((28, 2), (14, 5), (7, 2)):
        pieces = both[f"off{level}"].unflatten(1, (1 if scheme == "paper" else units, -1))
        assert pieces[:, :, :spatial].abs().amax() > 0 and pieces[:, :, spatial:].abs().amax() < 1e-12
        assert temporal[f"off{level}"].abs().amax() < 1e-12 and alone[f"off{level}"].abs().amax() > 0
        assert pieces.shape[2] == spatial + 8
        assert alone[f"off{level}"].shape[1] == spatial * pieces.shape[1]
        assert temporal[f"off{level}"].shape[1] == 8 * pieces.shape[1]


def test_a_hypercolumn_network_takes_the_maps_as_they_are():
    """OFF18 §5.2: fed into the sub-network without the calculation of OFF: 576, 2944, 2048 channels of a frame."""
    with torch.device("meta"):
        network = OFFNetwork(gradients="none")
    assert [network.off[level].reduce.in_channels for level in ("28", "14", "7")] == [576, 2944 + 256, 2048 + 512]
    one = parts(built(gradients="none"), clip_of()[:, :, :1])
    assert one["pairs7"].shape == (2, 1, 4) and "off28" not in one


def test_frozen_means_frozen():
    """Stage two of OFF18 §4.2: no weight, no statistic of the backbone changes, none of its scores is at random."""
    network = built().train()
    frozen = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    learning = {key: value.clone() for key, value in network.off.named_parameters()}
    optimizer = torch.optim.SGD(network.groups(lr=0.1), momentum=0.9)
    first = network.parts(clip_of())
    assert not first["backbone"].requires_grad
    sum(first[f"scores{level}"].square().sum() for level in (28, 14, 7)).backward()
    optimizer.step()
    assert all(torch.equal(value, frozen[key]) for key, value in network.backbone.state_dict().items())
    assert not [key for key, value in network.off.named_parameters() if torch.equal(value, learning[key])]
    assert torch.equal(network.parts(clip_of())["backbone"], first["backbone"])
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in network.groups(0.1, 0.01)] == [
        ("weights", 0.1, 0.01),
        ("biases", 0.2, 0.0),
    ]


def test_unfrozen_learns_end_to_end():
    network = built(freeze=False).train()
    before = network.backbone.backbone.conv1.get_submodule("7x7_s2.bn").running_mean.clone()
    network.parts(clip_of())["scores7"].sum().backward()
    assert network.backbone.backbone.conv1.get_submodule("7x7_s2.conv").weight.grad.abs().max() > 0
    assert not torch.equal(network.backbone.backbone.conv1.get_submodule("7x7_s2.bn").running_mean, before)
    assert [group["name"] for group in network.groups()] == ["weights", "biases", "backbone"]


def test_dropout_is_on_the_spatial_stream_and_before_the_classifiers():
    network = built(spatial_dropout=0.8, dropout=0.0).train()
    dropped = (network.parts(clip_of())["off28"] == 0).double().mean((0, 2, 3, 4))
    assert 0.7 < dropped[:16].mean() < 0.9 and dropped[16:].max() == 0
    for dropout in (0.0, 0.8):
        network = built(spatial_dropout=0.0, dropout=dropout).train()
        one, other = (network.parts(clip_of()) for _ in range(2))
        for level in (28, 14, 7):
            assert torch.equal(one[f"off{level}"], other[f"off{level}"])
            assert torch.equal(one[f"scores{level}"], other[f"scores{level}"]) == (dropout == 0)


@pytest.mark.parametrize("scheme", ["paper", "released"])
def test_starts_as_the_released_code(scheme):
    """The released code: "msra" (normal, 2 / fan-in) and 0.2; classifiers normal 0.001 and 0."""
    off = built(scheme=scheme, width=0.5).off
    for name, parameter in off.named_parameters():
        if name.endswith("fc.weight"):
            assert 0.0008 < parameter.std() < 0.0012
        elif name.endswith("weight"):
            assert 0.8 < parameter.std() * (parameter[0].numel() / 2) ** 0.5 < 1.2
        else:
            assert (parameter.float() == (0 if "fc" in name else 0.2)).all()


def test_scores_are_summed_as_told():
    """OFF18 §4.3: backbone and last level; released: RGB : OFF : OFF14 = 1 : 2 : 1."""
    clip = clip_of()
    got = parts(built(), clip)
    torch.testing.assert_close(got["scores"], got["backbone"] + got["scores7"], rtol=0, atol=1e-12)
    network = built(fusion=(1, 0, 1, 2))
    network.off["28"].fc.bias.data.fill_(float("nan"))  # a weight of 0 leaves out
    got = parts(network, clip)
    want = got["backbone"] + got["scores14"] + 2 * got["scores7"]
    torch.testing.assert_close(got["scores"], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"fusion": (1, 1)}, r"fusion: expected 4 finite numbers, .*, got \(1, 1\)"),
        ({"fusion": 1.0}, "fusion: expected 4 finite numbers"),
        ({"fusion": (0, 0, 0, 0)}, "fusion: expected 4 finite numbers, .* not all 0, got"),
        ({"fusion": (1, 0, 0, float("nan"))}, "fusion: expected 4 finite numbers"),
        ({"gradients": "x"}, "gradients: expected one of 'both', 'temporal', 'spatial', 'none', got 'x'"),
        ({"scheme": "released", "modality": "flow"}, "gradients: expected 'temporal' where .*'flow', got 'both'"),
    ],
)
def test_what_cannot_be_built_says_so(bad, says):
    with pytest.raises(ValueError, match=f"^OFFNetwork: {says}"):
        OFFNetwork(**{**SMALL, **bad})


def test_what_is_too_small_says_so():
    with pytest.raises(ValueError, match=r"^OFFNetwork: clip: expected at least T=2 frames, got T=1"):
        built()(clip_of()[:, :, :1])
    with pytest.raises(ValueError, match=r"^OFFNetwork: clip: expected H and W so large .*, got \(2, 3, 4, 22, 33\)"):
        built(scheme="released")(clip_of()[..., :22, :])
    assert built(scheme="released")(clip_of()[..., :23, :23]).shape == (2, 4)
    assert built()(clip_of()[..., :7, :7]).shape == (2, 4)
