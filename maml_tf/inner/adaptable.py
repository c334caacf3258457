"""Which weights of a model the inner loop changes, and what it holds them to."""

import re

import keras
import numpy as np

from maml_tf import arguments


def adaptable_weights(choice, model):
    """Which trainable weights of a model the inner loop changes, as `adapt` takes it.

    Args:
        choice: None for all of them; a function of a variable; a regular expression searched in
            `variable.path`; or a list of `bool` in the order of `model.trainable_variables`.
        model: a built `keras.Model`.

    Returns:
        List of `bool` in the order of `model.trainable_variables`, or None for all.

    Raises:
        TypeError: a choice of another kind, or a list of anything but `bool`.
        ValueError: a choice of no weight, a list of another length, or text that is empty (it
            would be found in every path) or no regular expression.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
        >>> adaptable_weights("head/bias", model)
        [False, True]
    """
    return _choose(choice, model.trainable_variables)


def _choose(choice, variables):
    expected = (
        f"Expected `adaptable` to choose at least one of the {len(variables)} trainable weights "
        f"{[v.path for v in variables]}."
    )
    given = arguments.received("adaptable", choice)
    advice = (
        "Give a function of a variable, a regular expression on its path, a list of "
        f"{len(variables)} booleans, or None for all."
    )
    if choice is None:
        return None
    if isinstance(choice, str):
        chosen = [found is not None for found in _search(choice, variables, expected, advice)]
    elif callable(choice) and not isinstance(choice, (type, keras.layers.Layer)):
        chosen = [bool(choice(v)) for v in variables]
    elif isinstance(choice, (list, tuple)) or np.ndim(choice) == 1:
        if not all(isinstance(one, (bool, np.bool_)) for one in choice):
            raise TypeError(f"{expected} Received: {given}, not of truth values. {advice}")
        chosen = [bool(one) for one in choice]
    else:
        raise TypeError(f"{expected} Received: {given}. {advice}")
    if len(chosen) != len(variables) or not any(chosen):
        raise ValueError(f"{expected} Received: {given}, which gives {chosen}. {advice}")
    return chosen


def _search(pattern, variables, expected, advice):
    if not pattern:
        raise ValueError(f"{expected} Received: adaptable='', which is in every path. {advice}")
    try:
        return [re.search(pattern, v.path) for v in variables]
    except re.error as error:
        raise ValueError(
            f"{expected} Received: adaptable={pattern!r}, which is no regular expression: {error}. "
            f"{advice}"
        ) from None


def chosen_weights(choice, variables):
    """Identities of the weights that adapt, which stay theirs where others are frozen later.

    Args:
        choice: as in `adaptable_weights`.
        variables: list of `keras.Variable`, those that an inner loop may change.

    Returns:
        Set of `int`, or None for all.

    Raises:
        TypeError, ValueError: as in `adaptable_weights`.
    """
    chosen = _choose(choice, variables)
    if chosen is None:
        return None
    return {id(v) for v, adapts in zip(variables, chosen, strict=True) if adapts}


def still_chosen(identities, variables):
    """What `chosen_weights` gave, for the weights that are trainable now.

    Args:
        identities: set of `int`, or None.
        variables: list of `keras.Variable`, those that an inner loop may change now.

    Returns:
        As `adaptable_weights`.

    Raises:
        ValueError: all of the weights that adapt are frozen.
    """
    if identities is None:
        return None
    return _choose([id(v) in identities for v in variables], variables)


def weight_constraints(model):
    """What the layers of a model hold their weights to, as `adapt` takes it.

    Args:
        model: a built `keras.Model`.

    Returns:
        List in the order of `model.trainable_variables`, or None where all weights are free.
    """
    return constraints_of(model.trainable_variables)


def constraints_of(variables):
    """`weight_constraints` of these variables, a list of `keras.Variable`."""
    constraints = [variable.constraint for variable in variables]
    return constraints if any(c is not None for c in constraints) else None
