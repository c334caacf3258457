"""Ordinary pretraining: on the training classes alone, and MAML takes over what it learned."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.tasks import class_lists
from maml_tf.tasks.data import packed
from maml_tf.tasks.omniglot import split_characters
from tests.wrong_calls import check_refusal
from train import common, image_learners, images, mini_imagenet, omniglot, pretrain

SIZE, EACH = 16, 6


@pytest.fixture
def cifar(monkeypatch):
    """100 classes of 6 images: red says the class, green the image, blue is dark on the left."""
    names = np.array(sorted(sum(class_lists.load("cifar_fs").values(), [])))
    pixels = np.zeros([len(names), EACH, SIZE, SIZE, 3], np.uint8)
    pixels[..., 0] = np.arange(len(names))[:, None, None, None]
    pixels[..., 1] = np.arange(EACH)[:, None, None]
    pixels[..., SIZE // 2 :, 2] = 255
    data = packed.Images(
        pixels.reshape(-1, SIZE, SIZE, 3),
        np.repeat(np.arange(len(names)), EACH),
        names,
        np.full(len(names), ""),
    )
    monkeypatch.setattr(pretrain.maml_tf.tasks, "load_tfds_images", lambda *_, **__: data)
    return names


def batches(settings, start=0, count=1):
    data = pretrain.make_batches(settings, *pretrain.training_images(settings), start)
    return list(data.take(count).as_numpy_iterator())


@pytest.mark.parametrize("data", ["cifar_fs", "fc100"])
def test_only_training_classes_are_seen_and_each_by_its_number(cifar, data):
    settings = pretrain.Settings(data=data, batch_size=600)
    (x, y), (again, _), (later, _) = [*batches(settings, count=2), *batches(settings, start=1)]
    seen = np.rint(x[:, 0, 0, 0] * 255).astype(int)
    training = sorted(class_lists.load(data)["train"])
    assert set(cifar[seen]) == set(training)
    np.testing.assert_array_equal(cifar[seen], np.array(training)[y])
    np.testing.assert_array_equal(again, later)
    assert not np.array_equal(x, again)
    mirrored = x[:, 0, 0, 2] == 1
    assert 0.4 < mirrored.mean() < 0.6
    np.testing.assert_array_equal(x[:, :, 0, 2] == 1, np.repeat(mirrored[:, None], SIZE, 1))


def test_smaller_images_are_means_of_blocks_mirrored_or_not():
    """As the tasks of `train.mini_imagenet` make them smaller."""
    large = np.random.default_rng(0).integers(0, 256, [1, 84, 84, 3], np.uint8)
    settings = pretrain.Settings(data="mini_imagenet", image_size=28, batch_size=8)
    data = pretrain.make_batches(settings, large, np.array([0]), np.array([7], np.int32))
    x, y = next(data.as_numpy_iterator())
    assert y.tolist() == [7] * 8
    tasks = tf.data.Dataset.from_tensors(({"support_x": large[None] / 255, "support_y": 0}, 1))
    inputs, query_y = next(mini_imagenet.smaller(tasks, 28).as_numpy_iterator())
    small = inputs["support_x"][0, 0]
    assert small[1, 2, 1] == pytest.approx(large[0, 3:6, 6:9, 1].mean() / 255)
    assert (inputs["support_y"], query_y) == (0, 1)
    either = np.stack([small, small[:, ::-1]])
    error = np.abs(x[:, None] - either).max(axis=(2, 3, 4))
    assert set(error.argmin(axis=1)) == {0, 1}
    assert error.min(axis=1).max() < 1e-6


@pytest.mark.parametrize("filters", [None, 8])
def test_maml_takes_its_convolutions_over(cifar, monkeypatch, capsys, tmp_path, filters):
    options = ["--iterations", "2", "--epoch-iterations", "1", "--batch-size", "4"]
    options += [] if filters is None else ["--filters", str(filters)]
    monkeypatch.setattr("sys.argv", ["pretrain", *options, "--output", str(tmp_path / "run")])
    monkeypatch.setattr(pretrain.common, "use_threads_for_tasks", lambda: None)
    pretrain.main()
    path = tmp_path / "run" / "checkpoint.keras"
    assert f"--start-from {path}" in capsys.readouterr().out
    few = images.resolve(
        images.Settings(data="cifar_fs", filters=filters, last_layer="zero", start_from=str(path))
    )
    *body, kernel, bias = image_learners.make_learner(few, (SIZE, SIZE, 3)).model.get_weights()
    trained = keras.saving.load_model(path)
    assert int(trained.optimizer.iterations) == 2
    for one, other in zip(trained.get_weights()[:-2], body, strict=True):
        np.testing.assert_array_equal(one, other)
    assert kernel.shape[-1] == 5
    assert not kernel.any()
    assert not bias.any()


def test_each_turn_of_a_training_character_is_a_class(monkeypatch):
    """The first 1,623 numbers in two pixels say the character, a third pixel which way is up."""
    pixels = np.zeros([1623, 1, 4, 4, 1], np.uint8)
    pixels[:, 0, 1, 1, 0], pixels[:, 0, 1, 2, 0] = np.divmod(np.arange(1623), 256)
    pixels[:, 0, 0, 0, 0] = 255
    names = np.array([f"A_{i}" for i in range(1623)])
    data = maml_tf.tasks.data.omniglot.Omniglot(pixels, names, names)
    monkeypatch.setattr(pretrain.maml_tf.tasks, "load_omniglot", lambda *_, **__: data)
    settings = pretrain.Settings(data="omniglot", batch_size=64)
    images_, rows, classes = pretrain.training_images(settings)
    assert images_.shape == (4400, 4, 4, 1)
    chosen = split_characters("paper", names)[0]
    for x, y in batches(settings, count=3):
        x = np.rint(x[..., 0] * 255).astype(int)
        for image, number in zip(x, y, strict=True):
            upright = np.rot90(image, -(number % 4))
            assert upright[0, 0] == 255  # and not mirrored, which would turn the corner elsewhere
            assert 256 * upright[1, 1] + upright[1, 2] == chosen[number // 4]
    assert sorted(classes[rows]) == list(range(4400))
    network = pretrain.make_network(settings, 4400, (28, 28, 1))
    few = omniglot.resolve(omniglot.Settings(ways=20))
    maml = image_learners.make_learner(few, (28, 28, 1)).model
    assert [v.shape for v in network.weights[:-2]] == [v.shape for v in maml.weights[:-2]]


def test_a_pretraining_begins_with_another_ones_weights(capsys, tmp_path):
    settings = pretrain.Settings(iterations=10, learning_rate=0.25)
    first = pretrain.make_network(settings, 7, (SIZE, SIZE, 3))
    for variable in first.weights:
        variable.assign(keras.ops.full_like(variable, 0.5))
    first.save(tmp_path / "first.keras")
    settings.start_from = str(tmp_path / "first.keras")
    second = pretrain.make_network(settings, 7, (SIZE, SIZE, 3))
    assert all((w == 0.5).all() for w in second.get_weights())
    assert int(second.optimizer.iterations) == 0
    assert float(second.optimizer.learning_rate) == 0.25
    assert "first.keras" in capsys.readouterr().out


def test_a_start_that_is_not_there_makes_no_run(cifar, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(pretrain.common, "use_threads_for_tasks", lambda: None)
    nowhere, output = str(tmp_path / "nowhere.keras"), tmp_path / "run"
    words = ["--start-from", nowhere, "--output", str(output)]
    fragments = ["--start-from", nowhere]
    check_refusal(lambda: common.run(pretrain.main), words, fragments, monkeypatch, capsys)
    assert not output.exists()


@pytest.mark.parametrize(("inner", "steps"), [("learned", 2), ("meta-sgd", 1)])
def test_rates_of_the_last_layer_may_begin_elsewhere(inner, steps):
    settings = omniglot.Settings(
        inner_optimizer=inner, step_size=0.05, last_layer_step_size=20.0, inner_steps=steps
    )
    learner = image_learners.make_learner(omniglot.resolve(settings), (28, 28, 1))
    *body, kernel, bias = learner.inner_optimizer.rates
    for rates, begin in [(kernel, 20.0), (bias, 20.0), *[(one, 0.05) for one in body]]:
        np.testing.assert_array_equal(rates, np.full(rates.shape, np.float32(begin)))
    assert kernel.shape == ((steps,) if inner == "learned" else (64, 5))
