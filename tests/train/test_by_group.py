"""The scripts of tables and series on data of a file: what is compared, and a run that goes on."""

import json

import numpy as np
import pandas
import pytest
import tensorflow as tf

from tests.wrong_calls import check_refusal
from train import common, series, tabular

FEW = "--iterations 2 --epoch-iterations 1 --meta-batch 2 --hidden 4 --no-xla --inner-steps 1 "
FEW += "--test-inner-steps 1 --fine-tuning 0.1 --penalties 0.1 10 "


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    # Which a process can set before its first operation alone.
    monkeypatch.setattr(common, "use_threads_for_tasks", lambda: None)


def run(monkeypatch, capsys, script, options):
    monkeypatch.setattr("sys.argv", ["script", *options.split()])
    script.main()
    return capsys.readouterr().out


def loads(shift=0.0):
    """Ten meters of 60 points: a load with a season of 4, and a temperature."""
    random, point = np.random.default_rng(0), np.arange(60)
    meters = [
        pandas.DataFrame(
            {
                "meter": f"m{i}",
                "hour": pandas.Timestamp("2024-01-31") + pandas.to_timedelta(point, "h"),
                "load": 10 + point % 4 + random.normal(0, 0.3, 60) + shift,
                "temperature": 20 + 5 * (point // 4 % 2),
            }
        )
        for i in range(10)
    ]
    # Rows in no order: `--time` has them in theirs, from the text of dates.
    return pandas.concat(meters).sample(frac=1, random_state=0)


def test_series_of_several_columns_one_of_which_is_forecast(monkeypatch, capsys, tmp_path):
    path, output = tmp_path / "loads.csv", tmp_path / "run"
    loads().to_csv(path, index=False)
    columns = "--group meter --time hour --value temperature load --targets load "
    windows = "--inputs 8 --horizon 4 --season 4 --beginning 24 --shots 3 --queries 2 "
    given = f"{FEW}{columns}{windows}--data {path} --output {output}"
    printed = run(monkeypatch, capsys, series, given)
    assert "| seasonal naive |" in printed
    found = json.loads((output / "results.json").read_text())["test"]["24"]
    assert set(found) > {"MAML", "pooled", "pooled, fine-tuned", "autoregression for each series"}
    # Of the load, which repeats but for noise. The temperature never is what it was a season ago:
    # where it counted, on either side, this would be far from 1.
    assert 0.7 < found["seasonal naive"]["mean"] < 1.4
    assert len(found["MAML"]["groups"]) == 2
    served = tf.saved_model.load(str(output / "saved_model" / "1")).signatures["serving_default"]
    shapes = {
        name: spec.shape.as_list() for name, spec in served.structured_input_signature[1].items()
    }
    assert shapes["support_x"][1:] == [8, 2]
    assert shapes["support_y"][1:] == [4, 1]

    # The file changed: another run, which the old one is no beginning of.
    loads(shift=1.0).to_csv(path, index=False)
    check_refusal(lambda: common.run(series.main), given, ["digest_of_data"], monkeypatch, capsys)


def test_a_table_read_once_and_a_curve_for_each_group(monkeypatch, capsys, tmp_path):
    random, person = np.random.default_rng(0), np.repeat(np.arange(20), 24)
    x, bend = random.uniform(-1, 1, 480), random.normal(size=20)
    table = {"who": person, "x": x, "y": 3 * person + bend[person] * x**2, "sex": "F"}
    frame = pandas.DataFrame(table)
    frame.loc[::2, "sex"] = "M"
    path, output = tmp_path / "t.csv", tmp_path / "run"
    frame.to_csv(path, index=False)
    given = f"{FEW}--data {path} --target y --group who --categories sex --line x --shots 8 "
    given += f"--queries 4 --test-shots 8 --test-tasks 8 --output {output}"
    table_of, read = tabular.tables.open_table, []
    monkeypatch.setattr(
        tabular.tables,
        "open_table",
        lambda one: read.append(one) or table_of(one) if isinstance(one, str) else table_of(one),
    )
    printed = run(monkeypatch, capsys, tabular, given)
    assert read == [str(path)]
    assert "With 8 labelled rows polynomial in x alone wins" in printed
    found = json.loads((output / "results.json").read_text())["test"]
    assert found["8"]["polynomial in x alone"]["chosen"] == "degree 2, penalty 0.1"
    assert found["8"]["polynomial in x alone"]["mean"] < found["8"]["ridge on x alone"]["mean"]
    # Fine-tuning begins where the pooled network is.
    tuned, pooled = (found["8"][name] for name in ("pooled, fine-tuned", "pooled"))
    assert tuned["after_steps"][0] == pytest.approx(pooled["after_steps"][0], rel=1e-5)
    for name in ("error_8.png", "saved_model/1/saved_model.pb"):
        assert (output / name).exists()
