"""The readable half of a model card: no brackets of Python, no more digits than are read."""

import json
import re

import pytest

from maml_tf.serving import card_text
from tests.documentation.conftest import ROOT

SIGNATURES = {
    "adapt": {
        "inputs": {
            "x": {"dtype": "float32", "shape": [-1, 28, 28, 1]},
            "inner_steps": {"dtype": "int32", "shape": []},
        },
        "outputs": {"weights": {"dtype": "float32", "shape": [5]}},
    }
}


def facts_of(text):
    """The rows of the tables before the signatures, by name."""
    before = text.split("## Signatures")[0]
    return dict(re.findall(r"^\| (.+?) \| (.*) \|$", before, re.MULTILINE))


def written(**facts):
    card = {"name": "some", **facts, "signatures": SIGNATURES}
    return card_text.readme(card, "adapt", "weights", "And so on.")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.6999999284744263, "0.7"),
        (1e-5, "1e-05"),
        (-16.802682876586914, "-16.8"),
        (112005, "112,005"),
        (2026, "2026"),
        (250000.4, "250,000"),
        (True, "yes"),
        (None, "none"),
        ("", "none"),
        ([0.1, 0.05], "0.1, 0.05"),
        ([], "none"),
        ({"rate": 0.1, "of": [1, 2]}, "rate 0.1, of 1, 2"),
        ("a | b\nc", "a \\| b c"),
        (
            {"metric": "accuracy", "mean": 0.9903123, "interval": 0.00394},
            "accuracy: 0.9903 ± 0.0039",
        ),
        ({"mean": 0.5, "interval": 0, "tasks": 3}, "0.5 ± 0; tasks: 3"),
        (
            {"mean": [-16.8, 275.2], "interval": [45.8, 0.614]},
            "-17 ± 46, 275.20 ± 0.61 after 0 to 1 steps",
        ),
        ({"mean": None, "interval": None}, "mean none, interval none"),
    ],
)
def test_a_value_is_written_as_one_reads_it(value, shown):
    assert facts_of(written(some_fact=value)) == {"some fact": shown}


def test_a_command_is_code_and_settings_are_a_table():
    settings = {f"setting_{i}": i / 3 for i in range(8)}
    text = written(command="python -m train.sinusoid", settings=settings)
    facts = facts_of(text)
    assert facts["command"] == "`python -m train.sinusoid`"
    assert text.index("## Settings") > text.index("command")
    assert facts["setting 7"] == "2.333"


def test_axes_of_any_size_and_single_numbers():
    row = (
        "| `adapt` | `x` float32 `[?, 28, 28, 1]`, `inner_steps` int32 | `weights` float32 `[5]` |"
    )
    assert row in written()


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("saved_models/*/*/card.json")), ids=lambda p: p.parts[-3]
)
def test_the_cards_that_are_kept_are_these(path):
    """Written anew they are the same, and have no dict and no long fraction in them."""
    card = json.loads(path.read_text())
    text = (path.parent / "README.md").read_text()
    policy = card["method"] == "MetaPolicy"
    asked, output = ("act", "action") if policy else ("adapt_and_predict", "predictions")
    note = text.split("A `?` is an axis of any size. ")[1].split("\n\n## Asking it")[0]
    assert text == card_text.readme(card, asked, output, note)
    before = text.split("## Asking it")[0]
    assert not re.search(r"[{}']\w+'|\d\.\d{6}", before)
    facts = set(facts_of(text))
    assert {"data", "command", "commit", "time"} <= facts
    # By one protocol or by each of several.
    assert any(fact.startswith("held out") for fact in facts)
