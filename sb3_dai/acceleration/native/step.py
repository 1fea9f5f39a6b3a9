"""Placeholder."""


class NativeStep:
    name = "native"

    def __init__(self, eager):
        self.eager = eager

    def refusal(self):
        return "it is not built"

    def __call__(self, batch, coefficients):
        raise NotImplementedError
