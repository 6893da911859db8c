"""What docs/conventions.md says of other libraries: each line's test, skipped where that library is not installed.

"Ours" is the oracle. RAFT cannot be installed: its formulas stand here in a few lines of our own.
"""

import numpy as np
import pytest

from motionspec.refimpl import brightness, costvol, losses, metrics, off, tvl1, warp

Y, X = np.mgrid[:6, :7].astype(float)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # kornia's own


def random_case(H=6, W=7, C=3, step=1e-9):
    """A map, and a flow in whole multiples of `step` pixels, also out of the map."""
    rng = np.random.default_rng(0)
    flow = rng.normal(scale=3, size=(2, 2, H, W))
    return rng.normal(size=(2, C, H, W)), np.round(flow / step) * step


def moved_texture():
    """A texture in [0, 255] and the same moved by one pixel to the right and two up: (u, v) = (1, -2)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :72].astype(float)
    f = np.zeros((2, 64, 72))
    for a, b, phase in zip(*rng.uniform(-0.3, 0.3, (2, 20)), rng.uniform(0, 7, 20), strict=True):
        f += [np.sin(a * (x - u) + b * (y - v) + phase) for u, v in ((0, 0), (1, -2))]
    return np.round(255 * (f - f.min()) / (f.max() - f.min()))


def assert_is(flow, u, v):
    """The flow (2, H, W), 8 px from the border."""
    np.testing.assert_allclose(flow[:, 8:-8, 8:-8].mean((1, 2)), [u, v], atol=0.1)


def inner(f):
    return f[..., 1:-1, 1:-1]


# Flow: order, sign, layout, values


def test_our_flow_is_u_right_v_down_and_points_to_the_later_frame():
    f0, f1 = moved_texture()
    classic = tvl1.representation_flow(f0[None, None], f1[None, None], n_iter=400)
    assert_is(classic[0], 1, -2)
    flow = np.broadcast_to(np.array([1.0, -2]).reshape(1, 2, 1, 1), (1, 2, 64, 72))
    difference = warp.bilinear(f1[None, None], flow) - f0
    assert np.abs(difference[..., 2:, :-1]).max() <= 1  # of 255: the grey levels are rounded


@pytest.mark.parametrize("method", ["Farneback", "DIS", "DualTVL1"])
def test_opencv_flow_has_our_sign_and_order_on_the_last_axis(method):
    cv2 = pytest.importorskip("cv2")
    f0, f1 = moved_texture().astype(np.uint8)
    if method == "Farneback":
        flow = cv2.calcOpticalFlowFarneback(f0, f1, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    elif method == "DIS":
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(f0, f1, None)
    else:
        flow = cv2.optflow.DualTVL1OpticalFlow_create().calc(f0, f1, None)
    assert flow.shape == (64, 72, 2)
    assert_is(np.moveaxis(flow, -1, 0), 1, -2)


@pytest.mark.parametrize("method", ["optical_flow_tvl1", "optical_flow_ilk"])
def test_scikit_image_flow_is_v_then_u(method):
    registration = pytest.importorskip("skimage.registration")
    flow = getattr(registration, method)(*moved_texture() / 255)
    assert flow.shape == (2, 64, 72)
    assert_is(flow[::-1], 1, -2)  # the sign is ours: reference(p) = moving(p + flow)


def test_opencv_tvl1_reads_floats_as_0_to_1():
    cv2 = pytest.importorskip("cv2")
    grey = moved_texture()

    def flow(frames):
        return cv2.optflow.DualTVL1OpticalFlow_create().calc(*frames, None)

    want = flow(grey.astype(np.uint8))
    np.testing.assert_allclose(flow((grey / 255).astype(np.float32)), want, atol=1e-3)
    assert np.abs(flow(grey.astype(np.float32)) - want).max() > 0.05


def test_scikit_image_tvl1_expects_0_to_1():
    registration = pytest.importorskip("skimage.registration")
    grey = moved_texture()
    right, wrong = (registration.optical_flow_tvl1(*frames)[::-1, 8:-8, 8:-8] for frames in (grey / 255, grey))
    assert right.std((1, 2)).max() < 0.1 < wrong.std((1, 2)).max()


# Positions and warping


def raft_coords_grid(N, H, W):
    """RAFT's formula, in our own lines: the position of each pixel, x first."""
    torch = pytest.importorskip("torch")
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    return torch.stack([x, y]).double().expand(N, 2, H, W)


