"""Flow files and the colour wheel: bytes and colours worked out by hand, round trips, and every error line."""

import re
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from motionspec.flow import flow_to_color, read_flow, write_flo, write_kitti

NAN = np.nan
SIDES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)
# A 2 x 1 .flo file: width 2, height 1, pixel (1, -2), then an unknown pixel.
TWO_PIXELS = struct.pack("<fii4f", 202021.25, 2, 1, 1.0, -2.0, 1.666666752e9, 1.666666752e9)


def pixel(u, v, **kwargs):
    """The colour of one flow vector."""
    return tuple(flow_to_color(np.array([[[u]], [[v]]], float), **kwargs)[0, 0].tolist())


def refuses(path, words, error=ValueError):
    """read_flow raises one line that begins with the path."""
    with pytest.raises(error, match=re.escape(words)) as caught:
        read_flow(path)
    line = str(caught.value)
    assert line.startswith(str(path)) and "\n" not in line


# .flo


def test_flo_bytes_by_hand(tmp_path):
    assert TWO_PIXELS[:4] == b"PIEH"  # the float 202021.25, little-endian
    (path := tmp_path / "two.flo").write_bytes(TWO_PIXELS)
    flow, valid = read_flow(path)
    assert flow.shape == (2, 1, 2) and flow.dtype == np.float32 and valid.dtype == bool
    np.testing.assert_array_equal(flow, [[[1, NAN]], [[-2, NAN]]])
    np.testing.assert_array_equal(valid, [[True, False]])
    write_flo(tmp_path / "again.flo", flow)
    assert (tmp_path / "again.flo").read_bytes() == TWO_PIXELS


@given(hnp.arrays(np.float32, SIDES.map(lambda s: (2, *s)), elements=st.floats(-1e9, 1e9, width=32)), st.data())
def test_flo_round_trip_is_exact(tmp_path_factory, flow, data):
    unknown = data.draw(hnp.arrays(bool, flow.shape[1:]))
    flow[:, unknown] = NAN
    write_flo(path := tmp_path_factory.mktemp("flo") / "x.flo", flow)
    back, valid = read_flow(path)
    np.testing.assert_array_equal(back, flow)
    np.testing.assert_array_equal(valid, ~unknown)


@pytest.mark.parametrize("value", [2e9, -2e9, np.inf, -np.inf, NAN])
@pytest.mark.parametrize("channel", [0, 1])
def test_one_unknown_component_makes_the_pixel_unknown(tmp_path, value, channel):
    vectors = [3.0, 4.0, 5.0, 6.0]
    vectors[channel] = value
    (path := tmp_path / "x.flo").write_bytes(struct.pack("<fii4f", 202021.25, 1, 2, *vectors))
    flow, valid = read_flow(path)
    np.testing.assert_array_equal(flow, [[[NAN], [5]], [[NAN], [6]]])
    np.testing.assert_array_equal(valid, [[False], [True]])


def header(width, height):
    return struct.pack("<fii", 202021.25, width, height)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (TWO_PIXELS[:7], "truncated"),
        (TWO_PIXELS[:12], "truncated: 2 x 1 pixels take 28 bytes and the file has 12"),
        (TWO_PIXELS[:-1], "truncated: 2 x 1 pixels take 28 bytes and the file has 27"),
        (TWO_PIXELS + b"\0", "too long: 2 x 1 pixels take 28 bytes and the file has 29"),
        (b"RIFF" + TWO_PIXELS[4:], "not a .flo file"),
        (TWO_PIXELS[:4][::-1] + TWO_PIXELS[4:], "little-endian"),
        (struct.pack("<f", NAN) + TWO_PIXELS[4:], "it starts with nan"),
        (header(-2, 1) + TWO_PIXELS[12:], "-2 x 1 pixels"),
        (header(-2, -1) + TWO_PIXELS[12:], "-2 x -1 pixels"),
        (header(0, 1), "0 x 1 pixels"),
        (header(2**31 - 1, 2**31 - 1), "2147483647 x 2147483647 pixels; sides are 1 .. 99999"),
        (header(99_999, 99_999), "79998400020 bytes"),  # 12 + 8 * 99999^2, and nothing is allocated
    ],
)
def test_flo_errors(tmp_path, content, words):
    (path := tmp_path / "bad.flo").write_bytes(content)
    refuses(path, words)


