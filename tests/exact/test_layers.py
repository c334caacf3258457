"""Second order through every layer of Keras against central differences in float64.

Each public class of `keras.layers` stands in `CASES` or `WITHOUT_DERIVATIVE`; one that is in
neither makes a test fail, so that a new layer is looked at. A layer is right, or it is refused by
the name of the operation.
"""

import inspect
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import exact, functional, inner_loop, inner_optimizers

layers = keras.layers


class Case(NamedTuple):
    """How a layer is made and called, on inputs `[2, *shape]` that depend on weights."""

    build: object
    shape: tuple = (4, 3)
    call: object = lambda layer, x: layer(x, training=True)
    refused: str = ""  # the operation in whose name it is refused
    single: bool = False  # float32, as TensorFlow or Keras has nothing else
    image: bool = False  # whether the inputs are between 0 and 1
    eager: bool = False  # quicker where a layer makes a large graph; not for convolutions


def plain(layer, x):
    return layer(x)


def pair(layer, x):
    return layer([x, keras.ops.sin(2 * x)])


def twice(layer, x):
    return layer(x, keras.ops.sin(2 * x))


def image(build, **settings):
    """A layer that changes images, the same random way each time."""
    return Case(build, (6, 6, 3), image=True, **settings)


def pooling(name, rank, *arguments):
    return Case(
        lambda: getattr(layers, f"{name}{rank}D")(*arguments),
        (5,) * rank + (2,) if rank < 3 else (3, 3, 3, 1),
        # On the CPU, three-dimensional pooling knows no float64.
        single=rank == 3,
    )


def merging(name):
    return Case(lambda: getattr(layers, name)(), call=lambda layer, x: pair(layer, x))


def convolution(name, rank, *arguments, **keywords):
    return Case(
        lambda: getattr(layers, f"{name}{rank}D")(*arguments, **keywords), (4,) * rank + (2,)
    )


def random_image(name, *arguments, **keywords):
    of_case = {k: keywords.pop(k) for k in Case._fields if k in keywords}
    return image(
        lambda: getattr(layers, name)(*arguments, seed=3, **keywords),
        **{"eager": "refused" not in of_case, **of_case},
    )


def beside(layer, x):
    """For layers whose outputs are steps, of derivative zero."""
    return x + layer(x)


PROJECTIVE = {"refused": "ImageProjectiveTransformV3", "single": True}