def raft_bilinear_sampler(image, coords):
    """RAFT's formula, in our own lines: `image` at absolute positions (N, H, W, 2), x first."""
    torch = pytest.importorskip("torch")
    H, W = image.shape[-2:]
    x, y = coords.unbind(-1)
    grid = torch.stack([2 * x / (W - 1) - 1, 2 * y / (H - 1) - 1], -1)
    return torch.nn.functional.grid_sample(image, grid, align_corners=True)


def test_raft_coordinates_are_ours_and_its_warp_is_blend():
    torch = pytest.importorskip("torch")
    x, flow = random_case()
    coords = raft_coords_grid(2, 6, 7) + torch.tensor(flow)  # coords1 = coords0 + flow
    got = raft_bilinear_sampler(torch.tensor(x), coords.permute(0, 2, 3, 1))
    np.testing.assert_allclose(got, warp.bilinear(x, flow, outside="blend"), atol=1e-12)


def test_grid_sample_either_rule_of_corners_with_its_own_grid():
    """Mixed, a position is off by up to half a pixel."""
    torch = pytest.importorskip("torch")
    x, flow = random_case()
    p = np.stack(np.broadcast_arrays(X + flow[:, 0], Y + flow[:, 1]), -1)
    side = np.array([7, 6])
    want = warp.bilinear(x, flow, outside="blend")
    for align, grid in ((True, 2 * p / (side - 1) - 1), (False, (2 * p + 1) / side - 1)):
        right, wrong = (
            torch.nn.functional.grid_sample(torch.tensor(x), torch.tensor(grid), align_corners=a).numpy()
            for a in (align, not align)
        )
        np.testing.assert_allclose(right, want, atol=1e-12)
        assert np.abs(wrong - want).max() > 0.1


