"""What figures begin with, and how pictures and names are put into them."""

_DPI = 150


def new_figure(width, height):
    """A `matplotlib.figure.Figure` of so many inches; an ImportError says how to install it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"Figures are drawn with matplotlib, which could not be imported ({error}). Install "
            'it with: pip install "maml_tf[train]"'
        ) from error
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def displayed(image):
    """An image as `imshow` takes it: grey ones without their channel axis."""
    return image[..., 0] if image.shape[-1] == 1 else image


def printable(text: str) -> str:
    """The text with escapes for what does not print.

    A file's name may hold anything: a new line, what moves a terminal's cursor, half a character.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def shorten(text: str, limit: int) -> str:
    """The text with its middle left out where it is longer than `limit` (at least 5) characters."""
    text, limit = printable(text), max(limit, 5)
    if len(text) <= limit:
        return text
    end = (limit - 1) // 2
    return f"{text[: limit - 1 - end]}…{text[-end:]}"
