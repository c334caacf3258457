"""Models and results made by someone who means harm; and that the code asks for no trust.

Pictures, archives and packed sets: `tests/tasks/test_untrusted.py`.
"""

import ast
import json
import os
import pathlib
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import evaluation
from tests.problems import dense_model
from train import checkpoints, graph_check, image_learners, picture_models

ROOT = pathlib.Path(__file__).parents[1]
UNPICKLE = {"pickle.load", "pickle.loads", "pickle.Unpickler"}
FORBIDDEN_MODULES = {"dill", "joblib", "cloudpickle", "marshal", "shelve", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "extract", "extractall", "enable_unsafe_deserialization"}
FORBIDDEN_CALLS |= {"system", "popen", "py_function"}
FORBIDDEN_WORDS = [("safe_mode", False), ("allow_pickle", True), ("shell", True)]


def trusting(tree):
    """Lines of a module that would run what a file holds."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
            if node.module == "pickle":
                yield node.lineno, "from pickle"
        # What a process gives to its own workers may be pickled; what it reads may not.
        if isinstance(node, ast.Attribute) and ast.unparse(node) in UNPICKLE:
            yield node.lineno, node.attr
        if FORBIDDEN_MODULES & set(names):
            yield node.lineno, names
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in FORBIDDEN_CALLS:
                yield node.lineno, name
            for word in node.keywords:
                # A variable in its place might be anything.
                known = isinstance(word.value, ast.Constant)
                for forbidden, value in FORBIDDEN_WORDS:
                    if word.arg == forbidden and not (known and word.value.value == (not value)):
                        yield node.lineno, word.arg
            if name == "load" and ast.unparse(node.func) in ("np.load", "numpy.load"):
                pickles = [w.value.value for w in node.keywords if w.arg == "allow_pickle"]
                if pickles != [False]:
                    yield node.lineno, "np.load without allow_pickle=False"


@pytest.mark.parametrize("room", ["maml_tf", "train"])
def test_no_line_of_the_code_trusts_a_file(room):
    paths = sorted((ROOT / room).rglob("*.py"))
    assert len(paths) > 8
    found = {
        str(path): list(trusting(ast.parse(path.read_text(encoding="utf-8")))) for path in paths
    }
    assert not {path: lines for path, lines in found.items() if lines}


def test_no_document_asks_for_trust():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = path.read_text(encoding="utf-8").replace(" ", "")
        assert "safe_mode=False" not in text
        assert "allow_pickle=True" not in text


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)",
        "pickle.Unpickler",
        "from pickle import loads",
        "from joblib import load",
        "eval(x)",
        "tar.extractall()",
        "keras.saving.load_model(p, safe_mode=False)",
        "keras.saving.load_model(p, safe_mode=mode)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_such_lines_would_be_found(line):
    assert list(trusting(ast.parse(line)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A learner's file, and its configuration."""
    learner = maml_tf.MAML(dense_model(), 0.1)
    learner.compile("adam", "mse")
    path = tmp_path_factory.mktemp("saved") / "learner.keras"
    learner.save(path)
    with zipfile.ZipFile(path) as archive:
        return path, json.loads(archive.read("config.json"))


def marking(mark):
    """Code in a layer, as Keras saves a lambda."""
    layer = keras.layers.Lambda(eval(f"lambda x, p={str(mark)!r}: (open(p, 'w').close(), x)[1]"))
    return keras.saving.serialize_keras_object(layer)


def in_model(config, layer):
    config["config"]["model"]["config"]["layers"][1] |= layer
    return config


def elsewhere(config, mark):
    return in_model(config, {"module": "os", "class_name": "mkdir", "config": {"path": str(mark)}})


def registered(config, mark):
    layer = {"module": None, "class_name": "Dense", "registered_name": "os>mkdir"}
    return in_model(config, layer | {"config": {"path": str(mark)}})


def function(config, mark):
    name = {"class_name": "function", "config": "mkdir", "module": "os", "registered_name": "mkdir"}
    config["compile_config"]["loss"] = name
    config["compile_config"]["inner_loss"] = name
    config["config"]["inner_optimizer"] = name
    return config


def of_a_lambda(config, mark):
    return in_model(config, marking(mark))


def of_the_learner(config, mark):
    config["config"]["adaptable"] = marking(mark)["config"]["function"]
    return config


def vocabulary(config, mark):
    mark.with_name("secret").write_text("a\nb\n")
    layer = keras.saving.serialize_keras_object(keras.layers.StringLookup())
    layer["config"]["vocabulary"] = str(mark.with_name("secret"))
    return in_model(config, layer)


