"""Recurrent layers without their loop, while an export is traced.

LiteRT has loops, but not the growing lists by which TensorFlow remembers a loop for its derivative.
A layer of a known number of time steps can do without: the steps stand one after the other.
"""

import contextlib
import threading

import keras

_LOCK = threading.Lock()


@contextlib.contextmanager
def unrolled(layers):
    """While open, the recurrent ones among layers are unrolled, which changes no number.

    Args:
        layers: list of `keras.Layer`.
    """
    with _LOCK:  # of two exports of one model neither must take the other's setting for the model's
        found = [layer for layer in layers if isinstance(layer, keras.layers.RNN)]
        before = [layer.unroll for layer in found]
        try:
            for layer in found:
                layer.unroll = True
            yield
        finally:
            for layer, unroll in zip(found, before, strict=True):
                layer.unroll = unroll
