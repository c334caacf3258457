import gymnasium
import imageio.v3 as imageio
import mujoco
import numpy as np
import pytest
from tf_agents.environments import tf_py_environment, utils

from maml_tf import rl
from maml_tf.rl import environments, video
from maml_tf.rl.environments import ant

ALL = ["HalfCheetahDirection", "HalfCheetahVelocity", "AntDirection", "AntVelocity", "AntGoal"]


def make(name, tasks=2, rollouts=2, seed=0, **kwargs):
    environment = getattr(environments, name)(tasks, rollouts, seed=seed, **kwargs)
    environment.set_tasks(environment.sample_tasks(tasks, seed=5))
    return environment


def actions(environment, steps, seed=0):
    shape = (steps, environment.batch_size, environment.model.nu)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("physics", ["paper", "v5"])
@pytest.mark.parametrize("name", ALL)
def test_tf_agents_validates(name, physics):
    environment = make(name, physics=physics, horizon=5)
    utils.validate_py_environment(environment, episodes=6)
    wrapped = tf_py_environment.TFPyEnvironment(make(name, physics=physics, horizon=5))
    assert wrapped.reset().observation.shape == (4, *environment.observation_spec().shape)
    size = {"HalfCheetah": {"paper": 20, "v5": 17}, "Ant": {"paper": 125, "v5": 105}}
    robot = "HalfCheetah" if name.startswith("Half") else "Ant"
    assert environment.observation_spec().shape == (size[robot][physics],)


@pytest.mark.parametrize("physics", ["paper", "v5"])
@pytest.mark.parametrize("name", ["HalfCheetahDirection", "AntDirection"])
def test_one_step_is_mujocos(name, physics):
    environment = make(name, physics=physics)
    environment.reset_rows()
    for action in actions(environment, 3):
        data = mujoco.MjData(environment.model)
        data.qpos[:], data.qvel[:] = environment.qpos[1], environment.qvel[1]
        data.ctrl[:] = np.clip(action[1], -1, 1)
        mujoco.mj_step(environment.model, data, nstep=environment.frame_skip[physics])
        environment.step_rows(action)
        np.testing.assert_array_equal(environment.qpos[1], data.qpos)
        np.testing.assert_array_equal(environment.qvel[1], data.qvel)


@pytest.mark.parametrize(
    ("name", "gym_name"), [("HalfCheetahDirection", "HalfCheetah-v5"), ("AntDirection", "Ant-v5")]
)
def test_v5_steps_as_gymnasium(name, gym_name):
    """Rewards too: forward, gymnasium's own forward reward is the task's progress."""
    ours = make(name, tasks=1, rollouts=1, physics="v5")
    ours.set_tasks(np.ones((1, 1), np.float32))
    ours.reset_rows()
    theirs = gymnasium.make(gym_name).unwrapped
    theirs.reset(seed=0)
    theirs.set_state(ours.qpos[0], ours.qvel[0])
    theirs.data.qacc_warmstart[:] = 0
    before = ours.qpos[0, 0]
    action = np.clip(actions(ours, 1)[0], -1, 1)
    observation, reward, _, _, info = theirs.step(action[0])
    got, our_reward, _, _ = ours.step_rows(action)
    np.testing.assert_allclose(ours.qpos[0], theirs.data.qpos, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.qvel[0], theirs.data.qvel, rtol=1e-9, atol=1e-10)
    # All but the contact forces, which gymnasium takes before the last frame.
    width = ours.model.nq + ours.model.nv - (1 if gym_name.startswith("Half") else 2)
    np.testing.assert_allclose(got[0, :width], observation[:width], rtol=1e-6, atol=1e-7)
    # gymnasium's ant takes the velocity from positions that lag a frame behind qpos.
    forward = (theirs.data.qpos[0] - before) / theirs.dt
    expected = reward - info["reward_forward"] + forward - info.get("reward_contact", 0)
    contact = 0
    if gym_name == "Ant-v5":
        contact = 5e-4 * (np.clip(ours.contact[0], -1, 1) ** 2).sum()
    np.testing.assert_allclose(our_reward[0] + contact, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["HalfCheetahVelocity", "AntVelocity"])
