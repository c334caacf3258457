"""Arguments of exports and clients: what was expected, what came, what to do."""

import math
import operator

_LARGEST = 2**63 - 1  # what a version is in TensorFlow Serving: a signed integer of 64 bits


def integer(name, value, least=0, most=_LARGEST):
    """`value` as an `int`, where it is an integer from `least` to `most` and no `bool`.

    Raises:
        ValueError: it is not.
    """
    number = None
    # A NumPy array of one number is an index too, and no number.
    if not isinstance(value, bool) and getattr(value, "shape", ()) == ():
        try:
            number = operator.index(value)
        except TypeError:
            number = None
    if number is None or not least <= number <= most or type(value).__name__ == "bool":
        above = "" if most == _LARGEST else f" and at most {most}"
        raise ValueError(
            f"Expected `{name}`: an integer of at least {least}{above}. Received: {name}={value!r}"
        )
    return number


def seconds(name, value):
    """`value` as a `float`, where it is a finite number above 0 and no `bool`.

    Raises:
        ValueError: it is not.
    """
    is_number = isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0
    try:
        good = is_number and not isinstance(value, bool) and math.isfinite(value) and value > 0
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise ValueError(
            f"Expected `{name}`: a finite number of seconds above 0. Received: {name}={value!r}"
        )
    return float(value)


def flag(name, value, also=()):
    """`value`, where it is True, False or one of `also`.

    Raises:
        ValueError: it is not.
    """
    if not (isinstance(value, bool) or any(value is other for other in also)):
        choices = ", ".join(map(repr, (True, False, *also)))
        raise ValueError(f"Expected `{name}`: one of {choices}. Received: {name}={value!r}")
    return value
