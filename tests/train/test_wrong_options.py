"""Options that make no sense: one line that names them, exit status 2, no run directory."""

import dataclasses
import re
import subprocess
import sys
import zipfile

import keras
import pytest

import maml_tf
from tests.forks import ROOT
from tests.wrong_calls import check_refusal
from train import (
    adapt,
    common,
    evaluate,
    images,
    mini_imagenet,
    omniglot,
    options,
    pretrain,
    runs,
    sentences,
    series,
    serve_example,
    sinusoid,
    tabular,
)

SCRIPTS = {
    "adapt": adapt,
    "evaluate": evaluate,
    "images": images,
    "mini_imagenet": mini_imagenet,
    "omniglot": omniglot,
    "pretrain": pretrain,
    "series": series,
    "sentences": sentences,
    "serve_example": serve_example,
    "sinusoid": sinusoid,
    "tabular": tabular,
}
ADAPT = "--model nowhere --support nowhere --query nowhere"
# Of all scripts that train on classes of images.
OF_CLASSES = [
    ("--ways 0", "--ways", "at least 2", "Give a whole number"),
    ("--ways 1", "--ways 1"),
    ("--ways -5", "--ways"),
    ("--ways 2.5", "--ways", "'2.5'"),
    ("--ways five", "--ways", "'five'"),
    ("--ways", "--ways", "expected one argument"),
    ("--shots 0", "--shots 0"),
    ("--queries 0", "--queries 0"),
    ("--test-queries -1", "--test-queries"),
    ("--test-ways 1", "--test-ways 1", "at least 2"),
    ("--test-shots 0", "--test-shots 0"),
    ("--ways 5 --test-ways 6", "--test-ways 6", "--method maml"),
    ("--iterations -5", "--iterations"),
    ("--iterations 1e3", "--iterations", "'1e3'"),
    ("--iterations 750", "--iterations 750", "--epoch-iterations 500", "--iterations 1000"),
    ("--epoch-iterations 0", "--epoch-iterations 0"),
    ("--meta-batch 0", "--meta-batch 0"),
    ("--inner-steps 0", "--inner-steps 0"),
    ("--steps-to-evaluate -1", "--steps-to-evaluate"),
    ("--patience 0", "--patience 0"),
    ("--validation-tasks 0", "--validation-tasks 0"),
    ("--test-tasks 0", "--test-tasks 0"),
    ("--step-size 0", "--step-size 0"),
    ("--step-size nan", "--step-size nan", "positive"),
    ("--meta-learning-rate -0.1", "--meta-learning-rate"),
    ("--meta-learning-rate inf", "--meta-learning-rate inf"),
    ("--clip-value 0", "--clip-value 0"),
    ("--ema-momentum 1", "--ema-momentum 1.0", "between 0 and 1"),
    ("--clip-value 1 --clip-norm 1", "--clip-value 1.0", "--clip-norm 1.0", "Leave one out"),
    ("--recipe modern --clip-value 5", "--clip-norm 10.0", "modern"),
    ("--seed -1", "--seed -1"),
    ("--seed 0.5", "--seed", "'0.5'"),
    ("--method prototypical --last-layer zero", "--last-layer zero", "prototypical"),
    ("--method prototypical --first-order", "--first-order", "prototypical", "Leave it out"),
    ("--method reptile --first-order", "--first-order", "reptile"),
    ("--method prototypical --inner-optimizer adam", "--inner-optimizer", "prototypical"),
    ("--method prototypical --inner-steps 3", "--inner-steps 3", "prototypical", "Leave it out"),
    ("--method prototypical --step-size 0.1", "--step-size 0.1", "prototypical", "Leave it out"),
    ("--method prototypical --steps-to-evaluate 0", "--steps-to-evaluate 0", "prototypical"),
    ("--recipe ancient", "--recipe", "'ancient'", "'modern'"),
    ("--recipe", "--recipe", "expected one argument"),
    ("--network conv5", "--network", "'conv5'", "'conv4'"),
    ("--schedule linear", "--schedule", "'linear'"),
    ("--wayz 5", "--wayz", "--help"),
    ("folder", "folder", "unrecognized"),
    ("--first-order no", "no", "unrecognized"),
    ("--filters 0", "--filters 0"),
    ("--network dense5 --filters 8", "--filters 8", "dense5", "conv4_max_pool or embedding"),
    ("--network resnet12 --filters 8", "--filters 8", "resnet12", "Leave it out"),
]
WRONG = [("images", *row) for row in OF_CLASSES]
# The same code: a few rows show that they come through it.
WRONG += [(s, *row) for s in ("omniglot", "mini_imagenet") for row in OF_CLASSES[:1]]
WRONG += [(s, *row) for s in ("omniglot", "mini_imagenet") for row in OF_CLASSES[25:32]]
of_steps = "--method prototypical --inner-steps 3", "--inner-steps 3", "prototypical"
WRONG += [(script, *of_steps) for script in ("omniglot", "mini_imagenet")]
WRONG += [
    ("omniglot", "--split papre", "--split", "'papre'", "'alphabet'"),
    ("omniglot", "--rotate tasks", "--rotate", "'tasks'", "'classes'"),
    ("mini_imagenet", "--download", "--download", "--source"),
    ("mini_imagenet", "--image-size 40", "--image-size 40", "divisor of 84"),
    ("mini_imagenet", "--source nowhere --data-dir {tmp}", "nowhere", "--source"),
    ("mini_imagenet", "--data-dir {tmp}", "mini-ImageNet", "--source"),
    ("images", "--data nowhere", "nowhere", "list_builders", "--data glyphs"),
    ("images", "--data {tmp}/nowhere", "nowhere", "does not exist", "--data glyphs"),
    ("images", "--data {tmp}", "one folder per class", "no folders"),
    ("images", "--data=", "--data"),
    ("images", "--data cifar_fs --data-dir {tmp}", "cifar100", "--data glyphs"),
    ("images", "--data fc100 --channels 1", "--channels 1", "--data fc100"),
    ("images", "--data glyphs --image-size 32", "--image-size 32", "no use"),
    ("images", "--data glyphs --on-error skip", "--on-error skip"),
    ("images", "--data glyphs --cache {tmp}", "--cache"),
    ("images", "--data glyphs --download", "--download"),
    ("images", "--data {tmp} --download", "--download"),
    ("images", "--image-size 0", "--image-size 0"),
    ("images", "--channels 2", "--channels", "2"),
    ("images", "--shots 20", "shots + queries", "20"),
    ("images", "--ways 500", "ways=500"),
    ("images", "--quick --network conv4_max_pool --start-from {tmp}/nowhere", "--start-from"),
    ("images", "--method reptile --inner-optimizer learned", "LearnedRates"),
    ("omniglot", "--last-layer-step-size 9", "--last-layer-step-size 9.0", "--inner-optimizer"),
    ("omniglot", "--inner-optimizer learned --last-layer-step-size -1", "-1", "positive"),
    ("pretrain", "--image-size 42", "--image-size 42", "--data cifar_fs"),
    ("pretrain", "--data mini_imagenet --image-size 40", "--image-size 40", "divisor of 84"),
    ("pretrain", "--batch-size 0", "--batch-size 0"),
    ("pretrain", "--filters 0", "--filters 0"),
    ("pretrain", "--data-dir {tmp}", "cifar100", "train.images"),
    ("evaluate", "nowhere.keras", "nowhere.keras", "saved learner"),
    ("evaluate", "{tmp}/plain.keras", "plain.keras", "does not adapt"),
    ("evaluate", "nowhere.keras --strict-tasks 0", "--strict-tasks 0"),
    ("evaluate", "{tmp}/means.keras --inner-steps 2", "--inner-steps 2", "means.keras", "without"),
    ("sinusoid", "--inner-step-size 0", "--inner-step-size 0"),
    ("sinusoid", "--inner-step-size fast", "--inner-step-size", "'fast'"),
    ("sinusoid", "--inner-steps -1", "--inner-steps -1"),
    ("sinusoid", "--iterations 0", "--iterations 0"),
    ("sinusoid", "--iterations 1500", "--iterations 1500", "--epoch-iterations 1000"),
    ("sinusoid", "--meta-batch 0", "--meta-batch 0"),
    ("sinusoid", "--points 0", "--points 0"),
    ("sinusoid", "--test-points 5 0", "--test-points 0"),
    ("sinusoid", "--test-points", "--test-points", "none"),
    ("sinusoid", "--test-points 5.5", "--test-points", "'5.5'"),
    ("sinusoid", "--fine-tuning 0.1 -1", "--fine-tuning -1"),
    ("sinusoid", "--test-inner-steps 0", "--test-inner-steps 0"),
    ("sinusoid", "--seed -7", "--seed -7"),
    ("sinusoid", "--recipe modern", "--recipe", "unrecognized"),
    ("tabular", "", "--data", "--quick"),
    ("tabular", "--data nowhere.csv --target a", "--group"),
    ("tabular", "--data nowhere.csv --target a --group b", "'nowhere.csv'", "does not exist"),
    ("tabular", "--data {tmp}/text.keras --target a --group b", "text.keras", ".parquet"),
    ("tabular", "--data {tmp}/t.csv --target scor --group who", "--target", "mean 'score'"),
    ("tabular", "--data {tmp}/t.csv --target score --group whom", "--group", "mean 'who'"),
    ("tabular", "--data {tmp}/t.csv --target score --group who --time dya", "--time", "mean 'day'"),
    ("tabular", "--data {tmp}/t.csv --target score --group who --features lod", "mean 'load'"),
    ("tabular", "--data {tmp}/t.csv --target score --group who", "'F'", "'sex'", "--categories"),
    ("tabular", "--data {tmp}/t.csv --target score --group who --features day", "date 2024-01-31"),
    ("tabular", "--data {tmp}/t.csv --target score --group who --time sex", "'F'", "--time", "sex"),
    ("tabular", "--data {tmp}/few.csv --target score --group who", "with 2", "--leave-out-small"),
    ("tabular", "--data {tmp}/t.csv --target score --group load", "'load'", "floating"),
    ("tabular", "--data {tmp}/t.csv --target score --group who --categories sx", "mean 'sex'"),
    (
        "tabular",
        "--data {tmp}/t.csv --target score --group who --categories sex --features sex",
        "1 group ",
    ),
    ("tabular", "--quick --line wait", "--line wait", "'dose'"),
    ("tabular", "--quick --shares 0.5 0 0.5", "--shares 0.0"),
    ("tabular", "--quick --shares 0.5 0.5", "--shares", "(0.5, 0.5)"),
    ("tabular", "--quick --test-shots 5 500", "shots + queries = 520", "--test-shots"),
    ("tabular", "--quick --hidden 0", "--hidden 0"),
    ("tabular", "--quick --penalties 0", "--penalties 0"),
    ("tabular", "--quick --clip-norm 0", "--clip-norm 0"),
    ("series", "", "--data", "--quick"),
    ("series", "--data nowhere.csv", "--value"),
    ("series", "--data nowhere.csv --wide", "'nowhere.csv'", "does not exist"),
    ("series", "--data {tmp}/t.csv --value score --time load", "train split"),
    ("series", "--quick --season 99", "--season 99", "--inputs 72"),
    ("series", "--quick --beginning 80", "--beginning", "beginning=80"),
    ("series", "--quick --horizon 300", "--beginning", "at least 372"),
    ("series", "--data {tmp}/t.csv --value lode", "--value", "mean 'load'"),
    ("series", "--data {tmp}/t.csv --value sex", "'F'", "'sex'", "row 0"),
    ("series", "--data {tmp}/t.csv --value load --group score", "'score'", "floating"),
    ("series", "--data {tmp}/t.csv --value load --time sex", "'F'", "--time"),
    ("series", "--data {tmp}/t.csv --value load score --targets sex", "--targets sex"),
    ("series", "--data {tmp}/t.csv --value load --targets load", "--targets load", "several"),
    ("series", "--data {tmp}/t.csv --wide --value load", "--wide", "--value"),
    ("serve_example", "--shots 0", "--shots 0"),
    ("serve_example", "--queries -4", "--queries -4"),
    ("serve_example", "--inner-steps -1", "--inner-steps -1"),
    ("serve_example", "--shots 20", "shots + queries", "20"),
    ("serve_example", "--model nowhere", "--model nowhere", "does not exist"),
    ("serve_example", "--model {tmp}", "--model", "saved_model.pb"),
    ("adapt", "--support a --query b", "--model"),
    ("adapt", "--model a", "--support"),
    ("adapt", f"{ADAPT} --sheet-queries 0", "--sheet-queries 0"),
    ("adapt", f"{ADAPT} --inner-steps -1", "--inner-steps -1"),
    ("adapt", f"{ADAPT} --on-error ignore", "--on-error", "'ignore'"),
    ("adapt", ADAPT, "--model nowhere", "does not exist"),
    ("adapt", "--model {tmp} --support a --query b", "--model", "saved_model.pb"),
    ("adapt", "--model {tmp}/text.keras --support a --query b", "text.keras", "cannot be read"),
    ("adapt", "--model {tmp}/empty.keras --support a --query b", "empty.keras", "cannot be read"),
    ("adapt", "--model {tmp}/zip.keras --support a --query b", "zip.keras", "cannot be read"),
    ("adapt", "--model {tmp}/cut.keras --support a --query b", "cut.keras", "file is damaged"),
    ("adapt", "--model {tmp}/plain.keras --support a --query b", "Sequential", "does not adapt"),
    ("adapt", "--model {tmp}/export --support a --query b", "export", "cannot be read"),
    ("images", "--quick --start-from {tmp}/zip.keras", "--start-from", "zip.keras"),
    ("images", "--quick --start-from {tmp}/cut.keras", "cut.keras", "file is damaged"),
    ("images", "--quick --start-from {tmp}/plain.keras", "--start-from", "plain.keras", "weights"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that are no models: `text.keras`, `zip.keras` and others."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "text.keras").write_text("no model")
    (folder / "empty.keras").touch()
    (folder / "t.csv").write_text(
        "who,sex,load,score,day\n1,F,0.5,2.5,2024-01-31\n1,M,0.25,3.5,2024-02-01\n"
    )
    rows = [f"{who},{i / 9},{i / 7}" for who in range(9) for i in range(40 if who < 8 else 2)]
    (folder / "few.csv").write_text("\n".join(["who,load,score", *rows]))
    with zipfile.ZipFile(folder / "zip.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(folder / "plain.keras")
    maml_tf.Prototypical(model).save(folder / "means.keras")
    whole = (folder / "plain.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize("row", WRONG, ids=lambda row: f"{row[0]} {row[1]}"[:60])
def test_wrong_options_are_refused_in_a_line(row, folder, tmp_path, monkeypatch, capsys):
    script, given, *fragments = row
    # Nothing is downloaded, and threads were set when TensorFlow began.
    monkeypatch.setattr(common, "use_threads_for_tasks", lambda: None)
    place = tmp_path if given.endswith("{tmp}") or "{tmp} " in given else folder
    if "export" in given:
        (folder / "export").mkdir(exist_ok=True)
        (folder / "export" / "saved_model.pb").write_bytes(b"no model")
    output = f"--output {tmp_path / 'run'}"
    line = check_refusal(
        lambda: common.run(SCRIPTS[script].main),
        f"{output} {given}".format(tmp=place),
        fragments,
        monkeypatch,
        capsys,
    )
    assert not (tmp_path / "run").exists()
    assert not re.search(r"\w\.\.( |$)", line)


def test_from_a_shell_too():
    words = [sys.executable, "-m", "train.sinusoid", "--inner-steps", "many"]
    failed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    *_, line = failed.stderr.strip().splitlines()  # TensorFlow greets before it
    assert "usage" not in failed.stderr
    assert "--inner-steps" in line
    assert "'many'" in line


def test_what_a_run_directory_holds_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "use_threads_for_tasks", lambda: None)
    runs.write_json(tmp_path / "config.json", {"seed": 1, "points": 5})
    given = f"--output {tmp_path}"
    line = check_refusal(
        lambda: common.run(sinusoid.main), given, ["seed: 1 there, 0 here"], monkeypatch, capsys
    )
    assert "--fresh" in line


def test_every_number_of_a_script_has_a_rule():
    """A new option that takes a number needs one, too."""
    ruled = {*options.LEAST, *options.POSITIVE, *options.FRACTIONS}
    for script in SCRIPTS.values():
        for field in dataclasses.fields(script.Settings):
            numbers = str(field.type).replace("Literal", "").replace("str", "")
            if any(kind in numbers for kind in ("int", "float")) and "1, 3" not in numbers:
                assert field.name in ruled, f"{script.__name__}: {field.name}"
