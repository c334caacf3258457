"""What the reference of the site makes of docstrings: an `Example:` is code, as `Examples:` is."""

import re

import griffe


class Examples(griffe.Extension):
    """Griffe knows the section of examples by its plural alone, and takes the other for prose."""

    def on_object(self, *, obj, **_):
        """Called for each module, class and function."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)
