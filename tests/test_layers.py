"""The layers that networks are built of: windows, borders, groups, adjoints (OFF18 §4.1, RF19 §4, AF18 §3.1).

The layers of `motionspec.models` have their tests in test_model_layers.py.
"""

import importlib

import numpy as np
import pytest
from voices import both

layers = both("layers")


def line(*values):
    """(1, 1, W)."""
    return np.array(values, float)[None, None]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


# Convolution


def test_convolution_printed_answer(layers):
    """The kernel is not flipped, the bias is added once, zeros are outside."""
    x, weight = np.zeros((1, 1, 3, 4)), np.arange(1.0, 7).reshape(1, 1, 2, 3)
    x[0, 0, 1, 2] = 1
    close(layers.convolution(x, weight)[0, 0], [[6, 5], [3, 2]])
    got = layers.convolution(x, weight, bias=np.array([10.0]), padding=(0, 1), stride=(1, 2))
    close(got[0, 0], [[10, 15], [10, 12]])  # columns begin at -1 and 1


def test_convolution_dilated_skips_pixels(layers):
    x, weight = line(1, 10, 100, 1000, 10000, 100000), line(1, 2, 3)
    close(layers.convolution(x, weight, dilation=2)[0, 0], [30201, 302010])
    close(layers.convolution(x, weight, dilation=2, padding=1, stride=3)[0, 0], [3020, 20100])


def test_convolution_groups_see_their_own_channels(layers):
    x, weight, bias = normal(2, 6, 5, 4), normal(4, 3, 3, 2), normal(4)
    halves = [layers.convolution(x[:, i : i + 3], weight[o : o + 2], bias=bias[o : o + 2]) for i, o in ((0, 0), (3, 2))]
    close(layers.convolution(x, weight, bias=bias, groups=2), np.concatenate(halves, axis=1))
    depthwise = layers.convolution(x, normal(6, 1, 3, 3), groups=6)
    close(depthwise[:, 4:5], layers.convolution(x[:, 4:5], normal(6, 1, 3, 3)[4:5]))


def test_convolution_is_scipy_s_correlation_on_any_number_of_axes(layers):
    signal = pytest.importorskip("scipy.signal")
    for sides, kernel in (((9,), (4,)), ((6, 7), (3, 2)), ((4, 6, 5), (2, 3, 3))):
        x, weight = normal(1, 2, *sides), normal(1, 2, *kernel, seed=1)
        close(layers.convolution(x, weight), signal.correlate(x, weight, "valid"))


def test_convolution_over_space_then_time_is_one_of_the_product(layers):
    """(2+1)D as one 3-D kernel, with a stride each."""
    x, space, time = normal(1, 1, 6, 7, 8), normal(1, 1, 1, 3, 3), normal(1, 1, 3, 1, 1, seed=1)
    parts = layers.convolution(x, space, stride=(1, 2, 2), padding=(0, 1, 1))
    parts = layers.convolution(parts, time, stride=(2, 1, 1), padding=(1, 0, 0))
    close(parts, layers.convolution(x, space * time, stride=2, padding=1))
    frame = layers.convolution(x[:, :, 3], space[:, :, 0], stride=2, padding=1)
    close(layers.convolution(x, space, stride=(1, 2, 2), padding=(0, 1, 1))[:, :, 3], frame)


@pytest.mark.parametrize(
    "side, kernel, stride, padding, want",
    [(224, 7, 2, 3, 112), (56, 3, 2, 1, 28), (7, 3, 2, 1, 4), (28, 1, 1, 0, 28), (7, 7, 1, 0, 1)],
)
def test_convolution_sides_are_the_networks_(layers, side, kernel, stride, padding, want):
    x, weight = np.zeros((1, 1, side)), np.zeros((1, 1, kernel))
    assert layers.convolution(x, weight, stride=stride, padding=padding).shape == (1, 1, want)


# Transposed convolution


