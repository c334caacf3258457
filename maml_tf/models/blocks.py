"""What the paper's networks have in common."""

import keras


def xavier(seed):
    """Xavier uniform, the initial values of hidden kernels."""
    return keras.initializers.GlorotUniform(seed=seed)


def batch_norm():
    """Batch normalisation with beta but no gamma."""
    return keras.layers.BatchNormalization(scale=False, epsilon=1e-3)


def logits(ways, seed):
    """The last layer, with initial weights from N(0, 1)."""
    normal = keras.initializers.RandomNormal(stddev=1.0, seed=seed)
    return keras.layers.Dense(ways, kernel_initializer=normal)
