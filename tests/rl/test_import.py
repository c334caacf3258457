import pytest

from tests import forks

HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture(scope="module")
def run():
    """`run(code)`: in a new process that has imported the library alone."""
    parent = forks.Parent("import maml_tf")
    yield parent.run
    parent.close()


def test_the_library_alone_needs_no_tf_agents(run):
    result = run(
        "import sys, maml_tf\n"
        "names = {'tf_agents', 'mujoco', 'tensorflow_probability', 'gymnasium'}\n"
        "print(names & set(sys.modules))"
    )
    assert result.stdout.strip() == "set()", result.stderr


def test_a_missing_extra_names_the_pip_line(run):
    result = run(HIDE.format(module="tf_agents") + "import maml_tf.rl")
    assert "ModuleNotFoundError" in result.stderr
    assert 'pip install "maml_tf[rl]"' in result.stderr
    assert "pip install --no-deps tf-agents==0.19.0" in result.stderr


def test_only_locomotion_needs_mujoco(run):
    code = HIDE.format(module="mujoco") + (
        "from maml_tf import rl\n"
        "rl.environments.Navigation2D()\n"
        "rl.environments.from_gymnasium\n"
        "print('until here')\n"
        "rl.environments.HalfCheetahVelocity\n"
    )
    result = run(code)
    told = result.stderr
    assert "did not find `mujoco`" in told
    assert 'pip install "maml_tf[mujoco]"' in told
    assert "until here" in result.stdout


def test_importing_leaves_the_environment_and_keras_as_they_were(run):
    result = run(
        "import os, keras, numpy as np\n"
        "import maml_tf.rl\n"
        "model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])\n"
        "model.compile('sgd', 'mse'); model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)\n"
        "print(keras.__version__[0], os.environ.get('TF_USE_LEGACY_KERAS'))"
    )
    assert result.stdout.strip().splitlines()[-1] == "3 None", result.stderr
    assert "Gym has been unmaintained" not in result.stderr
