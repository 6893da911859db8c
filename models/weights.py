"""Weights from a file, by the names that torchvision, tsn-pytorch and TSM publish; nothing is downloaded."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import torch
from torch import Tensor, nn

from motionspec.checks import message

__all__ = ["RENAMES", "Report", "inflated", "load", "load_parts", "mean_over_colours", "read"]

# Published name -> ours, one after the other.
RENAMES = (
    (r"^module\.", ""),  # DataParallel
    (r"^(new_fc|last_linear|fc_action)\.", "fc."),  # tsn-pytorch, TSM; Cadene's and Caffe's BN-Inception
    (r"^base_model\.", ""),  # tsn-pytorch, TSM
    (r"(layer\d\.\d+\.conv1)\.net\.", r"\1."),  # TSM wraps what it shifts
    (r"^(conv[12]|inception_\w\w)_(\w+)_bn\.", r"\1.\2.bn."),
    (r"^(conv[12]|inception_\w\w)_(\w+)\.", r"\1.\2.conv."),
)


@dataclass(frozen=True)
class Report:
    """What `load` did.

    loaded: the network's name -> the file's. Of these: inflated, and crossed to another modality. kept: names of the
    network's that stay as they were. dropped: names of the file's that were not used.
    """

    loaded: Mapping[str, str]
    inflated: tuple[str, ...]
    crossed: tuple[str, ...]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} of {len(self.loaded) + len(self.kept)} loaded"]
        for says, names in (
            ("inflated", self.inflated),
            ("averaged over the colours", self.crossed),
            ("kept as they were", self.kept),
            ("not used", self.dropped),
        ):
            if names:
                lines.append(f"{says}: {_some(names)}")
        return "; ".join(lines)


def inflated(weight: Tensor, time: int) -> Tensor:
    """The weight (O, I, k, k) of a 2D convolution for `time` frames, (O, I, time, k, k): a share of it for each.

    A clip that stands still is to it what a frame is to the 2D one (I3D, which RF19 §4 follows).
    """
    return (weight[:, :, None] / time).repeat(1, 1, time, 1, 1)


def mean_over_colours(weight: Tensor, channels: int) -> Tensor:
    """The first weight (O, 3, k, k) of an RGB network for another modality: its mean for each of `channels` (TSN)."""
    return weight.mean(1, keepdim=True).repeat(1, channels, 1, 1)


def load(
    network: nn.Module,
    file: str | PathLike[str],
    *,
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    inflate: bool = False,
    cross_modality: bool = False,
    renames: Sequence[tuple[str, str]] = RENAMES,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> Report:
    """Load a state_dict (.safetensors, or what torch.save wrote) into a network: all of it or, with an error, nothing.

    Every name of the network must be in the file and the other way round, with equal shapes, but for:
      keep: regular expressions of whole names of the network's that stay as they are, such as r"fc\\..*" for other
        classes; what the file has under such a name is not used.
      drop: the same of names in the file that the network has no place for.
      inflate: 2D weights become those of a 3D network (`inflated`), or of the spatial half of a (2+1)D one, whose other
        half stays as it is.
      cross_modality: the first convolution of 3 channels becomes that of another number (`mean_over_colours`).
    A batch norm's count of batches may be missing, as in old files.

    renames: (regular expression, replacement), applied in turn to the names in the file.
    convert: makes names and tensors of those in the file (without the dropped) before that: `off_tsn.released` and
      `repflow.released` for what the authors of these papers published.
    Returns what was done. Raises `load: argument: expected ..., got ...`, ValueError, with all that does not fit, or
    FileNotFoundError. No code in the file is run.

    >>> report = load(ResNet(101, depth=50), "resnet50.pth", keep=[r"fc\\..*"])  # doctest: +SKIP
    >>> print(report)  # doctest: +SKIP
    318 of 320 loaded; kept as they were: fc.weight, fc.bias; not used: fc.weight, fc.bias
    """
    own, given = network.state_dict(), read(file)
    kept, dropped = _matching("keep", keep, own), _matching("drop", drop, given)
    given = convert({name: value for name, value in given.items() if name not in dropped})
    names = {_renamed(name, renames, own): name for name in given}  # the network's -> the file's
    if len(names) < len(given):
        twice = sorted(set(given) - set(names.values()))
        raise ValueError(message("load", "file", "names that stay different when renamed", _some(twice)))
    dropped += [names.pop(name) for name in kept if name in names]
    first = next((name for name, value in own.items() if value.ndim >= 4), None)
    values: dict[str, Tensor] = {}
    done: dict[str, list[str]] = {"inflated": [], "crossed": []}
    missing, unlike = [], []
    for name, like in own.items():
        if name in names:
            value = given[names[name]]
            if value.shape == (1, *like.shape):
                value = value[0]  # the batch norms of some of tsn-pytorch's files
            if cross_modality and name == first and value.ndim == 4 and value.shape[1] == 3 != like.shape[1]:
                value = mean_over_colours(value, like.shape[1])
                done["crossed"].append(name)
            if inflate and (value.ndim, like.ndim) == (4, 5):
                value = inflated(value, like.shape[2])
                done["inflated"].append(name)
            if value.shape != like.shape:
                unlike.append(f"{name} is {tuple(value.shape)}, not {tuple(like.shape)}")
            values[name] = value
        elif name.endswith("num_batches_tracked") or (inflate and _other_half(name) in own):
            kept.append(name)
        elif name not in kept:
            missing.append(name)
    extra = [name for own_name, name in names.items() if own_name not in own]
    problems = [
        f"{says}: {_some(found)} ({what})"
        for says, found, what in (
            ("of other shapes", unlike, "another width or depth? else keep, inflate=True, cross_modality=True"),
            ("not in the file", missing, "keep?"),
            ("not in the network", extra, "drop?"),
        )
        if found
    ]
    if problems:
        raise ValueError(message("load", "file", f"the weights of this {type(network).__name__}", "; ".join(problems)))
    network.load_state_dict(values, strict=False)
    return Report(
        loaded={name: names[name] for name in values},
        inflated=tuple(done["inflated"]),
        crossed=tuple(done["crossed"]),
        kept=tuple(kept),
        dropped=tuple(dropped),
    )


def load_parts(network: nn.Module, file: str | PathLike[str], *, head: Sequence[str] = ()) -> Report:
    """`load` what a network may learn on from: weights of other classes, of its backbone, or of a network like it.

    A part is all whose names begin with the same word, such as "backbone" or "layer4". One that only the network has
    stays as it is, one that only the file has is not used; one that both have must fit whole, but for
      head: names of layers of the network's that stay as they are if the file has them not, or in another shape.
    2D weights are inflated, the first convolution crosses to other modalities.
    Returns and raises as `load`; ValueError also where nothing fits.
    """
    own, given = network.state_dict(), read(file)
    names = {name: _renamed(name, RENAMES, own) for name in given}  # the file's -> the network's
    shapes = {names[name]: value.shape for name, value in given.items()}
    ours, theirs = ({_part(name) for name in found} for found in (own, shapes))
    unlike = {_layer(name) for name, value in own.items() if shapes.get(name) != value.shape}
    new = [name for name in own if _part(name) not in theirs or _layer(name) in unlike & {*head}]
    unused = [name for name in given if _part(names[name]) not in ours]
    if all(name in new or _layer(name) in head for name in own.keys() & shapes.keys()):
        raise ValueError(message("load", "file", f"the weights of this {type(network).__name__}", "none of them"))
    return load(network, file, keep=_alone(new), drop=_alone(unused), inflate=True, cross_modality=True)


def _part(name: str) -> str:
    return name.partition(".")[0]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _alone(names: Sequence[str]) -> list[str]:
    """The pattern that matches these names and no other."""
    return ["|".join(map(re.escape, names))] if names else []


def read(file: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors in a file by name; a training checkpoint has them under "state_dict". Raises as `load`."""
    path = fspath(file)
    try:
        if path.endswith(".safetensors"):
            content = _safetensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ModuleNotFoundError):
        raise
    except Exception as error:  # in a file of another kind torch stumbles over anything
        kind = (
            f"a file of another kind, or with other things in it ({type(error).__name__})"
            if str(error)
            else "an empty file"
        )
        raise ValueError(message("load", "file", "a state_dict, names and tensors", kind)) from None
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise ValueError(message("load", "file", "a state_dict, names and tensors", f"other things in {path}"))
    return content


