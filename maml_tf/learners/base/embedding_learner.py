"""What learners by embedding share: one network for all tasks, and a head for each.

The head is computed from the embeddings of the support set, and not descended to.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from maml_tf import functional
from maml_tf.exact import keras_internals
from maml_tf.learners.base.learner import Learner
from maml_tf.learners.base.task import Mode, Support


class EmbeddingLearner(Learner):
    """A learner whose network gives embeddings, to which each task fits a head of its own.

    A method is two functions, `fit_head` and `apply_head`. It takes no inner steps, its gradient
    is a first derivative, and it predicts before `compile`, because it needs no inner loss. Layers
    that they call run in training mode while the learner trains, as in `call` of a Keras layer.

    Args:
        model: a built `keras.Model` from examples to embeddings `[n, D]`; of several axes they
            are flattened.
        batch_norm: `"moving"` (Keras' own way, the default): in training support and query
            examples are each normalised by their own mean and variance, in prediction by the
            moving averages. `"transductive"`: by their own, always. `"support"`: all by those of
            the support set.
        **settings: see `maml_tf.Learner`.

    Raises:
        TypeError, ValueError: see `maml_tf.Learner`.
    """

    needs_loss = False
    # Nothing is differentiated twice.
    first_order = True

    def __init__(self, model: keras.Model, *, batch_norm: str = "moving", **settings: Any) -> None:
        super().__init__(model, batch_norm=batch_norm, **settings)

    def fit_head(self, z: Any, support: Support) -> Any:
        """A head for one task.

        Args:
            z: `[S, D]`, embeddings of the support examples; float32 where the network computes in
                half precision, in which sums and squares would overflow.
            support: `maml_tf.learners.base.task.Support`.

        Returns:
            Any structure of tensors.
        """
        raise NotImplementedError

    def apply_head(self, head: Any, z: Any) -> Any:
        """Predictions `[Q, ...]` of a head for embeddings `[Q, D]`."""
        raise NotImplementedError

    def output_spec(self, x: Any) -> Any:
        """See `Learner`: here of the embeddings, in the dtype that `fit_head` is given them in."""
        return keras.tree.map_structure(
            lambda t: keras.KerasTensor(t.shape, _wide(tf.as_dtype(t.dtype)).name),
            super().output_spec(x),
        )

    # One task; see `Learner`.

    def adapt_task(self, support: Support, *, steps: Any, mode: Mode) -> Any:
        """See `Learner`: `head`, and `state` where support statistics go along to the queries."""
        del steps
        norm = {"transductive": "batch", "support": "store", "moving": None}[mode.batch_norm]
        head = self._run(
            support.x, mode, norm, lambda z: self.fit_head(z, support), support.counted
        )
        return {"head": head, "state": self._statistics() if norm == "store" else []}

    def predict_adapted(
        self, adapted: Any, query_x: Any, *, mode: Mode, then: Callable[[Any], Any]
    ) -> Any:
        """See `Learner`."""
        norm = mode.norm_of_queries
        if norm == "moving":
            functional.assign(self._normalised_by(), adapted["state"])
        return self._run(
            query_x,
            mode,
            norm,
            lambda z: then(self.apply_head(adapted["head"], z)),
            mode.counted,
        )

    def mode_of_adapt(self) -> Mode:
        """See `Learner`: moving averages do for a single example, too."""
        return Mode(False, "moving" if self.batch_norm == "moving" else "support")

    def _run(self, x, mode, norm, then, counted=None):
        """`then(embeddings)`; what the network and other layers make of their state is kept."""
        model, others = self.model, self._other_state()

        def and_state(z):
            # A head is no `call` of Keras': its layers hear of training here.
            with keras_internals.calling(mode.training):
                z = functional.flattened(tf.cast(z, _wide(z.dtype)))
                return then(z), functional.values_of(others)

        (answer, after), state = functional.call(
            model,
            functional.values_of(model.trainable_variables),
            functional.values_of(model.non_trainable_variables),
            x,
            training=mode.training,
            batch_norm=norm,
            counted=counted,
            then=and_state,
        )
        functional.assign([*model.non_trainable_variables, *others], [*state, *after])
        return answer

    def _other_state(self):
        """State of layers that the method has beside the network."""
        of_model = {id(v) for v in self.model.non_trainable_variables}
        return [v for v in self.non_trainable_variables if id(v) not in of_model]

    def _normalised_by(self):
        layers = functional.batch_norm_layers(self.model)
        return [v for layer in layers for v in layer.non_trainable_variables]

    def _statistics(self):
        return functional.values_of(self._normalised_by())


def _wide(dtype):
    return tf.float32 if dtype.size == 2 else dtype
