"""What a world model and its predictions can do, whatever their distribution."""

from typing import Any, NamedTuple, Protocol

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_dai.nets.ensembles import EnsembleMLP


class Belief(NamedTuple):
    """
    What the agent believes about the state, which the policy and value nets read. Where the state is observed it is what is
    extracted of the observation.
    """

    features: th.Tensor
    """In units of their running standard deviation, shape (batch, features_dim)."""
    raw: th.Tensor
    """As the features extractor gives them, same shape."""


class Prediction(Protocol):
    """p_k(.|s,a) of each member k of the ensemble. No gradient flows through the error, the gain and the variance."""

    def nll(self, outcome: Any) -> th.Tensor:
        """
        :param outcome: what was observed
        :return: negative log-likelihood in nats, shape (ensemble_size, batch, 1)
        """

    def error(self, outcome: Any) -> th.Tensor:
        """
        :param outcome: what was observed
        :return: how surprising it was to the ensemble, shape (batch, 1)
        """

    def information_gain(self) -> th.Tensor:
        """
        :return: expected information about the parameters of the model, in nats, shape (batch, 1)
        """

    def variance(self) -> th.Tensor:
        """
        :return: the members' disagreement, whatever the noise, shape (batch, 1)
        """

    def sample(self) -> Any:
        """
        :return: an outcome drawn from a member that is drawn anew for each row
        """


class WorldModel(nn.Module):
    """
    Base of the world models: an ensemble of nets that predict the outcome of an action, with a distribution that a subclass
    chooses.

    :param net: the ensemble, or None if nothing is learned by gradients
    :param prior: fixed random ensemble of the same shape whose outputs are added (randomised priors, Osband et al. 2018,
        arXiv:1806.03335), or None
    :param prior_scale: factor of the latter
    """

    def __init__(
        self, features_dim: int, net: EnsembleMLP | None, prior: EnsembleMLP | None = None, prior_scale: float = 0.0
    ) -> None:
        super().__init__()
        self.features_dim = features_dim
        self.net = net
        self.prior = prior
        self.prior_scale = prior_scale

    @property
    def ensemble_size(self) -> int:
        """Number of members; 1 without an ensemble."""
        return 1 if self.net is None else self.net.n_members

    def initial(self, n: int, device: th.device | str = "cpu") -> Belief:
        """
        Belief before anything was observed.

        :param n: number of environments
        :param device: where it is to be
        :return: zeros, since the first observation replaces it where the state is observed
        """
        nothing = th.zeros(n, self.features_dim, device=device)
        return Belief(nothing, nothing)

    def observe(
        self, belief: Belief, actions: th.Tensor | None, observed: Belief, is_first: th.Tensor | None = None
    ) -> Belief:
        """
        Update the belief by an observation.

        :param belief: before the step
        :param actions: coded actions of the step, shape (batch, code_dim); None at the start of an episode
        :param observed: what is extracted of the observation
        :param is_first: where an episode starts, shape (batch,)
        :return: where the state is observed, ``observed``
        """
        return observed

    def outputs(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: of the ensemble
        :return: of each member, the fixed random net's included, shape (ensemble_size, batch, output_dim)
        """
        assert self.net is not None
        outputs = self.net(inputs)
        if self.prior is None:
            return outputs
        # It is fixed, and does not say what a belief filter is to remember either
        return outputs + self.prior_scale * self.prior(inputs.detach())

    def predict(self, belief: Belief, actions: th.Tensor) -> Prediction:
        """
        :param belief: about s
        :param actions: coded actions, shape (batch, code_dim)
        :return: p_k(.|s,a) of each member
        """
        raise NotImplementedError

    def outcome(
        self, belief: Belief, next_belief: Belief, next_obs: PyTorchObs, has_successor: th.Tensor | float
    ) -> th.Tensor:
        """
        What is to be predicted. Updates running statistics.

        :param belief: about s, as the target extractor sees it
        :param next_belief: about s', likewise
        :param next_obs: s' itself
        :param has_successor: (batch, 1), 0 where s' is not the successor of s
        :return: the outcome, of which rows without successor mean nothing
        """
        raise NotImplementedError

    def successor(self, belief: Belief, outcome: Any) -> th.Tensor:
        """
        :param belief: about s
        :param outcome: a sample of a prediction
        :return: the raw features of s', shape (batch, features_dim)
        """
        raise NotImplementedError

    def loss(self, prediction: Prediction, outcome: Any, weights: th.Tensor | float = 1.0) -> th.Tensor:
        """
        :param prediction: of the outcome
        :param outcome: what was observed
        :param weights: of each row and member, anything that broadcasts to (ensemble_size, batch, 1)
        :return: mean negative log-likelihood, shape ()
        """
        return (prediction.nll(outcome) * weights).mean()

    def gains_of_actions(self, belief: Belief) -> th.Tensor | None:
        """
        :param belief: about s
        :return: information gain of every action, shape (batch, n_actions), where it is known without an evaluation of the
            ensemble; None elsewhere
        """
        return None
