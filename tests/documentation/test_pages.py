"""Every fenced block of README and handbook, as a reader would paste it: run, or read for a reason.

Python runs as it stands, the blocks of a page (in the README: of a section) from top to bottom in
one namespace that begins empty; only a server's address is replaced by that of a stand-in. Commands
run as processes, once where several pages have the same, with options appended that make them short
(`RUN`), or are read without being run (`PARSED`, where the reason stands). A block that is neither
fails `test_every_block_has_its_treatment`.
"""

import ast
import contextlib
import inspect
import io
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
from typing import NamedTuple
from unittest import mock

import pytest
import sybil
from google.protobuf import text_format
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import maml_tf
from tests.documentation.conftest import PAGES, ROOT, draw_pictures

# What a reader tries first runs as in a new terminal.
FIRST = "README.md: Quickstart"
OF_TF_AGENTS = ("docs/reinforcement-learning.md",)

# How a command begins, and what is appended to it here. Nothing else of it changes.
RUN = {
    ".venv/bin/python -m train.sinusoid": "--quick --iterations 20 --test-tasks 5",
    "python -m train.images --data photos": "--quick --image-size 28 --iterations 2 "
    "--epoch-iterations 1 --queries 3 --inner-steps 1 --steps-to-evaluate 1 "
    "--validation-tasks 2 --test-tasks 2",
    "python -m train.adapt --model runs/photos": "",
    "python -m train.adapt --model saved_models": "",
}
# Scripts that run in this process, where TensorFlow is loaded already; those that train set its
# threads, which they can do in a new process only.
WITHIN = {"train.adapt"}
# How a command begins, and why it is not run: a shell reads it, no more.
PARSED = {
    "python3 -m venv": "makes an environment; .ci/run does so",
    ".venv/bin/python -m tests.extras": "downloads all that every extra names",
    ".venv/bin/pip install": "downloads the requirements; .ci/run does so",
    ".venv/bin/python -m pytest": "would run these tests within themselves",
    "python -m train.images --data cifar_fs": "needs CIFAR-100",
    "python -m train.images --data fc100": "the same",
    "python -m train.adapt --backbone": "downloads the weights of a network; tests/train does not",
    "python -m train.images --backbone": "the same",
    "python -m train.adapt --model runs/on_features": "needs what that one wrote",
    "python -m train.sentences": "needs CLINC150; tests/train has sentences of its own",
    "python -m train.mini_imagenet": "needs images of ImageNet",
    "python -m train.tabular": "needs a table of somebody's; tests/train runs the script",
    "python -m train.series": "needs series of somebody's; tests/train runs the script",
    "python -m train.pretrain": "needs CIFAR-100 or ImageNet",
    "python -m train.evaluate": "needs a learner of them",
    "python -m train.curves": "needs two runs; tests/train draws what the script writes",
    "python -m tests.benchmarks.replacements": "takes a minute for every image size",
    "python -m tests.benchmarks.meta_step": "wants JAX, and a quiet machine",
    "python -m tests.benchmarks.ours": "takes a minute, one of them a GPU",
    "python tests/benchmarks/hlo.py": "the same, and JAX; tests/benchmarks does both parts",
    "python tests/benchmarks/peers_jax.py": "the same",
    "python tests/benchmarks/peers_torch.py": "the same, and PyTorch",
    "docker run": "needs Docker and an image of TensorFlow Serving",
    "curl": "needs that server, and a request of somebody's",
    "pip install": "downloads what an extra names; test_requirements reads them",
    ".venv/bin/python -m train.playground": "serves until it is stopped; tests/train does so",
    "python -m train.playground": "the same",
    "python -m mkdocs serve": "serves until it is stopped; test_site builds the same site",
}
# How a block of text begins, and by which test it is checked. Others are what the Python before
# them prints.
TEXT = {
    "maml_tf.MAML(": "test_the_signature_is_that_of_the_learner",
    "model_config_list": "test_the_server_would_read_its_configuration",
    "maml_tf/ ": "test_the_layout_is_there",
    "model = maml_tf.models.from_authors(": "test_the_authors_weights_are_asked_for_as_written",
}
# What a client asks for, and what the stand-in serves.
SERVED = {"omniglot": "saved_models/omniglot/1", "cheetah": "exported/cheetah/1"}
# Of printed accuracies: threads and versions round in other ways, and one of 15 answers is .07.
TOLERANCE = 0.15


