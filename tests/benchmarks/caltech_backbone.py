"""A frozen backbone on Caltech-101, with and without meta-training: 5-way, tasks of new classes.

    python -m tests.benchmarks.caltech_backbone --pictures FOLDER --weights weights.npz

FOLDER is that of Caltech-101 (101_ObjectCategories), one folder a category. The weights are those
of EfficientNet-Lite0, pretrained on ImageNet, as its PyTorch port names them; the network is built
below. The categories are shared out at random: meta-training sees 64 of 99, validation 15, and all
rows are of the other 20. Nearest class means are measured on all 99, too. Features of 40 pictures
of each category are computed once and kept in --cache. What adapts layers of the backbone itself
runs over maps of features, those before these layers, and takes seconds a step: for fewer tasks,
and with 5 queries of each class in training; the best of 5 epochs is that on 40 validation tasks.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

import maml_tf
from maml_tf import backbones, evaluation
from maml_tf.tasks import class_index, sampling, splits
from maml_tf.tasks.data import image_decoding, image_files

SIZE, OF_EACH = 224, 40
LEFT_OUT = ("BACKGROUND_Google", "Faces_easy", "Faces")
# Repeats, kernel, stride of the first, expansion, filters.
GROUPS = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)]
GROUPS += [(3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]
LAST = "_blocks-15-_bn2"  # before the last convolution
BLOCK = "_blocks-14-add"  # before the last block, which that convolution follows
ADAPTED = 5  # inner steps of the rows that descend


def efficientnet_lite0(path):
    """EfficientNet-Lite0 without its top, from pictures in [0, 1], with the weights of a file."""
    x = keras.Input((SIZE, SIZE, 3))
    y = keras.layers.Rescaling(255 / 128, offset=-127 / 128)(x)
    y = _block(y, "_conv_stem", "_bn0", 3, 32, 2)
    number = 0
    for repeats, kernel, stride, expansion, filters in GROUPS:
        for i in range(repeats):
            y = _inverted(
                y, f"_blocks.{number}.", kernel, stride if i == 0 else 1, expansion, filters
            )
            number += 1
    y = _block(y, "_conv_head", "_bn1", 1, 1280)
    model = keras.Model(x, keras.layers.GlobalAveragePooling2D(name="pool")(y), name="lite0")
    with np.load(path) as weights:
        for layer in model.layers:
            _assign(layer, weights)
    model.trainable = False
    return model


def _block(y, conv, norm, kernel, filters, stride=1, relu=True, prefix=""):
    if filters is None:
        layer = keras.layers.DepthwiseConv2D(
            kernel, stride, "same", use_bias=False, name=_named(prefix + conv)
        )
    else:
        layer = keras.layers.Conv2D(
            filters, kernel, stride, "same", use_bias=False, name=_named(prefix + conv)
        )
    y = keras.layers.BatchNormalization(epsilon=1e-3, name=_named(prefix + norm))(layer(y))
    return keras.layers.ReLU(6.0)(y) if relu else y


def _inverted(x, prefix, kernel, stride, expansion, filters):
    y, channels = x, x.shape[-1]
    if expansion > 1:
        y = _block(y, "_expand_conv", "_bn0", 1, channels * expansion, prefix=prefix)
    y = _block(y, "_depthwise_conv", "_bn1", kernel, None, stride, prefix=prefix)
    y = _block(y, "_project_conv", "_bn2", 1, filters, relu=False, prefix=prefix)
    if stride == 1 and channels == filters:
        y = keras.layers.Add(name=_named(prefix + "add"))([x, y])
    return y


def _named(name):
    """Keras allows no dots in the names of some layers."""
    return name.replace(".", "-")


def _assign(layer, weights):
    name = layer.name.replace("-", ".")
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        layer.set_weights([weights[f"{name}.weight"].transpose(2, 3, 0, 1)])
    elif isinstance(layer, keras.layers.Conv2D):
        layer.set_weights([weights[f"{name}.weight"].transpose(2, 3, 1, 0)])
    elif isinstance(layer, keras.layers.BatchNormalization):
        parts = ("weight", "bias", "running_mean", "running_var")
        layer.set_weights([weights[f"{name}.{part}"] for part in parts])


def read(folder):
    """`sampling.Classes` of the first pictures of each category, uint8 in memory."""
    listing = image_files.list_folder(folder)
    names = [name for name in listing.names if name not in LEFT_OUT]
    paths, labels = [], []
    for label, name in enumerate(names):
        position = listing.names.index(name)
        of_class = [p for p, n in zip(listing.paths, listing.labels, strict=True) if n == position]
        paths += of_class[:OF_EACH]
        labels += [label] * len(of_class[:OF_EACH])
    images = np.concatenate([part for _, part in image_decoding.read(paths, SIZE)])
    return sampling.index_by_class(images, np.array(names)[labels])


def held_out(classes, of_each=20):
    """The test categories alone, with so many pictures of each."""
    part = splits.shuffled(len(classes.sizes), (0.65, 0.15, 0.2), 0)[2]
    some, order = class_index.select(classes, part), np.asarray(classes.order)
    rows = np.stack([order[first : first + of_each] for first in some.offsets])
    return sampling.index_by_class(
        np.asarray(classes.examples)[rows.reshape(-1)], np.repeat(some.labels, of_each)
    )


def task_sets(classes, shots, all_classes=False, **more):
    """`(train, validation, test)` of 5-way tasks, 15 queries a class."""
    count = len(classes.sizes)
    parts = splits.shuffled(count, (0.65, 0.15, 0.2), 0)
    if all_classes:
        parts = [np.arange(count), np.array([], int), np.arange(count)]
    few = maml_tf.tasks.Episodes(shots=shots, meta_batch=4, **{"validation_tasks": 100, **more})
    return splits.three_way(classes, parts, few)


def projection():
    """A linear map of features that begins as the identity: as if it were not there."""
    return keras.layers.Dense(
        1280, kernel_initializer="identity", use_bias=False, name="projection"
    )


def head():
    return keras.layers.Dense(5, kernel_initializer="zeros", name="head")


def unit():
    return keras.layers.UnitNormalization(name="unit")


def protonet():
    """Nearest class means after a projection, by cosine, with a learned scale."""
    network = keras.Sequential([keras.Input((1280,)), projection()])
    learner = maml_tf.Prototypical(network, distance="cosine", ways=5, learned_scale=True)
    learner.scale.assign(10.0)
    return learner


def anil():
    """The last layer alone adapts; the projection before it is meta-trained."""
    layers = [keras.Input((1280,)), projection(), unit(), head()]
    return maml_tf.MAML(keras.Sequential(layers), 10.0, ADAPTED, adaptable="head")


def lora(rest):
    """Low-rank factors of the backbone's last convolution adapt, and the last layer."""
    network = with_head(rest)
    convolution = rest.get_layer("_conv_head")
    convolution.trainable = True
    convolution.enable_lora(4)
    return adapting(network)


