"""Models that adapt to pictures, trained or exported, behind one function: for `train.adapt`."""

import math
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import maml_tf
from maml_tf.learners.base import specs
from maml_tf.serving import requests
from train import checkpoints, graph_check

# Queries that an exported model is given at a time: so many 84x84 pictures take about half a
# gigabyte in a network of 32 filters.
_TOGETHER = 500


class Model(NamedTuple):
    """A model that adapts.

    Attributes:
        shape: `(height, width, channels)` of a picture.
        outputs: int, classes that the model tells apart.
        y_spec: `tf.TensorSpec`, labels `[None]`, or one-hot `[None, outputs]`.
        answer: function of support images `[S, height, width, channels]`, labels and query images:
            scores `[Q, outputs]`, logits or probabilities.
    """

    shape: tuple
    outputs: int
    y_spec: tf.TensorSpec
    answer: Callable


def open_model(path, inner_steps=None):
    """Opens a `.keras` file of a learner, or the highest version of an exported model.

    Args:
        path: path of the file, of the folder of versions, or of one version.
        inner_steps: int, steps of adaptation; the model's own number by default.

    Returns:
        A `Model`.

    Raises:
        ValueError: there is no such model, it is damaged, has operations that reach out of the
            graph, or is not one of pictures and classes.
    """
    path = pathlib.Path(path)
    if path.is_file():
        x, y, outputs, answer = _open_learner(path, inner_steps)
    elif path.is_dir():
        x, y, outputs, answer = _open_export(_version(path), inner_steps)
    else:
        raise ValueError(
            f"Expected a .keras file or the folder of an exported model. Received: --model {path}, "
            "which does not exist. Give one that does, such as saved_models/omniglot."
        )
    shape = tuple(x.shape[1:]) if isinstance(x, tf.TensorSpec) else ()
    classes = outputs[-1] if len(outputs) == 2 else None
    if len(shape) != 3 or None in shape or shape[-1] not in (1, 3) or (classes or 0) < 2:
        raise ValueError(
            "Expected a model that takes pictures [height, width, 1 or 3] of a fixed size and "
            f"gives a number for each class. Received: --model {path} with inputs {x} and outputs "
            f"of shape {outputs}. Give another model."
        )
    return Model(shape, classes, y, answer)


def _open_learner(path, inner_steps):
    learner = _readable(path, checkpoints.load_model, path)
    if not isinstance(learner, maml_tf.Learner):
        raise ValueError(
            f"Expected a saved learner, such as maml_tf.MAML. Received: --model {path}, a "
            f"{type(learner).__name__}, which does not adapt."
        )

    def answer(support_x, support_y, query_x):
        return learner.adapt(support_x, support_y, inner_steps).predict(query_x, verbose=0)

    x = specs.x_spec(learner.model)
    return x, specs.y_spec(learner, x), tuple(learner.model.output_shape), answer


def _readable(path, read, *arguments):
    """What `read` gives, or a ValueError that says in a line why there is nothing to be had."""
    try:
        return read(*arguments)
    except Exception as error:  # whatever broken bytes bring about in the readers below Keras
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    reason = f"{reason[:200]}…" if len(reason) > 200 else reason
    raise ValueError(
        "Expected a .keras file of a learner, or an exported model. Received: --model "
        f"{path}, which cannot be read: {reason}. Give another, or save it anew."
    )


def _version(path):
    if (path / "saved_model.pb").exists():
        return path
    versions = [p for p in path.iterdir() if p.name.isdigit() and (p / "saved_model.pb").exists()]
    if not versions:
        raise ValueError(
            "Expected a folder with saved_model.pb, or with versions 1/, 2/, … of an exported "
            f"model. Received: --model {path}, which holds {sorted(os.listdir(path))[:8]}."
        )
    return max(versions, key=lambda p: int(p.name))


def _open_export(path, inner_steps):
    graph_check.check(path)
    loaded = _readable(path, tf.saved_model.load, str(path))
    signature = loaded.signatures.get("serving_default")
    inputs = signature.structured_input_signature[1] if signature else {}
    if set(inputs) != {"support_x", "support_y", "query_x", "inner_steps"}:
        raise ValueError(
            "Expected an export of maml_tf.serving.export with one input and one output, whose "
            "default signature takes support_x, support_y, query_x and inner_steps. Received: "
            f"--model {path}, which takes {sorted(inputs) or 'nothing'}."
        )
    steps = _default_steps(path) if inner_steps is None else inner_steps

    def answer(support_x, support_y, query_x):
        scores = np.zeros([len(query_x), outputs[-1]], np.float32)
        parts = math.ceil(len(query_x) / _TOGETHER)
        for part in range(parts):
            # Where the queries' own mean and variance normalise them, what stands together
            # matters: every part gets some of each folder.
            try:
                answered = signature(
                    support_x=tf.constant(support_x),
                    support_y=tf.constant(support_y),
                    query_x=tf.constant(query_x[part::parts]),
                    inner_steps=tf.constant(steps, tf.int32),
                )
            except tf.errors.OpError as error:
                raise ValueError(
                    "Expected pictures and labels that the exported model answers. Received: "
                    f"--model {path}, which says: {requests.said(error)}"
                ) from error
            scores[part::parts] = answered["predictions"]
        return scores

    outputs = tuple(signature.structured_outputs["predictions"].shape)
    # The signature lives as long as what it was loaded from.
    answer.loaded = loaded
    return inputs["support_x"], inputs["support_y"], outputs, answer


def _default_steps(path):
    """The number of steps that the export was made for, which a served request may leave out."""
    content = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    signature = content.meta_graphs[0].signature_def["serving_default"]
    return int(tf.make_ndarray(signature.defaults["inner_steps"]))
