"""`models.inference`: the same answers as the plain float32 forward, within what it states, and frame by frame."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from motionspec.models import OFF, DisplacementMap  # noqa: E402
from motionspec.models.inference import TOLERANCE, Inference, Streaming  # noqa: E402
from motionspec.models.table import networks  # noqa: E402

each_network = pytest.mark.parametrize("name", networks())
FORM = r"^\w+: \w+: expected .+, got .+"


@functools.cache
def small(name, **arguments):
    torch.manual_seed(0)
    network = networks()[name].build(**{**networks()[name].small, **arguments}).eval()
    with torch.no_grad():
        for key, buffer in network.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return network


def clip_of(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def agrees(got, want, tolerance):
    assert got.dtype == want.dtype == torch.float32
    error = (got - want).abs().max() / want.abs().max()
    assert error <= tolerance, f"{error:.2g}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@each_network
def test_agrees_with_the_plain_forward(name, dtype):
    network, shape = small(name), (2, *networks()[name].small_input)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fast = Inference(network, shape, dtype=dtype, compile=False)
    for seed in (0, 1):  # the second finds the buffers used
        clip = clip_of(shape, seed)
        with torch.no_grad():
            want = network(clip)
        agrees(fast(clip), want, TOLERANCE[dtype])
    agrees(fast(clip.double()), want, TOLERANCE[dtype])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class Tiny(torch.nn.Module):
    """Enough to be compiled: a convolution that a batch norm follows, an operator with a kernel, a classifier."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = torch.nn.Conv3d(3, 8, (1, 3, 3), bias=False), torch.nn.BatchNorm3d(8)
        self.off, self.fc = OFF(8, 4), torch.nn.Linear(12, 5)

    def forward(self, clip):
        return self.fc(self.off(torch.relu(self.bn(self.conv(clip)))).mean((2, 3, 4)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of torch about itself
@pytest.mark.parametrize("mode", ["batch", "latency"])
def test_compiled_agrees_too(mode):
    torch.manual_seed(0)
    network, shape = Tiny().eval(), (2, 3, 3, 12, 14)
    fast = Inference(network, shape, mode=mode)
    for seed in (0, 1):
        clip = clip_of(shape, seed)
        with torch.no_grad():
            want = network(clip)
        first = fast(clip)
        agrees(first, want, TOLERANCE[torch.float32])
    again = first.clone()
    fast(0 * clip)
    assert torch.equal(first, again)  # what was returned stays
    with torch.inference_mode():
        inferred = clip.clone()
    innermost = clip.contiguous(memory_format=torch.channels_last_3d)
    with torch.compiler.set_stance("fail_on_recompile"):  # which would take minutes
        for same in (clip.double(), inferred, innermost, clip.clone().requires_grad_()):
            agrees(fast(same), want, TOLERANCE[torch.float32])
        for p in fast.network.parameters():
            p.data.zero_()
        agrees(fast(clip), want, TOLERANCE[torch.float32])  # weights are constants of what was compiled


def test_the_channels_are_innermost_where_there_are_convolutions_of_maps():
    for network, last in ((small("tsn"), True), (Tiny(), False), (DisplacementMap(1), False)):
        clip = Inference(network, (1, 3, 2, 9, 7), compile=False).clip
        assert clip.is_contiguous(memory_format=torch.channels_last_3d) == last != clip.is_contiguous()


def test_a_clip_that_lies_as_the_network_takes_it_is_not_copied():
    taken = []
    network, clip = DisplacementMap(1), clip_of((1, 3, 2, 9, 7))
    network.register_forward_pre_hook(lambda layer, inputs: taken.append(inputs[0].data_ptr()))
    fast = Inference(network, tuple(clip.shape), compile=False)
    strided = clip.contiguous(memory_format=torch.channels_last_3d)
    for given, kept in ((clip, True), (clip.clone().requires_grad_(), True), (strided, False), (clip.double(), False)):
        agrees(fast(given), network(clip), TOLERANCE[torch.float32])
        assert (taken.pop(-2) == given.data_ptr()) == kept


def test_maps_with_the_channels_innermost_are_turned_once_for_all_operators():
    taken = []
    fast = Inference(small("disentangled"), (1, 3, 3, 24, 19), compile=False)
    for layer in (fast.network.displacement, fast.network.warped_difference):
        layer.register_forward_pre_hook(lambda layer, inputs: taken.append(inputs[0].transpose(1, 2)))
    fast(clip_of((1, 3, 3, 24, 19)))
    assert [frames.is_contiguous() for frames in taken] == [True, True] and taken[0].data_ptr() == taken[1].data_ptr()


def test_bad_arguments_are_refused():
    network, shape = small("tsn"), (2, 3, 2, 32, 32)
    for arguments in ({"mode": "fast"}, {"dtype": torch.float64}, {"clip_shape": shape[1:]}):
        with pytest.raises(ValueError, match=FORM):
            Inference(**{"network": network, "clip_shape": shape, "compile": False} | arguments)
    fast = Inference(network, shape, compile=False)
    with pytest.raises(ValueError, match=FORM):
        fast(clip_of((1, *shape[1:])))
    with pytest.raises(TypeError, match=FORM):
        fast(clip_of(shape).long())


STREAMS = [
    ("tsn", {}),
    ("off-tsn", {}),
    ("off-tsn", {"scheme": "released", "fusion": (1, 0.5, -1, 2)}),
    ("off-tsn", {"gradients": "none"}),
    ("repflow", {"value_range": (-4.0, 4.0)}),
    ("repflow", {"value_range": (0.0, 4.0), "place": 4, "fusion": "released", "scheme": "released"}),
    ("disentangled", {}),
    ("disentangled", {"flow": "wta", "difference": "rgb", "stride": 2}),
    ("off-rfcn", {}),
    ("off-dncnn", {}),
]


@pytest.mark.parametrize(("name", "arguments"), STREAMS, ids=[f"{name}-{k}" for k, (name, _) in enumerate(STREAMS)])
def test_a_stream_gives_what_each_window_gives(name, arguments):
    network = small(name, **arguments)
    T = 3
    C, _, H, W = networks()[name].small_input
    clip = clip_of((2, C, 6, H, W))
    seen = []
    stream = Streaming(network, T)
    for t in range(6):
        got = stream(clip[:, :, t])
        if t < T - 1:
            assert got is None
            continue
        with torch.no_grad():
            want = network.parts(clip[:, :, t - T + 1 : t + 1])
        assert got.keys() == want.keys()
        for key in want:
            np.testing.assert_allclose(got[key], want[key], rtol=0, atol=1e-5 * want[key].abs().max())
        seen.append(got["scores"])
    assert not torch.equal(seen[0], seen[1])
    stream.restart()
    assert stream(clip[:, :, 0]) is None


def test_each_frame_is_looked_at_once():
    network, frames = small("off-tsn"), []
    hook = network.backbone.backbone.conv1.register_forward_hook(lambda module, given, out: frames.append(len(out)))
    stream = Streaming(network, 3)
    for t in range(5):
        stream(clip_of((1, 3, 41, 33), t))
    hook.remove()
    assert sum(frames) == 5


@pytest.mark.parametrize("name", ["resnet", "off-tsm", "repflow"])
def test_a_network_that_cannot_stream_says_why(name):
    with pytest.raises(ValueError, match=r"^Streaming: network: expected .+, got .+"):
        Streaming(small(name), 3)
