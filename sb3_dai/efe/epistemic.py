"""The epistemic term: what there is to learn about the parameters of the world model (novelty)."""

import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_dai.checks import check_choice
from sb3_dai.efe.base import Term, Transition
from sb3_dai.nets.statistics import RunningPeak
from sb3_dai.world_model.base import Prediction


class EpistemicTerm(Term):
    """
    ``-IG(s,a)``, the information gain in units of the highest running mean it had, so that it fades as the world model learns.
    Its value goes on after the end of an episode: else whatever is left to learn would be a reason not to end it. Critics are
    averaged: they differ most where least is known, and pessimism there is the opposite of curiosity.

    :param weight: as in :class:`Term`, or "auto" to learn it (MaxInfoRL, arXiv:2412.12098)
    :param discount: as in :class:`Term`
    :param novelty: "information_gain", or "variance" for the disagreement of the ensemble whatever the noise
    """

    name = "epistemic"
    averages = True
    continues = True

    def __init__(
        self, weight: float | str | Schedule = 1.0, discount: float | None = None, novelty: str = "information_gain"
    ) -> None:
        super().__init__(1.0, discount)
        check_choice("novelty", novelty, "information_gain", "variance")
        self.weight = weight  # type: ignore[assignment]
        self.novelty = novelty
        self.scale = RunningPeak()

    def novelty_of(self, prediction: Prediction) -> th.Tensor:
        """
        :param prediction: of the world model
        :return: in nats, or a variance, shape (batch, 1)
        """
        return prediction.information_gain() if self.novelty == "information_gain" else prediction.variance()

    def cost(self, transition: Transition) -> th.Tensor:
        """
        :param transition: a batch of transitions
        :return: shape (batch, 1)
        """
        assert transition.prediction is not None
        return -self.scale(self.novelty_of(transition.prediction))