CASES = {
    "Activation": Case(lambda: layers.Activation("softsign")),
    "ActivityRegularization": Case(lambda: layers.ActivityRegularization(0.1, 0.1)),
    "AdditiveAttention": Case(layers.AdditiveAttention, call=pair),
    "AlphaDropout": Case(lambda: layers.AlphaDropout(0.5, seed=1)),
    "Attention": Case(lambda: layers.Attention(use_scale=True), call=pair),
    "BatchNormalization": Case(layers.BatchNormalization),
    "Bidirectional": Case(lambda: layers.Bidirectional(layers.SimpleRNN(2, unroll=True))),
    "CenterCrop": image(lambda: layers.CenterCrop(3, 3)),
    "Concatenate": merging("Concatenate"),
    "Dense": Case(lambda: layers.Dense(2, "tanh")),
    "DepthwiseConv1D": convolution("DepthwiseConv", 1, 2),
    "DepthwiseConv2D": convolution("DepthwiseConv", 2, 2),
    "Dot": Case(lambda: layers.Dot(2, normalize=True), call=pair),
    "Dropout": Case(lambda: layers.Dropout(0.5, seed=1)),
    "ELU": Case(layers.ELU),
    "EinsumDense": Case(lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 2))),
    "Embedding": Case(
        lambda: layers.Embedding(5, 2),
        call=lambda layer, x: x[..., :2] * layer(tf.constant([[0, 1, 3, 1]] * 2)),
    ),
    "Flatten": Case(layers.Flatten),
    "GRU": Case(lambda: layers.GRU(2)),
    "GRUCell": Case(lambda: layers.RNN(layers.GRUCell(2), unroll=True)),
    "GaussianDropout": Case(lambda: layers.GaussianDropout(0.5, seed=1)),
    "GaussianNoise": Case(lambda: layers.GaussianNoise(0.5, seed=1)),
    "GroupNormalization": Case(lambda: layers.GroupNormalization(3)),
    "GroupQueryAttention": Case(lambda: layers.GroupQueryAttention(2, 2, 1), call=twice),
    "Identity": Case(layers.Identity),
    "LSTM": Case(lambda: layers.LSTM(2, unroll=True)),
    "LSTMCell": Case(lambda: layers.RNN(layers.LSTMCell(2), unroll=True)),
    "Lambda": Case(lambda: layers.Lambda(tf.math.sin)),
    "LayerNormalization": Case(layers.LayerNormalization),
    "LeakyReLU": Case(layers.LeakyReLU),
    "Masking": Case(layers.Masking),
    "MelSpectrogram": Case(
        lambda: layers.MelSpectrogram(8, 4, 8, num_mel_bins=3, min_freq=0.0), (16,), single=True
    ),
    "MultiHeadAttention": Case(lambda: layers.MultiHeadAttention(2, 2), call=twice),
    "Normalization": Case(lambda: layers.Normalization(mean=0.5, variance=2.0), call=plain),
    "PReLU": Case(layers.PReLU),
    "Permute": Case(lambda: layers.Permute((2, 1))),
    "RMSNormalization": Case(layers.RMSNormalization),
    "RNN": Case(lambda: layers.RNN(layers.SimpleRNNCell(2))),
    "ReLU": Case(layers.ReLU),
    "RepeatVector": Case(lambda: layers.RepeatVector(2), (3,)),
    "Rescaling": Case(lambda: layers.Rescaling(2.0), call=plain),
    "Reshape": Case(lambda: layers.Reshape((3, 4))),
    "Resizing": image(lambda: layers.Resizing(4, 9), single=True),
    "ReversibleEmbedding": Case(
        lambda: layers.ReversibleEmbedding(5, 2),
        call=lambda layer, x: layer(
            x[..., :2] * layer(tf.constant([[0, 1, 3, 1]] * 2)), reverse=True
        ),
    ),
    "STFTSpectrogram": Case(lambda: layers.STFTSpectrogram("psd", 8, 4, 8, window=None), (16, 1)),
    "SeparableConv1D": convolution("SeparableConv", 1, 2, 2),
    "SeparableConv2D": convolution("SeparableConv", 2, 2, 2),
    "SimpleRNN": Case(lambda: layers.SimpleRNN(2, unroll=True)),
    "SimpleRNNCell": Case(lambda: layers.RNN(layers.SimpleRNNCell(2), unroll=True)),
    "Softmax": Case(layers.Softmax),
    # Its estimate of the norm counts as a constant by design: as it is in prediction.
    "SpectralNormalization": Case(
        lambda: layers.SpectralNormalization(layers.Dense(2)),
        call=lambda layer, x: layer(x, training=False),
    ),
    "StackedRNNCells": Case(
        lambda: layers.RNN(
            layers.StackedRNNCells([layers.GRUCell(2), layers.LSTMCell(2)]), unroll=True
        )
    ),
    "TimeDistributed": Case(lambda: layers.TimeDistributed(layers.Dense(2))),
    "UnitNormalization": Case(layers.UnitNormalization),
    "UpSampling1D": Case(layers.UpSampling1D),
    "UpSampling2D": image(lambda: layers.UpSampling2D(interpolation="bilinear"), single=True),
    "UpSampling3D": Case(lambda: layers.UpSampling3D(2), (2, 2, 2, 1)),
    # Augmentation: usually before the first weights, here behind some.
    "AugMix": random_image("AugMix", (0, 1), **PROJECTIVE),
    "AutoContrast": image(lambda: layers.AutoContrast(value_range=(0, 1))),
    "ContrastLimitedAdaptiveHistogramEqualization": image(
        lambda: layers.ContrastLimitedAdaptiveHistogramEqualization(value_range=(0, 1)),
        call=beside,
        eager=True,
    ),
    "CutMix": random_image("CutMix"),
    "Equalization": image(lambda: layers.Equalization(value_range=(0, 1)), eager=True),
    "MixUp": random_image("MixUp"),
    "Pipeline": image(lambda: layers.Pipeline([layers.Rescaling(2.0), layers.CenterCrop(3, 3)])),
    "RandAugment": random_image("RandAugment", (0, 1), **PROJECTIVE),
    "RandomBrightness": random_image("RandomBrightness", 0.2, value_range=(0, 1)),
    "RandomColorDegeneration": random_image("RandomColorDegeneration", 0.5, (0, 1)),
    "RandomColorJitter": random_image("RandomColorJitter", (0, 1), 0.1, 0.1, 0.1, 0.1),
    "RandomContrast": random_image("RandomContrast", 0.5, value_range=(0, 1)),
    "RandomCrop": random_image("RandomCrop", 3, 3),
    "RandomElasticTransform": random_image("RandomElasticTransform", 1.0, value_range=(0, 1)),
    "RandomErasing": random_image("RandomErasing", 1.0, value_range=(0, 1)),
    "RandomFlip": random_image("RandomFlip"),
    "RandomGaussianBlur": random_image(
        "RandomGaussianBlur", 1.0, 3, 1.0, value_range=(0, 1), eager=False
    ),
    "RandomGrayscale": random_image("RandomGrayscale", 1.0),
    "RandomHue": random_image("RandomHue", 0.5, (0, 1)),
    "RandomInvert": random_image("RandomInvert", 1.0, (0, 1)),
    "RandomPerspective": random_image("RandomPerspective", 1.0, 0.5, **PROJECTIVE),
    "RandomPosterization": random_image("RandomPosterization", 4, (0, 1), call=beside),
    "RandomRotation": random_image("RandomRotation", 0.2, **PROJECTIVE),
    "RandomSaturation": random_image("RandomSaturation", 0.5, (0, 1)),
    "RandomSharpness": random_image("RandomSharpness", 0.5, (0, 1), eager=False),
    "RandomShear": random_image("RandomShear", 0.5, 0.5, **PROJECTIVE),
    "RandomTranslation": random_image("RandomTranslation", 0.2, 0.2, **PROJECTIVE),
    "RandomZoom": random_image("RandomZoom", 0.3, **PROJECTIVE),
    "Solarization": random_image("Solarization", 0.0, value_range=(0, 1)),
    **{name: merging(name) for name in ("Add", "Average", "Maximum", "Minimum", "Multiply")},
    "Subtract": merging("Subtract"),
}
for rank in (1, 2, 3):
    CASES |= {
        f"AdaptiveAveragePooling{rank}D": pooling("AdaptiveAveragePooling", rank, 2),
        f"AdaptiveMaxPooling{rank}D": pooling("AdaptiveMaxPooling", rank, 2),
        f"AveragePooling{rank}D": pooling("AveragePooling", rank, 3, 2),
        f"MaxPooling{rank}D": pooling("MaxPooling", rank, 3, 2),
        f"GlobalAveragePooling{rank}D": pooling("GlobalAveragePooling", rank),
        f"GlobalMaxPooling{rank}D": pooling("GlobalMaxPooling", rank),
        f"Conv{rank}D": convolution("Conv", rank, 2, 2, padding="same"),
        f"Conv{rank}DTranspose": convolution("Conv", rank, 2, 2, strides=2),
        f"ConvLSTM{rank}D": Case(
            lambda rank=rank: getattr(layers, f"ConvLSTM{rank}D")(1, 2, unroll=rank > 1),
            (2, *[2] * rank, 1),
        ),
        f"Cropping{rank}D": pooling("Cropping", rank, 1),
        f"SpatialDropout{rank}D": Case(
            lambda rank=rank: getattr(layers, f"SpatialDropout{rank}D")(0.5, seed=1),
            (3,) * rank + (2,),
        ),
        f"ZeroPadding{rank}D": pooling("ZeroPadding", rank, 1),
    }
    CASES[f"Conv{rank}DTranspose"] = Case(
        lambda rank=rank: getattr(layers, f"Conv{rank}DTranspose")(2, 2, strides=2),
        (3,) * rank + (2,),
    )

