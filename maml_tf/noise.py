"""Random numbers that a layer draws without a seed of its own: `keras.random.normal(x.shape)`.

Keras takes their seeds from one generator for all layers, whose state belongs to no model. A model
that runs as a pure function never advances it: the noise would be the same for every task, every
inner step and every training step. While `batch` is open, every draw has a seed of its own,

    seed = fold(state of Keras' generator, task, inner step, number of the draw),

and where there was a draw, Keras' generator is advanced once for the whole task batch. As in
Keras, the noise follows `keras.utils.set_random_seed`, and a training that is resumed from a file
draws other noise than one that went on: give the layer a `keras.random.SeedGenerator` of its own
where that matters.
"""

import contextlib

import keras
import tensorflow as tf

from maml_tf.exact import keras_internals


@contextlib.contextmanager
def batch(advance=True):
    """The draws of one task batch; Keras' generator is advanced at its end, if there were any.

    Where it is open already (a learner calls another function of its own), nothing is added.

    Args:
        advance: `bool`, whether to do so: what assigns nothing leaves it to its caller.
    """
    before = keras_internals.global_seed_generator()
    if isinstance(before, _Stream):
        yield
        return
    source = _Source(before)
    keras_internals.set_global_seed_generator(_Stream(source, []))
    try:
        yield
        if advance and source.drawn:
            source.generator.next(ordered=False)
    finally:
        keras_internals.set_global_seed_generator(source.generator)


@contextlib.contextmanager
def stream(number):
    """While open, draws belong to a task or an inner step of that number.

    Args:
        number: `int` or int32 scalar.
    """
    outer = keras_internals.global_seed_generator()
    if not isinstance(outer, _Stream):
        yield
        return
    keras_internals.set_global_seed_generator(_Stream(outer.source, [*outer.numbers, number]))
    try:
        yield
    finally:
        keras_internals.set_global_seed_generator(outer)


class _Source:
    """Keras' generator, made at the first draw as Keras would."""

    def __init__(self, generator):
        self.generator, self.drawn = generator, False

    def state(self):
        if self.generator is None:
            with tf.init_scope():
                self.generator = keras.random.SeedGenerator()
        self.drawn = True
        return tf.convert_to_tensor(self.generator.state)


class _Stream:
    """What stands in the place of Keras' generator for the draws of one task or inner step."""

    def __init__(self, source, numbers):
        self.source, self.numbers, self._draws = source, numbers, 0

    def next(self, ordered=True):
        """A seed, int64 `[2]`."""
        del ordered
        seed = self.source.state()
        for number in [*self.numbers, self._draws]:
            seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(number, seed.dtype))
        self._draws += 1
        return seed
