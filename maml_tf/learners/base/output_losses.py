"""Which loss and which labels belong to which output of a model, as Keras pairs them."""

import functools

import keras


def losses_of(loss, model, outputs):
    """The loss of each output, in the order of `keras.tree.flatten(outputs)`, as Keras pairs them.

    Args:
        loss: what `compile` was given: one for all outputs, a dict by their names, or a list.
        model: the `keras.Model` with these outputs.
        outputs: structure of its outputs.

    Returns:
        List of losses, None among them for an output without one; or None where it is not clear.
    """
    count = len(keras.tree.flatten(outputs))
    if isinstance(loss, dict):
        # By the names of the outputs, or as the model's own dictionary.
        names = outputs if isinstance(outputs, dict) else getattr(model, "output_names", None)
        names = sorted(names) if isinstance(names, dict) else names or ()
        return [loss.get(name) for name in names] if len(names) == count else None
    if isinstance(loss, (list, tuple)):
        return list(loss) if len(loss) == count else None
    return [loss] * count


def inner_losses(learner, outputs):
    """`losses_of` what adaptation descends."""
    own = own_inner_loss(learner)
    if learner.labels_are_classes:
        return [keras.losses.sparse_categorical_crossentropy]
    if own is None:
        return losses_of(learner.loss, learner.model, outputs)
    return [own] if len(keras.tree.flatten(outputs)) == 1 else None


def own_inner_loss(learner):
    """What `compile` was given as `inner_loss`, as Keras takes it; None where it was not."""
    return getattr(learner, "_inner_loss_config", None)


def paired(y, model, outputs):
    """`(path, labels)` for each output, or None where it is not clear which belong to it."""
    found = dict(keras.tree.flatten_with_path(y))
    paths = [path for path, _ in keras.tree.flatten_with_path(outputs)]
    names = [(name,) for name in getattr(model, "output_names", None) or ()]
    for order in (paths, names, None if isinstance(y, dict) else list(found)):
        if order and len(order) == len(paths) and set(order) == set(found):
            return [(path, found[path]) for path in order]
    return None


def is_sparse(loss):
    """Whether a loss is Keras' sparse cross-entropy: integer labels without an axis of classes.

    A loss of one's own is none, whatever its name: what labels it takes is its own affair.
    """
    if isinstance(loss, str):
        return loss.replace("_", "").lower() == "sparsecategoricalcrossentropy"
    known = keras.losses.SparseCategoricalCrossentropy
    if isinstance(loss, keras.losses.Loss):  # one that wraps a function, and does no more
        loss = getattr(loss, "fn", None) if type(loss).call is known.call else None
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss is known or loss is keras.losses.sparse_categorical_crossentropy


def ignored_class(loss):
    """The label that a sparse loss passes over, or None."""
    given = {**getattr(loss, "_fn_kwargs", {}), **getattr(loss, "keywords", {})}
    return given.get("ignore_class")