WITHOUT_DERIVATIVE = {
    **dict.fromkeys(
        ("CategoryEncoding", "Discretization", "HashedCrossing", "Hashing", "IntegerLookup")
        + ("StringLookup", "TextVectorization", "MaxNumBoundingBoxes"),
        "takes or gives integers, words or boxes",
    ),
    **dict.fromkeys(("InputLayer", "Layer", "Wrapper"), "computes nothing"),
    **dict.fromkeys(("FlaxLayer", "JaxLayer", "TorchModuleWrapper"), "another framework"),
    "TFSMLayer": "calls a graph that was traced elsewhere, with TensorFlow's own derivatives",
}

# The same classes once more, in settings that take other operations.
MORE = {
    "resizing-bicubic": image(lambda: layers.Resizing(4, 9, interpolation="bicubic")),
    "resizing-lanczos": image(lambda: layers.Resizing(4, 9, interpolation="lanczos3")),
    "resizing-nearest": image(lambda: layers.Resizing(4, 9, interpolation="nearest")),
    "resizing-antialiased": image(lambda: layers.Resizing(4, 3, antialias=True)),
    "upsampling-bicubic": image(lambda: layers.UpSampling2D(interpolation="bicubic")),
    "upsampling-nearest": image(lambda: layers.UpSampling2D()),
    "resize-area": image(lambda: layers.Lambda(lambda x: tf.image.resize(x, (4, 3), "area"))),
    "resize-raw": image(
        lambda: layers.Lambda(
            lambda x: tf.raw_ops.ResizeBilinear(images=x, size=(4, 9), align_corners=True)
        )
    ),
    "crop-and-resize": image(
        lambda: layers.Lambda(
            lambda x: tf.image.crop_and_resize(x, [[0.1, 0.2, 0.8, 0.9]], [1], (3, 4))
        )
    ),
    "hsv": image(
        lambda: layers.Lambda(lambda x: keras.ops.image.hsv_to_rgb(x) + tf.image.rgb_to_hsv(x))
    ),
    "local-response-normalization": image(
        lambda: layers.Lambda(lambda x: tf.nn.local_response_normalization(x)),
        refused="LRNGrad",
        single=True,
    ),
    "glimpse": image(
        lambda: layers.Lambda(lambda x: tf.image.extract_glimpse(x, (3, 3), [[0.0, 0.0]] * 2)),
        refused="ExtractGlimpseV2",
        single=True,
    ),
    "shuffle": Case(
        lambda: layers.Lambda(lambda x: tf.random.shuffle(x, seed=1)), refused="RandomShuffle"
    ),
}
for name in ("bicubic", "lanczos", "antialiased"):
    MORE[f"resizing-{name}"] = MORE[f"resizing-{name}"]._replace(single=True)
