"""The weights that the paper's authors published, in the checkpoint format of TensorFlow 1."""

import os

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.models.mini_imagenet import conv4_max_pool

_BLOCKS = 4
_SIDE = 5  # height and width of the last block's features for 84x84 pixels


def from_authors(path: str | os.PathLike) -> keras.Model:
    """`conv4_max_pool` with the weights of a checkpoint of Finn et al.'s own code.

    It reads the networks with max-pooling that `main.py` of https://github.com/cbfinn/maml trains
    on mini-ImageNet, such as the one in its
    `logs/miniimagenet1shot/cls_5.mbs_4.ubs_1.numstep5.updatelr0.01hidden32maxpoolbatchnorm`. The
    number of classes and of filters are those of the checkpoint.

    To use it as the authors do: images 84x84 in [0, 1]; the betas of the batch normalisation are
    not adapted; and their step size of 0.01 is one of 0.05 on the mean loss of five classes.

    Args:
        path: prefix of the checkpoint's files, without `.index`: `"…/model59000"`.

    Returns:
        A built `keras.Model`, `[batch, 84, 84, 3]` float in [0, 1] to logits `[batch, ways]`.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, or it does not hold the weights of such a network.

    Example:
        >>> def authors(folder):
        ...     model = maml_tf.models.from_authors(folder + "/model59000")
        ...     learner = maml_tf.MAML(
        ...         model, 0.05, inner_steps=10, adaptable=lambda v: "beta" not in v.path
        ...     )
        ...     learner.compile(
        ...         loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ...         metrics=["accuracy"],
        ...     )
        ...     return learner
    """
    path = os.fspath(path)
    reader = _open(path)
    shapes = reader.get_variable_to_shape_map()
    filters, ways = _sizes(path, shapes)
    model = conv4_max_pool(ways, filters)
    trainable = model.trainable_variables
    for variable, name in zip(trainable, _names(), strict=True):
        if list(variable.shape) != shapes[name]:
            raise _refusal(path, f"{name} of shape {shapes[name]}, not {list(variable.shape)}")
    for variable, name in zip(trainable, _names(), strict=True):
        variable.assign(reader.get_tensor(name))
    return model


def _names():
    """The authors' names, in the order of the model's trainable variables."""
    names = []
    for block in range(_BLOCKS):
        # Their convolutions' biases have no name of their own, and TensorFlow numbered them.
        bias = f"model/Variable_{block}" if block else "model/Variable"
        names += [f"model/conv{block + 1}", bias, f"model/{block}/beta"]
    return [*names, "model/w5", "model/b5"]


def _open(path):
    if not tf.io.gfile.exists(path + ".index"):
        raise FileNotFoundError(
            "Expected the prefix of a checkpoint's files, without .index. Received: "
            f"{arguments.received('path', path)}, and there is no {path}.index. Give, for example, "
            "'logs/…/model59000'."
        )
    try:
        return tf.train.load_checkpoint(path)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
    raise ValueError(
        f"Expected a checkpoint that can be read. Received: {arguments.received('path', path)}: "
        f"{reason}. Fetch both of its files anew."
    )


def _sizes(path, shapes):
    """Filters and classes of the checkpoint's network."""
    missing = [name for name in _names() if name not in shapes]
    if missing:
        raise _refusal(path, f"no {missing[0]} (it has {sorted(shapes)[:6]})")
    first, last = shapes["model/conv1"], shapes["model/w5"]
    if len(first) != 4 or len(last) != 2:
        raise _refusal(path, f"model/conv1 of shape {first} and model/w5 of shape {last}")
    if last[0] != _SIDE * _SIDE * first[3]:
        raise _refusal(
            path, f"model/w5 of shape {last}, which has no {_SIDE}x{_SIDE}x{first[3]} features"
        )
    return first[3], last[1]


def _refusal(path, what):
    return ValueError(
        "Expected a checkpoint of the authors' network for mini-ImageNet, with model/conv1 to "
        "conv4, batch normalisation and max-pooling (--max_pool=True --norm=batch_norm). Received: "
        f"{arguments.received('path', path)}, with {what}. Give such a one, or read its numbers "
        "yourself with tf.train.load_checkpoint."
    )
