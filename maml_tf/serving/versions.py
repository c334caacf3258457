"""Versions of an exported model: `base_path/<number>/`, the layout of TensorFlow Serving."""

import pathlib

from maml_tf import arguments

LARGEST = 2**63 - 1  # TensorFlow Serving's versions are signed integers of 64 bits


def path_of(base_path, version=None):
    """The folder of a version that is not there yet.

    Args:
        base_path: directory of all versions; it need not exist.
        version: `int` of at least 0; by default one more than the largest one there, from 1.

    Returns:
        `pathlib.Path`.

    Raises:
        FileExistsError: that version is there already.
        NotADirectoryError: `base_path`, or a part of it, is a file.
        TypeError: `base_path` is no path, or `version` no integer.
        ValueError: a `base_path` that is empty, or a negative version.
    """
    base_path = _checked(base_path)
    there = [int(p.name) for p in base_path.glob("*") if p.name.isascii() and p.name.isdigit()]
    if version is None:
        version = max(there, default=0) + 1
    version = arguments.integer(
        "version", version, 0, LARGEST, advice="Leave `version` out to write the next one."
    )
    if version in there:
        raise FileExistsError(
            f"Expected a version that is not there yet. Received: version={version} for "
            f"{str(base_path)!r}, which holds {sorted(there)}. Leave `version` out to write the "
            "next one."
        )
    return base_path / str(version)


def _checked(base_path):
    what = "the directory of all versions, such as 'exported/omniglot'"
    name = arguments.path("base_path", base_path, what)
    if not isinstance(name, str) or "\0" in name:
        raise ValueError(
            f"Expected `base_path` to be {what}. Received: base_path={base_path!r}. Give its name "
            "as text."
        )
    path = pathlib.Path(base_path)
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise NotADirectoryError(
                f"Expected `base_path`: a directory, or one that can be made. Received: "
                f"base_path={str(path)!r}, but {str(part)!r} is a file. Give another path."
            )
    return path
