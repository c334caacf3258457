"""Pictures: networks of the kinds that keras.io's examples show, rebuilt small."""

import keras
import numpy as np
from keras import ops

from tests.strangers.rows import Row, classes, reals, register

layers = keras.layers


def _pictures(size=8, channels=3, ways=3):
    return lambda rng, n: (reals(rng, n, size, size, channels), classes(rng, n, ways))


def _model(shape, body, ways=3):
    x = keras.Input(shape)
    return keras.Model(x, layers.Dense(ways)(body(x)))


def convnet():
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(6, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5, seed=1),
            layers.Dense(3),
        ]
    )


def augmented():
    """Rescaling and augmentation as layers of the model, before the first weight."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(0.5),
            layers.RandomFlip("horizontal", seed=1),
            layers.RandomContrast(0.2, value_range=(-3, 3), seed=2),
            layers.Conv2D(4, 3, 2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


@register
class Patches(layers.Layer):
    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        patches = ops.image.extract_patches(images, self.size)
        return ops.reshape(patches, (-1, patches.shape[1] * patches.shape[2], patches.shape[3]))

    def get_config(self):
        return super().get_config() | {"size": self.size}


@register
class Positions(layers.Layer):
    """A projection of each patch, and an embedding of where it is."""

    def __init__(self, number, width, **kwargs):
        super().__init__(**kwargs)
        self.number, self.width = number, width
        self.projection = layers.Dense(width)
        self.position = layers.Embedding(number, width)

    def call(self, patches):
        return self.projection(patches) + self.position(ops.arange(self.number))

    def get_config(self):
        return super().get_config() | {"number": self.number, "width": self.width}


def _encoded(x, width=8):
    return Positions(4, width)(Patches(4)(x))


def vit():
    """Its `Normalization` has been adapted, as on keras.io."""
    scale = layers.Normalization()
    scale.adapt(np.random.default_rng(0).normal(1.0, 3.0, (50, 8, 8, 3)))

    def body(x):
        x = _encoded(scale(x))
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4, dropout=0.1, seed=1)(y, y)])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(16, activation=keras.activations.gelu)(y)
        x = layers.Add()([x, layers.Dense(8)(layers.Dropout(0.1, seed=2)(y))])
        return layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))

    return _model((8, 8, 3), body)


@register
class Mixer(layers.Layer):
    """Dense layers over patches, then over channels."""

    def __init__(self, patches, width, **kwargs):
        super().__init__(**kwargs)
        self.patches, self.width = patches, width
        self.across = keras.Sequential([layers.Dense(6, "gelu"), layers.Dense(patches)])
        self.within = keras.Sequential([layers.Dense(6, "gelu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]

    def call(self, x):
        y = ops.transpose(self.norms[0](x), (0, 2, 1))
        x = x + ops.transpose(self.across(y), (0, 2, 1))
        return x + self.within(self.norms[1](x))

    def get_config(self):
        return super().get_config() | {"patches": self.patches, "width": self.width}


def mlp_mixer():
    def body(x):
        return layers.GlobalAveragePooling1D()(Mixer(4, 8)(_encoded(x)))

    return _model((8, 8, 3), body)


@register
class Fourier(layers.Layer):
    """Mixes tokens by the real part of a Fourier transform over both axes."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.forward = keras.Sequential([layers.Dense(6, "gelu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]

    def call(self, x):
        x = self.norms[0](x + ops.fft2((x, ops.zeros_like(x)))[0])
        return self.norms[1](x + self.forward(x))

    def get_config(self):
        return super().get_config() | {"width": self.width}


def fnet():
    return _model((8, 8, 3), lambda x: layers.GlobalAveragePooling1D()(Fourier(8)(_encoded(x))))


def conv_mixer():
    def body(x):
        def normed(x):
            return layers.BatchNormalization()(layers.Activation("gelu")(x))

        x = normed(layers.Conv2D(6, 2, 2)(x))
        y = normed(layers.DepthwiseConv2D(3, padding="same")(x))
        x = normed(layers.Conv2D(6, 1)(layers.Add()([x, y])))
        return layers.GlobalAveragePooling2D()(x)

    return _model((8, 8, 3), body)


def resnet():
    def body(x):
        x = layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
        for width, stride in ((4, 1), (6, 2)):
            y = layers.Activation("relu")(layers.BatchNormalization()(x))
            short = x if stride == 1 else layers.Conv2D(width, 1, stride, use_bias=False)(y)
            y = layers.Conv2D(width, 3, stride, "same", use_bias=False)(y)
            y = layers.Activation("relu")(layers.BatchNormalization()(y))
            x = layers.Add()([short, layers.Conv2D(width, 3, 1, "same", use_bias=False)(y)])
        return layers.GlobalAveragePooling2D()(x)

    return _model((8, 8, 3), body)


