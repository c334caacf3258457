"""Every script has a `--help`, and its `--quick` takes seconds.

Those of sinusoid, images and omniglot run in the files of these scripts.
"""

import importlib
import json
import pathlib
import resource

import pytest

ROOT = pathlib.Path(__file__).parents[2]
OF_TF_AGENTS = ("navigation", "locomotion")
SCRIPTS = sorted(
    path.stem
    for path in (ROOT / "train").glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)


def _marked(script, *marks):
    marks += (pytest.mark.tf_agents,) if script.split()[0] in OF_TF_AGENTS else ()
    return pytest.param(script, marks=marks)


@pytest.mark.parametrize("script", map(_marked, SCRIPTS))
def test_help_explains_every_option(script, monkeypatch, capsys):
    module = importlib.import_module(f"train.{script}")
    monkeypatch.setattr("sys.argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code in (None, 0)
    text = capsys.readouterr().out
    assert f"python -m train.{script}" in text
    # What writes says where to; the playground writes nothing.
    assert ("--output" in text) == (script != "playground")


SLOW = ("navigation", "locomotion", "locomotion --environment ant_velocity", "sinusoid", "images")
SLOW += ("tabular", "series")


@pytest.mark.parametrize("command", [_marked(command, pytest.mark.slow) for command in SLOW])
def test_quick_takes_seconds(run_script, tmp_path, command):
    """In seconds of the processor: half of them are TensorFlow's import and tracing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_script(*command.split(), "--quick", "--output", tmp_path / "run")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "shuffle" not in done.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["iterations"] > 0
    assert list((tmp_path / "run").glob("*.png"))
    assert list((tmp_path / "run" / "saved_model").glob("*/saved_model.pb"))
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 60
