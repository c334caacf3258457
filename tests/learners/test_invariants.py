"""What must hold for whatever model, sizes and settings: drawn by hypothesis, always the same ones.

The mean over tasks is all that a task has to do with the others, and a support set is a set.
Everything but the comparison of ways runs eagerly: tracing takes longer than running.
"""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from maml_tf.inner.optimizers import SGD, Adam
from tests.problems import compiled, layers, task_batch, traced_meta_gradient

EAGER = {"run_eagerly": True, "task_map": "loop"}
BATCH_NORM = ["transductive", "support", "moving"]
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


def dense(units):
    x = keras.Input((3,))
    return keras.Model(x, layers.Dense(2)(layers.Dense(units, "tanh")(x)))


def shared(units):
    layer, x = layers.Dense(3, "softplus"), keras.Input((3,))
    return keras.Model(x, layers.Dense(2)(layer(layers.Dense(units % 2 + 3)(layer(x))[:, :3])))


def normalised(units):
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(units), layers.BatchNormalization(), layers.Dense(2)]
    )


def convolutional(units):
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(units, 2, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("softplus"),
            layers.Conv2D(33, 2, 2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )


def recurrent(units):
    return keras.Sequential([keras.Input((2, 2)), layers.GRU(2, unroll=True), layers.Dense(2)])


def several(units):
    """Two inputs, two outputs, and a regularizer, which counts once for each task."""
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    hidden = layers.Dense(units, "tanh", kernel_regularizer="l2")(a)
    hidden = hidden * layers.Dense(units)(b)
    outputs = {"c": layers.Dense(2, name="c")(hidden), "d": layers.Dense(1, name="d")(hidden)}
    return keras.Model({"a": a, "b": b}, outputs)


KINDS = {
    dense: ((3,), (2,)),
    shared: ((3,), (2,)),
    normalised: ((3,), (2,)),
    convolutional: ((4, 4, 1), (2,)),
    recurrent: ((2, 2), (2,)),
    several: ({"a": (3,), "b": (2,)}, {"c": (2,), "d": (1,)}),
}


@contextlib.contextmanager
def floats(dtype):
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


@dataclasses.dataclass
class Problem:
    kind: object
    units: int
    dtype: str
    sizes: dict
    settings: dict
    adapts: int  # in binary, which weights do
    seed: int

    def build(self):
        """The model, always with the same weights, and a task batch."""
        keras.utils.set_random_seed(self.seed)
        x, y = KINDS[self.kind]
        return self.kind(self.units), *task_batch(x, y, seed=self.seed, **self.sizes)

    def learner(self, model, **way):
        bits = [bool(self.adapts >> i & 1) for i in range(len(model.trainable_variables))]
        adaptable = bits if any(bits) else None
        return compiled(model, **self.settings, adaptable=adaptable, **(way or EAGER))

    def assert_equal(self, received, expected):
        tolerance = TOLERANCE[self.dtype]
        tf.nest.assert_same_structure(received, expected)
        for one, other in zip(tf.nest.flatten(received), tf.nest.flatten(expected), strict=True):
            assert np.asarray(one).dtype == np.asarray(other).dtype
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@st.composite
def problems(draw, kind, mode):
    sizes = {"tasks": st.integers(2, 4), "support": st.integers(2, 5), "query": st.integers(2, 4)}
    options = {
        "rate": st.sampled_from(
            [SGD(0.1), SGD([0.1, 0.05], momentum=0.5), Adam(0.02, epsilon=0.1)]
        ),
        "inner_steps": st.sampled_from([1, 2, 0]),  # the first example is of the first ones
        # TensorFlow's eager convolutions have no second derivative.
        "first_order": st.just(True) if kind is convolutional else st.booleans(),
        "batch_norm": st.just(mode) if mode else st.sampled_from(BATCH_NORM),
        "rematerialize": st.booleans(),
    }
    return Problem(
        kind,
        draw(st.integers(2, 4)),
        draw(st.sampled_from(["float64", "float32"])),
        draw(st.fixed_dictionaries(sizes)),
        draw(st.fixed_dictionaries(options)),
        draw(st.integers(0, 63)),
        draw(st.integers(0, 9)),
    )


def take(structure, index, axis=0):
    return tf.nest.map_structure(lambda t: tf.gather(t, index, axis=axis), structure)


def results(learner, inputs, query_y):
    """What training and prediction make of a task batch: means over tasks, and what is a task's.

    Of integers in the state (seeds, counters) a learner keeps those of the first task.
    """
    loss, gradients, state, y_pred, y_before = learner.meta_gradient(inputs, query_y)
    means = [loss, *gradients, *(s for s in state if s.dtype.is_floating)]
    return means, (y_pred, y_before, learner(inputs), learner.predict_path(inputs, 1))


modes = [(normalised, mode) for mode in BATCH_NORM]
others = [(kind, None) for kind in KINDS if kind is not normalised]
kinds = pytest.mark.parametrize(
    ("kind", "mode"), modes + others, ids=lambda value: getattr(value, "__name__", value or "")
)
drawn = settings(
    max_examples=2,  # of each kind
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # a smaller example takes minutes to find
)


@kinds
@drawn
@given(st.data(), st.integers(0, 2))
def test_tasks_do_not_influence_one_another(kind, mode, data, which):
    problem = data.draw(problems(kind, mode))
    tasks = problem.sizes["tasks"]
    which = which % tasks
    others = [i for i in range(tasks) if i != which]
    with floats(problem.dtype):
        model, inputs, query_y = problem.build()
        learner = problem.learner(model)
        means, stacks = results(learner, inputs, query_y)
        alone, its_own = results(learner, take(inputs, [which]), take(query_y, [which]))
        without, of_others = results(learner, take(inputs, others), take(query_y, others))
        problem.assert_equal(take(stacks, [which]), its_own)
        problem.assert_equal(take(stacks, others), of_others)
        parts = zip(alone, without, strict=True)
        problem.assert_equal(means, [(one + (tasks - 1) * rest) / tasks for one, rest in parts])

        def strange(structure):
            return tf.nest.map_structure(
                lambda t: tf.tensor_scatter_nd_update(t, [[which]], [1 - 3 * t[which]]), structure
            )

        changed, stacks = results(learner, strange(inputs), strange(query_y))
        problem.assert_equal(take(stacks, others), of_others)
        assert np.abs(changed[0] - means[0]) > 1e-3


@kinds
@drawn
@given(st.data(), st.randoms(use_true_random=False))
def test_the_order_of_tasks_supports_and_queries_does_not_matter(kind, mode, data, random):
    problem = data.draw(problems(kind, mode))
    tasks, supports, queries = (
        random.sample(range(size), size)
        for size in (problem.sizes[k] for k in ("tasks", "support", "query"))
    )
    with floats(problem.dtype):
        model, inputs, query_y = problem.build()
        learner = problem.learner(model)
        means, stacks = results(learner, inputs, query_y)
        inputs, query_y = take(inputs, tasks), take(query_y, tasks)
        support = {k: take(inputs[k], supports, axis=1) for k in ("support_x", "support_y")}
        query = {"query_x": take(inputs["query_x"], queries, axis=1)}
        received = results(learner, support | query, take(query_y, queries, axis=1))
        problem.assert_equal(received[0], means)
        *by_query, path = take(stacks, tasks)
        expected = (*take(by_query, queries, axis=1), take(path, queries, axis=2))
        problem.assert_equal(received[1], expected)


WAYS = [{"task_map": "vectorized"}, {"task_map": "loop"}, {"parallel_tasks": 1}]


@kinds
@drawn
@given(st.data(), st.sampled_from(WAYS))
def test_ways_of_mapping_agree(kind, mode, data, way):
    problem = data.draw(problems(kind, mode))
    with floats(problem.dtype):
        model, inputs, query_y = problem.build()
        expected = problem.learner(model).meta_gradient(inputs, query_y)
        received = traced_meta_gradient(problem.learner(model, **way), inputs, query_y)()
        problem.assert_equal(received, expected)
