"""Saved learners on LiteRT beside TensorFlow: what they answer, and how fast.

    python -m tests.benchmarks.litert agreement --data-dir DIR
    python -m tests.benchmarks.litert speed

`agreement` adapts to 600 held-out tasks by `learner.predict_path` and by the exported file, and
prints the largest difference of two predictions, the share of queries that both decide alike, and
both scores. `speed` measures size, memory, first call and later calls of `adapt`, each in a process
of its own that imports no TensorFlow for LiteRT and asks TensorFlow's C library for the SavedModel.
Times are of the processor; caches that others use make them longer all the same.
"""

import argparse
import ctypes
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
PHOTOGRAPHS = ("cifar_fs", "fc100", "mini_imagenet")
ALL = ("float32", "float16", "int8")


class Saved(NamedTuple):
    """A saved learner and the tasks that it is asked for."""

    name: str
    support: int
    queries: int
    steps: tuple  # of what the answers are compared
    settings: dict  # of the export
    shots: int = 1
    precisions: tuple = ("float32", "float16")

    @property
    def family(self):
        return self.name.removesuffix("_5shot")

    @property
    def ways(self):
        return self.support // self.shots

    def learner(self):
        import keras

        import maml_tf  # noqa: F401

        file = "learner.keras" if self.family == self.name else "learner_5shot.keras"
        return keras.saving.load_model(ROOT / "saved_models" / self.family / file)

    def tasks(self, number, data_dir):
        """Task batches of held-out tasks."""
        import maml_tf

        if self.name.startswith("sinusoid"):
            sizes = {"test_support": self.support, "test_query": self.queries}
            return maml_tf.tasks.sinusoid(meta_batch=25, test_tasks=number, **sizes)[2]
        few = {"meta_batch": 25, "test_tasks": number, "data_dir": data_dir, "test_queries": 1}
        family = self.family if self.family in PHOTOGRAPHS else "omniglot"
        return getattr(maml_tf.tasks, family)(self.ways, self.shots, **few)[2]

    def exported(self, folder, precision):
        import maml_tf

        path = pathlib.Path(folder) / f"{self.name}-{precision}.tflite"
        sizes = {"max_support": self.support, "max_queries": self.queries}
        return maml_tf.serving.export_litert(
            self.learner(), path, **sizes, precision=precision, **self.settings
        )


MODELS = (
    Saved("sinusoid", 10, 10, (0, 1, 10), {}),
    Saved("sinusoid_pretrained", 10, 10, (0, 1, 10), {}),
    Saved("omniglot", 5, 5, (0, 1, 3), {}),
    Saved("omniglot_20way", 20, 20, (0, 1, 3), {}),
    Saved("omniglot_20way_anil", 20, 20, (0, 1, 3), {}, precisions=ALL),
    Saved("omniglot_20way_anil_5shot", 100, 20, (0, 1, 3), {}, shots=5, precisions=ALL),
    Saved("omniglot_prototypical", 20, 20, (None,), {"max_ways": 20}, precisions=ALL),
    Saved("cifar_fs", 5, 5, (0, 1, 3), {}),
    Saved("cifar_fs_5shot", 25, 5, (0, 1, 3), {}, shots=5),
    Saved("fc100", 5, 5, (0, 1, 3), {}),
    Saved("fc100_5shot", 25, 5, (0, 1, 3), {}, shots=5),
    Saved("mini_imagenet", 5, 5, (0, 1, 3), {}),
    Saved("mini_imagenet_5shot", 25, 5, (0, 1, 3), {}, shots=5),
)


def agreement(saved, precisions, number, data_dir):
    """Rows of a table: one for each precision and number of steps."""
    import tensorflow as tf

    learner = saved.learner()
    most = max(step or 0 for step in saved.steps)
    steps = None if saved.steps == (None,) else most
    path = tf.function(lambda inputs: learner.predict_path(inputs, steps), autograph=False)
    tasks, wanted = [], []
    for inputs, query_y in saved.tasks(number, data_dir):
        wanted.append(path(inputs).numpy())
        tasks.append({k: v.numpy() for k, v in inputs.items()} | {"query_y": query_y.numpy()})
    wanted = np.concatenate(wanted)
    tasks = {name: np.concatenate([t[name] for t in tasks]) for name in tasks[0]}
    rows = []
    for precision in precisions:
        with tempfile.TemporaryDirectory() as folder:
            path = saved.exported(folder, precision)
            size, ask = path.stat().st_size, _runner(path, "adapt_and_predict")
            for steps in saved.steps:
                answers = np.stack([_answer(ask, tasks, i, steps) for i in range(len(wanted))])
                reference = wanted[:, 0 if steps is None else steps]
                rows.append(
                    [saved.name, precision, size, "" if steps is None else steps]
                    + _compared(answers, reference, tasks["query_y"])
                )
    return rows


def _answer(ask, tasks, i, steps):
    x = {name: tasks[name][i] for name in ("support_x", "support_y", "query_x")}
    counts = {
        "support_count": np.int32(len(x["support_x"])),
        "query_count": np.int32(len(x["query_x"])),
    }
    steps = {} if steps is None else {"inner_steps": np.int32(steps)}
    return ask(**x, **counts, **steps)["predictions"]


