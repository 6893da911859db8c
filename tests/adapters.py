"""Other people's implementations in the signature of an equation: what `motionspec check ID --impl` wants.

Arrays come by position; a function that takes a variant's keyword is judged on all of them, one that does not on the
default or on the one named with --variant. An adapter moves axes, batches and signs about, and never computes what its
library is asked for; what it does beyond that is said beside it. Verdicts on all: `test_peers.py`, `docs/peers.md`.
"""

import numpy as np

PRINTED = np.array([[[-1, 0, 1]] * 3, [[1] * 3, [0] * 3, [-1] * 3]], float)  # OFF18 (5), (6)
CROSS = np.array([[0, 1, 0], [-1, 0, 1], [0, -1, 0]], float)


def each_map(function, f):
    """A function of one image, on every channel of every sample."""
    return np.stack([[function(c) for c in n] for n in f])


def torch_positions(flow):
    """Pixel coordinates p + flow(p), (N, 2, H, W)."""
    return flow + flow.new_tensor(np.mgrid[: flow.shape[2], : flow.shape[3]][::-1].copy())


def flattened(flow):
    """(N, 2, T, H, W) as (N, 2, T H, W)."""
    return flow.flatten(2, 3)


# -- warp --------------------------------------------------------------------------------------------------------------


def scipy_map_coordinates(x, flow, cval=0.0):
    from scipy.ndimage import map_coordinates

    grid = np.mgrid[: x.shape[2], : x.shape[3]] + flow[:, ::-1]  # (row, column)
    return np.stack([[map_coordinates(c, g, order=1, cval=cval) for c in n] for n, g in zip(x, grid, strict=True)])


def scipy_motion(x, flow):
    return scipy_map_coordinates(x, -flow)


def scipy_difference(f0, f1, flow):
    return f1 - scipy_map_coordinates(f0, -flow)


def scipy_constancy_residual(f0, f1, flow):
    residual = scipy_map_coordinates(f1, flow, cval=np.nan) - f0
    mask = ~np.isnan(residual[:, :1])
    return np.where(mask, residual, 0), mask


def skimage_warp(x, flow):
    from skimage.transform import warp

    grid = np.mgrid[: x.shape[2], : x.shape[3]] + flow[:, ::-1]
    return np.stack([[warp(c, g, order=1) for c in n] for n, g in zip(x, grid, strict=True)])


def opencv_remap(x, flow):
    import cv2

    y, col = np.mgrid[: x.shape[2], : x.shape[3]]
    maps = [((col + f[0]).astype(np.float32), (y + f[1]).astype(np.float32)) for f in flow]
    return np.stack([[cv2.remap(c, *m, cv2.INTER_LINEAR) for c in n] for n, m in zip(x, maps, strict=True)])


def kornia_remap(x, flow, align_corners=True):
    from kornia.geometry.transform import remap

    return remap(x, *torch_positions(flow).unbind(1), align_corners=align_corners)


def kornia_remap_default(x, flow):
    return kornia_remap(x, flow, align_corners=None)


def torch_grid_sample(x, flow):
    import torch.nn.functional as F

    x = F.pad(x, (0, 1, 0, 1))  # one line of zeros more: align_corners=True cannot address a side of length 1
    p = torch_positions(flow)
    grid = p.movedim(1, -1) * 2 / flow.new_tensor([x.shape[3] - 1, x.shape[2] - 1]) - 1
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=True)


def torch_grid_sample_unpadded(x, flow):
    import torch.nn.functional as F

    p = torch_positions(flow)
    grid = p.movedim(1, -1) * 2 / flow.new_tensor([max(x.shape[3] - 1, 1), max(x.shape[2] - 1, 1)]) - 1
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=True)


def torch_grid_sample_default(x, flow):
    import torch.nn.functional as F

    p = torch_positions(flow)
    grid = p.movedim(1, -1) * 2 / flow.new_tensor([max(x.shape[3] - 1, 1), max(x.shape[2] - 1, 1)]) - 1
    return F.grid_sample(x, grid, align_corners=False)  # the wrong rule for this grid: half a pixel off at the ends


# -- derivatives -------------------------------------------------------------------------------------------------------


