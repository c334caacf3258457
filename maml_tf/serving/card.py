"""The model card of an exported model: what it is, what its signatures take, how to ask it.

`card.json` holds it for programs, `README.md` (see `card_text`) for people.
"""

import json
import pathlib

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from maml_tf.serving import card_text

# What a card says of every export.
_ALWAYS = ("name", "tensorflow", "keras", "signatures")


def check(card, others):
    """Refuses facts for a card that it cannot hold; they are the `card` argument of an export.

    Args:
        card: None or dict.
        others: names of the facts that the export itself writes.

    Raises:
        ValueError: no dict by str, a value that JSON cannot hold, or a fact that the export writes.
    """
    if card is None:
        return
    if not isinstance(card, dict) or not all(isinstance(key, str) for key in card):
        raise ValueError(
            "Expected `card`: a dict of facts by name, such as {'data': 'sine waves'}. Received: "
            f"card={card!r}. Give each fact a name, which is text."
        )
    for key, value in card.items():
        if key in (*_ALWAYS, *others):
            raise ValueError(
                f"Expected `card` without {key!r}, which the export itself writes. Received: "
                f"card[{key!r}]={value!r}. Give it another name."
            )
        try:
            json.dumps(value, allow_nan=False)
            key.encode(), json.dumps(value, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                "Expected `card` with values that JSON can hold: numbers that are finite, str, "
                "bool, None, lists and dicts of them. Received: "
                f"card[{key!r}]={value!r} ({error}). Convert it, or leave it out."
            ) from None


def about(learner, model):
    """What a card says of every learner: dict of its method, its `model`'s name and size."""
    backbone = getattr(learner, "backbone", None)
    facts = {
        "method": type(learner if backbone is None else learner.learner).__name__,
        "model": model.name,
        "parameters": _count(model.trainable_variables),
    }
    if backbone is not None:
        frozen = f"{backbone.name}, frozen, {_count(backbone.variables):,} parameters"
        facts["backbone"] = frozen
    return facts


def _count(variables):
    return sum(v.value.shape.num_elements() for v in variables)


def write(folder, name, facts, signature, output, note):
    """Writes `card.json` and `README.md` into an exported version.

    Args:
        folder: path of the version, already written by `tf.saved_model.save`.
        name: str, under which the model is to be served.
        facts: dict of what its maker knows, such as "data", "accuracy", "command", "commit", and
            of what the learner is; values that JSON can hold.
        signature: str, the one that the examples of requests ask.
        output: str, the output of it that they read.
        note: str, what the tables of the signatures do not say.
    """
    folder = pathlib.Path(folder)
    card = {
        "name": name,
        **facts,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "signatures": _signatures(folder),
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2, allow_nan=False) + "\n")
    text = card_text.readme(card, signature, output, note)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _signatures(folder):
    """Inputs and outputs of each signature: name, dtype and shape, -1 where it is free."""
    content = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    found = content.meta_graphs[0].signature_def

    def described(tensors):
        return {
            name: {
                "dtype": tf.as_dtype(tensors[name].dtype).name,
                "shape": [dim.size for dim in tensors[name].tensor_shape.dim],
            }
            for name in sorted(tensors)
        }

    return {
        name: {"inputs": described(found[name].inputs), "outputs": described(found[name].outputs)}
        for name in sorted(found)
        if not name.startswith("__")
    }