def test_transposed_convolution_printed_answer(layers):
    x, weight = line(1, 10, 100), line(1, 2, 3)
    close(layers.transposed_convolution(x, weight)[0, 0], [1, 12, 123, 230, 300])
    close(layers.transposed_convolution(x, weight, stride=2)[0, 0], [1, 2, 13, 20, 130, 200, 300])
    got = layers.transposed_convolution(x, weight, bias=np.array([0.5]), stride=2, padding=1, output_padding=1)
    close(got[0, 0], [2.5, 13.5, 20.5, 130.5, 200.5, 300.5])
    got = layers.transposed_convolution(x, weight, bias=np.array([0.5]), stride=4, output_padding=2)
    close(got[0, 0], [1.5, 2.5, 3.5, 0.5, 10.5, 20.5, 30.5, 0.5, 100.5, 200.5, 300.5, 0.5, 0.5])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "sides, kernel, stride, padding",
    [((8,), (4,), 2, 1), ((7, 6), (3, 4), (2, 3), 1), ((5, 6, 7), (1, 4, 4), (1, 2, 2), (0, 1, 1))],
)
def test_transposed_convolution_is_the_adjoint(layers, sides, kernel, stride, padding, groups):
    """(convolution(a), b) = (a, transposed_convolution(b)); output_padding is what the floor dropped."""
    options = {"stride": stride, "padding": padding, "groups": groups}
    a, weight = normal(2, 4, *sides), normal(6, 4 // groups, *kernel, seed=1)
    down = layers.convolution(a, weight, **options)
    b = normal(*down.shape, seed=2)
    short = np.subtract(sides, layers.transposed_convolution(b, weight, **options).shape[2:])
    up = layers.transposed_convolution(b, weight, output_padding=tuple(map(int, short)), **options)
    assert up.shape == a.shape
    close((down * b).sum(), (a * up).sum())


# Batch normalisation


def test_batch_norm_printed_answer(layers):
    x = np.array([[[1.0, 3.0], [10.0, 10.0]]])
    mean, var = np.array([1.0, 8.0]), np.array([3.0, 0.0])
    close(layers.batch_norm(x, mean, var, eps=1.0), [[[0, 1], [2, 2]]])
    weight, bias = np.array([2.0, -1.0]), np.array([0.5, 0.25])
    close(layers.batch_norm(x, mean, var, weight=weight, bias=bias, eps=1.0), [[[0.5, 2.5], [-1.75, -1.75]]])
    close(layers.batch_norm(x[:, 1:], mean[1:], var[1:]), 2 / np.sqrt(1e-5) * np.ones((1, 1, 2)))


def test_batch_norm_folds_into_the_convolution_before_it(layers):
    x, kernel, bias = normal(2, 3, 5, 6), normal(4, 3, 3, 3), normal(4)
    mean, var, weight, shift = normal(4, seed=1), normal(4, seed=2) ** 2, normal(4, seed=3), normal(4, seed=4)
    gain = weight / np.sqrt(var + 1e-3)
    folded = layers.convolution(x, gain[:, None, None, None] * kernel, bias=gain * (bias - mean) + shift)
    y = layers.convolution(x, kernel, bias=bias)
    close(layers.batch_norm(y, mean, var, weight=weight, bias=shift, eps=1e-3), folded)


# Pooling


def test_max_pool_printed_answer(layers):
    x = np.array([[1.0, 2, 3, 4, 0], [0, 0, 9, 0, 1], [5, 6, 7, 8, 2], [0, 0, 0, 0, 0]])[None, None]
    close(layers.max_pool(x, 2)[0, 0], [[2, 9], [6, 8]])
    close(layers.max_pool(x, 3, stride=2)[0, 0], [[9, 9]])
    close(layers.max_pool(x, 3, stride=2, ceil_mode=True)[0, 0], [[9, 9], [7, 8]])
    close(layers.max_pool(x, (1, 3), stride=(3, 2), padding=(0, 1))[0, 0], [[2, 4, 4], [0, 0, 0]])


def test_max_pool_padding_never_wins(layers):
    close(layers.max_pool(line(-5, -4, -3), 3, stride=2, padding=1)[0, 0], [-4, -3])
    close(layers.max_pool(line(-5, -4, -3, -2), 3, stride=2, ceil_mode=True)[0, 0], [-3, -2])


def test_average_pool_printed_answer(layers):
    x = line(6, 12, 18, 24)
    close(layers.average_pool(x, 2)[0, 0], [9, 21])
    close(layers.average_pool(x, 3, stride=3, padding=1)[0, 0], [6, 14])
    close(layers.average_pool(x, 3, stride=3, padding=1, count_include_pad=False)[0, 0], [9, 21])
    close(layers.average_pool(line(0, 6, 12, 18, 24), 3, stride=2, padding=1, ceil_mode=True)[0, 0], [2, 12, 14])
    # The last window holds 24, a zero within the padding, which counts, and one farther out, which does not.
    close(layers.average_pool(line(0, 0, 6, 12, 18, 24), 3, stride=2, padding=1, ceil_mode=True)[0, 0], [0, 6, 18, 12])


def test_average_pool_of_a_side_below_the_size(layers):
    """On any number of axes: torch's avg_pool3d refuses it."""
    for axes in (1, 2, 3):
        x = np.full((1, 1, *[1] * axes), 6.0)
        close(layers.average_pool(x, 3, padding=1, count_include_pad=False), x)
        close(layers.average_pool(x, 3, padding=1), x / 3**axes)


@pytest.mark.parametrize("name", ["max_pool", "average_pool"])
@pytest.mark.parametrize(
    "side, options, want",
    [
        (112, {"size": 3, "stride": 2, "padding": 1}, 56),
        (112, {"size": 3, "stride": 2, "ceil_mode": True}, 56),
        (112, {"size": 3, "stride": 2}, 55),
        (7, {"size": 7}, 1),
        (2, {"size": 3, "stride": 2, "ceil_mode": True}, 1),
        (3, {"size": 2, "stride": 2, "padding": 1, "ceil_mode": True}, 2),  # a third would begin behind the map
    ],
)
def test_pooling_sides_are_the_networks_(layers, name, side, options, want):
    assert getattr(layers, name)(np.zeros((1, 1, side)), **options).shape == (1, 1, want)


def test_max_pool_tie_goes_to_the_first():
    torch = pytest.importorskip("torch")
    ops = importlib.import_module("motionspec.ops.layers")
    x = torch.zeros(1, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(ops.max_pool(x, 2).sum(), x)
    assert got[0, 0, 0, 0, 0] == 1 and got.sum() == 1


# Classifier


def test_linear_is_a_convolution_of_one_pixel(layers):
    x, weight, bias = normal(3, 5), normal(4, 5), normal(4)
    close(
        layers.linear(x, weight, bias=bias)[..., None], layers.convolution(x[..., None], weight[..., None], bias=bias)
    )
    close(layers.linear(np.array([[1.0, 10.0]]), np.array([[2.0, 3.0], [4.0, 5.0]])), [[32, 54]])


def test_softmax_printed_answer(layers):
    x = np.log([[[1.0, 4.0], [3.0, 4.0]]])
    close(layers.softmax(x), [[[0.25, 0.5], [0.75, 0.5]]])
    close(layers.softmax(x, axis=-1), [[[0.2, 0.8], [3 / 7, 4 / 7]]])
    close(layers.softmax(np.array([[-2000.0, 1000.0, 1000.0]])), [[0, 0.5, 0.5]])


# All axes, all options, both voices


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_operators_equal_the_reference_on_any_number_of_axes(axes):
    """The rows hold two axes without groups; here drawn options, and where the reference refuses, so does the other."""
    torch = pytest.importorskip("torch")
    voices = [importlib.import_module(f"motionspec.{package}.layers") for package in ("refimpl", "ops")]
    rng = np.random.default_rng(axes)

    def sides(low, high):
        return tuple(map(int, rng.integers(low, high, axes)))

    compared = dict.fromkeys(("convolution", "transposed_convolution", "max_pool", "average_pool"), 0)
    for _ in range(25):
        groups, stride, padding, kernel = int(rng.integers(1, 4)), sides(1, 4), sides(0, 3), sides(1, 4)
        x, bias = rng.normal(size=(2, 2 * groups, *sides(1, 8))), rng.normal(size=3 * groups)
        half, windows = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True)), {"stride": stride}
        windows |= {"padding": half, "ceil_mode": bool(rng.integers(2))}
        calls = {
            "convolution": ([x, rng.normal(size=(3 * groups, 2, *kernel))], {"bias": bias, "dilation": sides(1, 3)}),
            "transposed_convolution": (
                [x, rng.normal(size=(2 * groups, 3, *kernel))],
                {"bias": bias, "output_padding": tuple(int(rng.integers(s)) for s in stride)},
            ),
            "max_pool": ([x, kernel], windows),
            "average_pool": ([x, kernel], windows | {"count_include_pad": bool(rng.integers(2))}),
        }
        for name, (arrays, options) in calls.items():
            if "pool" not in name:
                options |= {"stride": stride, "padding": padding, "groups": groups}
            spec, fast = (getattr(voice, name) for voice in voices)
            as_tensors = [torch.tensor(a) if isinstance(a, np.ndarray) else a for a in arrays]
            more = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
            try:
                want = spec(*arrays, **options)
            except ValueError as error:
                with pytest.raises(ValueError) as other:
                    fast(*as_tensors, **more)
                assert str(other.value) == str(error)
            else:
                close(fast(*as_tensors, **more), want)
                compared[name] += 1
    assert min(compared.values()) >= 10


