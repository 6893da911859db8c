"""Frame pairs with ground truth: which files belong together, and what of the flow is known."""

import pickle

import numpy as np
import pytest

from motionspec.data.flow_pairs import flying_chairs, kitti, middlebury, open_pairs, pairs_format, sintel
from motionspec.data.lists import ListError
from motionspec.data.source import NO_LABEL, FlowSource
from motionspec.data.video import VideoError
from motionspec.flow import write_flo, write_kitti

cv2 = pytest.importorskip("cv2")

H, W = 6, 8


def picture(path, value, size=(H, W)):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return path


def flow_file(path, u, unknown=()):
    """u to the right and 1 down, unknown at these rows and columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flow = np.stack([np.full((H, W), u), np.ones((H, W))])
    for row, column in unknown:
        flow[:, row, column] = np.nan
    (write_kitti if path.suffix == ".png" else write_flo)(path, flow)


def values(source, i):
    """Grey values of the two frames, u, and how many pixels of the flow are known."""
    (flow,), (known,) = source.flow(i)
    assert flow.shape == (2, H, W) and flow.dtype == np.float32 and known.dtype == bool
    assert (np.isnan(flow) == ~known).all() and (flow[1, known] == 1).all()
    first, second = source.read(i, [0, 1])
    return first[0, 0, 0], second[0, 0, 0], flow[0, known][0], known.sum()


def test_flying_chairs(tmp_path):
    for n in (1, 2, 10):
        for k in (1, 2):
            picture(tmp_path / "data" / f"{n:05}_img{k}.ppm", 10 * n + k)
        flow_file(tmp_path / "data" / f"{n:05}_flow.flo", n, [(0, 0)] * (n == 2))
    for root in (tmp_path, tmp_path / "data"):
        source = pickle.loads(pickle.dumps(flying_chairs(root)))
        assert [values(source, i) for i in range(len(source))] == [(11, 12, 1, 48), (21, 22, 2, 47), (101, 102, 10, 48)]
    assert isinstance(source, FlowSource) and (source.classes, source.labels) == ((), (NO_LABEL,) * 3)
    with pytest.raises(ListError, match=r"no FlyingChairs_train_val.txt to tell train by"):
        flying_chairs(tmp_path, "train")
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n")
    assert flying_chairs(tmp_path, "train").names == ("data/00001_flow.flo", "data/00010_flow.flo")
    assert flying_chairs(tmp_path, "val").names == ("data/00002_flow.flo",)
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n2\n")
    with pytest.raises(ListError, match="expected a 1 or 2 for each of 3 pairs, got 2 lines"):
        flying_chairs(tmp_path, "val")


def test_sintel(tmp_path):
    top = tmp_path / "training"
    for render, add in (("clean", 0), ("final", 100)):
        for n in (1, 2, 3):
            picture(top / render / "alley" / f"frame_{n:04}.png", n + add)
    for n in (1, 2):
        flow_file(top / "flow" / "alley" / f"frame_{n:04}.flo", n)
    mask = np.zeros((H, W), np.uint8)
    mask[0, :3] = 255
    cv2.imwrite(str(picture(top / "invalid" / "alley" / "frame_0002.png", 0)), mask)
    cv2.imwrite(str(picture(top / "occlusions" / "alley" / "frame_0001.png", 0)), mask.T[:H].repeat(2, 1)[:, :W])
    source = sintel(tmp_path)
    assert [values(source, i) for i in (0, 1)] == [(1, 2, 1, 48), (2, 3, 2, 45)]  # the invalid are not known
    assert source.occluded(1) is None and source.occluded(0).sum() == 3 * 2  # and the occluded are
    assert [values(sintel(top, "final"), i)[:2] for i in (0, 1)] == [(101, 102), (102, 103)]
    picture(top / "invalid" / "alley" / "frame_0002.png", 0, (H, W + 1))
    with pytest.raises(VideoError, match=r"frame_0002.png: the mask is \(6, 9\) and the flow \(6, 8\)"):
        source.flow(1)
    with pytest.raises(ValueError, match="render"):
        sintel(tmp_path, "fin")


def test_kitti(tmp_path):
    top = tmp_path / "training"
    for n in (0, 1):
        for k in (10, 11):
            picture(top / "image_0" / f"{n:06}_{k}.png", n + k)
        flow_file(top / "flow_occ" / f"{n:06}_10.png", 3.5, [(0, 0)])
        flow_file(top / "flow_noc" / f"{n:06}_10.png", 3.5, [(0, 0), (0, 1)])
    assert [values(kitti(tmp_path), i) for i in (0, 1)] == [(10, 11, 3.5, 47), (11, 12, 3.5, 47)]
    assert values(kitti(tmp_path, "flow_noc"), 0)[-1] == 46
    for k in (10, 11):
        picture(top / "colored_0" / f"000000_{k}.png", 90 + k)
    assert values(kitti(top), 0)[:2] == (100, 101)


def test_middlebury(tmp_path):
    for scene, value in (("Grove2", 10), ("Venus", 20)):
        for k in (10, 11):
            picture(tmp_path / "other-data" / scene / f"frame{k}.png", value + k)
        flow_file(tmp_path / "other-gt-flow" / scene / "flow10.flo", value, [(5, 7)])
    assert [values(middlebury(tmp_path), i) for i in (0, 1)] == [(20, 21, 10, 47), (30, 31, 20, 47)]


def test_which_data_set_and_which_part(tmp_path):
    for k in (1, 2):
        picture(tmp_path / "chairs" / f"1_img{k}.ppm", k)
        picture(tmp_path / "kitti" / "training" / "image_2" / f"000000_1{k - 1}.png", k)
    flow_file(tmp_path / "chairs" / "1_flow.flo", 1)
    flow_file(tmp_path / "kitti" / "training" / "flow_noc" / "000000_10.png", 3)
    assert [pairs_format(tmp_path / name) for name in ("chairs", "kitti", ".")] == ["FlyingChairs", "KITTI", None]
    for name in ("chairs", "kitti"):  # those that are held out have no flow
        part, source = open_pairs(tmp_path / name, ["train"])
        assert part == "train" and len(source) == 1
        with pytest.raises(ListError, match="has train and no test or val"):
            open_pairs(tmp_path / name, ["test", "val"])
    (tmp_path / "chairs" / "FlyingChairs_train_val.txt").write_text("2\n")
    part, source = open_pairs(tmp_path / "chairs", ["test", "val"])
    assert part == "val" and len(source) == 1


@pytest.mark.parametrize("reader", [flying_chairs, sintel, kitti, middlebury])
def test_nothing_there(tmp_path, reader):
    with pytest.raises(ListError, match=f"{tmp_path}: no .*flo"):
        reader(tmp_path)


def test_what_is_wrong_is_said(tmp_path):
    for k in (1, 2):
        picture(tmp_path / f"1_img{k}.ppm", k)
    flow_file(tmp_path / "1_flow.flo", 1)
    source = flying_chairs(tmp_path)
    assert source.length(0) == 2
    assert [frame[0, 0, 0] for frame in source.read(0, [1, 0, 1])] == [2, 1, 2]
    flow, known = source.flow(0, [0, 0])
    assert flow.shape == (2, 2, H, W) and known.shape == (2, H, W)
    with pytest.raises(VideoError, match="frames: expected 0: a pair has one flow"):
        source.flow(0, [0, 1])
    with pytest.raises(VideoError, match=r"expected at least one number from 0 to 1, the frames of .*1_flow.flo"):
        source.read(0, [2])
    picture(tmp_path / "1_img2.ppm", 2, (H, W + 1))
    with pytest.raises(VideoError, match=r"1_flow.flo: its frames differ in size: 8 x 6 and 9 x 6"):
        source.read(0, [0, 1])
    (tmp_path / "1_img2.ppm").unlink()
    with pytest.raises(VideoError, match=r"1_img2.ppm: No such file"):
        source.read(0, [0, 1])
    (tmp_path / "1_flow.flo").write_bytes(b"PIEH")
    with pytest.raises(VideoError, match=r"1_flow.flo: 4 bytes cannot hold"):
        source.flow(0, [0])
    (tmp_path / "1_flow.flo").unlink()
    with pytest.raises(VideoError, match=r"1_flow.flo: No such file"):
        source.flow(0, [0])


# Reader, folder, size of the frames, pairs, share of the pixels whose flow is known.
REAL = [
    (flying_chairs, "flyingchairs", (384, 512), 1, 1.0),
    (sintel, "sintel", (436, 1024), 1, 0.99982),
    (lambda root: sintel(root, "final"), "sintel", (436, 1024), 1, 0.99982),
    (kitti, "kitti2015", (375, 1242), 1, 0.16200),
    (middlebury, "middlebury", (388, 584), 3, 0.98402),
]


@pytest.mark.parametrize(("reader", "folder", "size", "pairs", "known"), REAL, ids=lambda v: str(v)[:12])
def test_real_pairs(realdata, reader, folder, size, pairs, known):
    """The flow of a real pair brings the second frame closer to the first, and its negative does not."""
    source = reader(realdata / "flow" / folder)
    assert len(source) == pairs
    i = pairs // 2  # of Middlebury RubberWhale, which has unknown pixels
    first, second = source.read(i, [0, 1])
    (flow,), (valid,) = source.flow(i)
    assert first.shape[:2] == size and valid.mean() == pytest.approx(known, abs=1e-5)
    rows, columns = np.mgrid[: size[0], : size[1]]
    errors = []
    for sign in (0, 1, -1):
        x, y = np.where(valid, [columns, rows] + sign * flow, 0).astype(np.float32)
        moved = cv2.remap(second, x, y, cv2.INTER_LINEAR)
        inside = valid & (x >= 0) & (x < size[1] - 1) & (y >= 0) & (y < size[0] - 1)
        errors.append(np.abs(moved[inside].astype(float) - first[inside]).mean())
    assert errors[1] < 0.6 * errors[0] < 0.6 * errors[2]


def test_masks_of_real_sintel(realdata):
    source = sintel(realdata / "flow" / "sintel")
    assert source.occluded(0).mean() == pytest.approx(0.0222, abs=1e-4)
    pair = source.pairs[0]
    invalid = cv2.imread(str(source.root / pair.invalid), cv2.IMREAD_GRAYSCALE) > 0
    np.testing.assert_array_equal(source.flow(0)[1][0], ~invalid)
