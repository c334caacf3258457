"""What a `.keras` file holds of the network within a learner, beside what Keras writes."""

import numpy as np

from maml_tf import low_rank
from maml_tf.copying import seeds
from maml_tf.learners.base import checks


class SavesNetwork:
    """Saving of a `keras.Model` around a network; to be inherited before `keras.Model`."""

    def network(self):
        """The wrapped `keras.Model`."""
        raise NotImplementedError

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