def _compared(answers, reference, y):
    """Largest difference, share of equal decisions, score of TensorFlow and of LiteRT."""
    difference = float(np.abs(answers - reference).max())
    if np.issubdtype(y.dtype, np.integer):
        decided, expected = answers.argmax(-1), reference.argmax(-1)
        alike = f"{100 * np.mean(decided == expected):.3f} % of {y.size:,}"
        scores = [f"{100 * np.mean(d == y):.2f} %" for d in (expected, decided)]
    else:
        alike = ""
        scores = [f"{np.mean((p - y) ** 2):.6f}" for p in (reference, answers)]
    return [f"{difference:.2g}", alike, *scores]


def _runner(path, signature):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path), num_threads=1).get_signature_runner(signature)


# Speed, in processes that know nothing but the file.


def measured(load, seconds, before):
    """Milliseconds of loading and the first call, of later ones, and MiB since `before`.

    Processor time of the whole process: what the clock says of one core that does nothing else.
    """
    start = time.process_time()
    ask = load()
    ask()
    first, times = time.process_time() - start, []
    while sum(times) < seconds or len(times) < 5:
        start = time.process_time()
        ask()
        times.append(time.process_time() - start)
    return [1e3 * first, 1e3 * float(np.median(times)), 1e3 * min(times), _peak() - before]


def _peak():
    """MiB; `getrusage` would count what the process was forked from."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def child(kind, path, seconds, *rest):
    """Measures one file; the row goes to the standard output."""
    before = _peak()
    arrays = {
        k: np.asarray(v["value"], v["dtype"]) for k, v in json.loads(sys.stdin.read()).items()
    }
    if kind == "litert":
        import ai_edge_litert.interpreter  # noqa: F401

        def load():
            runner = _runner(path, "adapt")
            return lambda: runner(**arrays)

    else:
        sys.path.insert(0, str(ROOT / "tests" / "serving"))
        from c_api import Session

        library, known = rest[0], json.loads(rest[1])["adapt"]
        arrays.pop("support_count")
        ctypes.CDLL(library)  # loading the library is no part of the time, but of the memory

        def load():
            session = Session(library, path)
            feeds = {known["inputs"][name]: array for name, array in arrays.items()}
            return lambda: session.run(feeds, known["outputs"])

    print(json.dumps(measured(load, float(seconds), before)))


def speed(saved, seconds, precisions):
    """Rows of a table: LiteRT for each precision, and TensorFlow."""
    import tensorflow as tf

    import maml_tf
    from tests.benchmarks.serving import names

    learner, random = saved.learner(), np.random.default_rng(0)
    x = random.random([saved.support, *learner.model.input_shape[1:]], np.float32)
    if saved.name.startswith("sinusoid"):
        y = x
    else:
        y = (np.arange(saved.support) % saved.ways).astype(np.int32)
    arrays = {"support_x": x, "support_y": y, "support_count": np.int32(saved.support)}
    if saved.steps != (None,):
        arrays["inner_steps"] = np.int32(saved.steps[-1])
    given = {k: {"value": v.tolist(), "dtype": str(v.dtype)} for k, v in arrays.items()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in precisions:
            path = saved.exported(folder, precision)
            row = _in_child(given, "litert", path, seconds)
            rows.append([saved.name, f"LiteRT, {precision}", path.stat().st_size, *row])
        path = maml_tf.serving.export(learner, pathlib.Path(folder) / "served", warm_up=False)
        size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        library = f"{tf.sysconfig.get_lib()}/libtensorflow_cc.so.2"
        row = _in_child(given, "tensorflow", path, seconds, library, json.dumps(names(path)))
        rows.append([saved.name, "TensorFlow", size, *row])
    return rows


def _in_child(given, kind, path, seconds, *rest):
    done = subprocess.run(
        ["taskset", "-c", "0", sys.executable, __file__, "child", kind, path, str(seconds), *rest],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _table(heads, rows):
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(f'{c:,.2f}' if isinstance(c, float) else str(c) for c in row)} |")


def main():
    """Prints the table of a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["agreement", "speed"])
    parser.add_argument("--models", nargs="*", default=[saved.name for saved in MODELS])
    parser.add_argument("--precisions", nargs="*", choices=ALL, help="all that there are")
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--data-dir", help="of TensorFlow Datasets, for pictures")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each row of speed")
    options = parser.parse_args()
    chosen = [saved for saved in MODELS if saved.name in options.models]
    if options.command == "agreement":
        heads = ["", "weights", "bytes", "steps", "largest difference", "same decisions"]
        heads += ["TensorFlow", "LiteRT"]
        for saved in chosen:
            precisions = options.precisions or saved.precisions
            _table(heads, agreement(saved, precisions, options.tasks, options.data_dir))
    else:
        heads = ["", "", "bytes", "load and first call, ms", "later, median ms", "least ms", "MiB"]
        for saved in chosen:
            precisions = options.precisions or saved.precisions
            _table(heads, speed(saved, options.seconds, precisions))


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["child"] else main()
