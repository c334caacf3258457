"""The directory of a run, which one may stop, resume and read: opened, and what is written into it.

It holds `config.json` (the settings that make the training what it is), and for each learner what
`train.checkpoints` says.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys

from maml_tf import files

# While a run is deleted: a kill in the middle must not leave half of it to be gone on with.
_DELETING = ".deleting"


def open_run(settings, free=(), **more):
    """Opens the run directory `settings.output` for a new or a resumed run.

    Args:
        settings: dataclass with the fields `output` and `fresh`.
        free: names of settings that a resumed run may change, beside these two.
        **more: what else training depends on and a resumed run may not change.

    Returns:
        `pathlib.Path` of the directory.

    Raises:
        SystemExit: another process is writing there, or the directory holds a run with other
            settings or damaged ones.
        OSError: it cannot be made or written.
    """
    folder = pathlib.Path(settings.output)
    path = folder / "config.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not files.hold(folder):
        sys.exit(
            f"Another process is training in {folder}. Wait for it to end, or give another "
            "--output."
        )
    if (folder / _DELETING).exists():
        _empty(folder)
    files.remove_unfinished(folder)
    config = {
        name: value
        for name, value in dataclasses.asdict(settings).items()
        if name not in {"output", "fresh", *free}
    }
    config = json.loads(json.dumps({**config, **more}))
    before = _read_config(path)
    if settings.fresh and before is not None:
        if not set(before) <= {field.name for field in dataclasses.fields(settings)} | {*more}:
            sys.exit(f"{path} is not of a run of this script: --fresh deletes only such a run.")
        path.replace(folder / _DELETING)
        _empty(folder)
    elif before is not None:
        differences = [
            f"{name}: {before.get(name)!r} there, {config.get(name)!r} here"
            for name in sorted({*before, *config})
            if before.get(name) != config.get(name)
        ]
        if differences:
            sys.exit(
                f"{folder} holds a run with other settings: {'; '.join(differences)}. "
                "Give another --output, or --fresh to delete that run and start anew."
            )
    write_json(path, config)
    return folder


def digest(path):
    """Of a file's content, so that a run goes on with no other one; None where there is no file."""
    if not path or not pathlib.Path(path).is_file():
        return None
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _read_config(path):
    if not path.exists():
        return None
    try:
        config = json.loads(path.read_text())
        if not isinstance(config, dict):
            raise ValueError(f"it holds a {type(config).__name__}")
    except (ValueError, RecursionError) as error:
        sys.exit(
            f"{path} is damaged ({error}): what this run was made with stood there. Put a whole "
            "one there, give another --output, or delete that folder."
        )
    return config


def _empty(folder):
    """Deletes all that a run directory holds, the mark of it last; the folder itself is held."""
    for inside in folder.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside)
        elif inside.name != _DELETING:
            inside.unlink()
    (folder / _DELETING).unlink(missing_ok=True)


def write_json(path, content):
    """Writes JSON, whole or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with files.whole(path) as beside:
        beside.write_text(text)


def save_figure(figure, path):
    """Writes a figure of matplotlib, whole or not at all."""
    with files.whole(path) as beside:
        figure.savefig(beside)
