"""The characters of `glyphs`: which there are, and how each is drawn.

They come from the fonts that matplotlib ships, never from the system's: every machine with the same
matplotlib and Pillow has the same set. The fonts are DejaVu Sans, its bold, mono and serif faces,
and STIX. Left out are Computer Modern, whose tables put other signs at the codes of letters, and
the placeholder font Last Resort.
"""

import pathlib
import unicodedata
from typing import NamedTuple

import numpy as np

from maml_tf.tasks.data import packed

DRAWINGS = 20
SIZE = 28  # pixels

# As Unicode's names of characters begin. Of two characters of one shape, that of the script which
# comes first here stays: train, then validation, then test, so that no test character is known.
SCRIPTS = (
    "LATIN",
    "GREEK",
    "CYRILLIC",
    "CANADIAN SYLLABICS",
    "ARABIC",
    "OGHAM",
    "HEBREW",
    "LAO",
    "OLD ITALIC",
    "GEORGIAN",
    "ARMENIAN",
    "NKO",
    "TIFINAGH",
)
# The first one has every character. Oblique faces are left out: the jitter slants them all.
_FACES = (
    "DejaVuSans",
    "DejaVuSerif",
    "DejaVuSansMono",
    "STIXGeneral",
    "DejaVuSans-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneralItalic",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
    "STIXGeneralBol",
)
# Letters with something added, two in one, and small copies of others.
_DERIVED = (" WITH ", "LIGATURE", "DIGRAPH", "SMALL CAPITAL", "SYLLABICS FINAL")
_ALIKE = 0.92  # cosine of two blurred shapes, from which on they are one character
_SMALLEST = 0.3  # of the type size; what is smaller at either side is a dot or a stroke of others

_VERSION = 1  # count on whenever a drawing changes
_SEED = 2017
_EM = 96  # pixels; a character is drawn large and then brought down
_FINE = 4  # the drawing is made this many times finer, then averaged
_MARGIN = 1.0  # pixels free of ink at every side

# The jitter: each of these is uniform. Drawings of a character differ about as Omniglot's do: in
# length by a standard deviation of 2.4 pixels (there 2.1), in place by 1.2 (1.3), in shape by 18 %
# (17 %).
_LENGTH = (14.0, 21.0)  # pixels, the longer side
_STRETCH = 0.2  # of log(width / height)
_SHEAR = 0.25
_TURN = 15.0  # degrees
_SHIFT = 2.1  # pixels
_STROKE = 2  # pixels of _EM by which a stroke may grow at either side


class _Face(NamedTuple):
    font: object  # a PIL.ImageFont.FreeTypeFont
    codes: frozenset  # of the characters that it really has


def load_glyphs() -> packed.Images:
    """Draws the characters, once, and keeps them in `$KERAS_HOME/datasets` (`~/.keras/datasets`).

    A character is a letter or digit of one of `SCRIPTS` that Unicode does not take apart into a
    letter and an accent, and whose name does not say that it is another letter with something
    added. Of characters that look alike in DejaVu Sans when both are stretched to one size - Latin
    A, Greek Alpha and Cyrillic A; o and O - only the first stays. That goes rather too far than
    not far enough: Greek Omega goes with O. Letters that differ by a dot (Arabic, Canadian
    syllabics) stay where it is large enough to see.

    Each has 20 drawings. The faces that have the character take turns; each drawing is turned,
    slanted, stretched, scaled, shifted and thickened at random, the same way every time.

    Returns:
        A `packed.Images`: `images` uint8 `[rows, 28, 28, 1]`, 255 full ink and 0 none, 20 rows a
        character; `names` such as "Greek_GREEK SMALL LETTER BETA"; `groups` the scripts, "Greek".

    Raises:
        ImportError: matplotlib is not installed.
        OSError: they can be written nowhere.

    Example:
        >>> glyphs = maml_tf.tasks.load_glyphs()
        >>> glyphs.images.shape[1:], str(glyphs.groups[0])
        ((28, 28, 1), 'Latin')
    """
    matplotlib, pil = _libraries()
    # Fonts come with the one, the other draws: with either, pixels may change.
    name = f"glyphs-{_VERSION}-matplotlib-{matplotlib.__version__}-pillow-{pil.__version__}"
    return packed.open_or_make(name, None, _make)


def _libraries():
    try:
        import matplotlib
        import PIL
    except ImportError as error:
        raise ImportError(
            "Expected matplotlib to be installed: the characters are drawn from its fonts. "
            f'Received: {error}. Run `pip install "maml_tf[train]"`.'
        ) from error
    return matplotlib, PIL


def _make(packer):
    faces = load_faces()
    characters = distinct(candidates(faces[0]), faces[0])
    for label, (_, character) in enumerate(characters):
        packer.add(draw(character, faces), np.full([DRAWINGS], label))
    packer.finish(
        [f"{script}_{unicodedata.name(character)}" for script, character in characters],
        [script for script, _ in characters],
    )


