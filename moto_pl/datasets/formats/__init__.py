"""Others' dataset formats, in and out: one module reads a format, ``table`` lists them."""
