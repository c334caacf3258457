"""All rows of the table of real models."""

from tests.strangers import sequences, structures, vision

ROWS = vision.ROWS + sequences.ROWS + structures.ROWS
