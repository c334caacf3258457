"""The one place where TF-Agents is imported.

TF-Agents 0.19 and TensorFlow Probability 0.23 were written for Keras 2 and refuse to be imported
unless TensorFlow is told to keep it (`TF_USE_LEGACY_KERAS=1`). Only their environments, specs,
time steps, trajectories, drivers and distributions are used here; networks are Keras 3 models.
"""

import contextlib
import io
import os
import warnings

try:
    # Read at the first import of either; other code sees the environment as it was.
    _before = os.environ.get("TF_USE_LEGACY_KERAS")
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    # gym writes a notice of its end to stderr; invalid escapes and distutils warn.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import tensorflow_probability as tfp
        from tf_agents.environments import py_environment, tf_environment, tf_py_environment
        from tf_agents.policies import tf_policy
        from tf_agents.specs import array_spec, tensor_spec
        from tf_agents.trajectories import policy_step, time_step
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"Expected the packages of reinforcement learning, did not find `{error.name}`. Install "
        'them with `pip install "maml_tf[rl]"`, or the tested set with '
        "`pip install -r requirements.txt`; on Python 3.12 and 3.13 TF-Agents itself comes after "
        "that, with `pip install --no-deps tf-agents==0.19.0`.",
        name=error.name,
    ) from error
finally:
    if _before is None:
        del os.environ["TF_USE_LEGACY_KERAS"]
    else:
        os.environ["TF_USE_LEGACY_KERAS"] = _before

__all__ = [
    "array_spec",
    "policy_step",
    "py_environment",
    "tensor_spec",
    "tf_environment",
    "tf_policy",
    "tf_py_environment",
    "tfp",
    "time_step",
]
