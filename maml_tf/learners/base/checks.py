"""Errors of settings, before work begins: what was expected, what came, what to do."""

import math

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.inner import optimizers as inner_optimizers


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
    trained = [id(v) for v in learner.trainable_variables]
    if learner._trained is not None and trained != learner._trained:
        raise ValueError(
            "Expected the trainable weights that there were when the learner was compiled. "
            f"Received: {[v.path for v in learner.trainable_variables]}, after a layer was "
            "frozen or thawed. As in Keras, call `learner.compile(...)` again."
        )


def check_adapted(learner, adapted, steps):
    """Refuses an adapted value that ran away."""
    floating = [t for t in tf.nest.flatten(adapted) if t.dtype.is_floating]
    if all(bool(tf.reduce_all(tf.math.is_finite(t))) for t in floating):
        return
    if steps is None:
        raise FloatingPointError(
            "Expected adaptation to end at numbers that are finite. Received: NaN or infinity. "
            "Scale the examples as in training."
        )
    rates = getattr(getattr(learner, "inner_optimizer", None), "learning_rate", None)
    raise FloatingPointError(
        f"Expected adaptation to end at weights that are finite. Received: NaN or infinity after "
        f"inner_steps={steps} with learning_rate={rates!r}. Take fewer steps or a smaller rate, or "
        "scale the examples as in training."
    )


def check_steps(learner, steps, default=None):
    """Refuses a number of steps that this learner cannot take; None is the default."""
    if learner.inner_steps is None:
        if steps is not None:
            raise ValueError(
                f"Expected no number of steps: {type(learner).__name__} adapts without any. "
                f"Received: {arguments.received('inner_steps', steps)}. Leave it out."
            )
        return None
    return check_inner_steps(default if steps is None else steps)


def check_compile(optimizer, run_eagerly, steps_per_execution, jit_compile, auto_scale_loss):
    """Refuses settings of `compile` that Keras would take for something else, or for nothing."""
    if isinstance(optimizer, inner_optimizers.InnerOptimizer):
        name = type(optimizer).__name__
        raise TypeError(
            "Expected `optimizer` to be a Keras optimizer or its name: the outer one, which "
            "assigns the variables of the model. Received: "
            f"{arguments.received('optimizer', optimizer)}, one of maml_tf.inner_optimizers, which "
            f"update tensors. Give it to the learner, `MAML(model, inner_optimizers.{name}(...))`, "
            "and, for example, `keras.optimizers.Adam(1e-3)` to `compile`."
        )
    arguments.integer("steps_per_execution", steps_per_execution, minimum=1)
    arguments.boolean("run_eagerly", run_eagerly)
    arguments.boolean("auto_scale_loss", auto_scale_loss)
    if isinstance(jit_compile, str) and jit_compile == "auto":
        raise ValueError(
            "Expected `jit_compile` to be True or False: a learner is never compiled with XLA by "
            "itself, which makes some networks faster and others slower. Received: "
            "jit_compile='auto'. Try jit_compile=True, or leave it out."
        )
    arguments.boolean("jit_compile", jit_compile)


def check_inner_loss(inner_loss):
    """Refuses what Keras knows no loss by; returns the rest as it is, configurations as losses."""
    if inner_loss is None:
        return None
    try:
        loss = keras.losses.get(inner_loss)
    except (ValueError, TypeError, KeyError, AttributeError):
        loss = None
    if not callable(loss):
        kind = ValueError if isinstance(inner_loss, (str, dict, list, tuple)) else TypeError
        raise kind(
            "Expected `inner_loss` to be one loss: its name in Keras, a `keras.losses.Loss`, or a "
            "function of labels and predictions, of all outputs where there are several. "
            f"Received: {arguments.received('inner_loss', inner_loss)}. Give, for example, "
            "inner_loss='mse', or leave it out to descend `loss`."
        )
    return loss if isinstance(inner_loss, dict) else inner_loss


def check_logits(loss):
    """Refuses a loss of Keras that would take logits for probabilities."""
    names = {"sparse_categorical_crossentropy", "categorical_crossentropy"}
    if isinstance(loss, str):
        probabilities = loss in names or keras.losses.get(loss).__name__ in names
    else:
        given = getattr(loss, "_fn_kwargs", {})
        wrapped = getattr(getattr(loss, "fn", loss), "__name__", None)
        probabilities = wrapped in names and not given.get("from_logits")
    if probabilities:
        raise ValueError(
            "Expected a loss of logits: what this learner predicts are negative distances. "
            f"Received: {arguments.received('loss', loss)}, which takes probabilities. Give "
            "`keras.losses.SparseCategoricalCrossentropy(from_logits=True)`."
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
