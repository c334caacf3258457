"""Mutation testing: small faults are planted in the library, one at a time, and tests must notice.

    pip install mutmut==3.8.1
    python -m tests.mutation                                # every module of MODULES, hours
    python -m tests.mutation inner_loop inner_optimizers    # those whose path contains a word

The faults are those of mutmut's operators (numbers, operators, comparisons, arguments, keywords,
conditions, lambdas; not strings: a message may change) and negated conditions; those in
annotations, decorators and `raise` statements are left out. Of each module a random sample is
drawn, at most one of each kind a line. mutmut's own runner would import TensorFlow for each of
them; this one imports it once and forks a process for each fault, which imports `maml_tf` from a
copy of the tree, in which the fault stands, and runs the tests that reach its line, the quickest
first. Faults that no test could notice are listed in `mutation_equivalents.json`, each with the
reason. With `--results FILE` what was found is kept there, and what was killed is not run again.
"""

import argparse
import collections
import contextlib
import difflib
import hashlib
import importlib
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import libcst as cst
from libcst import metadata
from mutmut.mutation import mutators

ROOT = pathlib.Path(__file__).parents[1]
EQUIVALENTS = pathlib.Path(__file__).with_name("mutation_equivalents.json")
SEED = 13
MOST_SECONDS = 100  # of tests for one fault, by what they take where all of them pass


def _of_learners(*names):
    return [f"tests/learners/test_{name}.py" for name in names]