@pytest.mark.parametrize(
    "name, shapes, options, error",
    [
        ("convolution", [(1, 3, 5), (4, 2, 3)], {"groups": 2}, "x: expected C a multiple of groups=2, got C=3"),
        ("convolution", [(1, 4, 5), (3, 2, 3)], {"groups": 2}, "weight: expected O a multiple of groups=2, got O=3"),
        ("convolution", [(1, 4, 5), (4, 4, 3)], {"groups": 2}, "weight: expected I=C/groups=2 input channels, got I=4"),
        ("convolution", [(1, 1, 5), (1, 1, 3)], {"stride": 0}, "stride: expected an int >= 1 or a tuple of 1 of them"),
        ("convolution", [(1, 1, 5), (1, 1, 3)], {"padding": "same"}, "padding: expected an int >= 0 or a tuple of 1"),
        ("convolution", [(1, 1, 5), (1, 1, 3)], {"padding": (1, 1)}, "x: expected shape (N, C, H, W) with"),
        ("convolution", [(1, 1, 5, 5), (1, 1, 3)], {}, "weight: expected shape (O, I, K_H, K_W) with"),
        ("convolution", [(1, 1), (1, 1)], {}, "x: expected shape (N, C, W) with"),
        ("convolution", [(1, 1, 2), (1, 1, 4)], {}, "x: expected sides, with padding, of at least (4,), got (2,)"),
        ("convolution", [(1, 1, 2), (1, 1, 2)], {"groups": 0}, "groups: expected at least 1, got 0"),
        ("transposed_convolution", [(1, 3, 5), (3, 2, 3)], {"groups": 2}, "x: expected C a multiple of groups=2"),
        ("transposed_convolution", [(1, 3, 5), (2, 2, 3)], {}, "weight: expected shape (C, O, K_W) with C=3, got"),
        ("transposed_convolution", [(1, 1, 5), (1, 2, 3)], {"bias": 3}, "bias: expected shape (2,), got (3,)"),
        (
            "transposed_convolution",
            [(1, 1, 5), (1, 1, 3)],
            {"stride": 2, "output_padding": 2},
            "output_padding: expected less than stride=(2,), got (2,)",
        ),
        (
            "transposed_convolution",
            [(1, 1, 1), (1, 1, 2)],
            {"padding": 1},
            "padding: expected so little that a side of at least 1 is left, got sides (0,)",
        ),
        ("max_pool", [(1, 1, 5)], {"size": 3, "padding": 2}, "padding: expected at most half of size=(3,), got (2,)"),
        ("max_pool", [(1, 1, 5)], {"size": 6}, "x: expected sides, with padding, of at least (6,), got (5,)"),
        ("average_pool", [(1, 1, 1)], {"size": 4, "stride": 2, "ceil_mode": True}, "x: expected sides, with padding"),
        ("average_pool", [(1, 1, 1)], {"size": 0}, "size: expected an int >= 1"),
        ("batch_norm", [(1, 2, 5), (2,), (2,)], {"eps": 0}, "eps: expected a finite number above 0, got 0"),
        ("batch_norm", [(1, 2, 5), (3,), (2,)], {}, "mean: expected shape (C) with C=2, got (3,)"),
        ("linear", [(1, 2), (3, 4)], {}, "weight: expected shape (O, I) with I=2, got (3, 4)"),
        ("softmax", [(1, 2)], {"axis": 0}, "axis: expected an axis of x, which has 2, but the first, got 0"),
        ("softmax", [(1, 2)], {"axis": 2}, "axis: expected an axis of x, which has 2, but the first, got 2"),
        ("softmax", [(1, 2)], {"axis": None}, "axis: expected an axis of x, which has 2, but the first, got None"),
    ],
)
def test_what_does_not_fit_is_refused(layers, name, shapes, options, error):
    if "bias" in options:
        options = options | {"bias": np.zeros(options["bias"])}
    with pytest.raises((TypeError, ValueError)) as found:
        getattr(layers, name)(*map(np.ones, shapes), **options)
    assert str(found.value).startswith(f"layers.{name}: {error}")


