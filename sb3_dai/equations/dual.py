"""Dual descent: losses of the numbers that are learned beside the nets."""

import torch as th


def precision_loss(log_precision: th.Tensor, entropy: th.Tensor, target_entropy: th.Tensor | float) -> th.Tensor:
    """
    Dual descent on the precision (Haarnoja et al. 2018, arXiv:1812.05905, eq. 18, with precision = 1 / temperature):
    a policy more random than its target raises the precision.

    :param log_precision: shape (1,)
    :param entropy: the policy's entropy, in nats, shape (batch, 1)
    :param target_entropy: in nats
    :return: scalar
    """
    return (log_precision * (target_entropy - entropy.detach())).mean()


def epistemic_weight_loss(log_weight: th.Tensor, information_gain: th.Tensor, reference: th.Tensor) -> th.Tensor:
    """
    Dual descent on the weight of the epistemic value (Sukhija et al. 2024, "MaxInfoRL", arXiv:2412.12098, section 4): the
    weight rises while the policy gains less information than a slow copy of it would.

    :param log_weight: shape (1,)
    :param information_gain: of the policy's actions, shape (batch, 1)
    :param reference: of the slow copy's actions at the same states, shape (batch, 1)
    :return: scalar
    """
    return (log_weight * (information_gain - reference).detach()).mean()
