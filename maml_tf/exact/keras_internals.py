"""Names of Keras that are not public, in one place.

Each entry says what it is needed for. Canary: `tests/exact/test_keras_internals.py`, which fails
where a new Keras names or treats one of them otherwise.
"""

import contextlib
import threading

import keras
from keras.src import backend
from keras.src.backend.common import global_state, masking, stateless_scope
from keras.src.layers.layer import CallContext
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

_CALL = "current_call_ctx"
_PRECISION = "autocast_scope"


class _Reading(threading.local):
    """Lists that collect the variables which this thread reads."""

    def __init__(self):
        self.lists = ()


_READING = _Reading()


class Scope(keras.StatelessScope):
    """Keras' scope, which tells `reading` what is read in it."""

    def get_current_value(self, variable):
        """The tensor in the place of a variable."""
        for found in _READING.lists:
            found.append(variable)
        return super().get_current_value(variable)


@contextlib.contextmanager
def reading():
    """While open, collects the variables for which this thread reads a tensor of a `Scope`.

    Yields:
        list of `keras.Variable`, which grows.
    """
    found, around = [], _READING.lists
    _READING.lists = (*around, found)
    try:
        yield found
    finally:
        _READING.lists = around


def mask_of(tensor):
    """The mask that layers left on predictions, bool `[batch, steps]`, or None.

    Keras' losses and metrics look for it there; what copies or reshapes a tensor loses it.
    """
    return masking.get_keras_mask(tensor)


def with_mask(tensor, mask):
    """The tensor, carrying a mask for Keras' losses and metrics; none where `mask` is None."""
    if mask is not None:
        masking.set_keras_mask(tensor, mask)
    return tensor


def global_seed_generator():
    """What layers draw from that have no seed of their own; None before the first draw."""
    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)


def set_global_seed_generator(generator):
    """Puts another generator in its place, for this thread; it needs a method `next(ordered)`."""
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)


@contextlib.contextmanager
def calling(training):
    """While open, layers that are called without `training` run in this mode, in this thread.

    So it is within `call` of a Keras layer; a function that Keras does not call has no such mode,
    and dropout and batch normalisation would be those of prediction.
    """
    around = global_state.get_global_attribute(_CALL)
    context = CallContext(entry_layer=None)
    context.set_value("training", training)
    global_state.set_global_attribute(_CALL, context)
    try:
        yield
    finally:
        global_state.set_global_attribute(_CALL, around)


@contextlib.contextmanager
def own_precision():
    """While open, variables are read as they are; layers that are called read theirs in half again.

    The outermost layer of a mixed policy has Keras read all variables in half precision while it is
    called, its own `autocast=False` notwithstanding: fast weights would be rounded in every step.
    """
    # No `AutocastScope(None)`, in which Keras takes every variable for one of its `floatx`.
    around = global_state.get_global_attribute(_PRECISION)
    global_state.set_global_attribute(_PRECISION, None)
    try:
        yield
    finally:
        global_state.set_global_attribute(_PRECISION, around)


def open_scope():
    """The innermost `keras.StatelessScope` that is open in this thread, or None.

    Keras' scopes do not nest: what an outer one holds is not seen within an inner one.
    """
    return stateless_scope.get_stateless_scope()


def compute_output_spec(function, *specs):
    """What a function of tensors returns for `keras.KerasTensor`s, without computing anything.

    Variables that it makes get their values when it has ended; those that it assigns keep theirs.
    """
    return backend.compute_output_spec(function, *specs)
