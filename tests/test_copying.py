"""A copy computes the same, is frozen in the same places and shares nothing with the model."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import configuration, copying

FACTOR = 3.0


def functional(*layers, shape=(4,), dtype=None):
    inputs = keras.Input(shape, dtype=dtype)
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def frozen_attention():
    attention = keras.layers.MultiHeadAttention(1, 2, name="attention")
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, keras.layers.Dense(1)(attention(inputs, inputs)))
    attention.trainable = False
    return model


def frozen_inside_attention():
    attention = keras.layers.MultiHeadAttention(1, 2)
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, keras.layers.Dense(1)(attention(inputs, inputs)))
    attention._query_dense.trainable = False
    return model


def frozen_kernel():
    model = functional(keras.layers.Dense(3, name="first"), keras.layers.Dense(2))
    model.get_layer("first").kernel.trainable = False
    return model


def frozen_before_build():
    return functional(keras.layers.Dense(3, trainable=False), keras.layers.Dense(2))


def adapted_normalization():
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(10, 5, (100, 4)))
    return keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])


def shared():
    inputs, layer = keras.Input((4,)), keras.layers.Dense(4, "tanh")
    return keras.Model(inputs, layer(layer(inputs)))


def nested():
    normalised = adapted_normalization()
    normalised.layers[1].bias.trainable = False
    inner = functional(normalised, keras.layers.Lambda(lambda x: FACTOR * x), shape=(4,))
    return functional(keras.layers.Dense(4), inner, keras.layers.Dense(2))


def batch_statistics():
    model = functional(keras.layers.BatchNormalization(name="bn"), keras.layers.Dense(2))
    model.get_layer("bn").moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    model.get_layer("bn").moving_variance.assign([4.0, 3.0, 2.0, 1.0])
    return model


def seeded_dropout():
    model = functional(keras.layers.Dropout(0.5, seed=3), keras.layers.Dense(2))
    model(np.ones((2, 4)), training=True)
    return model


def low_rank():
    model = functional(keras.layers.Dense(3, name="first"), keras.layers.Dense(2))
    model.get_layer("first").enable_lora(2)
    model.get_layer("first").lora_kernel_b.assign(np.ones((2, 3)))
    return model


def recurrent():
    return functional(keras.layers.Bidirectional(keras.layers.GRU(3)), shape=(5, 4))


# Another one for every layer that is made.
SEEDS = itertools.count(1)


class Drawing(keras.layers.Layer):
    """Constants of its constructor, which no configuration holds."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        rng = np.random.default_rng(next(SEEDS))
        self.array = rng.normal(size=4).astype(np.float32)
        self.tensor = tf.constant(rng.normal(size=4), tf.float32)
        self.plain = tf.Variable(rng.normal(size=4).astype(np.float32))

    def call(self, x):
        return x * self.array + x**2 * self.tensor + self.plain


