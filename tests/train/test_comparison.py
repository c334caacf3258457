"""Which way wins: means of groups, what is chosen on validation groups, and what is said of it."""

import numpy as np
import pytest

from maml_tf import tasks
from maml_tf.evaluation import Result
from train import comparison
from train.comparison import Comparison, Measured


def measured(scores, metric="root mean squared error", chosen=""):
    scores = np.array(scores, float)
    return Measured(Result(metric, scores[:, np.newaxis]), scores, chosen)


@pytest.fixture(scope="module")
def sets():
    """Ten groups in the test, two in validation; a group's number is in its rows."""
    group = np.repeat(np.arange(20), 8)
    split = {"train": range(8), "validation": [8, 9], "test": range(10, 20)}
    x = group.astype(float)
    return tasks.groups(x, x, group, shots=2, queries=3, split=split, test_tasks=25)


def by_group(number):
    """A way whose error is `number` plus that of the tens of the group; on validation as well."""

    def way(dataset, count):
        found = np.concatenate([x["query_x"][:, 0, 0] for x, _ in dataset.as_numpy_iterator()])
        return Result("mean_squared_error", ((found[:count, np.newaxis] - 10) + number) ** 2)

    return way


def test_a_score_is_the_mean_of_a_group_and_the_setting_is_of_validation(sets):
    """In validation the groups are -2 and -1: 2 is better than 0 there, though not later."""
    compared = Comparison(sets, "mean_squared_error", comparison.root)
    found = compared.measure({"penalty 0": by_group(0), "penalty 2": by_group(2)})
    assert found.chosen == "penalty 2"
    # 28 tasks, of which 20 are shared out evenly to the ten groups: what is drawn is of these, too.
    np.testing.assert_allclose(found.result.values[:, 0], np.arange(10) + 2)
    np.testing.assert_allclose(found.scores, np.arange(10) + 2)
    alone = compared.measure({"": by_group(0)})
    assert alone.chosen == ""
    np.testing.assert_allclose(alone.scores, np.arange(10))


def test_seeds_are_put_together_and_the_best_way_comes_first():
    by_seed = [
        {"a": measured([3, 5], chosen="1 step"), "b": measured([1, 2]), "c": measured([np.nan, 0])},
        {"a": measured([4], chosen="2 steps"), "b": measured([3]), "c": measured([0])},
    ]
    merged = comparison.merge(by_seed)
    assert list(merged) == ["b", "a", "c"]
    assert merged["a"].scores.tolist() == [3, 5, 4]
    assert merged["a"].chosen == "1 step; 2 steps"
    accuracies = [
        {n: measured(s, "accuracy") for n, s in {"a": [0.2, 0.3], "b": [0.9, 0.8]}.items()}
    ]
    assert list(comparison.merge(accuracies)) == ["b", "a"]


def test_the_table_shows_mean_and_interval_over_groups():
    merged = comparison.merge([{"MAML": measured([1.0, 2.0, 3.0], chosen="3 steps of 0.1")}])
    text = comparison.table(merged, "10 labelled rows")
    assert "over 3 held-out groups" in text
    assert f"| MAML | 2.0000 ± {1.96 / np.sqrt(3):.4f} | 3 steps of 0.1 |" in text


VERDICTS = [
    ({"MAML": [1, 1.1, 0.9], "ridge": [2, 2.2, 2.1]}, "MAML wins", "MAML is worth its training"),
    (
        {"MAML": [2, 2.2, 2.1], "ridge": [1, 1.1, 0.9], "mean": [1.5, 1.5, 1.5]},
        "ridge wins: root mean squared error 1.0000, MAML 2.1000; in the same 3 groups the "
        "difference is 1.1000 ± ",
        "Take ridge; MAML is not worth its training",
    ),
    # Better on average by less than the groups differ.
    ({"MAML": [1, 5, 1], "ridge": [2, 2, 4]}, "MAML wins", "may be chance"),
    ({"MAML": [1.0], "ridge": [2.0]}, "MAML wins", "may be chance"),
    ({"MAML": [np.nan, 1.0], "ridge": [2.0, 2.0]}, "ridge wins", "Take ridge: MAML ran away"),
]


@pytest.mark.parametrize(("scores", "winner", "advice"), VERDICTS, ids=range(len(VERDICTS)))
def test_the_sentence_says_who_wins_and_whether_the_groups_tell(scores, winner, advice):
    merged = comparison.merge([{name: measured(s) for name, s in scores.items()}])
    sentence = comparison.verdict(merged, "MAML", "10 labelled rows")
    assert sentence.startswith("With 10 labelled rows ")
    assert winner in sentence
    assert advice in sentence


def test_an_accuracy_is_better_where_it_is_larger():
    ways = {"MAML": [0.9, 0.91, 0.92], "pooled": [0.5, 0.52, 0.51]}
    merged = comparison.merge([{n: measured(s, "accuracy") for n, s in ways.items()}])
    sentence = comparison.verdict(merged, "MAML", "5 labelled rows", "persons")
    assert "MAML wins: accuracy 0.9100, pooled 0.5100; in the same 3 persons" in sentence
    assert "worth its training" in sentence
    assert comparison.summary(merged)["MAML"]["groups"] == [0.9, 0.91, 0.92]
