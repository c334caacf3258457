"""A trained learner as a SavedModel that adapts inside the graph.

The exported graph holds the meta-learned weights as plain variables and a loop of inner steps. It
needs neither Keras nor this package to run: TensorFlow, its C API or TensorFlow Serving do.
"""

import tensorflow as tf

from maml_tf import files
from maml_tf.learners import checks, specs
from maml_tf.serving import card as card_file
from maml_tf.serving import versions, warmup
from maml_tf.serving.signatures import Signatures


def export(
    learner,
    base_path,
    version=None,
    inner_steps=None,
    *,
    max_inner_steps=100,
    warm_up=None,
    card=None,
    x_spec=None,
    y_spec=None,
):
    """Writes `base_path/<version>/`, the layout of TensorFlow Serving.

    The signatures are functions of what they are given alone; the numbers of support examples S,
    queries Q and tasks T are free:

    - `serving_default`, which is `adapt_and_predict`: `support_x` `[S, ...]`, `support_y`
      `[S, ...]`, `query_x` `[Q, ...]` and `inner_steps` (int32 scalar) to `predictions`
      `[Q, ...]` after adaptation;
    - `adapt`: `support_x`, `support_y`, `inner_steps` to `weights` `[P]`, all adapted weights;
    - `predict_with`: `weights` `[P]` and `query_x` to `predictions`, the same bit for bit;
    - `adapt_and_predict_tasks`: one row is one task, which a server may batch: `support_x`
      `[T, S, ...]`, `support_y` `[T, S, ...]`, `query_x` `[T, Q, ...]`, and int32 `[T]`
      `inner_steps`, `support_count` and `query_count`: how many of each row count, the others
      being padding. `predictions` `[T, Q, ...]`: 0 for padding, NaN for a row that is wrong;
    - `predict`: `query_x` to `predictions` at the meta-learned weights, without adaptation. Where
      the model normalises queries with each other (batch normalisation, `"transductive"`) also
      `query_count` (int32 scalar), how many they are: a server that batches requests then refuses
      it, in place of normalising several clients' queries together.

    Beside the model lie `card.json` and `README.md`: what it is, what its signatures take, and how
    to ask it by REST and gRPC.

    Requests with no support example, with labels that the model has no output for or with numbers
    that are not finite fail with an error that says so. Where a model has several inputs or
    outputs, each tensor is an entry of its own: `support_x_0`, `support_x_1`, … in the order of
    `keras.tree.flatten`.

    Args:
        learner: a compiled `maml_tf.Learner`.
        base_path: directory of all versions; made where it does not exist.
        version: `int` of at least 0; by default one more than the largest one there, from 1.
        inner_steps: `int`, what a gRPC request that names no number gets (REST and Python name
            it always); the learner's own number by default.
        max_inner_steps: `int`; a request for more steps gets so many.
        warm_up: `bool`, whether to write a request for each signature that the server answers
            while it loads the model; by default where `tensorflow-serving-api` is installed.
        card: dict of what the model card should say beside what the learner knows, such as
            `{"data": ..., "accuracy": ..., "command": ..., "commit": ...}`.
        x_spec: structure of `tf.TensorSpec` `[None, ...]`, the model's inputs; needed only where
            the model does not tell (a subclassed one).
        y_spec: structure of `tf.TensorSpec` `[None, ...]`, the labels; by default int32 without
            the class axis for a sparse loss, and as the model's output for all others.

    Returns:
        `pathlib.Path` of what was written.

    Raises:
        FileExistsError: that version is there already.
        ImportError: `warm_up` is True and `tensorflow-serving-api` is not installed.
        ValueError: the learner is not compiled, a version or a number of steps out of range, or a
            model that does not tell its inputs.

    Example:
        >>> learner = maml_tf.MAML(maml_tf.models.sinusoid_mlp(), 0.01)
        >>> learner.compile(loss="mse")
        >>> path = maml_tf.serving.export(learner, "exported/sinusoid")
        >>> adapt_and_predict = tf.saved_model.load(str(path)).signatures["serving_default"]
        >>> x, y, steps = tf.zeros([10, 1]), tf.ones([10, 1]), tf.constant(5)
        >>> answer = adapt_and_predict(support_x=x, support_y=y, query_x=x[:3], inner_steps=steps)
        >>> answer["predictions"].shape
        TensorShape([3, 1])
    """
    learner.require_compiled("export")
    steps = checks.check_inner_steps(learner.inner_steps if inner_steps is None else inner_steps)
    most = checks.check_inner_steps(max_inner_steps)
    if steps > most:
        raise ValueError(
            f"Expected `inner_steps` of at most `max_inner_steps`. Received: inner_steps={steps} "
            f"and max_inner_steps={most}."
        )
    path = versions.path_of(base_path, version)
    x_spec = specs.x_spec(learner.model) if x_spec is None else x_spec
    y_spec = specs.y_spec(learner, x_spec) if y_spec is None else y_spec
    signatures = Signatures(learner, steps, most, x_spec, y_spec)
    with files.whole_folder(path) as folder:
        tf.saved_model.save(signatures.module, str(folder), signatures=signatures.all())
        if warm_up or (warm_up is None and warmup.is_possible()):
            warmup.write(folder, signatures.examples())
        about = card_file.about(learner, learner.model) | {
            "batch_norm": learner.batch_norm,
            "inner_steps": steps,
            "max_inner_steps": most,
        }
        note = f"`inner_steps` is at most {most}; gRPC requests that leave it out get {steps}."
        name = path.parent.resolve().name
        card_file.write(
            folder, name, (card or {}) | about, "adapt_and_predict", "predictions", note
        )
    return path
