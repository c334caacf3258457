"""Arrays for a server and from it: cast without changing what they say, and checked.

A server answers what it is asked; whether a label of 1.7 was meant as 1 nobody can tell, so that
such a request is never made.
"""

import re
from typing import NamedTuple

import numpy as np

from maml_tf.serving.errors import ServingError

# TensorFlow's names of the types that both protocols carry, and NumPy's.
_TYPES = {f"DT_{name.upper()}": name for name in ("bool", "int8", "int16", "int32", "int64")}
_TYPES |= {f"DT_{name.upper()}": name for name in ("uint8", "uint16", "uint32", "uint64")}
_TYPES |= {"DT_HALF": "float16", "DT_FLOAT": "float32", "DT_DOUBLE": "float64"}
_TYPES |= {"DT_STRING": "object"}


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


def tensor(name, dtype, sizes, more=()):
    """A `Tensor` as a server describes it.

    Args:
        name: str, of the input or output.
        dtype: TensorFlow's name of the type, such as "DT_FLOAT".
        sizes: list of the sizes of its axes, int or decimal digits, -1 for a free one; None for any
            shape.
        more: names of other types, which NumPy must know: `bfloat16` is one of gRPC only.

    Raises:
        ServingError: no such type, or sizes that are none.
    """
    known = _TYPES | {f"DT_{name.upper()}": name for name in more}
    if not isinstance(dtype, str) or dtype not in known:
        raise malformed(f"metadata with {name} of the type {_short(dtype)}")
    if sizes is not None:
        sizes = tuple(_size(name, size) for size in sizes)
    return Tensor(np.dtype(known[dtype]), sizes)


def _size(name, size):
    # JSON has numbers of 64 bits as strings; `int` would take 1.5, False and 1_0 as well.
    whole = isinstance(size, int) and not isinstance(size, bool)
    whole |= isinstance(size, str) and bool(re.fullmatch("-1|[0-9]{1,19}", size))
    if not whole or not -1 <= int(size) < 2**63:
        raise malformed(f"metadata with {name} of the size {_short(size)}")
    return None if int(size) == -1 else int(size)


def cast(name, value, tensor):
    """A value as the array that an input takes.

    Floating numbers are rounded to the input's precision; anything else must stay what it is.
    No export answers numbers that are not finite, and JSON has none.

    Args:
        name: str, of the input.
        value: what `np.asarray` takes.
        tensor: `Tensor`.

    Returns:
        Array of the dtype of the input.

    Raises:
        ValueError: it is ragged, of another shape, not finite, or not a number that the input can
            hold.
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
    bad = ~np.isfinite(array)
    if dtype.kind not in "biu" and bad.any():
        where = [int(i) for i in np.argwhere(bad)[0]]
        raise ValueError(
            f"Expected `{name}` as finite numbers. Received: {name} with {array[bad].flat[0]} at "
            f"{where}. Leave out or replace what is not finite."
        )
    with np.errstate(invalid="ignore", over="ignore"):
        result = array.astype(dtype)
        if dtype.kind in "biu":
            changed = result != array
            # 2**63 as float64 and the largest int64 compare equal.
            changed |= bad | ((array > 0) != (result > 0))
        else:
            changed = ~np.isfinite(result)
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
    if (array.dtype.kind not in kinds or array.dtype.names) and array.size:
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
    if tensor.dtype.kind in "fV" and _overflowed(array, result):
        raise malformed(f"{name} has numbers that {tensor.dtype} cannot hold: {_short(values)}")
    return result


def _overflowed(array, result):
    # Types that NumPy does not know itself may have no `isfinite`, but they have doubles.
    return (np.isfinite(array.astype(np.float64)) & ~np.isfinite(result)).any()


def only(outputs, names):
    """The outputs of `names` among those of a dict, a dict as well.

    Raises:
        ServingError: some are missing.
    """
    if not set(names) <= set(outputs):
        raise malformed(f"outputs {sorted(outputs)}, not {sorted(names)}")
    return {name: outputs[name] for name in names}


def finite(outputs):
    """The outputs, a dict of arrays by name, once they are finite.

    Raises:
        ServingError: numbers that are not, as exports of today never answer for a single task.
    """
    for name, array in outputs.items():
        bad = array[~np.isfinite(array)] if array.dtype.kind in "fV" else ()
        if len(bad):
            raise ServingError(
                "INTERNAL",
                f"Expected finite numbers as an answer. Received: {name} of shape {array.shape} "
                f"with {len(bad)} that are not, such as {bad[0]}. Export the model anew: an export "
                "of today says what is wrong with such a request.",
            )
    return outputs


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
