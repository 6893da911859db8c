"""Evaluation: consensus over views, fusion, metrics, tables; the same for every batch and number of workers."""

import csv
import json
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from motionspec.data.clips import View, loader  # noqa: E402
from motionspec.data.video import VideoError  # noqa: E402
from motionspec.ops import metrics  # noqa: E402
from motionspec.train import evaluate, objectives  # noqa: E402
from motionspec.train.evaluate import Scores  # noqa: E402

CLASSES = ("left", "right", "still")


class Clips(torch.utils.data.Dataset):
    """Random clips (V, 3, 2, 4, 4) of three classes; those in `broken` cannot be read. Its own source, too."""

    def __init__(self, count=7, views=None, broken=(), classes=CLASSES):
        self.views, self.broken, self.classes = views, broken, classes
        self.names = tuple(f"clip{k}.avi" for k in range(count))
        self.labels = tuple(k % len(classes) for k in range(count))
        self.source = self

    def __len__(self):
        return len(self.names)

    def __getitem__(self, key):
        _, index = key if isinstance(key, tuple) else (0, key)
        if index in self.broken:
            raise VideoError(f"{self.names[index]}: the file is empty; fetch it again")
        shape = (3, 2, 4, 4) if self.views is None else (self.views, 3, 2, 4, 4)
        values = np.random.default_rng((0, index)).normal(size=shape).astype(np.float32)
        return {
            "clip": torch.from_numpy(values),
            "label": torch.tensor(self.labels[index]),
            "index": torch.tensor(index),
        }


