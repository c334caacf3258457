"""Films of a policy in a MuJoCo environment: the robot from the side, without a screen or OpenGL.

MuJoCo's own renderer needs a GL library that servers often lack. The robots here are made of
capsules and a sphere, which are lines and a circle from the side.
"""

import os
import pathlib
from typing import Any

import imageio.v3 as imageio
import keras
import mujoco
import numpy as np
from PIL import Image, ImageDraw

from maml_tf import arguments, files
from maml_tf.rl import compatibility
from maml_tf.rl.environments.locomotion import Locomotion

_METRES = 3.0  # shown from left to right
_SKY, _GROUND, _TICK = (245, 247, 250), (205, 200, 190), (150, 145, 135)
_NEAR, _FAR = (40, 90, 160), (150, 180, 215)


def record(
    policy: keras.Model,
    environment: Any,
    path: str | os.PathLike[str],
    *,
    width: int = 480,
    height: int = 270,
    seed: int = 0,
) -> None:
    """Films one rollout of the mean action as a GIF, or, with imageio's ffmpeg, an MP4.

    Args:
        policy: `keras.Model`, observations `[1, O]` to `{"loc": [1, A], ...}`.
        environment: a robot of `maml_tf.rl.environments` with `tasks=1, rollouts=1`, its task
            set.
        path: where the film goes; its ending chooses the format.
        width: pixels.
        height: pixels.
        seed: `int`, of the reset.

    Raises:
        TypeError: an environment that is no robot.
        ValueError: an environment of more than one row, or that the policy does not fit; a picture
            of fewer than 16 pixels.
    """
    if not isinstance(environment, Locomotion):
        raise TypeError(
            "Expected `environment` to be a robot of `maml_tf.rl.environments`. Received: "
            f"{arguments.received('environment', environment)}. Give one such as "
            "`HalfCheetahDirection(1, 1)`."
        )
    if environment.batch_size != 1:
        raise ValueError(
            "Expected an environment of one row. Received: "
            f"batch_size={environment.batch_size}. Use "
            "`environment.resized(tasks=1, rollouts=1)`."
        )
    compatibility.check(policy, environment)
    for name, value in (("width", width), ("height", height)):
        arguments.integer(name, value, minimum=16)
    environment.seed(seed)
    observation, frames = environment.reset_rows(), []
    data = mujoco.MjData(environment.model)
    for _ in range(environment.horizon):
        data.qpos[:] = environment.qpos[0]
        mujoco.mj_forward(environment.model, data)
        frames.append(draw(environment.model, data, width, height))
        action = keras.ops.convert_to_numpy(policy(observation)["loc"])
        observation, _, ended, _ = environment.step_rows(action)
        if ended[0]:
            break
    # Every second one: no viewer shows a GIF at 100 frames a second.
    film = np.stack(frames[::2])
    seconds = 2 * environment.model.opt.timestep * environment.frame_skip[environment.physics]
    gif = pathlib.Path(path).suffix.lower() == ".gif"
    options = {"duration": 1000 * seconds, "loop": 0} if gif else {"fps": round(1 / seconds)}
    with files.whole(path) as beside:
        imageio.imwrite(beside, film, **options)


def draw(model, data, width, height):
    """The robot from the side, its centre of mass in the middle of the picture.

    Args:
        model: `mujoco.MjModel` of capsules and spheres.
        data: `mujoco.MjData`, its kinematics computed.
        width: pixels.
        height: pixels.

    Returns:
        uint8 `[height, width, 3]`.
    """
    scale = width / _METRES
    middle = data.subtree_com[1, 0]
    ground = int(0.85 * height)

    def pixel(point):
        return width / 2 + scale * (point[0] - middle), ground - scale * point[2]

    picture = Image.new("RGB", (width, height), _SKY)
    canvas = ImageDraw.Draw(picture)
    canvas.rectangle([0, ground, width, height], fill=_GROUND)
    first = int(np.floor(middle - _METRES / 2))
    for metre in range(first, first + int(_METRES) + 3):
        # Marks on the ground: by these one sees that it moves.
        x, _ = pixel((metre, 0, 0))
        canvas.line([x, ground, x, ground + 8], fill=_TICK, width=2)
        canvas.text((x + 3, ground + 8), f"{metre} m", fill=_TICK)
    # What is farther from the viewer first.
    for geom in sorted(range(model.ngeom), key=lambda g: -data.geom_xpos[g, 1]):
        _draw_geom(canvas, model, data, geom, pixel, scale)
    return np.asarray(picture)


def _draw_geom(canvas, model, data, geom, pixel, scale):
    kind = mujoco.mjtGeom(int(model.geom_type[geom]))
    if kind not in (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_SPHERE):
        return
    centre, radius = data.geom_xpos[geom], scale * model.geom_size[geom, 0]
    half = np.zeros(3)
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        half = model.geom_size[geom, 1] * data.geom_xmat[geom].reshape(3, 3)[:, 2]
    colour = _FAR if centre[1] > data.subtree_com[1, 1] + 0.05 else _NEAR
    ends = [pixel(centre - half), pixel(centre + half)]
    canvas.line([*ends[0], *ends[1]], fill=colour, width=max(1, round(2 * radius)))
    for x, y in ends:
        canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