def test_grid_sample_rounds_in_normalised_coordinates():
    """No flow: ours copies, grid_sample in float32 interpolates at positions that are off by 1e-5."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(1, 1, 112, 112)).astype(np.float32)
    assert (warp.bilinear(x.astype(float), np.zeros((1, 2, 112, 112)), outside="blend") == x).all()
    line = 2 * torch.arange(112, dtype=torch.float32) / 111 - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)[None]
    error = np.abs(torch.nn.functional.grid_sample(torch.tensor(x), grid, align_corners=True).numpy() - x).max()
    assert 1e-6 < error < 1e-3


def test_grid_sample_border_and_reflection_are_no_variant_of_ours():
    """A map of ones: outside it they still give 1, ours 0, or the fade."""
    torch = pytest.importorskip("torch")
    ones, flow = np.ones((1, 1, 6, 7)), np.zeros((1, 2, 6, 7))
    flow[0, 0] = 0.5
    grid = torch.tensor(np.stack([2 * (X + 0.5) / 6 - 1, 2 * Y / 5 - 1], -1))[None]
    for mode in ("border", "reflection"):
        got = torch.nn.functional.grid_sample(torch.tensor(ones), grid, padding_mode=mode, align_corners=True)
        np.testing.assert_allclose(got[..., -1], 1, rtol=1e-12)
    assert (warp.bilinear(ones, flow)[..., -1] == 0).all()
    assert (warp.bilinear(ones, flow, outside="blend")[..., -1] == 0.5).all()


def test_opencv_remap_takes_positions_and_is_blend():
    """Positions on 1/32 px, to which OpenCV 4 rounds."""
    cv2 = pytest.importorskip("cv2")
    x, flow = random_case(step=1 / 32)
    for n in range(2):
        positions = [p.astype(np.float32) for p in (X + flow[n, 0], Y + flow[n, 1])]
        got = np.stack([cv2.remap(c, *positions, cv2.INTER_LINEAR) for c in x[n]])
        np.testing.assert_allclose(got, warp.bilinear(x[n : n + 1], flow[n : n + 1], outside="blend")[0], atol=1e-12)


def test_scikit_image_warp_takes_rows_first_and_is_blend():
    transform = pytest.importorskip("skimage.transform")
    x, flow = random_case(C=1)
    positions = np.stack([Y + flow[0, 1], X + flow[0, 0]])
    got = transform.warp(x[0, 0], positions, order=1, clip=False)
    np.testing.assert_allclose(got, warp.bilinear(x, flow, outside="blend")[0, 0], atol=1e-12)


def test_kornia_remap_needs_align_corners():
    """Left to its default it resamples the identity."""
    kornia = pytest.importorskip("kornia")
    import torch

    x, flow = random_case()
    positions = [torch.tensor(p) for p in (X + flow[:, 0], Y + flow[:, 1])]
    got = kornia.geometry.transform.remap(torch.tensor(x), *positions, align_corners=True)
    np.testing.assert_allclose(got, warp.bilinear(x, flow, outside="blend"), atol=1e-12)
    identity = [torch.tensor(p).expand(2, 6, 7) for p in (X, Y)]
    assert np.abs(kornia.geometry.transform.remap(torch.tensor(x), *identity).numpy() - x).max() > 0.1


def half_pixel(f, W):
    """Resizing by r maps x to (x + 0.5) r - 0.5: the line `f` of W pixels, its ends repeated."""
    return np.interp((np.arange(W) + 0.5) * len(f) / W - 0.5, np.arange(len(f)), f)


@pytest.mark.parametrize("W", [4, 16, 5])
@pytest.mark.parametrize("peer", ["cv2", "torch", "skimage.transform"])
def test_resizing_keeps_the_image_s_edges_not_the_centres_of_its_corners(peer, W):
    library = pytest.importorskip(peer)
    line = np.random.default_rng(0).normal(size=8)
    f = np.tile(line, (4, 1))
    if peer == "cv2":
        got = library.resize(f, (W, 4), interpolation=library.INTER_LINEAR)
    elif peer == "torch":
        options = {"mode": "bilinear", "align_corners": False}
        got = library.nn.functional.interpolate(library.tensor(f)[None, None], size=(4, W), **options)[0, 0].numpy()
        options["align_corners"] = True
        other = library.nn.functional.interpolate(library.tensor(f)[None, None], size=(4, W), **options)[0, 0].numpy()
        assert np.abs(other[0] - half_pixel(line, W)).max() > 0.1
    else:
        got = library.resize(f, (4, W), order=1, mode="edge", anti_aliasing=False, clip=False)
    np.testing.assert_allclose(got, np.tile(half_pixel(line, W), (4, 1)), atol=1e-6)


# Derivatives


def random_map():
    return np.random.default_rng(0).normal(size=(1, 2, 6, 7))


def padded_sobel(f, mode):
    """Our `sobel` where another rule continues the map."""
    return [inner(g) for g in off.spatial_gradient(np.pad(f, ((0, 0), (0, 0), (1, 1), (1, 1)), mode), kernel="sobel")]


def test_kornia_gradient_is_an_eighth_of_ours_y_down_borders_repeated():
    kornia = pytest.importorskip("kornia")
    import torch

    f = random_map()
    got = kornia.filters.spatial_gradient(torch.tensor(f)).numpy()
    Fx, Fy = padded_sobel(f, "edge")
    assert got.shape == (1, 2, 2, 6, 7)
    np.testing.assert_allclose(got, np.stack([Fx / 8, -Fy / 8], 2), atol=1e-12)
    Fx, Fy = off.spatial_gradient(f, kernel="sobel")
    assert np.abs(got[:, :, 0] - Fx / 8)[..., 0].max() > 0.1  # ours has zeros outside


def test_opencv_sobel_has_our_gain_y_down_borders_mirrored():
    cv2 = pytest.importorskip("cv2")
    f = random_map()
    got = [[cv2.Sobel(c, cv2.CV_64F, *d) for c in f[0]] for d in ((1, 0), (0, 1))]
    Fx, Fy = padded_sobel(f, "reflect")  # without the border pixel itself
    np.testing.assert_allclose(got, [Fx[0], -Fy[0]], atol=1e-12)


def test_scikit_image_sobel_is_a_quarter_of_ours_y_down_and_named_by_the_edge():
    filters = pytest.importorskip("skimage.filters")
    f = random_map()
    Fx, Fy = padded_sobel(f, "symmetric")  # with the border pixel
    for c in range(2):
        np.testing.assert_allclose(filters.sobel_v(f[0, c]), Fx[0, c] / 4, atol=1e-12)  # upright edges: d/dx
        np.testing.assert_allclose(filters.sobel_h(f[0, c]), -Fy[0, c] / 4, atol=1e-12)


def test_scipy_sobel_smooths_every_other_axis_too():
    ndimage = pytest.importorskip("scipy.ndimage")
    f = random_map()
    Fx, _ = padded_sobel(f, "symmetric")
    by_map = np.stack([[ndimage.sobel(c, axis=1) for c in n] for n in f])
    np.testing.assert_allclose(by_map, Fx, atol=1e-12)
    assert np.abs(ndimage.sobel(f, axis=3) - Fx).max() > 1  # the channels are mixed, and the samples


def test_torch_and_numpy_gradient_are_brightness_gradient_rows_first():
    torch = pytest.importorskip("torch")
    f = random_map()
    fx, fy = brightness.gradient(f)
    for got in (np.gradient(f, axis=(2, 3)), torch.gradient(torch.tensor(f), dim=(2, 3))):
        np.testing.assert_allclose(got, [fy, fx], atol=1e-14)


def test_conv2d_of_torch_is_cross_correlation_like_ours():
    torch = pytest.importorskip("torch")
    signal = pytest.importorskip("scipy.signal")
    f, (kx, _) = random_map(), off.KERNELS["paper"]
    Fx, _ = off.spatial_gradient(f)
    weight = torch.tensor(kx)[None, None]
    got = torch.nn.functional.conv2d(torch.tensor(f).movedim(1, 0), weight, padding=1).movedim(0, 1)
    np.testing.assert_allclose(got, Fx, atol=1e-12)
    np.testing.assert_allclose(signal.convolve2d(f[0, 0], kx, mode="same"), -Fx[0, 0], atol=1e-12)  # true convolution


# Cost volumes


def volume(f0, f1, r):
    """Dot products (N, H, W, 2r+1, 2r+1) in our order, di then dj, zero outside."""
    H, W = f0.shape[2:]
    padded = np.pad(f1, ((0, 0), (0, 0), (r, r), (r, r)))
    shifts = [[padded[..., i : i + H, j : j + W] for j in range(2 * r + 1)] for i in range(2 * r + 1)]
    return np.stack([np.stack([(f0 * f).sum(1) for f in row], -1) for row in shifts], -2)


def unit(f):
    return f / np.linalg.norm(f, axis=1, keepdims=True)


def test_raft_lookup_is_x_major_and_a_scaled_dot_product():
    """Its window adds (dy, dx) to (x, y): the slow index of the (2r+1)^2 channels moves along x."""
    torch = pytest.importorskip("torch")
    r, C, (H, W) = 2, 5, (6, 7)
    f0, f1 = np.random.default_rng(0).normal(size=(2, 1, C, H, W))
    correlation = torch.einsum("chw,cyx->hwyx", torch.tensor(f0[0]), torch.tensor(f1[0])) / C**0.5
    d = torch.arange(-r, r + 1.0, dtype=torch.float64)
    delta = torch.stack(torch.meshgrid(d, d, indexing="ij"), -1)  # named (dy, dx) there
    coords = raft_coords_grid(1, H, W).permute(0, 2, 3, 1).reshape(H * W, 1, 1, 2) + delta
    got = raft_bilinear_sampler(correlation.reshape(H * W, 1, H, W), coords).reshape(H, W, 2 * r + 1, 2 * r + 1)
    np.testing.assert_allclose(got, volume(f0, f1, r)[0].swapaxes(-1, -2) / C**0.5, atol=1e-12)


def test_flownet_correlation_is_the_cosine_of_unit_vectors_over_c():
    """FlowNet's and PWC's divide the dot product by C, di before dj, zeros outside. The formula, in our own lines."""
    f0, f1 = np.random.default_rng(0).normal(size=(2, 1, 5, 6, 7))
    theirs = volume(unit(f0), unit(f1), 2) / 5
    np.testing.assert_allclose(5 * theirs, costvol.cosine(f0, f1, radius=2), atol=1e-12)


def test_kornia_soft_argmax_is_x_then_y_from_the_corner():
    kornia = pytest.importorskip("kornia", "0.9")  # before it multiplied by the temperature where this one divides
    import torch

    c = np.random.default_rng(0).uniform(-1, 1, (1, 2, 3, 5, 7))
    windows = torch.tensor(c.reshape(1, 6, 5, 7))
    got = kornia.geometry.subpix.spatial_soft_argmax2d(windows, torch.tensor(0.3), normalized_coordinates=False)
    want = costvol.soft_displacement(c, tau=0.3).reshape(2, 6).T + np.array([3, 2])  # ours counts from the centre
    np.testing.assert_allclose(got[0], want, atol=1e-12)


# Metrics


def test_kornia_aepe_has_u_and_v_last_and_a_nan_gradient_at_no_error():
    kornia = pytest.importorskip("kornia")
    import torch

    from motionspec import ops

    flow, target = np.random.default_rng(0).normal(size=(2, 2, 2, 3, 4))
    got = kornia.metrics.aepe(*(torch.tensor(a).movedim(1, -1) for a in (flow, target)))
    assert got.item() == pytest.approx(metrics.endpoint_error(flow, target).item(), rel=1e-12)
    equal = torch.zeros(1, 2, 3, 4, requires_grad=True)
    (theirs,) = torch.autograd.grad(kornia.metrics.aepe(equal.movedim(1, -1), torch.zeros(1, 3, 4, 2)), equal)
    (ours,) = torch.autograd.grad(ops.losses.endpoint_error(equal, torch.zeros(1, 2, 3, 4)), equal)
    assert theirs.isnan().all() and (ours == 0).all()


@pytest.mark.parametrize("peer", ["kornia", "skimage.metrics"])
def test_psnr_of_others_is_that_of_the_whole_batch(peer):
    library = pytest.importorskip(peer)
    image, target = np.random.default_rng(0).uniform(size=(2, 2, 3, 4, 5))
    target[1] = image[1] + 0.01
    if peer == "kornia":
        torch = pytest.importorskip("torch")
        batch = library.metrics.psnr(torch.tensor(image), torch.tensor(target), 1.0).item()
    else:
        batch = library.peak_signal_noise_ratio(image, target, data_range=1.0)
    assert batch == pytest.approx(10 * np.log10(1 / ((image - target) ** 2).mean()), rel=1e-9)
    assert metrics.psnr(image, target, peak=1.0) > batch + 5


def test_torch_s_cross_entropy_is_a_mean_unless_told():
    torch = pytest.importorskip("torch")
    scores, label = np.random.default_rng(0).normal(size=(6, 4)), np.arange(6) % 4
    got = torch.nn.functional.cross_entropy(torch.tensor(scores), torch.tensor(label)).item()
    assert 6 * got == pytest.approx(losses.cross_entropy(scores, label).item(), rel=1e-13)


def test_opencv_reads_blue_green_red(tmp_path):
    cv2 = pytest.importorskip("cv2")
    from motionspec.data.video import read_image

    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 2] = 255
    cv2.imwrite(str(tmp_path / "red.png"), red)
    assert cv2.imread(str(tmp_path / "red.png"))[0, 0].tolist() == [0, 0, 255]
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]
