"""The playground's page in a real browser: clicked, drawn on, typed on, and what it then shows.

With `MAML_TF_SCREENSHOTS=FOLDER` the tests also write what the page looks like: `light-sine.png`
and so on in light, in dark and on a phone's width; with `MAML_TF_PHOTOGRAPHS=FOLDER` of an exported
model beside it the photographs are told apart by that.
"""

import json
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests.train import browsers, playgrounds
from tests.train.browsers import click_at, draw, hand, softmax, sync_api, until
from tests.train.playgrounds import KINDS

SAVED = pathlib.Path(__file__).parents[2] / "saved_models"
SERVED = ("navigation", "omniglot", "omniglot_prototypical", "sinusoid", "sinusoid_pretrained")
SCREENSHOTS = os.environ.get("MAML_TF_SCREENSHOTS")
PHOTOGRAPHS = os.environ.get("MAML_TF_PHOTOGRAPHS")
pytestmark = browsers.needed
TABS = ("sine", "characters", "photographs", "navigation")


@pytest.fixture(scope="module")
def browser():
    with browsers.launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in SERVED:
        (folder / name).symlink_to(SAVED / name)
    if PHOTOGRAPHS:
        (folder / "photographs").symlink_to(pathlib.Path(PHOTOGRAPHS).resolve())
    else:
        playgrounds.write_photograph_model(folder / "photographs" / "1")
    with playgrounds.served(models=str(folder)) as server:
        yield server


