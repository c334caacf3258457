"""Tiny runs of the scripts of reinforcement learning, resumed and not."""

import json

import numpy as np
import pytest

from train import common, locomotion, navigation

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
    options = ["--baselines", "random oracle"]
    whole = run(navigation, "--iterations", "2", *options)
    run(navigation, "--iterations", "1", *options, output="parts")
    parts = run(navigation, "--iterations", "2", *options, output="parts")
    results = [json.loads((folder / "results.json").read_text()) for folder in (whole, parts)]
    assert results[0]["test"] == results[1]["test"]
    assert set(results[0]["test"]) == {"MAML", "random", "oracle"}
    assert np.shape(results[0]["test"]["MAML"]["values"]) == (3, 2)
    for name in ("returns.png", "paths.png"):
        assert (whole / name).read_bytes().startswith(b"\x89PNG")


def test_locomotion_takes_the_papers_settings_of_the_environment(run):
    options = ["--iterations", "1", "--environment", "half_cheetah_direction"]
    folder = run(locomotion, *options, "--recipe", "modern", "--baselines", "random")
    settings = json.loads((folder / "config.json").read_text())
    assert settings["max_divergence"] == 0.02
    assert settings["inner_loss"] == "ratio"
    results = json.loads((folder / "results.json").read_text())
    assert results["paper"]["MAML"][1] == 293.19


def test_mistakes_are_told(run):
    with pytest.raises(SystemExit, match="half_cheetah_direction"):
        run(locomotion, "--environment", "humanoid")
    with pytest.raises(SystemExit, match="'best'"):
        run(navigation, "--iterations", "1", "--baselines", "best")
