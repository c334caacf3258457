"""Errors before work begins: what was expected, what came, what to do."""

import math

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.learners import labels

KEYS = ("support_x", "support_y", "query_x")


def check_model(model):
    """Refuses what is not a built `keras.Model` with trainable weights."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Expected `model` to be a built `keras.Model`. Received: "
            f"{arguments.received('model', model)}. Give, for example, "
            "`maml_tf.models.conv4(ways=5)`."
        )
    if hasattr(model, "inner_steps"):
        raise TypeError(
            "Expected `model` to be the network that adapts. Received: a learner, "
            f"{model.name!r} of type {type(model).__name__}. Give its network, `learner.model`."
        )
    if hasattr(model, "_through"):
        raise TypeError(
            "Expected `model` to be a network with layers of its own. Received: "
            f"{model.name!r}, an adapted model that looks through the learner's network. Give that "
            "network, `learner.model`, or its class a `get_config`, so that `adapt` copies it."
        )
    if not model.built:
        raise ValueError(
            "Expected `model` to be built: its weights must exist. Received: "
            f"model={model.name!r}, which is not. Give it an `Input`, or call it on a batch of "
            "data first."
        )
    if not model.trainable_variables:
        raise ValueError(
            "Expected `model` to have trainable weights: they are what is meta-learned. Received: "
            f"model={model.name!r} with none. Set `trainable` to True, or add layers with weights."
        )
    stateful = [x.name for x in model._flatten_layers() if getattr(x, "stateful", False)]
    if stateful:
        raise ValueError(
            "Expected layers that keep no state from one batch of examples to the next: every "
            f"support set is a new task. Received: model={model.name!r} with the layers "
            f"{stateful}, which are stateful. Make them with `stateful=False`."
        )


def check_trained(learner):
    """Refuses a model whose trainable weights are others than when the learner was compiled."""
    if [id(v) for v in learner.model.trainable_variables] != learner._trained:
        raise ValueError(
            "Expected the trainable weights that the model had when the learner was compiled. "
            f"Received: {[v.path for v in learner.model.trainable_variables]}, after a layer was "
            "frozen or thawed. As in Keras, call `learner.compile(...)` again."
        )


def check_adapted(learner, weights, steps):
    """Refuses weights that ran away."""
    if all(bool(tf.reduce_all(tf.math.is_finite(w))) for w in weights):
        return
    rates = getattr(getattr(learner, "inner_optimizer", None), "learning_rate", None)
    raise FloatingPointError(
        f"Expected adaptation to end at weights that are finite. Received: NaN or infinity after "
        f"inner_steps={steps} with learning_rate={rates!r}. Take fewer steps or a smaller rate, or "
        "scale the examples as in training."
    )


def check_class_weight(class_weight, sample_weight):
    """Refuses what is not a dict of weights by class, or one beside weights of the queries."""
    if class_weight is None:
        return
    if sample_weight is not None:
        raise ValueError(
            "Expected `class_weight` or `sample_weight`. Received: both. Multiply the weights of "
            "the classes into `sample_weight` [tasks, query]."
        )
    numbers = isinstance(class_weight, dict) and all(
        arguments.is_number(k) and int(k) == k >= 0 and arguments.is_number(v) and 0 <= v < math.inf
        for k, v in class_weight.items()
    )
    if not numbers or not class_weight:
        raise ValueError(
            "Expected `class_weight` to be a dict from the number of a class (from 0) to its "
            f"weight. Received: class_weight={class_weight!r}. Give, for example, "
            "`class_weight={0: 1.0, 1: 5.0}`."
        )


def check_inner_steps(steps):
    """Refuses what is not an integer of at least 0; returns it as `int`."""
    return arguments.integer("inner_steps", steps, minimum=0)


def check_name(name):
    """Refuses a name that is no text; None is the default."""
    if name is not None and not isinstance(name, str):
        raise TypeError(
            f"Expected `name` to be text. Received: {arguments.received('name', name)}. Give text, "
            "or leave it out."
        )
    return name


def check_file(filepath):
    """Refuses to save as anything but a `.keras` file."""
    path = arguments.path("filepath", filepath, "the path of a .keras file")
    if not path.endswith(".keras"):
        raise ValueError(
            "Expected `filepath` to end in .keras, the one kind of file that a learner can be "
            f"loaded from. Received: filepath={path!r}. Give, for example, 'learner.keras', or "
            "call `export` for a SavedModel."
        )


def check_loss(learner, method):
    """Refuses to train or to evaluate without a loss of the queries."""
    if learner.loss is None:
        raise ValueError(
            f"Expected `loss`, the loss of the queries, for `{method}`. Received: a learner that "
            "was compiled with loss=None, and with `inner_loss`, which is of the support sets "
            "alone. Call `learner.compile(optimizer=..., loss=..., inner_loss=...)`."
        )


def check_inputs(inputs):
    """Refuses inputs that are not a task batch, by structure and static shape."""
    if not isinstance(inputs, dict) or not set(KEYS) <= set(inputs):
        received = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise ValueError(
            "Expected a task batch: a dict with the keys 'support_x' [tasks, support, ...], "
            f"'support_y' [tasks, support, ...] and 'query_x' [tasks, query, ...]. Received: "
            f"{received}. Make task batches of labelled arrays with maml_tf.tasks.sampling."
        )
    unknown = sorted(set(inputs) - set(KEYS))
    if unknown:
        raise ValueError(
            f"Expected a task batch with the keys {', '.join(map(repr, KEYS))} and no others. "
            f"Received also: {unknown}, which no learner would use. Remove them, or correct their "
            "names; weights of queries go beside the labels: `(inputs, query_y, sample_weight)`."
        )
    for key in KEYS:
        _check_tensors(key, inputs[key])
    _check_sizes({k: inputs[k] for k in KEYS}, 0, "task", KEYS)
    _check_sizes({k: inputs[k] for k in KEYS}, 1, "support example", KEYS[:2])


def check_task_batch(inputs, query_y):
    """Refuses a task batch whose inputs and query labels do not belong together."""
    check_inputs(inputs)
    if query_y is None:
        raise ValueError(
            "Expected a task batch `(inputs, query_y)`. Received: inputs without query labels. "
            "Give both: training and evaluation compare the predictions for 'query_x' with them."
        )
    _check_tensors("query_y", query_y)
    parts = {"query_x": inputs["query_x"], "query_y": query_y, "support_x": inputs["support_x"]}
    _check_sizes(parts, 0, "task", ("support_x", "query_x", "query_y"))
    _check_sizes(parts, 1, "query", ("query_x", "query_y"))


def _check_tensors(key, structure):
    """Refuses nested lists, ragged and sparse tensors, and labels that are no numbers."""
    leaves = keras.tree.flatten(structure)
    for tensor in leaves:
        if isinstance(tensor, (tf.RaggedTensor, tf.SparseTensor)):
            raise ValueError(
                f"Expected {key!r} to be a dense array, with as many examples in every task. "
                f"Received: a {type(tensor).__name__} of shape {tensor.shape}. Fill the smaller "
                "tasks up with examples drawn again, or make batches of tasks of one size."
            )
        if not hasattr(tensor, "shape") or not hasattr(tensor, "dtype"):
            raise TypeError(
                f"Expected {key!r} to be an array or a tensor. Received: "
                f"{arguments.received(key, structure)}. Convert it with `np.array({key}, ...)`."
            )
        if key.endswith("_y") and not labels.is_numeric(tensor.dtype):
            raise TypeError(
                f"Expected {key!r} to be numbers. Received: {key!r} of dtype {tensor.dtype}. "
                "Number the classes of each task from 0."
            )
    if not leaves:
        raise ValueError(
            f"Expected {key!r} to be an array or a tensor. Received: {key}={structure!r}. Give one."
        )


def _check_sizes(parts, axis, what, keys):
    sizes = {}
    for key in keys:
        for tensor in keras.tree.flatten(parts[key]):
            if tensor.shape.__len__() <= axis:
                raise ValueError(
                    f"Expected {key!r} with axes [tasks, examples, ...]. Received: shape "
                    f"{tuple(tensor.shape)}. Give a single task a leading axis of size 1."
                )
            if tensor.shape[axis] == 0:
                raise ValueError(
                    f"Expected at least one {what}. Received: {key!r} of shape "
                    f"{tuple(tensor.shape)}. Leave tasks without examples out."
                )
            if tensor.shape[axis] is not None:
                sizes.setdefault(key, tensor.shape[axis])
                if sizes[key] != tensor.shape[axis]:
                    break
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"Expected one entry for each {what} along axis {axis} of {' and '.join(keys)}. "
            f"Received: sizes {sizes}. Give as many of each."
        )


def check_data(learner, x, y, name="x"):
    """Checks the first task batch of what `fit` or `evaluate` was given.

    Generators are left alone: looking would consume. Their batches, like all later ones, are
    checked by static shape when the step is traced, and by value where it runs
    (`maml_tf.learners.labels`).
    """
    if x is None or isinstance(x, (str, bytes, bool, int, float)):
        raise TypeError(
            f"Expected `{name}` to be task batches: a `tf.data.Dataset` of `(inputs, query_y)`, or "
            f"a dict of arrays beside `y`. Received: {arguments.received(name, x)}. Make them with "
            "maml_tf.tasks."
        )
    if isinstance(x, tf.data.Dataset):
        for element in x.take(1):
            if isinstance(element, tuple) and len(element) > 3:
                raise ValueError(
                    "Expected a data set of `(inputs, query_y)` or of `(inputs, query_y, "
                    f"sample_weight)`. Received: elements of {len(element)} parts. Drop the others."
                )
            inputs, query_y, _ = keras.utils.unpack_x_y_sample_weight(element)
            check_batch_values(learner, inputs, query_y)
    elif isinstance(x, dict):
        check_batch_values(learner, x, y)


def check_validation(learner, data):
    """Checks what `fit` was given as `validation_data`, before training begins."""
    if data is None:
        return
    x, y = (data[0], data[1]) if isinstance(data, (tuple, list)) and len(data) > 1 else (data, None)
    check_data(learner, x, y, "validation_data")


def check_batch_values(learner, inputs, query_y):
    """Checks structure, sizes and labels of one concrete task batch."""
    check_task_batch(inputs, query_y)
    for rule in labels.rules(learner, inputs, query_y):
        rule.check()


def check_support(learner, support_x, support_y):
    """Checks the one task that `learner.adapt` was given, as tensors, and gives it back as such.

    Raises:
        TypeError: nested lists, or labels that are no numbers.
        ValueError: sizes that do not fit, no example, labels that the model has no output for, or
            values that are not finite.
    """
    parts = {"support_x": support_x, "support_y": support_y}
    for key, part in parts.items():
        _check_tensors(key, part)
        parts[key] = keras.tree.map_structure(tf.convert_to_tensor, part)
    _check_sizes(parts, 0, "support example", ("support_x", "support_y"))
    for rule in labels.rules_of_support(learner, parts["support_x"], parts["support_y"]):
        rule.check()
    for key, part in parts.items():
        for tensor in keras.tree.flatten(part):
            _check_finite(key, tensor)
    return parts["support_x"], parts["support_y"]


def _check_finite(key, tensor):
    if not tensor.dtype.is_floating or not tf.executing_eagerly():
        return
    if not bool(tf.reduce_all(tf.math.is_finite(tensor))):
        count = int(tf.reduce_sum(tf.cast(~tf.math.is_finite(tensor), tf.int32)))
        raise ValueError(
            f"Expected {key!r} to be finite. Received: {key!r} of shape {tuple(tensor.shape)} with "
            f"{count} values that are NaN or infinite. Remove or replace these examples."
        )


is_sparse = labels.is_sparse
