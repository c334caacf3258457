"""Families of tasks as TF-Agents environments."""

import importlib

from maml_tf.rl.environments.base import TaskEnvironment
from maml_tf.rl.environments.navigation import Navigation2D

# MuJoCo and gymnasium are needed only by those who use them.
_LAZY = {
    "HalfCheetahDirection": "half_cheetah",
    "HalfCheetahVelocity": "half_cheetah",
    "AntDirection": "ant",
    "AntVelocity": "ant",
    "AntGoal": "ant",
    "from_gymnasium": "gymnasium_tasks",
}

__all__ = ["Navigation2D", "TaskEnvironment", *_LAZY]


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
