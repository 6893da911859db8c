"""DnCNN + OFF: how many layers and parameters, which frame is restored, which pairs are seen, how they are added."""

import pytest

torch = pytest.importorskip("torch")

from motionspec.models.off_dncnn import DnCNN  # noqa: E402


def built(**arguments):
    torch.manual_seed(0)
    return DnCNN(**{"width": 1 / 8, **arguments}).double().eval()


def clip_of(frames):
    return torch.rand(2, 3, frames, 12, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arguments, more", [({"frames": 1}, 0), ({"frames": 3}, 1), ({"frames": 2, "rest": 18}, 2)])
def test_has_20_convolutions_of_64_channels_and_5_behind_the_off(arguments, more):
    """OFF20 §7.2. By hand: 3 x 3 x 64 x 64 weights and 64 biases in each of the 18 inner ones."""
    inner = 9 * 64 * 64 + 64
    plain = (9 * 3 * 64 + 64) + 18 * inner + (9 * 64 * 3 + 3)
    unit = (64 * 64 + 64) + (9 * 3 * 64 * 64 + 64) + 4 * inner  # 1x1, then the first of five sees Fx, Fy, Ft
    want = {0: plain, 1: plain + unit, 2: plain + unit + inner}
    with torch.device("meta"):
        network = DnCNN(**arguments)
    assert sum(p.numel() for p in network.parameters()) == want[more]
    kernels = [m.kernel_size[-1] for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)]
    assert kernels.count(3) == {0: 20, 1: 25, 2: 26}[more] and kernels.count(1) == (more > 0)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in network.modules())


@pytest.mark.parametrize("frames, restored", [(1, 0), (2, 0), (3, 1)])
def test_what_is_restored_is_frame_t_less_its_noise(frames, restored):
    """t of (t, t+1) and of (t-1, t, t+1); the noise has both signs, for behind the last convolution is no ReLU."""
    network, clip = built(frames=frames), clip_of(frames)
    with torch.no_grad():
        parts = network.parts(clip)
        assert torch.equal(parts["scores"], clip[:, :, restored] - parts["noise"])
        assert parts["noise"].min() < 0 < parts["noise"].max()
        for parameter in network.rest.conv17.parameters():
            parameter.zero_()
        assert torch.equal(network(clip), clip[:, :, restored])


def test_pairs_are_of_neighbours_and_share_their_weights():
    """Three frames: (t-1, t) and (t, t+1), each what a network of two frames sees of them."""
    three, two, clip = built(frames=3), built(frames=2), clip_of(3)
    two.load_state_dict(three.state_dict())
    with torch.no_grad():
        parts = three.parts(clip)
        for key in ("off", "motion"):
            each = [two.parts(clip[:, :, t : t + 2])[key] for t in (0, 1)]
            torch.testing.assert_close(parts[key], torch.cat(each, 2), rtol=0, atol=1e-14)
        still = two.parts(clip[:, :, :1].expand(-1, -1, 2, -1, -1))["off"]
    Fx, Fy, Ft = still.chunk(3, 1)
    assert Ft.abs().max() < 1e-12 < 1e-3 < min(Fx.abs().max(), Fy.abs().max())


def test_motion_of_both_pairs_is_added_to_the_feature_of_frame_t():
    """Of frame t alone the layers are those of a plain DnCNN."""
    network, clip, seen = built(frames=3), clip_of(3), []
    network.rest.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        motion = network.parts(clip)["motion"]
        torch.testing.assert_close(seen[0], network.features(clip[:, :, 1]) + motion[:, :, 0] + motion[:, :, 1])
        plain = built(frames=1)
        plain.load_state_dict({k: v for k, v in network.state_dict().items() if k.startswith(("features", "rest"))})
        for parameter in network.motion.conv5.parameters():
            parameter.zero_()
        torch.testing.assert_close(network(clip), plain(clip[:, :, 1:2]), rtol=0, atol=1e-14)
        assert "motion" not in plain.parts(clip[:, :, 1:2])


def test_weights_start_as_xavier_uniform():
    """OFF20 §7.3: within +-sqrt(6 / (fan_in + fan_out)), here 3 x 3 x 64 both; biases at 0."""
    weight = DnCNN().rest.conv1.weight.detach()
    bound = (6 / (2 * 9 * 64)) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    torch.testing.assert_close(weight.std().item(), bound / 3**0.5, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"frames": 4}, "frames: expected 1, 2 or 3, got 4"),
        ({"rest": 0}, "rest: expected at least 1, got 0"),
        ({"width": -1}, "width: expected a finite number above 0, got -1"),
    ],
)
def test_what_cannot_be_built_says_so(arguments, says):
    with pytest.raises(ValueError, match=f"^DnCNN: {says}"):
        DnCNN(**arguments)


def test_a_clip_of_another_number_of_frames_is_refused():
    with pytest.raises(ValueError, match=r"^DnCNN: clip: expected shape \(N, 3, 3, H, W\).*, got \(2, 3, 2, 12, 11\)"):
        built(frames=3)(clip_of(2))
