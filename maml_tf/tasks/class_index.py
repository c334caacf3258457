"""Examples by class: arrays checked, and laid out so that a task finds its rows by two numbers.

Large arrays stay where they lie, in memory or memory-mapped: a batch reads its own rows only.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from maml_tf import arguments

# tf.data copies the tensors that it captures for every iterator; rows of larger arrays are taken
# by NumPy from where they lie: 1 to 2 ms for 320 images of 84x84x3, 0.6 from a tensor.
_LARGEST_TENSOR = 2**28  # bytes


@dataclasses.dataclass(frozen=True)
class Classes:
    """Examples by class, as `index_by_class` makes them.

    Example e of class c is `examples[order[offsets[c] + e]]`; where `turns` is 4, that row's four
    rotations are the rows `4 * row ... 4 * row + 3` of `examples`.

    Attributes:
        examples: `[rows * turns, ...]` in the dtype it came in: a tensor on the CPU, or, where
            it is large, the array itself, memory-mapped or not.
        order: int32 tensor `[rows]`.
        offsets: int32 array `[classes]`.
        sizes: int32 array `[classes]`, examples in each class.
        labels: array `[classes]`, what the user calls each class.
        turns: int, 4 where every example is held in its four rotations, else 1.
    """

    examples: tf.Tensor | np.ndarray
    order: tf.Tensor
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    turns: int


def held(examples):
    """An array as `Classes` holds it: a small one as a tensor on the CPU, a large one as it is."""
    # On a machine with a GPU the arrays must not go there: tf.data runs on the CPU.
    with tf.device("CPU:0"):
        return examples if examples.nbytes > _LARGEST_TENSOR else tf.convert_to_tensor(examples)


def index_by_class(images, labels=None, class_sizes=None, rotate=False):
    """Checks arrays of examples and lays them out for `sample_episodes`.

    Args:
        images: as in `episodes`.
        labels: as in `episodes`.
        class_sizes: as in `episodes`.
        rotate: bool, whether to hold every image in its four rotations.

    Returns:
        A `Classes`.

    Raises:
        TypeError: labels are neither integers nor text, sizes are not integers, or images are no
            numbers.
        ValueError: an array has the wrong rank or length, images to turn are not square, or images
            in memory are not finite.
    """
    rotate = arguments.boolean("rotate", rotate)
    images = _images(images)
    if labels is not None and class_sizes is not None:
        raise ValueError(
            "Expected at most one of `labels` and `class_sizes`. Received both. Give `labels` "
            "where rows are in any order, `class_sizes` where they are sorted by class."
        )
    if labels is None and class_sizes is None:
        images, order, sizes, names = _from_class_axis(images)
    elif labels is not None:
        order, sizes, names = _from_labels(images, labels)
    else:
        order, sizes, names = _from_sizes(images, class_sizes)
    if rotate:
        images = _rotations(images)
    with tf.device("CPU:0"):
        return Classes(
            examples=held(images),
            order=tf.convert_to_tensor(order.astype(np.int32)),
            offsets=(np.cumsum(sizes) - sizes).astype(np.int32),
            sizes=sizes.astype(np.int32),
            labels=names,
            turns=4 if rotate else 1,
        )


def select(classes, which):
    """Keeps some of the classes; the examples are not copied.

    Args:
        classes: a `Classes`.
        which: int array, the positions of the classes to keep, in the order to keep them.

    Returns:
        A `Classes`.
    """
    return dataclasses.replace(
        classes,
        offsets=classes.offsets[which],
        sizes=classes.sizes[which],
        labels=classes.labels[which],
    )


def turns_as_classes(classes):
    """Makes each of the four rotations of a class a class of its own.

    A task may then hold two rotations of one class, which it has to tell apart.

    Args:
        classes: a `Classes` of `index_by_class(..., rotate=True)`.

    Returns:
        A `Classes` of four times as many: class `4 * c + k` is class c turned by k quarters.
        The examples are not copied.

    Example:
        >>> turned = index_by_class(np.zeros([3, 2, 5, 5, 1]), rotate=True)
        >>> turns_as_classes(turned).labels[:3].tolist()
        ['0 turned by 0', '0 turned by 90', '0 turned by 180']
    """
    order = classes.order.numpy()
    rows = [order[o : o + size] for o, size in zip(classes.offsets, classes.sizes, strict=True)]
    sizes = np.repeat(classes.sizes, 4)
    names = [f"{one} turned by {90 * k}" for one in classes.labels for k in range(4)]
    with tf.device("CPU:0"):
        return dataclasses.replace(
            classes,
            order=tf.convert_to_tensor(np.concatenate([4 * r + k for r in rows for k in range(4)])),
            offsets=(np.cumsum(sizes) - sizes).astype(np.int32),
            sizes=sizes,
            labels=np.array(names),
            turns=1,
        )


def check_classes(classes, ways, per_class):
    """Checks that there are `ways` classes and that each has `per_class` examples.

    Args:
        classes: a `Classes`.
        ways: int, classes a task needs.
        per_class: int, examples a task needs of each of them, support and query together.

    Raises:
        ValueError: naming the first class that is too small and its number of examples.
    """
    if len(classes.sizes) < ways:
        raise ValueError(
            f"Expected at least ways={ways} classes to choose from. Received: "
            f"{len(classes.sizes)} classes. Give fewer `ways` or more classes."
        )
    small = np.flatnonzero(classes.sizes < per_class)
    if small.size:
        others = f", and {small.size - 1} more too small classes" if small.size > 1 else ""
        raise ValueError(
            f"Expected at least shots + queries = {per_class} examples in every class. Received: "
            f"class {classes.labels[small[0]]} with {classes.sizes[small[0]]} examples{others}. "
            "Give fewer `shots` or `queries`, or leave such classes out."
        )


def _images(images):
    """The array, in memory or not, of numbers or of text (which a model may take as well)."""
    try:
        images = np.asanyarray(images)  # a np.memmap stays one
    except ValueError:
        raise ValueError(
            "Expected `images` to be one array. Received: a sequence of parts of different shapes. "
            "Make all examples of one shape, and give `labels` where classes differ in size."
        ) from None
    if images.dtype.kind == "O" and not all(isinstance(x, (str, bytes)) for x in images.flat):
        raise TypeError(
            "Expected `images` to be numbers or text. Received: images of shape "
            f"{images.shape} and dtype {images.dtype}. Convert them to one array of numbers."
        )
    if images.dtype.kind not in "biufUSO" and images.dtype.name != "bfloat16":
        raise TypeError(
            f"Expected `images` to be numbers or text. Received: images of dtype {images.dtype}. "
            "Convert them to float32, or to uint8 in [0, 255]."
        )
    in_memory = not isinstance(images, np.memmap) and images.nbytes <= _LARGEST_TENSOR
    if images.dtype.kind == "f" and in_memory and not np.isfinite(images).all():
        bad = np.argwhere(~np.isfinite(images))
        raise ValueError(
            "Expected `images` to be finite. Received: images of shape "
            f"{images.shape} with {len(bad)} values that are NaN or infinite, the first at "
            f"{tuple(map(int, bad[0]))}. Remove or replace these examples."
        )
    return images


def _from_class_axis(images):
    if images.ndim < 3:
        raise ValueError(
            "Expected `images` of shape [classes, examples, ...], of rank 3 or more, where neither "
            f"`labels` nor `class_sizes` is given. Received: images of shape {images.shape}. For "
            "images of shape [rows, ...] give `labels` of shape [rows]."
        )
    classes, examples = images.shape[:2]
    flat = images.reshape(classes * examples, *images.shape[2:])
    return flat, np.arange(len(flat)), np.full([classes], examples), np.arange(classes)


def _from_labels(images, labels):
    labels = _as_text(np.asarray(labels))
    if labels.dtype.kind != "U":
        labels = _integers("labels", labels, "integers or text")
    if images.ndim < 2 or labels.shape != images.shape[:1]:
        raise ValueError(
            "Expected `images` of shape [rows, ...], of rank 2 or more, and `labels` of shape "
            f"[rows]. Received: images of shape {images.shape} and labels of shape "
            f"{labels.shape}. Give one label a row. If these are the numbers of images in each "
            "class, give them as `class_sizes`."
        )
    names, sizes = np.unique(labels, return_counts=True)
    return np.argsort(labels, kind="stable"), sizes, names


def _as_text(labels):
    """Makes `str` of text in whatever form it came: bytes, a column of pandas, a string tensor."""
    kind = labels.dtype.kind
    if kind in "ST" or (kind == "O" and all(isinstance(one, (str, bytes)) for one in labels.flat)):
        # Bytes that are no UTF-8 are shown as such: two classes must not become one.
        texts = [
            one.decode(errors="backslashreplace") if isinstance(one, bytes) else one
            for one in labels.flat
        ]
        return np.array(texts, str).reshape(labels.shape)
    return labels


def _from_sizes(images, class_sizes):
    sizes = _integers("class_sizes", class_sizes)
    if images.ndim < 2 or sizes.ndim != 1 or np.any(sizes < 0) or sizes.sum() != len(images):
        raise ValueError(
            "Expected `images` of shape [rows, ...], of rank 2 or more, and `class_sizes` of shape "
            "[classes] that add up to the rows, none of them negative. Received: images of shape "
            f"{images.shape} and class_sizes of shape {sizes.shape} that add up to {sizes.sum()}. "
            "Give the number of rows of each class, in the order of the rows."
        )
    return np.arange(len(images)), sizes, np.arange(len(sizes))


def _integers(name, values, expected="integers"):
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(
            f"Expected `{name}` to be {expected}. Received: {name} of shape {values.shape} and "
            f"dtype {values.dtype}. Convert them, or number the classes from 0."
        )
    return values


def _rotations(images):
    """Lays each image's four rotations next to one another: `[rows, H, H, C]` to `[4 rows, ...]`.

    Turning images of a batch took 1.3 ms for 320 Omniglot images at best, gathering turned copies
    0.3 ms.
    """
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ValueError(
            "Expected square images [height, width, channels] where `rotate=True`. Received: "
            f"images of shape {images.shape[1:]}. Give `rotate=False`, or square images with a "
            "channel axis."
        )
    turned = np.stack([np.rot90(images, k, axes=(1, 2)) for k in range(4)], axis=1)
    return turned.reshape(-1, *images.shape[1:])
