"""Tables of wrong calls, each with the error that it must give.

    WRONG = [
        Wrong(lambda: tasks.sinusoid(support=0), ValueError, "`support`", "support=0"),
        Wrong(lambda: MAML(model, "fast"), TypeError, "inner_optimizer", "'fast'", id="a name"),
    ]

    @pytest.mark.parametrize("wrong", WRONG, ids=str)
    def test_wrong_calls_are_explained(wrong):
        check(wrong)

A message says what was expected, what was received and what to do, and it is raised by this
library or by Keras' own checks of arguments, never by an operation of TensorFlow.
"""

import inspect
import pathlib
import re
import sys
import traceback
from collections.abc import Callable

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_COLOURS = re.compile("\x1b\\[[0-9;]*m")
_EXPECTED = re.compile(r"\b(Expected|expected|[Mm]ust|needs)\b")
_RECEIVED = re.compile(r"\b(Received|received|Found|found|holds|Missing)\b")
# What the last words ask the reader to do: sentences of a message begin with a verb.
_INSTRUCTION = re.compile(
    r"(?:^|[.:;,?!] |and |or |\()(?:or |please )?"
    r"(Add|Ask|Build|Call|Check|Choose|Clip|Compare|Compile|Convert|Correct|Create|Do not|Drop|Fill"
    r"|Get|Give|Install|Leave|Load|Lower|Make|Mend|Merge|Move|Multiply|Name|Number|Pass|Pick|Prepare|Put"
    r"|Raise|Reduce|Remove|Rename|Replace|Reshape|Save|Set|Spell|Start|Take|Train|Try|Turn|Use"
    r"|Wrap|Write)\b|\bgive `",
    re.IGNORECASE,
)


class Wrong:
    """A wrong call, the type of its error, and what the message must contain.

    Args:
        call: function without arguments.
        error: type of the exception, exactly (a subclass is another error).
        *fragments: str, parts of the message: the argument's name, the value received.
        id: str, of the test; the source line of `call` by default.
    """

    def __init__(self, call: Callable, error: type, *fragments: str, id: str | None = None):
        if not fragments:
            raise ValueError("Expected fragments: the argument's name and the value received.")
        self.call, self.error, self.fragments = call, error, fragments
        self.id = id or _source(call)

    def __str__(self):
        return self.id


def check(wrong):
    """Makes the call and checks its error: type, words and where it was raised."""
    with pytest.raises(wrong.error) as caught:
        wrong.call()
    error = caught.value
    message = _COLOURS.sub("", str(error))  # with which Keras quotes an error of `call`
    assert type(error) is wrong.error, f"{type(error).__name__}: {message}"
    check_message(message, wrong.fragments)
    for one in _shown(error):
        check_origin(one)


def check_message(message, fragments):
    """Checks that a message contains the fragments and is made of its three parts."""
    missing = [f for f in fragments if f not in message]
    assert not missing, f"no {missing} in: {message}"
    assert _EXPECTED.search(message), f"does not say what was expected: {message}"
    assert _RECEIVED.search(message), f"does not say what was received: {message}"
    assert _INSTRUCTION.search(message), f"does not say what to do: {message}"


def check_origin(error):
    """Checks that this library, or Keras' checks of arguments, raised the error."""
    frames = traceback.extract_tb(error.__traceback__)
    file = frames[-1].filename.replace("\\", "/")
    ours = any(file.startswith(str(_ROOT / part) + "/") for part in ("maml_tf", "train"))
    assert ours or "/keras/src/" in file, f"raised in {file}: {type(error).__name__}: {error}"


def refusal(main, options, monkeypatch, capsys):
    """Runs a script's `main()` in this process with options that are wrong.

    Args:
        main: the script's function, as `python -m` calls it: `lambda: common.run(script.main)`.
        options: list of str, or one str that is split at spaces.
        monkeypatch: pytest's fixture.
        capsys: pytest's fixture.

    Returns:
        The one line that was written to standard error.
    """
    options = options.split() if isinstance(options, str) else [str(o) for o in options]
    monkeypatch.setattr(sys, "argv", ["script", *options])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main()
    errors = capsys.readouterr().err.strip()
    assert caught.value.code == 2, f"exit status {caught.value.code!r}: {errors}"
    assert len(errors.splitlines()) == 1, f"not one line: {errors}"
    return errors


def check_refusal(main, options, fragments, monkeypatch, capsys):
    """`refusal`, whose line must contain the fragments; no traceback, exit status 2."""
    line = refusal(main, options, monkeypatch, capsys)
    missing = [f for f in fragments if f not in line]
    assert not missing, f"no {missing} in: {line}"
    assert "Traceback" not in line
    return line


def _shown(error):
    """The error and those that Python would print before it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _source(call):
    try:
        line = inspect.getsource(call).strip()
    except (OSError, TypeError):
        return repr(call)
    line = re.sub(r"\s+", " ", line)
    line = re.sub(r"^.*?lambda[^:]*: ", "", line)
    return re.sub(r", \w+Error\b.*", "", line)[:60]
