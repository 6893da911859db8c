"""OFF on TSM: the OFF sub-network on the maps of a ResNet-50 with temporal shift (OFF20 §5.2, Kinetics)."""

from typing import Any

from motionspec.checks import count, positive
from motionspec.models.off_tsn import Assembly, supervised
from motionspec.models.resnet import ResNet
from motionspec.models.table import Network, Stage

__all__ = ["NETWORKS", "OFFTSM"]


class OFFTSM(Assembly):
    """TSM with OFF (OFF20 §5.2, Table 5): a ResNet with temporal shift, and the OFF sub-network on its maps.

    Clip (N, 3, T, H, W) of T >= 2 frames (8 in the paper, so 7 pairs) -> scores (N, classes) before the softmax, of RGB
    as `ResNet` expects it. The paper prints the result and its cost alone. Ours are:
    - The OFF units are at the outputs of layer2, layer3, layer4, of 28 x 28, 14 x 14 and 7 x 7 as on BN-Inception; a
      ResNet has one output at each. The sub-network is that of `OFFNetwork`; so are the options scheme, gradients,
      fusion, spatial_dropout, and `groups` and `parts`, but for "steps" (N, T, classes) instead of "segments".
    - The scores are summed, as OFF18 §4.3 sums them.
    - All is trained at once, as the paper names one schedule and not two stages; `freeze=True` is stage two of OFF18.
    - dropout, of all classifiers, is TSM's.
    It costs 37.4 GFLOPs, a multiply-add counted once, 4.7 of them OFF. The paper prints 59.5, and for TSM 33, as here.

    depth: 18, 34, 50, 101. shift=False leaves the temporal shift out: nothing but OFF then sees more than one frame.
    width multiplies all channels, of which with the shift no map may have fewer than the 8 that TSM cuts.
    Raises `OFFTSM: argument: expected ..., got ...`, TypeError or ValueError.
    """

    def __init__(
        self,
        classes: int = 400,
        *,
        depth: int = 50,
        shift: bool = True,
        dropout: float = 0.5,
        freeze: bool = False,
        width: float = 1.0,
        **options: Any,
    ):
        count("OFFTSM", "classes", classes)
        positive("OFFTSM", "width", width)
        backbone = ResNet(classes, depth=depth, shift=shift, dropout=dropout, width=width)
        super().__init__(
            classes,
            backbone=backbone,
            taps={"28": ["layer2"], "14": ["layer3"], "7": ["layer4"]},
            channels=backbone.channels,
            dropout=dropout,
            freeze=freeze,
            width=width,
            **options,
        )


_OURS = "OFF18 §4.1, Fig. 4, on ResNet-50: 8 frames, 7 pairs"
_HE = "He et al. 2016, Table 1"
NETWORKS = (
    Network(
        name="off-tsm",
        source="OFF20 §5.2, Table 5",
        build=OFFTSM,
        input=(3, 8, 224, 224),
        small={"classes": 4, "depth": 18, "width": 1 / 8},
        small_input=(3, 3, 40, 34),
        reference="off_tsm.off_tsm",
        variants=(
            {"depth": 50, "scheme": "released", "fusion": (1, 0.5, -1, 2)},
            {"gradients": "temporal", "shift": False},
        ),
        stages=(
            Stage(module="backbone.layer2", shape=(512, 28, 28), source=_HE),
            Stage(module="backbone.layer3", shape=(1024, 14, 14), source=_HE),
            Stage(module="backbone.layer4", shape=(2048, 7, 7), source=_HE),
            Stage(module="backbone.fc", shape=(8, 400), source="OFF20 §5.2: 400 classes"),
            Stage(module="off.28.unit", shape=(384, 7, 28, 28), source=_OURS),
            Stage(module="off.28.blocks", shape=(256, 14, 14), source=_OURS),
            Stage(module="off.14.unit", shape=(384, 7, 14, 14), source=_OURS),
            Stage(module="off.14.blocks", shape=(512, 7, 7), source=_OURS),
            Stage(module="off.7.unit", shape=(384, 7, 7, 7), source=_OURS),
            Stage(module="off.7.blocks", shape=(1024, 7, 7), source=_OURS),
            Stage(module="off.7.fc", shape=(400,), source=_OURS),
        ),
        loss=supervised,
    ),
)
