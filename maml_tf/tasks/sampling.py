"""N-way K-shot episodes from arrays of examples with classes: a whole task batch in a few ops.

`episodes` is what to call with arrays of your own. It is `index_by_class`, which checks the arrays
and lays them out (`maml_tf.tasks.class_index`), and `sample_episodes`, a pure function of a seed,
under `tf.data`.
"""

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.tasks import streams
from maml_tf.tasks.class_index import Classes, check_classes, index_by_class

__all__ = ["Classes", "episodes", "index_by_class", "sample_episodes"]

# Of classes, examples, turns, and the orders of support and query set.
_SEEDS = 5


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
