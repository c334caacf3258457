"""What figures show: labels, lines equal to the results, legends beside the data."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from maml_tf import evaluation, plots


def result(mean, metric="mean_squared_error", tasks=50, seed=0):
    noise = np.random.default_rng(seed).uniform(0.8, 1.2, [tasks, 1])
    return evaluation.Result(metric, noise * np.asarray(mean, np.float64))


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def band(collection):
    """`(x, lower, upper)` of a band that `fill_between` drew."""
    (path,) = collection.get_paths()
    x = np.unique(path.vertices[:, 0])
    at = [path.vertices[path.vertices[:, 0] == value, 1] for value in x]
    return x, np.array([v.min() for v in at]), np.array([v.max() for v in at])


def assert_legend_beside_axes(figure):
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0
    assert box.y1 <= figure.bbox.y1


def test_error_against_steps_draws_means_and_intervals():
    results = {"MAML": result([3.0, 1.0, 0.9]), "pretrained": result([3.0, 2.5, 2.2])}
    figure = plots.error_against_steps(results)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "inner gradient steps"
    assert axes.get_ylabel() == "mean squared error"
    assert axes.get_title() == "mean and 95 % interval over 50 tasks"
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0
    assert texts(figure.legends[0]) == ["MAML", "pretrained"]
    for line, collection, expected in zip(
        axes.lines, axes.collections, results.values(), strict=True
    ):
        np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
        np.testing.assert_array_equal(line.get_ydata(), expected.mean)
        x, lower, upper = band(collection)
        np.testing.assert_array_equal(x, [0, 1, 2])
        np.testing.assert_allclose(lower, expected.mean - expected.interval)
        np.testing.assert_allclose(upper, expected.mean + expected.interval)
    assert_legend_beside_axes(figure)


def test_a_long_title_and_long_names_are_whole_and_apart():
    title = "mini-ImageNet, 5-way 1-shot: mean and 95 % interval over 600 tasks"
    for names in (["MAML", "nearest neighbour on pixels"], ["a name " * 8], list("abcdefghi")):
        results = {name: result([0.2, 0.5], "accuracy") for name in names}
        figure = plots.error_against_steps(results, title=title, chance=0.2)
        assert_legend_beside_axes(figure)
        box = figure.axes[0].title.get_window_extent()
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1


def test_axis_is_logarithmic_where_the_range_asks_for_it():
    wide = {"MAML": result([3.0, 0.5]), "oracle": result([0.01, 0.01])}
    (axes,) = plots.error_against_steps(wide).axes
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert low < 0.01 * 0.98
    assert high > 3.0 * 1.02


def test_accuracy_is_in_per_cent_and_never_logarithmic():
    figure = plots.error_against_steps(
        {"MAML": result([0.02, 0.9], "accuracy")}, references={"MAML": {1: 0.987}}, title="5-way"
    )
    (axes,) = figure.axes
    assert axes.get_yscale() == "linear"
    figure.draw_without_rendering()
    ticks = [text.get_text() for text in axes.get_yticklabels()]
    assert {"20 %", "40 %", "80 %"} <= set(ticks)
    assert axes.get_title() == "5-way"
    mean, reference = axes.lines
    np.testing.assert_array_equal(reference.get_xydata(), [[1, 0.987]])
    assert reference.get_color() == mean.get_color()
    assert texts(figure.legends[0]) == ["MAML", "MAML, paper"]


def test_a_mean_that_is_not_finite_ends_the_line_and_is_named():
    running_away = result([3.0, 1.0, 0.9])
    running_away.values[4, 2] = np.inf
    figure = plots.error_against_steps({"large steps": running_away})
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), [False, False, True])
    assert texts(figure.legends[0]) == ["large steps (then not finite)"]


def test_a_result_without_steps_is_a_dashed_line_across():
    (axes,) = plots.error_against_steps(
        {"MAML": result([3.0, 1.0, 0.9]), "oracle": result([0.5])}
    ).axes
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), [0, 2])
    np.testing.assert_allclose(axes.lines[1].get_ydata(), result([0.5]).mean.repeat(2))
    assert axes.lines[1].get_linestyle() == "--"
    assert axes.lines[0].get_linestyle() == "-"


def sine_panel(title, steps=10, points=5):
    x = np.linspace(-5, 5, 50)
    truth = 2 * np.sin(x)
    path = np.stack([truth * step / steps for step in range(steps + 1)])
    support_x = np.linspace(-4, 4, points)
    return plots.SinePanel(title, x, truth, path, support_x, 2 * np.sin(support_x))


def test_more_lines_than_colours_are_told_apart():
    simple = {f"way {i}": result([1.0 + i]) for i in range(9)}
    figure = plots.error_against_steps({"MAML": result([3.0, 1.0]), **simple})
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)


def test_sine_adaptation_draws_truth_points_and_predictions():
    panels = [sine_panel(f"panel {i}", points=5 + i) for i in range(4)]
    figure = plots.sine_adaptation(panels)
    assert [axes.get_title() for axes in figure.axes] == [f"panel {i}" for i in range(4)]
    for axes, panel in zip(figure.axes, panels, strict=True):
        truth, before, one, ten, points = axes.lines
        np.testing.assert_array_equal(truth.get_ydata(), panel.truth)
        for line, step in ((before, 0), (one, 1), (ten, 10)):
            np.testing.assert_array_equal(line.get_xdata(), panel.x)
            np.testing.assert_array_equal(line.get_ydata(), panel.path[step])
        np.testing.assert_array_equal(points.get_xdata(), panel.support_x)
        np.testing.assert_array_equal(points.get_ydata(), panel.support_y)
    assert texts(figure.legends[0]) == [
        "true sine",
        "before adaptation",
        "after 1 step",
        "after 10 steps",
        "points adapted to",
    ]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "x", "x"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["y", "", "y", ""]
    assert_legend_beside_axes(figure)


def test_the_legend_of_one_narrow_column_is_whole():
    assert_legend_beside_axes(plots.sine_adaptation([sine_panel("one")] * 2, columns=1))


def test_sine_adaptation_needs_the_steps_it_draws():
    with pytest.raises(ValueError, match="after 10 steps.*path of 3 steps.*'short'"):
        plots.sine_adaptation([sine_panel("short", steps=3)])
    with pytest.raises(ValueError, match="at least one panel"):
        plots.sine_adaptation([])


def test_learning_curve_draws_what_the_rows_have():
    rows = [
        {"epoch": float(e), "accuracy": 0.2 + 0.1 * e, "val_accuracy": 0.2 + 0.08 * e}
        for e in range(5)
    ]
    figure = plots.learning_curve(rows, "accuracy", epoch_iterations=500, title="5-way")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "meta-iterations"
    assert axes.get_ylabel() == "accuracy"
    assert axes.get_title() == "5-way"
    assert texts(figure.legends[0]) == [
        "training, after adaptation",
        "validation, after adaptation",
    ]
    for line, name in zip(axes.lines, ("accuracy", "val_accuracy"), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [500, 1000, 1500, 2000, 2500])
        np.testing.assert_array_equal(line.get_ydata(), [row[name] for row in rows])
    assert_legend_beside_axes(figure)


def test_the_iterations_of_a_short_run_stand_there_once():
    figure = plots.learning_curve([{"epoch": 0.0, "loss": 1.0}, {"epoch": 1.0, "loss": 0.5}])
    figure.draw_without_rendering()
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert len(labels) == len(set(labels))


def test_learning_curve_tells_before_from_after_by_line_style():
    rows = [
        {"epoch": 0, "loss": 0.5, "loss_before": 4.0},
        {"epoch": 1, "loss": 0.1, "loss_before": 4.1},
    ]
    (axes,) = plots.learning_curve(rows).axes
    after, before = axes.lines
    assert after.get_linestyle() != before.get_linestyle()
    assert axes.get_yscale() == "log"


def test_learning_curves_stand_against_iterations_and_against_time():
    rows = {
        name: [
            {"epoch": e, "val_accuracy": 0.2 + gain * e, "processor_seconds": seconds}
            for e in range(3)
        ]
        for name, gain, seconds in (("second order", 0.2, 120), ("first order", 0.1, 60))
    }
    each = {"second order": 100, "first order": 200}
    figure = plots.learning_curves(rows, epoch_iterations=each, chance=0.2, title="5-way")
    left, right = figure.axes
    assert left.get_xlabel() == "meta-iterations"
    assert "minutes of all cores" in right.get_xlabel()
    assert left.get_ylabel() == "validation accuracy"
    for axes in (left, right):
        for line, history in zip(axes.lines, rows.values(), strict=False):
            np.testing.assert_array_equal(
                line.get_ydata(), [row["val_accuracy"] for row in history]
            )
    np.testing.assert_array_equal(left.lines[0].get_xdata(), [100, 200, 300])
    np.testing.assert_array_equal(left.lines[1].get_xdata(), [200, 400, 600])
    np.testing.assert_array_equal(right.lines[0].get_xdata(), [2, 4, 6])
    np.testing.assert_array_equal(right.lines[1].get_xdata(), [1, 2, 3])
    assert texts(figure.legends[0]) == ["second order", "first order", "chance, 20 %"]
    assert [one.get_color() for one in left.lines] == [one.get_color() for one in right.lines]
    assert left.lines[0].get_color() != left.lines[1].get_color()


def test_learning_curve_without_the_metric():
    with pytest.raises(ValueError, match="no rows"):
        plots.learning_curve([])
    with pytest.raises(ValueError, match="epoch"):
        plots.learning_curve([{"epoch": 0}], "accuracy")


def cells(figure):
    """Of each image that is drawn: its title, and the lines below it with their colours."""
    return [
        (axes.get_title(), [(t.get_text(), to_rgba(t.get_color())) for t in axes.texts])
        for part in figure.subfigs
        for axes in part.axes
    ]


RIGHT, WRONG, BEFORE = map(to_rgba, ("#00704F", "#C02000", "#707070"))


def test_classification_task_orders_by_label_and_colours_by_success():
    random = np.random.default_rng(0)
    support = random.random((3, 8, 8, 1)), np.array([2, 0, 1])
    query = random.random((3, 8, 8, 1)), np.array([1, 2, 0])
    figure = plots.classification_task(support, query, [0, 0, 1], [1, 0, 0])
    assert cells(figure) == [
        ("0", []),
        ("1", []),
        ("2", []),
        ("0", [("(1)", BEFORE), ("✓ 0", RIGHT)]),
        ("1", [("(0)", BEFORE), ("✓ 1", RIGHT)]),
        ("2", [("(0)", BEFORE), ("✗ 0", WRONG)]),
    ]
    for axes, i in zip(figure.axes, [1, 2, 0], strict=False):
        np.testing.assert_array_equal(axes.images[0].get_array(), support[0][i, :, :, 0])


def test_classification_task_names_the_classes():
    pixels, labels = np.zeros([2, 4, 4, 1]), np.array([0, 1])
    names = ["a cat of $5$", "Georgian letter with a long name"]
    figure = plots.classification_task(
        (pixels, labels), (pixels, labels), None, [0, 0], names=names
    )
    assert [title for title, _ in cells(figure)] == [
        "a cat of $5$",
        "Georgian let… a long name",
    ] * 2
    answers = [[text for text, _ in below] for _, below in cells(figure)[2:]]
    assert answers == [["✓ a cat of $5$"], ["✗ a cat of $5$"]]
    figure.draw_without_rendering()  # a dollar sign is none of mathematics


def test_a_chance_line_and_a_test_with_its_interval():
    tested = result([0.3, 0.8], "accuracy")
    (axes,) = plots.error_against_steps({"MAML": tested}, chance=0.2).axes
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), [0.2, 0.2])
    assert axes.lines[-1].get_label() == "chance, 20 %"
    assert axes.get_ylim()[0] < 0.2

    rows = [{"epoch": e, "accuracy": 0.3 + 0.1 * e} for e in range(4)]
    figure = plots.learning_curve(
        rows, "accuracy", epoch_iterations=500, chance=1 / 3, tests={1500: tested}
    )
    assert texts(figure.legends[0])[1:] == ["chance, 33.3 %", "test, after 1 step, 95 % interval"]
    ((point, _, (bar,)),) = figure.axes[0].containers
    np.testing.assert_allclose(point.get_xydata(), [[1500, tested.mean[1]]])
    half = tested.interval[1] * np.array([-1, 1])
    np.testing.assert_allclose(bar.get_segments()[0][:, 1], tested.mean[1] + half)
    assert_legend_beside_axes(figure)


def test_confusion_counts_each_pair_and_shows_each_class():
    images = np.stack([np.full((4, 4, 3), value) for value in (0.2, 0.4, 0.6, 0.8)])
    labels, predicted = [0, 0, 1, 2, 2, 2], [0, 2, 1, 2, 2, 1]
    figure = plots.confusion((images, np.array([1, 2, 0, 1])), labels, predicted, title="one task")
    true_classes, matrix, _, predicted_classes = figure.axes
    np.testing.assert_array_equal(matrix.images[0].get_array(), [[1, 0, 1], [0, 1, 0], [0, 1, 2]])
    written = {(t.get_position()[::-1], t.get_text()) for t in matrix.texts}
    assert written == {((0, 0), "1"), ((0, 2), "1"), ((1, 1), "1"), ((2, 1), "1"), ((2, 2), "2")}
    # The first support image of class 0, 1 and 2, downwards and to the right.
    np.testing.assert_array_equal(true_classes.images[0].get_array()[::4, 0, 0], [0.6, 0.2, 0.4])
    shown = predicted_classes.images[0].get_array()
    np.testing.assert_array_equal(shown[0, ::4, 0], [0.6, 0.2, 0.4])


def test_confusion_names_the_classes_at_both_axes():
    images, labels = np.zeros([3, 4, 4, 1]), np.arange(3)
    names = ["cat", "dog", "a fish of 1 $ or 2 $ a piece"]
    figure = plots.confusion((images, labels), labels, labels, names=names)
    true_classes, matrix, _, predicted_classes = figure.axes
    shown = ["cat", "dog", "a fish of …$ a piece"]
    for axes, ticks in ((true_classes, "y"), (predicted_classes, "x")):
        assert [t.get_text() for t in getattr(axes, f"get_{ticks}ticklabels")()] == shown
        # In the middle of each picture of four pixels.
        np.testing.assert_array_equal(getattr(axes, f"get_{ticks}ticks")(), [1.5, 5.5, 9.5])
    figure.draw_without_rendering()
    assert matrix.get_xticklabels() == []


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="at least one result"):
        plots.error_against_steps({})


def test_global_settings_stay_as_they_are(tmp_path):
    before = dict(mpl.rcParams)
    plots.error_against_steps({"MAML": result([3.0, 0.1])}).savefig(tmp_path / "figure.png")
    assert dict(mpl.rcParams) == before
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "maml_tf\[train\]"'):
        plots.error_against_steps({"MAML": result([3.0, 0.1])})


def test_package_is_imported_without_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import maml_tf, maml_tf.plots"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
