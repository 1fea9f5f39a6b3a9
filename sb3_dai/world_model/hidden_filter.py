"""Exact beliefs about numbered hidden states in the place of a net: the filter that acting carries on, and its predictions."""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_dai.equations import hidden_states as inference
from sb3_dai.equations.free_energy import categorical_divergence
from sb3_dai.world_model.base import Belief, WorldModel
from sb3_dai.world_model.filters import BeliefFilter, Memory
from sb3_dai.world_model.hidden_states import HiddenStateModel
from sb3_dai.world_model.tables import Episodes


def outcome_numbers(features: th.Tensor, sizes: tuple[int, ...]) -> th.Tensor:
    """
    :param features: one-hot codes of all modalities, one after the other, shape (..., sum of sizes)
    :param sizes: number of outcomes of each modality
    :return: number of the outcome of each modality, shape (..., n_modalities)
    """
    return th.stack([part.argmax(dim=-1) for part in features.split(sizes, dim=-1)], dim=-1)


class ExactFilter(BeliefFilter):
    """
    Bayes' rule with the present A, B and D. The belief is p(s_t | o_1..t, a_1..t-1).

    :param states: the model of hidden states
    """

    def __init__(self, states: HiddenStateModel) -> None:
        super().__init__(states.n_states)
        self.states = states

    def initial(self, n: int, device: th.device | str = "cpu") -> Memory:
        """
        :param n: number of environments
        :param device: where it is to be
        :return: D for each, shape (n, n_states)
        """
        return (self.states.initial_states().to(device).expand(n, -1).clone(),)

    @th.no_grad()
    def step(self, memory: Memory, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, Memory]:
        """
        :param memory: the belief before, shape (n_envs, n_states)
        :param features: one-hot codes of the observation, shape (n_envs, features_dim)
        :param actions: one-hot codes of the action before it, zeros where an episode starts, shape (n_envs, n_actions)
        :return: the belief, and what is carried on, which is the same
        """
        outcomes = outcome_numbers(features, self.states.n_outcomes)
        belief, _ = self.states.infer(self._predicted(memory[0], actions), outcomes)
        return belief, (belief,)

    def _predicted(self, belief: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param belief: before an action, shape (batch, n_states)
        :param actions: one-hot codes, zeros where an episode starts, shape (batch, n_actions)
        :return: p(s') before the observation: D as it is now where an episode starts, same shape as ``belief``
        """
        predicted = self.states.predict_going_on(belief, actions.argmax(dim=1))
        return th.where(actions.any(dim=1, keepdim=True), predicted, self.states.initial_states())

    @th.no_grad()
    def replay(self, features: th.Tensor, actions: th.Tensor, memory: Memory | None = None) -> th.Tensor:
        """
        :param features: one-hot codes of the observations, shape (time, batch, features_dim)
        :param actions: one-hot codes of the action before each, zeros at the start of an episode, shape
            (time, batch, n_actions)
        :param memory: belief before the first observation; None for the initial one
        :return: the belief after each, shape (time, batch, n_states)
        """
        before = self.initial(features.shape[1], features.device) if memory is None else memory
        seen = outcome_numbers(features, self.states.n_outcomes).transpose(0, 1)
        mask = th.ones(seen.shape[:2], dtype=th.bool, device=seen.device)
        episodes = Episodes(seen, actions.argmax(dim=2)[1:].T, mask)
        return self.states.filtered(episodes, self._predicted(before[0], actions[0])).transpose(0, 1)


class HiddenStatesPrediction:
    """
    The next observation, and what it is expected to teach about states and model.

    :param states: the model of hidden states
    :param belief: about s, shape (batch, n_states)
    :param actions: number of each action, shape (batch,)
    """

    def __init__(self, states: HiddenStateModel, belief: th.Tensor, actions: th.Tensor) -> None:
        self.states, self.belief, self.actions = states, belief, actions
        self.predicted = inference.predicted_states(belief, states.transition(), actions)

    def nll(self, outcome: th.Tensor) -> th.Tensor:
        """
        :param outcome: number of each modality's, shape (batch, n_modalities)
        :return: -log p(o'|b,a) in nats, shape (1, batch, 1)
        """
        log_likelihood = inference.log_likelihood(self.states.likelihoods(), outcome)
        return -inference.filtered_states(self.predicted, log_likelihood)[1].unsqueeze(0)

    def error(self, outcome: th.Tensor) -> th.Tensor:
        """
        :param outcome: number of each modality's, shape (batch, n_modalities)
        :return: surprise, in nats, shape (batch, 1)
        """
        return self.nll(outcome)[0]

    def information_gain(self) -> th.Tensor:
        """
        :return: salience and novelty, in nats, shape (batch, 1)
        """
        return self.states.information_gains(self.belief).total().gather(1, self.actions.unsqueeze(1))

    def variance(self) -> th.Tensor:
        """
        :raises NotImplementedError: beliefs have a gain of information instead
        """
        raise NotImplementedError('novelty="variance": exact beliefs know their "information_gain"')

    def sample(self) -> th.Tensor:
        """
        :return: number of each modality's outcome, shape (batch, n_modalities)
        """
        drawn = th.multinomial(self.predicted, 1).squeeze(1)
        return th.cat([th.multinomial(matrix.T[drawn], 1) for matrix in self.states.likelihoods()], dim=1)


@th.no_grad()
def parts_of_free_energy(
    states: HiddenStateModel, belief: th.Tensor, next_belief: th.Tensor, actions: th.Tensor, outcomes: th.Tensor
) -> dict[str, th.Tensor]:
    """
    What is logged of each step: the parts of the free energy of its outcome, which add up to its surprise -log p(o'), and the
    parts of what its action was expected to teach.

    :param states: the model of hidden states
    :param belief: about s, shape (batch, n_states)
    :param next_belief: about s', the outcome included, same shape
    :param actions: number of each action, shape (batch,)
    :param outcomes: number of each modality's, shape (batch, n_modalities)
    :return: in nats, shapes (batch, 1), by name
    """
    predicted = inference.predicted_states(belief, states.transition(), actions)
    log_likelihood = inference.log_likelihood(states.likelihoods(), outcomes)
    gains = states.information_gains(belief)._asdict()
    return {
        "observation_surprise": -(next_belief * log_likelihood).sum(dim=1, keepdim=True),
        "state_divergence": categorical_divergence(next_belief, predicted),
        **{name: gain.gather(1, actions.unsqueeze(1)) for name, gain in gains.items()},
    }


class HiddenStatesWorldModel(WorldModel):
    """
    Predicts the next observation from a belief about numbered hidden states. It learns by counting, without gradients.

    :param states: the model of hidden states
    """

    def __init__(self, states: HiddenStateModel) -> None:
        super().__init__(sum(states.n_outcomes), None)
        self.states = states

    def _belief(self, belief: Belief) -> th.Tensor:
        """
        :param belief: what the nets read: features of the observation, then the probabilities of states
        :return: the latter, shape (batch, n_states)
        """
        return belief.features[:, -self.states.n_states :]

    def predict(self, belief: Belief, actions: th.Tensor) -> HiddenStatesPrediction:
        """
        :param belief: about s
        :param actions: one-hot, shape (batch, n_actions)
        :return: p(o'|b,a)
        """
        return HiddenStatesPrediction(self.states, self._belief(belief), actions.argmax(dim=1))

    def outcome(
        self, belief: Belief, next_belief: Belief, next_obs: PyTorchObs, has_successor: th.Tensor | float
    ) -> th.Tensor:
        """
        :param belief: about s
        :param next_belief: about s'
        :param next_obs: the observation after the step
        :param has_successor: 0 where it is not
        :return: number of each modality's outcome, shape (batch, n_modalities)
        """
        return outcome_numbers(next_belief.raw, self.states.n_outcomes)

    def gains_of_actions(self, belief: Belief) -> th.Tensor:
        """
        :param belief: about s
        :return: salience and novelty of every action, in nats, shape (batch, n_actions)
        """
        return self.states.information_gains(self._belief(belief)).total()
