"""How long a training will take, said at its start."""

import time

from stable_baselines3.common.callbacks import BaseCallback


def readable(seconds: float) -> str:
    """
    :param seconds: a duration
    :return: the same in words, such as "12 min"
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class TrainingTime(BaseCallback):
    """
    Measure the first environment steps that are followed by gradient steps, and print once how long the rest will take.

    :param seconds: to measure at least. A training that ends before says nothing
    """

    def __init__(self, seconds: float = 3.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.told = False
        self.start: tuple[float, int] | None = None

    def _on_training_start(self) -> None:
        self.n_updates = self.model._n_updates

    def _on_step(self) -> bool:
        # Random steps before the first gradient step are quick, and the first one may compile
        if self.told or self.model._n_updates == self.n_updates:
            return True
        now, steps = time.perf_counter(), self.num_timesteps
        if self.start is None:
            self.start = now, steps
        elapsed, measured = now - self.start[0], steps - self.start[1]
        if measured and elapsed >= self.seconds:
            self.told = True
            left, pace = max(self.model._total_timesteps - steps, 0), elapsed / measured
            print(
                f"About {readable(pace * left)} to go: {left:,} environment steps at {1000 * pace:.1f} ms each, as the last "
                f"{measured:,} took"
            )
        return True
