"""The trained policies do what their results say, in the code of today."""

import json
import pathlib

import keras
import numpy as np
import pytest

from maml_tf import inner_optimizers, rl

SAVED = pathlib.Path(__file__).parents[2] / "saved_models"
FAMILIES = {
    "navigation": lambda: rl.environments.Navigation2D(20, 20),
    "half_cheetah_direction": lambda: rl.environments.HalfCheetahDirection(8, 20),
    "half_cheetah_velocity": lambda: rl.environments.HalfCheetahVelocity(12, 20),
    "ant_direction": lambda: rl.environments.AntDirection(8, 20),
    "ant_velocity": lambda: rl.environments.AntVelocity(12, 20),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_new_tasks_give_the_returns_of_the_card(name):
    published = json.loads((SAVED / name / "results.json").read_text())["test"]["MAML"]
    learner = keras.saving.load_model(SAVED / name / "learner.keras")
    size = published["step_size"]
    result = rl.evaluation.evaluate(
        learner,
        FAMILIES[name](),
        1,
        inner_optimizer=inner_optimizers.SGD([size, size / 2]),
        seed=3,
    )
    # Both means are of samples: their difference has a standard error of its own.
    spread = np.std(np.array(published["values"])[:, :2], 0)
    error = spread * np.sqrt(1 / len(published["values"]) + 1 / result.num_tasks)
    assert (np.abs(result.mean - published["mean"][:2]) < 4 * error).all()
