"""Tables, graphs and sets: networks of the kinds that keras.io's examples show, rebuilt small."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tests.strangers.rows import Row, classes, reals, register

layers = keras.layers
WORK = ["private", "public", "self", "none"]
SCHOOL = ["first", "second", "third"]


def _people(rng, n):
    x = {
        "age": reals(rng, n, 1) * 10 + 40,
        "hours": reals(rng, n, 1) * 5 + 35,
        "school": rng.choice(SCHOOL, (n, 1)),
        "work": rng.choice([*WORK, "else"], (n, 1)),
    }
    return x, classes(rng, n, 2)[:, None].astype(keras.config.floatx())


def _inputs():
    return {
        "age": keras.Input((1,), name="age"),
        "hours": keras.Input((1,), name="hours"),
        "school": keras.Input((1,), name="school", dtype="string"),
        "work": keras.Input((1,), name="work", dtype="string"),
    }


def _looked_up(inputs, mode="int"):
    return [
        layers.StringLookup(vocabulary=words, output_mode=mode)(inputs[name])
        for name, words in (("school", SCHOOL), ("work", WORK))
    ]


def _scaled(inputs):
    """Numbers by an adapted `Normalization` each."""
    rng, scaled = np.random.default_rng(0), []
    for name, mean in (("age", 40), ("hours", 35)):
        layer = layers.Normalization()
        layer.adapt(rng.normal(mean, 8, (100, 1)))
        scaled.append(layer(inputs[name]))
    return scaled


def _embedded(inputs, width=4):
    flat = layers.Flatten()
    return [flat(layers.Embedding(6, width)(codes)) for codes in _looked_up(inputs)]


def structured():
    inputs = _inputs()
    y = layers.Concatenate()([*_scaled(inputs), *_looked_up(inputs, "one_hot")])
    y = layers.Dropout(0.5, seed=1)(layers.Dense(8, "relu")(y))
    return keras.Model(inputs, layers.Dense(1, "sigmoid")(y))


def wide_and_deep():
    inputs = _inputs()
    # Of whole numbers alone a batch normalisation of Keras is computed in float32.
    numbers = _scaled(inputs)
    wide = layers.Concatenate()([*numbers, *_looked_up(inputs, "multi_hot")])
    wide = layers.BatchNormalization()(wide)
    deep = layers.Concatenate()([*numbers, *_embedded(inputs)])
    for _ in range(2):
        deep = layers.ReLU()(layers.BatchNormalization()(layers.Dense(6)(deep)))
    return keras.Model(inputs, layers.Dense(1, "sigmoid")(layers.Concatenate()([wide, deep])))


@register
class Cross(layers.Layer):
    """`x_0 * (W x + b) + x`: products of features up to a degree."""

    def build(self, shape):
        self.dense = layers.Dense(shape[0][-1])
        self.dense.build(shape[1])

    def call(self, inputs):
        first, x = inputs
        return first * self.dense(x) + x


def deep_and_cross():
    inputs = _inputs()
    first = y = layers.Concatenate()([*_scaled(inputs), *_embedded(inputs)])
    for _ in range(2):
        y = Cross()([first, y])
    return keras.Model(inputs, layers.Dense(1, "sigmoid")(y))


@register
class Gated(layers.Layer):
    """A gated residual network: `norm(x + a * sigmoid(b))` of two dense layers."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first, self.second = layers.Dense(units, "elu"), layers.Dense(units)
        self.value, self.gate = layers.Dense(units), layers.Dense(units, "sigmoid")
        self.project, self.norm = layers.Dense(units), layers.LayerNormalization()
        self.drop = layers.Dropout(0.1, seed=1)

    def call(self, x, training=False):
        y = self.drop(self.second(self.first(x)), training=training)
        if x.shape[-1] != self.units:
            x = self.project(x)
        return self.norm(x + self.value(y) * self.gate(y))

    def get_config(self):
        return super().get_config() | {"units": self.units}


@register
class Selection(layers.Layer):
    """Variable selection: a softmax over features of a gated network of all of them."""

    def __init__(self, number, units, **kwargs):
        super().__init__(**kwargs)
        self.number, self.units = number, units
        self.each = [Gated(units) for _ in range(number)]
        self.all, self.weights_of = Gated(units), layers.Dense(number, "softmax")

    def call(self, features, training=False):
        weights = self.weights_of(self.all(ops.concatenate(features, -1), training=training))
        each = zip(self.each, features, strict=True)
        values = ops.stack([gated(f, training=training) for gated, f in each], 1)
        return ops.sum(values * weights[..., None], 1)

    def get_config(self):
        return super().get_config() | {"number": self.number, "units": self.units}


