"""A choice among ImageNet's images: so many of each class, those that lists name or the first."""

import csv
import logging
import pathlib
import re

from maml_tf import arguments
from maml_tf.tasks.data import imagenet_layouts
from maml_tf.tasks.data.imagenet_layouts import some

LISTS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}

_logger = logging.getLogger(__name__)


def find(source, parts, count, csv_dir=None, progress=iter):
    """Finds the images of the classes, and chooses among them where there are more than `count`.

    Args:
        source: path, of one of these layouts, which is recognised by looking:
            a folder of class folders, `n01532829/*.jpg`, or of `images`, `train`, `val` (or
            `validation`) and `test` with such folders; a folder with all images, or with `images`
            of all images, `n0153282900000005.jpg` or `n01532829_5.JPEG`; the tar
            `ILSVRC2012_img_train.tar` or a folder with it; a folder of its inner tars,
            `n01532829.tar`. Other classes than those of `parts` are passed over.
        parts: dict of lists of WordNet ids for "train", "validation" and "test".
        count: int, images a class.
        csv_dir: path or None, folder of `train.csv`, `val.csv` and `test.csv` with the columns
            filename and label, which choose the images; None looks for them beside the images. A
            name such as n0153282900000005.jpg also stands for the 5th image of its class by the
            number in ImageNet's file names, where all of a class are there under those names.
            Without lists, the first `count` by that number are taken.
        progress: function that passes an iterable on, such as `tqdm.tqdm`.

    Returns:
        A dict of lists of `count` `Picture`s by class, in the order of `parts` and, in a class, of
        the numbers in the file names.

    Raises:
        FileNotFoundError: there is no `source`, or a list is missing.
        ValueError: `source` has none of the layouts, a class has too few images, a tar is damaged,
            or the lists are not of these classes or name images that are not there.
    """
    if source is None:
        raise TypeError("Expected `source` to be a path. Received: source=None. Give one.")
    check_paths(source, csv_dir)
    source = pathlib.Path(source).expanduser()
    if not source.exists():
        raise FileNotFoundError(
            f"Expected images of ImageNet in `source`. Received: {str(source)!r}, which does not "
            "exist. Give a folder or a tar with images of ImageNet."
        )
    lists = _read_lists(source, parts, count, csv_dir)
    wnids = [wnid for part in parts.values() for wnid in part]
    labels = {name: wnid for wnid, names in lists.items() for name in names}
    found = imagenet_layouts.list_pictures(source, wnids, labels, progress)
    _check_counts(source, found, wnids, count)
    if not lists and any(len(pictures) > count for pictures in found.values()):
        _logger.warning(
            "%s has more than %d images in a class: the first %d by number are taken, which are "
            "not the published ones. `csv_dir`, the folder of %s, chooses those.",
            *(source, count, count, ", ".join(LISTS.values())),
        )
    return {wnid: _choose(wnid, found[wnid], lists.get(wnid), count) for wnid in wnids}


def check_paths(source, csv_dir=None):
    """Checks that these are paths or None."""
    if source is not None:
        arguments.path("source", source, "the path of a folder or tar with images of ImageNet")
    if csv_dir is not None:
        arguments.path("csv_dir", csv_dir, "the folder of train.csv, val.csv and test.csv")


def _number(picture):
    """Orders n01532829_99.JPEG before n01532829_1000.JPEG."""
    stem = re.sub(r"^n\d{8}_?", "", picture.name.rpartition(".")[0])
    digits = re.search(r"\d+$", stem)
    return int(digits[0]) if digits else float("inf"), picture.name


def _choose(wnid, pictures, listed, count):
    """Takes `count` of a class: those listed, by name or by rank, or the first."""
    pictures = sorted(pictures, key=_number)
    if listed is None:
        return pictures[:count]
    by_name = {_stem(picture.name): picture for picture in pictures}
    missing = [name for name in listed if _stem(name) not in by_name]
    if not missing:
        return sorted((by_name[_stem(name)] for name in listed), key=_number)
    if not all(re.fullmatch(rf"{wnid}_\d+\.\w+", picture.name) for picture in pictures):
        raise ValueError(
            f"Expected the images that the lists name. Of class {wnid}, {len(missing)} are not "
            f"there, such as {missing[0]}; there is, for instance, {pictures[0].name}."
        )
    if len(pictures) == count:  # someone has chosen before, and kept ImageNet's names
        return pictures
    ranks = sorted(_rank(name) for name in listed)
    if not 1 <= ranks[0] <= ranks[-1] <= len(pictures):
        raise ValueError(
            f"Expected all images of class {wnid}, of which the lists choose those of rank "
            f"{ranks[0]} to {ranks[-1]}. Found {len(pictures)}. Give the whole class, or the "
            f"{count} images alone."
        )
    return [pictures[rank - 1] for rank in ranks]


def _stem(name):
    return name.rpartition(".")[0]


def _rank(name):
    """The rank, from 1, of an image among those of its class: n0153282900000005.jpg is the 5th."""
    rank = re.fullmatch(r"n\d{8}(\d{8})\.\w+", name)
    if rank is None:
        raise ValueError(
            "Expected file names in the lists that are among the images, or such as "
            f"n0153282900000005.jpg. Received: {name}."
        )
    return int(rank[1])


def _read_lists(source, parts, count, csv_dir):
    """Reads the three lists: file names by class, {} where there are none."""
    folder = pathlib.Path(csv_dir).expanduser() if csv_dir is not None else source
    folder = folder.parent if folder.is_file() else folder
    missing = [name for name in LISTS.values() if not (folder / name).is_file()]
    if missing and (csv_dir is not None or len(missing) < len(LISTS)):
        raise FileNotFoundError(
            f"Expected {', '.join(LISTS.values())} in {folder}, or none of them. Missing: "
            f"{', '.join(missing)}. Give the folder with all three as `csv_dir`."
        )
    lists = {}
    for part, wnids in {} if missing else parts.items():
        lists |= _read_list(folder / LISTS[part], part, wnids, count)
    return lists


def _read_list(path, part, wnids, count):
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"filename", "label"} <= set(rows.fieldnames or ()):
            raise ValueError(
                f"Expected the columns filename and label in {path}. Received: {rows.fieldnames}."
            )
        names = {}
        for row in rows:
            if row["filename"] and row["label"]:
                names.setdefault(row["label"].strip(), []).append(row["filename"].strip())
    wrong = [wnid for wnid in wnids if len(set(names.get(wnid, ()))) != count]
    wrong += sorted(str(wnid) for wnid in set(names) - set(wnids))
    if wrong:
        raise ValueError(
            f"Expected {count} images of each of the {len(wnids)} {part} classes of Ravi & "
            f"Larochelle, and of no other class, in {path}. Received: "
            + some(f"{wnid} with {len(names.get(wnid, ()))}" for wnid in wrong)
            + "."
        )
    return names


def _check_counts(source, found, wnids, count):
    short = [wnid for wnid in wnids if len(found.get(wnid, ())) < count]
    if short:
        raise ValueError(
            f"Expected {count} images of each of the {len(wnids)} classes in {source}. "
            f"Too few of {len(short)} classes: "
            + some(
                f"{wnid} with {len(found[wnid])}" if wnid in found else f"{wnid} missing"
                for wnid in short
            )
            + "."
        )
