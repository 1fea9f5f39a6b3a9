"""
The equations of deep active inference, as pure functions of tensors.

Sign convention: the expected free energy (EFE) ``G`` is a cost, lower is better.
Per-sample scalars have shape ``(batch, 1)``. Leading ensemble axes come first: ``(n_members, batch, ...)``.

References: van der Himst & Lanillos 2020 (arXiv:2009.03622), Millidge 2019 (arXiv:1907.03876),
Tschantz et al. 2020 (arXiv:2002.12636), Haarnoja et al. 2018 (arXiv:1801.01290), Zhou et al. 2022 (arXiv:2209.10081).
"""

import math

import torch as th
from torch.nn import functional as F

LOG_2_PI = math.log(2.0 * math.pi)

RESOLUTION = 0.1
"""Standard deviation, in units of the typical change, with which an outcome is told from another."""

VALUE_HEADS = ("extrinsic", "epistemic", "prediction_error")
"""The parts of the EFE, each with its own head in the value net. Their weighted sum is G."""

EPISTEMIC = VALUE_HEADS.index("epistemic")


def gaussian_nll(mean: th.Tensor, log_var: th.Tensor, target: th.Tensor) -> th.Tensor:
    """
    Negative log-likelihood of a diagonal Gaussian, in nats, averaged over dimensions so that its size
    does not grow with the observation.

    :param mean: predicted mean, shape (..., batch, dim)
    :param log_var: logarithm of the predicted variance, same shape
    :param target: observed value, shape (batch, dim)
    :return: shape (..., batch, 1)
    """
    nll = 0.5 * (log_var + (target - mean).square() * th.exp(-log_var) + LOG_2_PI)
    return nll.mean(dim=-1, keepdim=True)


def prediction_error(mean: th.Tensor, target: th.Tensor) -> th.Tensor:
    """
    Squared error of the ensemble's mean prediction, averaged over dimensions: the transition term of the
    variational free energy (van der Himst & Lanillos 2020, eq. 8, with a unit-variance likelihood).

    :param mean: predicted means, shape (ensemble_size, batch, dim)
    :param target: observed value, shape (batch, dim)
    :return: shape (batch, 1)
    """
    return (mean.mean(dim=0) - target).square().mean(dim=-1, keepdim=True)


def information_gain(mean: th.Tensor, log_var: th.Tensor, resolution: float = RESOLUTION) -> th.Tensor:
    """
    Expected information about the transition model's parameters, in nats: entropy of the ensemble's mixture minus
    the mean entropy of its members (Tschantz et al. 2020, eq. 6), with the mixture moment-matched to a Gaussian, for an
    outcome that is seen with an error of standard deviation ``resolution``:
    ``0.5 sum_d log(1 + Var_k[mu_kd] / (E_k[sigma_kd^2] + resolution^2))``. It vanishes where members agree, however noisy
    the outcome. Without the resolution it need not fall with knowledge where nothing is random: the members' noise is
    then their own error, which shrinks as fast as their disagreement.

    :param mean: member means, shape (ensemble_size, batch, dim)
    :param log_var: member log-variances, same shape
    :param resolution: in the units of the outcome
    :return: shape (batch, 1), zero for a single member
    """
    noise = log_var.exp().mean(dim=0) + resolution**2
    return 0.5 * th.log1p(ensemble_variance(mean) / noise).sum(dim=-1, keepdim=True)


def ensemble_variance(mean: th.Tensor) -> th.Tensor:
    """
    Variance of the members' means, their disagreement whatever the noise (Pathak et al. 2019, arXiv:1906.04161, eq. 1).

    :param mean: member means, shape (ensemble_size, batch, dim)
    :return: shape (batch, dim)
    """
    apart = mean - mean[:1]  # Exactly 0 where members agree
    return (apart - apart.mean(dim=0)).square().mean(dim=0)


def categorical_nll(log_prob: th.Tensor, outcome: th.Tensor) -> th.Tensor:
    """
    Negative log-likelihood of a categorical distribution, in nats.

    :param log_prob: shape (..., batch, n_states)
    :param outcome: index of what was observed, shape (batch, 1)
    :return: shape (..., batch, 1)
    """
    return -log_prob.gather(-1, outcome.expand(*log_prob.shape[:-1], 1))


