"""A learner is a `keras.Model`: what Keras promises holds."""

import csv
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from tests.problems import compiled, conv_model, dense_model, layers, task_batch

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def labelled(tasks=3, seed=0, **sizes):
    """A task batch of two classes: is the first feature positive?"""
    inputs, _ = task_batch(tasks=tasks, seed=seed, **sizes)
    label = lambda x: tf.cast(x[..., 0] > 0, tf.int32)  # noqa: E731
    return {**inputs, "support_y": label(inputs["support_x"])}, label(inputs["query_x"])


def classifier(metrics=("accuracy",), **settings):
    learner = maml_tf.MAML(dense_model(), 0.5, task_map="loop")
    settings = {"optimizer": keras.optimizers.Adam(0.02), "loss": SPARSE, **settings}
    learner.compile(metrics=list(metrics), **settings)
    return learner


def batches(number, tasks=3):
    """A finite data set of `number` different task batches."""
    return tf.data.Dataset.from_tensor_slices(labelled(tasks=number * tasks)).batch(
        tasks, drop_remainder=True
    )


def accuracy(y, logits):
    return np.mean(np.argmax(logits, -1) == y)


def cross_entropy(y, logits):
    return float(tf.reduce_mean(SPARSE(y, logits)))


def fraction_right(y, y_pred):
    return tf.cast(tf.argmax(y_pred, -1, tf.int32) == tf.cast(y, tf.int32), tf.float32)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("accuracy", "accuracy"),
        (keras.metrics.SparseCategoricalAccuracy(name="right"), "right"),
        (fraction_right, "fraction_right"),
    ],
    ids=["string", "object", "function"],
)
def test_metrics_are_reported_after_and_before_adaptation(metric, name):
    learner = classifier([metric])
    train, validation = batches(2), batches(1)
    history = learner.fit(train, validation_data=validation, verbose=0).history
    names = {"loss", name, "loss_before", f"{name}_before"}
    assert set(history) == names | {f"val_{n}" for n in names}
    results = learner.evaluate(validation, verbose=0, return_dict=True)
    ((inputs, query_y),) = validation
    after = learner.predict(inputs, verbose=0)
    before = learner.model(tf.reshape(inputs["query_x"], [-1, 3])).numpy().reshape(after.shape)
    assert set(results) == names
    for ending, logits in (("", after), ("_before", before)):
        expected = {
            f"loss{ending}": cross_entropy(query_y, logits),
            f"{name}{ending}": accuracy(query_y, logits),
        }
        for key, value in expected.items():
            np.testing.assert_allclose(results[key], value, rtol=1e-5)
            np.testing.assert_allclose(history[f"val_{key}"], [value], rtol=1e-5)


def test_results_weigh_tasks_equally_whatever_the_size_of_their_batch():
    learner = classifier()
    inputs, query_y = labelled(tasks=5)
    whole = learner.evaluate(inputs, query_y, batch_size=5, verbose=0, return_dict=True)
    parts = learner.evaluate(inputs, query_y, batch_size=2, verbose=0, return_dict=True)
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, err_msg=name)


def test_arrays_go_in_as_data_sets_do():
    inputs, query_y = keras.tree.map_structure(np.asarray, labelled(tasks=6))
    dataset = tf.data.Dataset.from_tensor_slices((inputs, query_y)).batch(2)
    by_array, by_dataset = classifier(), classifier()
    one = by_array.fit(inputs, query_y, batch_size=2, shuffle=False, epochs=2, verbose=0)
    other = by_dataset.fit(dataset, epochs=2, verbose=0)
    # Two traces again, of batches of known and of unknown size.
    assert one.history == {k: pytest.approx(v, rel=1e-5) for k, v in other.history.items()}
    np.testing.assert_array_equal(
        by_array.predict(inputs, batch_size=4, verbose=0), by_dataset.predict(dataset, verbose=0)
    )


def test_one_batch_at_a_time():
    learner, fitted = classifier(), classifier()
    inputs, query_y = labelled()
    logs = learner.train_on_batch(inputs, query_y, return_dict=True)
    history = fitted.fit(inputs, query_y, verbose=0).history
    assert logs == pytest.approx({name: values[0] for name, values in history.items()}, rel=1e-6)
    results = learner.test_on_batch(inputs, query_y, return_dict=True)
    # Two traces, of known and of unknown batch sizes, add up in another order: float32 rounding.
    evaluated = fitted.evaluate(inputs, query_y, verbose=0, return_dict=True)
    assert results == pytest.approx(evaluated, rel=1e-5)
    y_pred = learner.predict_on_batch(inputs)
    np.testing.assert_allclose(results["loss"], cross_entropy(query_y, y_pred), rtol=1e-5)


