"""Text, series and sound: networks of the kinds that keras.io's examples show, rebuilt small."""

import keras
import numpy as np
from keras import ops

from tests.strangers.rows import Row, classes, reals, register

layers = keras.layers
WORDS = 12


def _tokens(length, ways=3, per_token=False):
    def examples(rng, n):
        x = rng.integers(0, WORDS, (n, length)).astype(np.int32)
        return x, classes(rng, n, ways, *((length,) if per_token else ()))

    return examples


@register
class Embedded(layers.Layer):
    """Tokens and positions."""

    def __init__(self, length, width, **kwargs):
        super().__init__(**kwargs)
        self.length, self.width = length, width
        self.token = layers.Embedding(WORDS, width)
        self.position = layers.Embedding(length, width)

    def call(self, x):
        return self.token(x) + self.position(ops.arange(self.length))

    def get_config(self):
        return super().get_config() | {"length": self.length, "width": self.width}


@register
class Block(layers.Layer):
    """Attention and a dense network, each with dropout and a norm behind it."""

    def __init__(self, width, causal=False, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.width, self.causal, self.rate = width, causal, rate
        self.attention = layers.MultiHeadAttention(2, width // 2)
        self.forward = keras.Sequential([layers.Dense(2 * width, "relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.drops = [layers.Dropout(rate, seed=i) for i in range(2)]

    def call(self, x, training=False):
        y = self.attention(x, x, use_causal_mask=self.causal)
        x = self.norms[0](x + self.drops[0](y, training=training))
        return self.norms[1](x + self.drops[1](self.forward(x), training=training))

    def get_config(self):
        config = {"width": self.width, "causal": self.causal, "rate": self.rate}
        return super().get_config() | config


def text_transformer():
    x = keras.Input((6,), dtype="int32")
    y = layers.GlobalAveragePooling1D()(Block(8)(Embedded(6, 8)(x)))
    y = layers.Dropout(0.1, seed=3)(layers.Dense(6, "relu")(y))
    return keras.Model(x, layers.Dense(3)(y))


def small_gpt():
    x = keras.Input((6,), dtype="int32")
    return keras.Model(x, layers.Dense(WORDS)(Block(8, causal=True)(Embedded(6, 8)(x))))


def low_rank_gpt():
    """Fine-tuning by LoRA: the kernels are frozen, factors of rank 2 train beside them."""
    model = small_gpt()
    embedded, block, head = model.layers[1:]
    embedded.token.enable_lora(2)
    for dense in (block.attention._query_dense, block.attention._value_dense):
        dense.enable_lora(2, lora_alpha=4)
    head.enable_lora(2)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if "lora" in variable.path:
            variable.assign(rng.normal(size=variable.shape) / 3)
    return model


def bidirectional():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(WORDS, 6),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(4)),
            layers.Dense(3),
        ]
    )


SENTENCES = np.array(
    ["a good film", "what a bad film", "good good acting", "bad plot", "no plot at all", "all good"]
)


def _sentences(rng, n):
    return rng.choice(SENTENCES, n), classes(rng, n, 3)


def text_cnn():
    """Takes sentences: the vocabulary is in the model."""
    words = layers.TextVectorization(WORDS, output_sequence_length=6)
    words.adapt(SENTENCES)
    x = keras.Input((), dtype="string")
    y = layers.Dropout(0.5, seed=1)(layers.Embedding(WORDS, 6)(words(x)))
    y = layers.Conv1D(6, 3, padding="valid", activation="relu")(y)
    y = layers.GlobalMaxPooling1D()(y)
    return keras.Model(x, layers.Dense(3)(layers.Dense(4, "relu")(y)))


def masked_mean():
    """Padding is left out by a mask."""
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(WORDS, 6, mask_zero=True),
            layers.GRU(4, return_sequences=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )


def translation():
    """Encoder and decoder, the state of one the beginning of the other."""
    source, target = keras.Input((None, 5)), keras.Input((None, 4))
    _, *state = layers.LSTM(6, return_state=True)(source)
    y, *_ = layers.LSTM(6, return_sequences=True, return_state=True)(target, initial_state=state)
    return keras.Model([source, target], layers.Dense(4)(y))


def _translations(rng, n):
    return (reals(rng, n, 4, 5), reals(rng, n, 3, 4)), classes(rng, n, 4, 3)


@register
class Switch(layers.Layer):
    """A mixture of experts: each token goes to the best one, and a loss balances the load."""

    def __init__(self, experts, width, **kwargs):
        super().__init__(**kwargs)
        self.number, self.width = experts, width
        self.router = layers.Dense(experts)
        self.experts = [layers.Dense(width, "relu") for _ in range(experts)]

    def call(self, x):
        gates = ops.softmax(self.router(x))
        chosen = ops.one_hot(ops.argmax(gates, -1), self.number, dtype=gates.dtype)
        load = ops.mean(chosen, (0, 1)) * ops.mean(gates, (0, 1))
        self.add_loss(0.1 * self.number * ops.sum(load))
        answers = ops.stack([expert(x) for expert in self.experts], -1)
        return ops.sum(answers * (gates * chosen)[..., None, :], -1)

    def get_config(self):
        return super().get_config() | {"experts": self.number, "width": self.width}


def mixture_of_experts():
    x = keras.Input((6,), dtype="int32")
    y = Embedded(6, 8)(x)
    y = layers.LayerNormalization()(layers.Add()([y, Switch(3, 8)(y)]))
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)))


# Series.


def _series(length, channels, ways=None, ahead=1):
    def examples(rng, n):
        x = reals(rng, n, length, channels)
        return x, reals(rng, n, ahead) if ways is None else classes(rng, n, ways)

    return examples


