"""A policy on the host, in NumPy: for environments that are NumPy themselves.

To call a compiled graph costs TensorFlow 0.3 ms and a change of threads before it computes
anything. A rollout calls the policy at every step, and the paper's network takes 0.15 ms for 400
rows: more time went into asking than into the answer. So policies made of dense layers (those of
`maml_tf.rl.policies`) act here; what is not `supported` acts in the graph. Nothing is ever learned
through this file: gradients are TensorFlow's.
"""

import keras
import numpy as np

from maml_tf.rl.policies import Context, LogScale

_ACTIVATIONS = {
    keras.activations.linear: lambda x: x,
    keras.activations.relu: lambda x: np.maximum(x, 0, out=x),
    keras.activations.tanh: lambda x: np.tanh(x, out=x),
}


def supported(policy):
    """Whether `network` can compute it: dense layers in one precision, connected in any way.

    Args:
        policy: as described in `maml_tf.rl.policies`.

    Returns:
        `bool`.
    """
    # Keras has no public name for the class of functional models; another could call anything.
    if type(policy).__name__ != "Functional" or len(policy.inputs) != 1:
        return False
    known = {id(policy.inputs[0])}
    for layer in _computing(policy):
        if not _supported_layer(layer) or not known.issuperset(map(id, _inputs(layer))):
            return False
        known.add(id(layer.output))
    # A layer tells of its first call only: what comes of a second one is not known.
    return known.issuperset(map(id, policy.outputs))


def _supported_layer(layer):
    if type(layer) not in _RUN or any(len(tensor.shape) != 2 for tensor in _inputs(layer)):
        return False
    if not layer.variable_dtype == layer.compute_dtype in ("float32", "float64"):
        return False
    if isinstance(layer, keras.layers.Concatenate):
        return layer.axis in (-1, 1)
    if isinstance(layer, keras.layers.Dense):
        plain = layer.quantization_mode is None and not layer.lora_enabled
        return plain and layer.activation in _ACTIVATIONS
    return True


def _computing(policy):
    return [each for each in policy.layers if not isinstance(each, keras.layers.InputLayer)]


def _inputs(layer):
    return layer.input if isinstance(layer.input, list) else [layer.input]


def network(policy, weights):
    """The policy at given weights, as a function on arrays.

    Args:
        policy: one that is `supported`.
        weights: list of arrays `[T, ...]` in the order of `policy.trainable_variables`: the fast
            weights of every task.

    Returns:
        Function of an observation, `[T, R, O]`, that gives the policy's outputs, a dict of arrays
        `[T, R, ...]`.
    """
    trained = zip(policy.trainable_variables, weights, strict=True)
    values = {id(v): np.asarray(w) for v, w in trained}

    def value(variable):
        return values[id(variable)] if id(variable) in values else variable.numpy()[None]

    steps = [(_RUN[type(layer)](layer, value), layer) for layer in _computing(policy)]

    def outputs(observation):
        known = {id(policy.inputs[0]): observation.astype(policy.inputs[0].dtype)}
        for run, layer in steps:
            known[id(layer.output)] = run(*(known[id(tensor)] for tensor in _inputs(layer)))
        return {name: known[id(tensor)] for name, tensor in policy.output.items()}

    return outputs


def _dense(layer, value):
    kernel = value(layer.kernel)
    bias = value(layer.bias)[:, None] if layer.use_bias else None
    activation = _ACTIVATIONS[layer.activation]

    def run(x):
        y = np.matmul(x, kernel)
        if bias is not None:
            y += bias
        return activation(y)

    return run


def _vector(layer, value):
    vector = value(layer.vector)[:, None]
    if isinstance(layer, LogScale):
        vector = np.maximum(vector, np.asarray(layer.minimum, vector.dtype))
    return lambda x: np.broadcast_to(vector, (*x.shape[:-1], layer.units))


def _concatenate(layer, value):
    return lambda *inputs: np.concatenate(inputs, -1)


_RUN = {
    keras.layers.Dense: _dense,
    keras.layers.Concatenate: _concatenate,
    Context: _vector,
    LogScale: _vector,
}


def drawn_action(outputs, generator):
    """An action of the distribution that `maml_tf.rl.policies.distribution` makes of `outputs`.

    Args:
        outputs: dict of arrays `[..., A]`.
        generator: `numpy.random.Generator`.

    Returns:
        `[..., A]`, or int32 `[...]` for a categorical distribution.
    """
    if "logits" in outputs:
        # The largest of the logits plus Gumbel noise is distributed as they say.
        logits = outputs["logits"]
        return np.argmax(logits + generator.gumbel(size=logits.shape), -1).astype(np.int32)
    loc = outputs["loc"]
    noise = generator.standard_normal(loc.shape, loc.dtype)
    return loc + np.exp(outputs["log_scale"]) * noise
