"""Tiny runs of the scripts of reinforcement learning, resumed and not."""

import json

import keras
import numpy as np
import pytest

from tests.wrong_calls import check_refusal
from train import common, locomotion, navigation, reinforcement

TINY = "--meta-batch 2 --rollouts 3 --horizon 6 --epoch-iterations 1 --test-tasks 3 --test-steps 1"


@pytest.fixture
def run(monkeypatch, tmp_path):
    def run(module, *options, output="run"):
        monkeypatch.setattr(common, "use_threads_for_tasks", lambda: None)
        words = [*TINY.split(), "--test-rollouts", "3", "--fine-tuning", "0.1", *options]
        monkeypatch.setattr("sys.argv", ["script", *words, "--output", str(tmp_path / output)])
        module.main()
        return tmp_path / output

    return run


def test_navigation_resumes_to_the_same_numbers(run):
    alone = ["--baselines", ""]  # the others go through the same lines, see below
    whole = run(navigation, "--iterations", "2", *alone)
    run(navigation, "--iterations", "1", *alone, output="parts")
    parts = run(navigation, "--iterations", "2", *alone, output="parts")
    results = [json.loads((folder / "results.json").read_text()) for folder in (whole, parts)]
    assert results[0]["test"] == results[1]["test"]
    assert set(results[0]["test"]) == {"MAML"}
    assert np.shape(results[0]["test"]["MAML"]["values"]) == (3, 2)
    for name in ("returns.png", "paths.png"):
        assert (whole / name).read_bytes().startswith(b"\x89PNG")
    exported = json.loads((whole / "saved_model/1/card.json").read_text())
    assert exported["held_out"]["mean"] == np.mean(results[0]["test"]["MAML"]["values"], 0)[-1]


def test_locomotion_takes_the_papers_settings_of_the_environment(run):
    options = ["--iterations", "1", "--environment", "half_cheetah_direction"]
    folder = run(locomotion, *options, "--recipe", "modern", "--baselines", "random oracle")
    settings = json.loads((folder / "config.json").read_text())
    assert settings["max_divergence"] == 0.02
    assert settings["inner_loss"] == "ratio"
    results = json.loads((folder / "results.json").read_text())
    assert results["paper"]["MAML"][1] == 293.19
    assert set(results["test"]) == {"MAML", "random", "oracle"}


def test_an_environment_has_settings_of_its_own_and_what_is_given_holds():
    def chosen(**given):
        settings = locomotion.complete(locomotion.Settings(environment="ant_direction", **given))
        return settings.meta_batch, settings.rollouts, settings.max_divergence, settings.log_scale

    assert chosen() == (40, 40, 0.01, 0)
    assert chosen(recipe="modern") == (10, 40, 0.05, -1.2)
    assert chosen(recipe="modern", meta_batch=3, log_scale=0.0) == (3, 40, 0.05, 0)


def given(monkeypatch, module, *options):
    """The settings that a script works with under these options."""
    monkeypatch.setattr("sys.argv", ["script", *options])
    if module is navigation:
        return common.parse(navigation.Settings, "script", navigation.QUICK)
    return locomotion.complete(common.parse(locomotion.Settings, "script", locomotion.QUICK))


@pytest.mark.parametrize("quick", [(), ("--quick",)])
@pytest.mark.parametrize("recipe", ["paper", "modern"])
@pytest.mark.parametrize("environment", locomotion.ENVIRONMENTS)
def test_no_default_overrides_a_recipe(monkeypatch, environment, recipe, quick):
    """Every entry of every recipe is what the script works with, the most special one first."""
    options = ("--environment", environment, "--recipe", recipe, *quick)
    settings = given(monkeypatch, locomotion, *options)
    expected = locomotion.COMMON | locomotion.RECIPES[environment]
    if recipe == "modern":
        expected |= locomotion.MODERN | locomotion.MODERN_RECIPES.get(environment, {})
    if quick:
        expected |= locomotion.QUICK | {"recipe": recipe}
    assert {name: getattr(settings, name) for name in expected} == expected
    assert all(
        getattr(settings, name) is not None for name in expected if name != "curvature_tasks"
    )
    reinforcement.check(settings)


def test_a_recipe_is_the_papers_unless_it_is_quick_and_what_is_given_holds(monkeypatch):
    ant = ("--environment", "ant_direction")
    assert given(monkeypatch, locomotion, *ant).test_rollouts == 40
    assert given(monkeypatch, locomotion, *ant, "--test-rollouts", "3").test_rollouts == 3
    assert given(monkeypatch, locomotion, "--quick").inner_loss == "ratio"
    quick = given(monkeypatch, locomotion, "--quick", "--recipe", "paper")
    assert (quick.inner_loss, quick.gae_lambda, quick.iterations) == ("policy_gradient", 1.0, 4)
    quick = given(monkeypatch, navigation, "--quick")
    assert {name: getattr(quick, name) for name in navigation.QUICK} == navigation.QUICK


