"""Two learners that are no method of the library: what a stranger writes on its base classes."""

import keras
import tensorflow as tf

import maml_tf
from maml_tf.learners.base.embedding_learner import EmbeddingLearner


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
