"""Models, losses, optimizers and methods on the device: each as the learner itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import inner_optimizers
from tests.problems import compiled, dense_model
from tests.serving.litert.device import SPARSE, expected, exported, layers

pytestmark = pytest.mark.slow

SIZES = {"max_support": 6, "max_queries": 4}


def network(*between, shape=(8, 8, 4)):
    """Layers between an input and three logits."""
    ends = [] if len(shape) == 1 else [layers.Flatten()]
    return keras.Sequential([keras.Input(shape), *between, *ends, layers.Dense(3)])


def image(*between):
    """The same behind a convolution, so that there is something to send back to."""
    return network(layers.Conv2D(4, 3, padding="same"), *between)


def embedded(merge=None, **settings):
    words = keras.Input((5,), dtype="int32")
    merge = merge or layers.GlobalAveragePooling1D()
    x = merge(layers.Embedding(11, 4, **settings)(words))
    return keras.Model(words, layers.Dense(3)(x))


def merged():
    x = keras.Input((5,))
    a, b = layers.Dense(4)(x), layers.Dense(4)(x)
    pairs = [layers.Add, layers.Multiply, layers.Maximum, layers.Subtract, layers.Average]
    both = [kind()([a, b]) for kind in pairs] + [layers.Dot(1)([a, b])]
    return keras.Model(x, layers.Dense(3)(layers.Concatenate()(both)))


def attention():
    x = keras.Input((5, 4))
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(layers.MultiHeadAttention(2, 3)(x, x))))


def series(*between):
    return network(*between, shape=(6, 3))


class Factor(layers.Layer):
    """A variable of TensorFlow's own, which Keras does not know."""

    def build(self, shape):
        self.factor = tf.Variable(np.full(shape[-1], 3, np.float32))

    def call(self, x):
        return x * self.factor


ACTIVATIONS = ["relu6", "leaky_relu", "elu", "selu", "celu", "softplus", "softsign", "tanh"]
ACTIVATIONS += ["sigmoid", "silu", "mish", "hard_sigmoid", "hard_silu", "log_sigmoid"]
ACTIVATIONS += ["exponential", "softmax"]
MODELS = {
    "conv4": lambda: maml_tf.models.conv4(3, 8),
    "dense5": lambda: maml_tf.models.dense5(3, (8, 8, 1)),
    "conv4_max_pool": lambda: maml_tf.models.conv4_max_pool(3, 4, (20, 17, 3)),
    "resnet12": lambda: maml_tf.models.resnet12(3, (4, 4), (9, 8, 3)),
    "strided": lambda: image(layers.Conv2D(4, 3, 2, padding="same")),
    "strided far": lambda: image(layers.Conv2D(4, 2, 3)),
    "dilated": lambda: image(layers.Conv2D(4, 3, dilation_rate=2)),
    "grouped": lambda: image(layers.Conv2D(4, 3, groups=2)),
    "depthwise": lambda: image(layers.DepthwiseConv2D(3, 2, depth_multiplier=2)),
    "dilated depthwise": lambda: image(layers.DepthwiseConv2D(3, dilation_rate=2)),
    "separable": lambda: image(layers.SeparableConv2D(6, 3, 2, padding="same")),
    "transposed": lambda: image(layers.Conv2DTranspose(4, 3, 2, padding="same")),
    "convolutions of series": lambda: series(
        layers.Conv1D(4, 3, padding="causal", dilation_rate=2),
        layers.MaxPooling1D(),
        layers.SeparableConv1D(4, 3, padding="same"),
    ),
    "average pooling": lambda: image(layers.AveragePooling2D(3, 2, padding="same")),
    "overlapping max-pooling": lambda: image(layers.MaxPooling2D(3, 2, padding="same")),
    "global max-pooling": lambda: image(layers.GlobalMaxPooling2D()),
    "layer normalisation": lambda: image(layers.LayerNormalization()),
    "group normalisation": lambda: image(layers.GroupNormalization(2)),
    "other normalisations": lambda: image(layers.RMSNormalization(), layers.UnitNormalization()),
    "upsampling": lambda: image(layers.UpSampling2D(), layers.UpSampling2D((1, 3))),
    "bilinear": lambda: image(layers.UpSampling2D(interpolation="bilinear"), layers.Resizing(5, 7)),
    "padding": lambda: image(layers.ZeroPadding2D(), layers.Cropping2D(((2, 1), (1, 3)))),
    "dropout": lambda: image(layers.Dropout(0.5), layers.GaussianNoise(0.5)),
    "activations": lambda: network(
        *(layer for name in ACTIVATIONS for layer in (layers.Dense(6), layers.Activation(name))),
        layers.PReLU(),
        layers.Activation(lambda x: keras.activations.gelu(x, approximate=True)),
        layers.Activation("gelu"),
        shape=(5,),
    ),
    "shapes": lambda: image(layers.Permute((2, 1, 3)), layers.Reshape((16, 16)), layers.Dense(3)),
    "scaled": lambda: network(
        layers.Rescaling(0.5), layers.Normalization(mean=0.5, variance=2.0), layers.Conv2D(4, 3)
    ),
    "embedding": embedded,
    "masked embedding": lambda: embedded(mask_zero=True),
    "merged": merged,
    "attention": attention,
    "LSTM": lambda: series(layers.LSTM(4)),
    "GRU": lambda: series(layers.GRU(4, unroll=True)),
    "both directions": lambda: series(
        layers.Bidirectional(layers.SimpleRNN(4, return_sequences=True)), layers.GRU(3)
    ),
    "masked recurrence": lambda: embedded(layers.LSTM(4), mask_zero=True),
    "error function": lambda: network(layers.Dense(6), layers.Lambda(keras.ops.erf), shape=(5,)),
    "a raw variable": lambda: network(layers.Dense(4), Factor(), shape=(3,)),
}