def categorical_surprise(log_prob: th.Tensor, outcome: th.Tensor) -> th.Tensor:
    """
    Surprise of the ensemble's mixture, ``-log mean_k p_k(s'|s,a)``, in nats: the transition term of the variational free
    energy of numbered states.

    :param log_prob: of each member, shape (ensemble_size, batch, n_states)
    :param outcome: index of what was observed, shape (batch, 1)
    :return: shape (batch, 1)
    """
    return math.log(log_prob.shape[0]) - th.logsumexp(-categorical_nll(log_prob, outcome), dim=0)


def categorical_information_gain(log_prob: th.Tensor) -> th.Tensor:
    """
    Expected information about the transition model's parameters, in nats: entropy of the ensemble's mixture minus the
    mean entropy of its members (Tschantz et al. 2020, eq. 6), which is their Jensen-Shannon divergence. At most the
    logarithm of the ensemble's size.

    :param log_prob: of each member, shape (ensemble_size, batch, n_states)
    :return: shape (batch, 1), zero for a single member
    """
    mixture = th.logsumexp(log_prob, dim=0) - math.log(log_prob.shape[0])
    members = -(log_prob.exp() * log_prob).sum(dim=-1, keepdim=True).mean(dim=0)
    return (-(mixture.exp() * mixture).sum(dim=-1, keepdim=True) - members).clamp(min=0.0)


def gaussian_preference(outcome: th.Tensor, goal: th.Tensor, std: th.Tensor, floor: float | None = None) -> th.Tensor:
    """
    Prior preference for a goal: an unnormalised Gaussian density, 1 at the goal, mixed with a background of density e^floor:
    ``log((1 - e^floor) exp(-0.5 sum_d ((o_d - goal_d) / std_d)^2) + e^floor)``, between floor and 0.

    :param outcome: o', shape (batch, dim)
    :param goal: wanted values, shape () or (dim,)
    :param std: standard deviations around them, shape () or (dim,)
    :param floor: negative, in nats; None for no background
    :return: in nats, shape (batch, 1)
    """
    log_density = -0.5 * ((outcome - goal) / std).square().sum(dim=-1, keepdim=True)
    if floor is None:
        return log_density
    return th.logaddexp(log_density + math.log1p(-math.exp(floor)), th.full_like(log_density, floor))


def absorbed(log_prob: th.Tensor, terminated: th.Tensor, gamma: float) -> th.Tensor:
    """
    Preference for an outcome that lasts for ever where the episode ends with it: ``log p~(o') / (1 - gamma)`` there.

    :param log_prob: log p~(o'), shape (batch, 1)
    :param terminated: 1 where the episode truly ended, shape (batch, 1)
    :param gamma: discount factor, below 1
    :return: shape (batch, 1)
    """
    return log_prob * (1.0 + terminated * gamma / (1.0 - gamma))


def dirichlet_information_gain(counts: th.Tensor) -> th.Tensor:
    """
    Expected information about the parameters of a categorical distribution whose belief is a Dirichlet, in nats: entropy
    of its mean minus its mean entropy (exact; the novelty of Friston et al. 2017, "Active inference, curiosity and
    insight", eq. A.2, is its expansion for large counts).
    ``sum_i p_i [ psi(alpha_i + 1) - psi(alpha_0 + 1) - log p_i ]`` with ``p = alpha / alpha_0``. With n observations it falls
    as 1/n: where all k states occur, as ``(k - 1) / 2n``.

    :param counts: alpha, positive, shape (..., n_states)
    :return: shape (..., 1)
    """
    total = counts.sum(dim=-1, keepdim=True)
    mean = counts / total
    gain = mean * (th.digamma(counts + 1.0) - th.digamma(total + 1.0) - mean.log())
    return gain.sum(dim=-1, keepdim=True).clamp(min=0.0)


