"""LiteRT.js, which runs exported learners in a browser: fetched by npm, pinned, checked by hash."""

import base64
import hashlib
import io
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
from typing import NamedTuple

LICENSE = pathlib.Path(__file__).with_name("litert_js_license.txt")
_SECONDS = 300  # to fetch 12 MB

_README = """# LiteRT.js

Google's runtime of `.tflite` files for browsers (https://github.com/google-ai-edge/LiteRT),
unchanged, under the Apache License 2.0 (`LICENSE`). The files are of these packages of npm:

{packages}
"""


class Package(NamedTuple):
    """One package of npm.

    Attributes:
        name: str.
        version: str.
        integrity: str, "sha512-…" of its archive, as npm writes it.
        files: dict, from paths in the archive to names in the folder.
    """

    name: str
    version: str
    integrity: str
    files: dict

    @property
    def archive(self):
        """The name under which `npm pack` saves it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


# `npm view @litertjs/core dist.integrity` tells the hash of a newer version. Of the runtimes in it
# this is the one that runs in every browser: that of relaxed SIMD was not faster by a tenth.
_WASM = "wasm/litert_wasm_compat_internal"
PACKAGES = (
    Package(
        "@litertjs/core",
        "2.5.3",
        "sha512-PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        {
            "package/dist/index.js": "core.js",
            f"package/{_WASM}.js": f"{_WASM}.js",
            f"package/{_WASM}.wasm": f"{_WASM}.wasm",
        },
    ),
    Package(
        "@litertjs/wasm-utils",
        "2.5.3",
        "sha512-4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        {"package/dist/index.js": "wasm-utils.js"},
    ),
)


class MissingError(Exception):
    """LiteRT.js cannot be had, and why."""


def write(folder):
    """Writes LiteRT.js and its licence into a folder.

    npm keeps what it has fetched, so that only the first time needs a network.

    Args:
        folder: `pathlib.Path`, which is made.

    Raises:
        MissingError: there is no npm or no network, or what came is not what is expected.
        OSError: the folder cannot be written to.
    """
    with tempfile.TemporaryDirectory() as place:
        archives = _fetched(pathlib.Path(place))
    for package, content in zip(PACKAGES, archives, strict=True):
        _check(package, content)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member, name in package.files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
    shutil.copyfile(LICENSE, folder / "LICENSE")
    packages = "\n".join(f"- `{p.name}` {p.version}, {p.integrity}" for p in PACKAGES)
    (folder / "README.md").write_text(_README.format(packages=packages), encoding="utf-8")


def _fetched(place):
    """The archives of `PACKAGES`: list of bytes."""
    npm = shutil.which("npm")
    if npm is None:
        raise MissingError(
            "Expected npm, which fetches LiteRT.js. Received: no such program. Install Node.js "
            "(https://nodejs.org), which brings it."
        )
    wanted = [f"{package.name}@{package.version}" for package in PACKAGES]
    # npm itself would try for minutes where there is no network.
    options = ["--loglevel=error", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1"]
    command = [npm, "pack", *options, "--fetch-timeout=60000", *wanted]
    try:
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        said = done.stderr or done.stdout if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    missing = [package for package in PACKAGES if not (place / package.archive).is_file()]
    if missing:
        raise MissingError(
            f"Expected npm to fetch {' and '.join(wanted)}. Received: "
            f"{' '.join(said.split())[:300] or 'nothing'}. The first time needs a network; try "
            f"`npm pack {wanted[0]}`."
        )
    return [(place / package.archive).read_bytes() for package in PACKAGES]


def _check(package, content):
    kind, _, digest = package.integrity.partition("-")
    received = base64.b64encode(hashlib.new(kind, content).digest()).decode()
    if received != digest:
        raise MissingError(
            f"Expected the archive of {package.name} {package.version} whose {kind} is {digest}. "
            f"Received: one of {received}. It is not used: ask who answers for npm's registry here."
        )
