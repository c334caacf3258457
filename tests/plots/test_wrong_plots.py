"""What cannot be drawn is told before anything is."""

import matplotlib as mpl
import numpy as np
import pytest

from maml_tf import evaluation, image_plots, plots
from tests.wrong_calls import Wrong, check

RESULT = evaluation.Result("loss", np.ones([4, 3]))
IMAGES = np.zeros([4, 5, 5, 3], np.uint8)
LABELS = np.array([0, 0, 1, 1])


def steps(results=None, **options):
    return plots.error_against_steps({"MAML": RESULT} if results is None else results, **options)


def sines(panels=None, **options):
    x = np.linspace(-1, 1, 7)
    panel = plots.SinePanel("one", x, x, np.stack([x] * 3), x[:2], x[:2])
    return plots.sine_adaptation([panel] if panels is None else panels, **options)


def curve(rows=({"epoch": 0, "loss": 1.0},), metric="loss", **options):
    return plots.learning_curve(rows, metric, **options)


def curves(histories=None, metric="loss", **options):
    rows = [{"epoch": 0, "loss": 1.0, "processor_seconds": 60.0}]
    return plots.learning_curves(
        {"MAML": rows} if histories is None else histories, metric, **options
    )


def task(support=(IMAGES, LABELS), query=(IMAGES, LABELS), before=LABELS, after=LABELS, **options):
    return plots.classification_task(support, query, before, after, **options)


def confusion(support=(IMAGES, LABELS), labels=LABELS, predicted=LABELS, **options):
    return plots.confusion(support, labels, predicted, **options)


def sheet(support=(IMAGES, LABELS), queries=IMAGES, names=("a", "b"), **changed):
    answers = {"predicted": LABELS, "probabilities": [0.5] * 4, **changed}
    return image_plots.contact_sheet(support, queries, names, **answers)


