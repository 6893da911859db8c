"""The operators in PyTorch. Same stems, names and arguments as `motionspec.refimpl`, which this never imports.

Every function takes `impl="auto" | "torch"`. bfloat16 and float16 are computed in float32 and rounded once.
Under `torch.autocast` tensors of different types meet in the widest, those of losses in float32 at least.
Transforms of torch (`torch.func`, forward mode, double backward) are those of `impl="torch"`, which "auto" takes then.
"""

if __name__ != "motionspec.ops":
    raise ImportError(f"import motionspec.ops, not {__name__}: the folder is a part of the package motionspec")

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("motionspec.ops needs PyTorch: pip install 'motionspec[torch]'", name="torch") from error

from motionspec.ops import brightness, costvol, detection, layers, losses, metrics, off, pool3d, tvl1, warp

__all__ = ["brightness", "costvol", "detection", "layers", "losses", "metrics", "off", "pool3d", "tvl1", "warp"]