# The quicker half of what tests learners; of their parts; of what they refuse; episodes.
_LEARNERS = _of_learners("contract", "errors", "frozen", "losses", "state")
_PARTS = _of_learners("batches", "labels", "reports", "specs", "train_function", "trainer")
_REFUSALS = _of_learners("checks", "wrong_calls", "wrong_settings")
_EPISODES = ["tests/tasks/test_sampling.py", "tests/tasks/test_wrong_calls.py"]
# What tests optimizers; rates that are learned; learners by gradients; by embedding; exports of
# any method; derivatives by the type of the operation.
_OPTIMIZERS = [f"tests/inner/test_{name}.py" for name in ("clipping_and_kinds", "optimizers")]
_STEPS = ["tests/inner/test_description.py", "tests/inner/test_learned_rates.py"]
_GRADIENTS = _of_learners("reptile", "losses", "support_weights", "adapted_learner", "layers")
_ADAPTED = _of_learners("adapted_learner", "layers", "context")
_EMBEDDINGS = _of_learners("prototypical", "adapted_learner")
_EXPORTS = [f"tests/serving/test_{name}.py" for name in ("adapted_tensors", "methods", "export")]
_REGISTERED = [f"tests/exact/test_{name}.py" for name in ("registry", "tensorflow", "images")]
# Module: how many faults are drawn, and the test files that are to notice them.
MODULES = {
    "maml_tf/inner/loop.py": (60, ["tests/inner/test_loop.py"]),
    "maml_tf/inner/optimizers.py": (50, ["tests/inner/test_optimizers.py"]),
    "maml_tf/inner/adaptable.py": (
        20,
        ["tests/inner/test_adaptable.py", "tests/inner/test_loop.py"],
    ),
    "maml_tf/inner/adaptive.py": (20, _OPTIMIZERS),
    "maml_tf/inner/arithmetic.py": (20, _OPTIMIZERS),
    "maml_tf/inner/description.py": (60, _STEPS),
    "maml_tf/inner/learned_rates.py": (10, _STEPS),
    "maml_tf/inner/rematerialization.py": (30, [*_STEPS, "tests/inner/test_loop.py"]),
    "maml_tf/functional.py": (30, ["tests/test_functional.py"]),
    "maml_tf/learners/base/task_map.py": (30, ["tests/learners/test_task_map.py"]),
    "maml_tf/evaluation/protocol.py": (30, ["tests/test_evaluation.py"]),
    "maml_tf/evaluation/simple.py": (20, ["tests/test_simple_evaluation.py"]),
    "maml_tf/exact/convolution.py": (60, ["tests/exact/test_convolution.py"]),
    "maml_tf/exact/handwritten.py": (15, ["tests/exact/test_handwritten.py"]),
    "maml_tf/exact/loops.py": (5, ["tests/exact/test_loops.py"]),
    "maml_tf/exact/normalization.py": (20, ["tests/exact/test_normalization.py"]),
    "maml_tf/exact/pooling.py": (
        20,
        [f"tests/exact/test_{name}.py" for name in ("pooling", "xla")],
    ),
    "maml_tf/exact/products.py": (10, ["tests/exact/test_products.py"]),
    "maml_tf/exact/python_functions.py": (10, ["tests/exact/test_python_functions.py"]),
    "maml_tf/exact/registry.py": (10, _REGISTERED),
    "maml_tf/exact/guards.py": (10, _REGISTERED),
    "maml_tf/exact/second_derivatives.py": (10, _REGISTERED),
    "maml_tf/exact/sums.py": (10, ["tests/exact/test_sums.py"]),
    "maml_tf/learners/maml.py": (10, _LEARNERS),
    "maml_tf/learners/prototypical.py": (15, _EMBEDDINGS),
    "maml_tf/learners/reptile.py": (10, _GRADIENTS),
    "maml_tf/learners/base/embedding_learner.py": (10, _EMBEDDINGS),
    "maml_tf/learners/base/gradient_learner.py": (12, _GRADIENTS),
    "maml_tf/learners/base/learner.py": (15, _GRADIENTS),
    "maml_tf/learners/base/meta_step.py": (15, _GRADIENTS),
    "maml_tf/learners/base/predictor.py": (10, _ADAPTED),
    "maml_tf/learners/base/batch_steps.py": (20, [*_PARTS, "tests/learners/test_saving.py"]),
    "maml_tf/learners/base/trainer.py": (10, [*_PARTS, "tests/learners/test_saving.py"]),
    "maml_tf/learners/base/adapted.py": (10, _ADAPTED),
    "maml_tf/learners/base/adapted_models.py": (15, _ADAPTED),
    "maml_tf/learners/base/batches.py": (40, _PARTS),
    "maml_tf/learners/base/label_rules.py": (30, _PARTS),
    "maml_tf/learners/base/labels.py": (30, _PARTS),
    "maml_tf/learners/base/output_losses.py": (10, _PARTS),
    "maml_tf/learners/base/specs.py": (50, _PARTS),
    "maml_tf/learners/base/checks.py": (20, _REFUSALS),
    "maml_tf/learners/base/batch_checks.py": (25, _REFUSALS),
    "maml_tf/learners/base/weight_checks.py": (10, _REFUSALS),
    "maml_tf/learners/base/reports.py": (30, _PARTS),
    "maml_tf/learners/base/train_function.py": (10, _PARTS),
    "maml_tf/tasks/sampling.py": (50, _EPISODES),
    "maml_tf/tasks/class_index.py": (20, _EPISODES),
    "maml_tf/tasks/group_sampling.py": (
        20,
        ["tests/tasks/test_groups.py", "tests/tasks/test_windows.py"],
    ),
    "maml_tf/serving/adapted_tensors.py": (10, _EXPORTS),
    "maml_tf/serving/answers.py": (10, [*_EXPORTS, "tests/learners/test_support_weights.py"]),
    "maml_tf/serving/signatures.py": (5, [*_EXPORTS, "tests/learners/test_support_weights.py"]),
    "maml_tf/rl/advantages.py": (40, ["tests/rl/test_advantages.py"]),
    "maml_tf/rl/meta_objective.py": (20, ["tests/rl/test_meta_objective.py"]),
    "maml_tf/rl/trust_region.py": (40, ["tests/rl/test_trust_region.py"]),
}
OPERATORS = [
    (kind, operator)
    for kind, operator in mutators.mutation_operators
    if operator.__name__
    in {
        "operator_number",
        "operator_name",
        "operator_augmented_assignment",
        "operator_remove_unary_ops",
        "operator_arg_removal",
        "operator_lambda",
        "operator_keywords",
        "operator_swap_op",
        "operator_if_exp",
    }
]
LEFT_OUT = (cst.Annotation, cst.Decorator, cst.Raise, cst.Import, cst.ImportFrom)
# Arguments that change no result: nets under what cannot fall, names, how much runs at once.
NO_RESULT = {
    "strict",
    "name",
    "autograph",
    "parallel_iterations",
    "num_parallel_calls",
    "stateful",
    "watch_accessed_variables",
}
Mutant = collections.namedtuple("Mutant", "line lines old new source")


