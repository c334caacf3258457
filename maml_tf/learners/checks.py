"""Errors before work begins: what was expected, what came, what to do."""

import keras
import numpy as np
import tensorflow as tf

KEYS = ("support_x", "support_y", "query_x")


def check_model(model):
    """Refuses what is not a built `keras.Model` with trainable weights."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a built `keras.Model`. Received: "
            f"model={model!r} of type {type(model).__name__}"
        )
    if hasattr(model, "inner_steps"):
        raise TypeError(
            "Expected `model` to be the network that adapts. Received: a learner, "
            f"{model.name!r} of type {type(model).__name__}. Give its network, `learner.model`."
        )
    if not model.built:
        raise ValueError(
            f"`model` must be built: its weights must exist. Received: model={model.name!r}, "
            "which is not. Give it an `Input`, or call it on a batch of data first."
        )
    if not model.trainable_variables:
        raise ValueError(
            "`model` must have trainable weights: they are what is meta-learned. Received: "
            f"model={model.name!r} with none. Is `trainable` False, or are there no layers?"
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
        isinstance(k, (int, np.integer)) and k >= 0 for k in class_weight
    )
    if not numbers or not class_weight:
        raise ValueError(
            "Expected `class_weight` to be a dict from the number of a class (from 0) to its "
            f"weight. Received: class_weight={class_weight!r}. Give, for example, "
            "`class_weight={0: 1.0, 1: 5.0}`."
        )


def check_choice(name, value, allowed):
    """Refuses a name that is not in `allowed`."""
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}. Received: {name}={value!r}")


def check_inner_steps(steps):
    """Refuses what is not an `int` of at least 0; returns it."""
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 0:
        raise ValueError(
            f"`inner_steps` must be an integer of at least 0. Received: inner_steps={steps!r}"
        )
    return int(steps)


def check_inputs(inputs):
    """Refuses inputs that are not a task batch, by structure and static shape."""
    if not isinstance(inputs, dict) or not set(KEYS) <= set(inputs):
        received = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise ValueError(
            "Expected a task batch: a dict with the keys 'support_x' [tasks, support, ...], "
            f"'support_y' [tasks, support, ...] and 'query_x' [tasks, query, ...]. Received: "
            f"{received}. maml_tf.tasks.sampling makes task batches from labelled arrays."
        )
    unknown = sorted(set(inputs) - set(KEYS))
    if unknown:
        raise ValueError(
            f"Expected a task batch with the keys {', '.join(map(repr, KEYS))} and no others. "
            f"Received also: {unknown}, which no learner would use. Remove them, or correct their "
            "names; weights of queries go beside the labels: `(inputs, query_y, sample_weight)`."
        )
    _check_sizes({k: inputs[k] for k in KEYS}, 0, "task", KEYS)
    _check_sizes({k: inputs[k] for k in KEYS}, 1, "support example", KEYS[:2])


def check_task_batch(inputs, query_y):
    """Refuses a task batch whose inputs and query labels do not belong together."""
    check_inputs(inputs)
    if query_y is None:
        raise ValueError(
            "Expected a task batch `(inputs, query_y)`, received inputs without query labels. "
            "Training and evaluation compare the predictions for 'query_x' with `query_y`."
        )
    parts = {"query_x": inputs["query_x"], "query_y": query_y, "support_x": inputs["support_x"]}
    _check_sizes(parts, 0, "task", ("support_x", "query_x", "query_y"))
    _check_sizes(parts, 1, "query", ("query_x", "query_y"))


def _check_sizes(parts, axis, what, keys):
    sizes = {}
    for key in keys:
        for tensor in keras.tree.flatten(parts[key]):
            if tensor.shape.__len__() <= axis:
                raise ValueError(
                    f"Expected {key!r} with axes [tasks, examples, ...]. Received: shape "
                    f"{tuple(tensor.shape)}. A single task needs a leading axis of size 1."
                )
            if tensor.shape[axis] is not None:
                sizes.setdefault(key, tensor.shape[axis])
                if sizes[key] != tensor.shape[axis]:
                    break
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"Expected one entry for each {what} along axis {axis} of {' and '.join(keys)}. "
            f"Received sizes {sizes}."
        )


def check_data(learner, x, y):
    """Checks the first task batch of what `fit` or `evaluate` was given.

    Generators are left alone: looking would consume. Their batches are checked by static shape
    when the training step is traced.
    """
    if isinstance(x, tf.data.Dataset):
        for element in x.take(1):
            inputs, query_y, _ = keras.utils.unpack_x_y_sample_weight(element)
            check_batch_values(learner, inputs, query_y)
    elif isinstance(x, dict):
        check_batch_values(learner, x, y)


def check_batch_values(learner, inputs, query_y):
    """Checks structure, sizes and labels of one concrete task batch."""
    check_task_batch(inputs, query_y)
    spec = learner.compute_output_spec(inputs)
    for name, labels in (("support_y", inputs["support_y"]), ("query_y", query_y)):
        check_labels(learner.loss, name, labels, spec)


def check_support(learner, support_x, support_y):
    """Checks the one task that `learner.adapt` was given."""
    parts = {"support_x": support_x, "support_y": support_y}
    for key, part in parts.items():
        for tensor in keras.tree.flatten(part):
            if len(tensor.shape) == 0 or tensor.shape[0] == 0:
                raise ValueError(
                    f"Expected at least one support example. Received: {key!r} of shape "
                    f"{tuple(tensor.shape)}."
                )
    _check_sizes(parts, 0, "support example", ("support_x", "support_y"))
    spec = keras.tree.map_structure(
        lambda t: keras.KerasTensor(t.shape, keras.backend.standardize_dtype(t.dtype)), support_x
    )
    check_labels(learner.loss, "support_y", support_y, learner.model.compute_output_spec(spec))


def check_labels(loss, name, labels, spec):
    """Refuses integer labels that the model has no output for, where the loss is a sparse one."""
    single = not isinstance(spec, (list, tuple, dict)) and not isinstance(labels, (list, dict))
    if not single or not is_sparse(loss):
        return
    classes = spec.shape[-1]
    values = np.asarray(labels)
    if classes is None or values.size == 0:
        return
    if values.min() < 0 or values.max() >= classes:
        raise ValueError(
            f"Expected labels in [0, {classes}), one for each of the {classes} outputs of the "
            f"model. Received: {name!r} with labels from {values.min()} to {values.max()}. Number "
            "the classes of each task from 0, or build the model with more outputs."
        )


def is_sparse(loss):
    """Whether a loss takes integer labels without an axis of classes, by its name."""
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    return "sparse" in f"{name} {type(loss).__name__}".lower()
