"""Where a network looks, and what each branch says: by hand on scores that are known, one by one on a real network."""

import math

import pytest

torch = pytest.importorskip("torch")

from motionspec.models.actionflownet import ActionFlowNet  # noqa: E402
from motionspec.models.bn_inception import TSN  # noqa: E402
from motionspec.models.off_dncnn import DnCNN  # noqa: E402
from motionspec.models.sensitivity import branch_predictions, occlusion_sensitivity  # noqa: E402


class Known(torch.nn.Module):
    """Scores of two classes whose difference is the sum over the clip of one pixel's first channel."""

    def __init__(self, y=2, x=5):
        super().__init__()
        self.y, self.x = y, x

    def forward(self, clip):
        seen = clip[:, 0, :, self.y, self.x].sum(1)
        return torch.stack([seen, torch.zeros_like(seen)], 1)


def share(score):
    """The confidence in the first of two classes."""
    return 1 / (1 + math.exp(-score))


def test_only_squares_over_the_pixel_that_counts_cost_anything():
    """Squares of 3 around cells of 2 x 2 are of rows -1..1, 1..3, 3..5 and so on; the pixel is (2, 5)."""
    clip = torch.ones(2, 3, 4, 5, 8, dtype=torch.float64)
    clip[1] = 0.5
    got = occlusion_sensitivity(Known().eval(), clip, torch.tensor([0, 1]), size=3, stride=2, fill=0)
    want = torch.zeros(2, 3, 4, dtype=torch.float64)
    want[0, 1, 2:4] = 1 - share(0) / share(4)
    want[1, 1, 2:4] = 1 - share(0) / share(-2)  # of the second class, which gains: below 0
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_what_is_hidden_becomes_the_fill_of_its_channel():
    clip = torch.ones(1, 3, 2, 5, 8, dtype=torch.float64)
    got = occlusion_sensitivity(Known().eval(), clip, torch.tensor([0]), size=2, stride=2, fill=(0.75, 9.0, 9.0))
    assert got[0, 1, 2].item() == pytest.approx(1 - share(1.5) / share(2), abs=1e-12)
    assert got.count_nonzero() == 1


@pytest.mark.parametrize("score", [-2000.0, 2000.0])
def test_confidences_that_underflow_have_a_ratio(score):
    clip = torch.full((1, 1, 1, 3, 6), score, dtype=torch.float64)
    got = occlusion_sensitivity(Known().eval(), clip, torch.tensor([0]), size=1, stride=1, fill=score + 1.0)
    want = 1 - math.e if score < 0 else 0  # the confidence is e^score, or 1
    assert got[0, 2, 5].item() == pytest.approx(want, abs=1e-12) and got.isfinite().all()


def test_a_network_sees_what_a_loop_would_show_it():
    """In batches that end within a sample; no gradient is kept, and the clip stays as it was."""
    torch.manual_seed(0)
    network = ActionFlowNet(4, frames="pairs", width=1 / 16).eval().double()
    clip, label = torch.randn(2, 3, 2, 32, 48, dtype=torch.float64), torch.tensor([3, 1])
    before, told = clip.clone(), []
    got = occlusion_sensitivity(
        network, clip, label, size=20, stride=16, fill=-0.5, batch=5, progress=lambda *done: told.append(done)
    )
    assert not got.requires_grad and torch.equal(clip, before)
    assert told == [(5, 12), (10, 12), (12, 12)]
    with torch.no_grad():
        start = network(clip).softmax(1)
        for i in range(2):
            for j in range(3):
                other = clip.clone()
                other[..., max(16 * i - 2, 0) : 16 * i + 18, max(16 * j - 2, 0) : 16 * j + 18] = -0.5
                now = network(other).softmax(1)
                for n, k in enumerate(label):
                    assert got[n, i, j].item() == pytest.approx(1 - (now[n, k] / start[n, k]).item(), abs=1e-12)


def test_a_label_of_no_class_gives_nan():
    got = occlusion_sensitivity(Known().eval(), torch.ones(1, 3, 1, 5, 8), torch.tensor([2]), size=4, stride=4, fill=0)
    assert got.isnan().all()


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"stride": 0}, "stride: expected at least 1, got 0"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
        ({"fill": (0, 0)}, "fill: expected a number, or one for each of C=3 channels, got 2 numbers"),
        ({"clip": torch.ones(3, 2, 8, 8)}, r"clip: expected shape \(N, C, T, H, W\)"),
        ({"label": torch.tensor([0])}, r"label: expected shape \(N\) with N=2"),
        ({"network": Known()}, r"network: expected one in eval mode \(network\.eval\(\)\), got one in training mode"),
        (
            {"network": torch.nn.Identity().eval()},
            r"network: expected one that gives scores \(N, classes\), got \(2, 3,",
        ),
    ],
)
def test_what_cannot_be_shown_says_so(bad, says):
    arguments = {"network": Known().eval(), "clip": torch.ones(2, 3, 2, 6, 8), "label": torch.tensor([0, 1])}
    arguments |= {"size": 2, "stride": 2, "fill": 0} | bad
    with pytest.raises(ValueError, match=f"^occlusion_sensitivity: {says}"):
        occlusion_sensitivity(**arguments)


def test_predictions_of_branches_are_the_parts_that_are_scores():
    torch.manual_seed(0)
    clip = torch.randn(2, 3, 3, 40, 40)
    network = TSN(4, width=1 / 16).eval()
    got = branch_predictions(network, clip)
    assert {key: tuple(part.shape) for key, part in got.items()} == {"segments": (2, 3, 4), "scores": (2, 4)}
    for key, part in got.items():
        torch.testing.assert_close(part, network.parts(clip)[key].softmax(-1))
        assert not part.requires_grad
    assert list(branch_predictions(ActionFlowNet(4, width=1 / 16).eval(), clip)) == ["scores"]


def test_a_network_without_scores_of_classes_has_no_predictions():
    flow = ActionFlowNet(None, frames="pairs", width=1 / 16).eval()
    clip = torch.zeros(1, 3, 2, 32, 32)
    says = r"^branch_predictions: network: expected one with scores \(N, classes\), got "
    with pytest.raises(ValueError, match=says + r"flow32 \(1, 2, 1, 1, 1\), flow16 "):
        branch_predictions(flow, clip)
    with pytest.raises(ValueError, match=says + "noise "):
        branch_predictions(DnCNN(frames=1, width=1 / 16).eval(), clip[:, :, :1])
    with pytest.raises(ValueError, match=r"^branch_predictions: network: expected one in eval mode"):
        branch_predictions(flow.train(), clip)
