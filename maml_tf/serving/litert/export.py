"""A trained learner as one file that adapts on a phone, a board or in a browser.

The file holds the meta-learned weights, a loop of inner steps and the derivatives that these take,
made of LiteRT's own operations alone: whoever has it needs the LiteRT runtime and nothing else.
"""

import os
import pathlib
from typing import Any

import tensorflow as tf

from maml_tf import arguments, files
from maml_tf.learners.base.learner import BATCH_NORM
from maml_tf.serving import card as card_file
from maml_tf.serving import checks
from maml_tf.serving.litert import card as litert_card
from maml_tf.serving.litert import comparison, conversion, operations, ways
from maml_tf.serving.litert.functions import Functions
from maml_tf.serving.litert.weights import PRECISIONS

_ABOUT = ("method", "model", "parameters", "batch_norm", "inner_steps", "max_inner_steps") + (
    "max_support",
    "max_queries",
    "max_ways",
    "precision",
    "bytes",
    "held_out_tasks",
)


def export_litert(
    learner: Any,
    path: str | os.PathLike[str],
    *,
    max_support: int,
    max_queries: int,
    inner_steps: int | None = None,
    max_inner_steps: int = 100,
    max_ways: int | None = None,
    precision: str = "float32",
    batch_norm: str | None = None,
    card: dict[str, Any] | None = None,
    tasks: tf.data.Dataset | None = None,
    num_tasks: int = 100,
    x_spec: Any = None,
    y_spec: Any = None,
) -> pathlib.Path:
    """Writes one `.tflite` file that adapts to a task and predicts for it, on the device.

    Its signatures take tensors of fixed shapes, filled up with anything, and how many of their
    rows count; the answer is that of these rows alone:

    - `adapt`: `support_x` `[max_support, ...]`, `support_y` `[max_support, ...]`, `support_count`
      and `inner_steps` (int32 scalars) to `weights` `[P]`, all that was adapted;
    - `predict_with`: `weights` as `adapt` gave them, `query_x` `[max_queries, ...]` and
      `query_count` (int32 scalar) to `predictions` `[max_queries, ...]`, 0 where no query is;
    - `adapt_and_predict`: all of these but `weights` to `predictions`.

    A learner that takes no inner steps has no `inner_steps`. Where a model has several inputs or
    outputs, each tensor is an entry of its own: `support_x_0`, `support_x_1`, … in the order of
    `keras.tree.flatten`.

    LiteRT knows no error in the middle of a computation: counts out of range, labels that the model
    has no output for, numbers that are not finite, negative `inner_steps` and an adaptation that
    runs away are answered by NaN throughout.

    Time and memory grow with `max_support` and `max_queries`, however many of them count. Beside
    the file lie two more of its name, `….card.json` and `….md`: what it is, what its signatures
    take, and how to ask it.

    Args:
        learner: a compiled `maml_tf.Learner`, computing in float32.
        path: of the file to write, ending in `.tflite`; one that is there is replaced.
        max_support: `int`, the most support examples of a task.
        max_queries: `int`, the most queries that are predicted at a time.
        inner_steps: `int`, the number of steps that the card recommends; the learner's own number
            by default.
        max_inner_steps: `int`; who asks for more steps gets so many.
        max_ways: `int`, the most classes of a task, for a learner of any number of classes (and
            for no other). Predictions of classes without support examples are the lowest number
            there is, which softmax takes for impossible.
        precision: how weights are stored: `"float32"`; `"float16"`, in half the bytes; or
            `"int8"`, where kernels that do not adapt, but the first and the last of them, take a
            quarter of the bytes and other weights half of them. It is computed in float32 with
            what they are rounded to.
        batch_norm: in the place of the learner's own `batch_norm`, see `maml_tf.Learner`.
            `"support"` makes predictions depend on no other query, as those of `learner.adapt` do:
            for one picture at a time.
        card: dict of what the card should say beside what the learner knows, such as
            `{"data": ..., "accuracy": ..., "command": ..., "commit": ...}`: values that JSON holds.
        tasks: `tf.data.Dataset` of held-out task batches, such as the third that a family of tasks
            gives: the card then says how large the file is in each precision and what each answers
            on these tasks after `inner_steps`, side by side with TensorFlow. None of it is measured
            without them.
        num_tasks: `int`, how many of these tasks.
        x_spec: see `maml_tf.serving.export`.
        y_spec: see `maml_tf.serving.export`.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        RuntimeError: LiteRT computes something else than TensorFlow does.
        TypeError: no learner, no path, no number, no tasks, or specs that are no `tf.TensorSpec`.
        ValueError: the learner is not compiled; a number out of range; a card that JSON cannot
            hold; inputs or labels that are not known or that model or loss do not take; tasks that
            are no task batches, too few or too large; an operation that LiteRT lacks, with the
            layer that it belongs to.

    Example:
        >>> learner = maml_tf.MAML(maml_tf.models.sinusoid_mlp(), 0.01)
        >>> learner.compile(loss="mse")
        >>> path = maml_tf.serving.export_litert(
        ...     learner, "sinusoid.tflite", max_support=10, max_queries=3)
        >>> from ai_edge_litert.interpreter import Interpreter
        >>> ask = Interpreter(str(path)).get_signature_runner("adapt_and_predict")
        >>> x = np.linspace(-1, 1, 10, dtype=np.float32)[:, np.newaxis]
        >>> answer = ask(support_x=x, support_y=x, support_count=np.int32(10), query_x=x[:3],
        ...              query_count=np.int32(3), inner_steps=np.int32(5))
        >>> answer["predictions"].shape
        (3, 1)
    """
    checks.check_learner(learner)
    layers = operations.layers_of(learner)
    _check_float32(layers)
    path = _checked_path(path)
    steps, most = checks.check_steps(learner, inner_steps, max_inner_steps)
    limits = checks.check_limits(max_support, max_queries)
    arguments.choice("precision", precision, PRECISIONS)
    norm = learner.batch_norm
    if batch_norm is not None:
        norm = arguments.choice("batch_norm", batch_norm, BATCH_NORM)
    _check_frozen(learner, precision)
    card_file.check(card, _ABOUT)
    x_spec, y_spec = checks.check_specs(learner, x_spec, y_spec)
    _check_numbers(x_spec)
    num_tasks = arguments.integer("num_tasks", num_tasks, 1)
    if tasks is not None:
        comparison.check(tasks, learner.loss)
    of_ways = _of_known_ways(learner, max_ways)
    of_device = Functions(of_ways, None if steps is None else most, limits, norm, x_spec, y_spec)
    functions = of_device.all()
    asked, precisions = None, [precision]
    if tasks is not None:
        whole = functions["adapt_and_predict"]
        asked = comparison.requests_of(tasks, num_tasks, whole, limits, steps)
        precisions = [p for p in PRECISIONS if p != "int8" or _is_partly_frozen(learner)]
    contents = conversion.converted(functions, layers, precisions, of_device.requests())
    content = contents[precision]
    facts = card_file.about(learner, learner.model) | {"batch_norm": norm}
    facts |= {} if steps is None else {"inner_steps": steps, "max_inner_steps": most}
    facts |= {"max_support": limits.support, "max_queries": limits.queries}
    facts |= {} if max_ways is None else {"max_ways": int(max_ways)}
    facts |= {"precision": precision, "bytes": len(content)}
    if asked is not None:
        loss = None if of_device.are_classes else learner.loss
        measured = comparison.compared(contents, whole, asked, loss)
        facts["held_out_tasks"] = measured
    with files.whole(path) as beside:
        beside.write_bytes(content)
    litert_card.write(path, (card or {}) | facts, functions)
    return path