def test_a_variance_below_zero_is_refused_by_the_oracle_alone():
    refimpl = importlib.import_module("motionspec.refimpl.layers")
    with pytest.raises(ValueError, match=r"layers.batch_norm: var: expected values of at least 0, got -1.0"):
        refimpl.batch_norm(np.zeros((1, 1, 2)), np.zeros(1), np.array([-1.0]))


def test_batch_norm_s_gradients_do_not_depend_on_whether_the_statistics_have_one():
    """With it x is normalised by an operator that torch has none by them for, without by torch's own."""
    torch = pytest.importorskip("torch")
    from motionspec.ops import layers

    rng = np.random.default_rng(0)
    x, mean, weight, bias = (torch.tensor(rng.normal(size=shape)) for shape in ((2, 3, 4, 5), 3, 3, 3))
    var = torch.tensor(rng.uniform(0.5, 2, 3))
    found = []
    for by_statistics in (False, True):
        given = [t.clone().requires_grad_() for t in (x, weight, bias)]
        known = [t.clone().requires_grad_(by_statistics) for t in (mean, var)]
        y = layers.batch_norm(given[0], *known, weight=given[1], bias=given[2])
        found.append([y, *torch.autograd.grad((y**2 * torch.arange(y.numel()).view_as(y)).sum(), given)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