def test_running_eagerly_gives_the_same_numbers():
    eager, traced = (classifier(run_eagerly=value) for value in (True, False))
    one, other = (learner.fit(batches(2), verbose=0).history for learner in (eager, traced))
    for name, values in other.items():
        np.testing.assert_allclose(one[name], values, rtol=1e-5)
    for received, expected in zip(eager.get_weights(), traced.get_weights(), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)


def test_sample_weights_weigh_the_queries():
    learner = classifier([], weighted_metrics=["accuracy"], optimizer=keras.optimizers.SGD(0.0))
    inputs, query_y = labelled(tasks=4)
    weight = np.random.default_rng(0).uniform(0, 2, query_y.shape).astype("float32")
    losses = np.asarray(
        tf.nn.sparse_softmax_cross_entropy_with_logits(query_y, learner.predict(inputs, verbose=0))
    )
    expected = np.mean(weight * losses)
    dataset = tf.data.Dataset.from_tensors((inputs, query_y, weight))
    for results in (
        learner.evaluate(inputs, query_y, sample_weight=weight, verbose=0, return_dict=True),
        learner.evaluate(dataset, verbose=0, return_dict=True),
        {k: v[0] for k, v in learner.fit(dataset, verbose=0).history.items()},
    ):
        np.testing.assert_allclose(results["loss"], expected, rtol=1e-5)
        assert {"accuracy", "accuracy_before", "loss_before"} <= set(results)


def two_heads(structure):
    x = keras.Input((3,))
    hidden = layers.Dense(4, "tanh", kernel_initializer=keras.initializers.GlorotNormal(1))(x)
    a = layers.Dense(1, name="a", kernel_initializer=keras.initializers.GlorotNormal(2))(hidden)
    b = layers.Dense(2, name="b", kernel_initializer=keras.initializers.GlorotNormal(3))(hidden)
    return keras.Model(x, {"a": a, "b": b} if structure == "dict" else [a, b])


@pytest.mark.parametrize("structure", ["dict", "list"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_models_of_several_outputs_take_a_dict_of_losses(structure, method):
    learner = maml_tf.MAML(two_heads(structure), 0.1)
    learner.compile(
        optimizer=keras.optimizers.SGD(0.0),
        loss={"a": "mse", "b": "mae"},
        loss_weights={"a": 1.0, "b": 0.5},
        metrics={"b": ["mse"]},
    )
    inputs, query_y = task_batch(y={"a": (1,), "b": (2,)})
    y_pred = learner.predict(inputs, verbose=0)
    if structure == "list":
        y_pred = dict(zip("ab", y_pred, strict=True))
    results = {
        "fit": lambda: learner.fit(inputs, query_y, verbose=0).history,
        "evaluate": lambda: learner.evaluate(inputs, query_y, verbose=0, return_dict=True),
    }[method]()
    difference = {name: query_y[name] - y_pred[name] for name in "ab"}
    expected = {
        "a_loss": np.mean(difference["a"] ** 2),
        "b_loss": np.mean(np.abs(difference["b"])),
        "b_mse": np.mean(difference["b"] ** 2),
    }
    expected["loss"] = expected["a_loss"] + 0.5 * expected["b_loss"]
    assert set(results) == {*expected, *(f"{name}_before" for name in expected)}
    for name, value in expected.items():
        np.testing.assert_allclose(np.squeeze(results[name]), value, rtol=1e-5, err_msg=name)


# Saving.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"inner_loss": "mae", "loss": "mse", "steps_per_execution": 2, "jit_compile": True},
    ],
    ids=["loss-object", "inner-loss"],
)
def test_training_goes_on_bit_by_bit_after_loading(settings, tmp_path):
    learner = maml_tf.MAML(conv_model(), 0.1, batch_norm="moving")
    learner.compile(
        **{
            "optimizer": keras.optimizers.Adam(0.01),
            "loss": keras.losses.Huber(),
            "metrics": ["mae"],
            **settings,
        }
    )
    inputs, query_y = task_batch((6, 6, 1), tasks=4)
    learner.fit(inputs, query_y, batch_size=2, shuffle=False, verbose=0)
    learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    assert again.optimizer.iterations.numpy() == 2
    one, other = (
        m.fit(inputs, query_y, batch_size=2, shuffle=False, epochs=2, verbose=0).history
        for m in (learner, again)
    )
    assert one == other
    for received, expected in zip(again.get_weights(), learner.get_weights(), strict=True):
        np.testing.assert_array_equal(received, expected)


