"""Checks of arguments, in one dialect: what was expected, what was received, what to do.

Every function gives the value back as Python's own `int`, `float` or `bool`, whatever kind of
scalar it came as (NumPy's and eager tensors are fine), or raises before any work begins: a
`TypeError` for another kind of thing, a `ValueError` for a value out of range. A `bool` is no
number here: `ways=True` is a mistake, not one way.
"""

import difflib
import inspect
import operator
import os
import reprlib

import numpy as np

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 8


def received(name, value):
    """How a message shows an argument: its name, its value, cut where it is long, and its type."""
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "dtype"):
        shape = tuple(getattr(value, "shape", ()))
        if shape:
            return f"{name} of shape {shape} and dtype {getattr(value.dtype, 'name', value.dtype)}"
    return f"{name}={_SHORT.repr(value)} (of type {type(value).__name__})"


def integer(name, value, minimum=None, maximum=None, *, advice=None):
    """Checks that an argument is a whole number within bounds.

    Args:
        name: str, what the caller calls it.
        value: `int`, NumPy integer, or an eager integer tensor of rank 0; no `bool`.
        minimum: smallest value allowed, or None.
        maximum: largest value allowed, or None.
        advice: str, a sentence that says what to do; by default one with a number that would do.

    Returns:
        `int`.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is out of bounds.

    Example:
        >>> maml_tf.arguments.integer("ways", np.int64(5), minimum=1)
        5
    """
    expected = f"Expected `{name}` to be {_described('an integer', minimum, maximum)}."
    advice = advice or f"Give a whole number, such as {name}={_within(minimum, maximum)}."
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except (TypeError, AttributeError):  # the latter of a tensor that is no integer
        raise TypeError(f"{expected} Received: {received(name, value)}. {advice}") from None
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        raise ValueError(f"{expected} Received: {name}={number}. {advice}")
    return number


def number(name, value, minimum=None, maximum=None, *, above=None, below=None, advice=None):
    """Checks that an argument is a finite number within bounds.

    Args:
        name: str, what the caller calls it.
        value: `int`, `float`, NumPy number, or an eager tensor of rank 0; no `bool` and no `str`.
        minimum: smallest value allowed, or None.
        maximum: largest value allowed, or None.
        above: a bound that is not allowed itself, or None.
        below: a bound that is not allowed itself, or None.
        advice: str, a sentence that says what to do; by default one with the bounds.

    Returns:
        `float`.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not finite or out of bounds.

    Example:
        >>> maml_tf.arguments.number("momentum", np.float32(0.5), minimum=0, below=1)
        0.5
    """
    bounds = _described("a finite number", minimum, maximum, above, below)
    expected = f"Expected `{name}` to be {bounds}."
    advice = advice or f"Give `{name}` as such a number, not as text or truth value."
    if not is_number(value):
        raise TypeError(f"{expected} Received: {received(name, value)}. {advice}")
    real = float(value)
    fits = (
        np.isfinite(real)
        and (minimum is None or real >= minimum)
        and (maximum is None or real <= maximum)
        and (above is None or real > above)
        and (below is None or real < below)
    )
    if not fits:
        raise ValueError(f"{expected} Received: {name}={real}. {advice}")
    return real


def positive(name, value, *, advice=None):
    """Checks that an argument is a positive finite number; see `number`."""
    return number(name, value, above=0, advice=advice)


def boolean(name, value):
    """Checks that an argument is True or False: "no" is neither, though Python takes it for True.

    Returns:
        `bool`.

    Raises:
        TypeError: it is anything else, 0 and 1 too.
    """
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(
        f"Expected `{name}` to be True or False. Received: {received(name, value)}. Give "
        f"{name}=True or {name}=False."
    )


def choice(name, value, allowed):
    """Checks that an argument is one of the names that are allowed, and returns it.

    Raises:
        ValueError: it is none of them; the message tells the most similar one.
    """
    allowed = tuple(allowed)
    # By equality and type: an array is not one of some names, and True is not 1.
    if any(type(value) is type(one) and value == one for one in allowed):
        return value
    texts = [one for one in allowed if isinstance(one, str)]
    close = difflib.get_close_matches(value, texts, 1) if isinstance(value, str) else []
    advice = f"Did you mean {close[0]!r}? Give one of these." if close else "Give one of these."
    raise ValueError(
        f"Expected `{name}` to be one of {', '.join(map(repr, allowed))}. Received: "
        f"{received(name, value)}. {advice}"
    )


def known_options(function, options, known):
    """Checks that options, as a function took them by `**options`, are among those that there are.

    Args:
        function: str, the name that the caller knows it by.
        options: dict of what was given, by name.
        known: names of all that the function takes, its parameters among them.

    Raises:
        TypeError: there is one of another name; the message tells the most similar one.

    Example:
        >>> maml_tf.arguments.known_options("glyphs", {"seed": 1}, ["ways", "seed"])
    """
    known = list(known)
    unknown = [name for name in options if name not in known]
    if not unknown:
        return
    close = difflib.get_close_matches(unknown[0], known, 1)
    advice = f"Did you mean `{close[0]}`? " if close else ""
    raise TypeError(
        f"Expected options of `{function}`, which are {', '.join(f'`{name}`' for name in known)}. "
        f"Received: {', '.join(received(name, options[name]) for name in unknown)}. {advice}"
        "Correct the name, or leave it out."
    )


def path(name, value, what="a path"):
    """Checks that an argument is a path, `str` or `os.PathLike`, that is not empty.

    Returns:
        `str`.

    Raises:
        TypeError: it is anything else.
        ValueError: it is empty.
    """
    advice = f"Give {what} as text or `pathlib.Path`."
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"Expected `{name}` to be {what}. Received: {received(name, value)}. {advice}"
        )
    text = os.fspath(value)
    if not text:
        raise ValueError(f"Expected `{name}` to be {what}. Received: {name}=''. {advice}")
    return text


def is_number(value):
    """Whether something is a real number of rank 0: no text, no truth value, no nested list."""
    if isinstance(value, (bool, str, bytes, list, tuple, dict, set)) or value is None:
        return False
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, NotImplementedError):
        return False  # a symbolic tensor, which has no value yet
    return array.ndim == 0 and array.dtype.kind in "iuf"


def _described(kind, minimum, maximum, above=None, below=None):
    bounds = [
        f"of at least {minimum}" if minimum is not None else "",
        f"above {above}" if above is not None else "",
        f"at most {maximum}" if maximum is not None else "",
        f"below {below}" if below is not None else "",
    ]
    bounds = " and ".join(bound for bound in bounds if bound)
    return f"{kind} {bounds}".strip()


def _within(minimum, maximum):
    """A number that would do: 1 where that is allowed."""
    low = 1 if minimum is None else max(1, minimum)
    return low if maximum is None else min(low, maximum)


def of_constructor(cls):
    """Names of what the constructor of a class takes, those behind `**settings` among them.

    Args:
        cls: a class.

    Returns:
        List of `str`, each once, those of the class itself first.

    Example:
        >>> class A:
        ...     def __init__(self, a): ...
        >>> class B(A):
        ...     def __init__(self, b, **settings): ...
        >>> of_constructor(B)
        ['b', 'a']
    """
    names = []
    for one in cls.__mro__:
        if "__init__" not in vars(one):
            continue
        parameters = list(inspect.signature(one.__init__).parameters.values())[1:]
        open_end = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        names += [name for name in named if name not in names]
        if not open_end:
            break
    return names
