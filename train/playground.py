"""A page to play with: draw, click, and watch a network adapt, in the browser on this machine.

python -m train.playground                                    the models of saved_models
python -m train.playground --server http://localhost:8501     those of a TensorFlow Serving
python -m train.playground --static FOLDER                    files for any web server, no Python

Serves one page, and the models behind TensorFlow Serving's REST interface (docs/playground.md).
With --static nothing is served: the page in the folder runs the models itself.
"""

import dataclasses
import pathlib
import sys
import threading
import webbrowser

from train import (
    common,
    litert_js,
    options,
    playground_models,
    playground_remote,
    playground_server,
    playground_static,
)

PAGE = pathlib.Path(__file__).with_suffix(".html")


@dataclasses.dataclass
class Settings:
    """What is served, and where."""

    models: str = "saved_models"
    """Folder of exported models, each a folder of versions as TensorFlow Serving has it."""
    static: str | None = None
    """Folder to write the page to, with models that run in the browser; needs npm (Node.js)."""
    server: str | None = None
    """REST address of a TensorFlow Serving that has the models: requests are passed on to it."""
    names: tuple[str, ...] = ()
    """Names of the models to serve; all of the folder by default."""
    host: str = "127.0.0.1"
    """Address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 lets others in."""
    port: int = 8765
    """Port to listen on; 0 is any that is free."""
    no_browser: bool = common.switch("Do not open the page in a browser.")


def main():
    """Serves until it is stopped."""
    settings = common.parse(Settings, "python -m train.playground", {}, least={"port": 0})
    if settings.port > 65535:
        options.refuse(
            "Expected --port to be at most 65535. Received: "
            f"--port {settings.port}. Give another, or 0 for any that is free."
        )
    if settings.static is not None:
        write_static(settings)
        return
    server = make_server(settings)
    host, port = server.server_address[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)
    address = f"http://{shown}:{port}/"
    print(f"The playground is at {address} (Ctrl-C ends it).", flush=True)
    if settings.server is None:
        threading.Thread(target=server.models.load, daemon=True).start()
    if not settings.no_browser:
        threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
    with server:
        server.serve_forever()


def write_static(settings):
    """Writes the folder of `--static`.

    Raises:
        SystemExit: there are no models, LiteRT.js cannot be had, or the folder not be written.
    """
    if settings.server is not None:
        sys.exit(
            "Expected --static without --server: the folder asks no server. Received: --static "
            f"{settings.static} --server {settings.server}. Leave out one of them."
        )
    folder = pathlib.Path(settings.static)
    try:
        learners = playground_static.find_learners(pathlib.Path(settings.models), settings.names)
        page = PAGE.read_text(encoding="utf-8")
        playground_static.write(folder, learners, page, lambda line: print(line, flush=True))
    except (ValueError, OSError, litert_js.MissingError) as error:
        sys.exit(str(error))
    print(
        f"{folder} is written. Any web server can hand it out; to look at it here: "
        f"python -m http.server -b 127.0.0.1 -d {folder}"
    )


def make_server(settings):
    """A `playground_server.Server` that listens already.

    Raises:
        SystemExit: there are no models, or the address cannot be had.
    """
    try:
        paths = find_models(settings)
        if settings.server is not None:
            models = playground_remote.Remote(settings.server, settings.names or sorted(paths))
        else:
            saved = [playground_models.Saved(name, path) for name, path in sorted(paths.items())]
            models = playground_models.Local(saved)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    page = PAGE.read_text(encoding="utf-8")
    try:
        server = playground_server.Server((settings.host, settings.port), page, models)
    except OSError as error:
        sys.exit(
            f"Expected --host and --port to be free. Received: --host {settings.host} --port "
            f"{settings.port}: {error.strerror or error}. Give another --port, or 0."
        )
    return server


def find_models(settings):
    """Paths of the newest version of each model by name.

    Raises:
        ValueError: there are none, or not those of the given names.
    """
    folder, found = pathlib.Path(settings.models), {}
    for version in folder.glob("*/*/saved_model.pb") if folder.is_dir() else ():
        if version.parent.name.isdigit():
            found.setdefault(version.parent.parent.name, []).append(version.parent)
    newest = {name: max(paths, key=lambda path: int(path.name)) for name, paths in found.items()}
    if settings.server is not None:
        return newest
    if not newest:
        raise ValueError(
            "Expected a folder of exported models, NAME/1/saved_model.pb each. Received: --models "
            f"{settings.models}. Give one such as saved_models."
        )
    missing = sorted(set(settings.names) - set(newest))
    if missing:
        raise ValueError(
            f"Expected --names of models in {settings.models}: {sorted(newest)}. Received: "
            f"--names {' '.join(settings.names)}. Leave out {missing}."
        )
    return {name: path for name, path in newest.items() if name in (settings.names or newest)}


if __name__ == "__main__":
    common.run(main, resumes=False)