# KITTI


def kitti(path, bgr):
    cv2 = pytest.importorskip("cv2")
    assert cv2.imwrite(str(path), np.asarray(bgr))
    return path


def test_kitti_values_by_hand(tmp_path):
    # red = 64 u + 32768, green = 64 v + 32768; OpenCV writes in the order blue, green, red.
    path = kitti(tmp_path / "x.png", np.uint16([[[1, 32768 - 160, 32768 + 96], [0, 40000, 40000], [1, 0, 65535]]]))
    flow, valid = read_flow(path)
    np.testing.assert_array_equal(flow, [[[1.5, NAN, 511.984375]], [[-2.5, NAN, -512]]])
    np.testing.assert_array_equal(valid, [[True, False, True]])
    assert flow.dtype == np.float32


def test_kitti_writes_what_the_format_says(tmp_path):
    cv2 = pytest.importorskip("cv2")
    write_kitti(tmp_path / "x.PNG", [[[1.5, NAN, 0.6 / 64, -0.6 / 64]], [[-2.5, 1.0, 0.4 / 64, -0.4 / 64]]])
    bgr = cv2.imread(str(tmp_path / "x.PNG"), cv2.IMREAD_UNCHANGED)
    assert bgr.dtype == np.uint16
    # Rounded to the nearest code on both sides of zero, never truncated; unknown is all zero.
    assert bgr[0].tolist() == [[1, 32608, 32864], [0, 0, 0], [1, 32768, 32769], [1, 32768, 32767]]


@given(hnp.arrays(np.int64, SIDES.map(lambda s: (2, *s)), elements=st.integers(-(2**15), 2**15 - 1)), st.data())
def test_kitti_round_trip_is_exact(tmp_path_factory, codes, data):
    pytest.importorskip("cv2")
    flow = codes / 64
    flow[:, data.draw(hnp.arrays(bool, flow.shape[1:]))] = NAN
    write_kitti(path := tmp_path_factory.mktemp("kitti") / "x.png", flow)
    back, valid = read_flow(path)
    np.testing.assert_array_equal(back, flow)
    np.testing.assert_array_equal(valid, ~np.isnan(flow[0]))


@pytest.mark.parametrize("value", [512, 511.99, -512.01, 600, np.inf, -np.inf, 1e10])
def test_kitti_refuses_what_it_would_wrap(tmp_path, value):
    with pytest.raises(ValueError, match=r"\[-512, 511.984375\] px; got values from .*write a .flo file"):
        write_kitti(tmp_path / "x.png", np.full((2, 1, 1), value))
    assert not (tmp_path / "x.png").exists()


