import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import models
from maml_tf.learners.base import task_map
from tests.problems import (
    compiled,
    conv_by_hand,
    conv_model,
    dense_by_hand,
    dense_model,
    layers,
    maml_by_hand,
    relative_error,
    task_batch,
    traced_meta_gradient,
)

WAYS = [
    pytest.param("auto", None, id="auto"),
    pytest.param("loop", 1, id="loop-1"),
    pytest.param("loop", 4, id="loop-4"),
    pytest.param("loop", None, id="loop-cores"),
    pytest.param("vectorized", None, id="vectorized"),
]


def describe(task, index):
    """What is summed: a structure, an integer, nothing; what is stacked: numbers and names."""
    scaled = task["x"] * tf.cast(index + 1, task["x"].dtype)
    summed = {"scaled": scaled, "count": tf.ones([], tf.int32), "nothing": []}
    return summed, (scaled[0], {"index": index, "label": task["y"]})


@pytest.mark.parametrize(("strategy", "parallel"), WAYS)
@pytest.mark.parametrize("how", ["eager", "graph", "unknown-size", "xla"])
def test_every_way_sums_and_stacks_in_the_order_of_tasks(strategy, parallel, how):
    x = np.arange(14.0, dtype="float32").reshape(7, 2)
    tasks = {"x": tf.constant(x), "y": tf.range(7) * 10}

    def mapped(tasks):
        return task_map.map_tasks(describe, tasks, strategy, parallel)

    if how != "eager":
        spec = {"x": tf.TensorSpec([None, 2]), "y": tf.TensorSpec([None], tf.int32)}
        mapped = tf.function(
            mapped,
            input_signature=[spec] if how == "unknown-size" else None,
            autograph=False,
            jit_compile=how == "xla",
        )
    summed, (first, named) = mapped(tasks)
    numbers = np.arange(1, 8)[:, None]
    np.testing.assert_array_equal(summed["scaled"], (x * numbers).sum(0))
    assert summed["count"].numpy() == 7
    assert summed["nothing"] == []
    np.testing.assert_array_equal(first, (x * numbers)[:, 0])
    np.testing.assert_array_equal(named["index"], range(7))
    np.testing.assert_array_equal(named["label"], tasks["y"])


@pytest.mark.parametrize("strategy", ["loop", "vectorized", "auto"])
@pytest.mark.parametrize("how", ["eager", "graph", "unknown-size"])
def test_the_mean_over_tasks_in_the_place_of_the_sum(strategy, how):
    x = np.arange(6.0, dtype="float64").reshape(3, 2) ** 2

    def mean(tasks):
        def function(task, index):
            half = tf.cast(task["x"], tf.float16)
            summed = {"square": task["x"] ** 2, "half": half, "nothing": []}
            return summed, {"index": index, "first": task["x"][0]}

        return task_map.task_mean(function, tasks, strategy)

    if how != "eager":
        spec = {"x": tf.TensorSpec([None if how == "unknown-size" else 3, 2], tf.float64)}
        mean = tf.function(mean, input_signature=[spec], autograph=False)
    means, stacks = mean({"x": tf.constant(x)})
    np.testing.assert_allclose(means["square"], np.mean(x**2, 0), rtol=1e-15)
    np.testing.assert_allclose(means["half"], np.mean(x, 0), rtol=1e-3)
    assert (means["square"].dtype, means["half"].dtype) == (tf.float64, tf.float16)
    assert means["nothing"] == []
    np.testing.assert_array_equal(stacks["index"], [0, 1, 2])
    np.testing.assert_array_equal(stacks["first"], x[:, 0])


def test_auto_loops_over_convolutions_and_recurrent_layers():
    recurrent = keras.Sequential([keras.Input((3, 2)), layers.GRU(2)])
    nested = keras.Sequential([keras.Input((6, 6, 1)), conv_model()])
    # Left to `map_tasks`, which vectorises what it can.
    assert task_map.choose("auto", dense_model()) == "auto"
    assert task_map.choose("auto", models.sinusoid_mlp()) == "auto"
    for model in (conv_model(), nested, recurrent):
        assert task_map.choose("auto", model) == "loop"
        assert task_map.choose("vectorized", model) == "vectorized"
    with pytest.raises(ValueError, match=r"`task_map` must be one of .* Received: 'map_fn'"):
        task_map.choose("map_fn", dense_model())