def _safetensors(path: str) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        says = "load needs safetensors for such a file: pip install 'motionspec[weights]'"
        raise ModuleNotFoundError(says, name="safetensors") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _renamed(name: str, renames: Sequence[tuple[str, str]], own: Mapping[str, Tensor]) -> str:
    """The network's name for a name in the file, or what the renaming makes of it."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    # A backbone's weights are those of a whole network's backbone, or of the backbone of that; 2D weights those of the
    # spatial half of (2+1)D ones.
    candidates = (name, f"backbone.{name}", f"backbone.backbone.{name}", re.sub(r"weight$", "spatial.weight", name))
    return next((candidate for candidate in candidates if candidate in own), name)


def _other_half(name: str) -> str | None:
    """The spatial half that a weight or batch norm of a (2+1)D convolution stands behind."""
    half, is_one = re.subn(r"(bn\.\w+|temporal\.weight)$", "spatial.weight", name)
    return half if is_one else None


def _matching(argument: str, patterns: Sequence[str], names: Mapping[str, Tensor]) -> list[str]:
    """The names that match one of the patterns, each of which matches one."""
    if isinstance(patterns, str):
        raise TypeError(message("load", argument, "a list of patterns", "one string"))
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(
                message("load", argument, f"patterns that match a name such as {next(iter(names))!r}", repr(pattern))
            )
    return [name for name in names if any(re.fullmatch(pattern, name) for pattern in patterns)]


def _some(names: Sequence[str]) -> str:
    """The first few."""
    rest = len(names) - 6
    return ", ".join(names[:6]) + (f" and {rest} more" if rest > 0 else "")
