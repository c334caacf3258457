"""The paper's network for sine regression."""

import keras

from maml_tf import arguments


def sinusoid_mlp(features: int = 1, seed: int = 0) -> keras.Model:
    """1-40-40-1 with ReLU (Finn et al., 2017, section 5.1): 1,761 parameters.

    Args:
        features: input features: 1, or 3 for the oracle, which sees amplitude and phase too.
        seed: of the initial weights: truncated normal with standard deviation 0.01, zero bias.

    Returns:
        A built `keras.Model`, `[batch, features]` float to `[batch, 1]`.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number is too small.
    """
    features = arguments.integer("features", features, 1)
    seed = arguments.integer("seed", seed, 0)

    def dense(units, activation, seed):
        initializer = keras.initializers.TruncatedNormal(stddev=0.01, seed=seed)
        return keras.layers.Dense(units, activation, kernel_initializer=initializer)

    return keras.Sequential(
        [
            keras.Input((features,)),
            dense(40, "relu", 3 * seed),
            dense(40, "relu", 3 * seed + 1),
            dense(1, None, 3 * seed + 2),
        ],
        name="sinusoid_mlp",
    )
