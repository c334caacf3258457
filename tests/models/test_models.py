import itertools

import keras
import numpy as np
import pytest

from maml_tf import models
from tests.wrong_calls import Wrong, check

NETWORKS = [
    pytest.param(lambda **s: models.conv4(5, **s), (28, 28, 1), (5,), 112_005, id="conv4"),
    pytest.param(lambda **s: models.dense5(5, **s), (28, 28, 1), (5,), 247_109, id="dense5"),
    pytest.param(
        lambda **s: models.conv4_max_pool(5, **s), (84, 84, 3), (5,), 32_773, id="conv4_max_pool"
    ),
    pytest.param(lambda **s: models.resnet12(5, **s), (84, 84, 3), (5,), 7_999_365, id="resnet12"),
    pytest.param(models.sinusoid_mlp, (1,), (1,), 1_761, id="sinusoid"),
]
networks = pytest.mark.parametrize(("build", "x", "y", "parameters"), NETWORKS)


@networks
def test_size_and_shapes_are_those_of_the_papers(build, x, y, parameters):
    model = build()
    assert sum(v.numpy().size for v in model.trainable_variables) == parameters
    assert model.built
    assert model.input_shape == (None, *x)
    assert model.predict(np.zeros((2, *x), "float32"), verbose=0).shape == (2, *y)


