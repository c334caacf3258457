"""What mkdocs does beside its own: links from a page to files of the repository outside `docs/`.

On a forge and in an editor such links are followed as they stand. On the site there is nothing
above `docs/`: pictures are taken along, and of a link to anything else the words are left.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?:\.\./)+[^)\s]+)\)")
_PICTURES = {".gif", ".jpg", ".png", ".svg"}


def on_page_markdown(markdown, page, config, files):
    """The text of a page with its links outwards mended; called by mkdocs for each page."""
    root = pathlib.Path(config.docs_dir).parent
    folder = posixpath.dirname(page.file.src_uri)

    def mended(match):
        picture, words, target = match.groups()
        path = posixpath.normpath(posixpath.join("docs", folder, target))
        if path.startswith("docs/"):
            return match[0]
        if pathlib.PurePosixPath(path).suffix not in _PICTURES:
            return words
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, abs_src_path=str(root / path)))
        return f"{picture}[{words}]({posixpath.relpath(path, folder or '.')})"

    return _LINK.sub(mended, markdown)
