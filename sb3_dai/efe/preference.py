"""The extrinsic term: what the agent prefers to observe."""

import torch as th

from sb3_dai.efe.base import Term, Transition


class PreferenceTerm(Term):
    """
    ``-weight log p~(o')``. The weight is a part of the cost: its head also holds the policy's entropy, which a weight would
    scale, too. So its head is there at any weight.
    """

    name = "extrinsic"
    of_returns = True
    reads_prediction = False

    def cost(self, transition: Transition) -> th.Tensor:
        """
        :param transition: a batch of transitions
        :return: shape (batch, 1)
        """
        return -float(self.weight) * transition.log_preference  # type: ignore[arg-type]

    def weight_at(self, progress_remaining: float) -> float:
        """
        :param progress_remaining: from 1 at the beginning to 0 at the end of training
        :return: 1, the weight of the head
        """
        return 1.0

    @property
    def is_off(self) -> bool:
        """Never."""
        return False

    @property
    def sign(self) -> float:
        """The weight is a part of the cost."""
        return 1.0