@pytest.fixture
def open_page(browser, served):
    """`open_page(tab, …)`: the page at a tab, once it is ready; it must make no error."""
    pages, problems = [], []

    def heard(text):
        # The browser tells every status that is no success; the page tells what it means.
        if not text.startswith("Failed to load resource"):
            problems.append(text)

    def open_page(tab, server=served, width=1120, height=800, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.on("pageerror", lambda problem: problems.append(str(problem)))
        page.on("console", lambda said: said.type == "error" and heard(said.text))
        page.goto(f"http://127.0.0.1:{server.server_port}/?seed=3#{tab}")
        until(page, "'playground' in window")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not problems


def look(page, tab):
    """What a tab holds."""
    return page.evaluate(f"playground.parts.{tab}.look()")


# Sine.


def adapted(page):
    until(page, "((sine) => sine.ready && sine.step === 10)(playground.parts.sine.look())")


def test_the_curves_are_those_of_the_models(open_page, served):
    page = open_page("sine", reduced_motion="reduce")
    adapted(page)
    page.click("#sine-clear")
    until(page, "!playground.parts.sine.look().points.length")
    placed = [(-3, 2), (-1, -1.5), (2.5, 3)]
    for number, point in enumerate(placed):
        click_at(page, "#sine-plot", *point)
        until(page, f"playground.parts.sine.look().points.length === {number + 1}")
    adapted(page)
    shown = look(page, "sine")
    points = np.float32(shown["points"])
    np.testing.assert_allclose(points, placed, atol=0.04)  # a pixel
    grid = np.linspace(-5, 5, 121, dtype=np.float32)[:, None]
    for name, results in zip(("sinusoid", "sinusoid_pretrained"), shown["results"], strict=True):
        model = served.models.model(name).load().signatures["adapt_and_predict"]
        support = {"support_x": points[:, :1], "support_y": points[:, 1:]}
        for steps in (0, 1, 10):
            curve = model(**support, query_x=grid, inner_steps=steps)["predictions"][:, 0]
            np.testing.assert_allclose(results[steps]["curve"], curve, rtol=1e-5, atol=1e-5)
            at = model(**support, query_x=points[:, :1], inner_steps=steps)["predictions"]
            error = np.mean((at - points[:, 1:]) ** 2)
            np.testing.assert_allclose(results[steps]["error"], error, rtol=1e-4, atol=1e-9)
    page.locator("#sine-steps").fill("1")
    row = page.locator("#sine-errors tr").first.inner_text()
    assert f"{shown['results'][0][1]['error']:.2f}" in row
    assert page.locator("#sine-step").inner_text() == "step 1 of 10"


def test_a_curve_by_the_keyboard(open_page):
    page = open_page("sine", reduced_motion="reduce")
    adapted(page)
    page.locator("#tab-sine").focus()
    page.keyboard.press("Tab")  # the plot comes next
    assert page.evaluate("document.activeElement.id") == "sine-plot"
    for _ in range(5):
        page.keyboard.press("Backspace")
    until(page, "!playground.parts.sine.look().points.length")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Enter")
    until(page, "playground.parts.sine.look().points.length === 1")
    assert look(page, "sine")["points"] == [[pytest.approx(0.25), pytest.approx(1.1)]]
    until(page, "document.getElementById('sine-said').textContent.startsWith('1 points')")
    page.keyboard.press("Enter")  # on the point: it goes
    until(page, "!playground.parts.sine.look().points.length")
    page.locator("#tab-sine").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-characters"
    assert page.locator("#characters").is_visible()
    assert page.locator("#sine").is_hidden()


# Characters.


def test_drawn_signs_are_told_apart(open_page, served):
    page = open_page("characters")
    signs = page.evaluate("playground.SIGNS")[:5]
    random = np.random.default_rng(0)
    for number, sign in enumerate(signs):
        draw(page, f"#support-pads .pad:nth-child({number + 1})", hand(sign, random))
    right = {"maml": 0, "prototypes": 0}
    for number, sign in enumerate(signs):
        page.locator("#query-pad button").click()
        assert look(page, "characters") is None
        draw(page, "#query-pad", hand(sign, random))
        until(page, "playground.parts.characters.look()")
        shown = look(page, "characters")
        for name in right:
            right[name] += np.argmax(shown[name]) == number
        if number in (0, 3):
            check_scores(page, served, shown)
    assert right["maml"] >= 4
    assert right["prototypes"] >= 4


def check_scores(page, served, shown):
    """The scores are those of the models in Python, and the page shows them."""
    drawn, *support = np.float32(shown["pixels"])
    assert drawn.shape == (28, 28, 1)
    batch = {"query_x": np.stack([drawn, *support])}
    batch |= {"support_x": np.stack(support), "support_y": np.arange(5, dtype=np.int32)}
    for name, model, more in [
        ("maml", "omniglot", {"inner_steps": shown["steps"]}),
        ("prototypes", "omniglot_prototypical", {}),
    ]:
        signature = served.models.model(model).load().signatures["serving_default"]
        logits = signature(**{k: tf.constant(v) for k, v in (batch | more).items()})
        expected = softmax(logits["predictions"].numpy()[0])
        np.testing.assert_allclose(shown[name], expected, atol=1e-5)
    distances = np.sqrt(np.sum((drawn - np.stack(support)) ** 2, (1, 2, 3)))
    np.testing.assert_allclose(shown["distances"], distances, rtol=1e-5)
    cells = page.locator("#characters-scores tr").nth(1).locator("b").all_inner_texts()
    wanted = [f"{100 * shown[name][1]:.0f} %" for name in ("maml", "prototypes")]
    assert cells == [*wanted, f"{distances[1]:.2f}"]
    verdict = page.locator("#characters-verdict").inner_text()
    assert f"MAML: sign {np.argmax(shown['maml']) + 1} " in verdict


def test_a_drawing_is_made_small_as_omniglot_is(open_page):
    page = open_page("characters")
    random = np.random.default_rng(1)
    ink = (random.uniform(size=(105, 105)) > 0.8).astype(np.float32)
    small = np.array(page.evaluate("ink => playground.small(ink)", ink.ravel().tolist()))
    expected = tf.image.resize(ink[..., None], [28, 28], method="lanczos3", antialias=True)
    expected = np.round(255 * np.clip(expected, 0, 1)) / 255
    assert np.abs(small - expected).max() < 1.01 / 255  # a half rounds up or down
    assert np.mean(np.abs(small - expected) < 1e-6) > 0.99
    # Wherever and however large: in the middle, two thirds of the side, as in Omniglot.
    box = np.array([[0.1, 0.1], [0.2, 0.1], [0.2, 0.3], [0.1, 0.3], [0.1, 0.1]])
    pixels = [
        np.array(page.evaluate("strokes => playground.pixelsOf(strokes)", [(a * box + b).tolist()]))
        for a, b in ((1.5, 0), (3, 0.1))
    ]
    np.testing.assert_array_equal(*pixels)
    rows = np.flatnonzero(pixels[0].max((1, 2)) > 0.3)
    assert (rows[0], rows[-1]) == (4, 23)


def test_a_sign_by_the_keyboard_and_signs_by_themselves(open_page):
    page = open_page("characters")
    page.locator("#support-pads canvas.draw").first.focus()
    for key in (
        "Space",
        *["ArrowRight"] * 4,
        "Space",
        "ArrowDown",
        "Space",
        "Shift+ArrowDown",
        "Enter",
    ):
        page.keyboard.press(key)
    assert page.locator("#characters-verdict").inner_text() == "Draw 4 more signs first."
    page.keyboard.press("Delete")
    page.click("#draw-support")
    assert page.locator("#characters-verdict").inner_text() == "Now draw one of the five again."
    page.click("#draw-query")
    until(page, "playground.parts.characters.look()")
    page.locator("#characters-steps").fill("0")
    until(page, "playground.parts.characters.look()?.steps === 0")
    page.click("#clear-support")
    assert look(page, "characters") is None


# Photographs.


def test_pictures_of_folders_are_told_apart(open_page, served, tmp_path):
    page = open_page("photographs")
    folder = playgrounds.pictures(tmp_path / "mine", each=3)
    (folder / "leaves" / "notes.png").write_text("no picture")
    page.locator("#photographs-folder").set_input_files(folder)
    said = page.locator("#message-text")
    sync_api.expect(said).to_have_text("notes.png is no picture that this browser can open.")
    names = page.locator(".class input[type=text]")
    sync_api.expect(names.nth(4)).to_have_value("waves")
    new = playgrounds.pictures(tmp_path / "new", each=1, seed=1)
    page.locator("#photographs-queries").set_input_files(sorted(new.glob("*/*.png")))
    until(page, "playground.parts.photographs.look()")
    shown = look(page, "photographs")
    support, labels = np.float32(shown["support"]), np.int32(shown["labels"])
    assert support.shape == (15, 16, 16, 3)
    assert labels.tolist() == np.repeat(np.arange(5), 3).tolist()
    model = served.models.model("photographs").load().signatures
    asked = {"support_x": support, "support_y": labels, "inner_steps": np.int32(shown["steps"])}
    weights = model["adapt"](**{k: tf.constant(v) for k, v in asked.items()})["weights"]
    logits = model["predict_with"](
        weights=weights, query_x=tf.constant(np.float32(shown["pixels"]))
    )
    np.testing.assert_allclose(shown["scores"], softmax(logits["predictions"][:5]), atol=1e-5)
    assert np.argmax(shown["scores"], -1).tolist() == [0, 1, 2, 3, 4]
    # What the page sends is the middle of the picture, in the right colours.
    image = np.asarray(PIL.Image.open(new / KINDS[2] / "0.png"), np.float32)[:, 20:140] / 255
    mine = np.float32(shown["pixels"])[2]
    np.testing.assert_allclose(mine.mean((0, 1)), image.mean((0, 1)), atol=0.01)
    titles = page.locator("#photographs-results .result > .row > b")
    assert titles.all_inner_texts() == list(KINDS)
    # A score of 100 % takes no second line, and its bar no room from it.
    beyond = page.evaluate(
        """[...document.querySelectorAll(".result .bar b")].filter((score) => {
          score.textContent = "100 %";
          const size = parseFloat(getComputedStyle(score).fontSize);
          return score.scrollWidth > score.clientWidth || score.offsetHeight > 1.7 * size;
        }).length"""
    )
    assert beyond == 0
    page.locator("#photographs-steps").fill("0")
    until(page, "playground.parts.photographs.look()?.steps === 0")
    np.testing.assert_allclose(look(page, "photographs")["scores"], 0.2)


def test_folders_and_files_that_are_dropped(open_page, tmp_path):
    page = open_page("photographs")
    folder = playgrounds.pictures(tmp_path / "mine", each=2)
    (folder / "zebras").mkdir()
    shutil.copy(folder / "waves" / "0.png", folder / "zebras" / "0.png")
    drop(page, "#photographs-drop", sorted(folder.iterdir()))
    said = page.locator("#message-text")
    sync_api.expect(said).to_contain_text("of 6 folders the first 5 were taken")
    sync_api.expect(page.locator(".class canvas")).to_have_count(10)
    drop(page, ".class:nth-child(2)", [folder / "zebras" / "0.png"])
    sync_api.expect(page.locator(".class:nth-child(2) canvas")).to_have_count(3)
    drop(page, "#photographs-ask", [folder / "sunset"])
    sync_api.expect(page.locator(".result")).to_have_count(2)
    text = tmp_path / "bad.txt"
    text.write_text("no picture")
    drop(page, "#photographs-ask", [text])
    sync_api.expect(said).to_have_text("bad.txt is no picture that this browser can open.")
    drop(page, "#photographs-drop", [text])
    sync_api.expect(said).to_contain_text("Expected several folders, one a class")
    (tmp_path / "empty").mkdir()
    drop(page, "#photographs-ask", [tmp_path / "empty"])
    sync_api.expect(said).to_have_text("There was no picture among these files.")


def drop(page, target, paths):
    """Drops files and folders on an element, as a file manager does."""
    element = page.locator(target).first
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    client = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": data}
        client.send("Input.dispatchDragEvent", event)


# Navigation.


def test_rollouts_before_and_after_each_step(open_page, served):
    asked = []
    page = open_page("sine")
    page.on("request", lambda request: asked.append(request.post_data or ""))
    page.click("#tab-navigation")
    until(page, "playground.parts.navigation.look().results.length")
    click_at(page, ".plane:nth-child(2) .plot", -0.3, 0.4, ((-0.6, 0.6),) * 2, (0, 0, 0, 0))
    until(page, "playground.parts.navigation.look().results[3]?.finished", seconds=300)
    shown = look(page, "navigation")
    np.testing.assert_allclose(shown["goal"], [-0.3, 0.4], atol=0.01)
    returns = [result["mean"] for result in shown["results"]]
    assert returns[0] < -25
    assert returns[3] > -10
    assert f"{abs(returns[3]):.1f} after step 3" in page.locator("#navigation-verdict").inner_text()
    sent = [json.loads(body) for body in asked if '"adapt"' in body][-3:]
    assert [body["inputs"]["step"] for body in sent] == [0, 1, 2]
    check_rollouts(sent[0]["inputs"], shown)
    # What the page goes on with is what the model gives for these rollouts.
    adapt = served.models.model("navigation").load().signatures["adapt"]
    inputs = {
        name: tf.constant(value, tf.int32 if name == "step" else tf.float32)
        for name, value in sent[0]["inputs"].items()
    }
    expected = adapt(**inputs)["weights"]
    np.testing.assert_allclose(sent[1]["inputs"]["weights"], expected, rtol=1e-6, atol=1e-7)


def check_rollouts(sent, shown):
    """Rollouts are those of the environment: where each move leads, its reward, and its end."""
    observation, action, reward, mask = (
        np.array(sent[name]) for name in ("observation", "action", "reward", "mask")
    )
    assert observation.shape == action.shape == (20, observation.shape[1], 2)
    assert mask.shape == reward.shape == observation.shape[:2]
    assert (observation[:, 0] == 0).all()
    moved = observation + 0.1 * np.clip(action, -1, 1)
    counted = mask[:, 1:].astype(bool)
    np.testing.assert_allclose(observation[:, 1:][counted], moved[:, :-1][counted], atol=1e-9)
    away = moved - shown["goal"]
    distance = np.where(mask == 1, np.linalg.norm(away, axis=-1), 0)
    np.testing.assert_allclose(reward, -distance, atol=1e-9)
    # A rollout ends where it reaches the goal, or after 100 moves.
    near = (np.abs(away) < 0.01).all(-1) & (mask == 1)
    for row in range(20):
        length = int(mask[row].sum())
        assert (mask[row, :length] == 1).all()
        assert length == 100 or near[row, length - 1]
        assert not near[row, : length - 1].any()
    np.testing.assert_allclose(shown["results"][0]["mean"], reward.sum(-1).mean(), rtol=1e-9)


@pytest.mark.tf_agents
def test_the_page_moves_the_point_as_the_environment_does(open_page):
    from maml_tf.rl.environments import Navigation2D

    random = np.random.default_rng(0)
    position = random.uniform(-1, 1, (1, 50, 2)).astype(np.float32)
    action = random.normal(0, 1.5, (1, 50, 2)).astype(np.float32)
    goal = np.float32([[0.2, -0.4]])
    # Some that end beside the goal.
    action[0, :20] = 0
    position[0, :20] = goal + random.uniform(-0.013, 0.013, (20, 2))
    next_, _, reward, ended = Navigation2D(1, 50).transition(position, action, goal)
    page = open_page("sine")
    moves = page.evaluate(
        "([at, moves, goal]) => at.map((p, i) => playground.transition(p, moves[i], goal))",
        [position[0].tolist(), action[0].tolist(), goal[0].tolist()],
    )
    for i, parts in enumerate(zip(next_[0], reward[0], ended[0], strict=True)):
        for mine, theirs in zip(moves[i], parts, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert 3 < np.sum(ended) < 20


# All of them.


def fill(page, tab, folder):
    """Has something in a tab: what somebody who plays with it would look at."""
    if tab == "sine":
        page.locator("#sine-steps").fill("5")
        page.locator("#sine-steps").blur()
    elif tab == "characters":
        page.click("#draw-support")
        page.click("#draw-query")
        until(page, "playground.parts.characters.look()")
    elif tab == "photographs":
        mine, new = (playgrounds.pictures(folder / str(n), each=4 - n, seed=n) for n in (2, 3))
        page.locator("#photographs-folder").set_input_files(mine)
        sync_api.expect(page.locator(".class canvas")).to_have_count(10)
        page.locator("#photographs-queries").set_input_files(sorted(new.glob("*/*.png")))
        until(page, "playground.parts.photographs.look()")
    elif SCREENSHOTS:
        # Four hundred requests: a picture of all of it is enough once.
        last = (
            3
            if page.evaluate(
                "matchMedia('(min-width: 800px) and (prefers-color-scheme: light)').matches"
            )
            else 0
        )
        done = f"playground.parts.navigation.look().results[{last}]?.finished"
        until(page, done, seconds=300)


@pytest.mark.parametrize("look_", ["light", "dark", "phone"])
def test_every_tab_fits_its_window(open_page, look_, tmp_path):
    options = {"width": 360, "height": 740, "has_touch": True} if look_ == "phone" else {}
    scheme = "dark" if look_ == "dark" else "light"
    page = open_page("sine", color_scheme=scheme, reduced_motion="reduce", **options)
    adapted(page)
    # Nothing is wider in the dark.
    for tab in TABS if SCREENSHOTS or look_ != "dark" else TABS[:1]:
        page.click(f"#tab-{tab}")
        fill(page, tab, tmp_path)
        sync_api.expect(page.locator(f"#{tab}")).to_be_visible()
        wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide[0] <= wide[1], tab
        beyond = page.evaluate(
            "[...document.querySelectorAll('button, .button, input, canvas, td')]"
            ".filter((e) => e.offsetParent && e.getBoundingClientRect().right > innerWidth).length"
        )
        assert beyond == 0, tab
        if SCREENSHOTS:
            path = pathlib.Path(SCREENSHOTS) / f"{look_}-{tab}.png"
            page.screenshot(path=path, full_page=True, animations="disabled")
            # A third of the bytes, and nothing that one would see.
            image = PIL.Image.open(path).quantize(256, dither=PIL.Image.Dither.NONE)
            image.save(path, optimize=True)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    bright = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(",")))
    assert (bright > 600) == (look_ != "dark")


