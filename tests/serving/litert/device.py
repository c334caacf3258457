"""A phone's view of an exported file, and small learners to export."""

import pathlib

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

import maml_tf
from tests.problems import compiled

layers = keras.layers
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Device:
    """Runs the signatures of a file, with inputs filled up by what must not matter."""

    def __init__(self, path):
        self.size = pathlib.Path(path).stat().st_size
        self._interpreter = Interpreter(str(path), num_threads=1)
        self.signatures = self._interpreter.get_signature_list()
        self._runners = {
            name: self._interpreter.get_signature_runner(name) for name in self.signatures
        }

    def shape(self, signature, name):
        return tuple(self._runners[signature].get_input_details()[name]["shape"])

    def ask(self, signature, **inputs):
        """Outputs by name, for inputs as they are."""
        return self._runners[signature](**inputs)

    def adapt(self, x, y, steps=None):
        return self.ask("adapt", **self._support(x, y, steps))

    def predict(self, weights, x):
        """`[Q, ...]`; what stands behind has to be zero, or NaN with the others."""
        return self._counted(self.ask("predict_with", **weights, **self._query(x)), x)

    def adapt_and_predict(self, x, y, query_x, steps=None):
        inputs = self._support(x, y, steps) | self._query(query_x)
        return self._counted(self.ask("adapt_and_predict", **inputs), query_x)

    def _support(self, x, y, steps):
        steps = {} if steps is None else {"inner_steps": np.int32(steps)}
        return {
            "support_x": self._filled("support_x", x),
            "support_y": self._filled("support_y", y),
            "support_count": np.int32(len(x)),
            **steps,
        }

    def _query(self, x):
        return {
            "query_x": self._filled("query_x", x),
            "query_count": np.int32(len(x)),
        }

    def _filled(self, name, array):
        array = np.asarray(array)
        shape = self.shape("adapt_and_predict", name)
        rubbish = np.nan if array.dtype.kind == "f" else 77
        full = np.full(shape, rubbish, array.dtype)
        full[: len(array)] = array
        return full

    @staticmethod
    def _counted(outputs, x):
        predictions = outputs["predictions"]
        beyond = predictions[len(x) :]
        assert np.isnan(predictions).all() or not beyond.any()
        return predictions[: len(x)]


def exported(learner, folder, **settings):
    path = pathlib.Path(folder) / "learner.tflite"
    return Device(maml_tf.serving.export_litert(learner, path, **settings))


def expected(learner, x, y, query_x, steps=None):
    """What the learner predicts for one task, of unpadded arrays."""
    task = {"support_x": x[None], "support_y": y[None], "query_x": query_x[None]}
    return learner.predict_path(task, steps)[0, -1].numpy()


def examples(learner, number, seed=0, classes=3):
    """`(x, y)` of some examples."""
    random = np.random.default_rng(seed)
    shape = learner.model.input_shape[1:]
    x = random.normal(size=(number, *shape)).astype(np.float32)
    if "Sparse" in type(learner.loss).__name__:
        return x, (np.arange(number) % classes).astype(np.int32)
    size = (number, *learner.model.output_shape[1:])
    return x, random.normal(size=size).astype(np.float32)


def convolutional(**settings):
    """Convolutions with batch normalisation and pooling, to three classes."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, padding="same", kernel_initializer=keras.initializers.HeNormal(1)),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(3, kernel_initializer=keras.initializers.HeNormal(2)),
        ]
    )
    return compiled(model, 0.1, loss=SPARSE, **settings)
