"""Weights from files: what matched, what was converted, what was left, refusals (made-up files, published names)."""

import re

import pytest

torch = pytest.importorskip("torch")

from motionspec.models.bn_inception import TSN, BNInception  # noqa: E402
from motionspec.models.off_tsm import OFFTSM  # noqa: E402
from motionspec.models.off_tsn import OFFNetwork, released  # noqa: E402
from motionspec.models.resnet import ResNet, Trunk  # noqa: E402
from motionspec.models.weights import inflated, load, load_parts, mean_over_colours  # noqa: E402

SMALL = {"depth": 18, "width": 1 / 16}


def random(state):
    """Other values under the same names."""
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in state.items()
    }


@pytest.fixture
def imagenet(tmp_path):
    """A torchvision-format ResNet-18 of 10 classes: its file, and what is in it."""
    state = random(ResNet(10, **SMALL).state_dict())
    torch.save(state, tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth", state


def published(network):
    """The names that tsn-pytorch gives the parameters of BN-Inception, as it stores them."""

    def name(key):
        if key.startswith("fc."):
            return f"module.new_{key}"
        key = re.sub(r"^backbone\.(\w+)\.(\w+)\.conv\.", r"\1_\2.", key)
        return "module.base_model." + re.sub(r"^backbone\.(\w+)\.(\w+)\.bn\.", r"\1_\2_bn.", key)

    state = random(network.state_dict())
    return {name(key): value for key, value in state.items() if not key.endswith("num_batches_tracked")}, state


def equal(network, state, but=()):
    return [key for key, value in network.state_dict().items() if not torch.equal(value, state[key])] == list(but)


def test_torchvision_s_resnet_fits(imagenet):
    path, state = imagenet
    network = ResNet(10, **SMALL)
    report = load(network, path)
    assert equal(network, state) and not report.kept and not report.dropped
    assert report.loaded == {key: key for key in state}
    assert str(report) == f"{len(state)} of {len(state)} loaded"


def test_safetensors_fits(imagenet, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    _, state = imagenet
    safetensors.save_file(state, tmp_path / "resnet18.safetensors")
    network = ResNet(10, **SMALL)
    load(network, tmp_path / "resnet18.safetensors")
    assert equal(network, state)


def test_another_number_of_classes_is_refused_or_kept(imagenet):
    path, state = imagenet
    network = ResNet(4, **SMALL)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"^load: file: expected .*fc\.weight is \(10, 32\), not \(4, 32\).*fc\.bias"):
        load(network, path)
    assert equal(network, before)  # nothing is half loaded
    report = load(network, path, keep=(r"fc\..*",))
    assert equal(network, {**state, "fc.weight": before["fc.weight"], "fc.bias": before["fc.bias"]})
    assert report.kept == report.dropped == ("fc.weight", "fc.bias")
    assert str(report) == "120 of 122 loaded; kept as they were: fc.weight, fc.bias; not used: fc.weight, fc.bias"


def test_what_is_missing_and_what_is_too_much_are_refused(imagenet, tmp_path):
    path, state = imagenet
    with pytest.raises(ValueError, match=r"^load: file: expected .*not in the network: fc\.weight, fc\.bias.*drop"):
        load(Trunk(**SMALL), path)
    assert load(Trunk(**SMALL), path, drop=(r"fc\..*",)).dropped == ("fc.weight", "fc.bias")
    torch.save({key: value for key, value in state.items() if key != "bn1.weight"}, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"not in the file: bn1\.weight"):
        load(ResNet(10, **SMALL), tmp_path / "less.pth")


def test_what_is_dropped_is_not_loaded(imagenet):
    """Also where the network has a place for it: then that must be kept."""
    path, state = imagenet
    network = ResNet(10, **SMALL)
    bias = network.fc.bias.clone()
    with pytest.raises(ValueError, match=r"not in the file: fc\.bias"):
        load(network, path, drop=(r"fc\.bias",))
    report = load(network, path, drop=(r"fc\.bias",), keep=(r"fc\.bias",))
    assert equal(network, {**state, "fc.bias": bias}) and report.kept == report.dropped == ("fc.bias",)


@pytest.mark.parametrize("argument", ["keep", "drop"])
def test_a_pattern_that_matches_nothing_is_refused(imagenet, argument):
    with pytest.raises(ValueError, match=rf"^load: {argument}: expected .*got 'head\.\*'"):
        load(ResNet(10, **SMALL), imagenet[0], **{argument: ("head.*",)})


def test_a_single_string_is_no_list_of_patterns(imagenet):
    with pytest.raises(TypeError, match=r"^load: keep: expected a list of patterns, got one string"):
        load(ResNet(10, **SMALL), imagenet[0], keep=r"fc\..*")


def test_2d_weights_are_inflated_only_if_asked(imagenet):
    path, state = imagenet
    network = ResNet(10, **SMALL, kind="3D", stem_time=7)
    with pytest.raises(ValueError, match=r"conv1\.weight is \(4, 3, 7, 7\), not \(4, 3, 7, 7, 7\).*inflate=True"):
        load(network, path)
    report = load(network, path, inflate=True)
    for key, value in network.state_dict().items():
        want = state[key][:, :, None] / value.shape[2] if value.ndim == 5 else state[key]
        torch.testing.assert_close(value, want.expand_as(value), rtol=0, atol=1e-7)
    assert report.inflated == tuple(key for key, value in state.items() if value.ndim == 4)


def test_a_still_clip_is_to_an_inflated_convolution_what_a_frame_is_to_the_2d_one():
    weight, frame = (torch.randn(shape, dtype=torch.float64) for shape in ((4, 3, 5, 5), (2, 3, 9, 9)))
    still = frame[:, :, None].expand(-1, -1, 3, -1, -1)
    got = torch.nn.functional.conv3d(still, inflated(weight, 3))
    torch.testing.assert_close(got.squeeze(2), torch.nn.functional.conv2d(frame, weight), rtol=0, atol=1e-11)


def test_2d_weights_go_into_the_spatial_half_of_2plus1d(imagenet):
    path, state = imagenet
    network = ResNet(10, **SMALL, kind="(2+1)D")
    report = load(network, path, inflate=True)
    assert torch.equal(network.state_dict()["layer1.0.conv1.spatial.weight"][:, :, 0], state["layer1.0.conv1.weight"])
    assert torch.equal(network.bn1.weight, state["bn1.weight"])
    assert report.loaded["conv1.spatial.weight"] == "conv1.weight"
    assert {re.sub(r".*conv\d\.", "", key) for key in report.kept if not key.endswith("tracked")} == {
        "temporal.weight",
        "bn.weight",
        "bn.bias",
        "bn.running_mean",
        "bn.running_var",
    }


def test_tsn_s_published_names_fit(tmp_path):
    network = TSN(5, width=1 / 16)
    file, state = published(network)
    assert {
        "module.base_model.conv1_7x7_s2.weight",
        "module.base_model.conv2_3x3_reduce_bn.running_mean",
        "module.base_model.inception_3a_double_3x3_1_bn.bias",
        "module.base_model.inception_5b_pool_proj.bias",
        "module.new_fc.weight",
    } <= file.keys()
    file["module.base_model.conv1_7x7_s2_bn.weight"] = file["module.base_model.conv1_7x7_s2_bn.weight"][None]  # as some
    torch.save({"epoch": 80, "state_dict": file}, tmp_path / "tsn.pth.tar")
    report = load(network, tmp_path / "tsn.pth.tar")
    assert equal(network, state) and not report.dropped
    assert report.kept and all(key.endswith("num_batches_tracked") for key in report.kept)
    backbone = BNInception(width=1 / 16)
    assert load(backbone, tmp_path / "tsn.pth.tar", drop=(r"module\.new_fc\..*",)).dropped
    assert equal(backbone, {key.removeprefix("backbone."): value for key, value in state.items()})
    network = OFFNetwork(5, width=1 / 16)
    load(network.backbone, tmp_path / "tsn.pth.tar")
    assert equal(network.backbone, state)


def test_tsm_s_published_names_fit(imagenet, tmp_path):
    _, state = imagenet
    file = {re.sub(r"(layer\d\.\d\.conv1)\.", r"\1.net.", key): value for key, value in state.items()}
    file = {"module." + ("new_" if key[:3] == "fc." else "base_model.") + key: value for key, value in file.items()}
    assert {"module.base_model.layer1.0.conv1.net.weight", "module.base_model.conv1.weight"} <= file.keys()
    torch.save({"state_dict": file}, tmp_path / "tsm.pth.tar")
    network = ResNet(10, depth=18, width=1 / 16)
    load(network, tmp_path / "tsm.pth.tar")
    assert equal(network, state)


@pytest.mark.parametrize("modality, channels", [("flow", 10), ("rgb-diff", 15)])
def test_the_first_layer_crosses_modalities_only_if_asked(tmp_path, modality, channels):
    """TSN: the mean over the three colours, for every channel; a grey frame in all of them gives C/3 times the same."""
    file, state = published(TSN(5, width=1 / 16))
    torch.save(file, tmp_path / "rgb.pth")
    network = TSN(5, width=1 / 16, modality=modality)
    with pytest.raises(ValueError, match="cross_modality=True"):
        load(network, tmp_path / "rgb.pth")
    report = load(network, tmp_path / "rgb.pth", cross_modality=True)
    first = "backbone.conv1.7x7_s2.conv.weight"
    assert report.crossed == (first,)
    weight = network.state_dict()[first]
    assert weight.shape[1] == channels
    torch.testing.assert_close(weight.sum(1), state[first].sum(1) * channels / 3)
    assert torch.equal(weight, mean_over_colours(state[first], channels)) and torch.equal(weight[:, 0], weight[:, -1])


# -- to learn on from --------------------------------------------------------------------------------------------------

HEAD = ("fc", "backbone.fc")
TSM = {"depth": 18, "width": 1 / 8}  # narrower maps cannot be shifted


def kept_and_loaded(network, file, **options):
    """What stayed as it was, what came from the file, and the report."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    report = load_parts(network, file, **options)
    kept = {key for key, value in network.state_dict().items() if torch.equal(value, before[key])}
    assert kept >= set(report.kept) and not kept & set(report.loaded) - {k for k in before if "num_batches" in k}
    return report


def test_only_a_head_of_other_classes_begins_anew(imagenet):
    path, state = imagenet
    report = kept_and_loaded(ResNet(4, **SMALL), path, head=HEAD)
    assert report.kept == report.dropped == ("fc.weight", "fc.bias") and len(report.loaded) == len(state) - 2
    assert not kept_and_loaded(ResNet(10, **SMALL), path, head=HEAD).kept
    with pytest.raises(ValueError, match=r"fc\.weight is \(10, 32\), not \(4, 32\)"):
        load_parts(ResNet(4, **SMALL), path)


def test_a_backbone_is_loaded_and_what_is_on_it_begins_anew(tmp_path):
    state = random(ResNet(10, **TSM).state_dict())
    torch.save(state, tmp_path / "resnet18.pth")
    network = OFFTSM(4, **TSM)
    report = kept_and_loaded(network, tmp_path / "resnet18.pth", head=HEAD)
    assert equal(network.backbone, state, but=("fc.weight", "fc.bias"))
    assert {key.partition(".")[0] for key in report.kept} == {"off", "backbone"}  # its fc
    torch.save(published(TSN(4, width=1 / 16))[0], tmp_path / "tsn.pth")
    report = kept_and_loaded(OFFNetwork(4, width=1 / 16), tmp_path / "tsn.pth")  # whose backbone is a TSN
    assert {key.partition(".")[0] for key in report.loaded} == {"backbone"} and report.dropped == ()


def test_a_part_fits_whole_or_nothing_is_loaded(imagenet):
    path, _ = imagenet
    for other in ({"depth": 34}, {"width": 1 / 8}):
        network = ResNet(10, **SMALL | other)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(ValueError, match=r"^load: file: expected the weights of this ResNet, got "):
            load_parts(network, path, head=HEAD)
        assert equal(network, before)
    with pytest.raises(ValueError, match=r"^load: file: expected the weights of this TSN, got none of them"):
        load_parts(TSN(10, width=1 / 16), path, head=HEAD)


# The released layers of the OFF sub-network by our names; with them "motion_conv_gen_3a", "motion_spatial_down_3a" ...
RELEASED_OFF = {
    "off.28.reduce": "motion_conv_trans_28",
    "off.28.blocks.0.branch": "motion_conv_branch_28a",
    "off.28.fc": "fc_action_motion_28",
    "off.14.reduce": "motion_conv_trans_14",
    "off.14.blocks.0.branch": "motion_conv_expand_trans_14a",
    "off.14.fc": "fc_action_motion_14",
    "off.7.reduce": "motion_conv_trans",
    "off.7.blocks.0.branch": "motion_conv_branch_trans",
    "off.7.fc": "fc_action_motion",
    **{f"off.28.blocks.{k}.conv{i}": f"motion_conv{i}_trans_28{'abc'[k]}" for k in range(3) for i in (1, 2, 3)},
    **{f"off.14.blocks.{k}.conv{i}": f"motion_conv{i}_trans_14{'ab'[k]}" for k in range(2) for i in (1, 2, 3)},
    **{f"off.7.blocks.0.conv{i}": f"motion_conv{i}_trans" for i in (1, 2, 3)},
    "backbone.fc": "last_linear",
}
CROSS = torch.tensor([[0.0, 1, 0], [-1, 0, 1], [0, -1, 0]])


def released_off(network, caffe=False):
    """The names that the PyTorch port of the released OFF code gives its layers, or those of the Caffe model."""

    def name(key):
        layer, end = key.rsplit(".", 1)
        if layer in RELEASED_OFF:
            layer = RELEASED_OFF[layer]
        else:
            layer = re.sub(r"^off\.\d+\.unit\.spatial\.inception", "motion_spatial_down", layer)
            layer = re.sub(r"^off\.\d+\.unit\.temporal\.inception", "motion_conv_gen", layer)
            layer = re.sub(r"^backbone\.backbone\.(\w+)\.(\w+)\.conv$", r"\1/\2" if caffe else r"\1_\2", layer)
            layer = re.sub(r"^backbone\.backbone\.(\w+)\.(\w+)\.bn$", r"\1/\2_bn" if caffe else r"\1_\2_bn", layer)
        if caffe:
            layer = re.sub("^fc_action_motion", "fc-action-motion", layer.replace("last_linear", "fc-action"))
        return f"{layer}.{end}"

    state = random(network.state_dict())
    file = {name(key): value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    for tap in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "5a", "5b"):
        if f"motion_spatial_down_{tap}.bias" in file:
            C = len(file[f"motion_spatial_down_{tap}.bias"])
            file[f"motion_spatial_grad_{tap}.weight"] = CROSS.repeat(C, 1, 1, 1)
            file[f"motion_spatial_grad_{tap}.bias"] = torch.zeros(C)
    return file, state


@pytest.mark.parametrize("caffe", [False, True])
@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_off_s_released_names_fit(tmp_path, modality, caffe):
    arguments = {"modality": modality, "gradients": "both" if modality == "rgb" else "temporal"}
    network = OFFNetwork(5, scheme="released", width=1 / 16, **arguments)
    file, state = released_off(network, caffe)
    assert {"motion_conv_gen_5b.weight", "motion_conv_trans.bias", "motion_conv3_trans_14b.weight"} <= file.keys()
    assert ("inception_4e/double_3x3_2_bn.running_var" if caffe else "inception_4e_double_3x3_2_bn.running_var") in file
    torch.save(file, tmp_path / "off.pth")
    report = load(network, tmp_path / "off.pth", convert=released)
    assert equal(network, state)
    assert all(key.endswith("num_batches_tracked") for key in report.kept)
    fixed = [key for key in file if "spatial_grad" in key]
    assert len(file) - len(report.loaded) == len(fixed) == (18 if modality == "rgb" else 0)
    other = OFFNetwork(9, scheme="released", width=1 / 16, **arguments)
    report = load(other, tmp_path / "off.pth", keep=(r".*\bfc\..*",), convert=released)
    assert len(report.loaded) == len(state) - len([key for key in state if "num_batches" in key]) - 8


def test_off_s_spatial_kernels_are_fixed_and_may_be_dense(tmp_path):
    """A dense kernel whose channels do not mix is a depthwise one; the port trains its kernels, and then it is none."""
    network = OFFNetwork(5, scheme="released", width=1 / 16)
    file, state = released_off(network)
    file["motion_spatial_grad_3a.weight"] = torch.eye(2)[:, :, None, None] * CROSS
    torch.save(file, tmp_path / "dense.pth")
    load(network, tmp_path / "dense.pth", convert=released)
    assert equal(network, state)
    refused = {
        "mixes channels": ("weight", torch.ones(2, 2)[:, :, None, None] * CROSS),
        "trained": ("weight", 1.1 * CROSS.repeat(2, 1, 1, 1)),
        "turned": ("weight", -CROSS.repeat(2, 1, 1, 1)),
        "of another size": ("weight", torch.zeros(2, 1, 5, 5)),
        "with a bias": ("bias", torch.ones(2)),
    }
    for key, value in refused.values():
        torch.save(file | {f"motion_spatial_grad_3a.{key}": value}, tmp_path / "bad.pth")
        says = rf"^released: state: expected .*fixed.*got others: motion_spatial_grad_3a\.{key}$"
        with pytest.raises(ValueError, match=says):
            load(network, tmp_path / "bad.pth", convert=released)
    both = file | {"module.motion_conv_trans.bias": file["motion_conv_trans.bias"]}
    with pytest.raises(ValueError, match=r"^released: state: expected names that stay different"):
        released(both)


def test_off_s_released_weights_do_not_fit_the_paper_s_network(tmp_path):
    """One 1 x 1 of all maps of a level, with one bias, is not nine of one map each."""
    file, _ = released_off(OFFNetwork(5, scheme="released", width=1 / 16))
    torch.save(file, tmp_path / "off.pth")
    with pytest.raises(ValueError, match=r"not in the file: off\.28\.unit\.off\.reduce\.weight"):
        load(OFFNetwork(5, width=1 / 16), tmp_path / "off.pth", convert=released)


class Code:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("what", ["code", "text", "nothing", "a list", "numbers", "no names"])
def test_what_is_no_state_dict_is_refused_and_no_code_runs(tmp_path, capsys, what):
    path = tmp_path / "weights.pth"
    if what == "code":
        torch.save(Code(), path)
    elif what in ("text", "nothing"):
        path.write_text("hello" if what == "text" else "")
    else:
        others = {"a list": [1, 2], "numbers": {"conv1.weight": 1}, "no names": {1: torch.zeros(1)}}
        torch.save(others[what], path)
    with pytest.raises(ValueError, match=r"^load: file: expected a state_dict, names and tensors") as refused:
        load(Trunk(**SMALL), path)
    assert "weights_only" not in str(refused.value)  # torch's advice is to run the code
    assert "must not run" not in capsys.readouterr().out


def test_a_file_that_is_not_there_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(Trunk(**SMALL), tmp_path / "none.pth")


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "weights.safetensors").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"^load: file: expected a state_dict"):
        load(Trunk(**SMALL), tmp_path / "weights.safetensors")