def loops(graph):
    """Whether tasks go one by one: in a `tf.while_loop`."""
    nodes = [node for f in graph.as_graph_def().library.function for node in f.node_def]
    return any("While" in node.op for node in [*graph.as_graph_def().node, *nodes])


@pytest.mark.parametrize(
    ("layer", "jit_compile", "expected"),
    [
        (layers.Conv2D(3, 3), True, "auto"),
        (layers.Conv2D(3, 3), False, "loop"),
        (layers.Conv2D(2, 3, groups=2), True, "loop"),
        (layers.DepthwiseConv2D(3), True, "loop"),
    ],
    ids=["plain", "not-compiled", "groups", "depthwise"],
)
def test_auto_vectorises_plain_convolutions_that_xla_compiles_for_a_gpu(
    layer, jit_compile, expected, monkeypatch
):
    model = keras.Sequential([keras.Input((8, 8, 2)), layer, layers.Flatten(), layers.Dense(2)])
    model.compile(jit_compile=jit_compile)
    assert task_map.choose("auto", model) == "loop"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert task_map.choose("auto", model) == expected


def test_a_convolutional_learner_gives_the_same_vectorised_under_xla():
    """State that no task changes, as of batch normalisation, goes through the map as well."""
    batch = task_batch((6, 6, 1), tasks=3)
    gradients = []
    for way, jit_compile in (("loop", False), ("vectorized", True)):
        learner = compiled(conv_model(), inner_steps=2, task_map=way, jit_compile=jit_compile)
        gradients.append(traced_meta_gradient(learner, *batch)()[1])
    assert relative_error(*gradients) < 1e-5


def test_auto_vectorises_what_has_no_control_flow():
    learner = compiled(dense_model())
    assert not loops(traced_meta_gradient(learner, *task_batch()).get_concrete_function().graph)


def small_gpt():
    x = inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(5, 4)(x)
    x += layers.MultiHeadAttention(2, 2)(x, x, use_causal_mask=True)
    x = layers.EinsumDense("abc,cde->abde", (4, 2, 2))(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


def test_auto_vectorises_the_kernels_of_attention():
    """They are of rank 3, and nothing but matrices: half the time of the loop."""
    model, rng = small_gpt(), np.random.default_rng(0)
    inputs, query_y = task_batch((4,))
    for name in ("support_x", "query_x"):
        inputs[name] = tf.constant(rng.integers(0, 5, inputs[name].shape), tf.int32)
    auto, loop = (
        traced_meta_gradient(compiled(model, task_map=way), inputs, query_y)
        for way in ("auto", "loop")
    )
    assert relative_error(auto()[1], loop()[1]) < 1e-5
    assert not loops(auto.get_concrete_function().graph)
    beside = keras.Sequential([keras.Input((4, 4)), layers.EinsumDense("abc,cde->abde", (4, 2, 2))])
    assert task_map.choose("auto", beside) == "auto"
    beside.add(layers.Conv2D(2, 1))
    assert task_map.choose("auto", beside) == "loop"


def network(*inside):
    return keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), *inside, layers.Dense(2)])


def either(x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.sin(x), lambda: tf.cos(x))


def repeated(x):
    return tf.while_loop(
        lambda i, y: i < 2, lambda i, y: (i + 1, tf.sin(y)), (0, x), maximum_iterations=2
    )[1]


class Unrolled(layers.Layer):
    """A recurrent cell inside of a layer that is no `keras.layers.RNN`."""

    def __init__(self):
        super().__init__()
        self.inside = layers.GRU(2)

    def build(self, shape):
        self.inside.build((shape[0], shape[1], 1))

    def call(self, x):
        return self.inside(x[..., tf.newaxis])


CONTROL_FLOW = {
    "cond": lambda: network(layers.Lambda(either)),
    "while-loop": lambda: network(layers.Lambda(repeated)),
    "map": lambda: network(layers.Lambda(lambda x: tf.map_fn(tf.sin, x))),
    "recurrent-part": lambda: network(Unrolled()),
}


