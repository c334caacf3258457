"""How time and memory of a meta-gradient grow with tasks, ways, shots, inner steps and image size.

    python -m tests.benchmarks.growth --output growth.json --figure docs/figures/growth.png

One setting at a time moves away from 5-way 1-shot Omniglot with 8 tasks, one query a class and one
inner step; each point is a process of its own, so that its peak of memory is its own. What is timed
is one meta-gradient with the predictions before adaptation, as `fit` computes it, second order
beside first order; the inner steps also with `rematerialize=True`. Nothing else should run.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

BASE = {"tasks": 8, "ways": 5, "shots": 1, "steps": 1, "size": 28, "parallel": 2}
POINTS = {
    "tasks": (1, 2, 4, 8, 16, 32, 64),
    "ways": (2, 5, 10, 20, 40),
    "shots": (1, 2, 5, 10, 20),
    "steps": (1, 2, 5, 10, 20, 50, 100),
    "size": (28, 42, 56, 84),
    "parallel": (1, 2, 4, 8),
}
NAMES = {
    "tasks": "tasks in a meta-batch",
    "ways": "ways",
    "shots": "shots",
    "steps": "inner steps",
    "size": "height and width of images",
    "parallel": "tasks at the same time",
}
ORDERS = ("second", "first", "rematerialized")
LABELS = {
    "second": "second order",
    "first": "first order",
    "rematerialized": "second order, rematerialized",
}
# What is drawn: its key, its label, its ticks.
AXES = (
    ("ms", "a meta-gradient, ms", (3, 10, 30, 100, 300, 1000, 3000)),
    ("peak_mb", "peak memory, MB", (700, 1000, 1500, 2000, 3000)),
)


def measure(point):
    """Times one point in this process: a dict of milliseconds and megabytes."""
    import keras
    import tensorflow as tf
    from inputs import peak_mb

    import maml_tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(os.cpu_count())
    tasks, ways, size = point["tasks"], point["ways"], point["size"]
    learner = maml_tf.MAML(
        maml_tf.models.conv4(ways, input_shape=(size, size, 1)),
        0.4,
        point["steps"],
        first_order=point["order"] == "first",
        rematerialize=point["order"] == "rematerialized",
        parallel_tasks=point["parallel"],
    )
    learner.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)

    def examples(each):
        images = rng.uniform(size=(tasks, ways * each, size, size, 1)).astype(np.float32)
        return images, np.tile(np.arange(ways), (tasks, each))

    support_x, support_y = examples(point["shots"])
    query_x, query_y = examples(1)
    inputs = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
    inputs, query_y = tf.nest.map_structure(tf.constant, (inputs, query_y))
    gradient = tf.function(functools.partial(learner.meta_gradient, inputs, query_y))
    begin = time.perf_counter()
    gradient()
    first, clock, processors = time.perf_counter() - begin, [], []
    while len(clock) < 3 or sum(clock) < 3:
        begin = time.perf_counter(), time.process_time()
        gradient()
        clock.append(time.perf_counter() - begin[0])
        processors.append(time.process_time() - begin[1])
    return {
        "ms": float(np.median(clock) * 1e3),
        "processor_ms": float(np.median(processors) * 1e3),
        "first_call_s": first,
        "peak_mb": peak_mb(),
    }


def points():
    """What is measured: (the setting that moves, the point)."""
    for name, values in POINTS.items():
        for order in ORDERS if name == "steps" else ORDERS[:2]:
            for value in values:
                yield name, {**BASE, name: value, "order": order}


def run_all():
    """Measures every point in a process of its own; the point of rest is measured once."""
    lines, known = [], {}
    for name, point in points():
        key = json.dumps(point)
        if key not in known:
            command = [sys.executable, "-m", "tests.benchmarks.growth", "--point", key]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            known[key] = json.loads(done.stdout.strip().splitlines()[-1])
        lines.append({"moves": name, **point, **known[key]})
        print(json.dumps(lines[-1]), flush=True)
    return lines


def table(lines, name):
    """Markdown: a row for each value of one setting."""
    head = f"| {NAMES[name]} | " + " | ".join(map(str, POINTS[name])) + " |"
    rows = [head, "|---" * (len(POINTS[name]) + 1) + "|"]
    for order in ORDERS:
        found = [line for line in lines if line["moves"] == name and line["order"] == order]
        for key, unit in (("ms", "ms"), ("peak_mb", "MB")) if found else ():
            cells = " | ".join(f"{line[key]:,.0f}" for line in found)
            rows.append(f"| {order}, {unit} | {cells} |")
    return "\n".join(rows)


def draw(lines, path):
    """One figure: of each setting the time, and below it the memory; three settings in a row."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(10, 10), layout="constrained")
    axes = figure.subplots(4, 3)
    for i, name in enumerate(POINTS):
        column = axes[2 * (i // 3) : 2 * (i // 3) + 2, i % 3]
        for order in ORDERS:
            found = [line for line in lines if line["moves"] == name and line["order"] == order]
            for axis, (key, _, _) in zip(column, AXES, strict=True):
                if found:
                    values = [line[key] for line in found]
                    axis.plot([line[name] for line in found], values, ".-", label=LABELS[order])
        for axis, (key, label, ticks) in zip(column, AXES, strict=True):
            axis.set(xscale="log", yscale="log", xlabel=NAMES[name])
            axis.set_xticks(POINTS[name], map(str, POINTS[name]))
            axis.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            every = [line[key] for line in lines]
            axis.set_ylim(0.85 * min(every), 1.2 * max(every))
            if i % 3 == 0:
                axis.set_ylabel(label)
    handles, labels = axes[2, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(ORDERS), frameon=False)
    figure.savefig(path, dpi=100)


def main():
    """Measures one point, or all of them, and prints tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("growth.json"))
    parser.add_argument("--figure", type=pathlib.Path, help="where the figure is written")
    parser.add_argument("--draw", action="store_true", help="from what --output holds already")
    arguments = parser.parse_args()
    if arguments.point:
        sys.path.insert(0, os.path.dirname(__file__))
        print(json.dumps(measure(arguments.point)))
        return
    if not arguments.draw:
        arguments.output.write_text(json.dumps(run_all(), indent=1) + "\n")
    lines = json.loads(arguments.output.read_text())
    for name in POINTS:
        print(f"\n{table(lines, name)}")
    if arguments.figure:
        draw(lines, arguments.figure)


if __name__ == "__main__":
    main()
