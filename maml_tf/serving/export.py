"""A trained learner as a SavedModel that adapts inside the graph.

The exported graph holds the meta-learned weights as plain variables and a loop of inner steps. It
needs neither Keras nor this package to run: TensorFlow, its C API or TensorFlow Serving do.
"""

import os
import pathlib
import shutil

import keras
import tensorflow as tf

from maml_tf.learners import checks, specs


def export(learner, base_path, version=None, inner_steps=None, *, x_spec=None, y_spec=None):
    """Writes `base_path/<version>/`, the layout of TensorFlow Serving.

    The default signature, `serving_default`, takes one task, `support_x` `[S, ...]`, `support_y`
    `[S, ...]` and `query_x` `[Q, ...]`, and gives `predictions` `[Q, ...]` after adaptation; S and
    Q are free. Where a model has several inputs or outputs, each tensor is an entry of its own:
    `support_x_0`, `support_x_1`, … in the order of `keras.tree.flatten`.

    Args:
        learner: a compiled `maml_tf.Learner`.
        base_path: directory of all versions; made where it does not exist.
        version: `int` of at least 0; by default one more than the largest one there, from 1.
        inner_steps: `int`, steps of the exported adaptation; the learner's own by default.
        x_spec: structure of `tf.TensorSpec` `[None, ...]`, the model's inputs; needed only where
            the model does not tell (a subclassed one).
        y_spec: structure of `tf.TensorSpec` `[None, ...]`, the labels; by default int32 without
            the class axis for a sparse loss, and as the model's output for all others.

    Returns:
        `pathlib.Path` of what was written.

    Raises:
        FileExistsError: that version is there already.
        ValueError: the learner is not compiled, a version or a number of steps out of range, or a
            model that does not tell its inputs.

    Example:
        >>> path = maml_tf.serving.export(learner, "exported/sinusoid")
        >>> adapt_and_predict = tf.saved_model.load(str(path)).signatures["serving_default"]
        >>> adapt_and_predict(support_x=x, support_y=y, query_x=new_x)["predictions"]
    """
    learner.require_compiled("export")
    steps = checks.check_inner_steps(learner.inner_steps if inner_steps is None else inner_steps)
    base_path = pathlib.Path(base_path)
    version = _version(base_path, version)
    x_spec = specs.x_spec(learner.model) if x_spec is None else x_spec
    y_spec = specs.y_spec(learner, x_spec) if y_spec is None else y_spec
    module = _variables(learner.model)
    signature = _adapt_and_predict(learner, module, steps, x_spec, y_spec)
    base_path.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed: a server that polls the directory sees a whole model or none,
    # and takes only names that are numbers for versions.
    temporary = base_path / f"writing-{version}-{os.getpid()}"
    try:
        tf.saved_model.save(module, str(temporary), signatures={"serving_default": signature})
        temporary.rename(base_path / str(version))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return base_path / str(version)


def _version(base_path, version):
    there = [int(p.name) for p in base_path.glob("*") if p.name.isdigit()]
    if version is None:
        return max(there, default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise ValueError(f"`version` must be an integer of at least 0. Received: {version!r}")
    if version in there:
        raise FileExistsError(
            f"Expected a version that is not there yet. Received: version={version} for "
            f"{str(base_path)!r}, which holds {sorted(there)}. Leave `version` out to write the "
            "next one."
        )
    return version


def _variables(model):
    """The model's values as plain variables: a Keras model would be saved along, with its own."""
    module = tf.Module(name="learner")
    module.weights = [tf.Variable(v.value, name="weight") for v in model.trainable_variables]
    module.state = [tf.Variable(v.value, name="state") for v in model.non_trainable_variables]
    return module


def _adapt_and_predict(learner, module, steps, x_spec, y_spec):
    def adapt_and_predict(**tensors):
        support_x = _collect(tensors, "support_x", x_spec)
        support_y = _collect(tensors, "support_y", y_spec)
        query_x = _collect(tensors, "query_x", x_spec)
        weights = [tf.convert_to_tensor(w) for w in module.weights]
        state = [tf.convert_to_tensor(s) for s in module.state]
        weights, state = learner.adapt_task_in_loop(weights, state, support_x, support_y, steps)
        y, _ = learner.predict_task(weights, state, support_x, query_x, training=False)
        return _entries("predictions", y)

    specs = {
        **_entries("support_x", x_spec),
        **_entries("support_y", y_spec),
        **_entries("query_x", x_spec),
    }
    named = {name: tf.TensorSpec(s.shape, s.dtype, name=name) for name, s in specs.items()}
    return tf.function(adapt_and_predict, autograph=False).get_concrete_function(**named)


def _entries(name, structure):
    flat = keras.tree.flatten(structure)
    if len(flat) == 1:
        return {name: flat[0]}
    return {f"{name}_{i}": tensor for i, tensor in enumerate(flat)}


def _collect(tensors, name, structure):
    names = _entries(name, structure)
    return keras.tree.pack_sequence_as(structure, [tensors[n] for n in names])
