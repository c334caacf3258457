import gc
import importlib.util
import os
import pathlib

import keras
import pytest

from tests.serving.c_api import Server

TESTS = pathlib.Path(__file__).parent
HAS_TF_AGENTS = importlib.util.find_spec("tf_agents") is not None
# Folders and files that cannot be imported without TF-Agents; a single test has the marker.
NEED_TF_AGENTS = ("rl", "serving/test_policy_client.py", "train/test_reinforcement.py")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path, parent):
    """A file that needs TF-Agents becomes one test, which says so, where there is none."""
    needs = any(module_path.is_relative_to(TESTS / name) for name in NEED_TF_AGENTS)
    return _LeftOut.from_parent(parent, path=module_path) if needs and not HAS_TF_AGENTS else None


class _LeftOut(pytest.File):
    def collect(self):
        item = _NotRun.from_parent(self, name="the file")
        item.add_marker("tf_agents")
        return [item]


class _NotRun(pytest.Item):
    def runtest(self):
        raise AssertionError("Expected to be left out before it runs.")


# Files that take half a minute of a core or more, which begin first: the two processes end together
# where only short ones are left. (pytest-xdist begins with those of most tests, which are short.)
LONG = (
    "strangers/test_strangers",
    "learners/test_contract",
    "train/test_reinforcement",
    "learners/test_keras_interface",
    "train/test_sinusoid",
    "documentation/test_pages",
    "train/test_images",
    "train/test_playground_page",
    "rl/test_meta_policy",
    "serving/test_export",
    "rl/test_meta_objective",
    "exact/test_layers",
    "exact/test_ops",
    "tasks/test_contract",
    "learners/test_invariants",
    "train/test_omniglot",
    "documentation/test_docstrings",
    "rl/test_export",
    "learners/test_losses",
    "rl/environments/test_gymnasium_tasks",
)


def pytest_addoption(parser):
    parser.addoption(
        "--one-of-each",
        action="store_true",
        help="of each test function only the first of its parameters, but all of the documentation",
    )
    parser.addoption(
        "--seed",
        type=int,
        default=0,
        help="of what a test draws without a seed of its own; one that passes with 0 alone is luck",
    )


def pytest_collection_modifyitems(config, items):
    """Refuses names that differ between processes, leaves out what is repeated, sorts by length."""
    for item in items:
        # The processes of pytest-xdist must collect the same names: none may hold an address.
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(
                f"Expected a test's name without an object's address. Received: {item.nodeid}. "
                "Give `ids=` to `parametrize`."
            )
    if config.getoption("--one-of-each"):
        _leave_out_repetitions(config, items)
    ranks = {TESTS / f"{name}.py": rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(LONG)))


def _leave_out_repetitions(config, items):
    seen, repeated = set(), []
    for item in list(items):
        function = item.path, getattr(item, "originalname", item.name)
        if function in seen and not item.path.is_relative_to(TESTS / "documentation"):
            items.remove(item)
            repeated.append(item)
        seen.add(function)
    config.hook.pytest_deselected(items=repeated)


def pytest_collection_finish():
    """What was imported lives as long as the process: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_runtest_setup(item):
    # From one line, so that pytest's summary gives one reason for all of them (`-rs`).
    if item.get_closest_marker("tf_agents") and not HAS_TF_AGENTS:
        pytest.skip("needs TF-Agents: on Python 3.12 and 3.13 docs/installing.md says how")
    # Layers without a seed draw from these generators: weights that depend on which tests the same
    # process ran before would let a test of learning fail one time in six.
    keras.utils.set_random_seed(item.config.getoption("--seed"))


@pytest.fixture
def float64():
    """Keras computes in float64 while the test runs: finite differences need it."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="module")
def serve():
    """`serve(folder)`: a process that answers for that SavedModel, started once."""
    servers = {}

    def start(folder):
        if folder not in servers:
            servers[folder] = Server(folder)
        return servers[folder]

    yield start
    for server in servers.values():
        server.close()


@pytest.fixture(scope="session")
def omniglot_dir():
    """The TensorFlow Datasets directory that holds Omniglot; skips where there is none."""
    beside = pathlib.Path(__file__).parents[2] / "shared" / "data" / "tfds"
    path = pathlib.Path(os.environ.get("MAML_TF_DATA_DIR", beside))
    if not (path / "omniglot").is_dir():
        pytest.skip(f"no Omniglot in {path}: set MAML_TF_DATA_DIR")
    return path
