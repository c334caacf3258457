"""The card beside a file for LiteRT: what it is, what its signatures take, how to ask it."""

import json

import keras
import tensorflow as tf

from maml_tf import files

_README = """# {name}

{facts}
{measured}
## Signatures

{signatures}

Every input has the shape of the table: fill up what is shorter with anything. `support_count` and
`query_count` say how many rows count, from 1 on.{steps} An answer of NaN throughout says that a
count, a label or a number was wrong, or that the adaptation ran away. Rows of `predictions` from
`query_count` on are 0.

## Asking it

In Python, with `pip install ai-edge-litert`:

    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter("{file}")
    adapt = model.get_signature_runner("adapt")
    predict = model.get_signature_runner("predict_with")

    weights = adapt({adapt})
    answer = predict(**weights, {predict})

The same file runs in Kotlin, Swift, C++ and in a browser: see `docs/on-the-device.md` of maml_tf.
"""


def write(path, facts, functions):
    """Writes `….card.json` and `….md` beside a file.

    Args:
        path: `pathlib.Path` of the file.
        facts: dict of what its maker and the learner know; values that JSON can hold.
        functions: concrete functions by signature.
    """
    card = {
        "name": path.stem,
        **facts,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "signatures": {name: _signature(f) for name, f in functions.items()},
    }
    with files.whole(path.with_suffix(".card.json")) as beside:
        beside.write_text(json.dumps(card, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with files.whole(path.with_suffix(".md")) as beside:
        beside.write_text(_readme(card, path.name), encoding="utf-8")


def _signature(function):
    """Inputs and outputs of a concrete function: name, dtype and shape."""

    def described(tensors):
        return {
            name: {"dtype": tensors[name].dtype.name, "shape": tensors[name].shape.as_list()}
            for name in sorted(tensors)
        }

    return {
        "inputs": described(function.structured_input_signature[1]),
        "outputs": described(function.structured_outputs),
    }


def _readme(card, file):
    facts = [
        f"- {name.replace('_', ' ')}: {value}"
        for name, value in card.items()
        if name not in ("name", "signatures", "held_out_tasks")
    ]
    held_out = card.get("held_out_tasks")
    tables = []
    for name, signature in card["signatures"].items():
        rows = [
            f"| {kind} | `{tensor}` | {spec['dtype']} | {spec['shape']} |"
            for kind in ("inputs", "outputs")
            for tensor, spec in signature[kind].items()
        ]
        tables.append(
            "\n".join([f"`{name}`", "", "| | | dtype | shape |", "|---|---|---|---|", *rows])
        )
    steps = ""
    if "inner_steps" in card:
        steps = (
            f" `inner_steps` is how often the weights are changed, from 0 to "
            f"{card['max_inner_steps']}; {card['inner_steps']} is the usual number."
        )
    return _README.format(
        name=card["name"],
        facts="\n".join(facts),
        measured="" if held_out is None else _measured(held_out, card.get("inner_steps")),
        signatures="\n\n".join(tables),
        steps=steps,
        file=file,
        adapt=_given(card, "adapt"),
        predict=_given(card, "predict_with"),
    )


def _measured(told, steps):
    """Sizes and scores of all precisions, side by side."""
    after = "" if steps is None else f" after {steps} inner steps"
    rows = [
        f"| {name} | {row['bytes'] / 1000:,.0f} | {_number(row['score'], told)} | "
        f"{_share(row.get('same_decisions'))} | {_number(row['largest_difference'], {})} |"
        for name, row in told.items()
        if isinstance(row, dict)
    ]
    head = f"| weights | kB | {told['score']} | same decisions | largest difference |"
    lines = [
        f"Of {told['tasks']:,} held-out tasks{after}, for which TensorFlow's {told['score']} is "
        f"{_number(told['TensorFlow'], told)}:",
        "\n".join([head, "|---|---:|---:|---:|---:|", *rows]),
    ]
    return "\n## Sizes and scores\n\n" + "\n\n".join(lines) + "\n"


def _number(value, told):
    if value is None:
        return "not finite"
    return _share(value) if told.get("score") == "accuracy" else f"{value:.3g}"


def _share(value):
    return "" if value is None else f"{100 * value:.2f} %"


def _given(card, signature):
    """The arguments of a call, whose numbers stand for one's own."""
    given = {"inner_steps": card.get("inner_steps"), "support_count": 5, "query_count": 1}
    inputs = [n for n in card["signatures"][signature]["inputs"] if not n.startswith("weights")]
    return ", ".join(f"{n}=np.int32({given[n]})" if n in given else f"{n}={n}" for n in inputs)
