"""Times a meta-gradient of each real model beside a plain nested loop over `stateless_call`.

    python -m tests.benchmarks.strangers --rows "small GPT,convnet"

The plain loop is what one would write by hand: two tapes, one task after another, in one
`tf.function`. How far its meta-gradient is from ours is told where the model draws nothing at
random: TensorFlow's own second derivatives are not all right. (Where a plain loop cannot do it at
all, there is a dash.) In float32, on four tasks of four support and three query examples.

Both ways run in a process of their own, for their memory, and in turns, a fifth of a second each.
Times are of the processor (user and system, all threads), the median of the turns: others may use
the machine, but not so much that caches are all theirs.
"""

import argparse
import base64
import inspect
import json
import resource
import subprocess
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import maml_tf
from tests.strangers.rows import loss_of, task_batch
from tests.strangers.table import ROWS

TURN = 0.2  # seconds
ANSWER = "answer "  # before what a process tells, among what libraries print
WAYS = ("ours", "plain")


def plain(model, loss, rate):
    """A function that gives the meta-gradient of one inner step, as one would write it."""

    if isinstance(loss, str):
        of_examples = keras.losses.get(loss)
        loss = lambda y, y_pred: tf.reduce_mean(of_examples(y, y_pred))  # noqa: E731
    mode = {"training": True} if "training" in inspect.signature(model.call).parameters else {}

    def loss_at(weights, x, y):
        state = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
        y_pred, _, penalties = model.stateless_call(weights, state, x, return_losses=True, **mode)
        return loss(y, y_pred) + sum(penalties)

    @tf.function(autograph=False)
    def meta_gradient(inputs, query_y):
        weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
        gradients = []
        for task in range(query_y.shape[0]):
            parts = tf.nest.map_structure(lambda t: t[task], inputs)  # noqa: B023
            with tf.GradientTape(watch_accessed_variables=False) as outer:
                outer.watch(weights)
                with tf.GradientTape(watch_accessed_variables=False) as inner:
                    inner.watch(weights)
                    support = loss_at(weights, parts["support_x"], parts["support_y"])
                slopes = inner.gradient(support, weights, unconnected_gradients="zero")
                slopes = [tf.convert_to_tensor(g) for g in slopes]  # of embeddings too
                fast = [w - rate * g for w, g in zip(weights, slopes, strict=True)]
                query = loss_at(fast, parts["query_x"], query_y[task])
            of_task = outer.gradient(query, weights, unconnected_gradients="zero")
            gradients.append([tf.convert_to_tensor(g) for g in of_task])
        return [tf.add_n(g) / len(g) for g in zip(*gradients, strict=True)]

    return meta_gradient


def ours(model, loss, rate):
    """The same by a learner, losses before and after adaptation and predictions among it."""
    learner = maml_tf.MAML(model, rate)
    learner.compile("sgd", loss)
    function = tf.function(learner.meta_gradient, autograph=False)
    return lambda inputs, query_y: function(inputs, query_y)[1]


def answer(**values):
    """Tells the process that asks."""
    print(ANSWER + json.dumps(values), flush=True)


def take_turns(row, way):
    """One process: tells of its first call, then for every line that it reads of a turn."""
    keras.utils.set_random_seed(0)
    model = row.build()
    batch = task_batch(row, tasks=4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function = {"ours": ours, "plain": plain}[way](model, loss_of(row), row.rate)
    begin = time.process_time()
    gradient = np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in function(*batch)])
    first, steps = time.process_time() - begin, 1
    while True:  # how many steps are a turn
        begin = time.process_time()
        for _ in range(steps):
            function(*batch)[0].numpy()
        if time.process_time() - begin > TURN:
            break
        steps *= 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    answer(
        first_s=first,
        mb=peak / 1024,
        random=any(v.path.endswith("seed_generator_state") for v in model.variables),
        gradient=base64.b64encode(gradient.astype("float32").tobytes()).decode(),
    )
    for _ in sys.stdin:
        begin = time.process_time()
        for _ in range(steps):
            function(*batch)[0].numpy()
        answer(ms=1e3 * (time.process_time() - begin) / steps)


class Process:
    """A process that takes turns; what it tells is a dict, or None once it has ended."""

    def __init__(self, row, way):
        self.name = f"{row.name}, {way}"
        command = [sys.executable, "-m", "tests.benchmarks.strangers", "--rows", row.name]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        pipes["stderr"] = subprocess.STDOUT
        self.process = subprocess.Popen([*command, "--way", way], text=True, **pipes)

    def read(self):
        """The next answer; where there is none, the last line of the process is printed."""
        last = "no message"
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line[len(ANSWER) :])
            last = line.strip() or last
        print(f"{self.name}: {last[:200]}", file=sys.stderr)
        return None

    def turn(self):
        """Milliseconds a step in one turn."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()["ms"]

    def close(self):
        """Lets the process end."""
        self.process.stdin.close()
        self.process.wait()


def compare(row, turns):
    """What both ways tell of a row, None for a way that fails."""
    processes, told = [], []
    for way in WAYS:  # one after the other: tracing is long
        processes.append(Process(row, way))
        told.append(processes[-1].read())
    times = {i: [] for i, one in enumerate(told) if one is not None}
    for _ in range(turns):
        for i, of_way in times.items():
            of_way.append(processes[i].turn())
    for i, of_way in times.items():
        told[i]["ms"] = float(np.median(of_way))
    for process in processes:
        process.close()
    return told


def gradient_of(told):
    """The meta-gradient as one vector."""
    return np.frombuffer(base64.b64decode(told["gradient"]), "float32").astype("float64")


def line(row, both):
    """One row of the table."""
    cells = [row.name]
    for key, form in (("first_s", ".1f"), ("ms", ".2f"), ("mb", ".0f")):
        cells += ["–" if one is None else format(one[key], form) for one in both]
    off = "–"
    if None not in both and not both[0]["random"]:
        mine, theirs = map(gradient_of, both)
        off = f"{np.linalg.norm(mine - theirs) / np.linalg.norm(mine):.0e}"
    return f"| {' | '.join([*cells, off])} |"


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", help="names, with commas between; all by default")
    parser.add_argument("--turns", type=int, default=15, help="of each way, 0.2 s each")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.rows.split(",") if arguments.rows else [r.name for r in ROWS]
    unknown = sorted(set(names) - {row.name for row in ROWS})
    if unknown:
        parser.error(f"--rows: no rows {unknown}; there are {[row.name for row in ROWS]}")
    if arguments.turns < 1:
        parser.error(f"--turns: expected at least 1, received {arguments.turns}")
    rows = [row for row in ROWS if row.name in names and row.refused is None]
    if arguments.way:
        take_turns(rows[0], arguments.way)
        return
    print("| | first call, s: ours | plain | ms: ours | plain | MB: ours | plain | gradients off |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(line(row, compare(row, arguments.turns)), flush=True)


if __name__ == "__main__":
    main()