def dirichlet_variance(counts: th.Tensor) -> th.Tensor:
    """
    Variance of the probabilities of a Dirichlet belief, sum over states: ``sum_i p_i (1 - p_i) / (alpha_0 + 1)`` with
    ``p = alpha / alpha_0``.

    :param counts: alpha, positive, shape (..., n_states)
    :return: shape (..., 1)
    """
    total = counts.sum(dim=-1, keepdim=True)
    mean = counts / total
    return (mean * (1.0 - mean)).sum(dim=-1, keepdim=True) / (total + 1.0)


def pessimistic(efe: th.Tensor, pessimism: th.Tensor | float = 1.0) -> th.Tensor:
    """
    What several estimates of a cost come to: between their average and the worst of them, which is the maximum over value
    nets. With ``pessimism = 1`` it is clipped double Q-learning (Fujimoto et al. 2018, arXiv:1802.09477, eq. 10) with
    ``G = -Q``.

    :param efe: shape (n_critics, ...)
    :param pessimism: share of the worst, the rest being the average's, a number or shape ()
    :return: shape (...)
    """
    return th.lerp(efe.mean(dim=0), efe.max(dim=0).values, pessimism)


def judged_parts(efe: th.Tensor, pessimism: th.Tensor | float = 1.0) -> th.Tensor:
    """
    What several value nets make of each part of G: :func:`pessimistic`, but of the epistemic part their average. They differ
    most where least is known, and to be pessimistic there is the opposite of curiosity.

    :param efe: shape (n_critics, batch, n_parts, ...)
    :param pessimism: share of the worst in the other parts, a number or shape ()
    :return: shape (batch, n_parts, ...)
    """
    epistemic = efe[:, :, EPISTEMIC : EPISTEMIC + 1].mean(dim=0)
    before, after = efe[:, :, :EPISTEMIC], efe[:, :, EPISTEMIC + 1 :]
    return th.cat([pessimistic(before, pessimism), epistemic, pessimistic(after, pessimism)], dim=1)


def judged_efe(efe: th.Tensor, weights: th.Tensor, pessimism: th.Tensor | float = 1.0) -> th.Tensor:
    """
    What several value nets make of G: :func:`pessimistic` in the sum of all parts but the epistemic one, and their average in
    that. Where only one part has a weight it is that of :func:`judged_parts`.

    :param efe: shape (n_critics, batch, n_parts, ...)
    :param weights: of the parts, shape (n_parts,)
    :param pessimism: share of the worst in the other parts, a number or shape ()
    :return: shape (batch, ...)
    """
    weighted = efe * weights.reshape(-1, *[1] * (efe.dim() - 3))
    epistemic = weighted[:, :, EPISTEMIC : EPISTEMIC + 1].sum(dim=2)
    others = weighted[:, :, :EPISTEMIC].sum(dim=2) + weighted[:, :, EPISTEMIC + 1 :].sum(dim=2)
    return pessimistic(others, pessimism) + epistemic.mean(dim=0)


def policy_expectation(log_prob: th.Tensor, efe: th.Tensor) -> th.Tensor:
    """
    ``sum_i sum_a Q_i(a|s) G_i(s,a)``: the EFE of following the policy, whose independent choices i each cost G_i.

    :param log_prob: log Q_i(a|s), shape (batch, n_choices, n_options)
    :param efe: shape (batch, n_parts, n_choices, n_options)
    :return: shape (batch, n_parts)
    """
    return (log_prob.exp().unsqueeze(1) * efe).sum(dim=(-2, -1))


def policy_entropy(log_prob: th.Tensor) -> th.Tensor:
    """
    Entropy of a policy of independent choices, in nats.

    :param log_prob: log Q_i(a|s), shape (batch, n_choices, n_options)
    :return: shape (batch, 1)
    """
    return -(log_prob.exp() * log_prob).sum(dim=(-2, -1)).unsqueeze(1)


def bootstrapped_efe(efe: th.Tensor, terminated: th.Tensor, discount: th.Tensor | float, next_efe: th.Tensor) -> th.Tensor:
    """
    Bellman target of the value net (van der Himst & Lanillos 2020, eq. 10, with a discount):
    ``G(s,a) = g(s,a) + discount (1 - terminated) E_Q[G(s',.)]``.

    :param efe: one-step (or n-step) EFE g, shape (batch, 1)
    :param terminated: 1 where the episode truly ended (a timeout is not an end), shape (batch, 1)
    :param discount: discount of the next value, a number or shape (batch, 1)
    :param next_efe: expected EFE at the next state, shape (batch, 1)
    :return: shape (batch, 1)
    """
    return efe + discount * (1.0 - terminated) * next_efe


