"""The table of fused implementations: known without torch, which `motionspec list` does not import."""

# Beside "torch", plain PyTorch; `impl="auto"` takes the first that can do what is asked (`ops/support.py`).
FUSED: dict[str, tuple[str, ...]] = {
    "off.spatial_gradient": ("numba",),
    "off.features": ("triton", "numba"),
    "off.clip_features": ("triton", "numba"),
    "tvl1.representation_flow": ("triton", "numba"),
    "tvl1.pyramid_flow": ("numba",),
    "costvol.displacement_map": ("triton", "numba"),
    "warp.bilinear": ("triton", "numba"),
    "warp.motion": ("triton", "numba"),
    "warp.difference": ("triton", "numba"),
    "losses.endpoint_error": ("triton", "numba"),
    "metrics.endpoint_error": ("triton", "numba"),
}
