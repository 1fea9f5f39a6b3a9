"""
Everything that exists for speed alone. A backend proves that it is the eager step of :mod:`sb3_dai.learning.step`, or says
why it is not used (docs/speed.md).
"""

from sb3_dai.acceleration.chosen import ChosenStep
from sb3_dai.acceleration.threads import is_small, one_thread

__all__ = ["ChosenStep", "is_small", "one_thread"]
