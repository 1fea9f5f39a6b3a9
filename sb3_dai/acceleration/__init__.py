"""What exists for speed alone: other ways to take the gradient steps that :mod:`sb3_dai.learning` defines."""
