"""What the image scripts train on the features of a pretrained backbone, and how they say of it.

A projection that begins as the identity is meta-trained, so that training begins where the backbone
alone is; what adapts is the last layer behind it, or class means.
"""

import sys

import keras

import maml_tf
from maml_tf import backbones
from train import methods, options

BASELINE = "nearest class mean on the backbone's features"
SIZE = 224  # of pictures, where nothing else is said
# Of features of length 1, to which the last layer begins at zero.
STEP_SIZE, INNER_STEPS = 10.0, 5
# A projection that begins as the identity is not to be moved far, and that soon.
RECIPE = {
    "iterations": 2_000,
    "epoch_iterations": 200,
    "meta_learning_rate": 1e-4,
    "clip_norm": 1.0,
}


def check(settings):
    """Refuses options that have no meaning beside or without a backbone.

    Raises:
        SystemExit: naming them.
    """
    if settings.backbone is None:
        if settings.weights is not None:
            sys.exit(
                "Expected --weights beside --backbone, whose weights they are. Received: --weights "
                f"{settings.weights} alone. Give --backbone mobilenet_v2 too, or leave it out."
            )
        return
    unused = {"network": None, "filters": None, "last_layer": "normal"}
    for name, default in unused.items():
        value = getattr(settings, name)
        if value != default:
            sys.exit(
                f"Expected no {options.option(name)} beside --backbone, on whose features a "
                f"network of its own is trained. Received: {options.option(name)} {value}. Leave "
                "it out."
            )


def open_backbone(settings, shape=None):
    """The backbone of the options, from pictures in [0, 1] of a shape.

    Args:
        settings: with `backbone`, `weights` and `image_size`.
        shape: of the pictures that there are; where they are of another size than the backbone,
            they are resized in front of it. None for pictures of its own size.

    Returns:
        A frozen `keras.Model`.

    Raises:
        SystemExit: it cannot be had, or the pictures are not in colour.
    """
    size = settings.image_size or SIZE
    try:
        network = backbones.pretrained(settings.backbone, size, settings.weights or "imagenet")
    except (OSError, ValueError, TypeError) as error:
        sys.exit(str(error))
    if shape is None or tuple(shape) == tuple(network.input_shape[1:]):
        return network
    if shape[-1] != 3:
        sys.exit(
            f"Expected pictures in colour for --backbone {settings.backbone}. Received: pictures "
            f"of shape {tuple(shape)}. Leave --backbone out, or load them with 3 channels."
        )
    height, width = network.input_shape[1:3]
    resized = keras.layers.Resizing(height, width)
    whole = keras.Sequential([keras.Input(shape), resized, network], name=network.name)
    whole.trainable = False
    return whole


def make_network(settings, features):
    """What is trained on features: a projection, and a last layer where the method wants one.

    Args:
        settings: a `train.classification.Settings`.
        features: shape of the features of one picture, `(D,)`.
    """
    projection = keras.layers.Dense(
        features[-1], kernel_initializer="identity", use_bias=False, name="projection"
    )
    layers = [keras.Input(features), projection]
    if methods.takes_ways(settings.method):
        last = keras.layers.Dense(settings.ways, kernel_initializer="zeros", name="head")
        layers += [keras.layers.UnitNormalization(), last]
    return keras.Sequential(layers)


def given(settings):
    """Settings of a method on such features, beside those that the options tell."""
    if methods.takes_ways(settings.method):
        return {"adaptable": "head"}
    return {"distance": "cosine", "learned_scale": True}


def nearest_means(backbone, scale=10.0):
    """The learner that trains nothing: class means of a backbone's features, by their angle.

    Args:
        backbone: a `keras.Model` from pictures to features `[n, D]`.
        scale: what cosines are multiplied by to make logits of them.

    Returns:
        `maml_tf.backbones.WithBackbone`.
    """
    size = backbone.output_shape[-1]
    same = keras.layers.Dense(size, kernel_initializer="identity", use_bias=False)
    network = keras.Sequential([keras.Input((size,)), same])
    learner = maml_tf.Prototypical(network, distance="cosine", learned_scale=True)
    learner.scale.assign(scale)
    return backbones.WithBackbone(backbone, learner)


def added(result, baseline):
    """A sentence about what meta-training adds to the backbone by itself, on the same tasks.

    Args:
        result: `maml_tf.evaluation.Result` of the learner.
        baseline: that of the nearest class means of the backbone's features.
    """
    gained = maml_tf.evaluation.Result("accuracy", result.values[:, -1:] - baseline.values[:, -1:])
    mean, interval = 100 * gained.mean[-1], 100 * gained.interval[-1]
    if mean > interval:
        return f"Meta-training adds {mean:.1f} ± {interval:.1f} points to the backbone alone."
    if mean < -interval:
        return (
            f"The backbone alone is better by {-mean:.1f} ± {interval:.1f} points: take class "
            "means of its features, without meta-training."
        )
    return (
        "Meta-training adds nothing that these tasks can show to the backbone alone: "
        f"{mean:+.1f} ± {interval:.1f} points."
    )
