"""Backbones: Keras models without their top, what scales pictures in front, and parts of one."""

import os
import pathlib

import keras
import numpy as np

from maml_tf import arguments
from maml_tf.exact import keras_internals
from maml_tf.tasks.data import image_decoding


def pretrained(
    name: str,
    image_size: int | tuple[int, int] = 224,
    weights: str | os.PathLike | None = "imagenet",
) -> keras.Model:
    """A network of `keras.applications` without its top, from pictures in [0, 1] to features.

    Args:
        name: str, one of `mobilenet_v2`, `mobilenet_v3_small`, `mobilenet_v3_large`,
            `efficientnet_v2_b0`, `convnext_tiny`, `resnet50_v2`.
        image_size: int, or `(height, width)`, in pixels.
        weights: `"imagenet"`, which Keras downloads once; the path of a file of weights of this
            network without its top (`.weights.h5`, or an `.h5` of `keras.applications`); or None
            for random ones.

    Returns:
        A frozen, built `keras.Model` from float32 `[n, height, width, 3]` to float32 `[n, D]`, the
        mean of the last features over height and width.

    Raises:
        OSError: the weights cannot be downloaded.
        TypeError: a size is not an integer, or `weights` no path.
        ValueError: an unknown name, a size that the network does not take, or a file that is not
            there or holds weights of another network.

    Example:
        >>> backbone = maml_tf.backbones.pretrained("mobilenet_v3_small", 64, weights=None)
        >>> backbone.output_shape
        (None, 576)
    """
    arguments.choice("name", name, tuple(_KNOWN))
    height, width = image_decoding.check_size(image_size)
    builder, preprocessing, options = _KNOWN[name]
    path = _file(weights)
    build = getattr(keras.applications, builder)
    try:
        network = build(
            input_shape=(height, width, 3),
            include_top=False,
            pooling="avg",
            weights="imagenet" if weights == "imagenet" else None,
            **options,
        )
    except ValueError as error:
        raise ValueError(
            f"Expected `image_size` of pictures that {name!r} takes. Received: "
            f"{arguments.received('image_size', image_size)}, of which it says: {error}"
        ) from error
    except Exception as error:  # Keras' own, without a class, where a download fails
        raise OSError(
            f"Expected to download the weights of {name!r}. Received: {error}. Look at the "
            "network, or give the path of a file of weights that is there already."
        ) from error
    if path is not None:
        _load(network, path, name)
    scale, offset = preprocessing
    layers = [keras.Input((height, width, 3)), keras.layers.Rescaling(scale, offset=offset)]
    whole = keras.Sequential([*layers, network], name=name)
    whole.trainable = False
    return whole


# What turns pictures in [0, 1] into what the network was trained with: of these, two scale pixels
# of [0, 255] by themselves.
_SIGNED, _PIXELS = (2.0, -1.0), (255.0, 0.0)
_KNOWN: dict[str, tuple[str, tuple[float, float], dict]] = {
    "mobilenet_v2": ("MobileNetV2", _SIGNED, {}),
    "mobilenet_v3_small": ("MobileNetV3Small", _PIXELS, {}),
    "mobilenet_v3_large": ("MobileNetV3Large", _PIXELS, {}),
    "efficientnet_v2_b0": ("EfficientNetV2B0", _PIXELS, {}),
    "convnext_tiny": ("ConvNeXtTiny", _PIXELS, {}),
    "resnet50_v2": ("ResNet50V2", _SIGNED, {}),
}
NAMES = tuple(_KNOWN)


def _file(weights):
    if weights is None or weights == "imagenet":
        return None
    path = pathlib.Path(arguments.path("weights", weights, '"imagenet" or a file of weights'))
    if not path.is_file():
        raise ValueError(
            'Expected `weights` to be "imagenet", None or a file of weights. Received: '
            f"weights={str(path)!r}, which is no file. Correct the path."
        )
    return path


def _load(network, path, name):
    try:
        network.load_weights(str(path))
    except Exception as error:  # whatever Keras and the readers below it bring about
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"Expected `weights` of {name!r} without its top. Received: weights={str(path)!r}, "
            f"which it does not take: {reason}. Give a file that `save_weights` of such a network "
            "wrote (it ends in .weights.h5), or the one of `keras.applications`."
        ) from error


