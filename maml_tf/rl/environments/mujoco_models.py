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
        'with `pip install "maml_tf[mujoco]"`.',
        name=error.name,
    ) from error

# Others take it from here, so that its absence is told once, above.
__all__ = ["HAS_CONTACT_SENSORS", "PHYSICS", "load", "load_sensing", "mujoco"]

PHYSICS = ("paper", "v5")
# MuJoCo has them from 3.3.5 on. (Meta-World wants 3.3.0.)
HAS_CONTACT_SENSORS = hasattr(mujoco, "mjtConDataField")
_NET_FORCE = 3  # how a contact sensor sums contacts up: `reduce="netforce"`


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
    return _compiled(*_spec(robot, physics))


def load_sensing(robot, physics):
    """A copy of the model that measures a state; where it would go next means nothing.

    Its sensors are, in this order: centre of mass and its velocity of the first body's subtree (3
    and 3), and for every body but the world the net force, torque and place (3 each) of its
    contacts, in the global frame.

    Args:
        robot: as in `load`.
        physics: as in `load`.

    Returns:
        `mujoco.MjModel`.
    """
    spec, total = _spec(robot, physics)
    # One evaluation of the dynamics in place of RK4's four; sensors describe the first one.
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    bodies = spec.bodies[1:]
    for number, body in enumerate(bodies):
        body.name = body.name or f"body_{number}"
    kind = mujoco.mjtObj.mjOBJ_BODY
    for sensor in (mujoco.mjtSensor.mjSENS_SUBTREECOM, mujoco.mjtSensor.mjSENS_SUBTREELINVEL):
        spec.add_sensor(type=sensor, objtype=kind, objname=bodies[0].name)
    fields = mujoco.mjtConDataField
    wanted = (fields.mjCONDATA_FORCE, fields.mjCONDATA_TORQUE, fields.mjCONDATA_POS)
    mask = sum(1 << int(field) for field in wanted)
    for body in bodies:
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=kind,
            objname=body.name,
            intprm=[mask, _NET_FORCE, 1],
        )
    return _compiled(spec, total)


def _spec(robot, physics):
    """The robot's `mujoco.MjSpec`, and the mass that it shall have in all, or -1."""
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
    return spec, total


def _compiled(spec, total):
    model = spec.compile()
    if total > 0:
        mujoco.mj_setTotalmass(model, total)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
