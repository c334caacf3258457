"""What is made for XLA on a GPU, where tasks are vectorised: compiled here for the CPU.

Each replacement must be the same function there, with the same derivatives; and a GPU is only told
from the devices that TensorFlow lists.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf.exact import convolution, dispatch
from tests.exact import test_convolution
from tests.exact.test_maxima import APART, EQUAL, UNROLLED, block, derivatives, orders
from tests.problems import compiled, relative_error, task_batch, traced_meta_gradient


@pytest.fixture
def gpu(monkeypatch):
    """TensorFlow lists a GPU."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one"])


def vectorized(function, *inputs):
    """`function` of two tasks with the same inputs, vectorised and compiled; of each what it gave.

    Args:
        function: takes and returns tensors, and is traced once.
        *inputs: of one task.
    """

    def one(task):
        with dispatch.vectorized_here():
            return function(*task)

    def both(*tasks):
        return tf.vectorized_map(one, tasks)

    doubled = [tf.stack([t, t]) for t in map(tf.constant, inputs)]
    return tf.function(both, autograph=False, jit_compile=True)(*doubled)


def same(received, expected, tolerance):
    for one, other in zip(received, expected, strict=True):
        for task in one:
            np.testing.assert_allclose(task, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("on_gpu", "compiled", "vectorised", "expected"),
    [
        (False, False, False, True),
        (False, True, False, False),
        (False, False, True, False),
        (False, True, True, False),
        (True, False, False, False),
        (True, True, False, False),
        (True, False, True, False),
        (True, True, True, True),
    ],
)
def test_where_closed_forms_are_used(on_gpu, compiled, vectorised, expected, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one"] * on_gpu)
    found = []

    @tf.function(jit_compile=compiled, autograph=False)
    def function(x):
        if vectorised:
            with dispatch.vectorized_here():
                found.append((dispatch.closed_forms_pay(), dispatch.inside_gpu_program()))
        else:
            found.append((dispatch.closed_forms_pay(), dispatch.inside_gpu_program()))
        return x

    function(tf.constant(0.0))
    assert found == [(expected, on_gpu and compiled and vectorised)]


# TensorFlow's own pooling, which is used beside, has wrong second derivatives under XLA on a CPU.
POOLED = {name: function for name, function in UNROLLED.items() if name != "overlapping"}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", POOLED.values(), ids=POOLED)
def test_of_equal_elements_pooling_takes_those_that_tensorflow_does(function, dtype):
    x = EQUAL.astype(dtype)
    expected, _ = orders(function, x, ("max_pool", "MaxPool"))
    received = vectorized(lambda x: derivatives(function, x), x)
    same(received, expected, 1e-6 if dtype == "float32" else 1e-12)


@pytest.mark.usefixtures("gpu")
def test_what_is_not_a_number_stays_none():
    x = EQUAL.astype("float32")
    x[0, 0, 0, 0], x[1, 1, 1, 1], x[2, 3, 2, 0] = np.nan, np.inf, -np.inf
    received = vectorized(lambda x: derivatives(POOLED["alone"], x)[:1], x)
    expected = x[:, :, :4].reshape(8, 3, 2, 2, 2, 3).max((2, 4))
    same(received, [expected], 0)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("scale", [None, [0.5, -1.5, 0.0]], ids=["none", "some"])
def test_a_normalised_pooled_block_has_the_derivatives_of_tensorflow(scale):
    """Up to the third order; without a scale, and with one that is negative and zero."""

    graphs = []

    def function(x):
        graphs.append(tf.compat.v1.get_default_graph())
        return block(x, None if scale is None else tf.constant(scale, x.dtype))

    expected, _ = orders(function, APART, ["max_pool", "batch_normalization"])
    same(vectorized(lambda x: derivatives(function, x), APART), expected, 1e-9)
    assert not {op.type for op in graphs[-1].get_operations() if "Pool" in op.type}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("shape", "strides", "parts"),
    [
        ((15, 16, 16, 2), 1, 4),  # 3,840 rows
        ((10, 33, 33, 1), 2, 5),  # 2,890
        ((4, 16, 16, 2), 1, None),  # 1,024: no more than are multiplied at once
        ((1, 47, 47, 1), 1, None),  # 2,209: by no number between 256 and 1,024
    ],
)
def test_the_gradient_of_a_kernel_is_a_sum_of_products(shape, strides, parts):
    x, w = test_convolution.pair(shape, (3, 3), 3)
    original, graphs = test_convolution.ORIGINAL, []

    def theirs(x, w):
        return original(x, w, strides, "SAME")

    def ours(x, w):
        graphs.append(tf.compat.v1.get_default_graph())
        return convolution.convolution(original, x, w, strides, "SAME")

    expected = test_convolution.derivatives(theirs, x, w)
    received = vectorized(lambda *t: test_convolution._derivatives(ours, *t, 1), x, w)
    same(received, expected, 1e-9)
    products = [op for op in graphs[-1].get_operations() if op.type == "BatchMatMulV2"]
    tasks = 2  # what is vectorised stands in the same graph
    assert {op.outputs[0].shape[0] for op in products} - {tasks} == ({parts} if parts else set())


def block_model(normalisation):
    layers = keras.layers
    inputs = x = keras.Input((11, 8, 2))
    for filters, padding in ((3, "same"), (4, "valid")):
        x = layers.Conv2D(filters, 3, padding=padding)(x)
        x = normalisation()(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


NORMALISATIONS = {
    "centred": lambda: keras.layers.BatchNormalization(scale=False),
    "scaled": keras.layers.BatchNormalization,
    "none": lambda: keras.layers.Activation("linear"),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("normalisation", NORMALISATIONS.values(), ids=NORMALISATIONS)
def test_a_learner_has_the_same_meta_gradient_as_without_a_gpu(normalisation, monkeypatch):
    batch = task_batch((11, 8, 2), tasks=3)
    model, gradients = block_model(normalisation), []
    for way, jit_compile in (("loop", False), ("auto", True)):
        learner = compiled(model, inner_steps=2, task_map=way, jit_compile=jit_compile)
        gradients.append(traced_meta_gradient(learner, *batch)()[1])
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one"])
    assert relative_error(*gradients) < 1e-9