def variable_selection():
    inputs = _inputs()
    y = Selection(4, 4)([*_scaled(inputs), *_embedded(inputs)])
    return keras.Model(inputs, layers.Dense(1, "sigmoid")(y))


@register
class Stack(layers.Layer):
    def call(self, inputs):
        return ops.stack(inputs, 1)


def tab_transformer():
    inputs = _inputs()
    x = Stack()(_embedded(inputs))
    y = layers.MultiHeadAttention(2, 2, dropout=0.1, seed=1)(x, x)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, y]))
    y = layers.Dense(4)(layers.Dense(8, "gelu")(x))
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, y]))
    y = layers.Concatenate()([layers.Flatten()(x), *_scaled(inputs)])
    y = layers.Dense(6, "selu")(layers.BatchNormalization()(y))
    return keras.Model(inputs, layers.Dense(1, "sigmoid")(y))


@register
class Recommender(keras.Model):
    """Embeddings of users and films, their product and biases; a subclassed model."""

    def __init__(self, users, films, width, **kwargs):
        super().__init__(**kwargs)
        self.numbers = users, films, width
        l2 = keras.regularizers.L2(1e-3)
        self.user, self.film = (
            layers.Embedding(n, width, embeddings_regularizer=l2) for n in (users, films)
        )
        self.biases = [layers.Embedding(n, 1) for n in (users, films)]

    def call(self, pairs):
        user, film = pairs[:, 0], pairs[:, 1]
        product = ops.sum(self.user(user) * self.film(film), -1, keepdims=True)
        return ops.sigmoid(product + self.biases[0](user) + self.biases[1](film))

    def get_config(self):
        return dict(zip(("users", "films", "width"), self.numbers, strict=True))


def recommender():
    model = Recommender(6, 7, 3)
    model(np.zeros((1, 2), np.int32))
    return model


def _ratings(rng, n):
    pairs = np.stack([rng.integers(0, 6, n), rng.integers(0, 7, n)], -1).astype(np.int32)
    return pairs, rng.uniform(size=(n, 1)).astype(keras.config.floatx())


def _pair_spec():
    return tf.TensorSpec([None, 2], tf.int32)


# Graphs: nodes of one graph that is a constant of the model, as in citation networks.

NODES, EDGES = 6, np.array([[0, 1, 1, 2, 3, 4, 5, 0], [1, 0, 2, 1, 4, 3, 0, 5]])


@register
class Graph(layers.Layer):
    """Features and edges of one graph; `call` takes numbers of nodes."""

    def __init__(self, width, attention, **kwargs):
        super().__init__(**kwargs)
        self.width, self.attention = width, attention
        rng = np.random.default_rng(3)
        self.features = ops.convert_to_tensor(reals(rng, NODES, 5))
        self.source, self.target = (ops.convert_to_tensor(e) for e in EDGES)
        self.message, self.update = layers.Dense(width), layers.Dense(width, "gelu")
        self.score = layers.Dense(1, "leaky_relu")

    def _sum(self, values):
        return ops.segment_sum(values, self.target, NODES)

    def call(self, nodes):
        sent = ops.take(self.message(self.features), self.source, 0)
        if self.attention:
            received = ops.take(self.message(self.features), self.target, 0)
            scores = ops.exp(ops.clip(self.score(ops.concatenate([sent, received], -1)), -2, 2))
            sent = sent * scores / ops.take(self._sum(scores), self.target, 0)
        y = self.update(ops.concatenate([self.features, self._sum(sent)], -1))
        return ops.take(y, nodes, 0)

    def get_config(self):
        return super().get_config() | {"width": self.width, "attention": self.attention}


def _graph(attention):
    def build():
        nodes = keras.Input((), dtype="int32")
        return keras.Model(nodes, layers.Dense(3)(Graph(4, attention)(nodes)))

    return build


def _nodes(rng, n):
    return rng.integers(0, NODES, n).astype(np.int32), classes(rng, n, 3)


