"""A trained learner as a SavedModel that adapts inside the graph.

The exported graph holds the meta-learned weights as plain variables and a loop of inner steps. It
needs neither Keras nor this package to run: TensorFlow, its C API or TensorFlow Serving do.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from maml_tf import arguments
from maml_tf.learners import Learner
from maml_tf.serving import card as card_file
from maml_tf.serving import checks, folder, requests, versions, warmup
from maml_tf.serving.signatures import Signatures

# What the export says of the learner in the card.
_ABOUT = (
    "method",
    "model",
    "parameters",
    "backbone",
    "batch_norm",
    "inner_steps",
    "max_inner_steps",
) + (
    "max_support",
    "max_queries",
)


def export(
    learner: Learner,
    base_path: str | os.PathLike,
    version: int | None = None,
    inner_steps: int | None = None,
    *,
    max_inner_steps: int = 100,
    max_support: int = 1000,
    max_queries: int = 10_000,
    support_weight: bool = False,
    warm_up: bool | None = None,
    card: Mapping[str, Any] | None = None,
    x_spec: Any = None,
    y_spec: Any = None,
) -> pathlib.Path:
    """Writes `base_path/<version>/`, the layout of TensorFlow Serving.

    The signatures are functions of what they are given alone; the numbers of support examples S,
    queries Q and tasks T are free:

    - `serving_default`, which is `adapt_and_predict`: `support_x` `[S, ...]`, `support_y`
      `[S, ...]`, `query_x` `[Q, ...]` and `inner_steps` (int32 scalar) to `predictions`
      `[Q, ...]` after adaptation;
    - `adapt`: `support_x`, `support_y`, `inner_steps` to `weights` `[P]`, all that was adapted;
      where its size depends on the support set (prototypes of any number of classes) it keeps its
      shape, and several tensors are `weights_0`, `weights_1`, …;
    - `predict_with`: `weights` as `adapt` gave them and `query_x` to `predictions`, the same bit
      for bit;
    - `adapt_and_predict_tasks`: one row is one task, which a server may batch: `support_x`
      `[T, S, ...]`, `support_y` `[T, S, ...]`, `query_x` `[T, Q, ...]`, and int32 `[T]`
      `inner_steps`, `support_count` and `query_count`: how many of each row count, the others
      being padding. `predictions` `[T, Q, ...]`: 0 for padding, NaN for a row that is wrong;
      A learner of any number of classes does not have it;
    - `predict`: `query_x` to `predictions` at the meta-learned weights, without adaptation. Where
      the model normalises queries with each other (batch normalisation, `"transductive"`) also
      `query_count` (int32 scalar), how many they are: a server that batches requests then refuses
      it, in place of normalising several clients' queries together. A learner that predicts
      nothing without a support set does not have it.

    A learner that takes no inner steps has no `inner_steps` in any of them.

    Beside the model lie `card.json` and `README.md`: what it is, what its signatures take, and how
    to ask it by REST and gRPC.

    Requests with no support example or no query, with more of them than the limits, with labels
    that the model has no output for or with numbers that are not finite fail with an error that
    says so, and so does an adaptation that runs away: what is answered is finite. Where a model
    has several inputs or outputs, each tensor is an entry of its own: `support_x_0`,
    `support_x_1`, … in the order of `keras.tree.flatten`.

    Args:
        learner: a compiled `maml_tf.Learner`.
        base_path: directory of all versions; made where it does not exist.
        version: `int` of at least 0; by default one more than the largest one there, from 1.
        inner_steps: `int`, what a gRPC request that names no number gets (REST and Python name
            it always); the learner's own number by default.
        max_inner_steps: `int`; a request for more steps gets so many.
        max_support: `int`, the most support examples of a task; requests with more are refused,
            because time and memory grow with them. (What a server does at the same time is
            limited by its own settings, such as `max_batch_size`.)
        max_queries: `int`, the most queries of a task.
        support_weight: `bool`, whether to add the signature `adapt_weighted`, which is `adapt` with
            `support_weight` float32 `[S]` besides: how much each example counts beside the others.
            Examples of weight 0 are padding, so that support sets of any size fit one shape.
        warm_up: `bool`, whether to write a request for each signature that the server answers
            while it loads the model; by default where `tensorflow-serving-api` is installed and
            the model answers requests of made-up numbers.
        card: dict of what the model card should say beside what the learner knows, such as
            `{"data": ..., "accuracy": ..., "command": ..., "commit": ...}`: values that JSON holds.
        x_spec: structure of `tf.TensorSpec` `[None, ...]`, the model's inputs; needed only where
            the model does not tell (a subclassed one).
        y_spec: structure of `tf.TensorSpec` `[None, ...]`, the support labels; by default those
            that the inner loss saw. Where it has seen none since the learner was made or loaded:
            int32 without the class axis for Keras' sparse cross-entropy, as the model's output
            for Keras' other losses; for a loss of one's own it must be given.

    Returns:
        `pathlib.Path` of what was written.

    Raises:
        FileExistsError: that version is there already.
        ImportError: `warm_up` is True and `tensorflow-serving-api` is not installed.
        NotADirectoryError: `base_path`, or a part of it, is a file.
        TypeError: no learner, no path, no number, or specs that are no `tf.TensorSpec`.
        ValueError: the learner is not compiled, a number out of range, a card that JSON cannot
            hold, inputs or labels that are not known or that model or loss do not take, or a model
            with a resource that belongs to no layer.

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
    checks.check_learner(learner)
    path = versions.path_of(base_path, version)
    steps, most = checks.check_steps(learner, inner_steps, max_inner_steps)
    limits = checks.check_limits(max_support, max_queries)
    weighted = arguments.boolean("support_weight", support_weight)
    warm_up = None if warm_up is None else arguments.boolean("warm_up", warm_up)
    card_file.check(card, _ABOUT)
    x_spec, y_spec = checks.check_specs(learner, x_spec, y_spec)
    signatures = Signatures(learner, steps, most, limits, x_spec, y_spec, weighted)
    functions = signatures.all()
    asked = _warm_up_requests(signatures, functions, warm_up)
    about = card_file.about(learner, learner.model) | {"batch_norm": learner.batch_norm}
    about |= {} if steps is None else {"inner_steps": steps, "max_inner_steps": most}
    about |= {"max_support": limits.support, "max_queries": limits.queries}
    note = (
        f"A task has at most {limits.support} support examples and {limits.queries} queries: "
        "more are refused."
    )
    if steps is not None:
        note = (
            f"`inner_steps` is at most {most}; gRPC requests that leave it out get {steps}. " + note
        )
    folder.write(
        path,
        signatures.module,
        functions,
        asked,
        (card or {}) | about,
        signature="adapt_and_predict",
        output="predictions",
        note=note,
    )
    return path


def _warm_up_requests(signatures, functions, warm_up):
    """Requests by signature that all are answered, or None where there are to be none.

    A server refuses to load a model whose warm-up fails.
    """
    if warm_up is False or (warm_up is None and not warmup.is_possible()):
        return None
    asked = {name: a for name, a in signatures.examples().items() if name in functions}
    for signature, arrays in asked.items():
        tensors = {name: tf.constant(array) for name, array in arrays.items()}
        try:
            functions[signature](**tensors)
        except tf.errors.OpError as error:
            if warm_up is None and isinstance(error, tf.errors.InvalidArgumentError):
                return None
            raise ValueError(
                "Expected a model that answers a request of made-up numbers to warm up. Received: "
                f"warm_up={warm_up}, but {signature!r} says: {requests.said(error)}. Give "
                "`warm_up=False` to export it without."
            ) from error
    return asked