def test_centre_of_mass_and_reward_of_the_paper(name):
    environment = make(name)
    environment.reset_rows()
    for action in actions(environment, 4):
        observation, reward, _, _ = environment.step_rows(action)
    data = mujoco.MjData(environment.model)
    data.qpos[:], data.qvel[:] = environment.qpos[3], environment.qvel[3]
    mujoco.mj_forward(environment.model, data)
    mujoco.mj_subtreeVel(environment.model, data)
    mujoco.mj_rnePostConstraint(environment.model, data)
    com, speed = data.subtree_com[1], data.subtree_linvel[1, 0]
    np.testing.assert_allclose(observation[3, -3:], com, rtol=1e-6, atol=1e-6)
    error = abs(speed - environment.row_tasks[3, 0])
    squared = (np.clip(action[3], -1, 1) ** 2).sum()
    if name.startswith("Half"):
        expected = -error - 0.05 * squared
    else:
        contact = (np.clip(data.cfrc_ext, -1, 1) ** 2).sum()
        expected = 1 - error + 0.05 - 0.005 * squared - 0.0005 * contact
    np.testing.assert_allclose(reward[3], expected, rtol=1e-5)


@pytest.mark.parametrize("physics", ["paper", "v5"])
def test_an_ants_contact_forces_are_mujocos(physics):
    """Sensors give what `mj_rnePostConstraint` computes, the motors holding on to the action."""
    environment = make("AntDirection", physics=physics)
    environment.reset_rows()
    touching = 0
    for action in actions(environment, 40):
        # A row that begins anew has not acted yet.
        action = np.where(environment.ended_rows()[:, None], 0, action)
        environment.step_rows(action)
        for row in range(environment.batch_size):
            data = mujoco.MjData(environment.model)
            data.qpos[:], data.qvel[:] = environment.qpos[row], environment.qvel[row]
            data.ctrl[:] = np.clip(action[row], -1, 1)
            mujoco.mj_forward(environment.model, data)
            mujoco.mj_rnePostConstraint(environment.model, data)
            np.testing.assert_allclose(environment.contact[row], data.cfrc_ext, atol=1e-9)
            np.testing.assert_allclose(environment.rotation[row], data.xmat[1], atol=1e-12)
            touching += data.ncon > 0
    assert touching > 20


@pytest.mark.parametrize("physics", ["paper", "v5"])
def test_an_ant_is_measured_without_sensors_too(physics, monkeypatch):
    """MuJoCo before 3.3.5, such as Meta-World's 3.3.0, has no sensors of contacts."""
    environment, touching = make("AntVelocity", physics=physics, horizon=30), 0
    names = ("contact", "centre", "centre_velocity", "rotation")
    environment.reset_rows()
    for action in actions(environment, 40):
        environment.step_rows(action)
        expected = {name: getattr(environment, name) for name in names}
        touching += expected["contact"].any((1, 2)).sum()
        with monkeypatch.context() as without:
            without.setattr(ant, "HAS_CONTACT_SENSORS", False)
            environment.measure()
        for name in names:
            received = getattr(environment, name)
            np.testing.assert_allclose(received, expected[name], atol=1e-9, err_msg=name)
    assert touching > 20


@pytest.mark.parametrize("name", ["HalfCheetahDirection", "AntVelocity"])
def test_rows_that_do_not_move_stay_and_the_others_do_as_ever(name):
    some, all_of_them = make(name), make(name)
    moving = np.array([True, False, True, False])
    for environment in (some, all_of_them):
        environment.reset_rows()
    still = some.qpos[1].copy()
    for action in actions(some, 5):
        ours, theirs = some.step_rows(action, moving), all_of_them.step_rows(action)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a[moving], b[moving])
    np.testing.assert_array_equal(some.qpos[1], still)
    state = some.get_state()
    assert state["steps"].tolist() == [5, 0, 5, 0]
    # It goes on from where it stayed.
    action = actions(some, 1)[0]
    fresh = make(name)
    fresh.reset_rows()
    np.testing.assert_array_equal(some.step_rows(action)[0][1], fresh.step_rows(action)[0][1])


def test_the_papers_models():
    cheetah, ant = make("HalfCheetahVelocity").model, make("AntVelocity").model
    np.testing.assert_allclose(cheetah.body_mass.sum(), 14)
    np.testing.assert_allclose(cheetah.actuator_gear[:, 0], [120, 90, 60, 120, 60, 30])
    assert cheetah.opt.timestep == 0.01
    assert ant.opt.timestep == 0.02
    assert ant.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    np.testing.assert_allclose(ant.actuator_gear[:, 0], 150)
    np.testing.assert_allclose(ant.geom_solimp[:, :3], np.tile([0.8, 0.8, 0.01], (ant.ngeom, 1)))


