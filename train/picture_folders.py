"""Pictures in folders, as `train.adapt` is given them: read, labelled by their folders, refused."""

import pathlib
from typing import NamedTuple

import numpy as np

from maml_tf.tasks.data import image_decoding, image_files


class Pictures(NamedTuple):
    """Decoded pictures: uint8 images, labels (None where not known) and the files they are from."""

    images: np.ndarray
    labels: np.ndarray | None
    paths: list


def read_support(settings, model):
    """The names of the classes and the labelled pictures.

    Raises:
        ValueError: more classes than the model has outputs, fewer than 2, or files not laid out
            as they should be.
    """
    listing = image_files.list_folder(settings.support, settings.follow_links)
    if any(listing.groups):
        raise ValueError(
            f"Expected one folder per class in --support {settings.support}. Received: splits, "
            f"{sorted(set(listing.groups))}. Give the classes of one of them."
        )
    count = len(listing.names)
    if model.outputs is None:
        # As many as the support pictures name.
        model = model._replace(outputs=max(2, count))
    if not 2 <= count <= model.outputs:
        raise ValueError(
            f"Expected 2 to {model.outputs} class folders in --support {settings.support}, because "
            f"the model tells {model.outputs} classes apart. Received: {count}, "
            f"{listing.names[:8]}. "
            + ("Add another." if count < 2 else "Leave some out, or train a model of more ways.")
        )
    if count < model.outputs:
        print(
            f"The model tells {model.outputs} classes apart and there are {count}: its other "
            f"{model.outputs - count} outputs are left out."
        )
    support = _read(settings, model, listing.paths, listing.labels)
    empty = sorted(set(range(count)) - set(support.labels))
    if empty:
        raise ValueError(
            f"Expected a picture of every class in --support {settings.support}. Received: none "
            f"that can be decoded of {listing.names[empty[0]]!r}."
        )
    return listing.names, support


def read_queries(settings, model, names):
    """The pictures to name, with labels where they lie in class folders.

    Raises:
        ValueError: a folder that is not one of `names`, or no pictures.
    """
    folder = pathlib.Path(settings.query)
    loose = image_files.list_images(folder)
    if loose and not any(p.is_dir() and not p.name.startswith(".") for p in folder.iterdir()):
        if not settings.follow_links:
            image_files.check_links(folder, loose)
        return _read(settings, model, loose, None)
    listing = image_files.list_folder(folder, settings.follow_links)
    unknown = [name for name in listing.names if name not in names]
    if unknown:
        raise ValueError(
            f"Expected class folders of the same names in --query {folder} as in --support "
            f"{settings.support}, {names}. Received also: {unknown[:8]}. Rename or remove them, "
            "or put the pictures directly into the query folder."
        )
    position = np.array([names.index(name) for name in listing.names])
    return _read(settings, model, listing.paths, position[listing.labels])


def _read(settings, model, paths, labels):
    height, width, channels = model.shape
    parts = list(image_decoding.read(paths, (height, width), channels, settings.on_error))
    kept = np.concatenate([positions for positions, _ in parts])
    if not len(kept):
        raise ValueError(f"Expected a picture that can be decoded. Received: none of {len(paths)}.")
    images = np.concatenate([images for _, images in parts])
    return Pictures(images, None if labels is None else labels[kept], [paths[i] for i in kept])