def load_faces():
    """Opens the fonts: a list of faces, the first of which has every character."""
    matplotlib, _ = _libraries()
    from matplotlib import ft2font
    from PIL import ImageFont

    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    # The basic layout is the one that every build of Pillow has.
    layout = ImageFont.Layout.BASIC
    faces = []
    for name in _FACES:
        path = str(folder / f"{name}.ttf")
        codes = frozenset(ft2font.FT2Font(path).get_charmap())
        faces.append(_Face(ImageFont.truetype(path, _EM, layout_engine=layout), codes))
    return faces


def candidates(face):
    """Finds the letters and digits of a face, before shapes are compared.

    Args:
        face: one of `load_faces`.

    Returns:
        List of `(script, character)`, in the order of `SCRIPTS`, then of code points.
    """
    found = []
    for script in SCRIPTS:
        for character in map(chr, sorted(face.codes)):
            name = unicodedata.name(character, "")
            if (
                name.startswith(script + " ")
                and unicodedata.category(character) in ("Lu", "Ll", "Lo", "Nd")
                and not unicodedata.decomposition(character)
                and not any(word in name for word in _DERIVED)
                and max(_ink(character, face).size) >= _SMALLEST * _EM
            ):
                found.append((script.title(), character))
    return found


def distinct(characters, face):
    """Leaves out each character that looks like one before it.

    Args:
        characters: list of `(script, character)`.
        face: one of `load_faces`.

    Returns:
        The list without those.
    """
    shapes = np.stack([_shape(character, face) for _, character in characters])
    alike = shapes @ shapes.T
    kept = []
    for i in range(len(characters)):
        if not kept or alike[i, kept].max() < _ALIKE:
            kept.append(i)
    return [characters[i] for i in kept]


def _shape(character, face):
    """What a character looks like, whatever its size and width: float `[784]`, of norm 1."""
    from PIL import Image, ImageFilter

    ink = _ink(character, face)
    width, height = ink.size
    # A narrow one is not widened more than twice: a bar stays a bar.
    longest, inner = max(width, height), SIZE - 6
    sides = [max(1, round(inner * side / max(side, longest / 2))) for side in (width, height)]
    canvas = Image.new("L", (SIZE, SIZE))
    canvas.paste(
        ink.resize(sides, Image.Resampling.BOX), tuple((SIZE - side) // 2 for side in sides)
    )
    pixels = np.asarray(canvas.filter(ImageFilter.GaussianBlur(1)), np.float64).ravel()
    return pixels / np.linalg.norm(pixels)


def _ink(character, face, stroke=0):
    """Draws a character large: a PIL image, cut at its ink."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (4 * _EM, 3 * _EM))
    ImageDraw.Draw(canvas).text(
        (_EM, _EM), character, fill=255, font=face.font, stroke_width=stroke
    )
    box = canvas.getbbox()
    if box is None:
        raise ValueError(
            f"Expected {character!r} to have a shape in {face.font.path}. Received: a blank. "
            "Install matplotlib anew: its fonts are damaged."
        )
    return canvas.crop(box)


def draw(character, faces):
    """Makes the drawings of one character.

    Args:
        character: str of length 1.
        faces: the list of `load_faces`; a face that lacks the character is passed over.

    Returns:
        uint8 array `[20, 28, 28, 1]`, a function of the character and the fonts alone.
    """
    # NumPy keeps the stream of RandomState the same in all its versions, not that of Generator.
    random = np.random.RandomState([_SEED, ord(character)])
    having = [face for face in faces if ord(character) in face.codes]
    order = random.permutation(len(having))
    drawings = [
        _drawing(character, having[order[i % len(having)]], random) for i in range(DRAWINGS)
    ]
    return np.stack(drawings)[..., np.newaxis]


def _drawing(character, face, random):
    from PIL import Image

    ink = _ink(character, face, random.randint(_STROKE + 1))
    matrix, offset = _jitter(np.array(ink.size, np.float64), random)
    # PIL asks where in `ink` each pixel of the drawing comes from.
    back = np.linalg.inv(matrix * _FINE)
    start = -back @ (offset * _FINE)
    side = SIZE * _FINE
    drawing = ink.transform(
        (side, side),
        Image.Transform.AFFINE,
        (*back[0], start[0], *back[1], start[1]),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(drawing.reduce(_FINE))


def _jitter(size, random):
    """A random affine map of a box of `size` (width, height) into the drawing, never out of it.

    Returns:
        `(matrix, offset)`: a point p of the box comes to `matrix @ p + offset`, in pixels.
    """
    length, stretch, shear, turn = random.uniform(
        [_LENGTH[0], -_STRETCH / 2, -_SHEAR, -_TURN], [_LENGTH[1], _STRETCH / 2, _SHEAR, _TURN]
    )
    shift = random.uniform(-_SHIFT, _SHIFT, [2])
    cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ [[1.0, shear], [0.0, 1.0]]
    matrix = matrix * np.exp([stretch, -stretch]) * (length / size.max())
    room = SIZE - 2 * _MARGIN
    extent = np.abs(matrix) @ size
    matrix *= min(1.0, room / extent.max())
    free = np.maximum(room - np.abs(matrix) @ size, 0.0) / 2
    return matrix, SIZE / 2 + np.clip(shift, -free, free) - matrix @ size / 2
