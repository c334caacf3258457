"""The examples of all docstrings run, and print what stands beside them.

An example sees what its module sees, and the four names that every user has imported: `keras`,
`maml_tf`, `np` and `tf`. Where it needs a data set that this machine need not have, every call of
it is compared with the signature of what is called (`NEEDS_DATA`, where the reason stands).
"""

import ast
import doctest
import importlib
import inspect
import re
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from sybil import Document
from sybil.document import PythonDocStringDocument
from sybil.parsers.doctest import DocTestParser

import maml_tf
from tests.documentation.conftest import ROOT, draw_pictures

USERS = {"keras": keras, "maml_tf": maml_tf, "np": np, "tf": tf}
_DOWNLOAD = "a data set that TensorFlow Datasets would download"
_IMAGENET = "images of ImageNet, which nobody may pass on"
NEEDS_DATA = {
    "tasks.cifar.cifar_fs": _DOWNLOAD,
    "tasks.cifar.fc100": _DOWNLOAD,
    "tasks.from_tfds.from_tfds": _DOWNLOAD,
    "tasks.omniglot.omniglot": _DOWNLOAD,
    "tasks.data.omniglot.load_omniglot": _DOWNLOAD,
    "tasks.mini_imagenet.mini_imagenet": _IMAGENET,
    "tasks.data.mini_imagenet.load_mini_imagenet": _IMAGENET,
    "tasks.data.tfds_builders.mini_imagenet.MiniImagenet": _IMAGENET,
}
# Models that clients ask for: the exports that a stand-in serves.
SERVED = {"omniglot": "saved_models/omniglot/1", "navigation": "saved_models/navigation/1"}


class Docstring(NamedTuple):
    module: str
    name: str  # qualified, from the package on
    line: int
    text: str


def _docstrings():
    found = []
    for path in sorted((ROOT / "maml_tf").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        names = _names(ast.parse(source))
        for start, _, text in PythonDocStringDocument.extract_docstrings(source):
            if ">>>" in text:
                line = source.count("\n", 0, start) + 1
                name = f"{module}.{names[text]}".removeprefix("maml_tf.")
                found.append(Docstring(module, name, line, text))
    return found


def _names(tree, inside=""):
    """The qualified names of what docstrings belong to, by their text."""
    names = {}
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names[ast.get_docstring(node, clean=False)] = inside + node.name
            names |= _names(node, f"{inside}{node.name}.")
    return names


DOCSTRINGS = _docstrings()


def examples(docstring, namespace):
    """The examples, each of which the next one follows in one namespace."""
    document = Document(docstring.text, str(ROOT / docstring.module.replace(".", "/")))
    document.namespace.update(namespace)
    for region in DocTestParser(doctest.ELLIPSIS)(document):
        document.add(region)
    return list(document.examples())


@pytest.fixture(scope="module")
def pictures(desk):
    """The folder `pictures` that examples read: 32 classes, 16 % of which are five."""
    return draw_pictures(desk / "pictures", ["cats", *(f"c{i}" for i in range(31))], 12)


@pytest.fixture
def connect(desk):
    """`connect(docstring)`: with the address of a stand-in in the place of a server's."""
    started = []

    def start(docstring):
        text = docstring.text
        for model in re.findall(r'Client\("localhost:8500", "(\w+)"\)', text):
            pytest.importorskip("tensorflow_serving")
            from tests.serving.stand_in import StandIn

            started.append(StandIn(desk / SERVED[model], model))
            text = text.replace("localhost:8500", started[-1].grpc)
        return docstring._replace(text=text)

    yield start
    for server in started:
        server.close()


def _marked(docstring):
    marks = pytest.mark.tf_agents if docstring.name.startswith("rl.") else ()
    return pytest.param(docstring, marks=marks, id=docstring.name)


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("docstring", [_marked(d) for d in DOCSTRINGS if d.name not in NEEDS_DATA])
def test_an_example_prints_what_it_shows(docstring, connect):
    module = importlib.import_module(docstring.module)
    for example in examples(connect(docstring), {**vars(module), **USERS}):
        example.evaluate()


@pytest.mark.parametrize(
    "docstring", [d for d in DOCSTRINGS if d.name in NEEDS_DATA], ids=lambda d: d.name
)
def test_an_example_calls_what_there_is(docstring):
    module = importlib.import_module(docstring.module)
    namespace = {**vars(module), **USERS}
    found = examples(docstring, namespace)
    tree = ast.parse("".join(example.parsed.source for example in found))
    ours = 0
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = ast.unparse(call.func)
        if function.split(".")[0] in namespace:
            ours += 1
            called = eval(function, namespace)
            if getattr(called, "__module__", "").startswith("maml_tf"):
                named = [keyword.arg for keyword in call.keywords]
                inspect.signature(called).bind(*call.args, **dict.fromkeys(named))
    assert ours


def test_only_examples_with_data_are_not_run():
    assert set(NEEDS_DATA) <= {docstring.name for docstring in DOCSTRINGS}
    assert all(d.name.startswith("tasks.") for d in DOCSTRINGS if d.name in NEEDS_DATA)