# Languages of devices, for which there is no compiler here, and by which test they are read.
ELSEWHERE = {
    name: "test_other_languages_use_the_names_of_a_file" for name in ("kotlin", "swift", "cpp")
}


class Block(NamedTuple):
    part: str  # blocks of one part share a namespace
    line: int
    language: str
    source: str
    example: sybil.Example


def _read(page):
    parsers = [
        CodeBlockParser(language, lambda example: None) for language in ("bash", "text", *ELSEWHERE)
    ]
    document = sybil.Document.parse(str(page), PythonCodeBlockParser(), *parsers)
    name = page.relative_to(ROOT).as_posix()
    found = []
    for example in document.examples():
        headings = re.findall(r"^## (.+)$", document.text[: example.start], re.MULTILINE)
        language = re.match(r"```(\w+)", document.text[example.start :])[1]
        section = f": {headings[-1] if headings else 'front'}" if name == "README.md" else ""
        found.append(Block(name + section, example.line, language, str(example.parsed), example))
    return found


BLOCKS = [block for page in PAGES for block in _read(page)]


def of_text(beginning):
    """All blocks of text that begin so, of whatever page; at least one."""
    found = [b.source for b in BLOCKS if b.language == "text" and b.source.startswith(beginning)]
    assert found
    return found


def block_id(block):
    """The page, and the line in it."""
    return f"{block.part.partition(':')[0]}:{block.line}"


def split_commands(block):
    """The commands of a block of shell, one line each."""
    lines = block.source.replace("\\\n", " ").splitlines()
    return [command.strip() for line in lines for command in line.split("&&") if command.strip()]


def beginning(command, table):
    """The keys of a table that a command begins with."""
    return [key for key in table if command.startswith(key)]


def is_output(block):
    before = BLOCKS[BLOCKS.index(block) - 1]
    document = block.example.document
    between = document.text[before.example.end : block.example.start]
    same = before.example.document is document
    return same and before.language == "python" and not between.strip()


def test_every_block_has_its_treatment():
    texts = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    fences = re.findall(r"^ *(?:```|~~~)(.*)$", texts, re.MULTILINE)
    languages = [block.language for block in BLOCKS]
    assert fences[::2] == languages, "a block of an unknown language"
    used = set()
    for block in BLOCKS:
        if block.language == "bash":
            found = [beginning(command, {**RUN, **PARSED}) for command in split_commands(block)]
            assert all(len(keys) == 1 for keys in found), f"{block_id(block)}: neither run nor read"
            used.update(key for keys in found for key in keys)
        elif block.language == "text" and not is_output(block):
            keys = beginning(block.source, TEXT)
            assert keys, f"{block_id(block)}: neither printed nor checked"
            used.update(keys)
    assert used == {*RUN, *PARSED, *TEXT}, "treatments that no block needs"
    assert all(name in globals() for name in [*TEXT.values(), *ELSEWHERE.values()])


def test_other_languages_use_the_names_of_a_file():
    """Signatures and their tensors, as `tests/serving/litert` has them of a file."""
    wanted = {"adapt", "support_x", "support_y", "support_count", "inner_steps", "weights"}
    wanted |= {"predict_with", "query_x", "query_count", "predictions"}
    found = {block.language: block.source for block in BLOCKS if block.language in ELSEWHERE}
    assert set(found) == set(ELSEWHERE)
    for source in found.values():
        assert set(re.findall(r'"([a-z_]+)"', source)) == wanted


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=block_id)
def test_a_shell_reads_every_command(block):
    done = subprocess.run(["bash", "-n"], input=block.source, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def pictures(desk):
    """The folders that the README names, with photographs of one colour a class."""
    # Of 32 classes, 16 % are five for validation; 5 shots and 15 queries are 20 pictures.
    draw_pictures(desk / "photos", [f"class{i}" for i in range(32)], 20)
    for name, each in [("my_five_classes", 3), ("unknown_pictures", 2), ("characters", 1)]:
        draw_pictures(desk / name, "abcde", each)
    draw_pictures(desk / "others", "abcde", 2, seed=1)
    (desk / "unknown.jpg").write_bytes((desk / "my_five_classes" / "a" / "0.jpg").read_bytes())


@pytest.fixture(scope="module")
def connect(desk):
    """`connect(source)`: with the address of a stand-in for the server that it asks."""
    started = []

    def start(source):
        for model in re.findall(r'Client\("localhost:8500", "(\w+)"\)', source):
            from tests.serving.stand_in import StandIn

            started.append(StandIn(desk / SERVED[model], model))
            source = source.replace("localhost:8500", started[-1].grpc)
        return source

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="module")
def ran(desk):
    """Commands that were run in that folder."""
    return set()


