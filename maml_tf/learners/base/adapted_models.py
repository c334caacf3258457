"""Keras models of one task that look through another model, with variables of their own.

`AdaptedModel` is a network seen through other weights, `AdaptedLearner` a learner seen through what
adapting gave and through the weights that it had then.
"""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from maml_tf import configuration, copying, functional
from maml_tf.exact import keras_internals
from maml_tf.learners.base import specs


class _Through:
    """What Keras shall not find as parts of a model: another model, and variables once more.

    It would track the other's weights as this one's, and save and load them with it, which would
    change a learner.

    Attributes:
        model: a built `keras.Model`.
        own: whether nobody else sees it, because it was made for a file that is loaded.
        pairs: list of `(variable of the other model, the one that takes its place)`.
        weights: list of the latter for what is trainable there.
        state: list of the latter for what is not.
        adapted: list of variables that hold what adapting gave, where that is none of both.
    """

    def __init__(self, model):
        self.model, self.own = model, False
        self.pairs, self.weights, self.state, self.adapted = [], [], [], []


class _Seen(keras.Model):
    """A model that looks through another one, with variables of its own in the place of its.

    Args:
        through: a built `keras.Model`.
        name: of this model; that of `through` by default.
        inputs: structure of `tf.TensorSpec` `[None, ...]`, what an export takes by default.
    """

    def __init__(self, through, name=None, inputs=None):
        super().__init__(name=name or through.name, dtype=through.dtype_policy, autocast=False)
        self._through = _Through(through)
        self._inputs = inputs
        if getattr(through, "output_names", None):
            self.output_names = through.output_names
        self.built = True

    def _like(self, variables, trainable=None):
        """Adds variables of this model in the place of these of the other one."""
        added = [
            self.add_weight(
                shape=variable.shape,
                dtype=variable.dtype,
                initializer=lambda shape, dtype, v=variable: tf.cast(v.value, dtype),
                trainable=variable.trainable if trainable is None else trainable,
                constraint=variable.constraint,
                name=variable.path.replace("/", "_"),
            )
            for variable in variables
        ]
        self._through.pairs.extend(zip(variables, added, strict=True))
        return added

    def call(self, inputs, training=False):
        """Predictions of the other model; what its layers add as losses is added here."""
        with keras_internals.own_precision():
            y, losses = self._seen(inputs, training)
        for loss in losses:
            self.add_loss(loss)
        return y

    def predict(self, x, *args, **kwargs):
        """`keras.Model.predict`; text may be an array of NumPy's str, or a list of str."""
        return super().predict(_as_tensor(x), *args, **kwargs)

    def _seen(self, inputs, training):
        """`(predictions, losses)` of the other model."""
        raise NotImplementedError

    def _keep(self, variables, before, after):
        """Assigns what a call of the other model changed."""
        for variable, old, new in zip(variables, before, after, strict=True):
            if new is not old:
                variable.assign(new)

    def load_own_variables(self, store):
        """As Keras calls it; constants that layers keep of their variables follow."""
        super().load_own_variables(store)
        if self._through.own:
            for variable, value in self._through.pairs:
                variable.assign(value)
            copying.finalize(self._through.model)

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
        """Arguments of the constructor but for what is looked through."""
        inputs = None if self._inputs is None else specs.to_config(self._inputs)
        return {"name": self.name, "inputs": inputs}


def _as_tensor(x):
    """Text as Keras takes it, which knows no arrays of NumPy's str; anything else as it is."""
    listed = isinstance(x, list) and x and all(isinstance(one, (str, bytes)) for one in x)
    if listed or (isinstance(x, np.ndarray) and x.dtype.kind in "US"):
        return tf.constant(x)
    return x


