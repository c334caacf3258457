"""The model card of an exported model: what it is, what its signatures take, how to ask it."""

import json
import pathlib

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

_README = """# {name}

{facts}

## Signatures

{signatures}

{note}

## Asking it

Served as `{name}`, for instance by

    docker run -p 8500:8500 -p 8501:8501 -v "$PWD:/models/{name}" -e MODEL_NAME={name} \\
        tensorflow/serving

REST (the numbers stand for your data):

    curl -d '{rest}' http://localhost:8501/v1/models/{name}:predict

gRPC, in Python with tensorflow-serving-api:

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "{name}"
    request.model_spec.signature_name = "{signature}"
{grpc}
    stub = prediction_service_pb2_grpc.PredictionServiceStub(
        grpc.insecure_channel("localhost:8500", [("grpc.max_receive_message_length", -1)])
    )
    {output} = tf.make_ndarray(stub.Predict(request, timeout=10).outputs["{output}"])
"""


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
    return {
        "method": type(learner).__name__,
        "model": model.name,
        "parameters": sum(v.value.shape.num_elements() for v in model.trainable_variables),
    }


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
    text = _readme(card, signature, output, note)
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


def _readme(card, asked, output, note):
    inputs = card["signatures"][asked]["inputs"]
    lines = [
        f"- {name.replace('_', ' ')}: {value}"
        for name, value in card.items()
        if name not in ("name", "signatures")
    ]
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
    rest = {name: _example(name, spec) for name, spec in inputs.items()}
    grpc = "\n".join(
        f'    request.inputs["{name}"].CopyFrom(tf.make_tensor_proto({name}, "{spec["dtype"]}"))'
        for name, spec in inputs.items()
    )
    body = json.dumps({"signature_name": asked, "inputs": rest})
    return _README.format(
        name=card["name"],
        facts="\n".join(lines),
        signatures="\n\n".join(tables),
        note=note,
        signature=asked,
        output=output,
        rest=body if len(body) < 400 else _shortened(asked, inputs),
        grpc=grpc,
    )


def _example(name, spec):
    """Zeros of the smallest shape that the input may have."""
    value = 1 if name == "inner_steps" else 0
    for size in reversed(spec["shape"]):
        value = [value] * max(size, 1)
    return value


def _shortened(signature, inputs):
    """The form of a REST request whose example would be long."""
    parts = [f'"{name}": {1 if name == "inner_steps" else "[...]"}' for name in inputs]
    return f'{{"signature_name": "{signature}", "inputs": {{{", ".join(parts)}}}}}'
