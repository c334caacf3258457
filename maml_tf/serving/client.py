"""A client of TensorFlow Serving for exported learners: NumPy in, NumPy out."""

import numpy as np

from maml_tf.serving.connection import Connection


class Client(Connection):
    """Adapts and predicts on a server that serves what `maml_tf.serving.export` wrote.

    Arguments are those of `Connection`: address, model; version, timeout, retries.

    Example:
        >>> images = np.random.uniform(size=[5, 28, 28, 1])  # yours, one of each class
        >>> client = maml_tf.serving.Client("localhost:8500", "omniglot")
        >>> handle = client.adapt(images, [0, 1, 2, 3, 4], inner_steps=3)
        >>> handle.predict(images).shape
        (5, 5)
    """

    def adapt(self, x, y, inner_steps=None):
        """Adapts to labelled examples, once.

        Args:
            x: array `[S, ...]`, or a list of them where the model takes several.
            y: array `[S, ...]` of labels.
            inner_steps: int; None is what the model was exported with (gRPC only).

        Returns:
            An `Adapted`, whose `predict` may be called many times. The server keeps nothing.

        Raises:
            ServingError: the server refused the request or could not be reached.
            ValueError: no `inner_steps` with REST.
        """
        tensors = {**_entries("support_x", x), **_entries("support_y", y)}
        weights = self._call("adapt", self._with_steps(tensors, inner_steps))["weights"]
        return Adapted(self, weights)

    def adapt_and_predict(self, support_x, support_y, query_x, inner_steps=None):
        """Adapts and predicts in one request: predictions `[Q, ...]`, or a list of them."""
        tensors = {
            **_entries("support_x", support_x),
            **_entries("support_y", support_y),
            **_entries("query_x", query_x),
        }
        return _outputs(self._call("adapt_and_predict", self._with_steps(tensors, inner_steps)))

    def predict(self, x):
        """Predictions at the meta-learned weights, without adaptation."""
        tensors = _entries("query_x", x)
        if "query_count" in self._signatures().get("predict", {}):
            tensors["query_count"] = len(next(iter(tensors.values())))
        return _outputs(self._call("predict", tensors))

    def _with_steps(self, tensors, inner_steps):
        if inner_steps is not None:
            return {**tensors, "inner_steps": inner_steps}
        if self._rest:
            raise ValueError(
                "Expected `inner_steps`: REST requests name every input. Received: None. Give a "
                "number, or use gRPC."
            )
        return tensors


class Adapted:
    """A model adapted by `Client.adapt`: its weights are here, the server computes.

    Attributes:
        weights: array `[P]`, all adapted weights.
    """

    def __init__(self, client, weights):
        self._client = client
        self.weights = weights

    def predict(self, x):
        """Predictions `[Q, ...]` for `x` `[Q, ...]`, or a list of them."""
        tensors = {"weights": self.weights, **_entries("query_x", x)}
        return _outputs(self._client._call("predict_with", tensors))


def _entries(name, value):
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], np.ndarray):
        return {f"{name}_{i}": array for i, array in enumerate(value)}
    return {name: value}


def _outputs(outputs):
    if set(outputs) == {"predictions"}:
        return outputs["predictions"]
    return [outputs[f"predictions_{i}"] for i in range(len(outputs))]