def unet():
    """A class for every pixel."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Activation("relu")(
        layers.BatchNormalization()(layers.Conv2D(4, 3, 2, "same")(inputs))
    )
    before = x
    x = layers.SeparableConv2D(6, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(3, 2, "same")(x)
    x = layers.Conv2DTranspose(4, 3, padding="same", activation="relu")(x)
    x = layers.Concatenate()([layers.UpSampling2D(2)(x), before])
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    return keras.Model(inputs, layers.Conv2D(3, 3, padding="same")(x))


def efficient_block():
    """Expansion, a depthwise convolution, squeeze and excitation, stochastic depth."""

    def body(x):
        x = layers.Conv2D(4, 3, 2, "same", use_bias=False)(x)
        y = layers.Conv2D(8, 1, use_bias=False)(x)
        y = layers.Activation("swish")(layers.BatchNormalization()(y))
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
        y = layers.Activation("swish")(layers.BatchNormalization()(y))
        z = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(y))
        z = layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(2, 1, activation="swish")(z))
        y = layers.Conv2D(4, 1, use_bias=False)(layers.Multiply()([y, z]))
        y = layers.Dropout(0.2, noise_shape=(None, 1, 1, 1), seed=1)(layers.BatchNormalization()(y))
        return layers.GlobalAveragePooling2D()(layers.Add()([x, y]))

    return _model((8, 8, 3), body)


@register
class StochasticDepth(layers.Layer):
    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seeds = keras.random.SeedGenerator(5)

    def call(self, x, training=False):
        if not training:
            return x
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        kept = ops.floor(keras.random.uniform(shape, seed=self.seeds) + 1 - self.rate)
        return x / (1 - self.rate) * kept

    def get_config(self):
        return super().get_config() | {"rate": self.rate}


@register
class SequencePooling(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.Dense(1)

    def call(self, x):
        weights = ops.softmax(self.attention(x), axis=1)
        return ops.squeeze(ops.matmul(ops.transpose(weights, (0, 2, 1)), x), -2)


def compact_transformer():
    """Tokens from convolutions, stochastic depth, pooling by attention."""

    def body(x):
        x = layers.ZeroPadding2D(1)(x)
        x = layers.Conv2D(8, 3, activation="relu", use_bias=False)(x)
        x = layers.Reshape((-1, 8))(layers.MaxPooling2D(3, 4, "same")(x))
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.MultiHeadAttention(2, 4)(y, y)
        return SequencePooling()(layers.Add()([x, StochasticDepth(0.5)(y)]))

    return _model((8, 8, 3), body)


def super_resolution():
    """Sub-pixel convolution: channels become places."""
    x = keras.Input((6, 6, 1))
    y = layers.Conv2D(4, 5, padding="same", activation="tanh")(x)
    y = layers.Conv2D(4, 3, padding="same", kernel_initializer="orthogonal")(y)
    return keras.Model(x, Shuffle()(y))


@register
class Shuffle(layers.Layer):
    """`[n, h, w, 4]` to `[n, 2h, 2w, 1]`."""

    def call(self, x):
        n, h, w, _ = ops.shape(x)
        x = ops.transpose(ops.reshape(x, (n, h, w, 2, 2)), (0, 1, 3, 2, 4))
        return ops.reshape(x, (n, 2 * h, 2 * w, 1))


def autoencoder():
    x = keras.Input((8, 8, 1))
    y = layers.Conv2D(4, 3, activation="relu", padding="same")(x)
    y = layers.AveragePooling2D(2, padding="same")(y)
    y = layers.Conv2DTranspose(4, 3, 2, activation="relu", padding="same")(y)
    return keras.Model(x, layers.Conv2D(1, 3, activation="sigmoid", padding="same")(y))


@register
class Sampling(layers.Layer):
    """A latent vector with noise, and its divergence from the prior as a loss."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(7)

    def call(self, inputs, training=False):
        mean, log_variance = inputs
        divergence = ops.mean(ops.square(mean) + ops.exp(log_variance) - 1 - log_variance)
        self.add_loss(0.05 * divergence)
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        return mean + ops.exp(0.5 * log_variance) * noise


