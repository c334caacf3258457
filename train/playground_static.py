"""The playground as a folder of files: the page, LiteRT.js, and learners that adapt in the browser.

Any server of files can hand it out, under any path; there is no Python behind it.
"""

import hashlib
import json
import pathlib
import zipfile

import maml_tf
from maml_tf import files
from train import checkpoints, litert_js, playground_server

WORKER = pathlib.Path(__file__).with_name("playground_worker.js")
# How many examples and queries the files have room for, by what the page does with them: time grows
# with the room, however much of it is used. Photographs are normalised by the examples alone, so
# that any number of them can be asked, some at a time.
ROOM = {
    "sine": {"max_support": 50, "max_queries": 171},  # a grid of 121, and the points
    "characters": {"max_support": 5, "max_queries": 6},
    "photographs": {"max_support": 25, "max_queries": 10, "batch_norm": "support"},
}
_WAYS = 5
# What a card says of an export, not of the learner.
_OF_EXPORTS = ("name", "signatures", "tensorflow", "keras", "method", "model", "parameters")
_OF_EXPORTS += ("batch_norm", "inner_steps", "max_inner_steps", "max_support", "max_queries")


def find_learners(folder, names):
    """Paths of the saved learners in a folder of models, by name.

    Args:
        folder: `pathlib.Path` with `NAME/learner.keras`.
        names: names of those to take; all by default.

    Raises:
        ValueError: there are none, or not those of the given names.
    """
    found = {path.parent.name: path for path in sorted(folder.glob("*/learner.keras"))}
    if not found:
        raise ValueError(
            "Expected a folder of saved learners, NAME/learner.keras each. Received: --models "
            f"{folder}. Give one such as saved_models."
        )
    missing = sorted(set(names) - set(found))
    if missing:
        raise ValueError(
            f"Expected --names of learners in {folder}: {sorted(found)}. Received: "
            f"--names {' '.join(names)}. Leave out {missing}."
        )
    return {name: path for name, path in found.items() if name in (names or found)}


def write(folder, learners, page, tell):
    """Writes the folder, whole or not at all; an older playground there gives way.

    Args:
        folder: `pathlib.Path`.
        learners: dict of paths of `.keras` files by name; what the page has no use for is left out.
        page: str, the page as HTML.
        tell: function that is called with a line for each step of the work.

    Raises:
        ValueError: something else is in the folder, or none of the learners is of use.
        litert_js.MissingError: LiteRT.js cannot be had.
        OSError: a learner cannot be read, or the folder not be written.
    """
    _check_free(folder)
    with files.whole_folder(folder, replace=True) as place:
        litert_js.write(place / "litert")
        tell(f"LiteRT.js {litert_js.PACKAGES[0].version}")
        (place / "models").mkdir()
        models = []
        for name, path in learners.items():
            entry = _exported(name, path, place)
            tell(f"{name}: {_size(entry, place)}")
            models += [entry] if entry else []
        if not models:
            raise ValueError(
                "Expected a learner of one number, of 28x28 grey pictures and five classes, or of "
                f"colour pictures. Received: {sorted(learners)}. Name one such as omniglot."
            )
        listing = json.dumps({"models": models, "server": None})
        (place / "models.json").write_text(listing + "\n", encoding="utf-8")
        (place / "index.html").write_text(_guarded(page), encoding="utf-8")
        kept = [entry["file"] for entry in models]
        kept += [f"litert/{name}" for p in litert_js.PACKAGES for name in p.files.values()]
        (place / "worker.js").write_text(_worker(place, kept), encoding="utf-8")


def use_of(learner):
    """What the page does with a learner: a key of `ROOM`, or None."""
    shape, outputs = learner.model.input_shape, learner.model.output_shape
    if not isinstance(shape, tuple):
        return None
    if shape[1:] == (1,) and outputs[1:] == (1,):
        return "sine"
    ways = _WAYS if _is_free(learner) else outputs[-1]
    if shape[1:] == (28, 28, 1) and ways == _WAYS:
        return "characters"
    return "photographs" if len(shape) == 4 and None not in shape[1:] and shape[3] == 3 else None


def _is_free(learner):
    """Whether a learner has as many classes as its examples."""
    return isinstance(learner, maml_tf.Prototypical) and learner.ways is None


def _exported(name, path, place):
    """The entry of a learner in `models.json`; None for one that the page has no use for."""
    if _is_policy(path):
        return None
    learner = checkpoints.load_model(path)
    use = use_of(learner)
    if use is None:
        return None
    ways = {"max_ways": _WAYS} if _is_free(learner) else {}
    file = place / "models" / f"{name}.tflite"
    maml_tf.serving.export_litert(learner, file, **ROOM[use], **ways, card=_facts(path.parent))
    card = json.loads(file.with_suffix(".card.json").read_text(encoding="utf-8"))
    return {"name": name, "file": f"models/{file.name}", "card": card}


def _is_policy(path):
    """Whether a learner is one of `maml_tf.rl`, whose packages may not be there to read it."""
    with zipfile.ZipFile(path) as archive:
        described = json.loads(archive.read("config.json"))
    return str(described.get("module")).startswith("maml_tf.rl")


def _facts(folder):
    """What the card of the newest exported version knows of the learner."""
    cards = [path for path in folder.glob("*/card.json") if path.parent.name.isdigit()]
    if not cards:
        return {}
    card = json.loads(max(cards, key=lambda path: int(path.parent.name)).read_text("utf-8"))
    return {key: value for key, value in card.items() if key not in _OF_EXPORTS}


def _size(entry, place):
    if entry is None:
        return "left out, the page has no use for it"
    return f"{(place / entry['file']).stat().st_size / 1000:,.0f} kB"


def _guarded(page):
    """The page with what it may do, which a server of files cannot say in a header."""
    policy = playground_server.policy(page, alone=True)
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}', 1)


def _worker(place, kept):
    """The service worker: it keeps these files and the page, in the version that they are of."""
    worker = WORKER.read_text(encoding="utf-8")
    contents = [(place / name).read_bytes() for name in ("index.html", "models.json", *kept)]
    digest = hashlib.sha256(b"".join([worker.encode(), *contents])).hexdigest()[:16]
    names = json.dumps(["./", "models.json", *kept])
    return worker.replace("const FILES = [];", f"const FILES = {names};").replace(
        'const VERSION = "";', f'const VERSION = "{digest}";'
    )


def _check_free(folder):
    """Refuses a folder that holds something else than a playground."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / "models.json").is_file():
        raise ValueError(
            "Expected --static to be a new folder, an empty one, or that of an older playground. "
            f"Received: --static {folder}, where something else is. Give another."
        )
