"""Numbers that trajectories draw, read back and compared with ones worked out by hand."""

import io
import json
import math

import numpy
import pytest
from matplotlib.colors import to_rgb
from PIL import Image, ImageSequence

from steepest.study.figures import NothingToDraw
from steepest.study.figures.style import looks
from steepest.study.question.definition import Axis
from tests.steepest.study.figures.artists import BLUE, VERMILION, WIDTHS, all_of, data, drawn, legend_of, lines, one
from tests.steepest.study.results import INF, trial
from tests.steepest.study.synthetic import OPTIMIZERS, make_study

SURFACES = "steepest.lightning_modules.objectives"
STEPS = list(range(0, 101, 10))
DOTS = 96  # an inch


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Contours of a few points and animations of five frames."""
    monkeypatch.setattr("steepest.diagnostics.landscape.objective_path_figures.GRID", 24)
    monkeypatch.setattr("steepest.study.figures.trajectories.FRAMES", 5)


def leave_path(folder, result, steps, weights, gaps=None, objective="ElongatedBowl", **options):
    """Write what ObjectiveTrajectory leaves, and the config of the run."""
    run = folder / result.run_folder
    run.mkdir(parents=True, exist_ok=True)
    gaps = numpy.arange(len(steps)) if gaps is None else gaps
    numpy.savez(run / "trajectory.npz", steps=steps, weights=numpy.array(weights, float), gaps=numpy.array(gaps, float))
    chosen = {"class_path": f"{SURFACES}.{objective}"} | ({"init_args": options} if options else {})
    (run / "config.yaml").write_text(json.dumps({"model": {"init_args": {"objective": chosen}}}))


def across(row, pace, steps=STEPS):
    """A path along a row from -5 on."""
    return [(-5 + pace * step, row) for step in steps]


def of_two(folder):
    """SGD goes ahead at the top, Adam at half its pace at the foot, seen at every tenth step only."""
    results = [trial({"optimizer": "SGD"}), trial({"optimizer": "Adam"})]
    each = list(range(101))
    leave_path(folder, results[0], each, across(3, 0.1, each), [*range(100), 0.125])
    leave_path(folder, results[1], STEPS, across(-3, 0.05), [*range(10), 1234.5])
    return results


def frames_of(drawing):
    """Pixels of each frame, and how long it is shown."""
    frames, durations = [], []
    with Image.open(io.BytesIO(drawing.image)) as image:
        assert image.format == "GIF"
        for frame in ImageSequence.Iterator(image):
            durations.append(frame.info["duration"])
            frames.append(numpy.asarray(frame.convert("RGB")).astype(float))
    return frames, durations


def has_color(frame, figure, point, color, tolerance=60):
    """Whether a frame has that color at a point of the still figure, which is laid out alike."""
    x, y = figure.axes[0].transData.transform(point)
    around = frame[len(frame) - round(y) - 2 : len(frame) - round(y) + 1, round(x) - 1 : round(x) + 2]
    return abs(around - 255 * numpy.array(to_rgb(color))).sum(-1).min() < tolerance


def test_trajectories_are_paths_from_one_start_to_their_ends(tmp_path):
    still, moving = all_of(make_study(), of_two(tmp_path), tmp_path, kind="trajectories")
    axes = still.figure.axes[0]
    sgd, adam = (line for line in lines(axes))
    assert (data(sgd), data(adam)) == (across(3, 0.1, range(101)), across(-3, 0.05))
    assert [line.get_color() for line in (sgd, adam)] == [BLUE, VERMILION]
    ends = [line for line in axes.lines if line.get_color() in (BLUE, VERMILION) and line not in (sgd, adam)]
    assert [(line.get_marker(), line.get_color(), data(line)) for line in ends] == [
        ("o", BLUE, [(5, 3)]),
        ("s", VERMILION, [(0, -3)]),
    ]
    assert [data(line) for line in lines(axes, "*")] == [[(0, 0)]]
    assert [data(line) for line in axes.lines if line.get_color() == "white"] == [[(-5, 3)]]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-6, 6), (-5, 5))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first weight", "second weight")
    assert legend_of(still.figure) == ["SGD", "Adam"]
    assert (still.title, moving.title) == ("Whole paths", "Step by step")
    assert still.group == moving.group == "Paths over ElongatedBowl"
    assert still.caption == moving.caption
    assert still.caption.startswith("Paths of the weights over ElongatedBowl, 100 steps, from the white dot;")
    assert still.alternative == (
        "Paths of optimizers over the contours of ElongatedBowl. "
        "Loss above its minimum at the end: SGD 0.125; Adam 1,234."
    )
    assert moving.alternative == "Animation of the same paths over 100 steps."
    assert (still.image, moving.figure, moving.suffix) == (None, None, ".gif")


def test_frames_of_trajectories_lie_closer_at_the_beginning(tmp_path):
    still, moving = all_of(make_study(), of_two(tmp_path), tmp_path, kind="trajectories")
    frames, durations = frames_of(moving)
    still.figure.set_dpi(DOTS)
    drawn(still.figure)
    assert len(frames) == 5
    assert durations == [1200] * 4 + [1500]
    # Steps 100 (k / 4)^2: 0, 6, 25, 56 and 100; of Adam the last before, of every tenth.
    for frame, step, before in zip(frames, (0, 6, 25, 56, 100), (0, 0, 20, 50, 100), strict=True):
        for head, row, color in ((-5 + 0.1 * step, 3, BLUE), (-5 + 0.05 * before, -3, VERMILION)):
            assert has_color(frame, still.figure, (head, row), color)
            # Adam's line has dashes.
            trail = [has_color(frame, still.figure, (x, row), color) for x in numpy.arange(-5, head + 0.01, 0.1)]
            assert numpy.mean(trail) > 0.7
            # Marks are wider than lines, and those of earlier frames are gone.
            assert has_color(frame, still.figure, (head, row + 0.1), color)
            gone = numpy.arange(-5, head - 0.3, 0.1)
            assert not any(has_color(frame, still.figure, (x, row + 0.1), color) for x in gone)
            ahead = numpy.arange(head + 0.4, 5.5, 0.2)
            assert not any(has_color(frame, still.figure, (x, row), color) for x in ahead)
    # The number of the step above the panel differs from frame to frame.
    figure = still.figure
    top = len(frames[0]) - round(figure.axes[0].get_window_extent().y1) - 1
    titles = [frame[:top].tobytes() for frame in frames]
    assert len(set(titles)) == 5
    assert all((frame[:top] < 100).any() for frame in frames)


def test_a_short_run_has_a_frame_for_each_step(tmp_path):
    result = trial({"optimizer": "SGD"})
    leave_path(tmp_path, result, [0, 1, 2], across(3, 1, [0, 1, 2]))
    _, moving = all_of(make_study(), [result], tmp_path, kind="trajectories")
    # 2 (k / 4)^2 is 0, 0.125, 0.5, 1.125 and 2.
    frames, durations = frames_of(moving)
    assert len(frames) == 3
    assert durations == [2000, 2000, 1500]


def test_animations_of_trajectories_keep_the_colors_of_short_lines(tmp_path):
    many = Axis("optimizer", {f"number {place}": {} for place in range(8)})
    results = [trial({"optimizer": label}) for label in many.alternatives]
    for row, result in enumerate(results):
        leave_path(tmp_path, result, [0, 1], [(-5, 4 - row), (-4.8, 4 - row)])
    still, moving = all_of(make_study([many]), results, tmp_path, kind="trajectories")
    still.figure.set_dpi(DOTS)
    drawn(still.figure)
    frames, _ = frames_of(moving)
    for row, look in enumerate(looks(many).values()):
        assert has_color(frames[-1], still.figure, (-4.8, 4 - row), look.color, tolerance=4)


def test_a_large_animation_of_trajectories_has_fewer_frames(tmp_path, monkeypatch):
    results = of_two(tmp_path)
    _, whole = all_of(make_study(), results, tmp_path, kind="trajectories")
    every, _ = frames_of(whole)
    # Three frames take more than eight tenths of the bytes of five; fewer than two there never are.
    for share, count in ((1.0, 5), (0.9, 3), (0.8, 2), (1e-9, 2)):
        monkeypatch.setattr("steepest.study.figures.trajectories.LARGEST", share * len(whole.image))
        _, moving = all_of(make_study(), results, tmp_path, kind="trajectories")
        frames, durations = frames_of(moving)
        assert len(frames) == count
        assert len(moving.image) <= max(share, 0.8) * len(whole.image)
        assert durations == [6000 // count] * (count - 1) + [1500]
        assert (frames[0] == every[0]).all()
        assert (frames[-1] == every[-1]).all()


@pytest.mark.parametrize("options", [{"animate": False}, {"animate": False, "by": "optimizer"}])
def test_trajectories_without_animation_are_a_figure_alone(tmp_path, options):
    drawing = one(make_study(), of_two(tmp_path), tmp_path, kind="trajectories", **options)
    assert drawing.title == "Paths over ElongatedBowl"
    assert drawing.group == ""
    assert drawing.image is None


def test_trajectories_leave_out_what_is_not_finite(tmp_path):
    study, results = make_study(), of_two(tmp_path)
    weights = [(0, 1), (1, math.nan), (INF, 2), (2, 2), (math.nan, math.nan)]
    leave_path(tmp_path, results[0], [0, 1000, 2000, 3000, 4000], weights, [9, 8, 7, 6.5, 5])
    drawing = one(study, results, tmp_path, kind="trajectories", animate=False)
    axes = drawing.figure.axes[0]
    assert data(lines(axes)[0]) == [(0, 1), (2, 2)]
    assert data(lines(axes, "o")[-1]) == [(2, 2)]
    assert "over ElongatedBowl, 3,000 steps," in drawing.caption
    assert "at the end: SGD 6.5; Adam" in drawing.alternative


def test_trajectories_are_of_the_first_seed_that_left_one(tmp_path):
    results = [trial({"optimizer": name}, seed) for name in ("SGD", "Adam", "Muon") for seed in (0, 1, 2)]
    # The tuning trial, the first in the list, is none of them.
    tuning = trial({"optimizer": "Adam"}, 3, stage="tuning")
    leave_path(tmp_path, tuning, STEPS, across(0, 0.1))
    leave_path(tmp_path, results[1], STEPS, across(1, 0.1))
    leave_path(tmp_path, results[2], STEPS, across(2, 0.1))
    leave_path(tmp_path, results[6], STEPS, across(3, 0.1))
    drawing = one(make_study(), [tuning, *results], tmp_path, kind="trajectories", animate=False)
    assert [data(line) for line in lines(drawing.figure.axes[0])] == [across(1, 0.1), across(3, 0.1)]
    assert legend_of(drawing.figure) == ["SGD", "Muon"]


FUNCTIONS = {
    "bowl": {"model.objective": "ElongatedBowl"},
    "saddle": {"model.objective": "Saddle", "model.objective.init_args.start": [1, 1]},
}
MODELS = {"bowl": {"model": "ElongatedBowl"}, "saddle": {"model": "Saddle"}}


@pytest.mark.parametrize("functions", [FUNCTIONS, MODELS])
def test_every_function_has_a_picture_of_its_own(tmp_path, functions):
    study = make_study([OPTIMIZERS, Axis("function", functions), WIDTHS])
    names = {"bowl": "ElongatedBowl", "saddle": "Saddle"}
    results = []
    for place, (name, function, width) in enumerate(
        (name, function, width) for name in ("SGD", "Adam") for function in names for width in ("1", "2")
    ):
        results.append(trial({"optimizer": name, "function": function, "width": width}))
        leave_path(tmp_path, results[-1], [0, 5], [(0, 0), (1, place / 10)], objective=names[function])
    drawings = all_of(study, results, tmp_path, kind="trajectories", animate=False)
    # The width is no part of the function: its paths are in the same picture, with other dashes.
    assert [drawing.title for drawing in drawings] == ["Paths over bowl", "Paths over saddle"]
    assert [[data(line)[1][1] for line in lines(drawing.figure.axes[0])] for drawing in drawings] == [
        [0.0, 0.1, 0.4, 0.5],
        [0.2, 0.3, 0.6, 0.7],
    ]
    for drawing in drawings:
        paths = lines(drawing.figure.axes[0])
        assert [line.get_color() for line in paths] == [BLUE, BLUE, VERMILION, VERMILION]
        assert paths[0].get_linestyle() == paths[2].get_linestyle() != paths[1].get_linestyle()
        assert sorted(legend_of(drawing.figure)) == sorted(
            f"{name}, width {width}" for name in ("SGD", "Adam") for width in (1, 2)
        )
    assert [data(line) for line in lines(drawings[1].figure.axes[0], "*")] == [[(0, -1), (0, 1)]]
    assert drawings[1].figure.axes[0].get_xlim() == (-1.5, 1.5)
    # Colors by another axis; what they do not stand for is in the same picture still.
    by_width = all_of(study, results, tmp_path, kind="trajectories", animate=False, by="width")
    own = [look.color for look in looks(WIDTHS).values()]
    assert [[line.get_color() for line in lines(drawing.figure.axes[0])] for drawing in by_width] == [
        [own[0], own[0], own[1], own[1]]
    ] * 2


@pytest.mark.parametrize("by", [None, "function", "optimizer"])
def test_paths_over_different_functions_are_never_in_one_picture(tmp_path, by):
    functions = Axis("function", FUNCTIONS)
    study = make_study([functions, OPTIMIZERS])
    results = [trial({"function": place, "optimizer": name}) for place in FUNCTIONS for name in ("SGD", "Adam")]
    for place, result in enumerate(results):
        objective = {"bowl": "ElongatedBowl", "saddle": "Saddle"}[result.labels["function"]]
        leave_path(tmp_path, result, [0, 5], [(0, 0), (1, place / 10)], objective=objective)
    drawings = all_of(study, results, tmp_path, kind="trajectories", animate=False, by=by)
    assert [drawing.title for drawing in drawings] == ["Paths over bowl", "Paths over saddle"]
    paths = [lines(drawing.figure.axes[0]) for drawing in drawings]
    assert [[data(line)[1][1] for line in own] for own in paths] == [[0.0, 0.1], [0.2, 0.3]]
    assert [drawing.figure.axes[0].get_xlim()[1] for drawing in drawings] == [6, 1.5]
    colors = [[line.get_color() for line in own] for own in paths]
    bowl, saddle = (look.color for look in looks(functions).values())
    assert colors == ([[bowl] * 2, [saddle] * 2] if by == "function" else [[BLUE, VERMILION]] * 2)
    if by is None:
        animated = all_of(study, results, tmp_path, kind="trajectories")
        assert [drawing.group for drawing in animated] == ["Paths over bowl"] * 2 + ["Paths over saddle"] * 2
        assert [drawing.suffix for drawing in animated] == [".png", ".gif"] * 2


def test_the_function_of_trajectories_has_its_arguments(tmp_path):
    result = trial({"optimizer": "SGD"})
    leave_path(tmp_path, result, [0, 1], [(1, 1), (0, 0)], objective="Quadratic", eigenvalues=[1, 2], start=[3, 2])
    drawing = one(make_study(), [result], tmp_path, kind="trajectories", animate=False)
    assert drawing.figure.axes[0].get_xlim() == pytest.approx((-3.9, 3.9))


def test_trajectories_that_cannot_be_drawn_are_refused(tmp_path):
    results = [trial({"optimizer": "SGD"})]
    with pytest.raises(NothingToDraw, match=r"has left a trajectory\.npz"):
        all_of(make_study(), results, tmp_path, kind="trajectories")
    # Three weights have no picture.
    leave_path(tmp_path, results[0], [0, 1], [(1, 1, 1), (0, 0, 0)], objective="Quadratic", eigenvalues=[1, 2, 3])
    with pytest.raises(NothingToDraw, match="of a function of two weights"):
        all_of(make_study(), results, tmp_path, kind="trajectories")
    leave_path(tmp_path, results[0], [0, 1], [(1, 1), (0, 0)], objective="Nobody")
    with pytest.raises(NothingToDraw, match=r"cannot be built again: .*Nobody"):
        all_of(make_study(), results, tmp_path, kind="trajectories")