HARMFUL = [elsewhere, registered, function, of_a_lambda, of_the_learner, vocabulary]
WAYS = {
    "load_model": keras.saving.load_model,
    "train.adapt": picture_models.open_model,
    "--start-from": lambda path: image_learners.start_from(dense_model(), path),
    "checkpoint": lambda path: checkpoints.load_last(path.parent),
    "best": lambda path: checkpoints.load_best(path.parent),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("harm", HARMFUL)
def test_models_execute_nothing(saved, tmp_path, harm, way):
    path, config = saved
    mark, made = tmp_path / "mark", tmp_path / f"{way.split('.')[0].strip('-')}.keras"
    if way in ("checkpoint", "best"):
        made = tmp_path / f"{way}.keras"
    changed = harm(json.loads(json.dumps(config)), mark)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            data = json.dumps(changed) if name == "config.json" else source.read(name)
            target.writestr(name, data)
    kinds = Exception if way == "load_model" else (ValueError, SystemExit)
    with pytest.raises(kinds) as raised:
        WAYS[way](made)
    if way != "load_model":
        told = "Received: --start-from" if way == "--start-from" else "cannot be read"
        assert told in str(raised.value)
        assert str(made) in str(raised.value)
    assert not mark.exists()


class Exported(tf.Module):
    """A model of pictures that writes a file when it is asked, or when it is loaded."""

    def __init__(self, path, operation):
        super().__init__()
        self.table = None
        self._path, self._operation = str(path), operation

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2, 2, 1]),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, 2, 2, 1]),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def ask(self, support_x, support_y, query_x, inner_steps):
        del support_x, support_y, inner_steps
        if self._operation == "write":
            tf.io.write_file(self._path, "harm")
        elif self._operation == "read":
            tf.io.read_file(self._path)
        elif self._operation == "print":
            tf.print("harm", output_stream=f"file://{self._path}")
        elif self._operation == "save":
            tf.raw_ops.SaveV2(
                prefix=self._path, tensor_names=["a"], shape_and_slices=[""], tensors=[query_x]
            )
        elif self._operation == "cond":
            tf.cond(
                tf.size(query_x) > 10**6,
                lambda: tf.io.write_file(self._path, "harm") is None,
                lambda: False,
            )
        return {"predictions": tf.zeros([tf.shape(query_x)[0], 3])}


@pytest.mark.parametrize("operation", ["write", "read", "print", "save", "cond"])
def test_exports_that_reach_out_are_not_loaded(tmp_path, operation):
    module = Exported(tmp_path / "mark", operation)
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.ask})
    with pytest.raises(ValueError, match="Expected a model that only computes"):
        picture_models.open_model(tmp_path)
    assert not list(tmp_path.glob("mark*"))


def test_exports_that_compute_are(tmp_path):
    module = Exported(tmp_path / "mark", None)
    module.weights = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "1"))
    graph_check.check(tmp_path / "1")
    for path in ROOT.glob("saved_models/*/1"):
        graph_check.check(path)


def test_a_storing_function_that_another_calls_is_not_trusted(tmp_path):
    """The name alone is nothing that one could rely on."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = ROOT / "saved_models" / "sinusoid" / "1" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    names = [f.signature.name for f in functions]
    saver = next(name for name in names if "traced_save" in name)
    other = functions[next(i for i, name in enumerate(names) if "traced" not in name)]
    node = other.node_def.add(name="call", op="StatefulPartitionedCall")
    node.attr["f"].func.name = saver
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="only computes"):
        graph_check.check(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(ValueError, match="Expected a whole model.*cannot be read"):
        graph_check.check(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"metric": "loss"}',
        '{"metric": 3, "values": [[1.0]]}',
        '{"metric": "loss", "values": [[1.0], [1.0, 2.0]]}',
        '{"metric": "loss", "values": [["__import__(\'os\').mkdir(\'mark\')"]]}',
        '{"metric": "loss", "values": {"a": 1}}',
        '{"metric": "loss", "values": 1e999}',
        '{"metric": "loss", "values": [[' + "9" * 5000 + "]]}",
        "\0",
    ],
    ids=range(11),
)
def test_results_that_are_none(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"`Result\.to_json` wrote\. Received: .*results\.json"):
        evaluation.Result.from_json(tmp_path / "results.json")
    assert os.listdir(tmp_path) == ["results.json"]


def test_results_are_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    evaluation.Result("loss", np.ones([2, 3])).to_json(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        evaluation.Result("loss", np.zeros([2, 3])).to_json(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["results.json"]
