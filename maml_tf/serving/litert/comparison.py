"""Sizes of a file in all precisions, and what each answers on held-out tasks, for its card."""

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.evaluation.batches import check_tasks
from maml_tf.serving import requests
from maml_tf.serving.litert import trial

_SIGNATURE = "adapt_and_predict"
_PARTS = ("support_x", "support_y", "query_x")


def requests_of(tasks, num_tasks, function, limits, steps):
    """The first tasks of a data set as requests, and the labels of their queries.

    Args:
        tasks: `tf.data.Dataset` of task batches `(inputs, query_y)`, checked.
        num_tasks: int, how many tasks.
        function: concrete function of the signature `adapt_and_predict`.
        limits: `maml_tf.serving.requests.Limits` of the file.
        steps: int, inner steps; None for a learner that takes none.

    Returns:
        List of `(request, query_y)`: dict of arrays by name, and array `[Q, ...]`.

    Raises:
        ValueError: it ends early, its examples are others than the file's, or a task is larger than
            the file has room for.
    """
    specs = {spec.name: spec for spec in function.structured_input_signature[1].values()}
    found = []
    for inputs, query_y in tasks:
        for t in range(len(query_y)):
            one = tf.nest.map_structure(lambda part, t=t: part[t].numpy(), inputs)
            found.append((_request(one, specs, limits, steps), query_y[t].numpy()))
            if len(found) == num_tasks:
                return found
    raise ValueError(
        f"Expected `tasks` with at least num_tasks={num_tasks} tasks. Received: a data set that "
        f"ended after {len(found)}. Make it longer, or give another `num_tasks`."
    )


def check(tasks, loss):
    """Refuses what no score can be measured on.

    Args:
        tasks: anything.
        loss: of the learner, as Keras takes it.

    Raises:
        TypeError: no data set.
        ValueError: one of something else than task batches, or a learner of several outputs.
    """
    if keras.tree.is_nested(loss):
        raise ValueError(
            "Expected no `tasks` for a learner of several outputs, of which there is no one score. "
            f"Received: {arguments.received('tasks', tasks)}. Leave them out."
        )
    check_tasks(tasks)
    inputs, query_y = tasks.element_spec
    named = isinstance(inputs, dict) and set(inputs) == set(_PARTS)
    if not named or tf.nest.is_nested(query_y):
        raise ValueError(
            f"Expected `tasks` of batches (inputs, query_y), inputs with {list(_PARTS)}, and "
            f"query_y one tensor. Received: batches of {tasks.element_spec}. Leave weights out, or "
            "`tasks`."
        )


def _request(task, specs, limits, steps):
    """A task, filled up."""
    room = {"support_x": limits.support, "support_y": limits.support, "query_x": limits.queries}
    request = {} if steps is None else {"inner_steps": np.int32(steps)}
    for part, most in room.items():
        for name, array in requests.entries(part, task[part]).items():
            count = len(array)
            if count > most:
                raise ValueError(
                    f"Expected `tasks` of at most max_support={limits.support} support examples "
                    f"and max_queries={limits.queries} queries. Received: {name} of {count}. Give "
                    "smaller tasks, or make the file larger."
                )
            array = _as_the_file_has_it(name, array, specs.get(name))
            request[name] = np.pad(array, [(0, most - count)] + [(0, 0)] * (array.ndim - 1))
            request[part.replace("_x", "_count").replace("_y", "_count")] = np.int32(count)
    return request


def _as_the_file_has_it(name, array, spec):
    """Examples `[n, ...]` in the dtype of the file."""
    same = spec is not None and spec.shape[1:] == array.shape[1:]
    if not same or not np.can_cast(array.dtype, spec.dtype.as_numpy_dtype, "same_kind"):
        raise ValueError(
            f"Expected `tasks` of the examples and labels of the file, {name} of {spec}. Received: "
            f"{arguments.received(name, array)}. Give tasks such as the learner was trained on."
        )
    return array.astype(spec.dtype.as_numpy_dtype)


def compared(contents, function, asked, loss):
    """What the files of all precisions answer, beside TensorFlow.

    Args:
        contents: dict of `bytes` of a file by precision.
        function: concrete function of the signature `adapt_and_predict`, with one output.
        asked: what `requests_of` gave.
        loss: what the score is: None for the accuracy of classes, or else a loss as Keras takes it.

    Returns:
        Dict for a card: how many `tasks`, the name of the `score`, that of `TensorFlow`, and by
        precision a dict of `bytes`, `score` and `largest_difference` of two predictions; of classes
        also `same_decisions`, a share. None stands for what is not finite.
    """
    expected = []
    for request, y in asked:
        tensors = {name: tf.constant(array) for name, array in request.items()}
        expected.append(function(**tensors)["predictions"].numpy()[: len(y)])
    labels = [y for _, y in asked]
    told = {"tasks": len(asked), "score": "accuracy" if loss is None else _name(loss)}
    told["TensorFlow"] = _score(expected, labels, loss)
    for precision, content in contents.items():
        ask = trial.runner(content, _SIGNATURE)
        answers = [ask(**request)["predictions"][: len(y)] for request, y in asked]
        pairs = list(zip(answers, expected, strict=True))
        row = {"bytes": len(content), "score": _score(answers, labels, loss)}
        if loss is None:
            row["same_decisions"] = float(
                np.mean([np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in pairs])
            )
        row["largest_difference"] = _finite(max(np.abs(a - b).max() for a, b in pairs))
        told[precision] = row
    return told


def _score(answers, labels, loss):
    pairs = zip(answers, labels, strict=True)
    if loss is None:
        return float(np.mean([np.mean(answer.argmax(-1) == y) for answer, y in pairs]))
    measure = keras.losses.get(loss)
    return _finite(np.mean([np.mean(measure(y, answer)) for answer, y in pairs]))


def _name(loss):
    measure = keras.losses.get(loss)
    return getattr(measure, "name", None) or getattr(measure, "__name__", "loss")


def _finite(value):
    return float(value) if np.isfinite(value) else None
