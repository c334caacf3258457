"""Which learner a script trains, by the name of its class: no script knows a method."""

import inspect

import maml_tf
from maml_tf import arguments
from train import options

# Options of the inner loop, and the setting of a constructor without which they mean nothing.
_OF_STEPS = {
    "inner_steps": "inner_steps",
    "steps_to_evaluate": "inner_steps",
    "step_size": "inner_optimizer",
    "last_layer_step_size": "inner_optimizer",
    "inner_optimizer": "inner_optimizer",
    "first_order": "first_order",
}


def names():
    """Names of all methods, as `--method` takes them: those of their classes in small letters."""
    return sorted(_classes())


def make(name, network, given, more=()):
    """The learner of a method around a network.

    Args:
        name: one of `names()`.
        network: a built `keras.Model`.
        given: dict of settings that the script has for all methods; those that the method's
            constructor does not take are left out.
        more: list of `"setting=value"`, settings of this method alone (`--set distance=cosine`).

    Raises:
        SystemExit: an unknown setting, or one that the method does not accept.
    """
    method = _classes()[name]
    accepted = arguments.of_constructor(method)
    settings = {key: value for key, value in given.items() if key in accepted}
    for one in more:
        key, sign, value = one.partition("=")
        if not sign or key not in accepted or key == "model":
            others = [n for n in accepted if n not in ("model", *given)]
            options.refuse(
                f"Expected --set to be NAME=VALUE with a setting of --method {name}: "
                f"{', '.join(others)}. Received: --set {one}. Correct its name."
            )
        settings[key] = _value(value)
    try:
        return method(network, **settings)
    except (TypeError, ValueError) as error:
        if not more:
            raise
        options.refuse(f"--set {' '.join(more)}: {error}")


def takes(name, setting):
    """Whether the constructor of a method takes a setting."""
    return setting in arguments.of_constructor(_classes()[name])


def uses(name, option):
    """Whether an option of the image scripts, by the name of its field, means anything to a method.

    Those of the inner loop mean nothing to a method that takes no gradient steps, and the last
    layer nothing to one whose network only embeds.
    """
    if option == "last_layer":
        return takes_ways(name)
    return option not in _OF_STEPS or takes(name, _OF_STEPS[option])


def takes_ways(name):
    """Whether a method's network has an output for each class, and none that only embeds."""
    return not issubclass(_classes()[name], maml_tf.learners.EmbeddingLearner)


def _classes():
    found = [getattr(maml_tf.learners, name) for name in maml_tf.learners.__all__]
    kinds = (maml_tf.Learner, maml_tf.learners.GradientLearner, maml_tf.learners.EmbeddingLearner)
    return {one.__name__.lower(): one for one in found if inspect.isclass(one) and one not in kinds}


def _value(text):
    """A number, a truth value or None, or the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
