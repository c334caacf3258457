"""What oneDNN makes for the gradient towards a kernel, kept from call to call.

Symptom: of a convolution, and of its gradient towards the images, TensorFlow keeps what oneDNN
makes for a shape. For the gradient towards the kernel it has that made anew at every call, to save
memory which today's oneDNN does not take: 60 microseconds, two fifths of what the gradient itself
takes for five images of 7x7x64 and of 14x14x64. An environment variable has it kept. TensorFlow
reads that when the first convolution of the process runs.

Canary: `tests/exact/test_primitives.py`, which counts how often they are made without it.
"""

import os

# TensorFlow takes it for true where it is not set.
_VARIABLE = "TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE"


def install():
    """Sets the variable, unless whoever started the process has."""
    os.environ.setdefault(_VARIABLE, "0")
