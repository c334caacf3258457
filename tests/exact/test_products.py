"""Gradients of kernels over few examples, as sums of products: the same in all orders."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import maml_tf
from maml_tf import exact
from maml_tf.exact import dispatch
from maml_tf.learners.base import task_map

TASKS = 3


def derivatives(x, w, v, transposed):
    """Of a product of matrices in first, second and third order, towards its kernel."""
    with tf.GradientTape() as third:
        third.watch([x, w])
        with tf.GradientTape() as second:
            second.watch([x, w])
            with tf.GradientTape() as first:
                first.watch([x, w])
                y = tf.matmul(x, w, transpose_b=transposed)
                loss = tf.reduce_sum(tf.tanh(y) * v)
            one = first.gradient(loss, w)
            scalar = tf.reduce_sum(tf.sin(one))
        two = second.gradient(scalar, [x, w])
        scalar = tf.add_n([tf.reduce_sum(t**2) for t in two])
    return [one, *two, *third.gradient(scalar, [x, w])]


def for_all_tasks(arrays, transposed, jit_compile=True, inside=True):
    """Derivatives of each task, and the types of operations of the graph of one."""
    types = []

    def one(element):
        with dispatch.vectorized_here(), exact.refusals() if inside else contextlib.nullcontext():
            result = derivatives(*element, transposed)
        types.extend(op.type for op in tf.compat.v1.get_default_graph().get_operations())
        return result

    function = tf.function(jit_compile=jit_compile, autograph=False)(
        lambda *arrays: tf.vectorized_map(one, arrays)
    )
    return function(*arrays), types


def inputs(examples, features, units, transposed=False, dtype=np.float64):
    rng = np.random.default_rng(0)
    kernel = (units, features) if transposed else (features, units)
    shapes = [(examples, features), kernel, (examples, units)]
    return [tf.constant(rng.normal(size=(TASKS, *shape)), dtype) for shape in shapes]


@settings(max_examples=12, deadline=None)
@given(
    examples=st.integers(1, 21),
    features=st.integers(1, 5),
    units=st.integers(1, 5),
    transposed=st.booleans(),
)
def test_derivatives_are_those_of_tensorflow(examples, features, units, transposed):
    arrays = inputs(examples, features, units, transposed)
    ours, _ = for_all_tasks(arrays, transposed)
    for task in range(TASKS):
        theirs = derivatives(*(a[task] for a in arrays), transposed)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one[task], other, rtol=1e-9, atol=1e-9)


def has_sums(examples, features=4, units=3, dtype=np.float64, **options):
    _, types = for_all_tasks(inputs(examples, features, units, dtype=dtype), False, **options)
    return "ExpandDims" in types


@pytest.mark.parametrize(
    ("examples", "features", "units", "dtype", "expected"),
    [
        (1, 4, 3, np.float32, True),
        (20, 4, 3, np.float64, True),
        (21, 4, 3, np.float32, False),
        (10, 1, 3, np.float32, False),
        (10, 4, 1, np.float32, False),
        (10, 4, 3, np.float16, False),
    ],
)
def test_for_which_shapes(examples, features, units, dtype, expected):
    assert has_sums(examples, features, units, dtype) == expected


def test_only_under_xla_and_for_derivatives_of_this_library():
    assert not has_sums(5, jit_compile=False)
    assert not has_sums(5, inside=False)


def test_not_on_a_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one"])
    assert not has_sums(5)


def test_not_for_an_unknown_number_of_examples():
    found = []

    @tf.function(jit_compile=True, autograph=False)
    def function(x, y, g):
        with dispatch.vectorized_here(), exact.refusals():
            found.extend(is_sum(tf.matmul(t, g, transpose_a=True)) for t in (x, y))
        return x

    def is_sum(product):
        return product.op.type == "IdentityN"

    vague, known = tf.TensorSpec([None, 2], tf.float32), tf.TensorSpec([4, 2], tf.float32)
    function.get_concrete_function(vague, known, vague)
    assert found == [False, True]


def meta_gradient(task_map, jit_compile):
    """Of a network of float64 that takes two inner steps on seven examples."""
    init = keras.initializers.RandomNormal(seed=1)
    layers = [
        keras.layers.Dense(n, a, kernel_initializer=init, dtype="float64")
        for n, a in ((6, "tanh"), (5, "relu"), (2, None))
    ]
    model = keras.Sequential([keras.Input([3], dtype="float64"), *layers])
    learner = maml_tf.MAML(model, maml_tf.inner_optimizers.SGD(0.1), 2, task_map=task_map)
    learner.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=jit_compile)
    rng = np.random.default_rng(2)
    x, y, query_x, query_y = (rng.normal(size=(4, n, k)) for n in (7, 9) for k in (3, 2))
    batch = {"support_x": x, "support_y": y, "query_x": query_x}
    function = tf.function(learner.meta_gradient, jit_compile=jit_compile, autograph=False)
    _, gradients, *_ = function(tf.nest.map_structure(tf.constant, batch), tf.constant(query_y))
    return gradients


def test_a_meta_gradient_is_that_of_the_loop():
    ours, loop = meta_gradient("vectorized", True), meta_gradient("loop", False)
    for one, other in zip(ours, loop, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def gradients_of_tasks(terms, strategy, examples=10):
    """Sums over tasks of gradients of `terms(x, w)`, and shapes of products over all tasks."""
    x, (w, *_), _ = inputs(examples, 4, 3)
    shapes = []

    def one(x, index):
        with exact.refusals(), tf.GradientTape() as tape:
            tape.watch(w)
            value = tf.add_n([tf.reduce_sum(t) for t in terms(x, w)])
            gradient = tape.gradient(value, w)
        return {"gradient": gradient}, index

    @tf.function(jit_compile=True, autograph=False)
    def function(x):
        sums, _ = task_map.map_tasks(one, x, strategy)
        found = tf.compat.v1.get_default_graph().get_operations()
        products = [op for op in found if op.type == "MatMul" and op.get_attr("transpose_a")]
        shapes.extend(tuple(op.inputs[0].shape) for op in products)
        return sums["gradient"]

    return function(x), shapes


def product(x, w):
    return tf.tanh(tf.matmul(x, w))


@pytest.mark.parametrize("examples", [10, 30])
@pytest.mark.parametrize(
    ("terms", "count"),
    [
        (lambda x, w: [product(x, w)], 1),
        (lambda x, w: [product(x, w), product(x + 1, w)], 2),
        (lambda x, w: [product(x, w), tf.sin(w), product(x + 1, w), tf.exp(w)], 2),
        (lambda x, w: [product(x, 2 * w), tf.sin(w)], 0),  # a term is twice a product
        (lambda x, w: [tf.sin(w)], 0),
    ],
)
def test_products_that_are_only_added_up_are_one_over_all_examples(terms, count, examples):
    vectorized, shapes = gradients_of_tasks(terms, "vectorized", examples)
    assert shapes == [(TASKS * examples, 4)] * count
    loop, _ = gradients_of_tasks(terms, "loop", examples)
    np.testing.assert_allclose(vectorized, loop, rtol=1e-10)


def test_xla_multiplies_task_by_task():
    """If this fails, XLA computes such products otherwise, and sums are to be measured again."""

    @tf.function(jit_compile=True)
    def function(x, g):
        return tf.matmul(x, g, transpose_a=True)

    x = tf.ones([25, 10, 40])
    text = function.experimental_get_compiler_ir(x, x)(stage="optimized_hlo")
    assert " dot(" in text
