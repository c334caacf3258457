"""The scripts for images: glyphs with no data, folders of one's own, mini-ImageNet's settings."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image

import maml_tf
from tests.tasks import made_up
from train import classification, common, image_learners, images, mini_imagenet, omniglot, runs


def parse(monkeypatch, module, *options):
    monkeypatch.setattr("sys.argv", ["script", *map(str, options)])
    return module.resolve(common.parse(module.Settings, "script", {}, classification.RECIPES))


def test_glyphs_need_no_data(run_script, tmp_path):
    """And inductive, one may ask for; TensorBoard is written; the learner is exported."""
    options = ("--quick", "--inductive", "--tensorboard", "--output", tmp_path / "run")
    done = run_script("images", *options)
    assert done.returncode == 0, done.stderr
    assert "glyphs, 5-way 1-shot, maml: test accuracy after 3 steps" in done.stdout
    assert "To compare: chance 20.0 %, nearest neighbour on pixels" in done.stdout
    assert "shuffle" not in done.stderr
    content = json.loads((tmp_path / "run" / "results.json").read_text())
    assert content["settings"]["transductive"] is False
    assert content["chance"] == 0.2
    assert content["nearest_neighbour"]["num_tasks"] == content["test"]["num_tasks"] == 8
    for name in ("learning_curve", "accuracy_against_steps", "task", "confusion"):
        assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "run" / "tensorboard").rglob("events*"))
    assert (tmp_path / "run" / "saved_model" / "1" / "saved_model.pb").exists()
    learner = keras.saving.load_model(tmp_path / "run" / "best.keras")
    assert learner.batch_norm == "support"


@pytest.fixture
def folder(tmp_path):
    """Twelve classes of one colour each, six pictures of each."""
    random = np.random.default_rng(0)
    for name in range(12):
        (tmp_path / "pictures" / f"c{name}").mkdir(parents=True)
        colour = random.integers(0, 256, 3)
        for i in range(6):
            pixels = np.clip(colour + random.integers(-20, 21, [40, 50, 3]), 0, 255)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "pictures" / f"c{name}" / f"{i}.jpg")
    return tmp_path / "pictures"


def test_a_folder_of_ones_own(run_script, folder, tmp_path):
    options = ("--quick", "--data", folder, "--ways", 2, "--queries", 3, "--image-size", 32)
    options += ("--network", "conv4", "--inner-steps", 1, "--steps-to-evaluate", 2)
    done = run_script("images", *options, "--output", tmp_path / "run", tiny=True)
    assert done.returncode == 0, done.stderr
    assert "pictures, 2-way 1-shot, maml: test accuracy" in done.stdout
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["step_size"], config["meta_batch"], config["inner_steps"]) == (0.02, 2, 1)
    learner = keras.saving.load_model(tmp_path / "run" / "checkpoint.keras")
    assert learner.model.input_shape == (None, 32, 32, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "/no/such/folder"), "/no/such/folder"),
        (("--data", "cifar_fs", "--data-dir", "EMPTY"), "download=True"),
        (("--data", "mini_imagenet_of_mine"), "mini_imagenet_of_mine"),
    ],
)
def test_data_that_are_not_there_are_told_in_a_line(run_script, tmp_path, options, message):
    options = [str(tmp_path) if option == "EMPTY" else option for option in options]
    failed = run_script("images", "--quick", *options, "--output", tmp_path / "run")
    assert failed.returncode == 2
    assert message in failed.stderr
    assert "--data glyphs" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "run").exists()


def test_settings_follow_the_data(monkeypatch):
    drawn = parse(monkeypatch, images)
    assert (drawn.network, drawn.meta_batch, drawn.queries, drawn.image_size) == (
        "conv4",
        32,
        1,
        None,
    )
    own = parse(monkeypatch, images, "--data", "pictures", "--ways", 3)
    assert (own.network, own.meta_batch, own.queries, own.image_size) == (
        "conv4_max_pool",
        4,
        15,
        84,
    )
    assert own.step_size == pytest.approx(0.03)


def test_mini_imagenet_is_the_papers(monkeypatch):
    one = parse(monkeypatch, mini_imagenet)
    assert (one.inner_steps, one.steps_to_evaluate, one.step_size) == (5, 10, 0.05)
    assert (one.meta_batch, one.queries, one.test_queries, one.clip_value) == (4, 15, 1, 10.0)
    five = parse(monkeypatch, mini_imagenet, "--shots", 5)
    assert (five.meta_batch, five.queries, five.test_queries) == (2, 15, 5)
    learner = image_learners.make_learner(one, (84, 84, 3))
    assert sum(v.numpy().size for v in learner.trainable_variables) == 32_773
    assert learner.optimizer.clipvalue == 10.0


@pytest.mark.parametrize("data", ["glyphs", "cifar_fs", "from_tfds", "omniglot", "mini_imagenet"])
def test_ways_and_shots_of_the_test_may_be_others(data, monkeypatch):
    getattr(made_up, data)(monkeypatch)
    script = {"omniglot": omniglot, "mini_imagenet": mini_imagenet}.get(data, images)
    of_images = ("--data", data) if script is images else ()
    options = ("--ways", 7, "--shots", 2, "--queries", 1, "--meta-batch", 3)
    options += ("--test-ways", 4, "--test-shots", 3, "--test-queries", 5)
    settings = parse(monkeypatch, script, *of_images, *options)
    for dataset, sizes in zip(
        script.make_tasks(settings), [(14, 7), (12, 20), (12, 20)], strict=True
    ):
        inputs, query_y = dataset.element_spec
        assert (inputs["support_y"].shape[1], query_y.shape[1]) == sizes
    assert classification.tested(settings) == (4, 3)
    assert classification.tested(dataclasses.replace(settings, test_ways=None)) == (7, 3)


def test_smaller_images_of_mini_imagenet_keep_the_names_of_their_classes(monkeypatch):
    monkeypatch.setattr(mini_imagenet, "SIZE", 2)  # as the made-up images are
    made_up.mini_imagenet(monkeypatch)
    sets = {
        size: mini_imagenet.make_tasks(parse(monkeypatch, mini_imagenet, "--image-size", size))
        for size in (1, 2)
    }
    for whole, small in zip(sets[2], sets[1], strict=True):
        assert small.element_spec[0]["query_x"].shape[2:] == (1, 1, 1)
        (inputs, query_y), (made, same_y) = next(iter(whole)), next(iter(small))
        np.testing.assert_array_equal(query_y, same_y)
        mean = inputs["support_x"].numpy().mean(axis=(2, 3), keepdims=True)
        np.testing.assert_allclose(made["support_x"], mean, rtol=1e-6)
    names = [tasks.class_names("test").tolist() for tasks in sets.values()]
    assert names[0] == names[1]


def test_mini_imagenet_says_how_to_get_it(run_script, tmp_path):
    failed = run_script("mini_imagenet", "--data-dir", tmp_path, "--output", tmp_path / "run")
    assert failed.returncode == 2
    assert "--source FOLDER_OR_TAR" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_recipe_changes_defaults_and_options_beside_it_hold(monkeypatch):
    modern = parse(monkeypatch, images, "--recipe", "modern", "--meta-batch", 3)
    changes = classification.RECIPES["modern"]
    assert modern.meta_batch == 3
    assert (modern.queries, modern.schedule) == (changes["queries"], "cosine")
    optimizer = image_learners.make_learner(modern, (28, 28, 1)).optimizer
    assert optimizer.global_clipnorm == changes["clip_norm"]
    rate = optimizer._learning_rate
    assert float(rate(modern.iterations)) == pytest.approx(0.0, abs=1e-9)
    assert float(rate(0)) == pytest.approx(modern.meta_learning_rate)


@pytest.mark.parametrize(
    ("script", "options", "inputs", "kernels"),
    [
        (omniglot, (), (28, 28, 1), [64, 64, 64, 64]),
        (omniglot, ("--filters", 8), (28, 28, 1), [8, 8, 8, 8]),
        (mini_imagenet, ("--filters", 6), (84, 84, 3), [6, 6, 6, 6]),
        (images, ("--method", "prototypical", "--filters", 3), (28, 28, 1), [3, 3, 3, 3]),
    ],
    ids=["paper", "conv4", "conv4_max_pool", "embedding"],
)
def test_filters_are_those_of_each_convolution(monkeypatch, script, options, inputs, kernels):
    learner = image_learners.make_learner(parse(monkeypatch, script, *options), inputs)
    found = [v.shape[-1] for v in learner.model.trainable_variables if len(v.shape) == 4]
    assert found == kernels


def test_weights_are_averaged_only_where_that_is_asked_for(monkeypatch):
    def optimizer(*options):
        return image_learners.make_learner(
            parse(monkeypatch, images, *options), (28, 28, 1)
        ).optimizer

    assert not optimizer().use_ema
    averaging = optimizer("--ema-momentum", 0.9)
    assert (averaging.use_ema, averaging.ema_momentum) == (True, 0.9)


@pytest.mark.parametrize(
    ("script", "options", "layer"),
    [
        (images, (), "normal"),
        (images, ("--data", "cifar_fs"), "zero"),
        (images, ("--data=fc100", "--last-layer", "normal"), "normal"),
        (mini_imagenet, (), "zero"),
    ],
    ids=["glyphs", "cifar_fs", "given", "mini_imagenet"],
)
def test_photographs_have_a_recipe_of_their_own(monkeypatch, script, options, layer):
    seen = []
    monkeypatch.setattr(classification, "run", lambda settings, *_, **__: seen.append(settings))
    for recipe in ("paper", "modern"):
        monkeypatch.setattr("sys.argv", ["script", "--recipe", recipe, *options])
        script.main()
    paper, modern = seen
    assert (paper.last_layer, paper.schedule) == ("normal", "constant")
    assert (modern.last_layer, modern.schedule) == (layer, "cosine")


@pytest.mark.parametrize("script", [images, mini_imagenet])
def test_a_recipe_leaves_out_what_a_method_has_no_use_for(monkeypatch, script):
    seen = []
    monkeypatch.setattr(classification, "run", lambda settings, *_, **__: seen.append(settings))
    data = ["--data", "cifar_fs"] if script is images else []
    method = ["--method", "prototypical", "--recipe", "modern"]
    monkeypatch.setattr("sys.argv", ["script", *method, *data])
    script.main()
    assert (seen[0].last_layer, seen[0].inner_optimizer) == ("normal", "sgd")
    assert (seen[0].queries, seen[0].schedule) == (15, "cosine")


def test_a_cosine_schedule_cannot_be_made_longer(tmp_path):
    for schedule in ("constant", "cosine"):
        output = str(tmp_path / schedule)
        settings = images.resolve(images.Settings(schedule=schedule, output=output))
        free = classification.may_change(settings, images.FREE)
        runs.open_run(settings, free)
        longer = dataclasses.replace(settings, iterations=99_000)
        if schedule == "constant":
            runs.open_run(longer, free)
            continue
        with pytest.raises(SystemExit, match="iterations: 60000 there, 99000 here"):
            runs.open_run(longer, free)


def test_starting_from_a_learner_of_other_ways(tmp_path, capsys):
    settings = images.resolve(images.Settings())
    five = image_learners.make_learner(settings, (28, 28, 1))
    five.model.trainable_variables[0].assign_add(np.ones([3, 3, 1, 64]))
    five.save(tmp_path / "five.keras")
    settings = dataclasses.replace(settings, ways=7, start_from=str(tmp_path / "five.keras"))
    seven = image_learners.make_learner(settings, (28, 28, 1)).model
    assert "20 of 22 weights" in capsys.readouterr().out
    for mine, theirs in zip(seven.variables[:-2], five.model.variables[:-2], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    fresh = maml_tf.models.conv4(7)
    for mine, new in zip(seven.variables[-2:], fresh.variables[-2:], strict=True):
        np.testing.assert_array_equal(mine, new)
    with pytest.raises(SystemExit, match=r"network of 22 weights.*--network"):
        image_learners.start_from(maml_tf.models.resnet12(5), tmp_path / "five.keras")


def test_xla_compiles_on_a_gpu_what_has_a_number_of_classes(monkeypatch):
    """Class means take any number: they were refused there, for an option that is none."""
    monkeypatch.setattr(common, "on_gpu", lambda: True)
    compiled = {}
    for method, network in (("maml", "dense5"), ("prototypical", "embedding")):
        settings = images.resolve(images.Settings(method=method, network=network))
        compiled[method] = image_learners.make_learner(settings, (28, 28, 1)).jit_compile
    assert compiled == {"maml": True, "prototypical": False}


def test_a_last_layer_of_zero_prefers_no_class_and_the_others_stay(tmp_path):
    settings = images.resolve(images.Settings(last_layer="zero"))
    zero = image_learners.make_learner(settings, (28, 28, 1)).model
    x = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(zero(x), np.zeros([3, 5]))
    paper = image_learners.make_learner(images.resolve(images.Settings()), (28, 28, 1)).model
    for mine, papers in zip(zero.variables[:-2], paper.variables[:-2], strict=True):
        np.testing.assert_array_equal(mine, papers)
    # A trained last layer of as many classes is taken over all the same.
    paper.save(tmp_path / "paper.keras")
    settings = dataclasses.replace(settings, start_from=str(tmp_path / "paper.keras"))
    after = image_learners.make_learner(settings, (28, 28, 1)).model
    np.testing.assert_array_equal(after.get_weights()[-2], paper.get_weights()[-2])


@pytest.mark.parametrize(("inner_optimizer", "shape"), [("learned", (3,)), ("meta-sgd", (5,))])
def test_inner_rates_that_the_outer_loop_trains(inner_optimizer, shape):
    """The last of them are those of the last layer's bias: one a step, or one a number."""
    given = {"inner_optimizer": inner_optimizer, "inner_steps": 3, "step_size": 0.25}
    settings = images.resolve(images.Settings(**given))
    learner = image_learners.make_learner(settings, (28, 28, 1))
    rates = learner.inner_optimizer.rates
    assert len(rates) == len(learner.model.trainable_variables)
    np.testing.assert_array_equal(rates[-1], np.full(shape, 0.25))
    assert {id(rate) for rate in rates} <= {id(v) for v in learner.trainable_variables}


