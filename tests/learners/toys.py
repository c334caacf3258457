"""Learners that are no method of the library: what a stranger writes on its base classes."""

import keras
import tensorflow as tf

import maml_tf
from maml_tf import functional
from maml_tf.learners.base.embedding_learner import EmbeddingLearner
from maml_tf.learners.base.gradient_learner import GradientLearner


@keras.saving.register_keras_serializable("tests")
class Ridge(EmbeddingLearner):
    """A head that ridge regression gives in closed form (Bertinetto et al., 2019).

    W = (Z'Z + exp(log_ridge) I)^-1 Z'Y, with `log_ridge` trained beside the network.
    """

    def __init__(self, model, width, *, log_ridge=0.0, **settings):
        super().__init__(model, **settings)
        self.width = width
        self.log_ridge = log_ridge
        self.learned = self.add_weight(
            name="log_ridge", shape=(), initializer=keras.initializers.Constant(log_ridge)
        )

    def fit_head(self, z, support):
        strength = tf.exp(tf.convert_to_tensor(self.learned))
        gram = tf.matmul(z, z, transpose_a=True) + strength * tf.eye(z.shape[-1], dtype=z.dtype)
        return tf.linalg.solve(gram, tf.matmul(z, support.y, transpose_a=True))

    def apply_head(self, head, z):
        return tf.matmul(z, head)

    def output_spec(self, x):
        z = super().output_spec(x)
        return keras.KerasTensor((z.shape[0], self.width), z.dtype)


@keras.saving.register_keras_serializable("tests")
class Memory(maml_tf.Learner):
    """Keeps its support set, and answers with the labels of what is near (Vinyals et al., 2016).

    What it adapts is a table of as many rows as there are support examples, in two parts.
    """

    needs_loss = False
    first_order = True

    def __init__(self, model, ways, *, batch_norm="moving", **settings):
        super().__init__(model, batch_norm=batch_norm, **settings)
        self.ways = ways

    def adapt_task(self, support, *, steps, mode):
        assert steps is None
        keys = self.model(support.x, training=mode.training)
        return {"keys": keys, "values": tf.one_hot(support.y, self.ways, dtype=keys.dtype)}

    def predict_adapted(self, adapted, query_x, *, mode, then):
        z = self.model(query_x, training=mode.training)
        distances = tf.reduce_sum((z[:, tf.newaxis] - adapted["keys"]) ** 2, -1)
        return then(5.0 * tf.nn.softmax(-distances) @ adapted["values"])

    def output_spec(self, x):
        z = super().output_spec(x)
        return keras.KerasTensor((z.shape[0], self.ways), z.dtype)


class ReadsContext:
    """A method in which a vector adapts that the network reads beside its inputs, and no weight."""

    def add_context(self, width, constraint=None):
        self.width = width
        self.context = self.add_weight(
            name="context", shape=(width,), initializer="zeros", constraint=constraint
        )

    def inner_variables(self):
        return [self.context]

    def run(self, weights, state, x, **settings):
        context = tf.broadcast_to(weights[0], [tf.shape(x)[0], self.width])
        model = functional.values_of(self.model.trainable_variables)
        return functional.call(self.model, model, state, tf.concat([x, context], -1), **settings)

    def example_spec(self):
        wide = super().example_spec()
        return keras.KerasTensor((None, wide.shape[-1] - self.width), wide.dtype)

    def output_spec(self, x):
        return self.model.compute_output_spec(
            keras.KerasTensor((x.shape[0], x.shape[-1] + self.width), x.dtype)
        )


@keras.saving.register_keras_serializable("tests")
class Context(ReadsContext, GradientLearner):
    """CAVIA (Zintgraf et al., 2019); where the context begins is learned, too."""

    def __init__(
        self, model, inner_optimizer, width, inner_steps=1, *, constraint=None, **settings
    ):
        super().__init__(model, inner_optimizer, inner_steps, **settings)
        self.constraint = keras.constraints.get(constraint)
        self.add_context(width, self.constraint)


@keras.saving.register_keras_serializable("tests")
class ContextReptile(ReadsContext, maml_tf.Reptile):
    """Reptile that moves the context alone."""

    def __init__(self, model, inner_optimizer, width, inner_steps=1, **settings):
        super().__init__(model, inner_optimizer, inner_steps, **settings)
        self.add_context(width)
