"""The papers' recipes: training, evaluation and what their systems report."""

if __name__ != "motionspec.train":
    raise ImportError(f"import motionspec.train, not {__name__}: the folder is a part of the package motionspec")

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "motionspec.train needs PyTorch: pip install 'motionspec[torch]'", name="torch"
    ) from error
