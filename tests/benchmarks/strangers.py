"""Times a meta-gradient of each real model beside a plain nested loop over `stateless_call`.

    python -m tests.benchmarks.strangers --rows "small GPT,convnet"

Every line is a process of its own. The plain loop is what one would write by hand: two tapes, one
task after another, in one `tf.function`. How far its meta-gradient is from ours is told where the
model draws nothing at random: TensorFlow's own second derivatives are not all right. (What a plain
loop cannot do at all is a dash.) In float32; nothing else should run.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

import maml_tf
from tests.strangers.rows import loss_of, task_batch
from tests.strangers.table import ROWS


def plain(model, loss, rate, inputs, query_y):
    """A function that gives the meta-gradient of one inner step, as one would write it."""
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    state = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]

    def loss_at(fast, x, y):
        y_pred, _, penalties = model.stateless_call(
            fast, state, x, training=True, return_losses=True
        )
        return loss(y, y_pred) + sum(penalties)

    @tf.function(autograph=False)
    def meta_gradient():
        gradients = []
        for task in range(query_y.shape[0]):
            parts = tf.nest.map_structure(lambda t: t[task], inputs)  # noqa: B023
            with tf.GradientTape(watch_accessed_variables=False) as outer:
                outer.watch(weights)
                with tf.GradientTape(watch_accessed_variables=False) as inner:
                    inner.watch(weights)
                    support = loss_at(weights, parts["support_x"], parts["support_y"])
                slopes = inner.gradient(support, weights)
                fast = [
                    w if g is None else w - rate * g for w, g in zip(weights, slopes, strict=True)
                ]
                query = loss_at(fast, parts["query_x"], query_y[task])
            gradients.append(outer.gradient(query, weights, unconnected_gradients="zero"))
        return [tf.add_n(g) / len(g) for g in zip(*gradients, strict=True)]

    return meta_gradient


def ours(model, loss, rate, inputs, query_y):
    """The same by a learner, losses before and after adaptation and predictions among it."""
    learner = maml_tf.MAML(model, rate)
    learner.compile("sgd", loss)
    function = tf.function(lambda: learner.meta_gradient(inputs, query_y), autograph=False)
    return lambda: function()[1]


def measure(row, way, seconds):
    """One line: seconds of the first call, milliseconds of the others, and memory beyond it."""
    keras.utils.set_random_seed(0)
    model = row.build()
    inputs, query_y = task_batch(row)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function = {"ours": ours, "plain": plain}[way](model, loss_of(row), row.rate, inputs, query_y)
    begin = time.perf_counter()
    gradient = np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in function()])
    traced, times = time.perf_counter() - begin, []
    while sum(times) < seconds or len(times) < 5:
        begin = time.perf_counter()
        function()[0].numpy()
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "first_s": traced,
        "ms": 1e3 * float(np.median(times)),
        "mb": peak / 1024,
        "random": any(v.path.endswith("seed_generator_state") for v in model.variables),
        "gradient": gradient.astype(float).tolist(),
    }


def in_process(row, way, seconds):
    """`measure` in a process of its own, or None with the reason on standard error."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "tests.benchmarks.strangers", "--rows", row.name]
        command += ["--way", way, "--seconds", str(seconds), "--output", file.name]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"{row.name}, {way}: {reason[:200]}", file=sys.stderr)
            return None
        return json.load(file)


def line(row, both):
    """One row of the table."""
    cells = [row.name]
    for key, form in (("first_s", ".1f"), ("ms", ".2f"), ("mb", ".0f")):
        cells += ["–" if one is None else format(one[key], form) for one in both]
    off = "–"
    if None not in both and not both[0]["random"]:
        mine, theirs = (np.array(one["gradient"]) for one in both)
        off = f"{np.linalg.norm(mine - theirs) / np.linalg.norm(mine):.0e}"
    return f"| {' | '.join([*cells, off])} |"


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", help="names, with commas between; all by default")
    parser.add_argument("--seconds", type=float, default=1.0, help="timed in each process")
    parser.add_argument("--way", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.rows.split(",") if arguments.rows else [r.name for r in ROWS]
    unknown = sorted(set(names) - {row.name for row in ROWS})
    if unknown:
        parser.error(f"--rows: no rows {unknown}; there are {[row.name for row in ROWS]}")
    rows = [row for row in ROWS if row.name in names and row.refused is None]
    if arguments.way:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(measure(rows[0], arguments.way, arguments.seconds), file)
        return
    print("| | first call, s: ours | plain | ms: ours | plain | MB: ours | plain | gradients off |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        both = [in_process(row, way, arguments.seconds) for way in ("ours", "plain")]
        print(line(row, both), flush=True)


if __name__ == "__main__":
    main()