def test_without_a_server_the_page_says_so(open_page, browser):
    page = browser.new_page()
    page.route("**/models.json", lambda route: route.abort())
    with playgrounds.served(models=str(SAVED), names=("sinusoid",)) as server:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        message = page.locator("#message-text")
        sync_api.expect(message).to_have_text(
            "The playground's server does not answer. Is it still running?"
        )
        page.close()
        # A tab whose model is not served says how to have it.
        page = open_page("photographs", server=server)
        sync_api.expect(page.locator("#photographs-none")).to_be_visible()
        page.click("#tab-characters")
        sync_api.expect(page.locator("#characters")).to_contain_text("saved_models/omniglot")


def test_the_page_works_with_another_server(open_page):
    """Requests are passed on to a session of TensorFlow's C API, which the server is made of."""
    pytest.importorskip("tensorflow_serving")
    from tests.serving.stand_in import StandIn

    stand_in = StandIn(SAVED / "sinusoid" / "1", "sine")
    try:
        with playgrounds.served(server=stand_in.rest, names=("sine",)) as server:
            page = open_page("sine", server=server, reduced_motion="reduce")
            adapted(page)
            assert stand_in.rest in page.locator("header .place").inner_text()
            shown = look(page, "sine")["results"][0]
            assert shown[10]["truth"] < 0.5 * shown[0]["truth"]
            stand_in.unavailable = 10**6
            page.click("#sine-new")
            sync_api.expect(page.locator("#message-text")).to_have_text("busy loading")
            page.close()
    finally:
        stand_in.close()
