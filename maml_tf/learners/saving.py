"""Where a learner may be saved to: only to what can be loaded again."""

import os

_LEGACY = (".h5", ".hdf5")


def check_save_path(filepath):
    """Refuses Keras' old format of whole models, which writes a learner and cannot read it.

    Files of weights alone, `.weights.h5`, are another format, that of `save_weights` and
    `load_weights`.

    Args:
        filepath: what `save` was given.

    Raises:
        ValueError: it ends in `.h5` or `.hdf5`; a message with the path to give instead.
    """
    path = os.fspath(filepath)
    stem, ending = os.path.splitext(path)
    if ending.lower() not in _LEGACY:
        return
    stem = stem.removesuffix(".weights")
    raise ValueError(
        f"Expected a path that ends in `.keras`. Received: filepath={path!r}, Keras' old format, "
        f"from which a learner cannot be loaded again. Save to {stem + '.keras'!r}, or the weights "
        f"alone by `save_weights({stem + '.weights.h5'!r})`."
    )
