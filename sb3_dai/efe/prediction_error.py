"""The prediction error as a term of the EFE."""

import torch as th

from sb3_dai.efe.base import Term, Transition


class PredictionErrorTerm(Term):
    """
    ``PE(s,a)``, the surprise of the world model at what happened. A positive weight avoids it: the "free energy of the
    future" of van der Himst & Lanillos 2020 (arXiv:2009.03622). A negative one seeks it: the curiosity of Millidge 2019
    (arXiv:1907.03876), which noise attracts.
    """

    name = "prediction_error"

    def cost(self, transition: Transition) -> th.Tensor:
        """
        :param transition: a batch of transitions
        :return: shape (batch, 1)
        """
        assert transition.prediction is not None
        return transition.prediction.error(transition.outcome) * transition.has_successor