@register
class MessagePassing(layers.Layer):
    """Molecules: messages along a matrix of bonds, states by a GRU cell."""

    def __init__(self, units, steps=2, **kwargs):
        super().__init__(**kwargs)
        self.units, self.steps = units, steps
        self.message, self.cell = layers.Dense(units), layers.GRUCell(units)

    def build(self, shape):
        self.message.build((None, self.units))
        self.cell.build((None, self.units))

    def call(self, inputs):
        atoms, bonds = inputs
        state = ops.pad(atoms, [[0, 0], [0, 0], [0, self.units - atoms.shape[-1]]])
        for _ in range(self.steps):
            messages = ops.matmul(bonds, self.message(state))
            flat = [ops.reshape(t, (-1, self.units)) for t in (messages, state)]
            state = ops.reshape(self.cell(flat[0], [flat[1]])[0], ops.shape(state))
        return state

    def get_config(self):
        return super().get_config() | {"units": self.units, "steps": self.steps}


def molecules():
    atoms, bonds = keras.Input((4, 3)), keras.Input((4, 4))
    y = MessagePassing(5)([atoms, bonds])
    y = layers.MultiHeadAttention(1, 4)(y, y)
    return keras.Model([atoms, bonds], layers.Dense(1)(layers.GlobalAveragePooling1D()(y)))


def _molecules(rng, n):
    bonds = (rng.uniform(size=(n, 4, 4)) < 0.5).astype(keras.config.floatx())
    return (reals(rng, n, 4, 3), bonds), reals(rng, n, 1)


# Sets.


@register
class Orthogonal(keras.regularizers.Regularizer):
    """`|A A' - 1|^2` of a transformation given by a vector of its entries."""

    def __init__(self, size):
        self.size = size

    def __call__(self, x):
        x = ops.reshape(x, (-1, self.size, self.size))
        product = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
        return 0.01 * ops.sum(ops.square(product - ops.eye(self.size, dtype=x.dtype)))

    def get_config(self):
        return {"size": self.size}


def point_net():
    """Points are turned by a matrix that the network finds, then pooled by their maximum."""

    def normed(layer, x):
        return layers.Activation("relu")(layers.BatchNormalization(momentum=0.0)(layer(x)))

    x = keras.Input((8, 3))
    y = layers.GlobalMaxPooling1D()(normed(layers.Conv1D(6, 1), x))
    y = layers.Dense(9, "linear", activity_regularizer=Orthogonal(3))(normed(layers.Dense(6), y))
    turned = layers.Dot(axes=(2, 1))([x, layers.Reshape((3, 3))(y)])
    y = layers.GlobalMaxPooling1D()(normed(layers.Conv1D(6, 1), turned))
    return keras.Model(x, layers.Dense(3)(y))


def _points(rng, n):
    return reals(rng, n, 8, 3), classes(rng, n, 3)


def deep_set():
    """A sum over the members of a set, whose order does not matter; by a `Lambda`."""
    x = keras.Input((5, 3))
    total = layers.Lambda(lambda t: t[:, 0] + t[:, 1] + t[:, 2] + t[:, 3] + t[:, 4])
    y = total(layers.Dense(6, "tanh")(x))
    return keras.Model(x, layers.Dense(1)(layers.Dense(4, "softplus")(y)))


def _sets(rng, n):
    x = reals(rng, n, 5, 3)
    return x, x.max((1, 2))[:, None]


ROWS = [
    Row("structured data", structured, _people, loss="binary_crossentropy"),
    Row("wide and deep", wide_and_deep, _people, loss="binary_crossentropy", slow=True),
    Row("deep and cross", deep_and_cross, _people, loss="binary_crossentropy", slow=True),
    Row("variable selection", variable_selection, _people, loss="binary_crossentropy", slow=True),
    Row("TabTransformer", tab_transformer, _people, loss="binary_crossentropy", slow=True),
    Row("recommender", recommender, _ratings, loss="mse", x_spec=_pair_spec),
    Row("graph convolution", _graph(False), _nodes),
    Row("graph attention", _graph(True), _nodes, slow=True),
    Row("message passing", molecules, _molecules, loss="mse", slow=True),
    Row("PointNet", point_net, _points, slow=True),
    Row("deep set", deep_set, _sets, loss="mse", safe_mode=False),
]
