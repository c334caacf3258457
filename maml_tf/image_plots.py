"""Sheets of pictures under their public name; see `maml_tf.plots.contact_sheet`."""

from maml_tf.plots.canvas import printable, shorten
from maml_tf.plots.contact_sheet import contact_sheet

__all__ = ["contact_sheet", "printable", "shorten"]
