"""Studies: a page each, and the script that computes its numbers."""

import scenes  # noqa: F401  (first, since it keeps TensorFlow's logs out of the output)