# Options of both scripts, and what the line must say.
WRONG = [
    ("--iterations 0", "--iterations 0", "at least 1"),
    ("--iterations -5", "--iterations"),
    ("--iterations 7 --epoch-iterations 5", "--iterations 7", "5"),
    ("--epoch-iterations 0", "--epoch-iterations 0"),
    ("--inner-steps 0", "--inner-steps 0"),
    ("--meta-batch 0", "--meta-batch 0"),
    ("--rollouts 0", "--rollouts 0"),
    ("--rollouts -3", "--rollouts -3"),
    ("--horizon 0", "--horizon 0"),
    ("--curvature-tasks 0", "--curvature-tasks 0"),
    ("--test-tasks 0", "--test-tasks 0"),
    ("--test-rollouts 0", "--test-rollouts 0"),
    ("--test-steps -1", "--test-steps -1"),
    ("--patience 0", "--patience 0"),
    ("--seed -1", "--seed -1"),
    ("--inner-step-size 0", "--inner-step-size 0"),
    ("--inner-step-size nan", "--inner-step-size nan"),
    ("--output-scale 0", "--output-scale 0"),
    ("--max-divergence -0.1", "--max-divergence -0.1"),
    ("--discount 1.5", "--discount 1.5"),
    ("--gae-lambda -1", "--gae-lambda -1"),
    ("--log-scale inf", "--log-scale inf"),
    ("--fine-tuning 0", "--fine-tuning"),
    ("--inner-loss dise", "--inner-loss 'dise'", "dice"),
    ("--baselines best", "--baselines 'best'", "pretrained"),
]
OF_LOCOMOTION = [
    ("--environment humanoid", "--environment 'humanoid'", "ant_goal"),
    ("--physics v4", "--physics 'v4'", "v5"),
    ("--recipe ancient", "--recipe 'ancient'", "modern"),
]
ROWS = [
    *((module, *row) for module in (navigation, locomotion) for row in WRONG),
    *((locomotion, *row) for row in OF_LOCOMOTION),
]


@pytest.mark.parametrize(
    "row", ROWS, ids=[f"{row[0].__name__.split('.')[-1]} {row[1]}" for row in ROWS]
)
def test_options_that_make_no_sense_are_refused_in_a_line(row, monkeypatch, capsys, tmp_path):
    module, options, *fragments = row
    folder = tmp_path / "run"
    words = [*options.split(), "--output", str(folder)]
    check_refusal(lambda: common.run(module.main), words, fragments, monkeypatch, capsys)
    assert not folder.exists()


@pytest.mark.slow  # the context itself has tests/rl/test_context.py
def test_the_context_vector_is_trained_with_mamls_step_and_tested_with_its_own(run):
    folder = run(navigation, "--iterations", "1", "--baselines", "context")
    test = json.loads((folder / "results.json").read_text())["test"]
    assert test["MAML"]["step_size"] == 0.5
    assert test["context"]["step_size"] == 0.1
    assert np.shape(test["context"]["values"]) == (3, 2)
    learners = [
        keras.saving.load_model(folder / n / "checkpoint.keras") for n in ("maml", "context")
    ]
    assert [made.adaptable is None for made in learners] == [True, False]
    assert learners[1].policy.get_layer("context").units == reinforcement.CONTEXT
    chosen = zip(learners[1].policy.trainable_variables, learners[1].adaptable, strict=True)
    assert [v.shape for v, adapts in chosen if adapts] == [(reinforcement.CONTEXT,)]
    for made in learners:
        assert made.inner_steps == 1
        assert made.inner_optimizer.get_config() == learners[0].inner_optimizer.get_config()


class _MadeUp(keras.callbacks.Callback):
    """In place of the measured returns after adaptation those of a list."""

    def __init__(self, returns):
        super().__init__()
        self._returns = returns

    def on_epoch_end(self, epoch, logs=None):
        if "return_1" in logs:
            # Before adapting it gets better all the time.
            logs |= {"return_0": epoch, "return_1": self._returns[epoch]}
        else:
            logs["return_0"] = self._returns[epoch]
        logs["seconds"] = 1.0


@pytest.mark.slow  # its loop is that of images, whose patience test_images has
def test_patience_counts_over_an_interruption_and_the_best_epoch_is_tested(run, monkeypatch):
    """The best epoch is the second; with a patience of 2 the fourth is the last one.

    MAML is interrupted after the third. The oracle, which takes part from then on, is not: what is
    trained beside MAML goes through the same lines.
    """
    returns = [-9.0, -1.0, -5.0, -2.0, 3.0, 4.0]
    monkeypatch.setattr(common, "_Seconds", lambda: _MadeUp(returns))
    options = ["--patience", "2", "--baselines"]
    run(navigation, "--iterations", "3", *options, "")
    folder = run(navigation, "--iterations", "6", *options, "oracle")
    results = json.loads((folder / "results.json").read_text())
    assert list(results["test"]) == ["MAML", "oracle"]
    for name in results["test"]:
        assert len(common.read_history(folder / name.lower())) == 4
        assert results["test"][name]["iterations"] == 2
    with pytest.raises(SystemExit, match="patience: 2 there, None here"):
        run(navigation, "--iterations", "6", "--baselines", "oracle")


def test_mistakes_are_told(run):
    with pytest.raises(SystemExit, match="half_cheetah_direction"):
        run(locomotion, "--environment", "humanoid")
    with pytest.raises(SystemExit, match="'best'"):
        run(navigation, "--iterations", "1", "--baselines", "best")
