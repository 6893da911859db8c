"""OFF on a ResNet with temporal shift (OFF20 §5.2)."""

from collections.abc import Mapping

from motionspec.refimpl import off_tsn, resnet
from motionspec.refimpl.checks import Array

_TAPS = {"28": ("layer2",), "14": ("layer3",), "7": ("layer4",)}


def off_tsm(
    weights: Mapping[str, Array],
    clip: Array,
    *,
    shift: bool = True,
    scheme: str = "paper",
    gradients: str = "both",
    fusion: tuple[float, float, float, float] = (1, 0, 0, 1),
) -> dict[str, Array]:
    """All predictions of a clip (N, 3, T, H, W), and the OFF of each level; inference mode.

    weights: by the names of `motionspec.models.off_tsm.OFFTSM`, as are the arguments and the results.
    """
    backbone = off_tsn.under(weights, "backbone.")
    maps: dict[str, Array] = {}
    for k in range(1, 6):
        clip = maps[f"layer{k - 1}"] = resnet.block(backbone, k, clip, shift=shift)
    head = resnet.head(backbone, clip)
    parts = {"steps": head["steps"], "backbone": head["scores"]}
    return off_tsn.assembly(weights, maps, _TAPS, parts, scheme=scheme, gradients=gradients, fusion=fusion)