# The faults.


def negated(node):
    """`if c` becomes `if not c`."""
    test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))


def changes_no_result(node, new):
    """Whether all that distinguishes two calls are arguments of `NO_RESULT`."""
    if not (isinstance(node, cst.Call) and isinstance(new, cst.Call)):
        return False
    one, other = (
        [(a.keyword and a.keyword.value, cst.Module([]).code_for_node(a.value)) for a in call.args]
        for call in (node, new)
    )
    one, other = ([a for a in args if a[0] not in NO_RESULT] for args in (one, other))
    return one == other


class Faults(cst.CSTVisitor):
    """Collects `(line, name of the operator, node, what takes its place)`."""

    METADATA_DEPENDENCIES = (metadata.PositionProvider, metadata.ParentNodeProvider)

    def __init__(self):
        self.found = []

    def on_visit(self, node):
        if isinstance(node, LEFT_OUT):
            return False
        if isinstance(node, cst.Arg) and node.keyword and node.keyword.value in NO_RESULT:
            return False
        for kind, operator in [*OPERATORS, (cst.If, negated)]:
            if isinstance(node, kind):
                line = self.get_metadata(metadata.PositionProvider, node).start.line
                for new in operator(node):
                    if changes_no_result(node, new):
                        continue
                    self.found.append((line, operator.__name__, node, new))
        return True

    def statement(self, node):
        """Lines of the statement that `node` is in; of a compound one, those of `node`."""
        inner = node
        while not isinstance(inner, (cst.SimpleStatementLine, cst.Module)):
            inner = self.get_metadata(metadata.ParentNodeProvider, inner)
        inner = node if isinstance(inner, cst.Module) else inner
        place = self.get_metadata(metadata.PositionProvider, inner)
        return range(place.start.line, place.end.line + 1)

    def function(self, node):
        """Lines of the function that `node` is in, or none."""
        while not isinstance(node, (cst.FunctionDef, cst.Module)):
            node = self.get_metadata(metadata.ParentNodeProvider, node)
        if isinstance(node, cst.Module):
            return range(0)
        place = self.get_metadata(metadata.PositionProvider, node)
        return range(place.start.line, place.end.line + 1)


def draw(path, text, number):
    """`(mutants, how many there are)` of a module's text: a sample of `number` for the seed."""
    wrapper = metadata.MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
    faults = Faults()
    with faults.resolve(wrapper):
        wrapper.module.visit(faults)
        order = random.Random(f"{SEED} {path}").sample(faults.found, len(faults.found))
        mutants, places = [], set()
        for line, operator, node, new in order:
            if (line, operator) in places or len(mutants) == number:
                continue
            source = wrapper.module.deep_replace(node, new).code
            try:
                compile(source, path, "exec")
            except SyntaxError:
                continue
            places.add((line, operator))
            changes = [d for d in difflib.ndiff(text.splitlines(), source.splitlines())]
            old, new = (" ".join(d[2:].strip() for d in changes if d[0] == s) for s in "-+")
            lines = faults.statement(node), faults.function(node)
            mutants.append(Mutant(line, lines, old, new, source))
    return mutants, len(order)


# The tests.


