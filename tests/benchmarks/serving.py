"""Latency and requests a second of the saved models: `python -m tests.benchmarks.serving`.

Each model is loaded and asked through TensorFlow's C API in a process of its own, as TensorFlow
Serving does it, without the network and the protocol. Cold is the first request after loading; with
the warm-up requests the server has that behind it before it takes any.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
MODELS = ("sinusoid", "omniglot")
SHAPES = {
    "sinusoid": {"support_x": [10, 1], "support_y": [10, 1], "query_x": [10, 1]},
    "omniglot": {"support_x": [5, 28, 28, 1], "support_y": [5], "query_x": [5, 28, 28, 1]},
}


def task(model):
    """One task's arrays by name."""
    random = np.random.default_rng(0)
    arrays = {name: random.random(shape, np.float32) for name, shape in SHAPES[model].items()}
    if model == "omniglot":
        arrays["support_y"] = np.arange(5, dtype=np.int32)
    return arrays


def names(folder):
    """Tensor names of all signatures: `{signature: {"inputs": {…}, "outputs": […]}}`."""
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return {
        name: {
            "inputs": {key: tensor.name for key, tensor in signature.inputs.items()},
            "outputs": [tensor.name for tensor in signature.outputs.values()],
        }
        for name, signature in content.meta_graphs[0].signature_def.items()
    }


def measure(session, known, model, seconds):
    """Milliseconds of a request and requests a second, by what is asked and number of steps."""
    arrays = task(model)

    def asker(signature, **inputs):
        feeds = {known[signature]["inputs"][key]: array for key, array in inputs.items()}
        return lambda: session.run(feeds, known[signature]["outputs"])

    def request(steps):
        return asker("adapt_and_predict", **arrays, inner_steps=np.array(steps, np.int32))

    rows = []
    for steps in (1, 5):
        rows.append((f"adapt and predict, inner_steps={steps}", *timed(request(steps), seconds)))
    support = {key: arrays[key] for key in ("support_x", "support_y")}
    weights = asker("adapt", **support, inner_steps=np.array(1, np.int32))()
    (flat,) = weights.values()
    later = asker("predict_with", weights=flat, query_x=arrays["query_x"])
    rows.append(("predict with adapted weights", *timed(later, seconds)))
    return rows


def timed(ask, seconds):
    """First request, median, 99th percentile in ms; requests a second of 8 threads."""
    start = time.perf_counter()
    ask()
    cold, times = time.perf_counter() - start, []
    while sum(times) < seconds:
        start = time.perf_counter()
        ask()
        times.append(time.perf_counter() - start)
    count = max(80, int(seconds / np.median(times)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        start = time.perf_counter()
        list(pool.map(lambda _: ask(), range(count)))
        rate = count / (time.perf_counter() - start)
    return 1e3 * cold, *(1e3 * np.percentile(times, [50, 99])), rate


def child(library, folder, model, seconds):
    """Measures in a process that imports no TensorFlow; the rows go to the standard output."""
    sys.path.insert(0, str(ROOT / "tests" / "serving"))
    from c_api import Session

    known = json.loads(sys.stdin.read())
    print(json.dumps(measure(Session(library, folder), known, model, float(seconds))))


def main():
    """Prints one table a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each row")
    options = parser.parse_args()
    import tensorflow as tf

    library = f"{tf.sysconfig.get_lib()}/libtensorflow_cc.so.2"
    for model in MODELS:
        folder = ROOT / "saved_models" / model / "1"
        done = subprocess.run(
            [sys.executable, __file__, library, str(folder), model, str(options.seconds)],
            input=json.dumps(names(folder)),
            capture_output=True,
            text=True,
            check=True,
        )
        print(f"\n{model}\n\n| | first, ms | median, ms | 99 %, ms | requests/s, 8 threads |")
        print("|---|---|---|---|---|")
        for name, cold, median, tail, rate in json.loads(done.stdout.splitlines()[-1]):
            print(f"| {name} | {cold:.0f} | {median:.2f} | {tail:.2f} | {rate:,.0f} |")


if __name__ == "__main__":
    child(*sys.argv[1:]) if len(sys.argv) == 5 else main()
