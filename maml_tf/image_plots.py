"""Sheets of pictures under their public name; see `maml_tf.plots.contact_sheet`."""

from maml_tf.plots.contact_sheet import contact_sheet, printable, shorten

__all__ = ["contact_sheet", "printable", "shorten"]