def numpy_gradient(f):
    def along(axis):
        return np.gradient(f, axis=axis) if f.shape[axis] > 1 else 0 * f  # it refuses a side of length 1

    return along(3), along(2)


def torch_gradient(f):
    import torch

    def along(axis):
        return torch.gradient(f, dim=axis)[0] if f.shape[axis] > 1 else 0 * f  # it refuses a side of length 1

    return along(3), along(2)


def torch_conv2d(f):
    import torch.nn.functional as F

    N, C, H, W = f.shape
    found = F.conv2d(f.reshape(N * C, 1, H, W), f.new_tensor(PRINTED)[:, None], padding=1)
    return found.reshape(N, C, 2, H, W).unbind(2)


def scipy_correlate(f):
    from scipy.ndimage import correlate

    return each_map(lambda c: correlate(c, CROSS, mode="constant"), f)


def scipy_prewitt(f):
    from scipy.ndimage import prewitt

    return tuple(each_map(lambda c, axis=axis: prewitt(c, axis), f) for axis in (1, 0))


def scipy_sobel(f, mode="constant"):
    from scipy.ndimage import sobel

    return tuple(each_map(lambda c, axis=axis: sobel(c, axis, mode=mode), f) for axis in (1, 0))


def scipy_sobel_nearest(f):
    return scipy_sobel(f, mode="nearest")


def opencv_sobel(f, border="DEFAULT", scale=1):
    import cv2

    def along(dx, dy):
        rule = getattr(cv2, f"BORDER_{border}")
        return each_map(lambda c: cv2.Sobel(c, -1, dx, dy, scale=scale, borderType=rule), f)

    return along(1, 0), along(0, 1)


def opencv_sobel_zeros(f):
    return opencv_sobel(f, "CONSTANT")


def opencv_sobel_unit(f):
    return opencv_sobel(f, "REPLICATE", 1 / 8)


def skimage_sobel(f):
    from skimage.filters import sobel

    return tuple(each_map(lambda c, axis=axis: sobel(c, axis=axis), f) for axis in (1, 0))


def skimage_prewitt(f):
    from skimage.filters import prewitt_h, prewitt_v

    return each_map(prewitt_v, f), each_map(prewitt_h, f)


def kornia_spatial_gradient(f, mode="sobel"):
    from kornia.filters import spatial_gradient

    return spatial_gradient(f, mode).unbind(2)


def kornia_diff(f):
    return kornia_spatial_gradient(f, "diff")


def numpy_diff(f_prev, f_next):
    return np.diff(np.stack([f_prev, f_next]), axis=0)[0]


def numpy_forward(u):
    return tuple(np.diff(u, axis=axis, append=u.take([-1], axis)) for axis in (3, 2))


def numpy_backward(px, py):
    zero = np.zeros(px.shape[:3])
    return np.diff(px, axis=3, prepend=zero[..., None]) + np.diff(py, axis=2, prepend=0 * py[:, :, :1])


def torch_orthogonality(fx, fy, ft, flow):
    import torch
    import torch.nn.functional as F

    u, v = flow.unbind(1)
    ones = torch.ones_like(fx)
    a, b = torch.stack([fx, fy, ft]), torch.stack([u[:, None] * ones, v[:, None] * ones, ones])
    return torch.linalg.vecdot(a, b, dim=0), F.cosine_similarity(a, b, dim=0)


def skimage_rescale_intensity(clip):
    from skimage.exposure import rescale_intensity

    return np.stack([rescale_intensity(n, out_range=(0, 255)) for n in clip])


def opencv_normalize(clip):
    import cv2

    return np.stack([cv2.normalize(n.reshape(1, -1), None, 0, 255, cv2.NORM_MINMAX).reshape(n.shape) for n in clip])


def kornia_normalize_min_max(clip):
    from kornia.enhance import normalize_min_max

    return normalize_min_max(clip.flatten(1)[:, None], 0.0, 255.0).reshape(clip.shape)  # it takes each plane by itself


# -- cost volume -------------------------------------------------------------------------------------------------------


def torch_cosine_similarity(f0, f1, radius=1):
    import torch.nn.functional as F

    P, Q = radius if isinstance(radius, tuple) else (radius, radius)
    windows = F.pad(f1, (Q, Q, P, P)).unfold(2, 2 * P + 1, 1).unfold(3, 2 * Q + 1, 1)
    return F.cosine_similarity(f0[..., None, None], windows, dim=1)


