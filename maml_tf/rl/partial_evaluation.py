"""What of a function depends on its known arguments alone, computed once for many calls.

A linear map such as a curvature product is applied to ten vectors in a row, at the same weights and
rollouts. Everything that does not depend on the vector (activations, gradients, masks) is the same
in all ten products: `split` finds it in the traced graph and cuts the function in two there.
"""

import tensorflow as tf

# What has the memory of its input, and what is soon computed from its inputs: computed again
# rather than kept beside them.
# fmt: off
_VIEWS = {
    "ExpandDims", "Identity", "PreventGradient", "Reshape", "Squeeze", "StopGradient",
}
_CHEAP = _VIEWS | {
    "Abs", "Add", "AddN", "AddV2", "BiasAdd", "BroadcastTo", "Cast", "Equal", "Exp", "Fill",
    "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalNot", "Maximum",
    "Minimum", "Mul", "Neg", "NotEqual", "OnesLike", "RealDiv", "Reciprocal", "Relu",
    "ReluGrad", "Select", "SelectV2", "Sign", "Square", "StridedSlice", "StridedSliceGrad",
    "Sub", "Tile", "Transpose", "ZerosLike",
}
# fmt: on


def split(function, known, unknown):
    """Cuts a function of two arguments into two, the first one of the known argument alone.

    Args:
        function: `function(known, unknown) -> structure of tensors`, without side effects.
        known: structure of tensors or of `tf.TensorSpec`.
        unknown: structure of tensors or of `tf.TensorSpec`.

    Returns:
        `(prepare, finish)`: `prepare(known)` gives a list of tensors, and `finish(known, prepared,
        unknown)` is `function(known, unknown)`, made of the same operations.

    Example:
        >>> x, v = tf.constant(2.0), tf.constant(3.0)
        >>> prepare, finish = split(lambda x, v: tf.tanh(x) * v, x, v)
        >>> kept = prepare(x)
        >>> len(kept), round(float(finish(x, kept, v)), 3)
        (1, 2.892)
    """
    flat = [*tf.nest.flatten(known), *tf.nest.flatten(unknown)]
    number = len(tf.nest.flatten(known))
    structure = []

    def traced(*tensors):
        outputs = function(
            tf.nest.pack_sequence_as(known, tensors[:number]),
            tf.nest.pack_sequence_as(unknown, tensors[number:]),
        )
        structure[:] = [outputs]
        # An argument that is handed on would be an output that nothing computes.
        return [tf.identity(output) for output in tf.nest.flatten(outputs)]

    # `prune` cuts a graph at any of its tensors; no other function of TensorFlow has it.
    whole = tf.compat.v1.wrap_function(traced, [tf.TensorSpec(t.shape, t.dtype) for t in flat])
    early, late = whole.inputs[:number], whole.inputs[number : len(flat)]
    kept = _border(whole.graph, early, late, whole.outputs)
    first = whole.prune(early, kept)
    second = whole.prune([*early, *kept, *late], whole.outputs)

    def prepare(known):
        return first(*tf.nest.flatten(known)) if kept else []

    def finish(known, prepared, unknown):
        outputs = second(*tf.nest.flatten(known), *prepared, *tf.nest.flatten(unknown))
        return tf.nest.pack_sequence_as(structure[0], outputs)

    return prepare, finish


def _border(graph, early, late, outputs):
    """Tensors that do not depend on `late`, of which what depends on it can soon be computed."""
    operations = graph.get_operations()  # each behind those that it takes its inputs from
    inputs = [*early, *graph.internal_captures]
    from_early, from_late = _reached(operations, inputs), _reached(operations, late)
    wanted = _ancestors(outputs)
    given = {tensor.ref() for tensor in inputs}
    crossing = [
        (tensor, operation.type in _CHEAP)
        for operation in operations
        if operation.name in from_late and operation.name in wanted
        for tensor in operation.inputs
        if tensor.op.name not in from_late
    ]
    border = {}

    def add(tensor, cheap):
        if tensor.ref() in given or tensor.ref() in border or tensor.op.name not in from_early:
            return
        if tensor.op.type in _VIEWS or (cheap and tensor.op.type in _CHEAP):
            for source in tensor.op.inputs:
                add(source, cheap)
        elif tensor.op.inputs:  # a constant is made where it is used
            border[tensor.ref()] = tensor

    # First what large products take, which much else may then be computed from.
    for tensor, cheap in sorted(crossing, key=lambda pair: pair[1]):
        add(tensor, cheap)
    return list(border.values())


def _reached(operations, tensors):
    """Names of the operations that depend on these tensors, the operations of these among them.

    Some only wait for one: TensorFlow has what a gradient needs computed no sooner than that. Cut
    off from it, they could not be copied.
    """
    names = {tensor.op.name for tensor in tensors}
    for operation in operations:
        sources = [source.op for source in operation.inputs] + operation.control_inputs
        if any(source.name in names for source in sources):
            names.add(operation.name)
    return names


def _ancestors(tensors):
    """Names of the operations that these tensors are made by."""
    names, waiting = set(), [tensor.op for tensor in tensors]
    while waiting:
        operation = waiting.pop()
        if operation.name not in names:
            names.add(operation.name)
            waiting += [source.op for source in operation.inputs]
            waiting += operation.control_inputs
    return names
