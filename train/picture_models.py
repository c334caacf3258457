"""Models that adapt to pictures, trained or exported, behind one function: for `train.adapt`."""

import math
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from maml_tf.learners.base import specs
from maml_tf.serving import requests
from train import graph_check, heads, model_files

# Queries that an exported model is given at a time: so many 84x84 pictures take about half a
# gigabyte in a network of 32 filters.
_TOGETHER = 500


class Model(NamedTuple):
    """A model that adapts.

    Attributes:
        shape: `(height, width, channels)` of a picture.
        outputs: int, classes that the model tells apart; None for as many as there are.
        y_spec: `tf.TensorSpec`, labels `[None]`, or one-hot `[None, outputs]`.
        answer: function of support images `[S, height, width, channels]`, labels and query images:
            scores `[Q, outputs]`, logits or probabilities.
        backbone: `keras.Model` from pictures to features that it stands on; None where it has
            none or it is not known, as of an exported model.
    """

    shape: tuple
    outputs: int
    y_spec: tf.TensorSpec
    answer: Callable
    backbone: Any = None


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
    backbone = None
    if path.is_file():
        x, y, outputs, answer, backbone = _open_learner(path, inner_steps)
    elif path.is_dir():
        x, y, outputs, answer = _open_export(_version(path), inner_steps)
    else:
        raise ValueError(
            f"Expected a .keras file or the folder of an exported model. Received: --model {path}, "
            "which does not exist. Give one that does, such as saved_models/omniglot."
        )
    shape = tuple(x.shape[1:]) if isinstance(x, tf.TensorSpec) else ()
    classes = outputs[-1] if len(outputs) == 2 else None
    # Class means have as many outputs as the support set names classes.
    few = len(outputs) != 2 or (classes is not None and classes < 2)
    if len(shape) != 3 or None in shape or shape[-1] not in (1, 3) or few:
        raise ValueError(
            "Expected a model that takes pictures [height, width, 1 or 3] of a fixed size and "
            f"gives a number for each class. Received: --model {path} with inputs {x} and outputs "
            f"of shape {outputs}. Give another model."
        )
    return Model(shape, classes, y, answer, backbone)


def of_backbone(backbone):
    """Class means of the features of a backbone, which need no training: a `Model`.

    Args:
        backbone: `keras.Model` from pictures in [0, 1] to features.
    """
    learner = heads.nearest_means(backbone)

    def answer(support_x, support_y, query_x):
        return learner.adapt(support_x, support_y).predict(query_x, verbose=0)

    y = tf.TensorSpec([None], tf.int32)
    return Model(tuple(backbone.input_shape[1:]), None, y, answer, backbone)


def _open_learner(path, inner_steps):
    learner = model_files.open_learner(path, f"--model {path}")

    def answer(support_x, support_y, query_x):
        return learner.adapt(support_x, support_y, inner_steps).predict(query_x, verbose=0)

    x = specs.example_spec(learner)
    backbone = getattr(learner, "backbone", None)
    outputs = tuple(specs.output_spec(learner, x).shape)
    return x, specs.y_spec(learner, x), outputs, answer, backbone


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
    with model_files.reading(f"--model {path}", "an exported model"):
        loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures.get("serving_default")
    inputs = signature.structured_input_signature[1] if signature else {}
    if set(inputs) - {"inner_steps"} != {"support_x", "support_y", "query_x"}:
        raise ValueError(
            "Expected an export of maml_tf.serving.export with one input and one output, whose "
            "default signature takes support_x, support_y and query_x. Received: "
            f"--model {path}, which takes {sorted(inputs) or 'nothing'}."
        )
    steps = {}
    if "inner_steps" in inputs:
        inner_steps = _default_steps(path) if inner_steps is None else inner_steps
        steps["inner_steps"] = tf.constant(inner_steps, tf.int32)
    elif inner_steps is not None:
        raise ValueError(
            "Expected no --inner-steps for a model that adapts without any. Received: "
            f"--inner-steps {inner_steps}. Leave it out."
        )

    def answer(support_x, support_y, query_x):
        classes = outputs[-1] or int(np.max(support_y)) + 1
        scores = np.zeros([len(query_x), classes], np.float32)
        parts = math.ceil(len(query_x) / _TOGETHER)
        for part in range(parts):
            # Where the queries' own mean and variance normalise them, what stands together
            # matters: every part gets some of each folder.
            try:
                answered = signature(
                    support_x=tf.constant(support_x),
                    support_y=tf.constant(support_y),
                    query_x=tf.constant(query_x[part::parts]),
                    **steps,
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
