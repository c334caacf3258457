"""Few-shot classification of one's own pictures: one folder per class.

    pictures/oak/1.jpg     pictures/train/oak/1.jpg
    pictures/oak/2.jpg     pictures/validation/elm/1.jpg
    pictures/elm/1.jpg     pictures/test/ash/1.jpg

Either all classes (left), which are then split at random, or the splits as given (right).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from maml_tf import arguments
from maml_tf.tasks import sampling, splits
from maml_tf.tasks.data import image_decoding, image_files, packed
from maml_tf.tasks.episodes import Episodes

# Bytes of decoded pictures that are held in memory; more are packed into one file on disk.
_IN_MEMORY = 2**28
_SPLIT = (0.64, 0.16, 0.2)
# Part of the names of packed sets: to be raised when the same file would be decoded otherwise.
_DECODING = 1


def image_folder(
    path: str | os.PathLike,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    *,
    image_size: int | tuple[int, int] = 84,
    channels: Literal[1, 3] = 3,
    split: Sequence[float] | None = None,
    split_seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    cache: str | os.PathLike | None = None,
    follow_links: bool = False,
    **episodes: Any,
) -> splits.TaskSets:
    """Builds the training, validation and test tasks of a folder with one folder per class.

    Every data set yields task batches `(inputs, query_y)` with static shapes:
    `inputs["support_x"]` float32 `[meta_batch, ways * shots, height, width, channels]` in [0, 1],
    `inputs["support_y"]` int32 `[meta_batch, ways * shots]`, `inputs["query_x"]` float32
    `[meta_batch, ways * queries, height, width, channels]`, `query_y` int32
    `[meta_batch, ways * queries]`. How a picture is decoded:
    `maml_tf.tasks.data.image_decoding.read`; where pictures are kept: `load_image_folder`.

    Args:
        path: path of a folder with one folder per class, each named after its class. Where it
            holds `train/`, `test/` and (or not) `validation/`, `valid/` or `val/` with class
            folders in them, these are the splits.
        ways: int, N, classes a task.
        shots: int, K, support pictures a class.
        queries: int or None, query pictures a class in training; None stands for `shots`.
        image_size: int, or `(height, width)`, in pixels.
        channels: int, 3 for colour or 1 for grey.
        split: three numbers that add up to 1, shares of the classes in training, validation and
            test; or a dict with lists of class names for "train", "validation" and "test". With
            a share of 0 there is no validation. None stands for (0.64, 0.16, 0.2), or for the
            splits that `path` holds, beside which no other may be given.
        split_seed: int; the same seed splits the same classes alike.
        on_error: "raise" at a file that cannot be decoded, or "skip" and log its name.
        cache: path or None, folder of packed sets; see `load_image_folder`.
        follow_links: bool, whether links may lead out of the folder.
        **episodes: `test_ways`, `test_shots`, `test_queries`, `meta_batch`, `seed`, `start`,
            `validation_tasks`, `test_tasks`, as in `maml_tf.tasks.Episodes`.

    Returns:
        `(train, validation, test)`, each a `tf.data.Dataset`, with no class in common. `train`
        never ends; the others are finite and the same at every pass. `validation` is None where
        there are no validation classes.

    Raises:
        FileNotFoundError: there is no such folder.
        ImportError: Pillow is not installed.
        TypeError: a number or `seed` is not an integer, or there is no option of such a name.
        ValueError: a setting is out of range, the folder is not laid out as above, a split has
            fewer classes than `ways`, a class fewer pictures than `shots + queries`, or a file
            cannot be decoded.

    Example:
        >>> train, validation, test = maml_tf.tasks.image_folder("pictures", queries=5)
        >>> inputs, query_y = next(iter(train))
        >>> inputs["support_x"].shape, query_y.shape
        (TensorShape([4, 5, 84, 84, 3]), TensorShape([4, 25]))
    """
    few = Episodes.asked_of(image_folder, episodes, ways=ways, shots=shots, queries=queries)
    image_decoding.check_settings(image_size, channels, on_error)
    if split is not None:
        check = splits.check_parts if isinstance(split, dict) else splits.check_fractions
        check("split", split)
    splits.check_split_seed("split_seed", split_seed)
    _check_cache(cache)
    listing = image_files.list_folder(path, follow_links)
    if any(listing.groups) and split is not None:
        raise ValueError(
            f"Expected no `split` beside the splits {sorted(set(listing.groups))} that "
            f"{str(path)!r} holds. Received: split={split!r}. Leave it out, or give the folder of "
            "all classes."
        )
    split = _SPLIT if split is None else split
    parts = _parts(listing, split, split_seed)
    _check_parts(listing, parts, split, few)
    images = _load(path, listing, image_size, channels, on_error, cache)
    classes = sampling.index_by_class(images.images, images.labels)
    classes = dataclasses.replace(classes, labels=images.names)
    return splits.three_way(classes, parts, few)


def load_image_folder(
    path: str | os.PathLike,
    image_size: int | tuple[int, int] = 84,
    channels: Literal[1, 3] = 3,
    on_error: Literal["raise", "skip"] = "raise",
    cache: str | os.PathLike | None = None,
    follow_links: bool = False,
) -> packed.Images:
    """Loads a folder with one folder per class, for `sampling.episodes` or anything else.

    Up to 256 MiB of decoded pictures are held in memory. More, or all where `cache` is given, are
    decoded once into a packed set on disk, a few at a time, and read from there as they are
    needed. A packed set belongs to the names, sizes and times of the files and to the settings:
    after any change a new one is made, and the old one may be deleted.

    Args:
        path: path of the folder, as in `image_folder`.
        image_size: int, or `(height, width)`, in pixels.
        channels: int, 3 for colour or 1 for grey.
        on_error: "raise" at a file that cannot be decoded, or "skip" and log its name (once: a
            packed set is made without it).
        cache: path or None, folder of packed sets. None: `$KERAS_HOME/datasets`
            (`~/.keras/datasets`) where there are too many pictures for memory.
        follow_links: bool, whether links may lead out of the folder.

    Returns:
        A `packed.Images`: uint8 `images` `[rows, height, width, channels]`, int32 `labels`
        `[rows]`, `names` `[classes]` in natural order, and `groups` `[classes]`: "train",
        "validation" or "test" where the folder holds splits, else "".

    Raises:
        FileNotFoundError: there is no such folder.
        ImportError: Pillow is not installed.
        TypeError: a size is not an integer.
        ValueError: a setting is out of range, the folder is not laid out as `image_folder` says,
            or a file cannot be decoded.

    Example:
        >>> images, labels, names, groups = maml_tf.tasks.load_image_folder("pictures", 28, 1)
        >>> train = maml_tf.tasks.sampling.episodes(images, labels, ways=5, shots=1, queries=5)
    """
    image_decoding.check_settings(image_size, channels, on_error)
    _check_cache(cache)
    listing = image_files.list_folder(path, follow_links)
    return _load(path, listing, image_size, channels, on_error, cache)


def _check_cache(cache):
    if cache is not None:
        arguments.path("cache", cache, "a folder for packed sets")


def _parts(listing, split, split_seed):
    """Positions of the training, validation and test classes."""
    if any(listing.groups):
        groups = np.array(listing.groups)
        return [np.flatnonzero(groups == name) for name in splits.NAMES]
    if isinstance(split, dict):
        return splits.by_name(listing.names, split)
    return splits.shuffled(len(listing.names), split, split_seed)


def _check_parts(listing, parts, split, few):
    """Checks, before anything is decoded, that there are enough classes and pictures."""
    by_share = not any(listing.groups) and not isinstance(split, dict)
    sizes = np.bincount(listing.labels, minlength=len(listing.names))
    for i, (name, part) in enumerate(zip(splits.NAMES, parts, strict=True)):
        # No validation is a choice; a share that was rounded to nothing is not.
        if name == "validation" and not len(part) and not (by_share and split[i] > 0):
            continue
        asked = few.of(name)
        of_part = "test_" if i else ""
        if len(part) < asked["ways"]:
            if by_share:
                advice = f"other shares than split={tuple(split)}"
            else:
                advice = "the split more classes"
            raise ValueError(
                f"Expected at least ways={asked['ways']} classes in the {name} split. Received: "
                f"{len(part)} of {len(listing.names)} classes. Give {advice}, fewer "
                f"`{of_part}ways`, or more classes."
            )
        needed = asked["shots"] + asked["queries"]
        small = [p for p in part if sizes[p] < needed]
        if small:
            others = f" and {len(small) - 1} more classes with too few" if small[1:] else ""
            raise ValueError(
                f"Expected at least shots + queries = {asked['shots']} + {asked['queries']} "
                f"pictures in every class of the {name} split. Received: {sizes[small[0]]} in "
                f"{listing.names[small[0]]!r}{others}. Give fewer `{of_part}shots` or "
                f"`{of_part}queries`, more pictures, or remove such classes."
            )


def _load(path, listing, image_size, channels, on_error, cache):
    shape = image_decoding.check_settings(image_size, channels, on_error)

    def decoded():
        return image_decoding.read(listing.paths, shape[:2], channels, on_error)

    if cache is None and len(listing.paths) * np.prod(shape) <= _IN_MEMORY:
        positions, images = zip(*decoded(), strict=True)
        labels = listing.labels[np.concatenate(positions)]
        _check_none_is_empty(listing, labels)
        names, groups = np.array(listing.names, dtype=str), np.array(listing.groups, dtype=str)
        return packed.Images(np.concatenate(images), labels, names, groups)

    def make(packer):
        kept = []
        for positions, images in decoded():
            kept.append(listing.labels[positions])
            packer.add(images, kept[-1])
        _check_none_is_empty(listing, np.concatenate(kept))
        packer.finish(listing.names, listing.groups)

    return packed.open_or_make(_packed_name(path, listing, shape, on_error), cache, make)


def _check_none_is_empty(listing, labels):
    """A class without pictures would shift the positions of those behind it."""
    present = np.bincount(labels, minlength=len(listing.names)) > 0
    if not present.all():
        empty = [listing.names[i] for i in np.flatnonzero(~present)]
        raise ValueError(
            "Expected at least one picture that can be decoded in every class. Received: none in "
            f"{empty[:5]}. Mend the files named in the warnings, or remove such classes."
        )


def _packed_name(path, listing, shape, on_error):
    """The folder's name and a digest of all that the packed pictures depend on."""
    root = pathlib.Path(path)
    stats = [(str(p.relative_to(root)), p.stat()) for p in listing.paths]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    content = [_DECODING, shape, on_error, str(root.resolve()), listing.groups, files]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    readable = re.sub(r"\W+", "_", root.resolve().name)[:40] or "pictures"
    return f"{readable}-{shape[0]}x{shape[1]}x{shape[2]}-{digest[:16]}"
