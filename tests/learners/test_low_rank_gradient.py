"""The meta-gradient through low-rank factors is exact, to the second order."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base.task import Support
from tests.learners.low_rank_in_torch import ALPHA, DATA, RANK, RATE, STEPS, WEIGHTS, sines
from tests.problems import layers, relative_error, traced_meta_gradient

TORCH = pathlib.Path(__file__).with_name("low_rank_in_torch.json")


def tensor(shape, begin):
    return np.reshape(sines(shape, begin), shape)


def learner_with_factors():
    """Two dense layers, the first one frozen but for its bias, with factors beside the kernel."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(2)])
    first, last = model.layers
    # Keras makes factors in float32, whatever the policy: here in the layer's own precision.
    add = first.add_weight
    first.__dict__["add_weight"] = lambda **settings: add(**{**settings, "dtype": first.dtype})
    first.enable_lora(RANK, lora_alpha=ALPHA)
    named = {
        "kernel": first._kernel,
        "bias": first.bias,
        "lora_a": first.lora_kernel_a,
        "lora_b": first.lora_kernel_b,
        "head_kernel": last.kernel,
        "head_bias": last.bias,
    }
    for name, variable in named.items():
        variable.assign(tensor(*WEIGHTS[name]))
    learner = maml_tf.MAML(model, RATE, STEPS, task_map="loop")
    learner.compile("sgd", "mse")
    return learner, named


def meta_gradient(learner):
    data = {name: tf.constant(tensor(*spec)) for name, spec in DATA.items()}
    query_y = data.pop("query_y")
    return traced_meta_gradient(learner, data, query_y)


@pytest.mark.usefixtures("float64")
def test_it_is_that_of_pytorch():
    learner, named = learner_with_factors()
    theirs = json.loads(TORCH.read_text())
    loss, gradients, *_ = meta_gradient(learner)()
    assert float(loss) == pytest.approx(theirs["loss"], rel=1e-13)
    names = {id(variable): name for name, variable in named.items()}
    ours = {
        names[id(v)]: np.ravel(g)
        for v, g in zip(learner.trainable_variables, gradients, strict=True)
    }
    assert set(ours) == set(WEIGHTS) - {"kernel"}
    for name, gradient in ours.items():
        assert relative_error(gradient, np.array(theirs["gradients"][name])) < 1e-12, name


@pytest.mark.usefixtures("float64")
def test_it_is_that_of_central_differences():
    learner, _ = learner_with_factors()
    function = meta_gradient(learner)
    _, gradients, *_ = function()
    h = 1e-5
    for variable, gradient in zip(learner.trainable_variables, gradients, strict=True):
        value = variable.numpy()
        differences = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            losses = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * h
                variable.assign(moved)
                losses.append(float(function()[0]))
            differences[index] = (losses[0] - losses[1]) / (2 * h)
        variable.assign(value)
        assert relative_error(gradient.numpy(), differences) < 1e-8, variable.path


def test_adapting_gives_factors_and_no_frozen_kernel():
    """What a served `adapt` sends to and fro is as small as what adapts."""
    learner, named = learner_with_factors()
    values = learner._adapted(Support(*(tf.zeros([5, n]) for n in (3, 2))), tf.constant(1))
    shapes = sorted(tuple(t.shape) for t in tf.nest.flatten(values))
    assert shapes == sorted(tuple(v.shape) for n, v in named.items() if n != "kernel")
