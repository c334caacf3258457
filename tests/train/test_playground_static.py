"""The playground as a folder of files: written, handed out under a path, and used in a browser.

With `MAML_TF_SCREENSHOTS=FOLDER` the tests also write what the page looks like on a phone's width.
"""

import base64
import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import pathlib
import re
import shutil
import tarfile
import threading

import keras
import numpy as np
import PIL.Image
import pytest

from tests.train import browsers, playgrounds
from tests.train.browsers import click_at, draw, hand, softmax, sync_api, until
from train import litert_js, playground, playground_static

SAVED = pathlib.Path(__file__).parents[2] / "saved_models"
SCREENSHOTS = os.environ.get("MAML_TF_SCREENSHOTS")
NAMES = ("omniglot", "sinusoid")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def handed_out(folder):
    """Its files on a free port, by Python's server of files: the address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """`(folder, reason)`: a folder with a playground at `docs/play`, and why it cannot run."""
    site, reason = tmp_path_factory.mktemp("site"), None
    settings = playground.Settings(static=str(site / "docs" / "play"), names=(*NAMES, "navigation"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(playground_static.ROOM, "sine", {"max_support": 6, "max_queries": 127})
        try:
            litert_js.write(tmp_path_factory.mktemp("runtime"))
        except litert_js.MissingError as missing:
            reason = f"needs npm and its registry: {missing}"
            stub(patch)
        playground.write_static(settings)
    return site, reason


@pytest.fixture(scope="module")
def site(built):
    """The folder, where it can run."""
    if built[1]:
        pytest.skip(built[1])
    return built[0]


def archive(package, content=b"// nothing"):
    """An archive of npm with the files of a package."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for name in package.files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return written.getvalue()


def stub(patch):
    """Packages in the place of LiteRT.js, for what has nothing to do with what is in them."""
    archives = [archive(package) for package in litert_js.PACKAGES]
    digests = [base64.b64encode(hashlib.sha512(a).digest()).decode() for a in archives]
    packages = [
        package._replace(integrity=f"sha512-{digest}")
        for package, digest in zip(litert_js.PACKAGES, digests, strict=True)
    ]
    patch.setattr(litert_js, "PACKAGES", packages)
    patch.setattr(litert_js, "_fetched", lambda place: archives)


# The folder.


def test_the_folder_has_what_it_names(built):
    place = built[0] / "docs" / "play"
    worker = (place / "worker.js").read_text()
    kept = json.loads(re.search("const FILES = (.*);", worker)[1])
    assert kept[0] == "./"
    assert all((place / name).stat().st_size for name in kept)
    assert {"models/omniglot.tflite", "litert/core.js", "litert/wasm-utils.js"} <= set(kept)
    listed = json.loads((place / "models.json").read_text())["models"]
    assert [model["name"] for model in listed] == list(NAMES)  # navigation has no use there
    card = listed[0]["card"]
    assert (card["max_support"], card["max_queries"], card["commit"]) == (5, 6, "d4bb196")
    assert card["bytes"] == (place / listed[0]["file"]).stat().st_size
    assert "Apache License" in (place / "litert" / "LICENSE").read_text()
    assert litert_js.PACKAGES[0].version in (place / "litert" / "README.md").read_text()
    # The page says itself what it may do, and its own script is among that.
    page = (place / "index.html").read_text()
    assert "connect-src 'self'" in page
    assert page.count("'sha256-") == 3
    assert set(playgrounds.addresses(page)) == {"http://www.w3.org/2000/svg"}


def test_a_new_build_is_a_new_worker(built, tmp_path):
    place = built[0] / "docs" / "play"
    shutil.copytree(place, tmp_path / "play")
    kept = json.loads(re.search("const FILES = (.*);", (place / "worker.js").read_text())[1])[2:]
    assert playground_static._worker(tmp_path / "play", kept) == (place / "worker.js").read_text()
    with (tmp_path / "play" / "models" / "omniglot.tflite").open("ab") as file:
        file.write(b"0")
    assert playground_static._worker(tmp_path / "play", kept) != (place / "worker.js").read_text()


