"""The learner that the image scripts train: its network, its method, and what they begin with."""

import inspect
import sys

import keras

import maml_tf
from maml_tf.inner.loop import select
from train import common, heads, methods, model_files


def make_learner(settings, shape):
    """The learner for images of a shape, compiled."""
    on_features = getattr(settings, "backbone", None) is not None
    network = (heads.make_network if on_features else make_network)(settings, shape)
    if settings.last_layer == "zero":
        zero_last_layer(network)
    saved = start_from(network, settings.start_from) if settings.start_from else None
    inner = {
        "sgd": maml_tf.inner_optimizers.SGD,
        "adam": lambda rate: maml_tf.inner_optimizers.Adam(rate, beta_1=0.0),
        "learned": lambda rate: maml_tf.inner_optimizers.LearnedRates(
            rate, per="tensor", steps=settings.inner_steps
        ),
        "meta-sgd": maml_tf.inner_optimizers.LearnedRates,
    }
    given = {
        "inner_optimizer": inner[settings.inner_optimizer](settings.step_size),
        "inner_steps": settings.inner_steps,
        "first_order": settings.first_order,
        "batch_norm": "transductive" if settings.transductive else "support",
        **(heads.given(settings) if on_features else {}),
    }
    learner = methods.make(settings.method, network, given, settings.set)
    if settings.last_layer_step_size is not None:
        set_last_rates(learner, settings.last_layer_step_size)
    start_rates(learner, saved)
    rate = settings.meta_learning_rate
    if settings.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, settings.iterations)
    optimizer = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    learner.compile(
        optimizer[settings.meta_optimizer](
            rate,
            clipvalue=settings.clip_value,
            global_clipnorm=settings.clip_norm,
            use_ema=settings.ema_momentum is not None,
            ema_momentum=settings.ema_momentum or 0.99,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=compiles(learner),
    )
    return learner


def compiles(learner):
    """Whether XLA is to compile a learner of images on this machine.

    It makes small convolutions slower on a CPU, and cannot compile what takes any number of
    classes: the shapes are not known then.
    """
    return common.on_gpu() and getattr(learner, "ways", 1) is not None


def make_network(settings, shape):
    """The network for images of a shape: with an output a class, or of embeddings."""
    build = getattr(maml_tf.models, settings.network)
    classifies = "ways" in inspect.signature(build).parameters
    if classifies != methods.takes_ways(settings.method):
        sys.exit(
            f"Expected --network to be one {'of embeddings' if classifies else 'with classes'} for "
            f"--method {settings.method}. Received: --network {settings.network}. Leave it out, or "
            f"give {'embedding' if classifies else 'conv4'}."
        )
    outputs = {"ways": settings.ways} if classifies else {}
    wide = width(build, settings.filters)
    return build(**outputs, **wide, input_shape=shape, seed=settings.seed)


def width(build, filters):
    """Arguments for a network with --filters in each convolution; none where that is not given.

    Args:
        build: function of `maml_tf.models`.
        filters: int or None.

    Raises:
        SystemExit: the network has no one number of them.
    """
    if filters is None:
        return {}
    parameter = inspect.signature(build).parameters.get("filters")
    if parameter is None or parameter.annotation is not int:
        sys.exit(
            "Expected --filters beside a --network that has one number of them: conv4, "
            f"conv4_max_pool or embedding. Received: --filters {filters} --network "
            f"{build.__name__}. Leave it out."
        )
    return {"filters": filters}


def zero_last_layer(network):
    """Begins with the same logits for all classes, whatever the image: all zero."""
    for variable in network.layers[-1].variables:
        variable.assign(keras.ops.zeros_like(variable))


def default_network(settings, classifying):
    """`classifying`, or the network of embeddings where the method wants one."""
    return classifying if methods.takes_ways(settings.method) else "embedding"


def start_from(network, path):
    """Gives a network the weights of a saved learner, as far as their shapes agree.

    Returns:
        What was saved there: a learner, or a model.
    """
    try:
        loaded = model_files.open_model(path, f"--start-from {path}")
    except ValueError as error:
        sys.exit(str(error))
    saved = getattr(loaded, "model", loaded)
    if len(saved.variables) != len(network.variables):
        sys.exit(
            f"--start-from {path} holds a network of {len(saved.variables)} weights, this one has "
            f"{len(network.variables)}. Give the --network that it was trained with."
        )
    pairs = list(zip(network.variables, saved.variables, strict=True))
    same = [(mine, theirs) for mine, theirs in pairs if mine.shape == theirs.shape]
    for mine, theirs in same:
        mine.assign(theirs.value)
    print(f"{len(same)} of {len(pairs)} weights are those of {path}.")
    return loaded


def set_last_rates(learner, rate):
    """Lets the learned rates of the last layer begin at `rate`."""
    last = {id(v) for v in learner.model.layers[-1].trainable_variables}
    adapting = select(learner.model.trainable_variables, learner.adaptable)
    for variable, rates in zip(adapting, learner.inner_optimizer.rates, strict=True):
        if id(variable) in last:
            rates.assign(keras.ops.full_like(rates, rate))


def start_rates(learner, saved):
    """Gives a learner the inner rates that a saved one learned, where they are as many numbers."""
    mine = getattr(getattr(learner, "inner_optimizer", None), "variables", [])
    theirs = getattr(getattr(saved, "inner_optimizer", None), "variables", [])
    if mine and [v.shape for v in mine] == [v.shape for v in theirs]:
        for one, other in zip(mine, theirs, strict=True):
            one.assign(other.value)
        print(f"{len(mine)} inner rates go on from there, too.")