for name in ("upsampling-bicubic", "resize-area", "resize-raw", "crop-and-resize"):
    MORE[name] = MORE[name]._replace(single=True)


class Probe(keras.Model):
    """Weights before the layer, so that everything is differentiated through it."""

    def __init__(self, case):
        super().__init__()
        self.case, self.layer = case, case.build()

    def build(self, shape):
        self.scale = self.add_weight(
            shape=shape[1:], initializer=keras.initializers.RandomUniform(0.5, 1.0, seed=1)
        )

    def call(self, x, training=False):
        x = x * self.scale
        return self.case.call(self.layer, x if self.case.image else keras.ops.tanh(x))


def probe(case):
    """`(value_and_gradient, weights)` of MAML's meta-loss as a function of the weights."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    support, query = (
        tf.constant(
            rng.uniform(0.0 if case.image else -2.0, 1.0, size=(2, *case.shape)),
            keras.config.floatx(),
        )
        for _ in range(2)
    )
    model = Probe(case)
    model(support)
    state = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]

    def loss_at(weights, state, x):
        def loss_of(y):
            y = tf.cast(y, tf.float64)
            waves = tf.sin(tf.cast(tf.range(tf.size(y)), y.dtype))
            loss = tf.reduce_mean(tf.sin(y) * tf.reshape(waves, tf.shape(y)) + 0.1 * y**2)
            return tf.add_n([loss, *[tf.cast(penalty, loss.dtype) for penalty in model.losses]])

        return functional.call(model, weights, state, x, training=True, then=loss_of)

    def value_and_gradient(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            adapted = inner_loop.adapt(
                lambda w, s, step: loss_at(w, s, support),
                weights,
                state,
                inner_optimizers.SGD(2.0),
                1,
            )
            loss, _ = loss_at(adapted.weights, adapted.state, query)
        with exact.refusals():
            gradient = tape.gradient(loss, weights, unconnected_gradients="zero")
        return loss, [tf.convert_to_tensor(g) for g in gradient]

    weights = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    if not case.eager:
        value_and_gradient = tf.function(value_and_gradient, autograph=False)
    return value_and_gradient, weights


def deviation(case):
    """Relative error of the meta-gradient along a direction against a central difference."""
    value_and_gradient, weights = probe(case)
    rng = np.random.default_rng(1)
    direction = [tf.constant(rng.normal(size=w.shape), w.dtype) for w in weights]
    _, gradient = value_and_gradient(weights)
    along = sum(np.sum(g.numpy() * d.numpy()) for g, d in zip(gradient, direction, strict=True))

    def value(step):
        moved = [w + step * d for w, d in zip(weights, direction, strict=True)]
        return value_and_gradient(moved)[0].numpy()

    step = 4e-3 if case.single else 1e-6
    difference = (value(step) - value(-step)) / (2 * step)
    if case.single:
        further = (value(2 * step) - value(-2 * step)) / (4 * step)
        difference += (difference - further) / 3
    return abs(along - difference) / max(abs(difference), 1e-3)


def public_classes():
    """Names of the layer classes of Keras by class: several names may be one."""
    classes = {}
    for name in dir(keras.layers):
        member = getattr(keras.layers, name)
        if inspect.isclass(member) and issubclass(member, keras.Layer):
            classes.setdefault(member, []).append(name)
    return classes


def test_every_layer_of_keras_is_looked_at():
    known = set(CASES) | set(WITHOUT_DERIVATIVE)
    unknown = [names for names in public_classes().values() if not known.intersection(names)]
    assert unknown == []
    assert known <= {name for names in public_classes().values() for name in names}


@pytest.mark.parametrize("case", (CASES | MORE).values(), ids=CASES | MORE)
def test_the_second_order_is_right_or_refused_by_name(case, request):
    if not case.single:
        request.getfixturevalue("float64")
    if case.refused:
        with pytest.raises(NotImplementedError, match=f"through `{case.refused}`"):
            deviation(case)
    else:
        assert deviation(case) < (2e-3 if case.single else 1e-6)