@pytest.mark.parametrize("build", CONTROL_FLOW.values(), ids=CONTROL_FLOW)
def test_auto_takes_the_loop_where_the_model_has_control_flow(build, caplog):
    tasks, model = task_batch(), build()
    auto, loop = (
        traced_meta_gradient(compiled(model, task_map=way), *tasks) for way in ("auto", "loop")
    )
    task_map._LOGGED.clear()
    with caplog.at_level("INFO", "maml_tf"):
        received = auto()
    assert relative_error(received[1], loop()[1]) < 1e-5
    # What is recurrent is seen beforehand.
    assert "control flow" in caplog.text or task_map.choose("auto", model) == "loop"
    assert loops(auto.get_concrete_function().graph)


def test_auto_gives_each_reason_once(caplog):
    task_map._LOGGED.clear()
    with caplog.at_level("INFO", "maml_tf"):
        for _ in range(2):
            learner = compiled(network(layers.Lambda(either)))
            traced_meta_gradient(learner, *task_batch()).get_concrete_function()
    assert [r.message.count("control flow") for r in caplog.records] == [1]


def test_auto_vectorises_beside_control_flow_that_made_the_tasks():
    @tf.function(autograph=False)
    def mapped():
        x = tf.ones([3, 2]) + tf.map_fn(tf.sin, tf.zeros([3, 2]))
        before = len(tf.compat.v1.get_default_graph().get_operations())
        summed, _ = task_map.map_tasks(lambda task, index: (task, index), x, "auto")
        own = tf.compat.v1.get_default_graph().get_operations()[before:]
        assert not [op for op in own if "While" in op.type]
        return summed

    np.testing.assert_array_equal(mapped(), [3, 3])


def test_auto_works_eagerly():
    learner = compiled(network(layers.Lambda(either)), run_eagerly=True)
    assert np.all(np.isfinite(learner.train_on_batch(*task_batch())))


def test_what_cannot_be_vectorised_says_so_where_it_was_asked_for():
    learner = compiled(network(layers.Lambda(either)), task_map="vectorized")
    with pytest.raises(ValueError, match=r"be mapped over tasks .*`task_map=\"auto\"`"):
        learner.train_on_batch(*task_batch())


@pytest.mark.parametrize("way", ["auto", "vectorized"])
def test_an_error_of_the_models_own_stays_what_it_is(way):
    def fail(task, index):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        task_map.map_tasks(fail, tf.ones([2, 3]), way)


@pytest.mark.parametrize("parallel", [0, -1, 10**12, 1.5, "2", True, np.nan])
def test_a_wrong_number_of_parallel_tasks_is_refused(parallel):
    error = ValueError if type(parallel) is int else TypeError
    message = r"`parallel_tasks` to be an integer .*Received: parallel_tasks="
    with pytest.raises(error, match=message):
        compiled(dense_model(), parallel_tasks=parallel)
    with pytest.raises(error, match=message):
        task_map.map_tasks(describe, {"x": tf.ones([2, 2]), "y": tf.range(2)}, "loop", parallel)


def test_more_parallel_tasks_than_tasks_are_no_harm():
    tasks = {"x": tf.ones([2, 2]), "y": tf.range(2)}

    @tf.function(autograph=False)
    def mapped():
        return [
            task_map.map_tasks(describe, tasks, "loop", parallel)[0]["scaled"]
            for parallel in (np.int64(3), task_map.MOST_PARALLEL)
        ]

    for scaled in mapped():
        np.testing.assert_array_equal(scaled, [3, 3])


DENSE_WAYS = {
    "loop-1": {"task_map": "loop", "parallel_tasks": 1},
    "loop-4": {"task_map": "loop", "parallel_tasks": 4, "rematerialize": True},
    "vectorized": {"task_map": "vectorized"},
    "vectorized-rematerialized": {"task_map": "vectorized", "rematerialize": True},
    "loop-xla": {"task_map": "loop", "jit_compile": True},
    "loop-xla-rematerialized": {"task_map": "loop", "jit_compile": True, "rematerialize": True},
    "vectorized-xla": {"task_map": "vectorized", "jit_compile": True},
    "vectorized-xla-rematerialized": {
        "task_map": "vectorized",
        "jit_compile": True,
        "rematerialize": True,
    },
}
CONV_WAYS = {
    "loop-1": {"task_map": "loop", "parallel_tasks": 1, "rematerialize": True},
    "loop-4": {"task_map": "loop", "parallel_tasks": 4},
    "vectorized": {"task_map": "vectorized"},
    "loop-xla": {"task_map": "loop", "jit_compile": True},
    "loop-xla-rematerialized": {"task_map": "loop", "jit_compile": True, "rematerialize": True},
}
CASES = [
    pytest.param(dense_model, dense_by_hand, (3,), settings, id=f"dense-{name}")
    for name, settings in DENSE_WAYS.items()
] + [
    pytest.param(conv_model, conv_by_hand, (6, 6, 1), settings, id=f"conv-{name}")
    for name, settings in CONV_WAYS.items()
]


