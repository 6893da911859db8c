"""What the figures of docs/figures.md claim: the numbers of their captions, by the functions that draw them."""

import figures
import numpy as np
import pytest

PAGE = (figures.FOLDER.parent / "figures.md").read_text(encoding="utf-8")
tvl1 = figures.tvl1


def says(figure, *numbers):
    """The figure's section of the page gives these numbers."""
    section = next(" ".join(part.split()) for part in PAGE.split("\n## ") if f"(figures/{figure}.png)" in part)
    for number in numbers:
        assert number in section, f"{figure}: {number} is not in its caption"


@pytest.mark.parametrize("scheme", ["classic", "paper"])
def test_the_iterates_are_those_of_representation_flow(scheme):
    want = tvl1.representation_flow(*figures.frames(), n_iter=figures.N_ITER, scheme=scheme)
    *_, last = figures.iterates(scheme)
    np.testing.assert_array_equal(last, want)


def test_classic_settles_at_the_truth_and_paper_oscillates_about_an_eighth():
    """After 100 iterations `classic` is within 5 %, its deviation below 0.1; `paper`'s, near 0.5, does not decay."""
    classic, paper = figures.schemes().values()
    assert abs(classic["mean"][100] - 1) < 0.05 and classic["deviation"][100] < 0.1
    assert classic["change"][-1] < 1e-3 and classic["energy"][-1] < 0.25
    last = {name: values[-200:] for name, values in paper.items()}
    assert abs(last["mean"].mean() - 1 / 8) < 0.02
    assert last["deviation"].min() > 0.4 and last["deviation"].max() < 0.6
    assert last["deviation"].mean() > 0.95 * paper["deviation"][100:200].mean()
    assert last["change"].min() > 0.2 and last["energy"].min() > 5
    says("schemes", f"{classic['mean'][-1]:.2f} px", f"deviation {classic['deviation'][-1]:.3f}")
    says("schemes", f"{last['mean'].mean():.2f} px", f"deviation {last['deviation'].mean():.2f}")
    says("schemes", f"{classic['change'][-1]:.4f} px", f"{last['change'].mean():.2f} px")
    says("schemes", f"{classic['energy'][-1]:.2f}", f"{last['energy'].mean():.1f} times")


def test_linearisation_is_of_order_two_its_rate_one_and_on_a_fixed_grid_one():
    slope = {name: figures.slopes(errors) for name, errors in figures.linearisation().items()}
    np.testing.assert_allclose(slope["(3)"], 2, atol=0.01)
    np.testing.assert_allclose(slope["(4)"], 1, atol=0.01)
    np.testing.assert_allclose(slope["finer grid"], 2, atol=0.02)
    assert (np.diff(slope["fixed grid"]) < 0).all() and 1 < slope["fixed grid"][-1] < 1.2
    says("linearisation", *(f"{slope[name][-1]:.2f}" for name in slope))


def test_borders_half_a_pixel_outside_a_map_of_ones():
    values = {rule: figures.profile(np.ones(6), np.array([-0.5, 5.5]), rule) for rule in figures.OURS}
    assert {rule: v.tolist() for rule, v in values.items()} == {"zero": [0, 0], "blend": [0.5, 0.5]}
    says("borders", "`zero` 0", "`blend` 0.5")


def test_borders_of_grid_sample_half_a_pixel_outside_a_map_of_ones():
    pytest.importorskip("torch")
    for rule in figures.PEERS:
        np.testing.assert_allclose(figures.profile(np.ones(6), np.array([-0.5, 5.5]), rule), 1, rtol=1e-12)
    line = np.array([0.9, 0.5, 0.8, 0.3, 0.6, 1.0])
    inside = np.linspace(0, 5, 41)
    want = np.interp(inside, np.arange(6), line)
    for rule in (*figures.OURS, *figures.PEERS):
        np.testing.assert_allclose(figures.profile(line, inside, rule), want, atol=1e-12)
    says("borders", "`border` and `reflection` 1")


def test_soft_displacement_beats_winner_takes_all_between_pixels_and_tends_to_it_on_them():
    over, falling = figures.displacement()
    nearest = np.minimum(figures.SHIFTS, 1 - figures.SHIFTS)
    np.testing.assert_allclose(over["hard"], nearest, atol=1e-12)  # rounds to the nearest pixel
    means = {name: errors.mean() for name, errors in over.items()}
    assert means["0.1"] < means["0.03"] < means["0.01"] < means["hard"] < means["1"]
    whole, half = falling.values()
    assert (np.diff(whole) < 0).all() and whole[-1] < 1e-12
    assert half.min() < 0.1 and half[-1] > 0.4
    says("displacement", f"{means['hard']:.2f} px", *(f"{means[f'{tau:g}']:.2f}" for tau in figures.TEMPERATURES))
    says("displacement", f"{over['0.1'][8]:.2f} px instead of {over['hard'][8]:.1f}")


def test_literal_indicator_forgives_wrong_answers_and_leaves_classes_unlearnt():
    loss, wrong = figures.indicator_losses(), figures.GAPS < 0
    assert (loss["literal"][wrong] == 0).all()
    np.testing.assert_allclose(loss["literal"][~wrong], loss["cross entropy"][~wrong], rtol=1e-12)
    assert (loss["cross entropy"][wrong] > np.log(2)).all()
    accuracy = figures.training()
    assert accuracy["literal"][-1] == 2 / 5 and accuracy["cross entropy"][-1] > 0.9
    says(
        "indicator",
        *(f"{100 * values[-1]:.0f} %" for values in accuracy.values()),
        f"{100 * accuracy['literal'][0]:.0f} %",
    )


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figure_is_drawn_and_committed(name, tmp_path):
    """Not byte by byte: that holds for one version of matplotlib only."""
    pytest.importorskip("matplotlib")
    if name == "motion":
        pytest.importorskip("skimage")
    size = [path.read_bytes()[16:24] for path in (figures.draw(name, tmp_path), figures.FOLDER / f"{name}.png")]
    assert size[0] == size[1], "run `make figures`"
    assert (figures.FOLDER / f"{name}.png").stat().st_size < 100_000
    assert f"(figures/{name}.png)" in PAGE


def test_a_figure_that_there_is_not_gets_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["figures.py", "nope"])
    with pytest.raises(SystemExit, match="2"):
        figures.main()
    assert "no figure 'nope': expected some of schemes, linearisation" in capsys.readouterr().err
