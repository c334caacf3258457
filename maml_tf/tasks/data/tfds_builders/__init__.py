"""Builders for TensorFlow Datasets, which importing a module of this package needs."""
