"""The trained model names printed characters, in this process and from a server."""

import re

import numpy as np
import pytest

from tests.serving.test_export import SAVED
from train import picture_models, serve_example


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, tmp_path_factory):
    def run(*options):
        # Characters are drawn once for all tests.
        monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.getbasetemp() / "keras"))
        words = ["serve_example", "--output", str(tmp_path / "out"), *options]
        monkeypatch.setattr("sys.argv", words)
        serve_example.main()
        return capsys.readouterr().out

    return run


def test_the_same_answers_in_this_process_and_from_a_server(run, tmp_path):
    pytest.importorskip("tensorflow_serving")
    from tests.serving.stand_in import StandIn

    here = run("--model", str(SAVED / "omniglot"))
    before, after = map(int, re.search(r"(\d+) of 20 right before adapting, (\d+)", here).groups())
    # Its rows name the characters: five of them, four drawings each.
    rows = here.splitlines()[1 : 1 + 20]
    assert len({row.partition("  ")[0] for row in rows}) == 5
    assert all(row.rstrip("wrong ").endswith("%") for row in rows)
    assert before <= 8
    assert after >= 14
    assert (tmp_path / "out" / "task.png").read_bytes().startswith(b"\x89PNG")
    server = StandIn(SAVED / "omniglot" / "1", "omniglot")
    try:
        assert run("--server", server.grpc) == here
    finally:
        server.close()


def test_what_an_exported_model_refuses_is_one_line():
    model = picture_models.open_model(SAVED / "omniglot")
    pictures = np.zeros((5, 28, 28, 1), np.float32)
    message = r"^Expected pictures and labels .*--model .*omniglot.*labels from 0 to 4.*$"
    with pytest.raises(ValueError, match=message):
        model.answer(pictures, np.arange(5, dtype=np.int32) + 1, pictures)


def test_nobody_to_ask(run):
    with pytest.raises(SystemExit, match="which does not exist"):
        run("--model", "nowhere")
