"""R-FCN + OFF: maps as stated, what the branches see, which pairs, frozen means frozen; detections by hand."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from motionspec.models.off_rfcn import RFCN  # noqa: E402
from motionspec.refimpl import off_rfcn as reference  # noqa: E402
from motionspec.refimpl.metrics import mean_average_precision  # noqa: E402

SMALL = {"classes": 3, "depth": 18, "width": 1 / 16, "k": 2, "blocks": 1}


def built(**arguments):
    torch.manual_seed(0)
    return RFCN(**{**SMALL, **arguments}).double().eval()


def clip_of(frames, height=50, width=70):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, frames, height, width, dtype=torch.float64, generator=generator)


def parts(network, clip):
    with torch.no_grad():
        return network.parts(clip)


def size(module):
    return sum(p.numel() for p in module.parameters())


def test_maps_are_as_many_as_stated():
    """OFF20 §6.1: k = 7, 30 classes and the background; 9 anchors, a box for all classes (FGFA, whose R-FCN it is)."""
    with torch.device("meta"):
        maps = parts(RFCN(depth=18), torch.empty(1, 3, 2, 600, 1000))
    assert {key: tuple(map_.shape[1:]) for key, map_ in maps.items()} == {
        "off512": (3 * 128, 1, 75, 125),
        "off1024": (3 * 128, 1, 38, 63),
        "rpn_scores": (2 * 9, 1, 38, 63),
        "rpn_boxes": (4 * 9, 1, 38, 63),
        "class_maps": (49 * 31, 1, 38, 63),
        "box_maps": (49 * 4, 1, 38, 63),
        "scores": (18 + 36 + 1519 + 196, 1, 38, 63),
    }


def test_parameters_by_hand():
    """The trunk is ResNet-101's 44,549,160 without the classifier of 1000; no batch norm but there."""
    with torch.device("meta"):
        networks = {scales: RFCN(scales=scales) for scales in ("none", "single", "multi")}
        without = RFCN(scales="single", se=False)
    trunk = 44_549_160 - 1000 * 2049
    heads = (512 * 9 + 1) * 512 + 513 * (18 + 36 + 1519 + 196)
    plain = trunk + (2048 * 9 + 1) * 1024 + heads

    def bottleneck(inside, outside):
        inner = outside // 4
        shortcut = 0 if inside == outside else (inside + 1) * outside
        return (inside + 1) * inner + (9 * inner + 1) * inner + (inner + 1) * outside + shortcut

    def squeeze(channels):
        return 3 * ((channels + 1) * (channels // 16) + (channels // 16 + 1) * channels)  # three blocks

    single = plain + 1025 * 128 + bottleneck(1024 + 384, 1024) + 2 * bottleneck(1024, 1024)
    lower = 513 * 128 + bottleneck(384, 512) + 2 * bottleneck(512, 512)
    joined = bottleneck(1024 + 384 + 512, 1024) - bottleneck(1024 + 384, 1024)
    assert size(networks["none"]) == plain
    assert size(without) == single
    assert size(networks["single"]) == single + squeeze(1024)
    assert size(networks["multi"]) == single + squeeze(1024) + lower + squeeze(512) + joined
    norms = [name for name, m in networks["multi"].named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(name.startswith("backbone.") for name in norms)


def test_rpn_sees_the_first_half_of_the_channels_and_rfcn_the_last():
    network, seen = built(), {}
    for name in ("refine1024", "rpn", "class_maps", "box_maps"):

        def record(module, inputs, output, name=name):
            seen[name] = output if name == "refine1024" else inputs[0]

        network.get_submodule(name).register_forward_hook(record)
    parts(network, clip_of(2))
    first, last = seen["refine1024"].chunk(2, 1)
    assert torch.equal(seen["rpn"], first)
    assert torch.equal(seen["class_maps"], last) and torch.equal(seen["box_maps"], last)


def test_each_frame_but_the_last_is_detected_in_with_the_next():
    network, clip = built(), clip_of(4)
    whole = parts(network, clip)
    for t in range(3):
        for key, map_ in parts(network, clip[:, :, t : t + 2]).items():
            torch.testing.assert_close(whole[key][:, :, t : t + 1], map_, rtol=0, atol=1e-12)
    plain = built(scales="none")
    assert parts(plain, clip)["scores"].shape[2] == 4 and parts(plain, clip[:, :, :1])["scores"].shape[2] == 1
    assert not {"off512", "off1024"} & parts(plain, clip).keys()


@pytest.mark.parametrize("scales", ["multi", "none"])
def test_the_resnet_sees_each_frame_once(scales):
    """Frame by frame, as a stream comes: what belongs to a frame is kept for the pair with the next."""
    network, clip, seen = built(scales=scales), clip_of(3), []
    network.backbone.conv1.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))

    def joined(moments):
        return {key: torch.cat([moment[key] for moment in moments], 2) for key in moments[0]}

    with torch.no_grad():
        want = network.parts(clip)
        frames = [network.frame_wise(clip[:, :, t : t + 1]) for t in range(3)]
        pairs = [network.pair_wise(joined(frames[t : t + 2])) for t in range(2)]
        got = network.together(joined(frames), joined(pairs))
    assert seen == [3, 1, 1, 1] and got.keys() == want.keys()
    for key in want:
        torch.testing.assert_close(got[key], want[key], rtol=0, atol=1e-12)


def test_what_the_next_frame_adds_is_ft():
    """Two equal frames: Ft is 0 on either scale; the spatial gradients are not."""
    found = parts(built(), clip_of(1).expand(-1, -1, 2, -1, -1))
    for key in ("off512", "off1024"):
        Fx, Fy, Ft = found[key].chunk(3, 1)
        assert Ft.abs().max() < 1e-12 < 1e-3 < min(Fx.abs().max(), Fy.abs().max())


def test_a_squeeze_that_lets_all_pass_is_none():
    """sigmoid(40) is 1."""
    network, without, clip = built(), built(se=False), clip_of(2)
    missing, unexpected = without.load_state_dict(network.state_dict(), strict=False)
    assert not missing and unexpected and all(".squeeze." in key for key in unexpected)
    plain = parts(without, clip)["scores"]
    assert not torch.allclose(parts(network, clip)["scores"], plain)
    for name, parameter in network.named_parameters():
        if ".squeeze.up." in name:
            parameter.data.fill_(40 if name.endswith("bias") else 0)
    torch.testing.assert_close(parts(network, clip)["scores"], plain, rtol=0, atol=1e-12)


def test_frozen_is_what_fgfa_freezes():
    """As FGFA, whose R-FCN it is: conv1, res2 and every batch norm, its statistics too."""
    network = built().train()
    before = {key: value.clone() for key, value in network.named_buffers()}
    network(clip_of(2))
    assert all(torch.equal(value, before[key]) for key, value in network.named_buffers())
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    norms = {n for n, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert frozen == {
        name
        for name, _ in network.named_parameters()
        if name.startswith(("backbone.conv1.", "backbone.layer1.")) or name.rpartition(".")[0] in norms
    }
    free = built(freeze=False).train()
    free(clip_of(2))
    assert all(p.requires_grad for p in free.parameters())
    assert not torch.equal(free.backbone.bn1.running_mean, before["backbone.bn1.running_mean"])


def planted():
    """Maps of two frames of 128 x 160 (8 x 10 cells), background everywhere but for an object in the second frame.

    There the object is where the anchor of ratio 1 and scale 8 (128 x 128) is, at row 3, column 5; of class 2.
    """
    network = built()
    maps = torch.zeros(1, 18 + 36 + 4 * 4 + 4 * 4, 2, 8, 10, dtype=torch.float64)
    found = network.split(maps)  # views
    found["rpn_scores"][:, :9] = 5
    found["rpn_scores"][0, 9 + 3, 1, 3, 5] = 10
    found["class_maps"][:, :4] = 9
    found["class_maps"][0, 4 * 3 : 4 * 4, 1] = 20
    return network, maps


def test_detections_by_hand():
    """The anchor around the centre (5 + 1/2) 16 - 1/2 is 24 to 151, and in y -8 to 119: clipped to 0."""
    network, maps = planted()
    ((image, label, score, *box),) = network.detections(maps, 128, 160, proposals=1).tolist()
    assert (image, label, box) == (1, 2, [24, 0, 151, 119])
    np.testing.assert_allclose(score, np.exp(20) / (np.exp(20) + np.exp(9) + 2))
    found = network.detections(maps, 128, 160, proposals=1)
    assert mean_average_precision(found.numpy(), np.array([[1.0, 2, 24, 0, 151, 119]])) == 1


def test_a_box_moves_by_what_its_maps_vote():
    """dx of 1/8 is 15 pixels of the 120 that are left of the anchor in y, 16 of its 128 in x; dw of log 1/2 halves."""
    network, maps = planted()
    box_maps = network.split(maps)["box_maps"].unflatten(1, (4, 4))
    box_maps[:, 0], box_maps[:, 1], box_maps[:, 2] = 1 / 8, -1 / 8, np.log(1 / 2)
    ((_, _, _, *box),) = network.detections(maps, 128, 160, proposals=1).tolist()
    np.testing.assert_allclose(box, [24 + 16 + 32, 0, 24 + 16 + 95, 119 - 15], atol=1e-9)


def test_of_detections_that_overlap_the_best_stays():
    """All anchors are proposed; of those with the object's score, which overlap, few are left, none of them twice."""
    network, maps = planted()
    few, all_ = (network.detections(maps, 128, 160, overlap=overlap) for overlap in (0.3, 1.0))
    assert 1 <= len(few) < len(all_) <= 300
    assert [24, 0, 151, 119] in few[:, 3:].tolist()
    assert not len(network.detections(maps, 128, 160, threshold=0.9999999))


def test_detections_are_those_of_the_reference():
    network, clip = built(), clip_of(3, 67, 90)
    with torch.no_grad():
        for parameter in (network.rpn_boxes.weight, network.box_maps.weight, network.class_maps.weight):
            parameter *= 30  # boxes that move, and scores that differ
        maps = network(clip)
        got = network.detect(clip, threshold=0.2).numpy()
    want = reference.detections(maps.numpy(), 67, 90, classes=3, k=2, threshold=0.2)
    assert len({line[0] for line in got.tolist()}) == 2 and len(got) > 10
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)
    assert (np.diff(got[:, 0]) >= 0).all()
    nothing = network.detect(clip[:0], threshold=0.2)
    assert nothing.shape == (0, 7) and nothing.dtype == torch.float64


def test_detection_is_not_exported_and_says_so():
    network, maps = planted()

    class Detector(torch.nn.Module):
        def forward(self, maps):
            return network.detections(maps, 128, 160)

    with pytest.raises(
        RuntimeError, match=r"^RFCN: detections: expected to run outside a graph, .* export the network"
    ):
        torch.export.export(Detector(), (maps,), strict=False)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"scales": "all"}, "scales: expected one of 'multi', 'single', 'none', got 'all'"),
        ({"k": 0}, "k: expected at least 1, got 0"),
        ({"blocks": 0}, "blocks: expected at least 1, got 0"),
        ({"width": 0}, "width: expected a finite number above 0, got 0"),
    ],
)
def test_what_cannot_be_built_says_so(arguments, says):
    with pytest.raises(ValueError, match=f"^RFCN: {says}"):
        built(**arguments)


def test_what_cannot_be_detected_in_says_so():
    network, maps = planted()
    with pytest.raises(ValueError, match=r"^RFCN: clip: expected at least T=2 frames, got T=1"):
        network(clip_of(1))
    with pytest.raises(ValueError, match=r"^RFCN: maps: expected shape \(N, 86, T, h, w\).*, got \(1, 85, 2, 8, 10\)"):
        network.detections(maps[:, 1:], 128, 160)
    with pytest.raises(ValueError, match=r"^RFCN: maps: expected 9 x 10 cells .* of 129 x 160, got 8 x 10"):
        network.detections(maps, 129, 160)
