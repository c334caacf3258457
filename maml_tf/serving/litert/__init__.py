"""Learners that adapt on the device: one file for LiteRT, of its own operations alone."""
