"""Prototypical networks (Snell, Swersky & Zemel, 2017, arXiv 1703.05175).

    prototypes:   c_n = mean of f(x) over the support examples of class n           (equation 1)
    predictions:  p(y = n | x) = softmax_n( -d(f(x), c_n) )                          (equation 2)

f is `model`, d the squared Euclidean distance (a Bregman divergence, for which the mean is the best
single representative: section 2.3) or the cosine distance. What a task adapts is the table of
prototypes; nothing is descended.
"""

from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.learners.base import checks
from maml_tf.learners.base.embedding_learner import EmbeddingLearner
from maml_tf.learners.base.task import Support

DISTANCES = ("squared_euclidean", "cosine")


@keras.saving.register_keras_serializable("maml_tf")
class Prototypical(EmbeddingLearner):
    """Nearest class means in a learned space; predicts logits, the negative distances.

    Tasks may have other numbers of classes and examples than those it was trained with.

    Args:
        model: a built `keras.Model` from examples to embeddings, without a last layer of classes:
            `maml_tf.models.embedding()`, for example.
        distance: `"squared_euclidean"` or `"cosine"` (1 - cos).
        ways: `int`, how many classes every task has; None for as many as its support set names,
            numbered from 0. XLA, and a served batch of several tasks, need the number.
        learned_scale: `bool`, whether logits are multiplied by a number that is trained, too: of
            use with `"cosine"`, whose distances end at 2.
        **settings: see `maml_tf.learners.EmbeddingLearner` and `maml_tf.Learner`.

    Raises:
        TypeError, ValueError: a setting of another kind or out of range.

    Example:
        >>> learner = maml_tf.Prototypical(maml_tf.models.embedding(input_shape=(28, 28, 1)))
        >>> images = np.random.default_rng(0).uniform(size=(6, 28, 28, 1)).astype("float32")
        >>> mine = learner.adapt(images, np.array([0, 0, 1, 1, 2, 2]))
        >>> mine.predict(images[:4], verbose=0).shape
        (4, 3)
    """

    labels_are_classes = True

    def __init__(
        self,
        model: keras.Model,
        *,
        distance: str = "squared_euclidean",
        ways: int | None = None,
        learned_scale: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        self.distance = arguments.choice("distance", distance, DISTANCES)
        self.ways = None if ways is None else arguments.integer("ways", ways, minimum=1)
        self.learned_scale = arguments.boolean("learned_scale", learned_scale)
        self.scale = None
        if learned_scale:
            self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **settings: Any) -> None:
        """See `maml_tf.Learner`; the loss is given logits.

        Raises:
            ValueError: a loss of Keras' that expects probabilities, or XLA without `ways`.
        """
        checks.check_logits(loss)
        if settings.get("jit_compile") and self.ways is None:
            raise ValueError(
                "Expected `ways`, how many classes every task has, for XLA, which compiles for "
                "shapes that it knows. Received: ways=None and jit_compile="
                f"{settings['jit_compile']!r}. Give `Prototypical(model, ways=5)`, for example, or "
                "leave `jit_compile` out."
            )
        super().compile(optimizer, loss, **settings)

    def fit_head(self, z: Any, support: Support) -> Any:
        """The prototypes `[ways, D]` (equation 1), weighted means where examples have weights."""
        members = self._members(support.y, z.dtype)
        if support.weight is not None:
            members *= tf.cast(support.weight, z.dtype)[:, tf.newaxis]
        sums = tf.matmul(members, z, transpose_a=True)
        return sums / tf.reduce_sum(members, 0)[:, tf.newaxis]

    def apply_head(self, head: Any, z: Any) -> Any:
        """Logits `[Q, ways]` (equation 2)."""
        if self.distance == "cosine":
            z, head = (tf.math.l2_normalize(t, -1) for t in (z, head))
            distances = 1 - tf.matmul(z, head, transpose_b=True)
        else:
            # Not by the products, which would cancel: the gradient at a small distance matters.
            distances = tf.reduce_sum(tf.square(z[:, tf.newaxis] - head), -1)
        scale = 1 if self.scale is None else tf.cast(self.scale, z.dtype)
        return -scale * distances

    def output_spec(self, x: Any) -> Any:
        """See `Learner`: `[Q, ways]`, ways None where they are free."""
        z = keras.tree.flatten(super().output_spec(x))[0]
        return keras.KerasTensor((z.shape[0], self.ways), z.dtype)

    def _members(self, y, dtype):
        """Which class each example belongs to, `[S, ways]`."""
        y = tf.cast(tf.reshape(y, [-1]), tf.int32)
        ways = tf.reduce_max(y) + 1 if self.ways is None else self.ways
        return tf.one_hot(y, ways, dtype=dtype)
