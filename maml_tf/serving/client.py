"""A client of TensorFlow Serving for exported learners: NumPy in, NumPy out."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from maml_tf import arguments
from maml_tf.serving import wire
from maml_tf.serving.connection import Connection
from maml_tf.serving.errors import ServingError

_MOST = 2**31 - 1  # of int32, in which servers count


class Client(Connection):
    """Adapts and predicts on a server that serves what `maml_tf.serving.export` wrote.

    Arguments are those of `Connection`: address, model; version, timeout, retries. Arrays become
    the types that the model takes where that changes no value (labels of 1.0, but not of 1.7;
    floating numbers are rounded to the model's precision).

    Example:
        >>> images = np.random.uniform(size=[5, 28, 28, 1])  # yours, one of each class
        >>> client = maml_tf.serving.Client("localhost:8500", "omniglot")
        >>> handle = client.adapt(images, [0, 1, 2, 3, 4], inner_steps=3)
        >>> handle.predict(images).shape
        (5, 5)
    """

    def adapt(
        self,
        x: Any,
        y: Any,
        inner_steps: int | None = None,
        *,
        support_weight: ArrayLike | None = None,
    ) -> "Adapted":
        """Adapts to labelled examples, once.

        Args:
            x: array `[S, ...]`; where the model takes several, a list of them, or a dict whose
                sorted keys give their order, as in Keras.
            y: array `[S, ...]` of labels, or several as for `x`.
            inner_steps: int; None is what the model was exported with (gRPC only), or for a model
                that takes no steps.
            support_weight: array `[S]`, how much each example counts beside the others, for a model
                that was exported with `support_weight=True`.

        Returns:
            An `Adapted`, whose `predict` may be called many times. The server keeps nothing.

        Raises:
            ServingError: the server refused the request, gave no answer or could not be reached,
                or the adaptation ran away.
            TypeError: `inner_steps` that are no integer.
            ValueError: no `inner_steps` with REST, or what the model cannot take.
        """
        signature, given = "adapt", {"support_x": x, "support_y": y}
        if support_weight is not None:
            signature, given = "adapt_weighted", {**given, "support_weight": support_weight}
        steps = self._steps(signature, inner_steps)
        outputs = self._call(signature, self._entries(signature, **given) | steps)
        weights = wire.only(outputs, self._names_of(signature, "weights"))
        if not all(np.isfinite(part).all() for part in weights.values()):
            # Exports of today answer so themselves.
            raise ServingError(
                "INVALID_ARGUMENT",
                "Expected an adaptation that stays finite. Received: weights that are NaN or "
                f"infinite, for inner_steps={inner_steps}. Ask for fewer steps, or look for "
                "examples of another scale than in training.",
            )
        return Adapted(self, weights)

    def adapt_and_predict(
        self, support_x: Any, support_y: Any, query_x: Any, inner_steps: int | None = None
    ) -> Any:
        """Adapts and predicts in one request: predictions `[Q, ...]`, or a list of them."""
        steps = self._steps("adapt_and_predict", inner_steps)
        tensors = self._entries(
            "adapt_and_predict", support_x=support_x, support_y=support_y, query_x=query_x
        )
        return self._predictions("adapt_and_predict", tensors | steps)

    def predict(self, x: Any) -> Any:
        """Predictions at the meta-learned weights, without adaptation."""
        tensors = self._entries("predict", query_x=x)
        if "query_count" in self._signature("predict").inputs:
            tensors["query_count"] = len(next(iter(tensors.values())))
        return self._predictions("predict", tensors)

    def _steps(self, signature, inner_steps):
        """The entry of a request for a number of steps."""
        if "inner_steps" not in self._signature(signature).inputs:
            if inner_steps is not None:
                raise ValueError(
                    "Expected no `inner_steps`: this model adapts without steps. Received: "
                    f"{arguments.received('inner_steps', inner_steps)}. Leave it out."
                )
            return {}
        if inner_steps is not None:
            return {"inner_steps": arguments.integer("inner_steps", inner_steps, 0, _MOST)}
        if self._rest:
            raise ValueError(
                "Expected `inner_steps`: REST requests name every input. Received: None. Give a "
                "number, or use gRPC."
            )
        return {}

    def _entries(self, signature, **values):
        """Arrays by the names of the signature's inputs: one for each, or several numbered ones."""
        inputs = self._signature(signature).inputs
        entries = {}
        for name, value in values.items():
            numbered = sum(key.startswith(f"{name}_") for key in inputs)
            if name in inputs or numbered == 0:
                entries[name] = _array(name, value, inputs)
                continue
            if isinstance(value, dict):
                try:
                    value = [value[key] for key in sorted(value)]
                except TypeError:  # keys that have no order
                    value = []
            if not isinstance(value, (list, tuple)) or len(value) != numbered:
                received = f"{len(value)}" if isinstance(value, (list, tuple)) else repr(value)
                raise ValueError(
                    f"Expected `{name}`: a list of {numbered} arrays, one for each of them that "
                    f"the model takes. Received: {name}={received[:80]}. Give one for each, in the "
                    "order of the model's inputs."
                )
            for i, part in enumerate(value):
                entries[f"{name}_{i}"] = _array(f"{name}_{i}", part, inputs)
        self._check_names(signature, entries)
        for name, array in entries.items():
            if array.ndim == 0:  # of any shape, says the server
                raise ValueError(
                    f"Expected `{name}` of shape [any, ...]. Received: {name}={array}. Give an "
                    "array whose first axis are examples."
                )
        return entries

    def _predictions(self, signature, tensors):
        """Predictions of a request, one for each of its queries, or a list of them."""
        names = self._names_of(signature, "predictions")
        outputs = wire.finite(wire.only(self._call(signature, tensors), names))
        queries = next(len(a) for name, a in tensors.items() if name.startswith("query_x"))
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != queries:
                raise wire.malformed(f"{name} of shape {array.shape} for {queries} queries")
        answers = [outputs[name] for name in names]
        return answers if len(names) > 1 else answers[0]

    def _names_of(self, signature, name):
        """Names of a signature's outputs: `name`, or several numbered ones."""
        count = len(self._signature(signature).outputs)
        return [f"{name}_{i}" for i in range(count)] if count > 1 else [name]


class Adapted:
    """A model adapted by `Client.adapt`: its weights are here, the server computes.

    Attributes:
        weights: array `[P]`, all that was adapted, or in the shape that the model gives it; a dict
            of arrays by name where it gives several.
    """

    def __init__(self, client, weights):
        self._client = client
        self._tensors = weights
        self.weights = weights["weights"] if set(weights) == {"weights"} else weights

    def predict(self, x: Any) -> Any:
        """Predictions `[Q, ...]` for `x` `[Q, ...]`, or a list of them."""
        tensors = {**self._tensors, **self._client._entries("predict_with", query_x=x)}
        return self._client._predictions("predict_with", tensors)


def _array(name, value, inputs):
    """The array of an input; what is no input of the model is left for `Connection` to refuse."""
    return wire.cast(name, value, inputs[name]) if name in inputs else value
