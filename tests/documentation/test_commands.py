"""Commands within the prose and the tables of results: their scripts know every option."""

import importlib
import re
import shlex

import pytest

from tests.documentation.conftest import CARDS, PAGES, ROOT
from train import common

DOCUMENTS = [*PAGES, ROOT / "saved_models" / "README.md", *CARDS]
# What stands for a value that the reader chooses.
CHOSEN = {"SEED": "0", "NAME": "ant_goal", "…": "ant_goal"}
OF_TF_AGENTS = ("train.navigation", "train.locomotion", "tests.benchmarks.reinforcement")
LOCOMOTION = "python -m train.locomotion --recipe modern --environment"


def _commands():
    found = []
    for text in (path.read_text(encoding="utf-8") for path in DOCUMENTS):
        found += re.findall(r"`(python -m [^`]+)`", text)
        lines = text.replace("\\\n", " ")
        found += re.findall(r"^(?:\S*/)?(python -m train\.[^&#\n]+)", lines, re.MULTILINE)
        # The rows of half-cheetah and ant name what follows the environment's option.
        for words in re.findall(r"^- \(\w\)[^`]*`([^`]+)`", text, re.MULTILINE):
            same = "ant_direction " if words.startswith("--") else ""
            found.append(f"{LOCOMOTION} {same}{words}")
    return sorted({" ".join(command.split()) for command in found})


def _marked(command):
    needs = command.split()[2] in OF_TF_AGENTS
    return pytest.param(command, marks=pytest.mark.tf_agents if needs else ())


@pytest.mark.parametrize("command", map(_marked, _commands()))
def test_the_script_knows_every_option(command, monkeypatch):
    _, _, module, *words = shlex.split(command)
    script = importlib.import_module(module)
    if not module.startswith("train.") or not words:  # a name alone tells no options
        return
    parsed = []

    def parse(*arguments, **settings):
        parsed.append(real(*arguments, **settings))
        raise InterruptedError

    real = common.parse
    monkeypatch.setattr(common, "parse", parse)
    monkeypatch.setattr("sys.argv", [module, *(CHOSEN.get(word, word) for word in words)])
    with pytest.raises(InterruptedError):
        script.main()
    assert parsed
