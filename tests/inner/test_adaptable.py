"""The weights that were chosen stay chosen, whatever is frozen or thawed later."""

import keras
import pytest

from maml_tf.inner import adaptable


def three_layers():
    names = ("first", "middle", "head")
    return keras.Sequential(
        [keras.Input((2,)), *(keras.layers.Dense(2, name=name) for name in names)]
    )


def names(identities, model):
    return {v.path.split("/", 1)[-1] for v in model.variables if id(v) in identities}


def test_weights_are_remembered_one_by_one():
    model = three_layers()
    assert adaptable.chosen_weights(None, model.trainable_variables) is None
    chosen = adaptable.chosen_weights("head|middle/bias", model.trainable_variables)
    assert names(chosen, model) == {"head/kernel", "head/bias", "middle/bias"}


def test_what_was_chosen_is_found_among_the_weights_that_still_train():
    model = three_layers()
    assert adaptable.still_chosen(None, model.trainable_variables) is None
    chosen = adaptable.chosen_weights(
        [False, True, False, False, True, False], model.trainable_variables
    )
    assert adaptable.still_chosen(chosen, model.trainable_variables) == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    model.layers[0].trainable = False
    assert adaptable.still_chosen(chosen, model.trainable_variables) == [False, False, True, False]
    model.layers[0].trainable, model.layers[1].trainable = True, False
    assert adaptable.still_chosen(chosen, model.trainable_variables) == [False, True, True, False]


def test_nothing_is_left_to_adapt_where_all_that_was_chosen_is_frozen():
    model = three_layers()
    chosen = adaptable.chosen_weights("head", model.trainable_variables)
    model.layers[-1].trainable = False
    with pytest.raises(ValueError, match="at least one of the 4 trainable weights"):
        adaptable.still_chosen(chosen, model.trainable_variables)


@pytest.mark.parametrize(
    "choice", [keras.layers.Dense, keras.layers.Dense(1)], ids=["class", "layer"]
)
def test_what_can_be_called_but_chooses_no_variables_is_refused(choice):
    with pytest.raises(TypeError, match=r"at least one of the 6 .*Received: adaptable.*Dense"):
        adaptable.adaptable_weights(choice, three_layers())
