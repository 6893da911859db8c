"""BN-Inception and TSN: what the papers and the released code say of them."""

import pytest

torch = pytest.importorskip("torch")

from motionspec.models.bn_inception import TSN, BNInception  # noqa: E402


def test_has_as_many_parameters_as_the_released_network():
    """10.37 million with the classifier of UCF-101, counted on the weights of OFF18's port to PyTorch."""
    with torch.device("meta"):
        network = TSN(101)
    assert sum(p.numel() for p in network.parameters()) == 10_373_765


def test_taps_are_named_and_as_wide_as_said():
    network = BNInception(width=1 / 16).eval()
    frames = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = network.taps(frames)
        assert torch.equal(maps["inception_5b"], network(frames))
    assert {name: map_.shape[1] for name, map_ in maps.items()} == network.channels
    assert [name for name, map_ in maps.items() if map_.shape[2:] == (8, 12)] == [
        "pool2",
        "inception_3a",
        "inception_3b",
    ]
    assert maps["inception_5b"].shape[2:] == (2, 3)


def test_partial_batch_norm_keeps_all_statistics_but_the_first():
    """TSN: also the scale and shift learn; with partial_bn=False all statistics move."""
    for partial, moving in ((True, 1), (False, 69)):
        network = TSN(3, width=1 / 16, partial_bn=partial).train()
        before = {name: value.clone() for name, value in network.state_dict().items() if name.endswith("running_mean")}
        network(torch.randn(2, 3, 2, 32, 32))
        after = network.state_dict()
        assert sum(not torch.equal(value, after[name]) for name, value in before.items()) == moving
        assert not network.eval().backbone.conv1.training and not network.train(False).training


def test_the_score_of_a_video_is_the_mean_of_its_segments_however_many():
    """OFF18 (8): trained on 7 segments, tested on 25."""
    network = TSN(3, width=1 / 16).double().eval()
    clip = torch.randn(1, 3, 5, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        parts = network.parts(clip)
        one = torch.stack([network(clip[:, :, t : t + 1]) for t in range(5)], 1)
    torch.testing.assert_close(parts["segments"], one, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts["scores"], one.mean(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("modality, faster", [("rgb", 1), ("flow", 5)])
def test_groups_have_the_rates_of_tsn(modality, faster):
    network = TSN(3, width=1 / 16, modality=modality)
    groups = {group["name"]: (group["lr"], group["weight_decay"]) for group in network.groups(0.01, 0.1)}
    assert groups["first weight"] == (faster * 0.01, 0.1) and groups["first bias"] == (faster * 0.02, 0)
    assert groups["weights"] == (0.01, 0.1) and groups["biases"] == (0.02, 0) and groups["norms"] == (0.01, 0)
    torch.optim.SGD(network.groups(), lr=1.0)


def test_the_smallest_frame_is_7_x_7():
    network = TSN(3, width=1 / 16).eval()
    assert network(torch.randn(1, 3, 1, 7, 7)).shape == (1, 3)
    assert network(torch.randn(0, 3, 1, 9, 9)).shape == (0, 3)
    with pytest.raises(ValueError, match=r"^BNInception: frames: expected H and W of at least 7, got \(1, 3, 6, 9\)"):
        network(torch.randn(1, 3, 1, 6, 9))