def _checked_path(path):
    """Refuses what no file can be written to; `pathlib.Path` of the others."""
    name = arguments.path("path", path, "the file to write, such as 'omniglot.tflite'")
    path = pathlib.Path(name)
    if path.suffix != ".tflite" or path.is_dir():
        raise ValueError(
            "Expected `path` of a file that ends in .tflite. Received: "
            f"path={name!r}. Give, for example, {str(path / 'learner.tflite')!r}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected `path` in a folder that exists. Received: path={name!r}, and "
            f"{str(path.parent)!r} is none. Make it first."
        )
    return path


def _check_float32(layers):
    """Refuses what computes in another precision: LiteRT does not."""
    for layer in layers:
        policy = layer.dtype_policy
        if (policy.compute_dtype, policy.variable_dtype) != ("float32", "float32"):
            raise ValueError(
                "Expected a model that computes in float32, as LiteRT does. Received: "
                f"{layer.name!r} of the policy {policy.name!r}. Build it with "
                '`dtype="float32"` and copy the weights; `precision="float16"` makes files small.'
            )


def _check_numbers(x_spec):
    """Refuses text, which LiteRT's operations make nothing of."""
    if any(spec.dtype == tf.string for spec in tf.nest.flatten(x_spec)):
        raise ValueError(
            "Expected a learner whose inputs are numbers, as LiteRT knows no text. Received: "
            f"inputs {x_spec}. Export the learner without its tokeniser (`learner.learner`, where "
            "`learner` is a `maml_tf.backbones.WithBackbone`), and make numbers of text before it."
        )


def _check_frozen(learner, precision):
    """Refuses int8 where there is nothing that it could be used for."""
    if precision == "int8" and not _is_partly_frozen(learner):
        raise ValueError(
            "Expected a learner with weights that do not adapt (`adaptable=`) for "
            f'`precision="int8"`, which is for these alone. Received: precision={precision!r} and '
            'a learner that adapts all of its weights. Give precision="float16".'
        )


def _is_partly_frozen(learner):
    adaptable = getattr(learner, "adaptable", False)
    return not (adaptable is None or (adaptable and all(adaptable)))


def _of_known_ways(learner, max_ways):
    """The learner, or one of up to `max_ways` classes."""
    free = ways.is_free(learner)
    if free and max_ways is None:
        raise ValueError(
            "Expected `max_ways`, the most classes of a task, for a learner of any number of "
            "classes: a file for LiteRT has fixed shapes. Received: max_ways=None. Give, for "
            "example, max_ways=20."
        )
    if not free and max_ways is not None:
        raise ValueError(
            "Expected no `max_ways`: this learner has a number of classes of its own. Received: "
            f"max_ways={max_ways!r}. Leave it out."
        )
    if not free:
        return learner
    return ways.up_to(learner, arguments.integer("max_ways", max_ways, 1, checks.MOST))
