"""MuJoCo models of the paper's robots, made from those that gymnasium ships.

`"v5"` is gymnasium's model as it is. `"paper"` is rllab's, which Finn et al. (2017) used: for the
half-cheetah the two are the same; for the ant they differ in the time step (0.02 against 0.01 s)
and in the softness of the contacts (solimp .8 .8 .01). gymnasium's gear of 150 with controls
in [-1, 1] is rllab's gear of 1 with controls in [-150, 150].
"""

import pathlib

try:
    import gymnasium
    import mujoco
    import mujoco.rollout
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"Expected gymnasium and mujoco for locomotion, did not find `{error.name}`. Install them "
        'with `pip install "maml_tf[rl]"`.',
        name=error.name,
    ) from error

# Others take it from here, so that its absence is told once, above.
__all__ = ["PHYSICS", "load", "mujoco"]

PHYSICS = ("paper", "v5")


def load(robot, physics):
    """The compiled model of a robot.

    Args:
        robot: `"half_cheetah"` or `"ant"`.
        physics: one of `PHYSICS`.

    Returns:
        `mujoco.MjModel`.

    Raises:
        ValueError: other physics.
    """
    if physics not in PHYSICS:
        raise ValueError(f"Expected `physics` to be one of {PHYSICS}, received {physics!r}.")
    folder = pathlib.Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    spec = mujoco.MjSpec.from_file(str(folder / f"{robot}.xml"))
    total = spec.compiler.settotalmass
    # Deprecated in the file: compiling with it warns and writes a log into the working folder.
    spec.compiler.settotalmass = -1
    if robot == "ant" and physics == "paper":
        spec.option.timestep = 0.02
        for geom in spec.geoms:
            geom.solimp[:3] = 0.8, 0.8, 0.01
    model = spec.compile()
    if total > 0:
        mujoco.mj_setTotalmass(model, total)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
