"""What the C++ step reads of sequences, for policies with a memory."""

from collections.abc import Callable
from typing import Any

import torch as th

from sb3_dai.acceleration.native.plan import Plan
from sb3_dai.acceleration.native.structures import WorldModel
from sb3_dai.learning.batch import Batch
from sb3_dai.learning.coefficients import Coefficients
from sb3_dai.learning.losses import Named, beliefs


def check_features(policy: Any, features: th.Tensor, n_rows: int, n_features: int) -> None:
    """
    :param policy: the nets
    :param features: as extracted
    :param n_rows: number of observations
    :param n_features: of each
    :raises ValueError: if they have another shape
    """
    if tuple(features.shape) != (n_rows, n_features):
        raise ValueError(
            f"features_extractor_class={policy.features_extractor_class.__name__} returned features of shape "
            f"{tuple(features.shape)} for {n_rows} observations: give ({n_rows}, {n_features})"
        )


class Inference:
    """
    Beliefs about the states of the sequences of a gradient step. C++ goes through them if the belief filter is an LSTM, and
    torch with any other.

    :param plan: the structures that C++ reads
    :param batch: transitions, and the sequences that they lie in
    :param c: numbers of the step
    :param place: where a tensor lies
    :param alive: what has to live until the step is done
    """

    def __init__(self, plan: Plan, batch: Batch, c: Coefficients, place: Callable[..., Any], alive: list[Any]) -> None:
        self.plan, self.policy, self.batch, self.c, self.place, self.alive = plan, plan.policy, batch, c, place, alive
        self.inferred: Any = None
        """Beliefs about s and about s' by torch's filter"""

    def infer(self) -> th.Tensor | None:
        """
        :return: what torch is to pass a gradient on from: beliefs by its filter, or the features of all rows as extracted;
            None if C++ does all
        """
        update, one_step = self.plan.update, self.batch.one_step
        update.batch, update.has_successor = len(one_step.actions), self.place(self.batch.has_successor)
        update.ends = update.last_ends = self.place(one_step.dones)
        update.discounts = self.place(self.batch.n_step.discounts)
        if update.world_model == WorldModel.CATEGORICAL:
            update.next_states = self.place(one_step.next_observations, th.int64)
        return self._by_plan() if self.plan.has_filter else self._by_torch()

    def _by_torch(self) -> th.Tensor:
        """
        :return: what the nets read of s
        """
        update, place = self.plan.update, self.place
        belief, next_belief, outcome, filtered = beliefs(self.policy, self.batch, self.c.learns_world_model)
        assert filtered is not None
        self.inferred = belief, filtered
        parts = [belief.features.detach(), next_belief.features, filtered.features.detach()]
        self.alive += [*parts, belief.features, outcome]
        update.inputs, update.next_inputs, update.next_for_policy = map(place, parts)
        update.outcome = place(outcome) if update.world_model == WorldModel.GAUSSIAN else None
        return belief.features

    def _by_plan(self) -> th.Tensor | None:
        """
        :return: features of all rows as extracted, or None if they are what was observed
        """
        policy, windows, place, read = self.policy, self.batch.windows, self.place, self.plan.update.filter
        with th.no_grad():
            target = policy.extract_features(windows.observations, policy.features_extractor_target)
            codes = policy.encode(windows.actions) * windows.has_action
            lengths = th.bincount(windows.window.long())
        raw = target if policy.extracts_nothing else policy.extract_features(windows.observations)
        n_rows = len(windows.time)
        for part in (target, raw):
            check_features(policy, part, n_rows, self.plan.update.n_features)
        self.alive += [raw, target, codes, lengths]
        read.n_rows, read.n_windows = n_rows, len(lengths)
        read.raw, read.raw_target, read.codes = place(raw.detach()), place(target), place(codes)
        read.memory, read.rewards = place(windows.memory), place(self.batch.one_step.rewards)
        read.lengths, read.rows = place(lengths, th.int64), place(windows.rows, th.int64)
        return raw if raw.requires_grad else None

    def losses(self) -> tuple[Named, Named]:
        """
        :return: what torch's filter learns by beside the nets that read it, and what is logged of each sample
        """
        if self.inferred is None or not self.c.learns_world_model:
            return {}, {}
        policy, (belief, filtered) = self.policy, self.inferred
        actions = policy.encode(self.batch.one_step.actions)
        return policy.filter_losses(self.batch, policy.seen_by_world_model(belief), filtered, actions)