@networks
def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(build, x, y, parameters):
    first = build(seed=3)
    keras.utils.set_random_seed(0)
    for a, b in zip(first.get_weights(), build(seed=3).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@networks
def test_layers_and_seeds_draw_different_weights(build, x, y, parameters):
    """Leading elements of all kernels of two neighbouring seeds: no two streams are the same."""
    kernels = [
        v.numpy().ravel()[:8] / v.numpy().std()
        for seed in (0, 1)
        for v in build(seed=seed).trainable_variables
        if v.path.endswith("kernel")
    ]
    for one, other in itertools.combinations(kernels, 2):
        assert not np.allclose(one, other, rtol=1e-3)


def test_conv4_normalises_before_relu_with_beta_and_without_gamma():
    types = [type(layer) for layer in models.conv4(5).layers]
    block = [keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.ReLU]
    assert types == [*block * 4, keras.layers.GlobalAveragePooling2D, keras.layers.Dense]
    norms = [v.path.split("/")[-1] for v in models.conv4(5).trainable_variables]
    assert norms == ["kernel", "bias", "beta"] * 4 + ["kernel", "bias"]


def test_conv4_max_pool_ends_in_800_features():
    types = [type(layer) for layer in models.conv4_max_pool(5).layers]
    block = [keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.ReLU]
    block = [*block, keras.layers.MaxPooling2D]
    assert types == [*block * 4, keras.layers.Flatten, keras.layers.Dense]
    model = models.conv4_max_pool(5)
    assert model.layers[-1].input.shape == (None, 800)
    assert all(layer.gamma is None for layer in model.layers[1:16:4])


def test_resnet12_is_as_published():
    """Lee et al. (2019) count 12 convolutions around which four shortcuts go."""
    convolutions = [
        layer for layer in models.resnet12(5).layers if isinstance(layer, keras.layers.Conv2D)
    ]
    assert sum(layer.kernel_size == (3, 3) for layer in convolutions) == 12
    assert [layer.filters for layer in convolutions if layer.kernel_size == (1, 1)] == [
        64,
        128,
        256,
        512,
    ]
    wide = models.resnet12(5, filters=(64, 160, 320, 640))
    assert sum(v.numpy().size for v in wide.trainable_variables) == 12_427_525
    model = models.resnet12(3, input_shape=(32, 32, 1))
    assert model.layers[-2].output.shape == (None, 512)
    assert model.output_shape == (None, 3)


def test_initial_weights_have_the_scales_of_the_papers_code():
    kernels = [v.numpy() for v in models.conv4(20, filters=32).trainable_variables[::3]]
    limit = np.sqrt(6 / (9 * 32 + 9 * 32))
    assert 0.95 * limit < np.abs(kernels[1]).max() <= limit
    assert kernels[-1].shape == (32, 20)
    assert abs(kernels[-1].std() - 1) < 0.1
    sine = [v.numpy() for v in models.sinusoid_mlp(features=3).trainable_variables]
    assert sine[0].shape == (3, 40)
    assert np.abs(sine[2]).max() <= 0.02  # a normal cut at two standard deviations of 0.01
    assert all(not bias.any() for bias in sine[1::2])


def test_sizes_follow_their_arguments():
    model = models.conv4(3, filters=8, input_shape=(84, 84, 3))
    assert model.input_shape == (None, 84, 84, 3)
    assert model.output_shape == (None, 3)
    assert model.trainable_variables[0].shape == (3, 3, 3, 8)
    assert models.dense5(3, input_shape=(14, 14, 1)).trainable_variables[0].shape == (196, 256)


WRONG = [
    Wrong(lambda: models.conv4(0), ValueError, "`ways`", "ways=0"),
    Wrong(lambda: models.conv4(5.0), TypeError, "`ways`", "ways=5.0"),
    Wrong(lambda: models.conv4("5"), TypeError, "`ways`", "ways='5'"),
    Wrong(lambda: models.conv4(5, filters=0), ValueError, "`filters`", "filters=0"),
    Wrong(lambda: models.conv4(5, filters=64.5), TypeError, "`filters`", "filters=64.5"),
    Wrong(lambda: models.conv4(5, seed=-1), ValueError, "`seed`", "seed=-1"),
    Wrong(lambda: models.conv4(5, seed=None), TypeError, "`seed`", "seed=None"),
    Wrong(lambda: models.conv4(5, input_shape=28), ValueError, "`input_shape`", "=28"),
    Wrong(lambda: models.conv4(5, input_shape=(28, 28)), ValueError, "`input_shape`", "(28, 28)"),
    Wrong(lambda: models.conv4(5, input_shape=(28, 0, 1)), ValueError, "input_shape[1]=0"),
    Wrong(lambda: models.conv4(5, input_shape=(None, 28, 1)), TypeError, "input_shape[0]=None"),
    Wrong(lambda: models.dense5(-5), ValueError, "`ways`", "ways=-5"),
    Wrong(lambda: models.dense5(5, input_shape=()), ValueError, "`input_shape`", "=()"),
    Wrong(lambda: models.dense5(5, input_shape=(2.5,)), TypeError, "input_shape[0]=2.5"),
    Wrong(lambda: models.dense5(5, seed="0"), TypeError, "`seed`", "seed='0'"),
    Wrong(lambda: models.conv4_max_pool(True), TypeError, "`ways`", "ways=True"),
    Wrong(
        lambda: models.conv4_max_pool(5, input_shape=(15, 84, 3)), ValueError, "input_shape[0]=15"
    ),
    Wrong(lambda: models.conv4_max_pool(5, filters=(32, 32)), TypeError, "`filters`", "(32, 32)"),
    Wrong(lambda: models.resnet12(5, filters=64), TypeError, "`filters`", "filters=64"),
    Wrong(lambda: models.resnet12(5, filters=()), TypeError, "`filters`", "filters=()"),
    Wrong(lambda: models.resnet12(5, filters=(64, 0)), ValueError, "filters[1]=0"),
    Wrong(lambda: models.resnet12(5, input_shape=(84, 8, 3)), ValueError, "input_shape[1]=8"),
    Wrong(lambda: models.sinusoid_mlp(0), ValueError, "`features`", "features=0"),
    Wrong(lambda: models.sinusoid_mlp(1.0), TypeError, "`features`", "features=1.0"),
    Wrong(lambda: models.sinusoid_mlp(seed=-3), ValueError, "`seed`", "seed=-3"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)
