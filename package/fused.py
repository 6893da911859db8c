"""The table of fused implementations: known without torch, which `motionspec list` does not import."""

# Beside "torch", plain PyTorch; `impl="auto"` takes the first that can do what is asked (`ops/support.py`).
FUSED: dict[str, tuple[str, ...]] = {
    "off.features": ("triton",),
    "off.clip_features": ("triton",),
    "losses.endpoint_error": ("triton",),
    "costvol.displacement_map": ("triton",),
}
