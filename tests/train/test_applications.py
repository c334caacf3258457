"""Networks of `keras.applications` themselves, with weights of a file, through both scripts.

Nothing is downloaded: the weights are random, written by Keras from the same architecture. What
stands in for a backbone in `test_backbones` has none of their layers.
"""

import csv

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from maml_tf.tasks import load_image_folder
from tests.train.test_backbones import draw, run
from train import adapt, common, images

pytestmark = pytest.mark.slow
NETWORKS = {
    "mobilenet_v2": (keras.applications.MobileNetV2, keras.applications.mobilenet_v2),
    "efficientnet_v2_b0": (keras.applications.EfficientNetV2B0, keras.applications.efficientnet_v2),
}
OPTIONS = ["--quick", "--ways", "2", "--queries", "2", "--image-size", "32", "--test-tasks", "4"]
OPTIONS += ["--iterations", "2", "--epoch-iterations", "1", "--validation-tasks", "2"]
OPTIONS += ["--inner-steps", "2", "--steps-to-evaluate", "2"]


@pytest.fixture(params=NETWORKS)
def network(request, tmp_path, monkeypatch):
    """Its name, the network, its own preprocessing and a file of its weights."""
    monkeypatch.setattr(common, "use_threads_for_tasks", lambda: None)
    build, module = NETWORKS[request.param]
    keras.utils.set_random_seed(3)
    made = build(input_shape=(32, 32, 3), include_top=False, pooling="avg", weights=None)
    # Statistics of pictures, without which random weights make the same of all of them.
    for layer in made.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    pixels = np.random.default_rng(0).uniform(0, 255, [8, 1, 1, 3]) * np.ones([8, 32, 32, 3])
    made(module.preprocess_input(pixels.astype(np.float32)), training=True)
    path = tmp_path / "w.weights.h5"
    if request.param == "mobilenet_v2":
        path = tmp_path / "no_top.h5"  # as the files that `keras.applications` downloads are
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, made)
    else:
        made.save_weights(path)
    return request.param, made, module.preprocess_input, path


def test_weights_of_a_file_go_through_both_scripts(network, monkeypatch, capsys, tmp_path):
    name, made, preprocess, weights = network
    data = draw(tmp_path / "pictures", [f"c{i}" for i in range(12)], 4)
    support, query = (draw(tmp_path / part, ["a", "b"], 2) for part in ("support", "query"))
    backbone = ["--backbone", name, "--weights", weights]
    places = ["--data", data, "--cache", tmp_path, "--output", tmp_path / "run"]
    printed = run(monkeypatch, capsys, images, *OPTIONS, *backbone, *places)
    assert "nearest class mean on the backbone's features" in printed

    # In front of the head stands the network, as its own preprocessing feeds it.
    whole = keras.saving.load_model(tmp_path / "run" / "pictures.keras")
    five = load_image_folder(support, 32)
    pictures = np.asarray(five.images, np.float32)
    expected = made(preprocess(pictures.copy()), training=False)
    np.testing.assert_allclose(whole.features(pictures / 255), expected, rtol=1e-3, atol=1e-5)

    folders = ["--support", support, "--query", query]
    answers = []
    for model in ("pictures.keras", "saved_model"):
        given = ["--model", tmp_path / "run" / model, "--output", tmp_path / model[:5]]
        run(monkeypatch, capsys, adapt, *given, *folders)
        with (tmp_path / model[:5] / "predictions.csv").open(newline="") as file:
            answers.append(list(csv.DictReader(file)))
    assert len(answers[0]) == 4
    for row, same in zip(*answers, strict=True):
        assert row["predicted"] == same["predicted"]
        assert float(row["probability"]) == pytest.approx(float(same["probability"]), abs=1e-3)
    alone = ["--image-size", "32", "--output", tmp_path / "alone"]
    printed = run(monkeypatch, capsys, adapt, *backbone, *alone, *folders)
    assert "2 classes, 4 support pictures, 4 queries" in printed
