"""Arrays for a server and from it: cast without changing what they say, and checked.

A server answers what it is asked; whether a label of 1.7 was meant as 1 nobody can tell, so that
such a request is never made.
"""

from typing import NamedTuple

import numpy as np

from maml_tf.serving.errors import ServingError


class Tensor(NamedTuple):
    """An input or output of a signature.

    Attributes:
        dtype: `np.dtype`; that of `object` stands for strings.
        shape: tuple of int or None for a free axis; None for any shape.
    """

    dtype: np.dtype
    shape: tuple | None


class Signature(NamedTuple):
    """Inputs and outputs of a signature: dicts of `Tensor` by name."""

    inputs: dict
    outputs: dict


def cast(name, value, tensor):
    """A value as the array that an input takes.

    Floating numbers are rounded to the input's precision; anything else must stay what it is.

    Args:
        name: str, of the input.
        value: what `np.asarray` takes.
        tensor: `Tensor`.

    Returns:
        Array of the dtype of the input.

    Raises:
        ValueError: it is ragged, of another shape, or not a number that the input can hold.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected `{name}` as an array. Received: {name}={_short(value)}, of which no array "
            f"can be made ({error}). Give each example the same shape."
        ) from error
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"Expected `{name}` without masked numbers. Received: {name}={_short(value)}. Leave "
            "those examples out."
        )
    if not _fits(array.shape, tensor.shape):
        raise ValueError(
            f"Expected `{name}` of shape {_shape(tensor.shape)}. Received: {name} of shape "
            f"{array.shape}. Reshape it; an axis of examples comes first."
        )
    if tensor.dtype == object:
        return _strings(name, array)
    if array.size == 0 and array.dtype.kind in "biuf":
        return array.astype(tensor.dtype)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected `{name}` as numbers of {tensor.dtype.name}. Received: "
            f"{name}={_short(value)} of {array.dtype}. Convert it as you mean it."
        )
    return _numbers(name, array, tensor.dtype)


def _numbers(name, array, dtype):
    with np.errstate(invalid="ignore", over="ignore"):
        result = array.astype(dtype)
        if dtype.kind in "biu":
            changed = result != array
            # 2**63 as float64 and the largest int64 compare equal.
            changed |= ~np.isfinite(array) | ((array > 0) != (result > 0))
        else:
            changed = np.isfinite(array) & ~np.isfinite(result)
    if changed.any():
        raise ValueError(
            f"Expected `{name}` as numbers that {dtype.name} can hold. Received: {name} of "
            f"{array.dtype} with {array[changed].flat[0]!r}. Convert it as you mean it."
        )
    return result


def _strings(name, array):
    good = array.dtype.kind in "US" or (
        array.dtype == object and all(isinstance(item, (str, bytes)) for item in array.flat)
    )
    if not good:
        raise ValueError(
            f"Expected `{name}` as str or bytes. Received: {name}={_short(array)} of "
            f"{array.dtype}. Convert it as you mean it."
        )
    return array.astype(object)


def answered(name, values, tensor):
    """What a server said of an output as an array of its dtype and shape.

    Raises:
        ServingError: it is none.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise malformed(f"{name} is no array: {error}") from error
    kinds = {"b": "b", "i": "iu", "u": "iu", "O": "OUS"}.get(tensor.dtype.kind, "iufV")
    if array.dtype.kind not in kinds and array.size:
        raise malformed(f"{name} is of {array.dtype}, not of {tensor.dtype}: {_short(values)}")
    if array.size == 0 and tensor.shape and array.ndim < len(tensor.shape):
        # JSON does not keep the shape of an empty array.
        array = np.zeros([0, *[n or 0 for n in tensor.shape[1:]]])
    if not _fits(array.shape, tensor.shape):
        raise malformed(f"{name} is of shape {array.shape}, not of {_shape(tensor.shape)}")
    with np.errstate(over="ignore"):
        result = array.astype(tensor.dtype)
    if tensor.dtype.kind in "iu" and (result != array).any():
        raise malformed(f"{name} has numbers that {tensor.dtype} cannot hold: {_short(values)}")
    return result


def malformed(what):
    """The error for an answer that is none."""
    return ServingError(
        "INTERNAL",
        f"Expected an answer as TensorFlow Serving gives it. Received: {what}. Is it a TensorFlow "
        "Serving that answers at this address?",
    )


def _fits(shape, wanted):
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(
        w is None or n == w for n, w in zip(shape, wanted, strict=True)
    )


def _shape(shape):
    return f"[{', '.join('any' if n is None else str(n) for n in shape)}]"


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
