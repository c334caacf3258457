"""The notebooks run from top to bottom, with smaller numbers in the place of their parameters."""

import ast
import json
import re

import keras
import numpy as np
import pytest

from tests.documentation.conftest import ROOT

NOTEBOOKS = ROOT / "docs" / "notebooks"
SAVED = ROOT / "saved_models" / "half_cheetah_direction" / "learner.keras"
# What stands in the cell with the tag "parameters", made small.
SMALL = {
    "first_steps": {"ITERATIONS": 20, "TASKS": 10},
    "your_own_pictures": {"CLASSES": 33, "PICTURES": 10, "ITERATIONS": 10, "TASKS": 2},
    "half_cheetah": {"LEARNER": str(SAVED), "ROLLOUTS": 4, "HORIZON": 10, "STEPS": 1},
}


def cells(name):
    content = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    return content["cells"]


def run(name):
    """The names that a notebook has made in the end, and the last value of each cell."""
    namespace, shown = {}, []
    for number, cell in enumerate(c for c in cells(name) if c["cell_type"] == "code"):
        source = "".join(cell["source"])
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{name}, cell {number}", "exec"), namespace)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), name, "eval"), namespace))
        if "parameters" in cell["metadata"].get("tags", ()):
            assert SMALL[name].keys() <= namespace.keys()
            namespace |= SMALL[name]
    return namespace, shown


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of its own, and figures that nobody sees."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    with plt.ioff():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def test_all_are_here():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_stripped_and_links_lead_somewhere(name):
    for cell in cells(name):
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
        else:
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
                assert (NOTEBOOKS / target).exists(), target


def test_first_steps():
    made, shown = run("first_steps")
    assert made["learner"].optimizer.iterations == 20
    assert shown[-1] < 1e-6  # the loaded learner adapts as the saved one


def test_your_own_pictures(tmp_path):
    made, _ = run("your_own_pictures")
    assert len(list((tmp_path / "tiles").iterdir())) == 33
    assert isinstance(made["mine"], keras.Model)
    assert made["logits"].shape == (20, 4)
    # Of four classes, after ten iterations.
    assert np.mean(made["logits"].argmax(-1) == made["truth"]) > 0.25


@pytest.mark.tf_agents
def test_half_cheetah():
    pytest.importorskip("mujoco")
    made, _ = run("half_cheetah")
    assert made["returns"].shape == (2, 2, 4)
    assert np.isfinite(made["before_and_after"]).all()