@pytest.mark.parametrize("name", ["HalfCheetahDirection", "AntVelocity"])
def test_a_row_is_the_same_in_a_batch_of_any_size_and_on_any_threads(name):
    large, small = make(name, tasks=3, threads=2), make(name, tasks=2, threads=1)
    tasks = large.sample_tasks(3, seed=5)
    large.set_tasks(tasks)
    small.set_tasks(tasks[:2])
    np.testing.assert_array_equal(large.reset_rows()[:4], small.reset_rows())
    for action in actions(large, 5):
        for ours, theirs in zip(large.step_rows(action), small.step_rows(action[:4]), strict=True):
            np.testing.assert_array_equal(ours[:4], theirs)


@pytest.mark.parametrize("name", ["HalfCheetahDirection", "AntVelocity"])
def test_rollouts_drawn_in_halves_are_those_of_the_whole(name):
    environment = make(name, tasks=3, rollouts=2, horizon=5)
    environment.set_tasks(environment.sample_tasks(3, seed=5))
    sizes = environment.observation_spec().shape[0], environment.action_spec().shape[0]
    policy = rl.policies.gaussian(*sizes, hidden=(4,))
    weights = [np.stack([w, 2 * w, 3 * w]) for w in policy.get_weights()]
    drawn = rl.sampling.Sampler(policy, environment).collect(weights, seed=7)
    environment.seed(7)
    observation = environment.reset_rows()
    for t in range(5):
        np.testing.assert_array_equal(drawn.observation[:, :, t], observation.reshape(3, 2, -1))
        action = drawn.action[:, :, t].numpy().reshape(6, -1)
        observation, reward, _, _ = environment.step_rows(action)
        np.testing.assert_array_equal(drawn.reward[:, :, t], reward.reshape(3, 2))
    means = rl.policies.apply_tasks(policy, weights, drawn.observation[:, :, 0])["loc"]
    # Float32 sums of terms of about 0.1, in another order: some may cancel to almost nothing.
    np.testing.assert_allclose(drawn.outputs["loc"][:, :, 0], means, rtol=1e-5, atol=1e-7)
    noise = (drawn.action - drawn.outputs["loc"])[:, :, 0].numpy()
    assert len(np.unique(noise)) == noise.size, "two rows drew the same"