def check(learner, folder, **settings):
    device = exported(learner, folder, **SIZES, **settings)
    random = np.random.default_rng(0)
    spec = learner.model.inputs[0]
    steps = [0, 1, 3] if learner.inner_steps is not None else [None] * 3
    # Not two or three: normalised with each other they carry rounding on a thousandfold.
    for supports, queries, step in zip([6, 5, 4], [4, 4, 1], steps, strict=True):
        shapes = (supports, *spec.shape[1:]), (queries, *spec.shape[1:])
        if "int" in spec.dtype:
            x, query_x = (random.integers(0, 9, s).astype(spec.dtype) for s in shapes)
        else:
            x, query_x = (random.normal(size=s).astype(np.float32) for s in shapes)
        y = (np.arange(supports) % 3).astype(np.int32)
        if learner.loss != SPARSE:
            y = random.uniform(size=(supports, *learner.model.output_shape[1:])).astype(np.float32)
        wanted = expected(learner, x, y, query_x, step)
        answer = device.adapt_and_predict(x, y, query_x, step)
        np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=2e-5)
        later = device.predict(device.adapt(x, y, step), query_x)
        np.testing.assert_allclose(later, answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_models(tmp_path, build):
    keras.utils.set_random_seed(0)
    check(compiled(build(), 0.05, loss=SPARSE), tmp_path)


LOSSES = ["mse", "mae", "huber", "log_cosh", "categorical_crossentropy", "binary_crossentropy"]


@pytest.mark.parametrize("loss", LOSSES)
def test_losses(tmp_path, loss):
    model = keras.Sequential([dense_model(), layers.Activation("softmax")])
    check(compiled(model, 0.05, loss=loss), tmp_path)


OPTIMIZERS = {
    "momentum": lambda: inner_optimizers.SGD(0.05, momentum=0.9),
    "Adam": lambda: inner_optimizers.Adam(0.01),
    "a rate for each step": lambda: inner_optimizers.SGD([0.1, 0.05, 0.02]),
    "a schedule": lambda: inner_optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    ),
    "learned rates": lambda: inner_optimizers.LearnedRates(0.05, per="weight"),
    "learned rates of each step": lambda: inner_optimizers.LearnedRates(
        0.05, per="tensor", steps=3
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_inner_optimizers(tmp_path, optimizer):
    check(compiled(dense_model(), optimizer()), tmp_path)


METHODS = {
    "first order": lambda: compiled(dense_model(), first_order=True),
    "last layer": lambda: compiled(
        maml_tf.models.conv4(3, 8), loss=SPARSE, adaptable=lambda v: "dense" in v.path
    ),
    "Reptile": lambda: _compiled(maml_tf.Reptile(dense_model(), 0.1)),
    "support statistics": lambda: compiled(
        maml_tf.models.conv4(3, 8), loss=SPARSE, batch_norm="support"
    ),
}


def _compiled(learner):
    learner.compile(loss="mse")
    return learner


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_methods(tmp_path, method):
    check(method(), tmp_path)


LACKING = {
    "volumes": (
        lambda: network(
            layers.Conv3D(2, 2, name="first"),
            layers.Conv3D(2, 2, name="second"),
            shape=(4, 4, 4, 1),
        ),
        "first.*second.*two-dimensional",
    ),
    "bicubic": (
        lambda: image(layers.Resizing(5, 5, interpolation="bicubic", name="larger")),
        "larger.*bilinear",
    ),
}


@pytest.mark.parametrize(("build", "message"), LACKING.values(), ids=LACKING)
def test_what_cannot_go_is_named_with_what_to_do(tmp_path, build, message):
    with pytest.raises(ValueError, match=f"(?s)Expected.*Received.*{message}") as error:
        exported(compiled(build(), loss=SPARSE), tmp_path, **SIZES)
    assert len(str(error.value)) < 600
    assert not list(tmp_path.iterdir())


def test_the_frozen_part_as_int8(tmp_path):
    learner = compiled(
        maml_tf.models.conv4(3, 32), loss=SPARSE, adaptable=lambda v: "dense" in v.path
    )
    x = np.random.default_rng(0).uniform(size=(4, 28, 28, 1)).astype(np.float32)
    y = (np.arange(4) % 3).astype(np.int32)
    wanted = expected(learner, x, y, x, 2)
    sizes = []
    for precision, tolerance in (("float32", 1e-4), ("float16", 2e-2), ("int8", 0.2)):
        device = exported(learner, tmp_path, **SIZES, precision=precision)
        answer = device.adapt_and_predict(x, y, x, 2)
        np.testing.assert_allclose(answer, wanted, rtol=tolerance, atol=tolerance)
        sizes.append(device.size)
    weights = [w.size for w in learner.model.get_weights()]
    assert sizes[0] - sizes[1] > 1.8 * sum(weights)
    # Of four equal kernels but the first, the last one stays float16.
    assert 2 * max(weights) > sizes[1] - sizes[2] > 0.7 * 2 * max(weights)
