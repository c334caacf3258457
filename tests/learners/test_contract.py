"""What every learner must do, whatever its method. A new learner joins by a row of `rows.ROWS`."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import functional
from maml_tf.learners.base.task import Support
from tests.learners.rows import QUERIES, ROWS, TASKS, WAYS
from tests.problems import flat, relative_error


class Case:
    """One learner, a task batch and what the learner makes of it; the tests change none of it."""

    def __init__(self, row):
        self.row = row
        self.learner = self.new()
        self.inputs, self.query_y = row.batch()
        self.compute = self.computing(self.learner)

    def new(self):
        return self.row.ready(self.row.build())

    def computing(self, learner, **settings):
        """`learner.meta_gradient` for any number of tasks, compiled."""
        unknown = keras.tree.map_structure(
            lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), (self.inputs, self.query_y)
        )
        return tf.function(
            learner.meta_gradient, autograph=False, input_signature=unknown, **settings
        )

    @functools.cached_property
    def results(self):
        return numpy(self.compute(self.inputs, self.query_y))

    @functools.cached_property
    def predictions(self):
        return self.learner.predict(one(self.inputs), verbose=0)

    @functools.cached_property
    def trained(self):
        return Trained(self)

    @property
    def normalises(self):
        return bool(functional.batch_norm_layers(self.learner.model))

    def adapted_prediction(self, task):
        """Of the queries of a task by the two functions of a learner, in the mode of `adapt`."""
        learner, mode = self.learner, self.learner.mode_of_adapt()
        support = Support(self.inputs["support_x"][task], self.inputs["support_y"][task])
        with learner.with_values(*learner.initial_values()):
            adapted = learner.adapt_task(support, steps=learner.inner_steps, mode=mode)
            query_x = self.inputs["query_x"][task]
            return learner.predict_adapted(adapted, query_x, mode=mode, then=lambda y: y)

    def restored(self):
        """Puts the variables back, however a test ends."""
        variables = self.learner.variables
        values = [v.numpy() for v in variables]

        def undo():
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

        return undo


class Trained:
    """A learner that trained, one that went on from its file, and a model that it adapted."""

    def __init__(self, case):
        self.learner, self.batches = case.new(), case.row.batches(4 + case.row.steps, seed=1)
        self.calls = []
        ordinary = self.learner.task_gradient
        self.learner.task_gradient = lambda task: self.calls.append(1) or ordinary(task)
        self.initial = values_of(self.learner.trainable_variables)
        self.history = [self.fit(self.learner, 0, 1)]
        self.calls_at_first = len(self.calls)
        self.first = values_of(self.learner.variables)
        self.first_state = values_of(self.learner.non_trainable_variables)
        self.history.append(self.fit(self.learner, 1, 2))

    def fit(self, learner, begin, end):
        part = tf.nest.map_structure(lambda t: t[begin:end], self.batches)
        return learner.fit(tf.data.Dataset.from_tensor_slices(part), verbose=0).history

    def saved(self, path):
        del self.learner.task_gradient
        self.learner.save(path)
        return keras.saving.load_model(path)


def numpy(structure):
    return tf.nest.map_structure(lambda t: t if t is None else np.asarray(t), structure)


def one(batch):
    return tf.data.Dataset.from_tensors(batch)


def values_of(variables):
    return [np.asarray(v) for v in variables]


def assert_same(received, expected):
    for one_value, other in zip(received, expected, strict=True):
        np.testing.assert_array_equal(one_value, other)


def close(received, expected):
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def case(request):
    return Case(request.param)


def takes_long(function):
    """A test that runs by default on one row of each kind, and on the others as a slow one."""
    function.takes_long = True
    return function


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        long = getattr(metafunc.function, "takes_long", False)
        rows = [
            pytest.param(row, id=name, marks=[pytest.mark.slow] if long and row.alike else [])
            for name, row in ROWS.items()
        ]
        metafunc.parametrize("case", rows, indirect=True, scope="module")


def test_the_meta_gradient_has_the_shapes_of_what_it_belongs_to_and_assigns_nothing(case):
    learner = case.learner
    before = values_of(learner.variables)
    loss, gradients, state, y_pred, y_before = case.results
    assert loss.shape == ()
    for part, variables in (
        (gradients, learner.trainable_variables),
        (state, learner.non_trainable_variables),
    ):
        assert [p.shape for p in part] == [tuple(v.shape) for v in variables]
        assert [str(p.dtype) for p in part] == [v.dtype for v in variables]
    assert y_pred.shape == (TASKS, QUERIES * WAYS, WAYS)
    assert (y_before is None) == (learner.inner_steps is None)
    assert y_before is None or y_before.shape == y_pred.shape
    assert np.isfinite(flat([loss, *gradients, y_pred])).all()
    assert np.abs(flat(gradients)).max() > 1e-3
    assert_same(values_of(learner.variables), before)


def test_the_meta_gradient_is_the_slope_of_the_loss(case):
    """Along itself, by central differences; the goldens of a method do so in float64."""
    if not case.row.exact:
        pytest.skip("the meta-gradient of this method is no derivative of the loss")
    undo, variables = case.restored(), case.learner.trainable_variables
    gradients = case.results[1]
    norm = np.linalg.norm(flat(gradients))
    step, losses = 2e-2 / max(1.0, norm), []
    for sign in (1, -1):
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_add(sign * step / norm * gradient)
        losses.append(float(case.compute(case.inputs, case.query_y)[0]))
        undo()
    np.testing.assert_allclose((losses[0] - losses[1]) / (2 * step), norm, rtol=1e-2)


def test_a_batch_of_tasks_is_the_mean_of_its_tasks(case):
    if case.row.draws:
        pytest.skip("each task of a batch draws its own")
    single = [
        numpy(
            case.compute(
                *tf.nest.map_structure(lambda t, i=i: t[i : i + 1], (case.inputs, case.query_y))
            )
        )
        for i in range(TASKS)
    ]
    losses, gradients, states, y_pred, y_before = zip(*single, strict=True)
    np.testing.assert_allclose(case.results[0], np.mean(losses), rtol=1e-5)
    for received, parts in ((case.results[1], gradients), (case.results[2], states)):
        for one_mean, of_tasks in zip(received, zip(*parts, strict=True), strict=True):
            assert relative_error(one_mean + 1, np.mean(of_tasks, axis=0) + 1) < 1e-5
    close(case.results[3], np.concatenate(y_pred))
    if case.results[4] is not None:
        close(case.results[4], np.concatenate(y_before))


@takes_long
def test_the_other_way_over_tasks_gives_the_same(case):
    if not case.row.vectorizes:
        pytest.skip("its operations cannot be mapped over tasks")
    other = {"loop": "vectorized", "vectorized": "loop"}
    learner = case.new()
    learner.task_map = other.get(learner.task_map, "vectorized")
    received = numpy(case.computing(learner)(case.inputs, case.query_y))
    for one_value, expected in zip(
        tf.nest.flatten(received), tf.nest.flatten(case.results), strict=True
    ):
        if expected is not None:
            close(one_value, expected)


def test_xla_gives_the_same(case):
    if not case.row.xla:
        pytest.skip("this row leaves it to others: compiling takes long")
    received = numpy(case.computing(case.new(), jit_compile=True)(case.inputs, case.query_y))
    assert relative_error(received[1], case.results[1]) < 1e-5
    close(received[3], case.results[3])


def test_the_meta_gradient_predicts_as_predict_does(case):
    if case.row.draws or (case.normalises and case.learner.batch_norm == "moving"):
        pytest.skip("training differs from prediction by design")
    close(case.results[3], case.predictions)


def test_labels_of_queries_and_other_tasks_do_not_touch_a_prediction(case):
    others = {name: tf.concat([t[:1], t[:0:-1]], 0) for name, t in case.inputs.items()}
    changed = case.compute(others, case.query_y[:, ::-1])
    close(changed[3][0], case.results[3][0])
    if not case.row.draws:
        close(changed[3][1:][::-1], case.results[3][1:])


def test_a_path_begins_unadapted_and_ends_with_the_prediction(case):
    learner, inputs, k = case.learner, case.inputs, case.learner.inner_steps
    path = numpy(learner.predict_path(inputs, k))
    losses = numpy(learner.loss_path(inputs, case.query_y, k))
    columns = 1 if k is None else k + 1
    assert path.shape == (TASKS, columns, *case.predictions.shape[1:])
    close(path[:, -1], case.predictions)
    for j in range(columns):
        each = [
            float(case.row.loss(y, y_pred))
            for y, y_pred in zip(case.query_y, path[:, j], strict=True)
        ]
        penalty = losses[:, j] - each
        # What the model's regularizers add is no affair of the queries.
        np.testing.assert_allclose(penalty, [penalty[0]] * TASKS, rtol=0.2, atol=1e-5)
    if k is not None:
        close(path[:, 0], numpy(learner.predict_path(inputs, 0))[:, 0])
        assert np.abs(path[:, k] - path[:, 0]).max() > 1e-3


def test_only_a_learner_that_takes_steps_has_a_number_of_them(case):
    if case.learner.inner_steps is not None:
        pytest.skip("it takes steps")
    support = case.inputs["support_x"][0], case.inputs["support_y"][0]
    for method, arguments in (
        (case.learner.predict_path, (case.inputs, 1)),
        (case.learner.loss_path, (case.inputs, case.query_y, 1)),
        (case.learner.adapt, (*support, 1)),
    ):
        with pytest.raises(ValueError, match=r"Expected no number of steps: .*inner_steps=1"):
            method(*arguments)


def test_adapt_gives_the_model_that_predicts(case):
    learner, inputs = case.learner, case.inputs
    before = values_of(learner.variables)
    adapted = learner.adapt(inputs["support_x"][1], inputs["support_y"][1])
    assert isinstance(adapted, keras.Model)
    assert not isinstance(adapted, maml_tf.Learner)
    one_by_one = [adapted(x[None], training=False)[0] for x in inputs["query_x"][1]]
    close(one_by_one, case.adapted_prediction(1))
    if not case.normalises or learner.mode_of_adapt() == learner.mode(training=False):
        close(one_by_one, case.predictions[1])
    else:
        # It predicts as a learner that normalises as `adapt` does.
        config = {**learner.get_config(), "batch_norm": learner.mode_of_adapt().batch_norm}
        other = case.row.ready(type(learner).from_config(config))
        for variable, value in zip(other.variables, before, strict=False):
            variable.assign(value)
        close(one_by_one, other(inputs)[1])
    assert_same(values_of(learner.variables), before)


def test_configuration_round_trip(case):
    config = case.learner.get_config()
    again = type(case.learner).from_config(config)
    assert again.get_config() == config
    names = maml_tf.arguments.of_constructor(type(case.learner))
    assert set(names) <= set(config)
    for variable, value in zip(again.variables, case.learner.variables, strict=False):
        variable.assign(value)
    received = case.row.ready(again).meta_gradient(case.inputs, case.query_y)
    assert relative_error(list(received[1]), list(case.results[1])) < 1e-5


def test_training_applies_the_meta_gradient_by_the_outer_optimizer(case):
    trained, learner = case.trained, case.trained.learner
    batch = tf.nest.map_structure(lambda t: t[0], trained.batches)
    loss, gradients, state, y_pred, y_before = numpy(case.compute(*batch))
    pairs = zip(trained.initial, gradients, strict=True)
    expected = [value - case.row.outer_rate * gradient for value, gradient in pairs]
    by_path = dict(zip([v.path for v in learner.variables], trained.first, strict=True))
    received = [by_path[v.path] for v in learner.trainable_variables]
    for one_value, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one_value, other, rtol=1e-5, atol=1e-6)
    for one_value, other in zip(trained.first_state, state, strict=True):
        np.testing.assert_allclose(one_value, other, rtol=1e-5, atol=1e-6)

    def accuracy(y):
        return np.mean(np.argmax(y, -1) == case.row.classes(batch[1]))

    logs = {"loss": loss, "accuracy": accuracy(y_pred)}
    if y_before is not None:
        logs["accuracy_before"] = accuracy(y_before)
    for name, value in logs.items():
        np.testing.assert_allclose(trained.history[0][name], [value], rtol=1e-5)
    extra = set() if learner.inner_steps is None else {"loss_before", "accuracy_before"}
    assert set(trained.history[0]) == {"loss", "accuracy"} | extra


@takes_long
def test_training_goes_on_from_a_file_bit_for_bit_and_learns(case, tmp_path):
    trained = case.trained
    learner = trained.learner
    again = trained.saved(tmp_path / "learner.keras")
    assert type(again) is type(learner)
    assert settings_of(again) == settings_of(learner)
    assert again.get_compile_config() == learner.get_compile_config()
    task = tf.nest.map_structure(lambda t: t[1][0], trained.batches)[0]
    adapted = again.adapt(task["support_x"], task["support_y"])
    answer = adapted(task["query_x"], training=False)

    for one_learner in (learner, again):
        trained.fit(one_learner, 2, 4)
    assert_same(values_of(again.variables), values_of(learner.variables))
    assert_same(values_of(again.optimizer.variables), values_of(learner.optimizer.variables))
    assert_same([adapted(task["query_x"], training=False)], [answer])
    check_adapted(case.row, adapted, task, tmp_path)

    if case.row.alike:
        return  # its gradient and its step are right, and others of its kind learn
    trained.fit(again, 4, 4 + case.row.steps)
    inputs, query_y = case.row.batches(20, seed=2)
    y_pred = again.predict(tf.data.Dataset.from_tensor_slices(inputs), verbose=0)
    right = np.argmax(y_pred, -1) == np.concatenate(case.row.classes(query_y))
    assert np.mean(right) > 0.8  # chance is 0.5, with a deviation of 0.026


def settings_of(learner):
    """Its configuration but for that of the network, to which Keras adds how it was built."""
    return {name: value for name, value in learner.get_config().items() if name != "model"}


def check_adapted(row, adapted, task, folder):
    """That it is saved and loaded, and learns on from its own task."""
    expected = adapted(task["query_x"], training=False)
    adapted.save(folder / "adapted.keras")
    loaded = keras.saving.load_model(folder / "adapted.keras")
    assert_same([loaded(task["query_x"], training=False)], [expected])
    loaded.compile(keras.optimizers.SGD(0.1), loss=row.loss)
    x, y = task["support_x"], task["support_y"]
    losses = loaded.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert_same([adapted(task["query_x"], training=False)], [expected])


def test_a_step_is_traced_once_for_batches_of_a_shape(case):
    assert case.trained.calls_at_first > 0
    assert len(case.trained.calls) == case.trained.calls_at_first


def test_another_run_gives_the_same_bits(case):
    again = numpy(case.compute(case.inputs, case.query_y))
    assert_same(tf.nest.flatten(again), tf.nest.flatten(case.results))


@takes_long
def test_it_is_served_as_it_predicts(case, tmp_path):
    path = maml_tf.serving.export(case.learner, tmp_path / "served", warm_up=False)
    exported = tf.saved_model.load(str(path))
    signatures = exported.signatures
    support = {key: case.inputs[key][1] for key in ("support_x", "support_y")}
    steps = case.learner.inner_steps
    if steps is not None:
        support["inner_steps"] = tf.constant(steps)
    takes = signatures["adapt_and_predict"].structured_input_signature[1]
    assert ("inner_steps" in takes) == (steps is not None)
    query_x = case.inputs["query_x"][1]
    answer = signatures["adapt_and_predict"](**support, query_x=query_x)["predictions"]
    close(answer, case.predictions[1])
    adapted = signatures["adapt"](**support)
    later = signatures["predict_with"](**adapted, query_x=query_x)["predictions"]
    close(later, answer)


@takes_long
def test_keras_exports_it_as_it_predicts(case, tmp_path):
    case.learner.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    close(exported.serve(case.inputs), case.predictions)


def test_bad_task_batches_are_refused_in_the_same_words(case):
    learner, (inputs, query_y) = case.learner, (case.inputs, case.query_y)
    without = {name: t for name, t in inputs.items() if name != "support_y"}
    cases = [
        ({**inputs, "suport_weight": inputs["query_x"]}, r"and no others.*\['suport_weight'\]"),
        (without, r"a dict with the keys 'support_x'.*Received: \['query_x', 'support_x'\]"),
        (
            {**inputs, "support_x": inputs["support_x"][:, :0]},
            "at least one support example. Received: 'support_x'",
        ),
        ({**inputs, "support_y": inputs["support_y"][:2]}, r"one entry for each task .*sizes"),
    ]
    if not case.row.one_hot:
        labels = inputs["support_y"] + tf.constant([[0], [0], [1]])
        cases.append(({**inputs, "support_y": labels}, r"Expected labels in \[0, "))
    for bad, match in cases:
        with pytest.raises(ValueError, match=match):
            learner.fit(one((bad, query_y)), verbose=0)
        with pytest.raises(ValueError, match=match):
            learner.evaluate(one((bad, query_y)), verbose=0)


def test_bad_support_sets_are_refused_in_the_same_words(case):
    x, y = (np.asarray(case.inputs[key][0]) for key in ("support_x", "support_y"))
    cases = [
        (np.full_like(x, np.nan), y, "Expected 'support_x' to be finite"),
        (x[:0], y[:0], "at least one support example"),
        (x[:2], y, "one entry for each support example"),
    ]
    if not case.row.one_hot:
        cases.append((x, y + 1, r"Expected labels in \[0, "))
        cases.append((x, y - 1, r"Expected labels in \[0, "))
    for bad_x, bad_y, match in cases:
        with pytest.raises(ValueError, match=match):
            case.learner.adapt(bad_x, bad_y)