def forecast():
    return keras.Sequential([keras.Input((6, 2)), layers.LSTM(6), layers.Dense(1)])


def series_cnn():
    x = y = keras.Input((12, 1))
    for _ in range(2):
        y = layers.BatchNormalization()(layers.Conv1D(4, 3, padding="same")(y))
        y = layers.ReLU()(y)
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)))


def series_transformer():
    x = keras.Input((6, 2))
    y = layers.LayerNormalization(epsilon=1e-6)(layers.MultiHeadAttention(2, 4, dropout=0.2)(x, x))
    x1 = layers.Add()([x, y])
    y = layers.Dropout(0.2)(layers.Conv1D(4, 1, activation="relu")(x1))
    y = layers.Add()([x1, layers.LayerNormalization()(layers.Conv1D(2, 1)(y))])
    y = layers.GlobalAveragePooling1D(data_format="channels_first")(y)
    return keras.Model(x, layers.Dense(3)(y))


def temporal_convolutions():
    """Residual blocks of dilated causal convolutions."""
    x = keras.Input((12, 2))
    y = layers.Conv1D(4, 1)(x)
    for dilation in (1, 2, 4):
        z = layers.Conv1D(4, 2, dilation_rate=dilation, padding="causal")(y)
        z = layers.SpatialDropout1D(0.1, seed=dilation)(layers.Activation("elu")(z))
        y = layers.Add()([y, layers.LayerNormalization()(z)])
    return keras.Model(x, layers.Dense(1)(layers.Cropping1D((11, 0))(y)[:, 0]))


def next_frame():
    return keras.Sequential(
        [
            keras.Input((3, 6, 6, 1)),
            layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True),
            layers.BatchNormalization(),
            layers.Conv3D(1, 3, activation="sigmoid", padding="same"),
        ]
    )


def _frames(rng, n):
    return reals(rng, n, 3, 6, 6, 1), rng.uniform(size=(n, 3, 6, 6, 1)).astype(
        keras.config.floatx()
    )


def stateful():
    return keras.Sequential(
        [keras.Input((6, 2), batch_size=4), layers.LSTM(4, stateful=True), layers.Dense(1)]
    )


# Sound.


@register
class Spectrogram(layers.Layer):
    """The logarithm of a short-time Fourier transform's power, `[n, time, frequency, 1]`."""

    def call(self, x):
        real, imaginary = ops.stft(x, 16, 8, 16)
        return ops.log(real**2 + imaginary**2 + 1e-3)[..., None]


def spectrogram_cnn():
    x = keras.Input((64,))
    y = Spectrogram()(x)
    y = layers.Conv2D(4, 3, activation="relu")(y)
    return keras.Model(x, layers.Dense(3)(layers.GlobalMaxPooling2D()(y)))


@register
class Magnitudes(layers.Layer):
    """Half of a Fourier transform's magnitudes, `[n, time]` to `[n, time / 2, 1]`."""

    def call(self, x):
        real, imaginary = ops.fft((x, ops.zeros_like(x)))
        half = real[:, : x.shape[1] // 2], imaginary[:, : x.shape[1] // 2]
        return ops.sqrt(half[0] ** 2 + half[1] ** 2 + 1e-6)[..., None]


def speakers():
    x = keras.Input((32,))
    y = Magnitudes()(x)
    for width in (4, 6):
        short = layers.Conv1D(width, 1)(y)
        y = layers.Conv1D(width, 3, padding="same", activation="relu")(y)
        y = layers.Add()([layers.Conv1D(width, 3, padding="same")(y), short])
        y = layers.MaxPooling1D(2)(layers.Activation("relu")(y))
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(y)))


def _sound(length, ways=3):
    return lambda rng, n: (reals(rng, n, length), classes(rng, n, ways))


def speech():
    """Recognition by connectionist temporal classification."""
    x = keras.Input((12, 4))
    y = layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)
    return keras.Model(x, layers.Dense(5)(y))


def _transcripts(rng, n):
    return reals(rng, n, 12, 4), 1 + classes(rng, n, 4, 3)


ROWS = [
    Row("text transformer", text_transformer, _tokens(6), slow=True),
    Row("small GPT", small_gpt, _tokens(6, WORDS, per_token=True)),
    # Keras keeps the factors in float32 whatever the precision is.
    Row(
        "LoRA",
        low_rank_gpt,
        _tokens(6, WORDS, per_token=True),
        copied=False,
        step=1e-5,
        tolerance=1e-3,
        slow=True,
    ),
    Row("bidirectional LSTM", bidirectional, _tokens(6), slow=True),
    Row("text CNN over sentences", text_cnn, _sentences),
    Row("masked GRU", masked_mean, _tokens(6), slow=True),
    Row("sequence to sequence", translation, _translations, slow=True),
    Row("mixture of experts", mixture_of_experts, _tokens(6), slow=True),
    Row("forecasting LSTM", forecast, _series(6, 2), loss="mse"),
    Row("series CNN", series_cnn, _series(12, 1, 3), slow=True),
    Row("series transformer", series_transformer, _series(6, 2, 3), slow=True),
    Row("temporal convolutions", temporal_convolutions, _series(12, 2), loss="mse", slow=True),
    Row("next frame", next_frame, _frames, loss="binary_crossentropy", slow=True),
    Row("stateful LSTM", stateful, _series(6, 2), loss="mse", refused="stateful"),
    Row("spectrogram CNN", spectrogram_cnn, _sound(64), slow=True),
    Row("speakers", speakers, _sound(32), slow=True),
    Row("speech with CTC", speech, _transcripts, loss=keras.losses.CTC, refused="ctc_loss"),
]