@keras.saving.register_keras_serializable("maml_tf")
class AdaptedModel(_Seen):
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
        super().__init__(model, name, inputs)
        self._through.weights = self._like(model.trainable_variables)
        self._through.state = self._like(model.non_trainable_variables)

    def assign(self, weights, state):
        """Takes the values of these tensors, in the order of the model's variables."""
        for (_, variable), value in zip(self._through.pairs, [*weights, *state], strict=True):
            variable.assign(value)

    def _seen(self, inputs, training):
        """The model at these weights, and the losses that its layers add."""
        state = functional.values_of(self._through.state)
        (y, losses), after = functional.call(
            self._through.model,
            functional.values_of(self._through.weights),
            state,
            inputs,
            training=training,
            then=lambda y: (y, self._through.model.losses),
        )
        self._keep(self._through.state, state, after)
        return y, losses

    def compute_output_spec(self, inputs, training=False):
        """That of the model."""
        del training
        return self._through.model.compute_output_spec(inputs)

    def get_config(self):
        """Arguments of the constructor, the model among them, and what of it is frozen."""
        return {**configuration.model_config(self._through.model), **super().get_config()}

    @classmethod
    def from_config(cls, config):
        """A model from what `get_config` returned."""
        config = dict(config)
        inputs = specs.from_config(config.pop("inputs", None))
        adapted = cls(**configuration.from_model_config(config), inputs=inputs)
        adapted._through.own = True
        return adapted


@keras.saving.register_keras_serializable("maml_tf")
class AdaptedLearner(_Seen):
    """A learner that has adapted: a Keras model of one task, whose input are queries.

    It holds what adapting gave, and the learner's variables as they were then. `fit` goes on to
    train what adapting gave (such as prototypes) but for its state, and nothing else. A prediction
    depends on its own example alone.

    Args:
        learner: a `maml_tf.Learner`.
        adapted: structure (dicts, lists, tuples) of `tf.TensorSpec`, of what adapting gave.
        name: of this model; that of the learner by default.
        inputs: structure of `tf.TensorSpec` `[None, ...]`, what an export takes by default.
    """

    def __init__(self, learner, adapted, name=None, inputs=None):
        super().__init__(learner, name, inputs)
        self._spec = adapted
        self._through.weights = self._like(learner.trainable_variables, trainable=False)
        self._through.state = self._like(learner.non_trainable_variables)
        self._through.adapted = [
            self.add_weight(
                shape=spec.shape,
                dtype=spec.dtype.name,
                initializer="zeros",
                trainable=spec.dtype.is_floating,
                name=f"adapted_{i}",
            )
            for i, spec in enumerate(tf.nest.flatten(adapted))
        ]
        paths = [path for path, _ in keras.tree.flatten_with_path(adapted)]
        for path, variable in zip(paths, self._through.adapted, strict=True):
            if "state" in path:
                # Afterwards: a file holds variables in the order of how they were added.
                variable.trainable = False

    def assign(self, values, adapted):
        """Takes the values of these tensors.

        Args:
            values: `(weights, state)` of the learner, lists in the order of its variables.
            adapted: what adapting gave.
        """
        variables = [v for _, v in self._through.pairs] + self._through.adapted
        tensors = [*values[0], *values[1], *tf.nest.flatten(adapted)]
        for variable, value in zip(variables, tensors, strict=True):
            variable.assign(value)

    def _seen(self, inputs, training):
        """Predictions `[Q, ...]` of queries, and the losses that layers add."""
        learner = self._through.model
        state = functional.values_of(self._through.state)
        adapted = tf.nest.pack_sequence_as(self._spec, functional.values_of(self._through.adapted))
        with learner.with_values(functional.values_of(self._through.weights), state):
            y, losses = learner.predict_adapted(
                adapted,
                inputs,
                mode=learner.mode_of_adapt()._replace(training=bool(training)),
                then=lambda y: (y, learner.losses),
            )
            after = functional.values_of(learner.non_trainable_variables)
        self._keep(self._through.state, state, after)
        return y, losses

    def get_config(self):
        """Arguments of the constructor, the learner among them."""
        return {
            "learner": keras.saving.serialize_keras_object(self._through.model),
            "adapted": specs.to_config(self._spec),
            **super().get_config(),
        }

    @classmethod
    def from_config(cls, config):
        """A model from what `get_config` returned."""
        made = cls(
            keras.saving.deserialize_keras_object(config["learner"]),
            specs.from_config(config["adapted"]),
            name=config["name"],
            inputs=specs.from_config(config["inputs"]),
        )
        made._through.own = True
        return made
