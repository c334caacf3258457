"""Models that somebody names by a path: opened, or refused in the same words by every script."""

import contextlib

import keras

import maml_tf
from train import checkpoints

LEARNER = "a saved learner (.keras)"
MODEL = "a saved learner or model (.keras)"


def open_learner(path, received=None):
    """A learner of a `.keras` file.

    Args:
        path: path of the file.
        received: str, how the path was given, such as `"--model best.keras"`; the path alone by
            default.

    Returns:
        A `maml_tf.Learner`.

    Raises:
        ValueError: there is no such file, it is of another kind, damaged or was cut short, or holds
            something else. The message is one line.
    """
    return _open(path, received, LEARNER, maml_tf.Learner, "which does not adapt")


def open_model(path, received=None):
    """A learner or a plain model of a `.keras` file, not compiled.

    Args:
        path: as in `open_learner`.
        received: as in `open_learner`.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: as in `open_learner`.
    """
    return _open(path, received, MODEL, keras.Model, "which is no model", compile=False)


def _open(path, received, expected, kind, but, **options):
    received = received or str(path)
    with reading(received, expected):
        opened = checkpoints.load_model(path, **options)
    if not isinstance(opened, kind):
        raise ValueError(
            f"Expected {expected}. Received: {received}, which holds a {type(opened).__name__}, "
            f"{but}. Give another file, such as best.keras of a run."
        )
    return opened


@contextlib.contextmanager
def reading(received, expected):
    """While open, whatever a reader of files raises becomes a ValueError of one line.

    Args:
        received: str, how the path was given.
        expected: str, what stands there if all is well.

    Raises:
        ValueError: naming the path and the reason.
    """
    try:
        yield
    except Exception as error:  # whatever broken bytes bring about in the readers below Keras
        reason = checkpoints.one_line(error)
    else:
        return
    raise ValueError(
        f"Expected {expected}. Received: {received}, which cannot be read: {reason}. Give another, "
        "or save it anew."
    )