def split(model: keras.Model, layer: str) -> tuple[keras.Model, keras.Model]:
    """Cuts a network in two behind one of its layers, so that what is behind may adapt.

    The first part is a backbone, whose features are computed once; the second part goes into a
    learner, by itself or with a head behind. The layers are those of `model`, not copies.

    Args:
        model: a functional `keras.Model` with one input.
        layer: str, the name of one of its layers: everything behind it depends on its output and
            on nothing before it.

    Returns:
        `(front, rest)`, both `keras.Model`.

    Raises:
        TypeError: `model` is not a `keras.Model`.
        ValueError: it is not functional, has no such layer, or a connection passes by the layer.

    Example:
        >>> x = keras.Input((4,))
        >>> hidden = keras.layers.Dense(3, name="hidden")(x)
        >>> front, rest = split(keras.Model(x, keras.layers.Dense(2)(hidden)), "hidden")
        >>> front.output_shape, rest.input_shape, rest.output_shape
        ((None, 3), (None, 3), (None, 2))
    """
    check(model)
    names = [one.name for one in model.layers]
    if layer not in names:
        raise ValueError(
            f"Expected `layer` to name a layer of {model.name!r}. Received: layer={layer!r}. Its "
            f"last ones are {names[-8:]}."
        )
    cut = model.get_layer(layer).output
    try:
        return keras.Model(model.inputs, cut), keras.Model(cut, model.outputs[0])
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"Expected a layer of {model.name!r} that all connections go through. Received: "
            f"layer={layer!r}, which some pass by. Give one between two blocks, such as the "
            "addition at a block's end."
        ) from error


def check(backbone):
    """Refuses what is no built `keras.Model` that knows its one input and its one output.

    Raises:
        TypeError: it is no `keras.Model`.
        ValueError: it is not built, or has another number of inputs or outputs.
    """
    if not isinstance(backbone, keras.Model) or hasattr(backbone, "inner_steps"):
        raise TypeError(
            "Expected `backbone` to be a `keras.Model` without its top. Received: "
            f"{arguments.received('backbone', backbone)}. Give, for example, "
            '`maml_tf.backbones.pretrained("mobilenet_v2")`.'
        )
    inputs, outputs = (getattr(backbone, name, None) or [] for name in ("inputs", "outputs"))
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            "Expected `backbone` to be a functional or sequential model with one input and one "
            f"output. Received: {backbone.name!r} with {len(inputs)} inputs and {len(outputs)} "
            "outputs. Put it between a `keras.Input` and the output that is wanted: "
            "`keras.Model(x, backbone(x)[...])`."
        )
    output_of(backbone)
    if keras_internals.mask_of(outputs[0]) is not None:
        raise ValueError(
            "Expected `backbone` to give features without a mask, which would be lost where they "
            f"are kept. Received: {backbone.name!r}, whose output has one. Pool over the sequence "
            "in the backbone, or begin the learner's model with the layer that makes the mask: "
            "`keras.layers.Embedding(..., mask_zero=True)`."
        )


def output_of(backbone):
    """`(shape, dtype)` of what a backbone makes of one example: tuple of int, and str.

    Raises:
        ValueError: the shape is not fixed.
    """
    output = backbone.outputs[0]
    shape = tuple(output.shape[1:])
    if None in shape or not shape:
        raise ValueError(
            "Expected `backbone` to give features of a fixed size for each example. Received: "
            f"{backbone.name!r} with outputs of shape {tuple(output.shape)}. Give it inputs of a "
            'fixed size, pooling (`pooling="avg"`), or a fixed length of sequences.'
        )
    return shape, np.dtype(keras.backend.standardize_dtype(output.dtype)).name


def check_takes(backbone, shape, dtype):
    """Refuses examples that a backbone does not take.

    Args:
        backbone: a model that passed `check`.
        shape: of one example, tuple of int.
        dtype: its dtype, str.

    Raises:
        ValueError: their shape or kind is another one.
    """
    wanted = backbone.inputs[0]
    expected = tuple(wanted.shape[1:])
    shape = tuple(shape)
    if len(shape) == len(expected) + 1 and shape[-1] == 1:
        shape = shape[:-1]  # an axis that Keras takes away
    fits = len(shape) == len(expected) and all(
        w is None or w == s for w, s in zip(expected, shape, strict=True)
    )
    text = "string" in (dtype, wanted.dtype)
    if fits and not (text and dtype != wanted.dtype):
        return
    advice = "Give examples as the backbone takes them, or a backbone made for these."
    if len(expected) == len(shape) == 3 and None not in expected[:2]:
        advice = (
            f"Load the pictures with image_size={expected[:2]}, or make the backbone for "
            f"{shape[:2]}."
        )
    raise ValueError(
        f"Expected examples of shape {expected} and dtype {wanted.dtype} for the backbone "
        f"{backbone.name!r}. Received: examples of shape {shape} and dtype {dtype}. {advice}"
    )
