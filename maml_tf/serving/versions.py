"""Versions of an exported model: `base_path/<number>/`, the layout of TensorFlow Serving."""

import pathlib


def path_of(base_path, version=None):
    """The folder of a version that is not there yet.

    Args:
        base_path: directory of all versions; it need not exist.
        version: `int` of at least 0; by default one more than the largest one there, from 1.

    Returns:
        `pathlib.Path`.

    Raises:
        FileExistsError: that version is there already.
        ValueError: not an integer of at least 0.
    """
    base_path = pathlib.Path(base_path)
    there = [int(p.name) for p in base_path.glob("*") if p.name.isdigit()]
    if version is None:
        version = max(there, default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise ValueError(f"`version` must be an integer of at least 0. Received: {version!r}")
    if version in there:
        raise FileExistsError(
            f"Expected a version that is not there yet. Received: version={version} for "
            f"{str(base_path)!r}, which holds {sorted(there)}. Leave `version` out to write the "
            "next one."
        )
    return base_path / str(version)
