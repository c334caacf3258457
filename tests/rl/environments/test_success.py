"""What environments tell of success in `info`: in rollouts, in logs, in evaluation."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import rl
from maml_tf.rl.environments import Navigation2D, from_gymnasium
from maml_tf.rl.sampling import Sampler


class Told(gymnasium.Env):
    """A rollout of task n succeeds at its n-th step alone, and ends after four."""

    observation_space = gymnasium.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def set_task(self, task):
        self.goal = int(task[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {"success": True}  # of a reset: it says nothing

    def step(self, action):
        self.steps += 1
        if self.goal == -1 and self.steps == 2:
            raise OSError("no simulator")
        observation = np.full(1, self.steps, np.float32)
        return observation, float(action[0]), self.steps == 4, False, self.info()

    def info(self):
        return {"success": float(self.steps == self.goal or self.goal == -1)}


class Robotics(Told):
    def info(self):
        return {"is_success": np.array(self.steps == self.goal)}


class Late(Told):
    """Says so at the end of a rollout alone; task 0 never does."""

    def info(self):
        return {"success": self.goal == 4} if self.steps == 4 and self.goal else {}


class Silent(Told):
    def info(self):
        return {"success": None, "distance": 0.1}


def make(kind=Told, tasks=(2, 4, 9), rollouts=3, horizon=6, at_once=16):
    tasks = np.array(tasks, np.float32)[:, None]
    environment = from_gymnasium(
        kind,
        tasks,
        task_count=len(tasks),
        rollouts=rollouts,
        horizon=horizon,
        workers=0,
        at_once=at_once,
    )
    environment.set_tasks(tasks)
    return environment


def learner(width=1):
    made = rl.MetaPolicy(rl.policies.gaussian(width, width, hidden=(4,)), 0.1)
    made.compile("sgd", updates=1)  # quicker to trace than a trust region
    return made


def collect(environment):
    policy = rl.policies.gaussian(1, 1, hidden=(4,))
    weights = [tf.repeat(w[None], environment.tasks, 0) for w in policy.get_weights()]
    return Sampler(policy, environment).collect(weights, 1)


@pytest.mark.parametrize("kind", [Told, Robotics])
@pytest.mark.parametrize("at_once", [16, 4, 2])
def test_any_step_that_succeeded_makes_a_rollout_a_success(kind, at_once):
    drawn = collect(make(kind, at_once=at_once))
    np.testing.assert_array_equal(drawn.successes(), [[1] * 3, [1] * 3, [0] * 3])
    np.testing.assert_allclose(drawn.success_rate(), 2 / 3)
    steps = drawn.info["success"].numpy()[0, 0]
    np.testing.assert_array_equal(steps, [0, 1, 0, 0, np.nan, np.nan])


def test_steps_after_the_horizon_do_not_count():
    np.testing.assert_array_equal(collect(make(horizon=3)).successes(), [[1] * 3, [0] * 3, [0] * 3])


def test_a_rollout_that_broke_is_neither_a_success_nor_a_failure():
    drawn = collect(make(tasks=(-1, 2, 9), rollouts=2))
    np.testing.assert_array_equal(drawn.successes(), [[np.nan] * 2, [1] * 2, [0] * 2])
    assert drawn.success_rate() == 0.5


def test_what_is_told_at_the_end_alone_counts_and_what_is_never_told_is_unknown():
    drawn = collect(make(Late, tasks=(4, 3, 0), rollouts=2))
    np.testing.assert_array_equal(drawn.successes(), [[1] * 2, [0] * 2, [np.nan] * 2])


@pytest.mark.parametrize(
    "make", [lambda: make(Silent), lambda: Navigation2D(3, 3, horizon=4)], ids=["rows", "graph"]
)
def test_where_nothing_is_told_there_is_no_success(make):
    environment = make()
    made = learner(environment.observation_spec().shape[0])
    result = rl.evaluation.evaluate(made, environment, 1)
    assert result.success is None
    assert "success" not in result.table()
    assert "success" not in result.to_dict()


def test_training_logs_the_share_of_rollouts_that_succeeded_where_it_is_told():
    made, rates = learner(), {}
    for name, environment in {
        "all": make(tasks=(2, 2, 2)),
        "none": make(tasks=(9, 9, 9)),
        "silent": make(Silent),
    }.items():
        history = made.fit(environment, 1, verbose=0).history
        rates[name] = [history.get(f"success_{k}") for k in range(2)]
    assert rates == {"all": [[1.0]] * 2, "none": [[0.0]] * 2, "silent": [None] * 2}


def test_evaluation_reports_success_beside_the_return(tmp_path):
    result = rl.evaluation.evaluate(learner(), make(), 1, tasks=[[2.0], [9.0], [-1.0]])
    np.testing.assert_array_equal(result.success.values, [[1, 1], [0, 0], [np.nan, np.nan]])
    result = rl.evaluation.evaluate(learner(), make(), 1, tasks=[[2.0], [9.0], [9.0]])
    assert result.metric == "return"
    np.testing.assert_allclose(result.success.mean, 1 / 3)
    assert "| success, mean ± 95 % |" in result.table()
    assert "| 33.3% ± 53.3% |" in result.table().splitlines()[-1]
    result.to_json(tmp_path / "result.json")
    read = rl.evaluation.Returns.from_json(tmp_path / "result.json")
    np.testing.assert_array_equal(read.values, result.values)
    np.testing.assert_array_equal(read.success.values, result.success.values)
