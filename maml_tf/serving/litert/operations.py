"""Which layer is at fault where LiteRT lacks an operation, and what to use in its place."""

import re

import keras

# Operations of TensorFlow that LiteRT lacks, as patterns, and what to do about each.
_LACKING = {
    r"TensorList.*|EmptyTensorList": (
        "Write a loop over time with `tf.unstack` and a Python loop, or with `keras.layers.RNN`, "
        "whose steps the export writes out."
    ),
    r"Erfinv|Ndtri": "Use another activation.",
    r"ResizeBicubic.*|ScaleAndTranslate.*|ResizeArea.*": 'Use `interpolation="bilinear"`.',
    r"Lookup.*|HashTable.*|MutableHashTable.*|String.*|RegexReplace|StaticRegexReplace": (
        "Do what makes numbers of text before the model, and export the model of numbers."
    ),
    r"MaxPool3D.*|AvgPool3D.*": "Pool with strided convolutions, or reshape to two dimensions.",
    r"Conv3DBackpropFilter.*": "Use two-dimensional convolutions, or keep these from adapting.",
    r"FFT.*|.*FFT|FFT2D|IFFT.*": "Do that before the model.",
    r"Cholesky.*|MatrixInverse|MatrixSolve.*|Svd|Qr|SelfAdjointEig.*|MatrixDeterminant.*": (
        "Linear algebra of this kind runs in TensorFlow alone: serve the learner by "
        "`maml_tf.serving.export`."
    ),
    r"PyFunc|EagerPyFunc|NumpyFunction": "Write the layer of TensorFlow's own operations.",
}
_ADVICE = "Use another layer, or serve the learner by `maml_tf.serving.export`."


def layers_of(learner):
    """The layers of a learner's network and of the backbone in front of it, where it has one."""
    models = (getattr(learner, "backbone", None), learner.model)
    return [layer for model in models if model is not None for layer in model._flatten_layers()]


def check(graph, layers):
    """Refuses a graph with an operation that LiteRT is known to lack.

    Args:
        graph: `tf.Graph` of a concrete function.
        layers: list of `keras.Layer` that may be named.

    Raises:
        ValueError: naming operation and layer.
    """
    kinds, at, advice = [], [], []
    for name, kind in _nodes(graph.as_graph_def()):
        for pattern, instead in _LACKING.items():
            if re.fullmatch(pattern, kind):
                kinds.append(kind)
                at += _named(name, layers)
                advice.append(instead)
    if kinds:
        raise _refusal(sorted(set(kinds))[:5], sorted(set(at)), " ".join(dict.fromkeys(advice)))


def refusal_of(error, layers):
    """The error in words of what the converter said of operations: a `ValueError`.

    Args:
        error: what the converter raised, which may be pages of it.
        layers: list of `keras.Layer` that may be named.
    """
    text = str(error)
    kinds = sorted(set(re.findall(r"(?:'|\")tf\.(\w+)(?:'|\")", text)))
    places = re.findall(r'"([^"\s]+/[^"\s]+)"', text)
    at = sorted({layer for place in places for layer in _named(place, layers)})
    if not kinds:
        line = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
        return ValueError(
            "Expected a learner that LiteRT's converter takes. Received one of which it says: "
            f"{line[:300]} {_ADVICE}"
        )
    for pattern, advice in _LACKING.items():
        if any(re.fullmatch(pattern, kind) for kind in kinds):
            return _refusal(kinds, at, advice)
    return _refusal(kinds, at, _ADVICE)


def _refusal(kinds, at, advice):
    where = f" in the layers {at}" if at else ""
    return ValueError(
        "Expected a learner of operations that LiteRT has. Received one that adapts or predicts by "
        f"{', '.join(kinds)}{where}, which it lacks. {advice}"
    )


def _named(name, layers):
    """Names of the layers that a path of name scopes goes through, but of whole models."""
    # Keras may add a number to a name that was there before.
    parts = {re.sub(r"_\d+$", "", part) for part in re.split(r"[/@:;]", name)} | set(
        re.split(r"[/@:;]", name)
    )
    known = [layer.name for layer in layers if not isinstance(layer, keras.Model)]
    return [layer for layer in known if layer in parts]


def _nodes(graph_def):
    """`(name, type)` of all operations that a graph uses, those of its loops too."""
    library = {f.signature.name: f for f in graph_def.library.function}
    seen, waiting = set(), [graph_def.node]
    while waiting:
        for node in waiting.pop():
            yield node.name, node.op
            for called in _called(node):
                if called in library and called not in seen:
                    seen.add(called)
                    waiting.append(_live(library[called]))


def _called(node):
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func.name
        yield from (f.name for f in value.list.func)


def _live(function):
    """The nodes of a function that its results need."""
    nodes = {node.name: node for node in function.node_def}
    waiting = [*function.ret.values(), *function.control_ret.values()]
    live = {}
    while waiting:
        name = waiting.pop().lstrip("^").split(":")[0]
        if name in nodes and name not in live:
            live[name] = nodes[name]
            waiting += nodes[name].input
    return list(live.values())
