"""N-way K-shot episodes from arrays of examples with classes: a whole task batch in a few ops.

`episodes` is what to call with arrays of your own. It is `index_by_class`, which checks the arrays
and lays them out, and `sample_episodes`, a pure function of a seed, under `tf.data`.
Large arrays stay where they lie, in memory or memory-mapped: a batch reads its own rows only.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.tasks import streams

__all__ = ["Classes", "episodes", "index_by_class", "sample_episodes"]

# tf.data copies the tensors that it captures for every iterator; rows of larger arrays are taken
# by NumPy from where they lie: 1 to 2 ms for 320 images of 84x84x3, 0.6 from a tensor.
_LARGEST_TENSOR = 2**28  # bytes
# Of classes, examples, turns, and the orders of support and query set.
_SEEDS = 5


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


def episodes(
    images,
    labels=None,
    *,
    class_sizes=None,
    ways=5,
    shots=1,
    queries=15,
    meta_batch=4,
    seed=0,
    start=0,
    tasks=None,
    stream=streams.TRAIN,
    rotate=False,
):
    """Builds a data set of N-way K-shot task batches from arrays.

    A task has `ways` distinct classes, which of them gets which label being random, and
    `shots + queries` distinct examples of each. The order within the support set and within the
    query set is shuffled, so a position tells nothing about a label.

    Args:
        images: array `[classes, examples, ...]`; or `[rows, ...]` with `labels` or `class_sizes`;
            or `Classes`. An array may be memory-mapped (`np.load(path, mmap_mode="r")`) and larger
            than memory. Kept as it is and cast batch by batch: uint8 becomes float32 in [0, 1],
            other floating types float32, other integers stay what they are.
        labels: array `[rows]` of integers or text (bytes are text, too), the class of each row of
            `images`, in any order.
        class_sizes: integer array `[classes]` where `images` holds all rows of the first class,
            then all of the second, and so on.
        ways: int, N, classes a task.
        shots: int, K, support examples a class.
        queries: int, query examples a class.
        meta_batch: int, T, tasks a batch.
        seed: int; the same seed gives the same tasks.
        start: int, index of the first batch: after `n` steps, `start=n` goes on where it was.
        tasks: int or None; the data set ends after so many tasks, rounded up to whole batches,
            and is the same at every pass. None: it never ends.
        stream: int; the same seed gives unrelated tasks in another stream.
        rotate: bool; turn each class of a task by 0, 90, 180 or 270 degrees, all its examples
            alike (images `[..., H, H, channels]` only; takes four times their memory).

    Returns:
        A `tf.data.Dataset` of `(inputs, query_y)`: `inputs["support_x"]`
        `[meta_batch, ways * shots, ...]`, `inputs["support_y"]` int32
        `[meta_batch, ways * shots]`, `inputs["query_x"]` `[meta_batch, ways * queries, ...]`,
        `query_y` int32 `[meta_batch, ways * queries]`. Labels are 0 to `ways - 1`.

    Raises:
        TypeError: a number is not an integer, labels or sizes are not, or images are no numbers.
        ValueError: an array has the wrong rank or length, there are fewer classes than `ways`, a
            class has fewer examples than `shots + queries`, images to turn are not square, or
            images in memory are not finite. (Those on disk are not read for it: training stops
            at a loss that is not finite.)

    Example:
        >>> images = np.random.randint(0, 256, [20, 12, 28, 28, 1], np.uint8)
        >>> dataset = maml_tf.tasks.sampling.episodes(images, ways=5, shots=1, queries=3)
        >>> inputs, query_y = next(iter(dataset))
        >>> inputs["support_x"].shape, query_y.shape
        (TensorShape([4, 5, 28, 28, 1]), TensorShape([4, 15]))
    """
    streams.check_counts(ways=ways, shots=shots, queries=queries, meta_batch=meta_batch)
    streams.check_counts(minimum=0, start=start, stream=stream)
    streams.check_seed(seed)
    if tasks is not None:
        streams.check_counts(tasks=tasks)
    if isinstance(images, Classes):
        _check_nothing_beside(labels=labels, class_sizes=class_sizes, rotate=rotate)
        classes = images
    else:
        classes = index_by_class(images, labels, class_sizes, rotate)
    check_classes(classes, ways, shots + queries)

    def make_batch(index):
        return sample_episodes(
            classes, streams.batch_seed(seed, stream, index), ways, shots, queries, meta_batch
        )

    if tasks is None:
        indices = tf.data.Dataset.counter(start)
    else:
        indices = tf.data.Dataset.range(start, start + streams.whole_batches(tasks, meta_batch))
    dataset = indices.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE)


def sample_episodes(classes, seed, ways, shots, queries, meta_batch):
    """Draws one task batch, all its tasks at once.

    Args:
        classes: a `Classes`, with at least `ways` classes of `shots + queries` examples
            (`check_classes` says so; here nothing is checked).
        seed: integer tensor `[2]`; the batch is a function of it.
        ways: int, N.
        shots: int, K.
        queries: int, query examples a class.
        meta_batch: int, T.

    Returns:
        A task batch `(inputs, query_y)`, as in `episodes`.
    """
    class_seed, example_seed, turn_seed, support_seed, query_seed = streams.split(seed, _SEEDS)
    chosen = _distinct(class_seed, [meta_batch, len(classes.sizes)], ways)
    exists = tf.range(classes.sizes.max()) < tf.gather(classes.sizes, chosen)[..., tf.newaxis]
    drawn = _distinct(example_seed, exists.shape, shots + queries, exists)
    rows = tf.gather(classes.offsets, chosen)[..., tf.newaxis] + drawn
    rows = tf.gather(classes.order, rows)
    if classes.turns > 1:
        turn = streams.uniform(turn_seed, [meta_batch, ways, 1], 0, classes.turns, tf.int32)
        rows = rows * classes.turns + turn

    support_rows, support_y = _shuffle(support_seed, rows[..., :shots])
    query_rows, query_y = _shuffle(query_seed, rows[..., shots:])
    inputs = {
        "support_x": take(classes.examples, support_rows),
        "support_y": support_y,
        "query_x": take(classes.examples, query_rows),
    }
    return inputs, query_y


def chosen_classes(classes, seed, ways, meta_batch):
    """Says which classes the tasks have that `sample_episodes` draws with the same seed.

    A batch holds labels from 0 on and no names: what its classes are called is a function of its
    seed, as the batch itself is.

    Args:
        classes: a `Classes`.
        seed: as in `sample_episodes`.
        ways: int, N.
        meta_batch: int, T.

    Returns:
        Array `[meta_batch, ways]` of entries of `classes.labels`: at `[t, n]` what the user calls
        the class that has label n in task t.
    """
    with tf.device("CPU:0"):  # where tf.data draws the batch itself
        class_seed, *_ = streams.split(seed, _SEEDS)
        chosen = _distinct(class_seed, [meta_batch, len(classes.sizes)], ways)
    return classes.labels[chosen.numpy()]


def _distinct(seed, shape, k, exists=None):
    """Draws `k` distinct positions along the last axis of `shape`, in random order: int32."""
    scores = streams.uniform(seed, shape)
    if exists is not None:
        scores = tf.where(exists, scores, -1.0)
    return tf.math.top_k(scores, k).indices


def _shuffle(seed, rows):
    """Shuffles `rows` `[T, N, K]` within each task: rows and labels, both int32 `[T, N * K]`."""
    tasks, ways, shots = rows.shape
    position = _distinct(seed, [tasks, ways * shots], ways * shots)
    rows = tf.gather(tf.reshape(rows, [tasks, ways * shots]), position, batch_dims=1)
    return rows, position // shots


def take(examples, rows):
    """Gathers rows, and casts what was gathered.

    Args:
        examples: `[rows, ...]`, a tensor or an array.
        rows: integer tensor of any shape, positions in `examples`.

    Returns:
        Tensor of the shape of `rows` and that of an example: of uint8 float32 in [0, 1], of
        floating types float32, of other types what they are.
    """
    if isinstance(examples, tf.Tensor):
        taken = tf.gather(examples, rows)
    else:
        taken = tf.numpy_function(
            lambda rows: np.take(examples, rows, axis=0), [rows], examples.dtype, stateful=False
        )
        taken.set_shape([*rows.shape, *examples.shape[1:]])
    return as_given(taken)


def as_given(examples):
    """Examples as a task batch has them: a tensor.

    Args:
        examples: array or tensor as it is kept.

    Returns:
        Of uint8 float32 in [0, 1], of other floating types float32, and anything else as it is.
    """
    examples = tf.convert_to_tensor(examples)
    if examples.dtype == tf.uint8:
        return tf.cast(examples, tf.float32) / 255.0
    return tf.cast(examples, tf.float32) if examples.dtype.is_floating else examples


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


def _check_nothing_beside(**options):
    """Refuses options that lay examples out, where that has been done already."""
    given = {
        name: value for name, value in options.items() if value is not None and value is not False
    }
    if given:
        raise ValueError(
            f"Expected no {' and no '.join(f'`{name}`' for name in given)} beside `Classes`, which "
            "are laid out already. Received: "
            f"{', '.join(arguments.received(n, v) for n, v in given.items())}. Give it to "
            "`index_by_class`."
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
