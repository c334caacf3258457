"""Learners behind a pretrained network, on the device: as the learner, or refused by name."""

import keras
import numpy as np
import pytest

import maml_tf
from maml_tf import backbones
from tests.backbones.networks import anil, backbone
from tests.serving.litert.device import SPARSE, expected, exported, layers

SIZES = {"max_support": 6, "max_queries": 4}
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def pictures(learner, number, seed=0):
    """As `examples`, of what the backbone takes."""
    shape = learner.backbone.input_shape[1:]
    x = np.random.default_rng(seed).uniform(size=(number, *shape)).astype(np.float32)
    return x, (np.arange(number) % 3).astype(np.int32)


def check(learner, device, steps):
    query_x, _ = pictures(learner, 4, seed=1)
    for number, step in zip((6, 4), steps, strict=True):
        x, y = pictures(learner, number)
        wanted = expected(learner, x, y, query_x, step)
        answer = device.adapt_and_predict(x, y, query_x, step)
        np.testing.assert_allclose(answer[:, :3], wanted, **TOLERANCE)
        np.testing.assert_array_equal(device.predict(device.adapt(x, y, step), query_x), answer)
    return answer


def test_the_backbone_is_in_the_file_and_stays_as_it_is(tmp_path):
    """What adapts is the head alone, so that the backbone may be int8."""
    learner = backbones.WithBackbone(backbone(), anil())
    device = exported(learner, tmp_path, **SIZES)
    check(learner, device, (0, 2))
    x, y = pictures(learner, 6)
    head = sum(v.value.shape.num_elements() for v in learner.learner.model.layers[-1].variables)
    assert device.adapt(x, y, 2)["weights"].shape == (head,)
    small = exported(learner, tmp_path, **SIZES, precision="int8")
    wanted, rounded = expected(learner, x, y, x[:4], 2), small.adapt_and_predict(x, y, x[:4], 2)
    np.testing.assert_allclose(rounded, wanted, rtol=0.1, atol=0.1)
    assert np.abs(rounded - wanted).max() > 1e-4


def test_any_number_of_classes_behind_a_backbone(tmp_path):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    free = maml_tf.Prototypical(network)
    free.compile(loss=SPARSE)
    learner = backbones.WithBackbone(backbone(), free)
    with pytest.raises(ValueError, match=r"Expected `max_ways`.*max_ways=20"):
        exported(learner, tmp_path, **SIZES)
    device = exported(learner, tmp_path, **SIZES, max_ways=5)
    answer = check(learner, device, (None, None))
    assert (answer[:, 3:] == np.finfo(np.float32).min).all()
    assert free.ways is None


def test_recurrent_layers_of_a_backbone_are_unrolled(tmp_path):
    memory = layers.GRU(4)
    network = keras.Sequential([keras.Input((3, 2)), memory])
    learner = backbones.WithBackbone(network, anil())
    check(learner, exported(learner, tmp_path, **SIZES), (1, 2))
    assert not memory.unroll


def test_what_cannot_go_is_named(tmp_path):
    larger = layers.Resizing(9, 9, interpolation="bicubic", name="larger")
    network = keras.Sequential([keras.Input((6, 6, 3)), larger, *backbone(9).layers])
    with pytest.raises(ValueError, match=r"(?s)'larger'.*bilinear"):
        exported(backbones.WithBackbone(network, anil()), tmp_path, **SIZES)
    half = layers.Dense(4, dtype="mixed_float16", name="half")
    network = keras.Sequential([keras.Input((5,)), half, layers.Activation("linear")])
    with pytest.raises(ValueError, match=r"(?s)float32.*'half'.*mixed_float16"):
        exported(backbones.WithBackbone(network, anil()), tmp_path, **SIZES)
    words = layers.TextVectorization(output_mode="multi_hot", vocabulary=["a", "b", "c"])
    network = keras.Sequential([keras.Input((), dtype="string"), words])
    with pytest.raises(ValueError, match=r"(?s)are numbers.*string.*`learner\.learner`"):
        exported(backbones.WithBackbone(network, anil()), tmp_path, **SIZES)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", backbones.networks.NAMES)
def test_each_pretrained_network(name, tmp_path):
    network = backbones.pretrained(name, 64, weights=None)
    features = keras.Input(network.output_shape[1:])
    last = layers.Dense(3, kernel_initializer="zeros")
    head = maml_tf.MAML(keras.Model(features, last(layers.UnitNormalization()(features))), 1.0)
    head.compile(loss=SPARSE)
    learner = backbones.WithBackbone(network, head)
    check(learner, exported(learner, tmp_path, **SIZES), (0, 2))
