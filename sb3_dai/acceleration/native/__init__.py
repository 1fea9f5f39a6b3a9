"""The gradient step in C++, and its one Python door: :mod:`sb3_dai.acceleration.native.step`."""
