"""`motionspec demo` as its users meet it: the report, the ground truths it reads, one clear line for what it cannot."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
torch = pytest.importorskip("torch")
pytest.importorskip("jinja2")
pytest.importorskip("skimage")

from motionspec.cli import demo  # noqa: E402
from motionspec.cli.main import main  # noqa: E402
from motionspec.flow import write_flo, write_kitti  # noqa: E402
from motionspec.refimpl.equations import EQUATIONS  # noqa: E402

H, W = 36, 41
RUNS = sum(len(row.variants) for row in demo.shown_equations())


def texture(shift=0):
    """A smooth picture, moved to the right by `shift` pixels."""
    y, x = np.mgrid[:H, :W].astype(float)
    grey = 127 + 60 * np.sin((x - shift) / 3) + 60 * np.cos(y / 4 + (x - shift) / 9)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


@pytest.fixture
def pair(tmp_path):
    """Two images, the second moved two pixels to the right, and the true flow with one unknown pixel."""
    paths = [tmp_path / "frame0.png", tmp_path / "frame1.png"]
    for path, shift in zip(paths, (0, 2), strict=True):
        cv2.imwrite(str(path), texture(shift))
    flow = np.zeros((2, H, W), np.float32)
    flow[0] = 2
    flow[:, 3, 4] = np.nan
    return paths, flow


def run(capsys, *arguments):
    status = main(["demo", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def differences(out):
    """Mean grey difference before and after warping, as printed."""
    return [
        tuple(map(float, found))
        for found in re.findall(r"difference of the frames ([\d.]+); after warping .* flow ([\d.]+) \(", out)
    ]


class Page(HTMLParser):
    """Pictures, cells and open tags of a report."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert "href" not in attributes
        if tag == "img":
            self.sources.append(attributes["src"])
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("suffix", ["flo", "npy", "png"])
def test_ground_truth_of_each_format_lowers_the_difference(pair, tmp_path, capsys, suffix):
    paths, flow = pair
    truth = tmp_path / f"flow.{suffix}"
    {"flo": write_flo, "png": write_kitti, "npy": np.save}[suffix](truth, flow)
    status, out, err = run(capsys, *paths, "--flow", truth, "-o", tmp_path / "out")
    assert (status, err) == (0, "")
    ((before, after),) = differences(out)
    assert before > 10
    assert after < 1.5  # the frames were rounded to whole grey levels
    # Two columns leave the frame, one pixel is unknown.
    assert f"{100 * (H * (W - 2) - 1) / (H * W):.0f} % of the pixels" in out


def test_a_flow_that_points_the_wrong_way_is_called_so(pair, tmp_path, capsys):
    paths, flow = pair
    write_flo(tmp_path / "flow.flo", -flow)
    _, out, _ = run(capsys, *paths, "--flow", tmp_path / "flow.flo", "-o", tmp_path / "out")
    assert "Warping makes it worse" in out


def test_report_is_one_complete_file(pair, tmp_path, capsys):
    paths, _ = pair
    status, out, _ = run(capsys, *paths, "-o", tmp_path / "out")
    assert status == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["report.html"]
    assert f"report: {tmp_path / 'out' / 'report.html'}" in out
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "http" not in text
    assert len(page.sources) >= 6 + 2 * RUNS  # the scene's, then at least output and error map of each
    assert text.count('class="agrees"') == RUNS
    assert all(f"<code>{row.id}</code>" in text for row in demo.shown_equations())
    assert "estimated by OpenCV" in text and "not by motionspec" in text


def test_table_lists_every_operator_and_variant(pair, tmp_path, capsys):
    paths, _ = pair
    _, out, _ = run(capsys, *paths, "-o", tmp_path / "out")
    for row in demo.shown_equations():
        assert len(re.findall(rf"^{re.escape(row.id)} .* agrees ", out, re.M)) == len(row.variants)


def test_an_operator_that_differs_is_shown_and_sets_the_exit_status(pair, tmp_path, capsys, monkeypatch):
    from motionspec.ops import off

    right = off.cross_gradient
    monkeypatch.setattr(off, "cross_gradient", lambda f: right(f) + (torch.arange(f.shape[-1]) == 7))
    status, out, _ = run(capsys, *pair[0], "-o", tmp_path / "out")
    assert status == 1
    assert re.search(r"^off.cross_gradient .* x .* differs ", out, re.M)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert text.count('class="differs"') == 1
    assert "F(0, 0, 0, 7): got" in text


def test_video_pairs_are_spread_over_the_clip(tmp_path, capsys):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (W, H))
    for t in range(9):
        writer.write(texture(t))
    writer.release()
    status, out, err = run(capsys, tmp_path / "clip.avi", "--pairs", 2, "-o", tmp_path / "out")
    assert (status, err) == (0, "")
    assert re.findall(r"frames (\d+) and (\d+)", out) == [("2", "3"), ("6", "7")]
    assert all(after < before for before, after in differences(out))