def scipy_softmax(c, tau=0.1):
    from scipy.special import softmax

    joint = softmax(c / tau, axis=(3, 4))
    return joint.sum(4), joint.sum(3)


def kornia_soft_argmax(c, tau=0.1):
    from kornia.geometry.subpix import spatial_soft_argmax2d

    N, H, W, P, Q = c.shape
    place = spatial_soft_argmax2d(c.reshape(N, H * W, P, Q), c.new_tensor(tau), normalized_coordinates=False)
    return place.sub(c.new_tensor([Q // 2, P // 2])).reshape(N, H, W, 2).movedim(-1, 1)


def kornia_displacement_map(f0, f1, radius=1, tau=0.1):
    return kornia_soft_argmax(torch_cosine_similarity(f0, f1, radius), tau)


def torch_argmax(c):
    import torch

    P, Q = c.shape[3:]
    v, u = torch.unravel_index(c.flatten(3).argmax(-1), (P, Q))
    return torch.stack([u - Q // 2, v - P // 2], 1).to(c.dtype)


def opencv_min_max_loc(c):
    import cv2

    P, Q = c.shape[3:]
    found = [cv2.minMaxLoc(window)[3] for window in c.reshape(-1, P, Q)]
    return np.moveaxis(np.reshape(found, (*c.shape[:3], 2)) - [Q // 2, P // 2], -1, 1).astype(float)


# -- losses ------------------------------------------------------------------------------------------------------------


def torch_avg_pool(scores):
    import torch.nn.functional as F

    return F.adaptive_avg_pool1d(scores.mT, 1)[..., 0]


def torch_cross_entropy(scores, label, reduction="sum"):
    import torch.nn.functional as F

    return F.cross_entropy(scores, label, reduction=reduction)


def scipy_log_softmax(scores, label):
    from scipy.special import log_softmax

    return -np.take_along_axis(log_softmax(scores, axis=1), label[:, None], 1).sum()


def kornia_focal_loss(scores, label, reduction="sum"):
    from kornia.losses import focal_loss

    return focal_loss(scores, label, alpha=None, gamma=0.0, reduction=reduction)


def torch_cross_entropy_of_levels(scores, label, reduction="sum"):
    import torch.nn.functional as F

    return F.cross_entropy(scores.mT, label[:, None].expand(scores.shape[:2]), reduction=reduction)


def torch_vector_norm(flow, target, reduction="sum"):
    import torch

    return getattr(torch.linalg.vector_norm(flow - target, dim=1), reduction)()


def torch_pairwise_distance(flow, target, reduction="sum"):
    import torch.nn.functional as F

    return getattr(F.pairwise_distance(flow.movedim(1, -1), target.movedim(1, -1)), reduction)()


def kornia_aepe(flow, target, reduction="sum"):
    from kornia.metrics import aepe

    return aepe(flow.movedim(1, -1), target.movedim(1, -1), reduction)


# -- metrics -----------------------------------------------------------------------------------------------------------


def kornia_mean_aepe(flow, target):
    return kornia_aepe(flow, target, "mean")


def torchmetrics_spectral_angle(flow, target):
    import torch
    from torchmetrics.functional.image import spectral_angle_mapper

    one = torch.ones_like(flow[:, :1])
    return spectral_angle_mapper(*(flattened(torch.cat([f, one], 1)) for f in (flow, target)))


def two_classes(scores):
    """Scores with a second class that never wins: some refuse a single one."""
    import torch.nn.functional as F

    return scores if scores.shape[1] > 1 else F.pad(scores, (0, 1), value=-float("inf"))


def kornia_accuracy(scores, label, k=1):
    from kornia.metrics import accuracy

    return accuracy(scores, label, topk=(k,))[0].to(scores.dtype)  # it counts in float32


def torchmetrics_accuracy(scores, label, k=1, average="micro"):
    from torchmetrics.functional.classification import multiclass_accuracy

    two, K = two_classes(scores), scores.shape[1]
    found = multiclass_accuracy(two, label, num_classes=two.shape[1], top_k=min(k, K), average=average)
    return (found if average != "none" else found[:K]).to(scores.dtype)  # it counts in float32


def torchmetrics_macro(scores, label):
    return torchmetrics_accuracy(scores, label, average="macro")


def torchmetrics_each_class(scores, label):
    return torchmetrics_accuracy(scores, label, average="none")


def kornia_confusion_matrix(scores, label):
    from kornia.metrics import confusion_matrix

    two, K = two_classes(scores), scores.shape[1]
    counts = confusion_matrix(two.argmax(1)[None], label[None], two.shape[1])[0].to(scores.dtype)
    return (counts.diagonal() / counts.sum(1))[:K]


def skimage_psnr(image, target, peak=255.0):
    from skimage.metrics import peak_signal_noise_ratio

    return np.mean([peak_signal_noise_ratio(t, i, data_range=peak) for i, t in zip(image, target, strict=True)])


def opencv_psnr(image, target, peak=255.0):
    import cv2

    pairs = zip(image, target, strict=True)
    return np.mean([cv2.PSNR(i.reshape(1, -1), t.reshape(1, -1), R=peak) for i, t in pairs])


def kornia_psnr(image, target, peak=255.0):
    from kornia.metrics import psnr

    return psnr(image, target, peak)


def torchmetrics_psnr(image, target, peak=255.0, **options):
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return peak_signal_noise_ratio(image, target, data_range=peak, **options)


def torchmetrics_psnr_of_each(image, target, peak=255.0):
    return torchmetrics_psnr(image, target, peak, dim=(1, 2, 3), reduction="elementwise_mean")


# -- pooling -----------------------------------------------------------------------------------------------------------


def torch_max_pool3d(clip, spatial="3x3"):
    import torch.nn.functional as F

    kernel, stride = (3, 2) if spatial == "3x3" else (1, 1)
    short = [max(kernel - side, 0) for side in clip.shape[:2:-1]]  # ceil_mode refuses a side below the kernel's
    clip = F.pad(clip, (0, short[0], 0, short[1]), value=-float("inf"))
    return F.max_pool3d(clip, (2, kernel, kernel), (2, stride, stride), ceil_mode=True)


def torch_adaptive_max_pool3d(clip):
    import torch.nn.functional as F

    return F.adaptive_max_pool3d(clip, (1, *clip.shape[3:]))[:, :, 0]


def scipy_shift(clip):
    from scipy.ndimage import shift

    fold = clip.shape[1] // 8
    parts = np.split(clip, [fold, 2 * fold], axis=1)
    moved = [shift(p, (0, 0, t, 0, 0), order=0, prefilter=False) for p, t in zip(parts, (-1, 1, 0), strict=True)]
    return np.concatenate(moved, axis=1)


def torch_roll(clip):
    import torch

    fold = clip.shape[1] // 8
    a, b, rest = clip.split([fold, fold, clip.shape[1] - 2 * fold], 1)
    return torch.cat([a.roll(-1, 2), b.roll(1, 2), rest], 1)


# -- layers ------------------------------------------------------------------------------------------------------------


def scipy_correlate_channels(x, weight, bias=None):
    from scipy.signal import correlate

    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    maps = np.stack([[correlate(n, w, "valid", "direct")[0] for w in weight] for n in padded])
    return maps if bias is None else maps + bias[:, None, None]


def torch_batch_norm(x, mean, var, weight=None, bias=None, eps=1e-5):
    import torch.nn.functional as F

    return F.batch_norm(x, mean, var, weight, bias, eps=eps)


def scipy_maximum_filter(x):
    from scipy.ndimage import maximum_filter

    return maximum_filter(x, (1, 1, 3, 3), mode="constant", cval=-np.inf)[:, :, ::2, ::2]


def scipy_maximum_filter_zeros(x):
    from scipy.ndimage import maximum_filter

    return maximum_filter(x, (1, 1, 3, 3), mode="constant")[:, :, ::2, ::2]


def scipy_uniform_filter(x):
    from scipy.ndimage import uniform_filter

    return uniform_filter(x, (1, 1, 3, 3), mode="constant")


def scipy_softmax_along(x, axis=1):
    from scipy.special import softmax

    return softmax(x, axis=axis)
