"""Other people's implementations in the signature of an equation: what `motionspec check ID --impl` wants.

Arrays come by position; a function that takes a variant's keyword is judged on all of them, one that does not on the
default or on the one named with --variant.
"""

import numpy as np


def scipy_map_coordinates(x, flow):
    from scipy.ndimage import map_coordinates

    grid = np.mgrid[: x.shape[2], : x.shape[3]] + flow[:, ::-1]  # (row, column)
    return np.stack([[map_coordinates(c, g, order=1) for c in n] for n, g in zip(x, grid, strict=True)])


def opencv_remap(x, flow):
    import cv2

    y, col = np.mgrid[: x.shape[2], : x.shape[3]]
    maps = [((col + f[0]).astype(np.float32), (y + f[1]).astype(np.float32)) for f in flow]
    return np.stack([[cv2.remap(c, *m, cv2.INTER_LINEAR) for c in n] for n, m in zip(x, maps, strict=True)])


def torch_grid_sample(x, flow):
    import torch.nn.functional as F

    x = F.pad(x, (0, 1, 0, 1))  # one line of zeros more: align_corners=True cannot address a side of length 1
    p = flow + flow.new_tensor(np.mgrid[: flow.shape[2], : flow.shape[3]][::-1].copy())
    grid = p.movedim(1, -1) * 2 / flow.new_tensor([x.shape[3] - 1, x.shape[2] - 1]) - 1
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=True)


def torch_grid_sample_unpadded(x, flow):
    import torch.nn.functional as F

    p = flow + flow.new_tensor(np.mgrid[: flow.shape[2], : flow.shape[3]][::-1].copy())
    grid = p.movedim(1, -1) * 2 / flow.new_tensor([max(x.shape[3] - 1, 1), max(x.shape[2] - 1, 1)]) - 1
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=True)


def torch_grid_sample_default(x, flow):
    import torch.nn.functional as F

    p = flow + flow.new_tensor(np.mgrid[: flow.shape[2], : flow.shape[3]][::-1].copy())
    grid = p.movedim(1, -1) * 2 / flow.new_tensor([max(x.shape[3] - 1, 1), max(x.shape[2] - 1, 1)]) - 1
    return F.grid_sample(x, grid, align_corners=False)  # the wrong rule for this grid: half a pixel off at the ends


def scipy_prewitt(f):
    from scipy.ndimage import prewitt

    return tuple(np.stack([[prewitt(c, axis) for c in n] for n in f]) for axis in (1, 0))


def kornia_spatial_gradient(f):
    import kornia

    return kornia.filters.spatial_gradient(f).unbind(2)
