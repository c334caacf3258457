"""Files that are there whole or not at all, whatever ends the process that writes them.

A crash, a kill, a full disk or a power cut leaves the old file, never half of a new one: what is
written goes to another name beside it, down to the disk, and is then renamed.
"""

import contextlib
import errno
import itertools
import os
import pathlib
import shutil

try:
    import fcntl
except ImportError:  # not a POSIX system: no one is kept out there
    fcntl = None

# Hidden, and no number: neither a listing of pictures nor a server of models takes it for one.
_PREFIX = ".writing-"
_MAKING = ".making-"  # an empty folder, before the process that made it holds it
_BEFORE = ".before"  # in a folder that is being written, what it takes the place of
_numbers = itertools.count()
# Open descriptors of the folders that this process holds, by their real path.
_held = {}


@contextlib.contextmanager
def whole(path):
    """A path to write a file to, which becomes `path` at the end of the block, or nothing.

    Args:
        path: path of the file; its folder exists. A link stays one: its target is written.

    Yields:
        `pathlib.Path` in the same folder, with the same ending, where there is no file yet.

    Raises:
        OSError: as the block does, with the name of the file.

    Example:
        >>> with maml_tf.files.whole("results.json") as beside:
        ...     _ = beside.write_text("{}")
    """
    path = pathlib.Path(os.path.realpath(path))
    temporary = _beside(path)
    try:
        with _named(path):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path, replace=False):
    """A folder to write into, which becomes `path` at the end of the block, or nothing.

    Args:
        path: path of the folder; the one around it is made where it does not exist.
        replace: bool, whether a folder that is there already gives way.

    Yields:
        `pathlib.Path` of an empty folder of the same name, elsewhere on the same disk.

    Raises:
        FileExistsError: it came to be there in the meantime, and `replace` is False; or, where it
            is True, another one did while the old one gave way.
        OSError: as the block does.

    Example:
        >>> with maml_tf.files.whole_folder("exported/model") as beside:
        ...     (beside / "weights.bin").touch()
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path = pathlib.Path(os.path.realpath(path))
    place = _beside(path)
    try:
        with _named(path):
            _make_held(place)
            (place / path.name).mkdir()
            yield place / path.name
            for folder, _, names in os.walk(place / path.name):
                for name in names:
                    _sync(os.path.join(folder, name))
                _sync(folder)
            if replace and path.is_dir():
                # Two names cannot be changed at once: whoever finds this puts it back.
                (place / _BEFORE).mkdir()
                path.rename(place / _BEFORE / path.name)
            elif path.exists():
                raise _made_meanwhile(path)
            try:
                (place / path.name).rename(path)
            except OSError as error:  # it came to be there after that look
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                raise _made_meanwhile(path) from error
            _sync(path.parent)
        _remove_abandoned(path)
    finally:
        _release(place)
        _discard(place)


def hold(folder):
    """Keeps other processes from holding the same folder, until this one ends.

    The system lets go of it when the process dies, however it dies; no file is left behind. A
    process may hold a folder twice. Where the disk knows no locks, no one is kept out.

    Args:
        folder: path of a folder that exists.

    Returns:
        bool, False where another process holds it.

    Example:
        >>> maml_tf.files.hold(".")
        True
    """
    folder = os.path.realpath(folder)
    if fcntl is None or folder in _held:
        return True
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:  # a network disk without locks
        os.close(descriptor)
        return True
    _held[folder] = descriptor
    return True


def remove_unfinished(folder):
    """Removes what a killed process was writing into a folder that this process holds alone."""
    folder = pathlib.Path(folder)
    for path in [*folder.glob(f"{_PREFIX}*"), *folder.glob(f"{_MAKING}*")]:
        if path.is_dir():
            _discard(path)
        else:
            path.unlink(missing_ok=True)


def _beside(path):
    """A name that no other writer has: threads and processes may write the same file."""
    return path.with_name(f"{_PREFIX}{os.getpid()}-{next(_numbers)}-{path.name}")


def _made_meanwhile(path):
    return FileExistsError(f"Expected no {path} yet. Received: one made meanwhile.")


def _make_held(place):
    """Makes a folder that is held from the first moment at which it has its name."""
    making = place.with_name(place.name.replace(_PREFIX, _MAKING, 1))
    while True:
        making.mkdir(parents=True, exist_ok=True)
        try:
            if hold(making):
                making.rename(place)
                break
        except FileNotFoundError:  # another process took it for abandoned in this moment
            _release(making)
    if str(making) in _held:
        _held[str(place)] = _held.pop(str(making))


def _remove_abandoned(path):
    """What was being written when its writer was killed; a living one holds its folder."""
    places = [*path.parent.glob(f"{_PREFIX}*-{path.name}")]
    for place in (*places, *path.parent.glob(f"{_MAKING}*-{path.name}")):
        if str(place) in _held:
            continue
        # Where the disk knows no locks, nothing tells the living from the dead: all is left.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it has its name by now
            if place.is_dir() and hold(place) and str(place) in _held:
                _discard(place)
                _release(place)


def _discard(place):
    """Removes a folder of `whole_folder`; what it was to take the place of goes back there."""
    for before in (place / _BEFORE).glob("*"):
        if not (place.parent / before.name).exists():
            before.rename(place.parent / before.name)
    shutil.rmtree(place, ignore_errors=True)


def _release(folder):
    descriptor = _held.pop(os.path.realpath(folder), None)
    if descriptor is not None:
        os.close(descriptor)


@contextlib.contextmanager
def _named(path):
    """Gives the name of the file to errors that have none: a write knows only its descriptor."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _sync(path):
    """Down to the disk: else a power cut may leave the new name and none of the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some disks cannot sync a folder; that of a file's content must not fail.
        if not os.path.isdir(path):
            raise
    finally:
        os.close(descriptor)
