"""The operators as layers, and the papers' networks built of them: `motionspec.models.table` lists those."""

if __name__ != "motionspec.models":
    raise ImportError(f"import motionspec.models, not {__name__}: the folder is a part of the package motionspec")

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "motionspec.models needs PyTorch: pip install 'motionspec[torch]'", name="torch"
    ) from error

from motionspec.models.layers import OFF, DisplacementMap, RepresentationFlow, WarpedDifference

__all__ = ["OFF", "DisplacementMap", "RepresentationFlow", "WarpedDifference"]
