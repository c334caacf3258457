"""Networks of `keras.applications` as backbones, and networks cut in two."""

import keras
import numpy as np
import pytest

from maml_tf import backbones
from tests.problems import layers

PACKAGES = {
    "mobilenet_v2": "mobilenet_v2",
    "mobilenet_v3_small": "mobilenet_v3",
    "mobilenet_v3_large": "mobilenet_v3",
    "efficientnet_v2_b0": "efficientnet_v2",
    "convnext_tiny": "convnext",
    "resnet50_v2": "resnet_v2",
}


def no_download(**settings):
    raise Exception("URL fetch failure on https://example.org: None")  # as Keras has it


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of MobileNetV3Small without its top, in a file, and the network."""
    keras.utils.set_random_seed(1)
    network = keras.applications.MobileNetV3Small(
        (32, 32, 3), include_top=False, pooling="avg", weights=None
    )
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    network.save_weights(path)
    return path, network


def test_pictures_from_0_to_1_are_scaled_as_the_network_was_trained(weights):
    path, network = weights
    backbone = backbones.pretrained("mobilenet_v3_small", 32, path)
    assert backbone.input_shape == (None, 32, 32, 3)
    assert backbone.trainable_variables == []
    pictures = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    # It scales pixels of [0, 255] by itself.
    expected = network(pictures * 255, training=False)
    np.testing.assert_allclose(backbone(pictures, training=False), expected, rtol=1e-4, atol=1e-6)


def test_weights_of_another_network_are_refused(weights, tmp_path):
    keras.Sequential([keras.Input((3,)), layers.Dense(2)]).save_weights(tmp_path / "a.weights.h5")
    (tmp_path / "b.weights.h5").write_bytes(b"no weights")
    for file in ("a.weights.h5", "b.weights.h5"):
        with pytest.raises(
            ValueError, match=rf"Expected `weights` of 'mobilenet_v3_small'.*{file}"
        ):
            backbones.pretrained("mobilenet_v3_small", 32, tmp_path / file)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ValueError, ("mobile",), r"Expected `name` to be .*'mobile'"),
        (TypeError, ("mobilenet_v2", 3.5), r"Expected `image_size`.*3\.5"),
        (ValueError, ("mobilenet_v2", 16, None), r"pictures that 'mobilenet_v2' takes.*\(16|=16"),
        (ValueError, ("mobilenet_v2", 32, "no/such.h5"), r"'no/such\.h5', which is no file"),
        (TypeError, ("mobilenet_v2", 32, 7), r"Expected `weights` to be .*weights=7"),
    ],
)
def test_wrong_calls(kind, arguments, message):
    with pytest.raises(kind, match=message):
        backbones.pretrained(*arguments)


def test_a_download_that_fails_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(keras.applications, "MobileNetV2", no_download)
    with pytest.raises(OSError, match=r"Expected to download.*URL fetch failure.*give the path"):
        backbones.pretrained("mobilenet_v2", 32)


def blocks():
    """Two blocks with a connection around each: between them one may cut."""
    x = keras.Input((4,))
    y = layers.Add(name="first")([x, layers.Dense(4, "tanh")(x)])
    inside = layers.Dense(4, "tanh", name="inside")(y)
    return keras.Model(x, layers.Dense(2)(layers.Add(name="second")([y, inside])))


def test_the_two_parts_are_the_network():
    keras.utils.set_random_seed(0)
    model = blocks()
    front, rest = backbones.split(model, "first")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(rest(front(x)), model(x), rtol=1e-6)
    shared = {id(v) for v in [*front.variables, *rest.variables]}
    assert shared == {id(v) for v in model.variables}
    assert len(rest.trainable_variables) == 4


def test_where_no_cut_can_be():
    with pytest.raises(ValueError, match=r"all connections go through.*layer='inside'"):
        backbones.split(blocks(), "inside")
    with pytest.raises(ValueError, match=r"Expected `layer` to name a layer.*layer='third'"):
        backbones.split(blocks(), "third")
    with pytest.raises(TypeError, match=r"Expected `backbone` to be a `keras.Model`"):
        backbones.split("model", "first")


@pytest.mark.parametrize("name", backbones.networks.NAMES)
def test_the_scaling_in_front_is_that_of_the_network(name):
    """What `preprocess_input` of each makes of pixels, without building the network."""
    _, (scale, offset), _ = backbones.networks._KNOWN[name]
    pictures = np.random.default_rng(0).uniform(size=(1, 4, 4, 3)).astype(np.float32)
    expected = getattr(keras.applications, PACKAGES[name]).preprocess_input(pictures * 255)
    np.testing.assert_allclose(pictures * scale + offset, expected, rtol=1e-5, atol=1e-6)
