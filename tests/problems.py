"""Small models, random task batches, and MAML once more: written by hand, for comparison."""

import keras
import numpy as np
import tensorflow as tf

import maml_tf

layers = keras.layers


def task_batch(x=(3,), y=(2,), tasks=2, support=4, query=3, seed=0):
    """A random task batch of regression tasks; `x` and `y` are shapes, or dicts of them."""
    normal = np.random.default_rng(seed).normal
    dtype = keras.config.floatx()

    def examples(number, shape):
        if isinstance(shape, dict):
            return {name: examples(number, one) for name, one in shape.items()}
        return tf.constant(normal(size=(tasks, number, *shape)), dtype)

    inputs = {
        "support_x": examples(support, x),
        "support_y": examples(support, y),
        "query_x": examples(query, x),
    }
    return inputs, examples(query, y)


def numpy(structure):
    return tf.nest.map_structure(np.asarray, structure)


def flat(tensors):
    """One vector of all elements of a list of tensors."""
    return np.concatenate([np.ravel(t) for t in tensors])


def relative_error(received, expected):
    """Norm of the difference over the norm of what was expected, of lists or arrays."""
    received, expected = (
        flat(t) if isinstance(t, (list, tuple)) else np.ravel(t) for t in (received, expected)
    )
    return np.linalg.norm(received - expected) / np.linalg.norm(expected)


def compiled(model, rate=0.1, *, loss="mse", optimizer="sgd", **settings):
    """A compiled MAML learner; settings other than those of `compile` are MAML's."""
    of_compile = {k: settings.pop(k) for k in ("jit_compile", "run_eagerly") if k in settings}
    learner = maml_tf.MAML(model, rate, **settings)
    learner.compile(optimizer=optimizer, loss=loss, **of_compile)
    return learner


def traced_meta_gradient(learner, inputs, query_y):
    """`learner.meta_gradient` of one task batch as a compiled function of the model's weights."""
    return tf.function(
        lambda: learner.meta_gradient(inputs, query_y),
        autograph=False,
        jit_compile=learner.jit_compile,
    )


def dense_model(seed=0, **first_layer):
    """3-5-2 with tanh: `dense_by_hand` is the same function."""
    glorot = [keras.initializers.GlorotNormal(seed=3 * seed + i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(5, "tanh", kernel_initializer=glorot[0], **first_layer),
            layers.Dense(2, kernel_initializer=glorot[1]),
        ]
    )


def dense_by_hand(weights, x):
    kernel, bias, last_kernel, last_bias = weights
    return tf.tanh(x @ kernel + bias) @ last_kernel + last_bias


def conv_model(seed=0):
    """Strided convolution, batch normalisation, softplus: `conv_by_hand` is the same function."""
    glorot = [keras.initializers.GlorotNormal(seed=3 * seed + i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, 2, "same", kernel_initializer=glorot[0]),
            layers.BatchNormalization(),
            layers.Activation("softplus"),
            layers.Flatten(),
            layers.Dense(2, kernel_initializer=glorot[1]),
        ]
    )


def conv_by_hand(weights, x):
    kernel, bias, gamma, beta, last_kernel, last_bias = weights
    x = tf.nn.conv2d(x, kernel, 2, "SAME") + bias
    mean = tf.reduce_mean(x, [0, 1, 2])
    variance = tf.reduce_mean((x - mean) ** 2, [0, 1, 2])
    x = tf.math.softplus((x - mean) / tf.sqrt(variance + 1e-3) * gamma + beta)
    return tf.reshape(x, [x.shape[0], -1]) @ last_kernel + last_bias


def mean_squared(y, y_pred):
    return tf.reduce_mean((y - y_pred) ** 2)


def adapt_by_hand(by_hand, weights, x, y, rate, steps, first_order=False):
    """`steps` of gradient descent on the mean squared error, a differentiable Python loop."""
    for _ in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = mean_squared(y, by_hand(weights, x))
        gradients = tape.gradient(loss, weights)
        if first_order:
            gradients = [tf.constant(g.numpy()) for g in gradients]
        weights = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
    return weights


def maml_by_hand(by_hand, model, inputs, query_y, rate, steps, first_order=False):
    """`(loss, gradients, predictions)`, task after task, from the weights of `model`."""
    initial = [tf.constant(v.numpy()) for v in model.trainable_variables]
    losses, gradients, predictions = [], [], []
    for task in range(query_y.shape[0]):
        support_x, support_y, query_x = (
            inputs[key][task] for key in ("support_x", "support_y", "query_x")
        )
        with tf.GradientTape() as tape:
            tape.watch(initial)
            adapted = adapt_by_hand(
                by_hand, initial, support_x, support_y, rate, steps, first_order
            )
            y_pred = by_hand(adapted, query_x)
            loss = mean_squared(query_y[task], y_pred)
        losses.append(loss)
        gradients.append(tape.gradient(loss, initial))
        predictions.append(y_pred)
    means = [np.mean(g, axis=0) for g in zip(*gradients, strict=True)]
    return np.mean(losses), means, np.stack(predictions)