def block(rest):
    """The kernels of the last block and convolution adapt, with its statistics, and the head."""
    network = with_head(rest)
    for layer in rest.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return adapting(network)


def scales(rest):
    """A scale and a shift behind each normalisation of the last block adapt, and the head."""

    def scaled(layer, *args, **kwargs):
        y = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = {"output_shape": y.shape[1:], "bias_axes": "c", "name": f"{layer.name}-scale"}
            y = keras.layers.EinsumDense("bhwc,c->bhwc", kernel_initializer="ones", **shape)(y)
        return y

    same = {"clone_function": lambda layer: layer}
    rest.trainable = False
    return adapting(with_head(keras.models.clone_model(rest, call_function=scaled, **same)))


def gammas(rest):
    """The normalisations' own scales, which makes them normalise by what they see; and the head."""
    network = with_head(rest)
    for layer in rest.layers:
        layer.trainable = isinstance(layer, keras.layers.BatchNormalization)
    learner = adapting(network)
    return maml_tf.MAML(network, learner.inner_optimizer, ADAPTED, adaptable="gamma|head")


def with_head(rest):
    """A network of maps: the rest of a backbone, frozen but for scales, and a last layer."""
    for layer in rest.layers:
        layer.trainable = isinstance(layer, keras.layers.EinsumDense)
    x = keras.Input(rest.input_shape[1:])
    return keras.Model(x, head()(unit()(rest(x))))


def adapting(network):
    """All that is trainable adapts, at learned rates."""
    rates = maml_tf.inner_optimizers.LearnedRates(1.0, per="tensor", steps=ADAPTED)
    return maml_tf.MAML(network, rates, ADAPTED)


