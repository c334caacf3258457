"""Features on disk: a folder with one array, named after all that its numbers depend on."""

import hashlib
import json
import logging
import pathlib
import tempfile

import keras
import numpy as np

from maml_tf import files
from maml_tf.tasks.data import packed

_FILE = "features.npy"
# Part of the names: to be raised when the same backbone and examples would give other features.
_VERSION = 1
_ROWS = 256  # of the examples, that are hashed at a time: they may be larger than memory
_logger = logging.getLogger(__name__)


def name_of(backbone, examples):
    """The name of a folder of features: what it is of, and a digest of all that they depend on.

    That are the layers of the backbone, the values of its variables, what layers keep beside
    variables (a vocabulary), and the examples themselves. Names of layers do not count, because
    Keras numbers them in the order in which they are made.

    Args:
        backbone: a built `keras.Model`.
        examples: array or tensor `[rows, ...]`.

    Returns:
        `str`.
    """
    digest = hashlib.sha256(json.dumps([_VERSION, _layers(backbone)]).encode())
    for variable in backbone.variables:
        if not variable.path.endswith("seed_generator_state"):
            _add(digest, np.asarray(variable.value))
    for layer in backbone._flatten_layers():
        if hasattr(layer, "save_assets"):
            _add_assets(digest, layer)
    for start in range(0, len(examples), _ROWS):
        _add(digest, np.asarray(examples[start : start + _ROWS]))
    return f"features-{digest.hexdigest()[:24]}"


def _add(digest, array):
    digest.update(f"{array.shape}".encode())
    if array.dtype.kind in "OU":  # text: of objects the bytes would be addresses
        for text in array.flat:
            encoded = text if isinstance(text, bytes) else str(text).encode()
            digest.update(f"{len(encoded)} ".encode() + encoded)
    else:
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)


def _add_assets(digest, layer):
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file():
                digest.update(path.name.encode() + path.read_bytes())


def _layers(backbone):
    """The configuration of a backbone as text, with its layers' names numbered as they come."""
    try:
        config = keras.saving.serialize_keras_object(backbone)
    except Exception:  # whatever `get_config` of the user's raises: the classes tell the layers
        return [f"{type(layer).__module__}.{type(layer).__name__}" for layer in _flat(backbone)]
    names = {}

    def numbered(value):
        if isinstance(value, dict):
            named = value.get("name") or (value.get("config") or {}).get("name")
            if isinstance(value.get("config"), dict) and isinstance(named, str):
                names.setdefault(named, f"layer {len(names)}")
            # What was compiled and on which shapes it was built are no part of what it computes.
            left_out = ("compile_config", "build_config")
            return {k: numbered(v) for k, v in value.items() if k not in left_out}
        if isinstance(value, (list, tuple)):
            return [numbered(one) for one in value]
        return names.get(value, value) if isinstance(value, str) else value

    return json.dumps(numbered(config), default=str)


def _flat(backbone):
    return backbone._flatten_layers()


def open_or_make(name, folder, shape, dtype, batches):
    """Opens features that are there, or computes them and writes them down.

    Args:
        name: str, of `name_of`.
        folder: path of a folder that holds folders of features; `$KERAS_HOME/datasets` where it is
            None or cannot be written.
        shape: tuple, `(rows, ...)`.
        dtype: NumPy dtype or its name.
        batches: function without arguments: an iterator of arrays `[n, ...]`, all rows in turn.

    Returns:
        Array of that shape, memory-mapped.

    Raises:
        OSError: they cannot be written.
        FloatingPointError: features that are not finite.
    """
    places = [] if folder is None else [pathlib.Path(folder)]
    places.append(packed.keras_datasets())
    damaged = False
    for place in places:
        try:
            return _load(place / name, shape, dtype)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, EOFError) as error:
            damaged = True  # it stays until a whole one takes its place
            _logger.warning("Passing over damaged features, %s: %s", place / name, error)
    place = next((place for place in places if packed.writable(place)), places[-1])
    _logger.info("Computing features of %d examples, once: %s", shape[0], place / name)
    try:
        with files.whole_folder(place / name, replace=damaged) as beside:
            _write(beside / _FILE, shape, dtype, batches())
    except FileExistsError:
        _logger.debug("Another process was faster: %s", place / name)
    return _load(place / name, shape, dtype)


def _load(path, shape, dtype):
    array = packed.read_array(path / _FILE, mmap_mode="r")
    if array.shape != tuple(shape) or array.dtype != np.dtype(dtype):
        raise ValueError(
            f"Expected features of shape {tuple(shape)} and dtype {dtype}. Received: shape "
            f"{array.shape} and dtype {array.dtype}."
        )
    return array


def _write(path, shape, dtype, batches):
    """Writes rows as they come: a full disk is an error, which a memory map would die of."""
    dtype = np.dtype(dtype)
    with path.open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for rows in batches:
            if dtype.kind == "f" and not np.isfinite(rows).all():
                raise FloatingPointError(
                    "Expected a backbone whose features are finite. Received: NaN or infinity "
                    f"among features of shape {rows.shape}. Scale the examples as the backbone was "
                    "trained with them, or look at its weights."
                )
            file.write(np.ascontiguousarray(rows, dtype).tobytes())