def test_an_uncompiled_learner_can_be_saved_and_compiled_later(tmp_path):
    maml_tf.MAML(dense_model(), 0.5, task_map="loop").save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    assert not again.compiled
    again.compile(loss=SPARSE)
    inputs, _ = labelled()
    np.testing.assert_array_equal(
        again.predict(inputs, verbose=0), classifier().predict(inputs, verbose=0)
    )


def test_adapted_models_are_ordinary_and_independent(tmp_path):
    learner = classifier()
    inputs, _ = labelled()
    x, y = inputs["support_x"][0].numpy(), inputs["support_y"][0].numpy()
    adapted = learner.adapt(x, y, inner_steps=3)
    assert type(adapted) is keras.Sequential
    initial, predicted = learner.get_weights(), adapted.predict(x, verbose=0)
    adapted.save(tmp_path / "adapted.keras")
    loaded = keras.saving.load_model(tmp_path / "adapted.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), predicted)
    loss, right = adapted.evaluate(x, y, verbose=0)
    np.testing.assert_allclose([loss, right], [cross_entropy(y, predicted), accuracy(y, predicted)])
    adapted.fit(x, y, verbose=0)
    assert not np.allclose(adapted.predict(x, verbose=0), predicted)
    for one, other in zip(learner.get_weights(), initial, strict=True):
        np.testing.assert_array_equal(one, other)


def test_adapt_takes_arrays_and_tensors_and_any_number_of_steps():
    learner = classifier()
    inputs, _ = labelled()
    x, y = inputs["support_x"][0], inputs["support_y"][0]
    by_tensor = learner.adapt(x, y).get_weights()
    by_array = learner.adapt(x.numpy().astype("float64"), y.numpy()).get_weights()
    for one, other in zip(by_tensor, by_array, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for one, other in zip(
        learner.adapt(x, y, inner_steps=0).get_weights(), learner.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


class Branches(keras.Model):
    """Two inputs, a size of its own in its configuration, and no `training` argument."""

    def __init__(self, units, **settings):
        super().__init__(**settings)
        self.units = units
        self.left, self.right = layers.Dense(units, "tanh"), layers.Dense(units)
        self.last = layers.Dense(2)

    def call(self, inputs):
        return self.last(self.left(inputs["left"]) * self.right(inputs["right"]))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def functional_branches():
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    y = layers.Dense(2)(layers.Dense(4, "tanh")(left) * layers.Dense(4)(right))
    return keras.Model({"left": left, "right": right}, y)


def subclassed_branches():
    model = Branches(4)
    model({"left": np.zeros((1, 3)), "right": np.zeros((1, 2))})
    return model


@pytest.mark.parametrize("build", [functional_branches, subclassed_branches])
def test_several_inputs_and_subclassed_models(build):
    learner = compiled(build(), 0.1)
    inputs, query_y = task_batch(x={"left": (3,), "right": (2,)})
    learner.fit(inputs, query_y, verbose=0)
    expected = learner.predict(inputs, verbose=0)
    x, y, q = (
        keras.tree.map_structure(lambda t: t[1], inputs[key])
        for key in ("support_x", "support_y", "query_x")
    )
    adapted = learner.adapt(x, y)
    assert type(adapted) is type(learner.model)
    np.testing.assert_allclose(adapted.predict(q, verbose=0), expected[1], rtol=1e-5, atol=1e-6)


# Callbacks.


def test_callbacks_see_learning_rates_logs_and_checkpoints(tmp_path):
    learner = classifier(optimizer=keras.optimizers.SGD(0.1))
    history = learner.fit(
        batches(2),
        validation_data=batches(1),
        epochs=3,
        verbose=0,
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / 2**epoch),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
            keras.callbacks.TerminateOnNaN(),
        ],
    ).history
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.05, 0.025])
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    for name, values in history.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-5)
    last = keras.saving.load_model(tmp_path / "3.keras")
    inputs, _ = labelled()
    np.testing.assert_array_equal(
        last.predict(inputs, verbose=0), learner.predict(inputs, verbose=0)
    )