def test_kitti_errors(tmp_path):
    grey16, rgb8 = np.zeros((4, 5), np.uint16), np.zeros((4, 5, 3), np.uint8)
    refuses(kitti(tmp_path / "a.png", rgb8), "16-bit PNG with 3 channels; this one is uint8 (4, 5, 3)")
    refuses(kitti(tmp_path / "b.png", grey16), "this one is uint16 (4, 5)")
    refuses(kitti(tmp_path / "c.png", np.zeros((4, 5, 4), np.uint16)), "this one is uint16 (4, 5, 4)")
    noise = np.random.default_rng(0).integers(0, 2**16, (40, 50, 3), dtype=np.uint16)
    content = kitti(tmp_path / "d.png", noise).read_bytes()
    for name, data in {"e.png": content[: len(content) // 2], "f.png": b"no picture"}.items():
        (tmp_path / name).write_bytes(data)
        refuses(tmp_path / name, "not a PNG image that OpenCV can decode")
    (tmp_path / "g.png").touch()
    refuses(tmp_path / "g.png", "the file is empty")


def test_kitti_without_opencv_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'motionspec[video]'")):
        write_kitti(tmp_path / "x.png", np.zeros((2, 1, 1)))


# .npy


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_npy_in_both_layouts(tmp_path, dtype):
    flow = np.arange(24).reshape(2, 3, 4).astype(dtype)
    flow[0, 1, 1] = np.inf
    expected = np.where([flow[0] == np.inf] * 2, NAN, flow)
    for name, array in {"first": flow, "last": flow.transpose(1, 2, 0), "fortran": np.asfortranarray(flow)}.items():
        np.save(path := tmp_path / f"{name}.npy", array)
        back, valid = read_flow(path)
        np.testing.assert_array_equal(back, expected)
        assert back.dtype == np.float32 and valid.sum() == 11


def test_npy_whose_first_and_last_sides_are_2_is_channels_first(tmp_path):
    flow = np.arange(12.0).reshape(2, 3, 2)
    np.save(tmp_path / "x.npy", flow)
    np.testing.assert_array_equal(read_flow(tmp_path / "x.npy")[0], flow)


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 4)), np.zeros((3, 4, 5)), np.zeros((1, 2, 3, 4)), np.zeros((2, 0, 4)), np.array(1.0)]
    + [np.zeros((2, 3, 4), dtype) for dtype in (int, np.uint8, bool, complex, "U3")],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_npy_of_another_shape_or_dtype(tmp_path, array):
    np.save(path := tmp_path / "x.npy", array)
    refuses(path, "expected floating-point numbers of shape (2, H, W) or (H, W, 2); got")


def test_npy_that_is_damaged_or_holds_objects(tmp_path):
    np.save(path := tmp_path / "x.npy", np.zeros((2, 3, 4)))
    good = path.read_bytes()
    for cut in (1, 7, 9, 60, 128, len(good) - 1):
        path.write_bytes(good[:cut])
        refuses(path, "no .npy file of numbers, or truncated")
    np.save(path, np.array([{}, None], object), allow_pickle=True)
    refuses(path, "no .npy file of numbers")
    np.savez(tmp_path / "z.npz", good)
    (tmp_path / "z.npz").rename(path)
    refuses(path, "no .npy file of numbers")
    path.write_bytes(b"")
    refuses(path, "the file is empty")