@pytest.mark.parametrize(("build", "by_hand", "x", "settings"), CASES)
def test_every_way_agrees_with_a_python_loop_over_tasks(build, by_hand, x, settings):
    model, steps = build(), 2
    inputs, query_y = task_batch(x, tasks=3)
    learner = compiled(model, 0.1, inner_steps=steps, **settings)
    received = traced_meta_gradient(learner, inputs, query_y)()
    loss, gradients, predictions = maml_by_hand(by_hand, model, inputs, query_y, 0.1, steps)
    assert relative_error(received[0], loss) < 1e-5
    assert relative_error(received[1], gradients) < 1e-5
    assert relative_error(received[3], predictions) < 1e-5
    before = np.stack(
        [by_hand([v.value for v in model.trainable_variables], q) for q in inputs["query_x"]]
    )
    assert relative_error(received[4], before) < 1e-5


@pytest.mark.parametrize("settings", [DENSE_WAYS["loop-1"], DENSE_WAYS["vectorized"]], ids=str)
def test_every_way_runs_eagerly_too(settings):
    inputs, query_y = task_batch(tasks=3)
    learner = compiled(dense_model(), 0.1, inner_steps=2, **settings)
    eager = learner.meta_gradient(inputs, query_y)
    graph = traced_meta_gradient(learner, inputs, query_y)()
    for one, other in zip(tf.nest.flatten(eager), tf.nest.flatten(graph), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


MEMORY = """
    import os
    import keras, tensorflow as tf
    import maml_tf

    model = keras.Sequential([
        keras.Input((2,)),
        keras.layers.Dense(500, "softplus"),
        keras.layers.Dense(1),
    ])

    def run(tasks, inner_steps, examples, jit_compile=False, **settings):
        learner = maml_tf.MAML(model, 0.01, inner_steps, parallel_tasks=1, **settings)
        learner.compile(optimizer="sgd", loss="mse", jit_compile=jit_compile)
        x, y = tf.ones([tasks, examples, 2]), tf.ones([tasks, examples, 1])
        inputs = {"support_x": x, "support_y": y, "query_x": x}

        @tf.function(autograph=False, jit_compile=jit_compile)
        def compute():
            return learner.meta_gradient(inputs, y)[1]

        compute()

    def high_water():
        # Not ru_maxrss, which a process inherits from the one that started it.
        status = open("/proc/self/status").read()
        return int(status.split("VmHWM:")[1].split()[0])

    def peak(**run_settings):
        # First with few examples: what graphs and their compilation take is no matter here.
        run(examples=2, **run_settings)
        before = high_water()
        run(examples={examples}, **run_settings)
        print((high_water() - before) / 1024, flush=True)
"""


def growth(*runs, examples):
    """MB by which each of `runs` raises the peak memory of one process over those before it.

    Graphs and what XLA compiles stay in memory, 5 to 10 MB for each inner step: examples must be
    so many that their activations are far larger.

    One hidden layer takes `examples` x 500 x 4 bytes.
    """
    code = textwrap.dedent(MEMORY).replace("{examples}", str(examples))
    result = subprocess.run(
        [sys.executable, "-c", code + "".join(f"peak({run})\n" for run in runs)],
        check=True,
        capture_output=True,
        text=True,
        # Freed memory goes back to the system at once.
        env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    return [float(line) for line in result.stdout.split()]


def test_memory_grows_neither_with_tasks_nor_with_steps_when_rematerialized():
    _, tasks, _, steps, all_steps, all_tasks = growth(
        "tasks=4, inner_steps=1, task_map='loop'",
        "tasks=32, inner_steps=1, task_map='loop'",
        "tasks=1, inner_steps=2, task_map='loop', rematerialize=True",
        "tasks=1, inner_steps=12, task_map='loop', rematerialize=True",
        "tasks=1, inner_steps=12, task_map='loop'",
        "tasks=32, inner_steps=1, task_map='vectorized'",
        examples=16000,
    )
    hidden = 16000 * 500 * 4 / 2**20
    assert tasks < 4 * hidden
    assert steps < 4 * hidden
    assert all_steps > 12 * hidden
    assert all_tasks > 32 * hidden


@pytest.mark.slow
def test_memory_does_not_grow_with_steps_when_rematerialized_under_xla():
    few, many, all_steps = growth(
        "tasks=1, inner_steps=2, jit_compile=True, task_map='loop', rematerialize=True",
        "tasks=1, inner_steps=8, jit_compile=True, task_map='loop', rematerialize=True",
        "tasks=1, inner_steps=8, jit_compile=True, task_map='loop'",
        examples=16000,
    )
    hidden = 16000 * 500 * 4 / 2**20
    assert many < 4 * hidden
    assert all_steps > 8 * hidden


@pytest.mark.parametrize("way", ["loop", "vectorized", "auto"])
@pytest.mark.parametrize("eager", [True, False])
def test_what_is_done_for_a_task_may_be_compiled_by_itself(way, eager):
    x = tf.constant(np.arange(6.0, dtype="float32").reshape(3, 2))
    tasks, seen = {"x": x, "y": tf.range(3)}, []

    def function(task, index):
        seen.append(tf.executing_eagerly())
        return describe(task, index)

    def mapped():
        return task_map.map_tasks(function, tasks, way, jit_compile=True)

    summed, (first, named) = mapped() if eager else tf.function(mapped, autograph=False)()
    assert seen == [False]  # traced once, though there are three tasks
    np.testing.assert_array_equal(summed["scaled"], [0 + 4 + 12, 1 + 6 + 15])
    np.testing.assert_array_equal(first, [0, 4, 12])
    np.testing.assert_array_equal(named["index"], [0, 1, 2])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_is_xla_that_compiles_what_is_done_for_a_task(jit_compile):
    @tf.function(autograph=False)
    def mapped(x):
        return task_map.map_tasks(
            lambda task, index: (task, index), x, "loop", jit_compile=jit_compile
        )

    library = mapped.get_concrete_function(tf.ones([3, 2])).graph.as_graph_def().library
    marks = [f.attr["_XlaMustCompile"].b for f in library.function if "_XlaMustCompile" in f.attr]
    assert any(marks) is jit_compile


def parallel_iterations(parallel, tasks):
    """Of the loop in the graph of a map; None where there is none."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([tasks, 2])])
    def mapped(x):
        return task_map.map_tasks(lambda task, index: (task, task), x, "loop", parallel)

    graph = mapped.get_concrete_function().graph
    (loop,) = [op for op in graph.get_operations() if "While" in op.type]
    return loop.get_attr("parallel_iterations")


def test_how_many_tasks_are_worked_on_at_the_same_time(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    received = [parallel_iterations(p, t) for p, t in ((None, 9), (2, 9), (9, 4), (7, None))]
    assert received == [6, 2, 4, 7]
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # where it cannot be told
    assert parallel_iterations(None, 9) == 1


@pytest.mark.parametrize("way", ["loop", "vectorized", "auto"])
def test_shapes_of_what_is_stacked_are_known_while_a_graph_is_traced(way):
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 5, 2])])
    def mapped(x):
        summed, stacked = task_map.map_tasks(lambda t, i: (t[0], {"t": t}), x, way)
        assert summed.shape == [2]
        assert stacked["t"].shape.as_list()[1:] == [5, 2]
        return summed

    np.testing.assert_array_equal(mapped(tf.ones([3, 5, 2])), [3, 3])


@pytest.mark.parametrize(
    ("rank", "expected"), [(0, "auto"), (1, "auto"), (2, "auto"), (3, "loop"), (4, "loop")]
)
def test_weights_of_more_than_two_axes_are_convolutions(rank, expected):
    class Weight(keras.Model):
        def __init__(self):
            super().__init__()
            self.w = self.add_weight(shape=(2,) * rank)
            self.built = True

    assert task_map.choose("auto", Weight()) == expected


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_learner_works_on_so_many_tasks_at_the_same_time(tasks):
    learner = compiled(dense_model(), task_map="loop", parallel_tasks=tasks)
    traced = tf.function(learner.meta_gradient, autograph=False)
    operations = traced.get_concrete_function(*task_batch(tasks=4)).graph.get_operations()
    loops = [op for op in operations if "While" in op.type]
    assert [op.get_attr("parallel_iterations") for op in loops] == [tasks]