@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (40, 1), (31, 33), (200, 97)])
def test_images_of_any_size(tmp_path, capsys, height, width):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (height, width, 3), np.uint8))
    status, out, _ = run(capsys, tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out")
    assert status == 0
    assert f"crop of {min(width, 96)} x {min(height, 96)} pixels" in out


def test_operator_and_oracle_are_timed_on_the_same_crop(pair, tmp_path, capsys, monkeypatch):
    """Times in one row may be compared; both headings say of how many pixels they are."""
    from motionspec.ops import off

    right, sizes = off.cross_gradient, []
    monkeypatch.setattr(off, "cross_gradient", lambda f: sizes.append(tuple(f.shape[-2:])) or right(f))
    monkeypatch.setattr(demo, "CROP", 16)
    _, out, _ = run(capsys, *pair[0], "-o", tmp_path / "out")
    assert sizes.count((H, W)) == 1 and sizes.count((16, 16)) > 3 and set(sizes) == {(H, W), (16, 16)}
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in (out, report):
        assert "operator ms on 16 x 16" in text and "oracle ms on 16 x 16" in text


def estimates(out):
    """End-point error, outliers and angle by estimator, as printed."""
    lines = re.findall(r"^(\S.*?) {2,}([\d.]+) +([\d.]+) +([\d.]+)$", out, re.M)
    return {name: tuple(map(float, found)) for name, *found in lines}


def test_estimated_flows_are_held_against_the_given_one_where_it_is_known(pair, tmp_path, capsys):
    paths, flow = pair
    flow[:, :5] = np.nan  # what is wrong there does not count
    np.save(tmp_path / "flow.npy", flow)
    _, out, _ = run(capsys, *paths, "--flow", tmp_path / "flow.npy", "-o", tmp_path / "out")
    known = H * W - 5 * W
    assert f"flow read from flow.npy, on the {known} of {H * W} pixels where it is known" in out
    found = estimates(out)
    assert found["no motion"] == (2.0, 0.0, 63.43)
    assert found["tvl1.pyramid_flow"][0] < 0.5 < found["no motion"][0]
    assert "OpenCV's DIS, not motionspec's" in found
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "63.43" in report and all(name in report for name in ("tvl1.pyramid_flow", "no motion"))
    assert "end-point error" in report and "pixels where it is known" in report


def test_without_a_true_flow_no_error_of_an_estimate_is_told(pair, tmp_path, capsys):
    _, out, _ = run(capsys, *pair[0], "-o", tmp_path / "out")
    assert "end-point error" not in out and not estimates(out)
    assert "flow by tvl1.pyramid_flow" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_flow_that_is_unknown_everywhere(pair, tmp_path, capsys):
    np.save(tmp_path / "flow.npy", np.full((2, H, W), np.nan))
    status, out, _ = run(capsys, *pair[0], "--flow", tmp_path / "flow.npy", "-o", tmp_path / "out")
    assert status == 0
    assert "No pixel has a known flow" in out
    assert "end-point error" not in out


def bad_inputs(folder):
    """(arguments, part of the line) of everything that cannot be run."""
    image = folder / "frame0.png"
    small, broken, empty, text = (folder / name for name in ("small.png", "broken.png", "empty.png", "text.avi"))
    cv2.imwrite(str(small), texture()[:20])
    broken.write_bytes(image.read_bytes()[:200])
    empty.write_bytes(b"")
    text.write_text("not a video")
    one = cv2.VideoWriter(str(folder / "one.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (W, H))
    one.write(texture())
    one.release()
    long = cv2.VideoWriter(str(folder / "long.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (W, H))
    for t in range(40):
        long.write(texture(t))
    long.release()
    whole = (folder / "long.avi").read_bytes()
    (folder / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (folder / "blank.avi").write_bytes(b"")
    np.save(folder / "small.npy", np.zeros((2, 5, 5)))
    (folder / "bad.flo").write_bytes(b"PIEH")
    (folder / "taken").write_text("a file where the folder should go")
    return {
        "no such image": ([image, folder / "none.png"], "none.png"),
        "no such video": ([folder / "none.avi"], "none.avi"),
        "broken image": ([image, broken], "broken.png"),
        "empty image": ([empty, image], "empty.png"),
        "not a video": ([text], "text.avi"),
        "empty video": ([folder / "blank.avi"], "blank.avi"),
        "one frame": ([folder / "one.avi"], "one frame"),
        "truncated video": ([folder / "cut.avi"], "cut.avi"),
        "a folder": ([folder], str(folder)),
        "sizes": ([image, small], f"{W} x {H} and {W} x 20"),
        "three files": ([image, image, image], "got 3 files"),
        "flow and video": ([folder / "long.avi", "--flow", folder / "small.npy"], "--flow belongs to two images"),
        "flow alone": (["--flow", folder / "small.npy"], "--flow belongs to two images"),
        "flow of another size": ([image, image, "--flow", folder / "small.npy"], f"5 x 5, the images {W} x {H}"),
        "bad flow": ([image, image, "--flow", folder / "bad.flo"], "bad.flo"),
        "no such flow": ([image, image, "--flow", folder / "none.flo"], "none.flo"),
        "output is a file": ([image, image, "-o", folder / "taken"], "taken"),
        "no such device": ([image, image, "--device", "cuda:99"], "cuda:99"),
    }


BAD = [
    "no such image", "no such video", "broken image", "empty image", "not a video", "empty video", "one frame",
    "truncated video", "a folder", "sizes", "three files", "flow and video", "flow alone", "flow of another size",
    "bad flow", "no such flow", "output is a file", "no such device",
]  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_line_and_no_report(pair, tmp_path, capfd, what):
    cases = bad_inputs(tmp_path)
    assert sorted(cases) == sorted(BAD)
    arguments, expected = cases[what]
    report = tmp_path / "out" / "report.html"
    report.parent.mkdir()
    report.write_text("an earlier report")
    where = [] if "-o" in arguments else ["-o", tmp_path / "out"]
    status, out, err = run(capfd, *arguments, *where)
    assert status == 2
    assert out == ""
    assert re.fullmatch(r"motionspec: [^\n]+\n", err), err
    assert expected in err
    assert report.read_text() == "an earlier report"
    assert [p.name for p in report.parent.iterdir()] == ["report.html"]


def test_default_photograph_is_moved_by_the_flow_it_claims():
    """Independent of our warp: OpenCV's remap of the second frame by the flow gives the first, inside the frame."""
    scene = demo.photograph()
    y, x = np.mgrid[: scene.flow.shape[1], : scene.flow.shape[2]].astype(np.float32)
    back = cv2.remap(scene.second, x + scene.flow[0], y + scene.flow[1], cv2.INTER_CUBIC)
    inner = np.s_[12:-12, 12:-12]
    error = np.abs(back.astype(float) - scene.first)[inner].mean()
    moved = np.abs(scene.second.astype(float) - scene.first)[inner].mean()
    assert error < 0.1 * moved
    assert 4 < np.hypot(*scene.flow).max() < 10


def test_pictures_show_sign_unknown_and_excess():
    values = np.array([[-1.0, 0.0, 1.0, np.nan]])
    blue, white, red, black = demo.signed_map(values)[0].astype(int)
    assert blue[2] > blue[0] and red[0] > red[2]
    assert white.tolist() == [255, 255, 255] and black.tolist() == [0, 0, 0]
    zero, half, beyond, nan = demo.error_map(np.array([[[0.0, 0.5, 2.0, np.nan]]]))[0].tolist()
    assert (zero, half) == ([0, 0, 0], [127, 127, 127])
    assert beyond == nan == [255, 0, 0]


# -- real frames -------------------------------------------------------------------------------------------------------


def test_rubberwhale_with_its_ground_truth(realdata, tmp_path, capsys):
    folder = realdata / "flow" / "middlebury"
    frames = [folder / "other-data" / "RubberWhale" / f"frame1{n}.png" for n in (0, 1)]
    truth = folder / "other-gt-flow" / "RubberWhale" / "flow10.flo"
    status, out, _ = run(capsys, *frames, "--flow", truth, "-o", tmp_path)
    assert status == 0
    ((before, after),) = differences(out)
    assert after < before / 4


@pytest.mark.parametrize(
    "clip",
    [
        "ucf101/UCF-101/Biking/v_Biking_g06_c03.avi",
        "hmdb51/hmdb51_org/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi",  # declares a frame too many
    ],
)
def test_real_clips(realdata, tmp_path, capsys, clip):
    status, out, err = run(capsys, realdata / clip, "--pairs", 1, "-o", tmp_path)
    assert (status, err) == (0, "")
    ((before, after),) = differences(out)
    assert after < before


def test_shown_is_every_equation_on_maps_and_flow():
    ids = {row.id for row in demo.shown_equations()}
    assert {id for id in EQUATIONS if id.split(".")[0] in ("brightness", "off", "warp")} <= ids


@pytest.mark.parametrize("shape", [(70_000, 1), (1, 70_000), (70_000, 500)])
def test_a_picture_of_any_shape_is_encoded(shape):
    """JPEG has sides of 16 bits; the flag by which OpenCV says that it failed was ignored."""
    kind, _, data = demo.Picture("long", np.full((*shape, 3), 7, np.uint8)).data.partition(";base64,")
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert kind.startswith("data:image/") and image is not None and abs(int(image.mean()) - 7) <= 1


def test_a_picture_that_cannot_be_encoded_is_told(monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, np.zeros(0, np.uint8)))
    with pytest.raises(ValueError, match=r"OpenCV could not encode the picture 'grey' of 3 x 2 pixels"):
        _ = demo.Picture("grey", np.zeros((2, 3, 3), np.uint8)).data
