"""The scripts on the features of a backbone, which a small network stands in for."""

import csv
import json

import keras
import numpy as np
import pytest
from PIL import Image

import maml_tf
from train import adapt, common, heads, images

OPTIONS = ["--quick", "--ways", "2", "--queries", "2", "--image-size", "32", "--test-tasks", "4"]
OPTIONS += ["--iterations", "2", "--epoch-iterations", "1", "--validation-tasks", "2"]
OPTIONS += ["--backbone", "mobilenet_v2"]
STEPS = ["--steps-to-evaluate", "2"]  # of methods that take any


def small(input_shape, include_top, pooling, weights):
    """As `keras.applications.MobileNetV2` is called; its mean colours tell the classes apart."""
    assert (include_top, pooling, weights) == (False, "avg", "imagenet")
    x = keras.Input(input_shape)
    y = keras.layers.Conv2D(6, 3, 4, kernel_initializer=keras.initializers.Orthogonal(seed=0))(x)
    return keras.Model(x, keras.layers.GlobalAveragePooling2D()(y))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(keras.applications, "MobileNetV2", small)
    # Which a process can do before its first operation alone.
    monkeypatch.setattr(common, "use_threads_for_tasks", lambda: None)


def draw(folder, classes, count):
    rng = np.random.default_rng(len(classes))
    for name in classes:
        (folder / name).mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for i in range(count):
            pixels = np.clip(colour + rng.integers(-20, 21, [36, 36, 3]), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def run(monkeypatch, capsys, script, *options):
    monkeypatch.setattr("sys.argv", ["script", *map(str, options)])
    script.main()
    return capsys.readouterr().out


@pytest.mark.parametrize("method", ["maml", pytest.param("prototypical", marks=pytest.mark.slow)])
def test_images_are_learned_from_features_and_adapted_to_as_pictures(
    method, monkeypatch, capsys, tmp_path
):
    data = draw(tmp_path / "pictures", [f"c{i}" for i in range(12)], 4)
    given = ["--data", data, "--method", method, "--cache", tmp_path, "--output", tmp_path / "run"]
    given += STEPS if method == "maml" else []
    printed = run(monkeypatch, capsys, images, *OPTIONS, *given)
    assert "chance 50.0 %, nearest class mean on the backbone's features" in printed
    assert "the backbone alone" in printed
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["nearest_class_mean"]["num_tasks"] == 4
    for name in ("task", "confusion", "learning_curve"):
        assert (tmp_path / "run" / f"{name}.png").exists()
    learner = keras.saving.load_model(tmp_path / "run" / "best.keras")
    assert learner.example_spec().shape == (None, 6)

    support, query = (draw(tmp_path / name, ["a", "b"], 2) for name in ("support", "query"))
    answers = []
    for model in ("pictures.keras", "saved_model"):
        folders = ["--support", support, "--query", query, "--output", tmp_path / model[:5]]
        path = tmp_path / "run" / model
        printed = run(monkeypatch, capsys, adapt, "--model", path, *folders)
        assert ("without any training: " in printed) == (model == "pictures.keras")
        with (tmp_path / model[:5] / "predictions.csv").open(newline="") as file:
            answers.append(list(csv.DictReader(file)))
    for row, same in zip(*answers, strict=True):
        assert row["predicted"] == same["predicted"]
        assert float(row["probability"]) == pytest.approx(float(same["probability"]), abs=1e-3)


def test_class_means_of_a_backbone_need_no_model(monkeypatch, capsys, tmp_path):
    support, query = (draw(tmp_path / name, ["a", "b", "c"], 3) for name in ("support", "query"))
    given = ["--backbone", "mobilenet_v2", "--image-size", "32", "--output", tmp_path / "out"]
    printed = run(monkeypatch, capsys, adapt, *given, "--support", support, "--query", query)
    assert "3 classes, 9 support pictures, 9 queries: 9 right, 100.0 %." in printed
    assert "features, without any training: 100.0 %" in printed
    assert "--backbone" not in printed


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (adapt, ["--model", "a.keras", "--backbone", "mobilenet_v2"], "one of --model and --back"),
        (adapt, [], "Expected one of --model and --backbone. Received: none of them"),
        (adapt, ["--backbone", "mobilenet_v2", "--inner-steps", "3"], "no --inner-steps beside"),
        (adapt, ["--model", "a.keras", "--image-size", "32"], "no --image-size beside --model"),
        (
            adapt,
            ["--model", "a.keras", "--weights", "w.h5"],
            "Expected --weights beside --backbone",
        ),
        (adapt, ["--backbone", "mobilenet_v2", "--weights", "no.h5"], "'no.h5', which is no file"),
        (
            adapt,
            ["--backbone", "mobilenet_v3_small", "--image-size", "16"],
            r"pictures that 'mobilenet_v3_small' takes.*=16",
        ),
    ],
)
def test_options_of_adapt_that_exclude_one_another(script, options, message, monkeypatch, tmp_path):
    folders = ["--support", tmp_path, "--query", tmp_path]
    monkeypatch.setattr("sys.argv", ["script", *map(str, [*folders, *options])])
    with pytest.raises(SystemExit, match=message):
        script.main()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "w.h5"], "Expected --weights beside --backbone"),
        (["--backbone", "mobilenet_v2", "--network", "conv4"], "Expected no --network beside"),
        (["--backbone", "mobilenet_v2"], r"pictures in colour.*\(28, 28, 1\)"),
    ],
)
def test_options_of_images(options, message, monkeypatch, tmp_path):
    given = ["--quick", "--output", tmp_path / "run", *options]
    monkeypatch.setattr("sys.argv", ["script", *map(str, given)])
    with pytest.raises(SystemExit, match=message):
        images.main()


def test_pictures_of_another_size_are_resized_in_front_of_the_backbone():
    settings = images.Settings(backbone="mobilenet_v2", image_size=32)
    whole = heads.open_backbone(settings, (16, 16, 3))
    assert whole.input_shape == (None, 16, 16, 3)
    x = np.full([1, 16, 16, 3], 0.25, np.float32)
    expected = heads.open_backbone(settings)(np.full([1, 32, 32, 3], 0.25, np.float32))
    np.testing.assert_allclose(whole(x), expected, atol=1e-6)


def test_what_meta_training_adds_is_told_with_its_sign():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.7, 0.8, [50, 1])
    result, better, worse = (
        maml_tf.evaluation.Result("accuracy", base + by) for by in (0, 0.1, -0.1)
    )
    noisy = maml_tf.evaluation.Result("accuracy", base + rng.normal(0, 0.1, [50, 1]))
    assert heads.added(better, result) == (
        "Meta-training adds 10.0 ± 0.0 points to the backbone alone."
    )
    assert heads.added(worse, result).startswith("The backbone alone is better by 10.0 ± 0.0")
    assert heads.added(noisy, result).startswith("Meta-training adds nothing that these tasks")
