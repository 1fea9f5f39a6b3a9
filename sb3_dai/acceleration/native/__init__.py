"""The gradient step in C++: ``step.NativeStep`` is its one door."""
