"""An ordinary Keras model with the weights that a learner adapted to one task.

It is a copy of the learner's model wherever a copy can be made that predicts the same and that
Keras can save as it is, and else the learner's model seen through other weights: `AdaptedModel`.
"""

import logging
import pathlib

import keras
import tensorflow as tf

from maml_tf import copying, functional
from maml_tf.learners import specs
from maml_tf.learners.reports import Before

_log = logging.getLogger(__name__)


def adapted_model(learner, weights, state, example):
    """A compiled model of one task; see `Learner.adapt`.

    Args:
        learner: a compiled `maml_tf.Learner`.
        weights: list of tensors, the fast weights.
        state: list of tensors, with the support set's mean and variance in batch normalisations.
        example: support inputs, a structure of tensors `[S, ...]`, on which a copy is compared.

    Returns:
        A compiled `keras.Model`.
    """
    model = learner.model
    expected, _ = functional.call(model, weights, state, example, training=False)
    try:
        adapted = _copy(model, weights, state, example, expected)
    except ValueError as error:
        _log.info("The adapted model is no copy of %r: %s", model.name, error)
        adapted = AdaptedModel(model, inputs=specs.of_examples(example))
        adapted.assign(weights, state)
    adapted.compile(**Before.compile_arguments(learner._compile_config.config))
    return adapted


def _copy(model, weights, state, example, expected):
    """A copy of `model` at these weights.

    Raises:
        ValueError: there is none that gives `expected` for `example`, or Keras would save it as
            another one.
    """
    if not copying.kept_by_keras(model):
        raise ValueError("Keras loads no frozen sublayers and low-rank factors.")
    copy = copying.copy_of(model, example)
    pairs = zip(copy.trainable_variables, weights, strict=True)
    for variable, value in [*pairs, *zip(copy.non_trainable_variables, state, strict=True)]:
        variable.assign(value)
    copying.finalize(copy)
    if not copying.same(copy(example, training=False), expected):
        raise ValueError("it predicts otherwise for the support set at the adapted weights.")
    return copy


class _Through:
    """A model where Keras does not find it, as part of another one.

    It would track its weights as the other's, and save and load them with it, which would change
    a learner.

    Attributes:
        model: a built `keras.Model`.
        own: whether nobody else sees it, because it was made for a file that is loaded.
    """

    def __init__(self, model):
        self.model, self.own = model, False


@keras.saving.register_keras_serializable("maml_tf")
class AdaptedModel(keras.Model):
    """A Keras model seen through other weights: for models that Keras cannot copy or save as such.

    It predicts, evaluates, trains and exports as any `keras.Model` does, with variables of its own,
    and is saved where the model's class tells its configuration; the model that it looks through
    is not changed by any of it, nor does it follow when that one trains on.

    Args:
        model: a built `keras.Model`.
        name: of this model; that of `model` by default.
        inputs: structure of `tf.TensorSpec` `[None, ...]`, what an export takes by default.
    """

    def __init__(self, model, name=None, inputs=None):
        super().__init__(name=name or model.name, dtype=model.dtype_policy, autocast=False)
        self._through = _Through(model)
        self._inputs = inputs
        if getattr(model, "output_names", None):
            self.output_names = model.output_names
        self._values = (
            [self._like(v) for v in model.trainable_variables],
            [self._like(v) for v in model.non_trainable_variables],
        )
        self.built = True

    def _like(self, variable):
        return self.add_weight(
            shape=variable.shape,
            dtype=variable.dtype,
            initializer=lambda shape, dtype: tf.cast(variable.value, dtype),
            trainable=variable.trainable,
            constraint=variable.constraint,
            name=variable.path.replace("/", "_"),
        )

    def assign(self, weights, state):
        """Takes the values of these tensors, in the order of the model's variables."""
        for variables, values in zip(self._values, (weights, state), strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def call(self, inputs, training=False):
        """The model at these weights; what its layers add as losses is added here."""
        weights, state = ([tf.convert_to_tensor(v.value) for v in vs] for vs in self._values)
        (y, losses), after = functional.call(
            self._through.model,
            weights,
            state,
            inputs,
            training=training,
            then=lambda y: (y, self._through.model.losses),
        )
        for loss in losses:
            self.add_loss(loss)
        for variable, before, value in zip(self._values[1], state, after, strict=True):
            if value is not before:
                variable.assign(value)
        return y

    def compute_output_spec(self, inputs, training=False):
        """That of the model."""
        del training
        return self._through.model.compute_output_spec(inputs)

    def load_own_variables(self, store):
        """As Keras calls it; constants that layers keep of their variables follow."""
        super().load_own_variables(store)
        if self._through.own:
            model = self._through.model
            kinds = model.trainable_variables, model.non_trainable_variables
            for variables, values in zip(kinds, self._values, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value)
            copying.finalize(model)

    def save_assets(self, folder):
        """As Keras calls it: what layers hold beside variables, such as a vocabulary."""
        for i, layer in self._with_assets():
            path = pathlib.Path(folder, str(i))
            path.mkdir()
            layer.save_assets(str(path))

    def load_assets(self, folder):
        """As Keras calls it."""
        for i, layer in self._with_assets() if self._through.own else ():
            layer.load_assets(str(pathlib.Path(folder, str(i))))

    def _with_assets(self):
        layers = enumerate(self._through.model._flatten_layers())
        return [(i, layer) for i, layer in layers if hasattr(layer, "save_assets")]

    def export(self, filepath, *args, input_signature=None, **kwargs):
        """`keras.Model.export`; it takes what the model was adapted to, unless told otherwise."""
        if input_signature is None and self._inputs is not None:
            input_signature = [self._inputs]
        return super().export(filepath, *args, input_signature=input_signature, **kwargs)

    def get_config(self):
        """Arguments of the constructor, the model among them, and what of it is frozen."""
        inputs = None if self._inputs is None else specs.to_config(self._inputs)
        return {**copying.model_config(self._through.model), "name": self.name, "inputs": inputs}

    @classmethod
    def from_config(cls, config):
        """A model from what `get_config` returned."""
        config = dict(config)
        inputs = specs.from_config(config.pop("inputs", None))
        adapted = cls(**copying.from_model_config(config), inputs=inputs)
        adapted._through.own = True
        return adapted
