"""Where a derivative that TensorFlow lacks, or gets wrong, is refused, and in which words.

This is so in a thread while it takes a gradient (`refusals`) or calls a model (`calling`): what has
no derivative to rely on looks at `HERE`, or ties its outputs to its inputs, and raises `refusal`.
"""

import contextlib
import re
import threading

import tensorflow as tf


class _Here(threading.local):
    """What holds in one thread."""

    depth = 0  # above 0 while a gradient is taken
    calling = 0  # above 0 while a model is called


HERE = _Here()


@contextlib.contextmanager
def refusals():
    """While open, this thread's gradients raise where TensorFlow has none, or a wrong one.

    Raises:
        NotImplementedError: naming the operation.
    """
    HERE.depth += 1
    try:
        with _in_words():
            yield
    finally:
        HERE.depth -= 1


@contextlib.contextmanager
def calling():
    """While open, the same holds for functions that this thread calls within a graph.

    TensorFlow makes the gradient of such a function when it is called, and keeps it.

    Raises:
        NotImplementedError: naming the operation.
    """
    HERE.calling += 1
    try:
        with _in_words():
            yield
    finally:
        HERE.calling -= 1


@contextlib.contextmanager
def _in_words():
    try:
        yield
    except LookupError as error:
        if "Gradient explicitly disabled" in str(error):
            reason = " ".join(str(error).partition("Reason: ")[2].split()).lstrip("b").strip("'\"")
            raise refusal("PreventGradient", f": {reason}") from error
        missing = re.search(r"no entry for: (\w+)|op type: (\w+)", str(error))
        if missing is None:
            raise
        name = missing.group(1) or missing.group(2)
        raise refusal(name, ", for which TensorFlow has no derivative") from error


def tied(outputs, inputs, error):
    """The outputs of a function; a derivative that comes by them on its way to an input raises.

    Args:
        outputs: tensor, or structure of them.
        inputs: structure of what they were made of.
        error: function without arguments, to what is raised.

    Returns:
        As `outputs`.
    """
    flat = tf.nest.flatten(outputs, expand_composites=True)
    places = [i for i, t in enumerate(flat) if _is_differentiable(t)]
    given = [t for t in tf.nest.flatten(inputs, expand_composites=True) if _is_differentiable(t)]
    if not places or not given:
        return outputs

    @tf.custom_gradient
    def identity(*tensors):
        def gradient(*upstream):
            raise error()

        return [tf.identity(t) for t in tensors[: len(places)]], gradient

    for i, t in zip(places, identity(*[flat[i] for i in places], *given), strict=True):
        flat[i] = t
    return tf.nest.pack_sequence_as(outputs, flat, expand_composites=True)


def _is_differentiable(tensor):
    return tf.is_tensor(tensor) and (tensor.dtype.is_floating or tensor.dtype.is_complex)


def refusal(name, why):
    """The error that names an operation and says what to do.

    Args:
        name: of the operation.
        why: what is wrong with it, the end of a sentence.
    """
    second = "Grad" in name or "Back" in name or "second" in why
    order = (
        "Use `first_order=True`, or another layer or loss"
        if second
        else "Use another layer or loss, keep it before the first weights, or stop the gradient "
        "of its inputs by `tf.stop_gradient` where they are meant as constants"
    )
    return NotImplementedError(
        "Expected a model and a loss whose operations have the derivatives that meta-learning "
        f"needs. Received one that is differentiated through `{name}`{why}. {order}."
    )
