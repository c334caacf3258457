"""The readable half of a model card: the `README.md` beside an exported model."""

import json
import math

_README = """# {name}

{facts}

## Signatures

{signatures}

A `?` is an axis of any size. {note}

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

# A dict of more entries than these is a table of its own.
_WITHIN_A_ROW = 6


def readme(card, asked, output, note):
    """The text of a card.

    Args:
        card: dict, what `card.json` holds.
        asked: str, the signature that the examples of requests ask.
        output: str, the output of it that they read.
        note: str, what the table of the signatures does not say.

    Returns:
        str, Markdown.
    """
    inputs = card["signatures"][asked]["inputs"]
    rest = {name: _example(name, spec) for name, spec in inputs.items()}
    body = json.dumps({"signature_name": asked, "inputs": rest})
    grpc = "\n".join(
        f'    request.inputs["{name}"].CopyFrom(tf.make_tensor_proto({name}, "{spec["dtype"]}"))'
        for name, spec in inputs.items()
    )
    return _README.format(
        name=card["name"],
        facts=_facts({k: v for k, v in card.items() if k not in ("name", "signatures")}),
        signatures=_signatures(card["signatures"]),
        note=note,
        signature=asked,
        output=output,
        rest=body if len(body) < 400 else _shortened(asked, inputs),
        grpc=grpc,
    )


def _facts(facts):
    """A table of what is short, then one of each dict that is long."""
    long = {k: v for k, v in facts.items() if isinstance(v, dict) and len(v) > _WITHIN_A_ROW}
    tables = [_table({k: v for k, v in facts.items() if k not in long})]
    for name, value in long.items():
        tables.append(f"## {_words(name).capitalize()}\n\n{_table(value)}")
    return "\n\n".join(tables)


def _table(facts):
    rows = [f"| {_words(name)} | {_cell(name, value)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(name, value):
    text = " ".join(_text(value).split()).replace("|", "\\|")
    return f"`{text}`" if name.endswith("command") and "`" not in text else text


def _words(name):
    return " ".join(str(name).replace("_", " ").split()).replace("|", "\\|")


def _text(value):
    """A value as one writes it: no brackets, no more digits than are read."""
    if isinstance(value, dict):
        return _measured(value) or ", ".join(f"{_words(k)} {_text(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return str(value) or "none"


def _measured(value):
    """A mean with its interval, or several of them, then what else is said of it."""
    mean, interval = value.get("mean"), value.get("interval")
    several = isinstance(mean, list)
    pairs = list(zip(mean, interval, strict=False)) if several else [(mean, interval)]
    if interval is None or not all(isinstance(n, (int, float)) for pair in pairs for n in pair):
        return None
    numbers = [_with_interval(*pair) for pair in pairs]
    after = f" after 0 to {len(pairs) - 1} steps" if several else ""
    metric = f"{_text(value['metric'])}: " if "metric" in value else ""
    parts = [metric + ", ".join(numbers) + after]
    others = {k: v for k, v in value.items() if k not in ("metric", "mean", "interval")}
    return "; ".join(parts + [f"{_words(k)}: {_text(v)}" for k, v in others.items()])


def _with_interval(mean, interval):
    """Both with as many decimals as leave the interval two digits."""
    if not interval > 0:
        return f"{_text(mean)} ± {_text(interval)}"
    decimals = min(max(1 - math.floor(math.log10(interval)), 0), 9)
    return f"{mean:,.{decimals}f} ± {interval:,.{decimals}f}"


def _signatures(signatures):
    rows = [
        f"| `{name}` | {_tensors(signature['inputs'])} | {_tensors(signature['outputs'])} |"
        for name, signature in signatures.items()
    ]
    return "\n".join(["| signature | takes | gives |", "|---|---|---|", *rows])


def _tensors(specs):
    return ", ".join(f"`{name}` {spec['dtype']}{_shape(spec)}" for name, spec in specs.items())


def _shape(spec):
    sizes = ", ".join("?" if size < 0 else str(size) for size in spec["shape"])
    return f" `[{sizes}]`" if sizes else ""


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
