"""Checks of arguments: what passes, and how it is given back; errors are in one dialect."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from maml_tf import arguments
from tests.wrong_calls import Wrong, check

INTEGERS = [3, np.int64(3), np.uint8(3), np.array(3), tf.constant(3), tf.constant(3, tf.int64)]
NUMBERS = [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), tf.constant(0.5)]
NUMBERS += [np.float16(0.5), tf.constant(0.5, tf.float64)]


@pytest.mark.parametrize("value", INTEGERS, ids=lambda v: type(v).__name__)
def test_an_integer_of_any_kind_becomes_pythons(value):
    assert type(arguments.integer("ways", value, 1, 5)) is int
    assert arguments.integer("ways", value, minimum=3, maximum=3) == 3


@pytest.mark.parametrize("value", NUMBERS, ids=lambda v: type(v).__name__)
def test_a_number_of_any_kind_becomes_pythons(value):
    assert type(arguments.positive("rate", value)) is float
    assert arguments.number("rate", value, 0.5, 0.5, above=0.4, below=0.6) == 0.5


def test_a_whole_number_is_a_number():
    assert arguments.positive("rate", 2) == arguments.positive("rate", np.int32(2)) == 2.0


def test_float64_keeps_its_precision():
    assert arguments.number("rate", np.float64(0.1)) == 0.1


def test_truth_values_names_and_paths():
    assert arguments.boolean("rotate", np.True_) is True
    assert arguments.choice("split", "paper", ("paper", "alphabet")) == "paper"
    assert arguments.path("data", pathlib.Path("a") / "b") == str(pathlib.Path("a", "b"))


WRONG = [
    Wrong(lambda: arguments.integer("ways", True, 1), TypeError, "`ways`", "ways=True", "ways=1"),
    Wrong(lambda: arguments.integer("ways", np.True_), TypeError, "of type bool"),
    Wrong(lambda: arguments.integer("ways", 2.0, 1), TypeError, "ways=2.0", "of at least 1"),
    Wrong(lambda: arguments.integer("ways", np.float32(2)), TypeError, "of type float32"),
    Wrong(lambda: arguments.integer("ways", "5"), TypeError, "ways='5'", "an integer."),
    Wrong(lambda: arguments.integer("ways", None), TypeError, "ways=None"),
    Wrong(lambda: arguments.integer("ways", [5]), TypeError, "ways=[5]", "of type list"),
    Wrong(lambda: arguments.integer("ways", np.array([5, 6])), TypeError, "ways of shape (2,)"),
    Wrong(lambda: arguments.integer("ways", tf.constant(5.0)), TypeError, "ways="),
    Wrong(lambda: arguments.integer("ways", 0, 1), ValueError, "at least 1", "ways=0", "ways=1."),
    Wrong(lambda: arguments.integer("ways", 9, 1, 5), ValueError, "at most 5", "ways=9"),
    Wrong(lambda: arguments.integer("ways", -1, 0, advice="Add one."), ValueError, "Add one."),
    Wrong(lambda: arguments.number("rate", "0.9"), TypeError, "`rate`", "rate='0.9'", "str"),
    Wrong(lambda: arguments.number("rate", b"0.9"), TypeError, "rate=b'0.9'"),
    Wrong(lambda: arguments.number("rate", True), TypeError, "rate=True"),
    Wrong(lambda: arguments.number("rate", None), TypeError, "rate=None"),
    Wrong(lambda: arguments.number("rate", [0.1]), TypeError, "rate=[0.1]"),
    Wrong(lambda: arguments.number("rate", np.ones(2)), TypeError, "rate of shape (2,)"),
    Wrong(lambda: arguments.number("rate", 1j), TypeError, "rate=1j"),
    Wrong(lambda: arguments.number("rate", float("nan")), ValueError, "finite", "rate=nan"),
    Wrong(lambda: arguments.positive("rate", float("inf")), ValueError, "finite", "rate=inf"),
    Wrong(lambda: arguments.positive("rate", 0), ValueError, "above 0", "rate=0.0"),
    Wrong(lambda: arguments.number("rate", 1, 0, below=1), ValueError, "below 1", "rate=1.0"),
    Wrong(lambda: arguments.number("rate", 3, maximum=2), ValueError, "at most 2", "rate=3.0"),
    Wrong(lambda: arguments.boolean("rotate", "no"), TypeError, "True or False", "rotate='no'"),
    Wrong(lambda: arguments.boolean("rotate", 1), TypeError, "rotate=1", "rotate=True"),
    Wrong(lambda: arguments.choice("split", "papre", ("paper",)), ValueError, "mean 'paper'?"),
    Wrong(lambda: arguments.choice("split", None, ("a", "b")), ValueError, "'a', 'b'", "=None"),
    Wrong(lambda: arguments.choice("channels", True, (1, 3)), ValueError, "1, 3", "=True"),
    Wrong(lambda: arguments.choice("split", np.ones(2), ("a",)), ValueError, "of shape (2,)"),
    Wrong(lambda: arguments.path("data", None), TypeError, "`data`", "data=None"),
    Wrong(lambda: arguments.path("data", 3), TypeError, "data=3", "pathlib.Path"),
    Wrong(lambda: arguments.path("data", ""), ValueError, "data=''"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)


def test_long_values_are_cut():
    with pytest.raises(TypeError) as caught:
        arguments.integer("ways", list(range(10_000)))
    assert len(str(caught.value)) < 300


def test_a_symbolic_tensor_is_refused():
    @tf.function(autograph=False)
    def traced(value):
        arguments.number("rate", value)

    with pytest.raises(TypeError, match="Expected `rate` to be a finite number"):
        traced(tf.constant(1.0))


class Plain:
    def __init__(self, a, b=1, *, c=2): ...


class Open(Plain):
    def __init__(self, d, **settings): ...


class Silent(Open):
    """Has no constructor of its own."""


class Again(Silent):
    def __init__(self, a, e, *args, **settings): ...


class Closed(Again):
    def __init__(self, f): ...


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Plain, ["a", "b", "c"]),
        (Open, ["d", "a", "b", "c"]),
        (Silent, ["d", "a", "b", "c"]),
        (Again, ["a", "e", "d", "b", "c"]),
        (Closed, ["f"]),
    ],
)
def test_what_a_constructor_takes_through_the_classes_that_it_hands_on_to(cls, expected):
    assert arguments.of_constructor(cls) == expected


def test_an_option_of_another_name_is_told_with_the_most_similar_one():
    arguments.known_options("glyphs", {"seed": 1}, ["ways", "seed"])
    check(
        Wrong(
            lambda: arguments.known_options("glyphs", {"seed": 1, "sead": 2}, ["ways", "seed"]),
            TypeError,
            "options of `glyphs`, which are `ways`, `seed`",
            "sead=2",
            "Did you mean `seed`?",
        )
    )
    with pytest.raises(TypeError, match=r"xyz=0 .*\. Correct the name"):
        arguments.known_options("glyphs", {"xyz": 0}, ["ways", "seed"])