NAN = np.full([4, 5, 5, 1], np.nan)
WRONG = [
    Wrong(lambda: steps({}), ValueError, "results={}"),
    Wrong(lambda: steps([RESULT]), TypeError, "`results`", "of type list"),
    Wrong(lambda: steps(RESULT), TypeError, "`results`", "of type Result"),
    Wrong(lambda: steps({"MAML": [1.0]}), TypeError, "`results`", "{'MAML': [1.0]}"),
    Wrong(lambda: steps(references=[1.0]), TypeError, "`references`", "[1.0]"),
    Wrong(lambda: steps(references={"MAML": 0.6}), TypeError, "`references`", "{'MAML': 0.6}"),
    Wrong(lambda: steps(references={"MAML": {1: "0.6"}}), TypeError, "`references`", "'0.6'"),
    Wrong(lambda: steps(chance=20), ValueError, "`chance`", "chance=20"),
    Wrong(lambda: sines([]), ValueError, "panels=[]"),
    Wrong(lambda: sines(["one"]), TypeError, "`panels`", "['one']"),
    Wrong(lambda: sines(steps=()), ValueError, "`steps`", "steps=()"),
    Wrong(lambda: sines(steps=(0, -1)), ValueError, "`steps`", "steps=-1"),
    Wrong(lambda: sines(steps=(0, 0.5)), TypeError, "`steps`", "steps=0.5"),
    Wrong(lambda: sines(steps=(0, 10)), ValueError, "after 10 steps", "path of 2 steps", "'one'"),
    Wrong(lambda: sines(steps=(0,), columns=0), ValueError, "`columns`", "columns=0"),
    Wrong(lambda: sines(steps=(0,), columns=1.5), TypeError, "`columns`", "columns=1.5"),
    Wrong(lambda: curve([]), ValueError, "`rows`", "no rows"),
    Wrong(lambda: curve("history.csv"), TypeError, "`rows`", "'history.csv'"),
    Wrong(lambda: curve([1.0, 2.0]), TypeError, "`rows`", "[1.0, 2.0]"),
    Wrong(lambda: curve(metric="accuracy"), ValueError, "'accuracy'", "['epoch', 'loss']"),
    Wrong(lambda: curve([{"loss": 1.0}]), ValueError, "rows[0]", "['epoch']"),
    Wrong(lambda: curve([{"epoch": 0, "loss": 1.0}, {"epoch": 1}]), ValueError, "rows[1]", "loss"),
    Wrong(lambda: curve([{"epoch": 0, "loss": "1.0"}]), ValueError, "rows[0]", "'1.0'"),
    Wrong(lambda: curve(epoch_iterations=0), ValueError, "`epoch_iterations`", "=0"),
    Wrong(lambda: curve(epoch_iterations="500"), TypeError, "`epoch_iterations`", "='500'"),
    Wrong(lambda: curves([1.0]), TypeError, "`histories`", "[1.0]"),
    Wrong(lambda: curves({}), ValueError, "`histories`", "{}"),
    Wrong(lambda: curves({"MAML": "rows"}), TypeError, "histories['MAML']", "'rows'"),
    Wrong(lambda: curves({"MAML": []}), ValueError, "histories['MAML']", "one row"),
    Wrong(lambda: curves(metric="accuracy"), ValueError, "['accuracy']", "histories['MAML'][0]"),
    Wrong(lambda: curves(time="hours"), ValueError, "without ['hours']"),
    Wrong(lambda: curves(epoch_iterations=0), ValueError, "`epoch_iterations`", "=0"),
    Wrong(lambda: curves(epoch_iterations={}), TypeError, "`epoch_iterations`", "None"),
    Wrong(lambda: curves(chance=20), ValueError, "`chance`", "chance=20"),
    Wrong(lambda: curve(chance="0.2"), TypeError, "`chance`", "chance='0.2'"),
    Wrong(lambda: curve(tests=RESULT), TypeError, "`tests`", "of type Result"),
    Wrong(lambda: curve(tests={500: 0.6}), TypeError, "`tests`", "{500: 0.6}"),
    Wrong(lambda: task(support=IMAGES), TypeError, "`support`", "(images, labels)"),
    Wrong(lambda: task(support=(IMAGES[0], LABELS)), ValueError, "`support`", "(5, 5, 3)"),
    Wrong(lambda: task(support=(IMAGES[..., :2], LABELS)), ValueError, "`support`", "5, 2)"),
    Wrong(lambda: task(support=(NAN, LABELS)), ValueError, "`support`", "NaN"),
    Wrong(lambda: task(query=(IMAGES, LABELS[:2])), ValueError, "`query labels`", "(2,)"),
    Wrong(lambda: task(query=(IMAGES, LABELS - 1)), ValueError, "`query labels`", "from -1"),
    Wrong(lambda: task(before=LABELS + 0.5), TypeError, "`before`", "float64"),
    Wrong(lambda: task(after=LABELS[:3]), ValueError, "`after`", "shape (3,)"),
    Wrong(lambda: task(columns=0), ValueError, "`columns`", "columns=0"),
    Wrong(lambda: task(columns=-3), ValueError, "`columns`", "columns=-3"),
    Wrong(lambda: task(names="ab"), TypeError, "`names`", "names='ab'"),
    Wrong(lambda: task(names=["a"]), ValueError, "2 classes", "names=['a']"),
    Wrong(lambda: confusion(names=["a"]), ValueError, "2 classes", "names=['a']"),
    Wrong(lambda: confusion(names=3), TypeError, "`names`", "names=3"),
    Wrong(lambda: confusion(labels=LABELS - 1), ValueError, "`labels`", "from -1 to 0"),
    Wrong(lambda: confusion(predicted=LABELS[:2]), ValueError, "`predicted`", "(2,)"),
    Wrong(lambda: confusion(predicted=np.eye(4)), TypeError, "`predicted`", "(4, 4)"),
    Wrong(lambda: confusion(support=(IMAGES,)), TypeError, "`support`"),
    Wrong(lambda: confusion(support=(["a"], [0])), TypeError, "`support`", "dtype <U1"),
    Wrong(lambda: sheet(columns=0), ValueError, "`columns`", "columns=0"),
    Wrong(lambda: sheet(names="ab"), TypeError, "`names`", "names='ab'"),
    Wrong(lambda: sheet(names=()), TypeError, "`names`", "names=()"),
    Wrong(lambda: sheet(names=("a",)), ValueError, "`support labels`", "below 1", "to 1"),
    Wrong(lambda: sheet(predicted=LABELS - 1), ValueError, "`predicted`", "from -1 to 0"),
    Wrong(lambda: sheet(predicted=LABELS + 1), ValueError, "`predicted`", "from 1 to 2"),
    Wrong(lambda: sheet(predicted=[0.0] * 4), TypeError, "`predicted`", "float64"),
    Wrong(lambda: sheet(truth=LABELS + 5), ValueError, "`truth`", "from 5 to 6"),
    Wrong(lambda: sheet(probabilities=[0.5] * 3 + [1.5]), ValueError, "probabilities[3]=1.5"),
    Wrong(lambda: sheet(probabilities=[np.nan] * 4), ValueError, "probabilities[0]=nan"),
    Wrong(lambda: sheet(probabilities=[0.5]), ValueError, "1 probabilities"),
    Wrong(lambda: sheet(queries=IMAGES[:, :, :, :2]), ValueError, "`queries`", "(4, 5, 5, 2)"),
    Wrong(lambda: sheet(support=(IMAGES, LABELS[:1])), ValueError, "`support labels`", "(1,)"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)


def test_a_sum_of_float32_may_be_a_little_more_than_one():
    figure = sheet(probabilities=np.full(4, 1 + 2**-23, np.float32))
    assert isinstance(figure, mpl.figure.Figure)