@given(st.data())
def test_damaged_bytes_give_a_flow_or_one_line(tmp_path_factory, data):
    """Whatever byte changes, in whichever format: ValueError that names the file, or a flow that keeps its promise."""
    folder = tmp_path_factory.mktemp("damaged")
    np.save(folder / "x.npy", np.zeros((2, 2, 3), np.float32))
    write_flo(folder / "x.flo", np.zeros((2, 2, 3)))
    path = folder / data.draw(st.sampled_from(["x.npy", "x.flo"]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged .npy header may look like Python code with a warning in it
        try:
            flow, valid = read_flow(path)
        except ValueError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:
            assert flow.shape == (2, *valid.shape) and flow.dtype == np.float32
            np.testing.assert_array_equal(np.isnan(flow), [~valid, ~valid])


# Names and arguments


def test_suffix_decides(tmp_path):
    (path := tmp_path / "X.FLO").write_bytes(TWO_PIXELS)
    assert read_flow(str(path))[1].sum() == 1
    for name in ("x.mat", "flo", "x.flo.gz"):
        (tmp_path / name).write_bytes(TWO_PIXELS)
        refuses(tmp_path / name, "a flow file ends in .flo, .png (KITTI) or .npy")
    for write, name in ((write_flo, "x.png"), (write_kitti, "x.flo")):
        with pytest.raises(ValueError, match="the name must end in"):
            write(tmp_path / name, np.zeros((2, 1, 1)))


@pytest.mark.parametrize("name", ["x.flo", "x.png", "x.npy"])
def test_missing_file_and_folder(tmp_path, name):
    if name == "x.png":
        pytest.importorskip("cv2")
    for error in (FileNotFoundError, IsADirectoryError):
        with pytest.raises(error) as caught:
            read_flow(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
        (folder := tmp_path / name).mkdir(exist_ok=True)
        (folder / "so that it is not empty").touch()


@pytest.mark.parametrize("call", [lambda f: write_flo("x.flo", f), lambda f: write_kitti("x.png", f), flow_to_color])
@pytest.mark.parametrize(
    ("flow", "got"),
    [
        (np.zeros((4, 5, 2)), "float64 (4, 5, 2); np.moveaxis(flow, -1, 0) gives it"),
        (np.zeros((1, 2, 4, 5)), "float64 (1, 2, 4, 5)"),
        (np.zeros((2, 0, 5)), "float64 (2, 0, 5)"),
        (np.zeros((2, 4, 5), complex), "complex128 (2, 4, 5)"),
        (np.zeros((2, 4, 5), bool), "bool (2, 4, 5)"),
    ],
)
def test_flow_of_another_shape_or_dtype(tmp_path, monkeypatch, call, flow, got):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"flow: expected real numbers of shape (2, H, W), got {got}")):
        call(flow)
    assert not list(tmp_path.iterdir())


def test_flo_refuses_what_would_read_back_as_unknown_or_not_at_all(tmp_path):
    for value in (np.inf, -np.inf, 1.1e9):
        with pytest.raises(ValueError, match="infinite or beyond 1e9; set unknown pixels to NaN"):
            write_flo(tmp_path / "x.flo", np.full((2, 1, 1), value))
    with pytest.raises(ValueError, match="sides up to 99999; got 100000 x 1"):
        write_flo(tmp_path / "x.flo", np.zeros((2, 1, 100_000)))


# Colours

RIGHT, DOWN, LEFT, UP = (255, 0, 0), (255, 229, 0), (0, 209, 255), (88, 0, 255)


def test_wheel_by_hand():
    """Full saturation. Directions are a quarter of 54 steps apart: hues 0, 13.5, 27, 40.5 of the wheel."""
    # Hue 0 is red. 13.5: red to yellow has 15 steps, green = 255 * 13.5 / 15 = 229.5. 27: cyan to blue starts at
    # 15 + 6 + 4 = 25, green = 255 - floor(255 * 2 / 11) = 209. 40.5: blue to magenta starts at 36,
    # red = (floor(255 * 4 / 13) + floor(255 * 5 / 13)) / 2 = 88.
    assert [pixel(7, 0), pixel(0, 7), pixel(-7, 0), pixel(0, -7)] == [RIGHT, DOWN, LEFT, UP]
    assert pixel(7, -0.0) == RIGHT  # not the last hue, on the other side of the seam


def test_saturation_grows_with_magnitude_and_beyond_is_darker():
    # Half the magnitude: half way from white to red, floor(255 * 0.5) = 127.
    assert pixel(5, 0, max_magnitude=10) == (255, 127, 127)
    assert pixel(10, 0, max_magnitude=10) == RIGHT
    assert pixel(10.01, 0, max_magnitude=10) == (191, 0, 0)  # floor(255 * 0.75)
    assert pixel(0, 0, max_magnitude=10) == (255, 255, 255)


def test_scale_is_the_largest_magnitude_of_this_flow():
    flow = np.array([[[3.0, 1.5, 0]], [[4.0, 2.0, 0]]])  # magnitudes 5, 2.5, 0
    np.testing.assert_array_equal(flow_to_color(flow), flow_to_color(flow, max_magnitude=5))
    np.testing.assert_array_equal(flow_to_color(flow), flow_to_color(flow * 1000))
    assert (flow_to_color(np.zeros((2, 3, 4))) == 255).all()


@given(
    hnp.arrays(np.float64, SIDES.map(lambda s: (2, *s)), elements=st.floats(width=64)), st.none() | st.floats(1e-9, 1e9)
)
def test_color_of_any_numbers(flow, limit):
    """Any float, NaN, infinite and 1e300 included: no warning, the right type, black exactly where unknown."""
    color = flow_to_color(flow, limit)
    assert color.shape == (*flow.shape[1:], 3) and color.dtype == np.uint8
    known = (np.abs(flow) <= 1e9).all(axis=0)
    np.testing.assert_array_equal((color == 0).all(axis=-1), ~known)
    # Unknown pixels change nothing elsewhere.
    np.testing.assert_array_equal(color[known], flow_to_color(np.where(known, flow, 0), limit)[known])


def test_color_extremes():
    assert pixel(5e-324, 0) == RIGHT  # the smallest number there is
    assert pixel(1e9, 0, max_magnitude=5e-324) == (191, 0, 0)
    assert pixel(1e9, 0, max_magnitude=1e300) == (255, 255, 255)  # too little red for 8 bits
    assert pixel(1e30, 0) == (0, 0, 0)  # beyond 1e9 is unknown
    assert flow_to_color(np.full((2, 1, 1), np.finfo(np.float16).max, np.float16)).any()
    np.testing.assert_array_equal(flow_to_color(np.full((2, 1, 1), -128, np.int8)), flow_to_color(-np.ones((2, 1, 1))))


@pytest.mark.parametrize("limit", [0, -1, NAN, np.inf])
def test_color_refuses_a_senseless_scale(limit):
    with pytest.raises(ValueError, match="max_magnitude: expected a positive number of pixels, got"):
        flow_to_color(np.zeros((2, 1, 1)), limit)


def test_color_is_that_of_flow_vis():
    """Not installed by our extras. It adds 1e-5 to the maximum and jumps at v = -0.0; neither occurs here."""
    flow_vis = pytest.importorskip("flow_vis")
    flow = 10 * np.random.default_rng(0).normal(size=(2, 100, 120))
    other = flow_vis.flow_to_color(np.ascontiguousarray(flow.transpose(1, 2, 0)))
    assert np.abs(flow_to_color(flow).astype(int) - other.astype(int)).max() <= 1


# Real files


@pytest.mark.parametrize(
    ("parts", "size", "unknown"),
    [
        (("middlebury", "other-gt-flow", "RubberWhale", "flow10.flo"), (388, 584), 3622),
        (("middlebury", "other-gt-flow", "Venus", "flow10.flo"), (380, 420), 0),
        (("sintel", "training", "flow", "alley_1", "frame_0002.flo"), (436, 1024), 0),
        (("flyingchairs", "data", "00001_flow.flo"), (384, 512), 0),
        (("kitti2015", "training", "flow_occ", "000000_10.png"), (375, 1242), 375 * 1242 - 75_453),
    ],
    ids=lambda p: p[0] if isinstance(p, tuple) and isinstance(p[0], str) else None,
)
def test_real_flow(tmp_path, realdata, parts, size, unknown):
    path = realdata.joinpath("flow", *parts)
    if path.suffix == ".png":
        pytest.importorskip("cv2")
    flow, valid = read_flow(path)
    assert flow.shape == (2, *size) and (~valid).sum() == unknown
    assert np.abs(flow[:, valid]).max() < 200 and np.isnan(flow[:, ~valid]).all()
    write = write_kitti if path.suffix == ".png" else write_flo
    write(again := tmp_path / f"again{path.suffix}", flow)
    np.testing.assert_array_equal(read_flow(again)[0], flow)
    if path.suffix == ".flo" and not unknown:
        assert again.read_bytes() == path.read_bytes()
    color = flow_to_color(flow)
    np.testing.assert_array_equal((color == 0).all(axis=-1), ~valid)