def continuing_efe(
    efe: th.Tensor, terminated: th.Tensor, discount: float, next_efe: th.Tensor, elsewhere: th.Tensor
) -> th.Tensor:
    """
    Bellman target of a value that does not end with the episode: after it the agent goes on, to what is on average
    expected elsewhere. So the end of an episode is, on average, neither shunned nor sought for the sake of this value
    (after Burda et al. 2019, arXiv:1810.12894, section 2.3, whose exploration bonus is not episodic).

    :param efe: one-step EFE g, shape (batch, 1)
    :param terminated: 1 where the episode truly ended, shape (batch, 1)
    :param discount: discount of the next value
    :param next_efe: expected EFE at the next state, shape (batch, 1)
    :param elsewhere: mean of expected EFEs, shape (1,)
    :return: shape (batch, 1)
    """
    return efe + discount * (next_efe + terminated * (elsewhere - next_efe))


def policy_divergence(
    log_prob: th.Tensor, efe: th.Tensor, precision: th.Tensor | float, log_prior: th.Tensor | float = 0.0
) -> th.Tensor:
    """
    ``KL[ Q(a|s) || E(a|s) softmax(-precision G(s,.)) / Z ]``, the policy's term of the variational free energy
    (van der Himst & Lanillos 2020, eq. 9; with a habit E, Friston et al. 2017, "Active inference: a process theory",
    whose policies are softmax(log E - precision G)), in nats. For a G that is a sum over independent choices both factorise.

    :param log_prob: log Q_i(a|s), shape (batch, n_choices, n_options)
    :param efe: G_i(s,.), same shape; no gradient should flow through it
    :param precision: inverse temperature of the EFE
    :param log_prior: log E_i(a|s), same shape or one that broadcasts to it; any constant is a uniform one
    :return: shape (batch, 1), never negative
    """
    log_target = F.log_softmax(log_prior - precision * efe, dim=-1)
    return (log_prob.exp() * (log_prob - log_target)).sum(dim=(-2, -1)).unsqueeze(1)


def tanh_gaussian_log_prob(raw: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """
    Log-density of ``tanh(raw)``, with ``raw`` drawn from a diagonal Gaussian (Haarnoja et al. 2018, arXiv:1801.01290,
    eq. 21). The Jacobian ``log(1 - tanh(u)^2)`` is written as ``2 (log 2 - u - softplus(-2u))``, which stays finite.

    :param raw: before squashing, shape (batch, dim)
    :param mean: of the Gaussian, same shape
    :param log_std: of the Gaussian, same shape
    :return: in nats, shape (batch, 1)
    """
    log_prob = -0.5 * (((raw - mean) * th.exp(-log_std)).square() + LOG_2_PI) - log_std
    log_jacobian = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
    return (log_prob - log_jacobian).sum(dim=-1, keepdim=True)


def sampled_divergence(
    log_prob: th.Tensor, efe: th.Tensor, precision: th.Tensor | float, log_prior: th.Tensor | float = 0.0
) -> th.Tensor:
    """
    One sample of ``KL[ Q(a|s) || E(a|s) softmax(-precision G(s,.)) / Z ]``, less the log-normaliser of the latter, which does
    not depend on the policy: ``log Q(a|s) + precision G(s,a) - log E(a|s)`` with a from Q (the policy's loss in Haarnoja
    et al. 2018, arXiv:1801.01290, eq. 12, with G = -Q and precision = 1 / temperature).

    :param log_prob: log Q(a|s) of the sample, shape (batch, 1)
    :param efe: G(s,a) of the sample, shape (batch, 1)
    :param precision: inverse temperature of the EFE
    :param log_prior: log E(a|s) of the sample, 0 (uniform) or shape (batch, 1)
    :return: shape (batch, 1)
    """
    return log_prob + precision * efe - log_prior


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
