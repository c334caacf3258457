"""What a `.keras` file holds of the network within a learner, beside what Keras writes."""

import keras
import numpy as np

from maml_tf import arguments, low_rank
from maml_tf.configuration import from_model_config, model_config, seeds
from maml_tf.learners.base import checks


class SavesNetwork:
    """Saving of a `keras.Model` around a network; to be inherited before `keras.Model`."""

    # The argument of the constructor, and the attribute, that is the wrapped `keras.Model`.
    wraps = "model"

    def network(self):
        """The wrapped `keras.Model`."""
        return getattr(self, self.wraps)

    def get_config(self):
        """Arguments of the constructor, the wrapped model among them, and what of it is frozen.

        A method has nothing to add: what its constructor takes stands in attributes of the same
        names.
        """
        names = [name for name in arguments.of_constructor(type(self)) if name != self.wraps]
        values = {name: getattr(self, name) for name in names}
        return model_config(self.network(), self.wraps) | {
            name: keras.saving.serialize_keras_object(v) if hasattr(v, "get_config") else v
            for name, v in values.items()
        }

    @classmethod
    def from_config(cls, config):
        """What `get_config` described."""
        return cls(**from_model_config(config, cls.wraps))

    def save(self, filepath, *args, **kwargs):
        """`keras.Model.save` to a `.keras` file.

        Raises:
            TypeError: `filepath` is no path.
            ValueError: another kind of file: HDF5 among them, which could not be loaded again.
        """
        checks.check_file(filepath)
        return super().save(filepath, *args, **kwargs)

    def save_own_variables(self, store):
        """As Keras calls it before it saves the model: adds what Keras would lose of it.

        That is low-rank factors, which it merges, and where the noise of dropout has come to.
        """
        super().save_own_variables(store)
        low_rank.save(self.network(), store)
        for i, seed in enumerate(seeds(self)):
            store[f"seed_{i}"] = seed.value

    def load_own_variables(self, store):
        """As Keras calls it before it loads the model; files of before have nothing to add."""
        rest = low_rank.load(self.network(), store)
        for i, seed in enumerate(seeds(self)):
            if f"seed_{i}" in rest:
                seed.assign(np.asarray(rest.pop(f"seed_{i}")))
        super().load_own_variables(rest)