def _marked(part):
    return pytest.param(part, marks=pytest.mark.tf_agents if part in OF_TF_AGENTS else ())


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("part", map(_marked, dict.fromkeys(block.part for block in BLOCKS)))
def test_a_page_runs_from_top_to_bottom(part, connect, ran):
    namespace, printed = {}, None
    for block in (b for b in BLOCKS if b.part == part):
        if block.language == "bash":
            run_commands(block, ran)
        elif block.language == "python":
            printed = run_python(block, namespace, connect)
        elif is_output(block):
            assert_alike(printed, block.source)


def run_commands(block, ran):
    for command in split_commands(block):
        for key in beginning(command, RUN) if command not in ran else ():
            ran.add(command)
            program, option, module, *words = shlex.split(f"{command} {RUN[key]}")
            assert (pathlib.Path(program).name, option) == ("python", "-m")
            if module in WITHIN:
                with mock.patch.object(sys, "argv", [module, *words]):
                    runpy.run_module(module, run_name="__main__")
                continue
            words = [sys.executable, "-m", module, *words]
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, f"{block_id(block)}: {command}\n{done.stderr}"


def run_python(block, namespace, connect):
    """What the block prints; the first one's runs as in a new terminal."""
    if block.part == FIRST:
        words = [sys.executable, "-c", block.source]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{block_id(block)}:\n{done.stderr}"
        return done.stdout
    source = connect(block.source)
    code = compile("\n" * block.line + source, block.example.path, "exec")
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        exec(code, namespace)
    return stdout.getvalue()


def assert_alike(printed, shown):
    """The same words and whole numbers, and fractions up to `TOLERANCE`."""
    number = r"\d+\.\d+|\d+"
    assert re.sub(number, "#", printed.strip()) == re.sub(number, "#", shown.strip())
    for received, expected in zip(*(re.findall(number, t) for t in (printed, shown)), strict=True):
        tolerance = TOLERANCE if "." in expected else 0
        assert float(received) == pytest.approx(float(expected), abs=tolerance), printed


def test_the_signature_is_that_of_the_learner():
    actual = inspect.signature(maml_tf.MAML)
    # The page explains in words what its types are.
    parameters = [
        p.replace(annotation=p.empty) for p in actual.parameters.values() if p.kind != p.VAR_KEYWORD
    ]
    for text in of_text("maml_tf.MAML("):
        written, namespace = text.replace("maml_tf.MAML", "def written", 1), {}
        exec(f"{written.strip()}: pass", namespace)
        assert inspect.signature(namespace["written"]) == actual.replace(
            parameters=parameters, return_annotation=inspect.Signature.empty
        )


def test_the_authors_weights_are_asked_for_as_written():
    """Their checkpoint and ImageNet are nobody's to pass on: each call fits its signature."""
    for text in of_text("model = maml_tf.models.from_authors("):
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        ours = [c for c in calls if ast.unparse(c.func).startswith("maml_tf.")]
        assert ours
        for call in ours:
            if ast.unparse(call.func).endswith(".table"):
                continue  # of what the call before it gives
            called = eval(ast.unparse(call.func), {"maml_tf": maml_tf})
            named = dict.fromkeys(keyword.arg for keyword in call.keywords)
            inspect.signature(called).bind(*call.args, **named)


def test_the_server_would_read_its_configuration():
    server = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    for text in of_text("model_config_list"):
        read = text_format.Parse(text, server.ModelServerConfig())
        assert len(read.model_config_list.config) > 1
        for model in read.model_config_list.config:
            assert list((ROOT / "saved_models" / model.name).glob("*/saved_model.pb"))


def test_the_layout_is_there():
    for text in of_text("maml_tf/ "):
        rows = [re.split(r"\s{2,}", line) for line in text.splitlines()]
        modules = rows[0][1].split(", ")
        assert all(list((ROOT / "maml_tf").glob(f"{name}*")) for name in modules)
        folders = {f.strip("/") for row in rows for f in row if f.endswith("/")}
        for folder in folders:
            assert (ROOT / folder).is_dir() or (ROOT / "maml_tf" / folder).is_dir(), folder