class Holding(keras.layers.Layer):
    """Its configuration hands on the inner layer itself."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return super().get_config() | {"inner": self.inner}


class Subclassed(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(units), keras.layers.Dense(2)

    def call(self, x):
        return self.out(tf.nn.tanh(self.hidden(x)))


class Configured(Subclassed):
    def __init__(self, units):
        super().__init__(units)
        self._units = units

    def get_config(self):
        return {"units": self._units}


def subclassed():
    model = Configured(3)
    model(np.ones((1, 4)))
    model.hidden.trainable = False
    return model


def words():
    lookup = keras.layers.StringLookup()
    lookup.adapt(np.array(["b", "a", "b", "c"]))
    return functional(
        lookup, keras.layers.Embedding(5, 3), keras.layers.Flatten(), shape=(4,), dtype="string"
    )


MODELS = {
    "frozen attention": frozen_attention,
    "frozen inside attention": frozen_inside_attention,
    "frozen kernel": frozen_kernel,
    "frozen before build": frozen_before_build,
    "adapted normalization": adapted_normalization,
    "shared layer": shared,
    "nested": nested,
    "batch statistics": batch_statistics,
    "seeded dropout": seeded_dropout,
    "low rank": low_rank,
    "recurrent": recurrent,
    "drawn constants": lambda: functional(Drawing(), keras.layers.Dense(2)),
    "inner layer in the configuration": lambda: functional(Holding(keras.layers.Dense(2))),
    "subclassed": subclassed,
    "words": words,
}


def inputs_of(model):
    if not getattr(model, "inputs", None):
        return np.random.default_rng(1).normal(10, 5, (6, 4)).astype(np.float32)
    spec = model.inputs[0]
    if spec.dtype == "string":
        return tf.constant([["a", "b", "c", "d"], ["b", "b", "a", "z"]])
    return np.random.default_rng(1).normal(10, 5, (6, *spec.shape[1:])).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_is_the_same_model_with_variables_of_its_own(name):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    before, x = [v.numpy().copy() for v in model.variables], inputs_of(model)
    copy = copying.copy_of(model, x)
    assert type(copy) is type(model)
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-6, atol=1e-6)
    assert [v.trainable for v in copy.variables] == [v.trainable for v in model.variables]
    for kind in ("trainable_variables", "non_trainable_variables"):
        theirs, own = getattr(copy, kind), getattr(model, kind)
        assert [v.path.split("/")[-1] for v in theirs] == [v.path.split("/")[-1] for v in own]
    pairs = zip(copy._flatten_layers(), model._flatten_layers(), strict=True)
    assert all(a.trainable == b.trainable for a, b in pairs)
    # What happens to the copy happens to it alone, and the other way round.
    for variable in copy.variables:
        variable.assign(variable + tf.cast(1, variable.dtype))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_copy_of_a_copy_of_a_frozen_attention_trains_what_the_model_trains():
    model = frozen_attention()
    copy = copying.copy_of(copying.copy_of(model))
    assert len(copy.trainable_variables) == len(model.trainable_variables) == 2


class Without(keras.layers.Layer):
    """An argument that its configuration does not hold."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def call(self, x):
        return x * self.units

    def get_config(self):
        return super().get_config()


class Forgetful(keras.layers.Layer):
    """Its configuration forgets how wide it is."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x):
        return x @ self.kernel

    def get_config(self):
        return super().get_config()


class Secretive(keras.layers.Layer):
    """A constant where nobody looks."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"factor": float(next(SEEDS))}

    def call(self, x):
        return x * self.settings["factor"]


class Hoarding(Holding):
    """Its configuration hands on a list of inner layers themselves."""

    def __init__(self, inner, **kwargs):
        super().__init__(inner[0], **kwargs)

    def get_config(self):
        return super().get_config() | {"inner": [self.inner]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Without(2, name="bare"), "Without 'bare'.*TypeError.*units"),
        (lambda: Forgetful(2, name="wide"), r"Forgetful 'wide'.*\(4, 2\).*\(4, 3\)"),
        (lambda: Secretive(name="secret"), "Secretive 'secret'.*computes something else"),
        (lambda: Hoarding([keras.layers.Dense(2)], name="hoard"), "variables of the layer itself"),
    ],
    ids=["no argument", "other shapes", "hidden constant", "inner layers"],
)
def test_a_layer_that_cannot_be_copied_is_named_and_the_model_stays(make, message):
    model = functional(keras.layers.Dense(4), make())
    before = [v.numpy() for v in model.variables]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        copying.copy_of(model, np.ones((2, 4), np.float32))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_subclassed_model_says_what_it_lacks():
    model = Subclassed(3)
    model(np.ones((1, 4)))
    with pytest.raises(ValueError, match=r"(?s)Subclassed.*get_config"):
        copying.copy_of(model, np.ones((2, 4), np.float32))
    configured = Configured(3)
    configured(np.ones((1, 4)))
    with pytest.raises(ValueError, match="example=None"):
        copying.copy_of(configured)


def test_a_copy_follows_its_own_variables():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    copy = copying.copy_of(model)
    x = np.ones([1, 3], "float32")
    copy.trainable_variables[0].assign(np.zeros([3, 2]))
    copy.trainable_variables[1].assign([1.0, -1.0])
    np.testing.assert_array_equal(copy(x), [[1.0, -1.0]])


def test_a_configuration_can_be_read_twice():
    """Keras empties that of a functional model as it reads it."""
    x = keras.Input((3,))
    config = configuration.model_config(keras.Model(x, keras.layers.Dense(2)(x)))
    before = json.dumps(config)
    for _ in range(2):
        model = configuration.from_model_config(config)["model"]
        assert model.output_shape == (None, 2)
    assert json.dumps(config) == before
