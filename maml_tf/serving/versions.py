"""Versions of an exported model: `base_path/<number>/`, the layout of TensorFlow Serving."""

import contextlib
import os
import pathlib
import shutil

from maml_tf.serving import checks


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
        TypeError: `base_path` is no path.
        ValueError: an empty `base_path`, or a version that is no integer of at least 0.
    """
    base_path = _checked(base_path)
    there = [int(p.name) for p in base_path.glob("*") if p.name.isascii() and p.name.isdigit()]
    if version is None:
        version = max(there, default=0) + 1
    version = checks.integer("version", version)
    if version in there:
        raise FileExistsError(
            f"Expected a version that is not there yet. Received: version={version} for "
            f"{str(base_path)!r}, which holds {sorted(there)}. Leave `version` out to write the "
            "next one."
        )
    return base_path / str(version)


def _checked(base_path):
    if not isinstance(base_path, (str, os.PathLike)):
        raise TypeError(
            "Expected `base_path`: the path of a directory, a str or `pathlib.Path`. Received: "
            f"base_path={base_path!r} of type {type(base_path).__name__}"
        )
    name = os.fspath(base_path)
    if not name or not isinstance(name, str) or "\0" in name:
        raise ValueError(
            "Expected `base_path`: the path of a directory, such as 'exported/omniglot'. Received: "
            f"base_path={base_path!r}"
        )
    path = pathlib.Path(base_path)
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise NotADirectoryError(
                f"Expected `base_path`: a directory, or one that can be made. Received: "
                f"base_path={str(path)!r}, but {str(part)!r} is a file. Give another path."
            )
    return path


@contextlib.contextmanager
def written_whole(path):
    """A folder to write into, which becomes `path` at the end of the block, or nothing.

    Written beside and renamed: a server that polls the directory sees a whole model or none, and
    takes only names that are numbers for versions.

    Args:
        path: what `path_of` gave; the directory around it is made where it does not exist.

    Yields:
        `pathlib.Path` of a folder that does not exist yet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"writing-{path.name}-{os.getpid()}")
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