def test_early_stopping_brings_the_best_weights_back():
    learner, seen = classifier(), []
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append((logs["val_loss"], learner.get_weights()))
        ),
        keras.callbacks.EarlyStopping(
            "val_loss", mode="max", patience=1, restore_best_weights=True
        ),
    ]
    learner.fit(batches(1), validation_data=batches(1), epochs=20, verbose=0, callbacks=callbacks)
    assert len(seen) < 20
    best = max(seen, key=lambda pair: pair[0])[1]
    for one, other in zip(learner.get_weights(), best, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_interrupted_training_is_resumed(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def fit(learner, *callbacks):
        return learner.fit(batches(2), epochs=3, verbose=0, callbacks=list(callbacks))

    whole = classifier()
    fit(whole)
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), keras.callbacks.BackupAndRestore(tmp_path / "backup"), Interrupt())
    resumed = classifier()
    history = fit(resumed, keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    assert history.epoch == [1, 2]
    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# Several steps in one call.


class Counted(maml_tf.MAML):
    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


XLA = {"jit_compile": True}
SEVERAL = {"steps_per_execution": 10}
EXECUTIONS = [
    pytest.param({}, "known", id="one-step"),
    pytest.param(XLA, "known", id="one-step-xla"),
    *(
        pytest.param(settings, size, id=f"ten-steps-{size}{name}")
        for settings, name in ((SEVERAL, ""), ({**SEVERAL, **XLA}, "-xla"))
        for size in ("known", "unknown", "endless")
    ),
]


def regression_batches():
    """25 task batches."""
    return tf.data.Dataset.from_tensor_slices(task_batch(tasks=50)).batch(2, drop_remainder=True)


def counted(**settings):
    learner = Counted(dense_model(), 0.1)
    learner.compile(optimizer=keras.optimizers.Adam(0.02), loss="mse", metrics=["mae"], **settings)
    return learner


@functools.cache
def step_by_step():
    """Logs of two epochs, one step a call."""
    learner = counted()
    return learner.fit(regression_batches(), epochs=2, verbose=0).history


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("settings", "size"), EXECUTIONS)
def test_a_tail_of_fewer_steps_and_no_second_trace(settings, size):
    learner = counted(**settings)
    dataset = {
        "known": lambda: regression_batches(),
        "unknown": lambda: regression_batches().filter(lambda *batch: True),
        "endless": lambda: regression_batches().repeat(),
    }[size]()
    steps_per_epoch = 25 if size == "endless" else None
    history = learner.fit(dataset, epochs=2, steps_per_epoch=steps_per_epoch, verbose=0).history
    traces = learner.traces
    learner.fit(dataset.take(10), verbose=0)
    assert learner.traces == traces <= 2
    if size == "endless":  # as in Keras: whole executions while there are data
        assert learner.optimizer.iterations.numpy() == 2 * 30 + 10
        return
    assert learner.optimizer.iterations.numpy() == 2 * 25 + 10
    for name, values in step_by_step().items():
        np.testing.assert_allclose(history[name], values, rtol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("settings", [SEVERAL, {**SEVERAL, **XLA}], ids=str)
def test_evaluation_of_several_steps_a_call_has_a_tail_too(settings):
    one, several = counted(), counted(**settings)
    expected = one.evaluate(regression_batches(), verbose=0, return_dict=True)
    received = several.evaluate(regression_batches(), verbose=0, return_dict=True)
    assert set(received) == {"loss", "mae", "loss_before", "mae_before"}
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=1e-9)


def test_clearing_the_session_leaves_a_learner_working():
    learner = classifier()
    keras.utils.clear_session()
    learner.fit(batches(1), verbose=0)
    assert learner.predict(labelled()[0], verbose=0).shape == (3, 3, 2)


def test_the_summary_counts_the_parameters(capsys):
    classifier().summary(line_length=80)
    text = capsys.readouterr().out
    assert "Total params: 32 " in text
    assert "sequential" in text.lower()