def variational():
    x = keras.Input((8, 8, 1))
    y = layers.Flatten()(layers.Conv2D(4, 3, 2, "same", activation="relu")(x))
    y = layers.Dense(6, "relu")(y)
    y = Sampling()([layers.Dense(2)(y), layers.Dense(2)(y)])
    y = layers.Reshape((4, 4, 2))(layers.Dense(32, "relu")(y))
    return keras.Model(x, layers.Conv2DTranspose(1, 3, 2, "same", activation="sigmoid")(y))


def _own_pictures(size, channels=1):
    def examples(rng, n):
        x = reals(rng, n, size, size, channels)
        return x, 1 / (1 + np.exp(-x))

    return examples


def _doubled(rng, n):
    return reals(rng, n, 6, 6, 1), reals(rng, n, 12, 12, 1)


def _pixels(rng, n):
    return reals(rng, n, 8, 8, 3), classes(rng, n, 3, 8, 8)


def siamese():
    """One encoder, two pictures, whether they are of one kind."""
    encoder = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.BatchNormalization(),
            layers.Conv2D(4, 3, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(4, "tanh"),
        ]
    )
    one, other = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    gap = layers.Subtract()([encoder(one), encoder(other)])
    return keras.Model([one, other], layers.Dense(1, "sigmoid")(Norm()(gap)))


@register
class Norm(layers.Layer):
    def call(self, x):
        return ops.sqrt(ops.maximum(ops.sum(ops.square(x), -1, keepdims=True), 1e-7))


def _pairs(rng, n):
    x = (reals(rng, n, 8, 8, 1), reals(rng, n, 8, 8, 1))
    return x, classes(rng, n, 2)[:, None].astype(x[0].dtype)


def frozen_base():
    """Transfer: a frozen base with statistics of its own under a new head."""
    base = resnet()
    base.trainable = False
    x = keras.Input((8, 8, 3))
    return keras.Model(x, layers.Dense(3)(layers.Dropout(0.2, seed=1)(base(x, training=False))))


def discriminator():
    """A GAN's, held by spectral normalisation, which assigns the kernel in every call."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.SpectralNormalization(layers.Conv2D(4, 3, 2)),
            layers.LeakyReLU(0.2),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )


def _judged(rng, n):
    return reals(rng, n, 8, 8, 1), reals(rng, n, 1)


def _tuned(application, *arguments, **options):
    """Of `keras.applications`, its batch normalisations frozen, as Keras advises to fine-tune.

    Left free, fifty of them in a row over a few examples amplify what differs: at random weights
    the meta-gradient is of size 1e5 to 1e9 and changes within a step of 1e-8.
    """
    model = application(*arguments, weights=None, classes=3, **options)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    return model


def mobilenet_v2():
    return _tuned(keras.applications.MobileNetV2, (32, 32, 3), 0.35)


def mobilenet_v3():
    return _tuned(keras.applications.MobileNetV3Small, (32, 32, 3), 0.35)


def efficientnet():
    return _tuned(keras.applications.EfficientNetB0, input_shape=(32, 32, 3))


ROWS = [
    Row("convnet", convnet, _pictures(12, 1)),
    Row("convnet with augmentation", augmented, _pictures()),
    Row("vision transformer", vit, _pictures(), slow=True),
    Row("MLP-Mixer", mlp_mixer, _pictures(), slow=True),
    Row("FNet", fnet, _pictures(), slow=True),
    Row("ConvMixer", conv_mixer, _pictures(), slow=True),
    Row("residual network", resnet, _pictures(), slow=True),
    # A bilinear resizing answers in float32.
    Row("U-Net", unet, _pixels, step=1e-5, tolerance=1e-3, slow=True),
    Row("EfficientNet's block", efficient_block, _pictures(), slow=True),
    Row("compact transformer", compact_transformer, _pictures(), slow=True),
    Row("super-resolution", super_resolution, _doubled, loss="mse", slow=True),
    Row("autoencoder", autoencoder, _own_pictures(8), loss="binary_crossentropy", slow=True),
    Row("variational autoencoder", variational, _own_pictures(8), loss="binary_crossentropy"),
    Row("siamese", siamese, _pairs, loss="binary_crossentropy", slow=True),
    Row("frozen base", frozen_base, _pictures()),
    Row("spectral normalisation", discriminator, _judged, loss="mse", refused="SpectralNorm"),
    Row("MobileNetV2", mobilenet_v2, _pictures(32), loss="probabilities", slow=True),
    Row("MobileNetV3Small", mobilenet_v3, _pictures(32), loss="probabilities", slow=True),
    Row("EfficientNetB0", efficientnet, _pictures(32), loss="probabilities", slow=True),
]