class Net(torch.nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.fc, self.drop = torch.nn.BatchNorm3d(3), torch.nn.Linear(96, classes), torch.nn.Dropout(0.5)

    def forward(self, clip):
        return self.drop(self.fc(self.norm(clip).flatten(1)))


def scored(scores, label, names=None, classes=CLASSES, broken=None):
    names = names or tuple(f"{k}.avi" for k in range(len(label)))
    scores = torch.tensor(scores, dtype=torch.float64)
    broken = broken or {}
    scores[[*broken]] = torch.nan
    return Scores(names, classes, scores, torch.tensor(label), broken)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_the_score_of_a_video_is_the_mean_over_its_views_before_the_softmax():
    clips, network = Clips(views=5), Net().eval()
    with torch.no_grad():
        expected = torch.stack([network(clips[k]["clip"]).double().mean(0) for k in range(len(clips))])
    found = evaluate.score(network, clips)
    torch.testing.assert_close(found.scores, expected, rtol=1e-6, atol=1e-6)
    assert found.names == clips.names and found.label.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_the_network_is_not_in_training_while_it_is_judged_and_is_left_as_it_was():
    network = Net().train()
    mean = network.norm.running_mean.clone()
    first, again = evaluate.score(network, Clips()), evaluate.score(network, Clips())
    assert torch.equal(first.scores, again.scores)  # no dropout
    assert torch.equal(network.norm.running_mean, mean) and network.training


@pytest.mark.parametrize("views", [None, 5])
def test_no_batch_changes_a_result(views):
    network, clips = Net(), Clips(views=views)
    one = evaluate.score(network, clips, batch=1)
    for batch in (2, 3, 7, 64):
        other = evaluate.score(network, clips, batch=batch)
        torch.testing.assert_close(other.scores, one.scores, rtol=1e-6, atol=1e-6)  # float32: another order of sums
        assert evaluate.classification(other) == evaluate.classification(one)


def test_a_forward_sees_no_more_clips_than_the_batch():
    seen = []

    class Counts(Net):
        def forward(self, clip):
            seen.append(len(clip))
            return super().forward(clip)

    evaluate.score(Counts(), Clips(views=10), batch=4)
    assert max(seen) <= 4 and sum(seen) == 70


def test_a_broken_video_stops_the_evaluation_and_is_named():
    with pytest.raises(VideoError, match=r"clip2\.avi: the file is empty"):
        evaluate.score(Net(), Clips(broken=[2]))


def test_skipped_videos_are_named_and_no_other_takes_their_place(monkeypatch):
    clips = Clips(views=5, broken=[2, 6])
    whole, found = evaluate.score(Net(), Clips(views=5)), evaluate.score(Net(), clips, broken="skip")
    assert found.broken == {k: f"clip{k}.avi: the file is empty; fetch it again" for k in (2, 6)}
    assert found.names == whole.names and found.scores[[2, 6]].isnan().all()
    torch.testing.assert_close(found.judged()[0], whole.scores[[0, 1, 3, 4, 5]], rtol=1e-6, atol=1e-6)
    assert found.judged()[1].tolist() == [0, 1, 0, 1, 2]
    # By fork, which takes a tenth of a second where spawn takes ten; these readers do not use OpenMP.
    monkeypatch.setattr(evaluate, "loader", lambda *a, multiprocessing_context, **options: loader(*a, **options))
    by_workers = evaluate.score(Net(), clips, broken="skip", workers=2)
    assert by_workers.broken == found.broken and by_workers.judged()[0].equal(found.judged()[0])


def test_a_video_that_the_view_cannot_show_is_named():
    class Small(Clips):
        def __getitem__(self, key):
            raise ValueError("View: size: expected at most the short side 4 of the frames, got 8")

    with pytest.raises(ValueError, match=r"clip0\.avi: View: size: expected"):
        evaluate.score(Net(), Small())


def test_nothing_left_to_judge():
    with pytest.raises(ValueError, match=r"score: clips: expected at least one that can be read, got 2 broken: clip0"):
        evaluate.score(Net(), Clips(2, broken=[0, 1]), broken="skip")
    with pytest.raises(ValueError, match=r"score: clips: expected at least one that can be read, got 0"):
        evaluate.score(Net(), Clips(0))


def test_scores_of_another_number_of_classes():
    with pytest.raises(ValueError, match=r"score: network: expected scores of 3 classes, got 4"):
        evaluate.score(Net(4), Clips())


def test_the_data_may_have_some_of_the_classes_in_another_order():
    found = evaluate.score(Net(4), Clips(classes=("still", "left")), classes=("left", "other", "right", "still"))
    assert found.classes == ("left", "other", "right", "still") and found.label.tolist() == [3, 0, 3, 0, 3, 0, 3]
    assert evaluate.classification(found)["per_class_count"] == {"left": 3, "other": 0, "right": 0, "still": 4}
    with pytest.raises(
        ValueError, match="score: clips: expected classes that the network knows, a, b, still, got left, right"
    ):
        evaluate.score(Net(), Clips(), classes=("a", "b", "still"))


def test_clips_without_labels():
    clips = Clips()
    clips.labels = (0, 1, -1, 0, 1, 2, 0)
    with pytest.raises(ValueError, match="score: clips: expected a class for each clip"):
        evaluate.score(Net(), clips)


def test_scores_that_are_not_finite_name_the_clip():
    network = Net()
    torch.nn.init.constant_(network.fc.bias, torch.nan)
    with pytest.raises(ValueError, match=r"score: network: expected finite scores, got NaN or infinity for clip0\.avi"):
        evaluate.score(network, Clips())


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_by_hand():
    of = scored([[3, 1, 0], [0, 2, 1], [1, 5, 0], [2, 2, 0]], [0, 1, 2, 0])  # right, right, wrong, a tie: wrong
    assert evaluate.classification(of) == {
        "top_1": 0.5,
        "mean_class_accuracy": 0.5,  # of 1/2, 1, 0
        "per_class_accuracy": {"left": 0.5, "right": 1.0, "still": 0.0},
        "per_class_count": {"left": 2, "right": 1, "still": 1},
    }


def test_top_5_where_there_are_more_classes_than_that():
    rng = np.random.default_rng(0)
    scores, label = rng.normal(size=(20, 9)), rng.integers(0, 9, 20)
    found = evaluate.classification(scored(scores, label, classes=tuple("abcdefghi")))
    assert found["top_5"] == float(metrics.top_k(torch.tensor(scores), torch.tensor(label), k=5))


def test_a_class_without_samples_has_no_accuracy_and_skipped_clips_bound_the_share():
    found = evaluate.classification(scored([[3, 1, 0], [0, 9, 0]], [0, 1], broken={1: "x.avi: empty"}))
    assert found["per_class_accuracy"] == {"left": 1.0, "right": None, "still": None}
    assert found["top_1"] == 1.0 and found["top_1_skipped_as_wrong"] == 0.5
    json.dumps(found, allow_nan=False)


def test_confusion_rows_are_the_truth_and_its_diagonal_is_the_accuracy():
    of = scored([[3, 1, 0], [0, 2, 1], [1, 5, 0], [2, 2, 0]], [0, 1, 2, 0])
    found = evaluate.confusion(of)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]  # the tie counts for the other class
    assert found.trace() / found.sum() == evaluate.classification(of)["top_1"]


