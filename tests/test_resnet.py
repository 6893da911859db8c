"""ResNets: parameters as published, sides as the papers state them, weights of a 2D network that fit the others."""

import pytest

torch = pytest.importorskip("torch")

from motionspec.models.resnet import ResNet, Trunk  # noqa: E402


@pytest.mark.parametrize("depth, millions", [(18, 11.689512), (34, 21.797672), (50, 25.557032), (101, 44.54916)])
def test_has_as_many_parameters_as_published(depth, millions):
    """torchvision's tables of resnet18 ... resnet101 for the 1000 classes of ImageNet."""
    with torch.device("meta"):
        network = ResNet(1000, depth=depth)
    assert sum(p.numel() for p in network.parameters()) == millions * 1e6
    assert network.layer3.get_submodule("0").downsample[0].weight.shape[-2:] == (1, 1)


def test_names_are_those_of_torchvision():
    with torch.device("meta"):
        keys = set(ResNet(10, depth=18).state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer1.1.bn2.bias",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.num_batches_tracked",
        "layer4.1.conv2.weight",
        "fc.bias",
    } <= keys
    assert len(keys) == 122


def test_3d_of_af18_ends_at_512_x_2_x_7_x_7():
    """AF18 §3.2: 16 frames of 224 x 224; §3.1: kernels 3 x k x k, half as many frames wherever the side is halved."""
    with torch.device("meta"):
        network = Trunk(depth=18, kind="3D", temporal_stride=2)
        maps = network.taps(torch.empty(1, 3, 16, 224, 224))
    assert {name: tuple(map_.shape[1:]) for name, map_ in maps.items()} == {
        "conv1": (64, 16, 112, 112),
        "pool1": (64, 16, 56, 56),
        "layer1": (64, 16, 56, 56),
        "layer2": (128, 8, 28, 28),
        "layer3": (256, 4, 14, 14),
        "layer4": (512, 2, 7, 7),
    }
    assert {tuple(m.weight.shape[2:]) for m in network.modules() if isinstance(m, torch.nn.Conv3d)} == {
        (3, 7, 7),
        (3, 3, 3),
        (1, 1, 1),
    }


@pytest.mark.parametrize("depth", [18, 50])
def test_output_stride_16_is_the_same_network_at_twice_as_many_places(depth):
    """Dilation for stride: every second value is that of stride 32."""
    torch.manual_seed(0)
    coarse, fine = (Trunk(depth=depth, width=1 / 16, output_stride=s).double().eval() for s in (32, 16))
    fine.load_state_dict(coarse.state_dict())
    clip = torch.randn(1, 3, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fine(clip)[..., ::2, ::2], coarse(clip), rtol=0, atol=1e-12)


def test_blocks_are_those_of_rf19():
    """RF19 Table 1 counts conv1 and pool as block 1: block 3 of 112 x 112 frames, layer2, is 14 x 14."""
    network = Trunk(depth=18, width=1 / 16).eval()
    clip = torch.randn(2, 3, 3, 112, 112)
    with torch.no_grad():
        x = clip
        sides = [(x := network.block(k, x)).shape[-1] for k in range(1, 6)]
        assert torch.equal(x, network(clip))
    assert sides == [28, 28, 14, 7, 4]


@pytest.mark.parametrize("k", [0, 6])
def test_there_are_five_blocks(k):
    with pytest.raises(ValueError, match=r"^Trunk: k: expected 1 to 5, got"):
        Trunk(depth=18, width=1 / 16).block(k, torch.zeros(1, 3, 1, 8, 8))


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"depth": 19}, "depth: expected one of 18, 34, 50, 101, got 19"),
        ({"kind": "2D", "temporal_stride": 2}, "temporal_stride: expected 1 where kind is '2D', got 2"),
        ({"kind": "3D", "shift": True}, "shift: expected False where kind is '3D', got True"),
        ({"kind": "(2+1)D", "depth": 50}, r"depth: expected 18 or 34 where kind is '\(2\+1\)D', got 50"),
        ({"output_stride": 8}, "output_stride: expected 16 or 32, got 8"),
        ({"kind": "3D", "stem_time": 4}, "stem_time: expected an odd number, got 4"),
    ],
)
def test_what_cannot_be_built_says_so(bad, says):
    with pytest.raises(ValueError, match=f"^ResNet: {says}"):
        ResNet(10, **{"depth": 18, **bad})


def test_a_frame_feels_others_only_through_shift_or_time():
    """And a temporal shift reaches one frame farther with each of the residual blocks."""
    torch.manual_seed(0)
    clip = torch.randn(1, 3, 7, 16, 16)
    other = clip.clone()
    other[:, :, 0] += 1
    for kind, shift, felt in (("2D", False, {0}), ("2D", True, set(range(7))), ("3D", False, set(range(7)))):
        network = ResNet(4, depth=18, width=1 / 8, kind=kind, shift=shift).eval()
        with torch.no_grad():
            moved = (network.parts(clip)["steps"] - network.parts(other)["steps"]).abs().amax((0, 2))
        assert {t for t in range(7) if moved[t] > 0} == felt


def test_a_single_pixel_and_an_empty_batch_pass():
    network = ResNet(4, depth=18, width=1 / 16).eval()
    assert network(torch.randn(1, 3, 1, 1, 1)).shape == (1, 4)
    assert network(torch.randn(0, 3, 2, 9, 9)).shape == (0, 4)


def test_maps_too_narrow_to_be_shifted_are_refused_when_built():
    """TSM takes an eighth each way; a narrower network failed only when it was called."""
    for argument, options in (("width", {"width": 1 / 16}), ("in_channels", {"stem": False, "in_channels": 3})):
        with pytest.raises(ValueError, match=rf"^ResNet: {argument}: expected .*at least 8 channels, got \d channels$"):
            ResNet(4, depth=18, shift=True, **options)
    ResNet(4, depth=18, shift=True, width=1 / 8)
