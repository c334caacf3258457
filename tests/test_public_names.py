"""`__all__` is the public API: all of it is there and described, and nothing else is in view."""

import importlib
import inspect
import pathlib
import re
import types

import pytest

import maml_tf

ROOT = pathlib.Path(__file__).parents[1]
# Packages that list what they are for; what else is in them are their rooms.
PACKAGES = ["", "backbones", "evaluation", "learners", "models", "plots", "serving", "tasks"]
OF_TF_AGENTS = ["rl", "rl.environments"]


def load(name):
    return importlib.import_module(f"maml_tf.{name}".rstrip("."))


def public_modules(module):
    """A module and those that its `__all__` names, as deep as they go."""
    yield module
    for name in module.__all__:
        if isinstance(getattr(module, name), types.ModuleType):
            yield from public_modules(getattr(module, name))


def check(module):
    """`__all__` is in order, is there, and holds nothing private."""
    names = list(module.__all__)
    assert len(names) == len(set(names)), module.__name__
    for name in names:
        assert not name.startswith("_"), f"{module.__name__}.{name}"
        assert inspect.getdoc(getattr(module, name)), f"{module.__name__}.{name} says nothing"


def in_view(module):
    """What `dir` shows of a package beside modules and private names."""
    values = vars(module).items()
    return {n for n, v in values if n[0] != "_" and not isinstance(v, types.ModuleType)}


def test_what_all_names_is_there_and_has_a_docstring():
    for module in public_modules(maml_tf):
        check(module)


@pytest.mark.tf_agents
def test_so_it_is_for_reinforcement_learning():
    for module in public_modules(load("rl")):
        check(module)


@pytest.mark.parametrize(
    "name", [*PACKAGES, *(pytest.param(n, marks=pytest.mark.tf_agents) for n in OF_TF_AGENTS)]
)
def test_nothing_else_is_in_view(name):
    module = load(name)
    assert in_view(module) <= set(module.__all__)


@pytest.mark.tf_agents
def test_what_the_reference_describes_is_public():
    public = set()
    for module in (*public_modules(maml_tf), *public_modules(load("rl"))):
        public |= {id(getattr(module, name)) for name in module.__all__}
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md")]
    described = re.findall(r"^::: ([\w.]+)$", "\n".join(pages), re.MULTILINE)
    assert described
    for path in described:
        module, name = path.rsplit(".", 1)
        assert id(getattr(importlib.import_module(module), name)) in public, path


def untyped(function):
    """What of a signature says no type; what Keras gives a class it says for itself."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.annotation is p.empty and p.name != "self"]
    returns = inspect.signature(function).return_annotation
    return names + ["return"] * (returns is inspect.Signature.empty)


NAMES = ["backbones", "evaluation", "image_plots", "models", "plots", "tasks"]


@pytest.mark.parametrize("name", NAMES)
def test_functions_say_their_types(name):
    """mypy (.ci/run) checks those that are said; the others it passes over."""
    module = load(name)
    for function in (getattr(module, n) for n in module.__all__):
        if inspect.isfunction(function):
            assert untyped(function) == [], function.__qualname__


TYPED = (
    "learners",
    "rl",
    "rl.evaluation",
    "rl.policies",
    "rl.environments",
    "serving",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.tf_agents if n.startswith("rl") else ()) for n in TYPED],
)
def test_what_a_class_does_itself_has_types(name):
    """Of methods that are written here, but for those that Keras and TF-Agents call."""
    module = load(name)
    for one in (getattr(module, n) for n in module.__all__):
        if inspect.isfunction(one):
            assert untyped(one) == [], one.__qualname__
        if inspect.isclass(one):
            for method in USERS:
                function = vars(one).get(method)
                assert not inspect.isfunction(function) or untyped(function) == [], (one, method)


# What users call, of any class that has it.
USERS = ("__init__", "adapt", "compile", "act", "sample", "policy", "predict", "predict_path")
USERS += ("loss_path", "sample_tasks", "set_tasks", "resized", "table", "to_dict", "from_json")
USERS += ("adapt_task", "predict_adapted", "fit_head", "apply_head", "task_gradient")


def test_the_version_is_that_of_the_project():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1] == maml_tf.__version__