# -- fusion ------------------------------------------------------------------------------------------------------------


def test_fusion_is_the_weighted_sum_of_the_scores():
    a, b = scored([[1, 2, 3], [4, 5, 6]], [0, 1]), scored([[3, 0, 0], [0, 6, 0]], [0, 1])
    fused = evaluate.fuse([(a, 1.0), (b, 0.5)])
    assert fused.scores.tolist() == [[2.5, 2, 3], [4, 8, 6]]
    assert evaluate.fuse([(a, 1.0)]).scores.equal(a.scores)


def test_what_one_network_could_not_read_is_broken_for_all():
    a = scored([[1, 0, 0], [0, 1, 0]], [0, 1])
    b = scored([[0, 0, 0], [0, 2, 0]], [0, 1], broken={0: "x: too short"})
    for runs in ([(a, 1), (b, 1)], [(b, 1), (a, 1)]):
        fused = evaluate.fuse(runs)
        assert (fused.broken, fused.judged()[0].tolist()) == ({0: "x: too short"}, [[0, 3, 0]])


@pytest.mark.parametrize(
    ("other", "weight", "says"),
    [
        (scored([[1, 0, 0]], [0], ("y",)), 1, r"fuse: scores\[1\]: expected the same clips with the same labels"),
        (scored([[1, 0, 0]], [1], ("x",)), 1, r"fuse: scores\[1\]: expected the same clips with the same labels"),
        (scored([[1, 0, 0]], [0], ("x",), tuple("abc")), 1, r"fuse: scores\[1\]: expected the classes left, right"),
        (scored([[1, 0, 0]], [0], ("x",)), float("nan"), r"fuse: weight\[1\]: expected a finite number"),
        (scored([[1, 0, 0]], [0], ("x",)), 0.0, r"fuse: weight\[1\]: expected a finite number"),
    ],
)
def test_what_cannot_be_fused(other, weight, says):
    with pytest.raises(ValueError, match=says):
        evaluate.fuse([(scored([[1, 0, 0]], [0], ("x",)), 1), (other, weight)])


# -- protocols ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "segments", "clips", "shape"),
    [
        ([], 1, 1, (3, 2, 8, 8)),
        (["25-segments"], 1, 25, (3, 2, 8, 8)),
        (["25-segments"], 3, 1, (3, 50, 8, 8)),
        (["10-crop"], 3, 10, (3, 6, 8, 8)),
        (["25-segments", "10-crop"], 1, 250, (3, 2, 8, 8)),
        (["64-random"], 1, 64, (3, 2, 8, 8)),
    ],
)
def test_protocols(names, segments, clips, shape):
    view = evaluate.protocol(View(size=8, segments=segments, length=2), names)
    assert view.shape(train=False) == shape
    rng = np.random.default_rng(0)
    views = len(view.times(40, train=False, rng=rng)) * len(view.windows(10, 12, train=False, rng=rng))
    assert views == clips


@pytest.mark.parametrize(
    ("names", "says"),
    [(["5-crop"], "one of '25-segments'"), (["10-crop", "64-random"], "64-random alone"), (["10-crop"] * 2, "once")],
)
def test_protocols_that_are_none(names, says):
    with pytest.raises(ValueError, match=f"protocol: names: expected .*{says}"):
        evaluate.protocol(View(size=8), names)


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_of_a_result(tmp_path):
    pytest.importorskip("matplotlib")
    of = scored([[3, 1, 0], [0, 2, 1], [1, 5, 0], [0, 0, 0], [0, 2, 0]], [0, 1, 2, 0, 0], broken={3: "3.avi: empty"})
    evaluate.write(tmp_path / "out", of, {"seed": 3})
    with (tmp_path / "out" / "confusion.csv").open(newline="", encoding="utf-8") as file:
        assert [*csv.reader(file)] == [
            ["true \\ predicted", *CLASSES],
            ["left", "1", "1", "0"],
            ["right", "0", "1", "0"],
            ["still", "0", "1", "0"],
        ]
    with (tmp_path / "out" / "classes.csv").open(newline="", encoding="utf-8") as file:
        table = [*csv.reader(file)]
    assert table[0] == ["class", "clips", "right", "accuracy", "most often taken for"]
    assert table[1:] == [
        ["left", "2", "1", "0.5000", "right (1)"],
        ["right", "1", "1", "1.0000", ""],
        ["still", "1", "0", "0.0000", "right (1)"],
    ]
    with (tmp_path / "out" / "scores.csv").open(newline="", encoding="utf-8") as file:
        table = [*csv.reader(file)]
    assert table[0] == ["clip", "true", "predicted", *CLASSES] and table[4][:3] == ["4.avi", "left", "right"]
    assert [float(x) for x in table[1][3:]] == [3, 1, 0]
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert result["seed"] == 3 and result["skipped"] == [{"clip": "3.avi", "why": "3.avi: empty"}]
    assert (result["clips"], result["judged"]) == (5, 4)
    assert result["metrics"] == evaluate.classification(of)
    picture = cv2.imread(str(tmp_path / "out" / "confusion.png"))
    assert min(picture.shape[:2]) > 200


