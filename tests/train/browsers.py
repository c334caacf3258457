"""A real browser for tests of the playground's page: Chromium, and hands for mouse and pen."""

import contextlib
import shutil
import time

import numpy as np
import pytest

# Of a browser that runs as root, and asks nothing of the network.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
try:
    from playwright import sync_api
except ImportError:
    sync_api = None
needed = pytest.mark.skipif(
    not (CHROMIUM and sync_api), reason="needs Chromium (apt-get install chromium) and playwright"
)


@contextlib.contextmanager
def launched():
    """A browser."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def until(page, condition, seconds=60):
    """Waits until an expression of JavaScript is true: the page forbids what Playwright has."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"!!({condition})"):
        assert time.monotonic() < end, f"{condition} within {seconds} s"
        page.wait_for_timeout(20)


def click_at(page, plot, x, y, ranges=((-5, 5), (-5.5, 5.5)), inset=(30, 8, 8, 22)):
    """Clicks the place of a plot whose numbers are x and y."""
    box = page.locator(f"{plot} svg").bounding_box()
    left, right, top, bottom = inset
    (x0, x1), (y0, y1) = ranges
    page.mouse.click(
        box["x"] + left + (x - x0) / (x1 - x0) * (box["width"] - left - right),
        box["y"] + box["height"] - bottom - (y - y0) / (y1 - y0) * (box["height"] - top - bottom),
    )


def draw(page, pad, strokes):
    """Draws strokes in [0, 1] on a pad with the mouse."""
    canvas = page.locator(f"{pad} canvas.draw")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for stroke in strokes:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=2)
        page.mouse.up()


def hand(sign, random):
    """A sign as another hand would draw it: elsewhere, larger, sheared, uneven."""
    matrix = np.eye(2) * random.uniform(0.8, 1.05) + random.uniform(-0.12, 0.12, (2, 2))
    centre = 0.5 + random.uniform(-0.05, 0.05, 2)
    return [
        np.clip((np.array(s) - 0.5) @ matrix + centre + random.normal(0, 0.012, (len(s), 2)), 0, 1)
        for s in sign
    ]


def softmax(logits):
    scores = np.exp(logits - np.max(logits, -1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)