class Recorder:
    """A plugin of pytest: which lines of `paths` each test runs, and how long it takes."""

    def __init__(self, paths):
        coverage = importlib.import_module("coverage")
        include = [os.path.abspath(path) for path in paths]
        self.coverage = coverage.Coverage(data_file=None, config_file=False, include=include)
        self.seconds, self.current = {}, ""
        self.coverage.start()

    def switch(self, context):
        self.current, previous = context, self.current
        self.coverage.switch_context(context)
        return previous

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = report.duration

    @importlib.import_module("pytest").hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.switch(item.nodeid)
        try:
            return (yield)
        finally:
            self.switch("")

    @importlib.import_module("pytest").hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        """What a fixture of a file runs belongs to every test of that file."""
        if fixturedef.scope == "function":
            return (yield)
        before = self.switch(request.node.nodeid.split("::")[0])
        try:
            return (yield)
        finally:
            self.switch(before)

    def result(self):
        """Seconds of each test, and of each path and line the tests that run it."""
        self.coverage.stop()
        data, lines = self.coverage.get_data(), {}
        for measured in data.measured_files():
            of_path = lines[os.path.relpath(measured)] = {}
            for line, contexts in data.contexts_by_lineno(measured).items():
                contexts = set(contexts)
                of_path[line] = [t for t in self.seconds if {t, t.split("::")[0]} & contexts]
        return {"seconds": self.seconds, "lines": lines}