def test_clips_without_known_flow_have_no_error_and_networks_that_give_nan_have():
    flow = torch.zeros(3, 2, 1, 4, 4)
    flow[2] = torch.nan
    flow[0, 0] = 3.0
    network = type("Net", (), {"parts": staticmethod(lambda clip: {"flow4": clip})})()
    batch = {"clip": flow, "flow": torch.zeros(3, 2, 1, 4, 4), "known": torch.ones(3, 1, 4, 4, dtype=torch.bool)}
    batch["known"][1] = False
    records = objectives.endpoint_error(network, batch)
    assert [record.get("epe") for record in records[:2]] == [3.0, None] and np.isnan(records[2]["epe"])
    assert objectives.mean(records[:2]) == {"epe": 3.0, "outliers": 0.0}
    assert np.isnan(objectives.mean(records)["epe"])
    with pytest.raises(ValueError, match=r"^no sample can be measured: none has known flow at the size of the view"):
        objectives.mean(records[1:2])


def test_the_loss_of_restored_frames_is_half_their_squared_errors():
    """DnCNN (1): of a frame the sum, of frames the mean, so that parts of a batch add up to the whole."""
    batch = {"clip": torch.zeros(2, 3, 4, 5), "target": torch.zeros(2, 3, 4, 5)}
    batch["target"][0, 0, 0, :2] = torch.tensor([3.0, 4.0])
    assert objectives.restoration(torch.nn.Identity(), batch).item() == 0.5 * 25 / 2


NAMES = ("pay_$_cash_$ (5%)", r"$\frac{1$", "走路", "w" * 120, "new\nline", "\x1b[31mred", "a_b^c", "👩‍👧")


def named(*names):
    """Scores of one clip of each class, all of them right."""
    return scored(np.eye(len(names)).tolist(), [*range(len(names))], classes=names)


def test_names_are_drawn_as_they_are(tmp_path, capfd, monkeypatch):
    """No name is taken for markup, none costs the picture its place, none says anything on stderr."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert evaluate.write(tmp_path, named(*NAMES), {}) == ""
    assert capfd.readouterr() == ("", "") and not told
    axes = figures[0].axes[0]
    ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
    assert all(not text.get_parse_math() and not text.get_usetex() and "\n" not in text.get_text() for text in ticks)
    assert ticks[0].get_text() == NAMES[0] and ticks[4].get_text() == "new\\nline"
    box = axes.get_window_extent()
    assert min(box.width, box.height) > 100
    picture = cv2.imread(str(tmp_path / "confusion.png"))
    assert picture.shape[0] > 300


def test_a_picture_that_fails_costs_no_number(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    (tmp_path / "confusion.png").write_bytes(b"of an earlier evaluation")

    def fail(*_, **__):
        assert (tmp_path / "result.json").is_file() and (tmp_path / "scores.csv").is_file()
        raise RuntimeError("fonts are gone\nall of them")

    monkeypatch.setattr(Figure, "savefig", fail)
    assert evaluate.write(tmp_path, named("a", "b"), {}) == "confusion.png is not drawn: fonts are gone"
    assert not (tmp_path / "confusion.png").exists()
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["metrics"]["top_1"] == 1.0


def test_a_run_goes_on_where_its_curves_cannot_be_drawn(tmp_path, monkeypatch, caplog):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from motionspec.train.runs import Run

    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: 1 / 0)
    run = Run(tmp_path / "run", {}, resume=False)
    run.log(step=1, loss=1.0)
    run.draw(True)
    run.close()
    assert [record.getMessage() for record in caplog.records] == ["curves.png is not drawn: division by zero"]
