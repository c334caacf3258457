"""Small networks to stand in for pretrained ones, and pictures for them."""

import functools

import keras
import numpy as np

import maml_tf
from maml_tf.tasks import sampling, splits
from tests.problems import layers

FEATURES = 4


def backbone(size=6, seed=0, scale=2.0):
    """A convolution with batch normalisation, and what scales pictures in front of it."""
    draw = keras.initializers.GlorotUniform(seed=seed)
    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Rescaling(scale, offset=-1.0),
            layers.Conv2D(FEATURES, 3, 2, activation="relu", kernel_initializer=draw),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
        ]
    )
    rng = np.random.default_rng(seed)
    norm = model.layers[2]
    for variable in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance):
        variable.assign(rng.uniform(0.5, 1.5, size=variable.shape))
    return model


@functools.cache
def pictures(classes=6, of_each=5, size=6):
    """Task sets of uint8 pictures, 3-way 2-shot, that their classes' colours tell apart."""
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 200, [classes, 1, 1, 1, 3])
    noise = rng.integers(0, 56, [classes, of_each, size, size, 3])
    few = maml_tf.tasks.Episodes(ways=3, shots=2, queries=2, meta_batch=2, test_tasks=4)
    parts = [np.arange(3), np.array([], int), np.arange(3, classes)]
    classes = sampling.index_by_class((colours + noise).astype(np.uint8))
    return splits.three_way(classes, parts, few)


def one_task(tasks):
    """Support examples, labels and queries of the first test task, and the queries' labels."""
    inputs, query_y = next(iter(tasks[2]))
    parts = (inputs["support_x"], inputs["support_y"], inputs["query_x"], query_y)
    return [part[0].numpy() for part in parts]


def compiled(learner):
    learner.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return learner


def anil():
    """A projection that is meta-learned under a last layer that adapts."""
    network = [keras.Input((FEATURES,)), layers.Dense(3, "tanh"), layers.Dense(3, name="head")]
    return compiled(
        maml_tf.MAML(keras.Sequential(network), 0.5, 2, adaptable="head", task_map="loop")
    )


def prototypical():
    network = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3)])
    learner = maml_tf.Prototypical(network, distance="cosine", ways=3, learned_scale=True)
    return compiled(learner)


def reptile():
    network = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3)])
    return compiled(maml_tf.Reptile(network, 0.5, 2, task_map="loop"))


def low_rank():
    network = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3), layers.Dense(3)])
    network.layers[0].enable_lora(1)
    return compiled(maml_tf.MAML(network, 0.5, 2, task_map="loop"))


LEARNERS = {"anil": anil, "prototypical": prototypical, "reptile": reptile, "low_rank": low_rank}