@pytest.mark.parametrize("name", ["HalfCheetahDirection", "AntVelocity"])
def test_resumes_bit_equal(name):
    environment = make(name, horizon=6)
    environment.reset_rows()
    plan = actions(environment, 20)
    for action in plan[:4]:
        environment.step_rows(action)
    saved = environment.get_state()
    expected = [environment.step_rows(action) for action in plan[4:]]  # through two resets
    other = make(name, horizon=6, seed=99)
    other.set_state(saved)
    for action, one in zip(plan[4:], expected, strict=True):
        for a, b in zip(other.step_rows(action), one, strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_end_at_the_horizon_and_begin_again():
    environment = make("HalfCheetahDirection", horizon=3)
    environment.reset()
    kinds = [environment.step(a).step_type[0] for a in actions(environment, 5)]
    assert kinds == [1, 1, 2, 0, 1]


def test_an_ant_falls():
    environment = make("AntDirection")
    environment.reset()
    environment.qpos[1, 2] = 5.0
    step = environment.step(actions(environment, 1)[0])
    assert step.step_type.tolist() == [1, 2, 1, 1]
    assert step.discount.tolist() == [1, 0, 1, 1]


def test_physics_that_diverges_ends_its_row_and_no_other(caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its own log of it into the working folder
    healthy, broken = make("HalfCheetahDirection"), make("HalfCheetahDirection")
    healthy.reset_rows(), broken.reset_rows()
    broken.qvel[2] = 1e12
    action = actions(healthy, 1)[0]
    observation, reward, ended, _ = broken.step_rows(action)
    expected = healthy.step_rows(action)
    assert ended.tolist() == broken.discarded.tolist() == [False, False, True, False]
    assert np.isfinite(observation).all()
    assert reward[2] == 0
    for row in (0, 1, 3):
        np.testing.assert_array_equal(observation[row], expected[0][row])
    assert "diverged" in caplog.text
    broken.step_rows(action)
    assert not broken.discarded.any()


@pytest.mark.parametrize(
    ("action", "message"),
    [(np.zeros((3, 6)), r"shape \(4, 6\)"), (np.full((4, 6), np.nan), "row 0")],
)
def test_bad_actions_are_refused_before_anything_moves(action, message):
    environment = make("HalfCheetahDirection")
    environment.reset_rows()
    before = environment.qpos.copy()
    with pytest.raises(ValueError, match=message):
        environment.step_rows(action)
    np.testing.assert_array_equal(environment.qpos, before)


def test_unknown_tasks_and_physics_are_refused():
    with pytest.raises(ValueError, match="Received: tasks of shape"):
        make("HalfCheetahDirection").set_tasks([[1.0]])
    with pytest.raises(ValueError, match="'v4'"):
        make("HalfCheetahDirection", physics="v4")


def test_tasks_follow_their_distribution():
    draw = {name: make(name).sample_tasks(2000, seed=0) for name in ALL}
    for name in ("HalfCheetahDirection", "AntDirection"):
        assert set(np.unique(draw[name])) == {-1.0, 1.0}
        assert abs(draw[name].mean()) < 0.07
    assert 1.95 < draw["HalfCheetahVelocity"].max() <= 2
    assert 2.95 < draw["AntVelocity"].max() <= 3
    radius = np.linalg.norm(draw["AntGoal"], axis=1)
    assert radius.max() <= 3
    np.testing.assert_allclose(np.mean(radius), 2, atol=0.05)  # 2/3 of 3 m, evenly on the disk


def test_an_oracle_sees_its_task():
    environment = make("AntGoal", observe_task=True)
    observation = environment.reset_rows()
    np.testing.assert_array_equal(observation[:, -2:], environment.row_tasks)


def test_a_film_of_a_policy(tmp_path):
    environment = make("HalfCheetahDirection", tasks=1, rollouts=1, horizon=10)
    path = tmp_path / "film.gif"
    video.record(rl.policies.gaussian(20, 6), environment, path, width=64, height=48)
    frames = imageio.imread(path)
    assert frames.shape[0] <= 5  # a GIF leaves out what does not change
    assert frames.shape[1:] == (48, 64, 3)
    assert (frames[0] != frames[-1]).any()
    with pytest.raises(ValueError, match="batch_size=4"):
        video.record(rl.policies.gaussian(20, 6), make("HalfCheetahDirection"), path)


def test_a_picture_shows_the_robot_where_it_is():
    environment = make("AntDirection", tasks=1, rollouts=1)
    data = mujoco.MjData(environment.model)
    heights = []
    for z in (0.6, 0.9):
        data.qpos[:] = environment.start()
        data.qpos[2] = z
        mujoco.mj_forward(environment.model, data)
        picture = video.draw(environment.model, data, 300, 200)
        robot = (picture == video._NEAR).all(-1)
        heights.append(np.argwhere(robot).mean(0)[0])
    # 0.3 m higher is 30 pixels higher: 3 m are 300 pixels.
    np.testing.assert_allclose(heights[0] - heights[1], 30, atol=1)


class Exploding(environments.HalfCheetahDirection):
    """The first row of the task -1 explodes in the middle of its rollout."""

    def step_rows(self, action, moving=None):
        row = np.flatnonzero(self.row_tasks == -1)[:1]
        self.qvel[row[self._state["steps"][row] == 3]] = 1e12
        return super().step_rows(action, moving)


def test_a_rollout_that_breaks_in_its_middle_does_not_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = Exploding(2, 2, horizon=8)
    environment.set_tasks([[1.0], [-1.0]])
    policy = rl.policies.gaussian(20, 6, hidden=(4,))
    weights = [np.repeat(w[None], 2, 0) for w in policy.get_weights()]
    drawn = rl.sampling.Sampler(policy, environment).collect(weights, seed=0)
    np.testing.assert_array_equal(drawn.mask.numpy().sum(-1), [[8, 8], [0, 8]])
    assert np.isnan(drawn.returns().numpy()).tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize(("name", "ends"), [("AntVelocity", True), ("AntGoal", False)])
def test_an_ant_that_falls_goes_on_only_where_every_step_costs(name, ends):
    environment = make(name)
    environment.reset_rows()
    environment.qpos[1, 2] = 0.1
    terminated = environment.step_rows(np.zeros((4, 8), np.float32))[3]
    assert terminated.tolist() == [False, ends, False, False]