def refused(patch, capsys, *words):
    patch.setattr("sys.argv", ["playground", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        playground.common.run(playground.main, resumes=False)
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.count("\n") == 1
    return line


def test_what_cannot_be_written_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    stub(monkeypatch)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    for words, told in [
        (["--static", mine], "where something else is"),
        (["--static", mine / "letter.txt"], "where something else is"),
        (["--static", tmp_path / "a", "--models", mine], "NAME/learner.keras each"),
        (["--static", tmp_path / "a", "--names", "nobody"], "Leave out ['nobody']"),
        (["--static", tmp_path / "a", "--names", "navigation"], "Expected a learner of one number"),
        (["--static", tmp_path / "a", "--server", "http://localhost:1"], "Leave out one of them"),
    ]:
        assert told in refused(monkeypatch, capsys, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [path.name for path in mine.iterdir()] == ["letter.txt"]


def test_an_older_playground_gives_way_and_stays_where_a_new_one_fails(
    built, tmp_path, monkeypatch, capsys
):
    old = tmp_path / "play"
    shutil.copytree(built[0] / "docs" / "play", old)
    (old / "old.txt").write_text("old")
    words = ["--static", old, "--names", "sinusoid"]
    monkeypatch.setattr(litert_js.shutil, "which", lambda name: None)
    assert "Install Node.js" in refused(monkeypatch, capsys, *words)
    assert (old / "old.txt").is_file()
    stub(monkeypatch)

    def exported(name, path, place):
        (place / "models" / name).write_bytes(b"new")
        return {"name": name, "file": f"models/{name}", "card": {}}

    monkeypatch.setattr(playground_static, "_exported", exported)
    playground.write_static(playground.Settings(static=str(old), names=("sinusoid",)))
    assert not (old / "old.txt").exists()
    assert [path.name for path in old.glob("models/*")] == ["sinusoid"]


def test_an_archive_of_another_hash_is_not_used(tmp_path, monkeypatch):
    other = [archive(package) for package in litert_js.PACKAGES]
    monkeypatch.setattr(litert_js, "_fetched", lambda place: other)
    with pytest.raises(litert_js.MissingError, match="whose sha512 is PlGmbMOq9Wit"):
        litert_js.write(tmp_path / "litert")
    assert not (tmp_path / "litert").exists()


def test_what_npm_says_is_told(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error network no route' >&2; exit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(litert_js.shutil, "which", lambda name: str(npm))
    with pytest.raises(litert_js.MissingError) as told:
        litert_js.write(tmp_path / "litert")
    assert "Expected npm to fetch @litertjs/core@" in str(told.value)
    assert "npm error network no route. The first time needs a network" in str(told.value)


# In a browser.


@pytest.fixture(scope="module")
def browser():
    if browsers.needed.args[0]:
        pytest.skip(browsers.needed.kwargs["reason"])
    with browsers.launched() as browser:
        yield browser


@pytest.fixture
def opened(browser, site):
    """`opened(address, tab)`: the page, in a browser of its own; nothing of it may be refused."""
    contexts, problems = [], []

    def opened(address, tab, width=360, height=740, missing=None):
        size = {"width": width, "height": height}
        # What a service worker has kept would not be missing.
        workers = "block" if missing else "allow"
        context = browser.new_context(
            viewport=size, reduced_motion="reduce", service_workers=workers
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda problem: problems.append(str(problem)))
        # LiteRT.js tells all of its news as errors.
        page.on("console", lambda m: "Content Security" in m.text and problems.append(m.text))
        if missing:
            page.route(missing, lambda route: route.abort())
        page.goto(f"{address}/docs/play/?seed=3#{tab}")
        until(page, "'playground' in window")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


def learner(name, steps):
    loaded = keras.saving.load_model(SAVED / name / "learner.keras")
    loaded.inner_steps = loaded.inner_steps if steps is None else steps
    return loaded


def test_the_page_adapts_to_drawings_by_itself_and_without_a_network(opened, site):
    random = np.random.default_rng(0)
    with handed_out(site) as address:
        page = opened(address, "characters")
        signs = page.evaluate("playground.SIGNS")[:5]
        for number, sign in enumerate(signs):
            draw(page, f"#support-pads .pad:nth-child({number + 1})", hand(sign, random))
        draw(page, "#query-pad", hand(signs[3], random))
        until(page, "playground.parts.characters.look()")
        shown = page.evaluate("playground.parts.characters.look()")
        drawn, *support = np.float32(shown["pixels"])
        batch = {
            "support_x": np.stack(support)[None],
            "support_y": np.arange(5, dtype=np.int32)[None],
            "query_x": np.stack([drawn, *support])[None],
        }
        logits = learner("omniglot", shown["steps"]).predict(batch, verbose=0)
        np.testing.assert_allclose(shown["maml"], softmax(logits[0, 0]), atol=1e-4)
        assert np.argmax(shown["maml"]) == 3
        assert "MAML: sign 4" in page.locator("#characters-verdict").inner_text()
        # A label that the network has no output for is NaN in the file, and told by the page.
        for labels, told in [
            ("[0, 1, 2, 3, 7]", "The network found no answer: a label is none of its classes"),
            ("[0, 1, 2, 3, -1]", "The network found no answer: a label is none of its classes"),
            ("[0, 1, 2, 3, 1.5]", "Expected numbers that are whole. Received: 1.5."),
        ]:
            model = "playground.parts.characters.models[0]"
            shown_x = "playground.parts.characters.look().pixels.slice(1)"
            asked = f"playground.trying(() => {model}.adapt({shown_x}, {labels}, 1))"
            assert page.evaluate(asked) is None
            sync_api.expect(page.locator("#message-text")).to_contain_text(told)
        # What the page alone cannot do is not offered, and the page fits a phone.
        tabs = page.locator("[role=tab]:visible").all_inner_texts()
        assert tabs == ["Sine", "Characters"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if SCREENSHOTS:
            take(page, "static-characters")
        until(page, "navigator.serviceWorker.controller")
    # The server is gone.
    page.reload()
    until(page, "'playground' in window")
    page.click("#draw-support")
    page.click("#draw-query")
    until(page, "playground.parts.characters.look()")
    page.click("#tab-sine")
    until(page, "playground.parts.sine.look().step === 10")


def take(page, name):
    """A picture of the page, its lower half beside the upper one: a phone's page is long."""
    whole = PIL.Image.open(io.BytesIO(page.screenshot(full_page=True, animations="disabled")))
    width, height = whole.size[0], -(-whole.size[1] // 2)
    image = PIL.Image.new("RGB", (2 * width, height), whole.getpixel((0, 0)))
    for column in range(2):
        part = whole.crop((0, column * height, width, min((column + 1) * height, whole.size[1])))
        image.paste(part, (column * width, 0))
    image = image.quantize(256, dither=PIL.Image.Dither.NONE)
    image.save(pathlib.Path(SCREENSHOTS) / f"{name}.png", optimize=True)


def test_curves_are_the_learners_and_bad_input_is_told(opened, site):
    with handed_out(site) as address:
        page = opened(address, "sine", width=1120)
        until(page, "playground.parts.sine.look().step === 10")
        shown = page.evaluate("playground.parts.sine.look()")
        points = np.float32(shown["points"])
        grid = np.linspace(-5, 5, 121, dtype=np.float32)[:, None]
        task = {"support_x": points[None, :, :1], "support_y": points[None, :, 1:]}
        path = learner("sinusoid", 10).predict_path(task | {"query_x": grid[None]}, 10)
        curves = [row["curve"] for row in shown["results"][0]]
        np.testing.assert_allclose(curves, path[0, :, :, 0], rtol=1e-4, atol=1e-4)
        # One point more than there is room for.
        said = page.locator("#message-text")
        for x in (-1.9, 2.6):
            sync_api.expect(page.locator("#message")).to_be_hidden()
            count = len(page.evaluate("playground.parts.sine.look().points"))
            click_at(page, "#sine-plot", x, 4)
            until(page, f"playground.parts.sine.look().points.length === {count + 1}")
        sync_api.expect(said).to_have_text(
            "Expected 1 to 6 examples, for which this network has room. Received: 7. Remove some."
        )
        page.click("#sine-clear")  # the curve before any example
        until(page, "((sine) => sine.ready && !sine.points.length)(playground.parts.sine.look())")
        flat = page.evaluate("playground.parts.sine.look().results[0][0].curve")
        np.testing.assert_allclose(flat, path[0, 0, :, 0], rtol=1e-4, atol=1e-4)
        for call, told in [
            ("adapt([[NaN]], [[1]], 1)", "Expected numbers that are finite. Received: NaN."),
            ("adapt([[1]], [[1e39]], 1)", "Expected numbers that are finite. Received: 1e+39."),
            ("adapt([[1e30]], [[1e30]], 1)", "The network found no answer"),
            ("adapt([[null]], [[1]], 1)", "Expected numbers that are finite. Received: null."),
            ("adapt([['1']], [[1]], 1)", "Expected numbers that are finite. Received: 1."),
            (
                "adapt([[1], [2]], [[1]], 1)",
                "Expected a label for each of 2 examples. Received: 1.",
            ),
            ("adapt([[1, 2]], [[1]], 1)", "Expected examples of the shape [1]. Received: others."),
            ("adapt([], [], 1)", "Expected 1 to 6 examples"),
            ("adapt([[1]], [[1]], -1)", "Expected a number of steps from 0 on. Received: -1."),
            ("adapt([[1]], [[1]], 1.5)", "Expected a number of steps from 0 on. Received: 1.5."),
            (
                "adapt([[1]], [[1]], 2 ** 31)",
                "Expected a number of steps from 0 on. Received: 2147",
            ),
            ("predict([[Infinity]])", "Expected numbers that are finite. Received: Infinity."),
        ]:
            page.evaluate("document.getElementById('message').hidden = true")
            model = "playground.parts.sine.models[0]"
            assert page.evaluate(f"playground.trying(() => {model}.{call})") is None
            sync_api.expect(said).to_contain_text(told)


def test_what_cannot_be_fetched_is_told(opened, site):
    with handed_out(site) as address:
        for missing, told in [
            ("**/*.wasm", "LiteRT.js, could not be loaded"),
            ("**/sinusoid.tflite", 'The network "sinusoid" could not be loaded'),
        ]:
            page = opened(address, "sine", missing=missing)
            sync_api.expect(page.locator("#message-text")).to_contain_text(told, timeout=60_000)


@pytest.mark.slow
def test_photographs_are_told_apart_as_by_an_adapted_learner(browser, tmp_path, opened):
    place = tmp_path / "docs" / "play"
    playground.write_static(playground.Settings(static=str(place), names=("cifar_fs",)))
    with handed_out(tmp_path) as address:
        page = opened(address, "photographs")
        page.locator("#photographs-folder").set_input_files(
            playgrounds.pictures(tmp_path / "mine", each=2)
        )
        new = playgrounds.pictures(
            tmp_path / "new", each=3, seed=1
        )  # 15, more than asked at a time
        page.locator("#photographs-queries").set_input_files(sorted(new.glob("*/*.png")))
        until(page, "playground.parts.photographs.look()")
        shown = page.evaluate("playground.parts.photographs.look()")
        if SCREENSHOTS:
            take(page, "static-photographs")
        asked = np.float32(shown["pixels"])[:15]
        support, labels = np.float32(shown["support"]), np.int32(shown["labels"])
        mine = learner("cifar_fs", None).adapt(support, labels, inner_steps=shown["steps"])
        np.testing.assert_allclose(shown["scores"], softmax(mine.predict(asked)), atol=1e-3)
        # More pictures than there is room for.
        page.locator("#photographs-folder").set_input_files(
            playgrounds.pictures(tmp_path / "many", each=6)
        )
        sync_api.expect(page.locator("#message-text")).to_have_text(
            "Expected 1 to 25 examples, for which this network has room. Received: 30. Remove some."
        )