def test_learned_rates_go_on_where_another_learner_left_them(tmp_path, capsys):
    given = {"inner_optimizer": "learned", "inner_steps": 2, "step_size": 0.25}
    first = image_learners.make_learner(images.resolve(images.Settings(**given)), (28, 28, 1))
    first.inner_optimizer.rates[3].assign([0.5, -1.0])
    first.save(tmp_path / "first.keras")
    given["start_from"] = str(tmp_path / "first.keras")
    second = image_learners.make_learner(images.resolve(images.Settings(**given)), (28, 28, 1))
    np.testing.assert_array_equal(second.inner_optimizer.rates[3], [0.5, -1.0])
    assert "inner rates" in capsys.readouterr().out
    given["inner_steps"] = 3  # others than were learned: they begin anew
    third = image_learners.make_learner(images.resolve(images.Settings(**given)), (28, 28, 1))
    np.testing.assert_array_equal(third.inner_optimizer.rates[3], np.full(3, 0.25))


class _MadeUp(common._Seconds):
    """Puts validation accuracies of our own in the place of the real ones."""

    def __init__(self, scores):
        super().__init__()
        self._scores = scores

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        logs["val_accuracy"] = self._scores[epoch]


def small_learner():
    inputs = keras.Input([28, 28, 1])
    outputs = keras.layers.Dense(5)(keras.layers.Flatten()(inputs))
    learner = maml_tf.MAML(keras.Model(inputs, outputs), 0.01)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile("adam", loss, metrics=["accuracy"])
    return learner


@pytest.mark.parametrize("interrupted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_early_stopping_counts_over_an_interruption(tmp_path, monkeypatch, interrupted):
    """The best epoch is the second; with a patience of 2 the fourth is the last one."""
    scores = [0.1, 0.9, 0.5, 0.8, 0.7, 0.95]
    monkeypatch.setattr(common, "_Seconds", lambda: _MadeUp(scores))
    train, validation, _ = maml_tf.tasks.glyphs(meta_batch=1, validation_tasks=1)

    def run(iterations):
        return common.train(
            small_learner,
            lambda start: train.skip(start),
            tmp_path,
            iterations=iterations,
            epoch_iterations=1,
            validation=validation,
            best="val_accuracy",
            patience=2,
        )

    if interrupted:
        run(3)
    run(6)
    assert int(run(6).optimizer.iterations) == 4
    with (tmp_path / "history.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert int(best.optimizer.iterations) == 2
