"""Films of a policy in a MuJoCo environment, without a screen."""

import pathlib

import imageio.v3 as imageio
import keras
import mujoco
import numpy as np


def record(policy, environment, path, *, width=320, height=240, seed=0):
    """Renders one rollout of the mean action to a GIF or, with imageio's ffmpeg, an MP4.

    Args:
        policy: `keras.Model`, observations `[1, O]` to `{"loc": [1, A], ...}`.
        environment: a `maml_tf.rl.environments` robot with `tasks=1, rollouts=1`, its task set.
        path: where the film goes; its ending chooses the format.
        width: pixels.
        height: pixels.
        seed: `int`, of the reset.

    Raises:
        ValueError: an environment of more than one row.
        RuntimeError: no way of drawing without a screen was found.
    """
    if environment.batch_size != 1:
        raise ValueError(
            f"Expected an environment of one row, received batch_size={environment.batch_size}. "
            "Use `environment.resized(tasks=1, rollouts=1)`."
        )
    environment.seed(seed)
    observation, frames = environment.reset_rows(), []
    data = mujoco.MjData(environment.model)
    renderer = _renderer(environment.model, width, height)
    camera = mujoco.MjvCamera()
    camera.distance, camera.elevation, camera.azimuth = 4.0, -15, 90
    try:
        for _ in range(environment.horizon):
            action = keras.ops.convert_to_numpy(policy(observation)["loc"])
            observation, _, ended, _ = environment.step_rows(action)
            data.qpos[:] = environment.qpos[0]
            mujoco.mj_forward(environment.model, data)
            camera.lookat[:] = data.subtree_com[1]
            renderer.update_scene(data, camera)
            frames.append(renderer.render())
            if ended[0]:
                break
    finally:
        renderer.close()
    frames = np.stack(frames[::2])  # every second one: a GIF is not read faster than 50 a second
    seconds = 2 * environment.model.opt.timestep * environment.frame_skip[environment.physics]
    gif = pathlib.Path(path).suffix.lower() == ".gif"
    options = {"duration": 1000 * seconds, "loop": 0} if gif else {"fps": round(1 / seconds)}
    imageio.imwrite(path, frames, **options)


def _renderer(model, width, height):
    try:
        return mujoco.Renderer(model, height=height, width=width)
    except Exception as error:
        # Which one depends on the GL library that is or is not installed.
        raise RuntimeError(
            "Expected a way of drawing without a screen. Set the environment variable "
            "MUJOCO_GL=egl (with libEGL) or MUJOCO_GL=osmesa (with libOSMesa) before Python "
            f"starts. MuJoCo said: {error}"
        ) from error
