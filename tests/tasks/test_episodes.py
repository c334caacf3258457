"""The description of an episode: its defaults, who may override them, and who takes it."""

import dataclasses
import inspect

import numpy as np
import pytest
import tensorflow as tf

from maml_tf import tasks
from maml_tf.tasks import Episodes, streams
from tests.tasks import made_up
from tests.wrong_calls import Wrong, check

SETTINGS = [field.name for field in dataclasses.fields(Episodes)]


@pytest.mark.parametrize(
    ("given", "train", "held_out"),
    [
        ({}, (5, 1, 15), (5, 1, 15)),
        ({"ways": 3, "shots": 4, "queries": None}, (3, 4, 4), (3, 4, 4)),
        ({"test_ways": 2}, (5, 1, 15), (2, 1, 15)),
        ({"queries": None, "test_shots": 7}, (5, 1, 1), (5, 7, 1)),
        ({"test_shots": 7, "test_queries": 9}, (5, 1, 15), (5, 7, 9)),
    ],
)
def test_what_is_not_given_follows_what_is(given, train, held_out):
    few = Episodes(**given, seed=3, start=8, validation_tasks=6, test_tasks=7)
    same = {"meta_batch": 4, "seed": 3}
    sizes = [dict(zip(("ways", "shots", "queries"), one, strict=True)) for one in (train, held_out)]
    assert few.of("train") == {**sizes[0], **same, "start": 8}
    more = {"tasks": 6, "stream": streams.VALIDATION}
    assert few.of("validation") == {**sizes[1], **same, **more}
    assert few.of("test") == {**sizes[1], **same, "tasks": 7, "stream": streams.TEST}


def test_it_is_a_value():
    few = Episodes(ways=np.int64(5), seed=tf.constant(0), queries=np.uint8(15))
    assert few == Episodes()
    assert hash(few) == hash(Episodes())
    assert {type(value) for value in dataclasses.asdict(few).values()} == {int, type(None)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        few.ways = 3


def test_options_hold_over_the_defaults_of_a_family():
    given = {"ways": 3, "meta_batch": 32}
    assert Episodes.asked_of(tasks.glyphs, {}, **given) == Episodes(**given)
    asked = Episodes.asked_of(tasks.glyphs, {"meta_batch": 2, "test_ways": 6}, **given)
    assert asked == Episodes(ways=3, meta_batch=2, test_ways=6)


def test_a_misspelled_option_may_have_meant_one_of_the_family_alone():
    wrong = Wrong(
        lambda: Episodes.asked_of(tasks.glyphs, {"rotation": True}),
        TypeError,
        "options of `glyphs`, which are `ways`, `shots`, `queries`, `rotate`, `test_ways`",
        "rotation=True",
        "Did you mean `rotate`?",
    )
    check(wrong)


@pytest.mark.parametrize("family", ["glyphs", "omniglot", "mini_imagenet", "cifar_fs"])
def test_ways_shots_and_queries_may_stand_in_their_order(family, monkeypatch):
    getattr(made_up, family)(monkeypatch)
    train, _, test = getattr(tasks, family)(3, 2, 4, meta_batch=1, test_shots=5)
    assert train.element_spec[0]["support_y"].shape == (1, 6)
    assert train.element_spec[1].shape == (1, 12)
    assert test.element_spec[0]["support_y"].shape == (1, 15)
    # As in the paper, mini-ImageNet is tested on as many queries as shots.
    assert test.element_spec[1].shape == (1, 15 if family == "mini_imagenet" else 12)


def test_no_family_repeats_the_settings():
    """What `Episodes` describes stands in no other signature, but for what it takes by position."""
    for name in ("glyphs", "omniglot", "mini_imagenet", "cifar_fs", "from_tfds", "image_folder"):
        own = set(inspect.signature(getattr(tasks, name)).parameters)
        assert own & set(SETTINGS) <= {"ways", "shots", "queries", "test_queries"}