def compiled(learner, rate):
    learner.compile(
        keras.optimizers.Adam(rate, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return learner


def measure(name, learner, sets, epochs, tasks, shots, steps=100):
    """Accuracy on new classes before and after meta-training, and what it took."""
    before = evaluation.evaluate(learner, sets[2], tasks)
    if not epochs:
        tell(row=name, shots=shots, without=percent(before), tasks=tasks)
        return
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=epochs, restore_best_weights=True, start_from_epoch=0
    )
    start = time.perf_counter()
    history = learner.fit(
        sets[0],
        steps_per_epoch=steps,
        epochs=epochs,
        validation_data=sets[1],
        callbacks=[best],
        verbose=2,
    )
    seconds = time.perf_counter() - start
    after = evaluation.evaluate(learner, sets[2], tasks)
    tell(
        row=name,
        shots=shots,
        without=percent(before),
        with_meta_training=percent(after),
        difference=percent_of(100 * (after.values[:, -1] - before.values[:, -1])),
        tasks=tasks,
        iterations=steps * len(history.history["loss"]),
        seconds=round(seconds),
        milliseconds_a_step=milliseconds(learner, sets[0]),
    )


def percent(result):
    return percent_of(100 * result.values[:, -1])


def percent_of(values):
    """Mean and half of the 95 % interval, as text."""
    return f"{values.mean():.1f} ± {1.96 * values.std(ddof=1) / len(values) ** 0.5:.1f}"


def milliseconds(learner, tasks, steps=20):
    """The middle time of a meta-step of 4 tasks."""
    times = []
    for batch in tasks.take(steps):
        start = time.perf_counter()
        learner.train_on_batch(*batch)
        times.append(time.perf_counter() - start)
    return round(1000 * float(np.median(times[1:])), 1)


def tell(**facts):
    print(json.dumps(facts), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", required=True, type=pathlib.Path)
    parser.add_argument("--weights", required=True, type=pathlib.Path)
    parser.add_argument("--cache", default="runs/caltech", type=pathlib.Path)
    parser.add_argument("--tasks", default=600, type=int)
    parser.add_argument("--epochs", default=10, type=int, help="of 100 meta-steps of 4 tasks")
    parser.add_argument("--tasks-on-maps", default=600, type=int)
    parser.add_argument(
        "--steps-on-maps", default=40, type=int, help="of 4 tasks, in each of 5 epochs"
    )
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="on maps before meta-training alone, of 20 pictures of each of the 20 categories",
    )
    parser.add_argument("--shots", nargs="*", default=[1, 5], type=int)
    rows = ["means", "protonet", "anil", "lora", "block", "scales", "gammas", "time"]
    parser.add_argument("--rows", nargs="*", default=rows, choices=rows)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    backbone = efficientnet_lite0(options.weights)
    classes = read(options.pictures)
    tell(categories=len(classes.sizes), pictures=int(classes.sizes.sum()))
    for shots in options.shots:
        start = time.perf_counter()
        pictures = task_sets(classes, shots, test_tasks=options.tasks)
        sets = backbones.features(pictures, backbone, cache=options.cache)
        tell(features_in_seconds=round(time.perf_counter() - start, 1))
        if "means" in options.rows:
            every = task_sets(classes, shots, all_classes=True, test_tasks=1000)
            every = backbones.features(every, backbone, cache=options.cache)
            for which, some, count in (("all", every, 1000), ("new", sets, options.tasks)):
                means = evaluation.nearest_class_mean(some[2], count)
                tell(row="nearest class means", classes=which, shots=shots, without=percent(means))
        for build in (protonet, anil):
            if build.__name__ in options.rows:
                learner = compiled(build(), 1e-4)
                measure(build.__name__, learner, sets, options.epochs, options.tasks, shots)
        for build, cut in ((lora, LAST), (block, BLOCK), (scales, BLOCK), (gammas, BLOCK)):
            if build.__name__ in options.rows:
                few = {"queries": 5, "test_queries": 15, "validation_tasks": 40}
                few["test_tasks"] = options.tasks_on_maps
                front = backbones.split(backbone, cut)[0]
                of = held_out(classes) if options.untrained else classes
                maps = task_sets(of, shots, all_classes=options.untrained, **few)
                maps = backbones.features(maps, front, cache=options.cache)
                # Anew, because factors stay in the layers that they were added to.
                rest = backbones.split(efficientnet_lite0(options.weights), cut)[1]
                learner = compiled(build(rest), 1e-4)
                epochs = 0 if build is gammas or options.untrained else 5
                given = (epochs, options.tasks_on_maps, shots, options.steps_on_maps)
                measure(build.__name__, learner, maps, *given)
        if "time" in options.rows:
            whole = backbones.WithBackbone(backbone, compiled(anil(), 1e-4))
            tell(
                row="ANIL on pictures",
                shots=shots,
                milliseconds_a_step=milliseconds(whole, pictures[0], 4),
            )


if __name__ == "__main__":
    tf.config.threading.set_inter_op_parallelism_threads(2)
    main()