def in_child(copy, tests, limit, recorded=None):
    """Runs `tests` in a forked process; pytest's exit status, or None after `limit` seconds."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgrp()  # what the tests start is of this group, and is killed with it
            os.chdir(copy)
            log = os.open(copy / "mutation.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os._exit(run_tests(tests, recorded))
        finally:
            os._exit(99)
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        return None
    finally:  # also where this process is interrupted, and for what the tests have started
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def run_tests(tests, recorded):
    import hypothesis
    import pytest

    sys.path[:] = [os.getcwd(), *(p for p in sys.path if p not in ("", str(ROOT)))]
    for name in [m for m in sys.modules if m == "tests" or m.startswith("tests.")]:
        del sys.modules[name]
    # Compiled tests are kept, compiled modules are not: a fault may not show in size and time.
    sys.dont_write_bytecode = recorded is None
    # The same examples every time, and no search for a smaller one once a test has failed.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, database=None, phases=phases, print_blob=False
    )
    hypothesis.settings.load_profile("mutation")
    # Nothing is collected in the end: TensorFlow may wait for ever for a data set's threads then.
    plugins = ["-p", "no:cacheprovider", "-p", "no:unraisableexception"]
    options = ["-x", "-q", *plugins, "-o", "addopts=--strict-markers -m 'not slow'"]
    if recorded is None:
        return pytest.main([*options, *tests])
    paths, file = recorded
    recorder = Recorder(paths)
    status = pytest.main([*options, *tests], plugins=[recorder])
    pathlib.Path(file).write_text(json.dumps(recorder.result()))
    return status


def record(paths, files, copy):
    """What `files` run of `paths`, as `Recorder.result` gives it."""
    result = copy / "mutation.json"
    status = in_child(copy, files, 3600, (paths, result))
    if status != 0:
        raise SystemExit(f"{files}: status {status}\n{(copy / 'mutation.log').read_text()[-3000:]}")
    for path in paths:
        shutil.rmtree((copy / path).parent / "__pycache__", ignore_errors=True)
    return json.loads(result.read_text())


def chosen(path, mutant, recorded):
    """The tests that run a fault, the quickest first, as many as take `MOST_SECONDS`.

    Where none is seen to (AutoGraph and threads of TensorFlow run code unseen), those that run
    its function and then all others.
    """
    seconds, by_line = recorded["seconds"], recorded["lines"].get(path, {})
    statement, function = (
        {test for line in lines for test in by_line.get(str(line), [])} for lines in mutant.lines
    )
    tests = statement or set(seconds)
    tests = sorted(tests, key=lambda test: (test not in function, seconds[test]))
    until = itertools.accumulate(seconds[test] for test in tests)
    return [t for t, total in zip(tests, until, strict=True) if total <= MOST_SECONDS] or tests[:1]


# The run.


def run_module(path, number, recorded, copy, results):
    """Plants each fault of one module in `copy`; gives the line of the table."""
    equivalent = {(e["old"], e["new"]) for e in json.loads(EQUIVALENTS.read_text()).get(path, [])}
    original = (copy / path).read_text()
    mutants, of = draw(path, original, number)
    counts = collections.Counter()
    for mutant in mutants:
        key = hashlib.sha1(mutant.source.encode()).hexdigest()
        if (mutant.old, mutant.new) in equivalent:
            counts["equivalent"] += 1
            continue
        if results.get(key) == "killed":
            counts["killed"] += 1
            continue
        tests = chosen(path, mutant, recorded)
        limit = 60 + 8 * sum(recorded["seconds"][t] for t in tests)
        (copy / path).write_text(mutant.source)
        try:
            status = in_child(copy, tests, limit)
        finally:
            (copy / path).write_text(original)
        what = "survived" if status == 0 else "killed"
        counts[what] += 1
        # A status of None is the time limit.
        more = {"line": mutant.line, "old": mutant.old, "new": mutant.new, "status": status}
        results.add(key, what, path=path, **more)
        if what == "survived":
            print(f"{path}:{mutant.line}\n  - {mutant.old}\n  + {mutant.new}", flush=True)
    score = counts["killed"] / max(len(mutants) - counts["equivalent"], 1)
    return (
        f"| `{path}` | {len(mutants)} of {of} | {counts['equivalent']} | {counts['killed']} "
        f"| {counts['survived']} | {100 * score:.0f} % |"
    )


class Results(dict):
    """What became of each fault, kept in a file of JSON lines where one is given."""

    def __init__(self, file):
        super().__init__()
        self.file = file
        if file and file.exists():
            for line in file.read_text().splitlines():
                entry = json.loads(line)
                self[entry["key"]] = entry["what"]

    def add(self, key, what, **more):
        self[key] = what
        if self.file:
            with self.file.open("a") as file:
                file.write(json.dumps({"key": key, "what": what, **more}) + "\n")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without cleaning up
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", help="modules whose path contains one of them")
    parser.add_argument("--results", type=pathlib.Path, help="file of what was found")
    arguments = parser.parse_args()
    words = arguments.words or [""]
    modules = {p: v for p, v in MODULES.items() if any(word in p for word in words)}
    paths = [*MODULES, *(file for _, files in MODULES.values() for file in files)]
    if missing := sorted({path for path in paths if not (ROOT / path).exists()}):
        raise SystemExit(f"Expected paths of files in MODULES. Received: {missing}. Correct them.")
    results = Results(arguments.results)
    # Before TensorFlow is imported. TF-Agents needs the first, the others share two cores.
    os.environ.update(TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3", OMP_NUM_THREADS="1")
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    table = []
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, "tree")
        copy.mkdir()
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        subprocess.run(
            ["cp", "--parents", "-t", copy, *filter(None, tracked.decode().split("\0"))],
            cwd=ROOT,
            check=True,
        )
        os.environ["PYTHONPATH"] = str(copy)
        # What takes long to import and starts no thread: a process may be forked after it.
        for name in ("numpy", "pytest", "hypothesis", "keras", "tensorflow"):
            importlib.import_module(name)
        if any("/rl/" in path for path in modules):
            importlib.import_module("tf_agents.environments")
        for files in dict.fromkeys(tuple(files) for _, files in modules.values()):
            paths = {p: number for p, (number, tests) in modules.items() if tuple(tests) == files}
            recorded = record(list(paths), files, copy)
            for path, number in paths.items():
                table.append(run_module(path, number, recorded, copy, results))
                print(table[-1], flush=True)
    print(
        "\n| module | drawn | equivalent | killed | survived | score |\n|---|---|---|---|---|---|"
    )
    print("\n".join(table))


if __name__ == "__main__":
    main()
