"""Deep active inference as an off-policy algorithm of Stable-Baselines3."""

import copy
import io
import math
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from stable_baselines3.common.utils import LinearSchedule
from torch.nn import functional as F

from sb3_dai import free_energy as fe
from sb3_dai.actions import GaussianActions
from sb3_dai.checks import (
    MIN_PRECISION,
    SUPPORTED_ACTIONS,
    check_arguments,
    check_finite,
    check_log_prob,
    check_losses,
    check_spaces,
    value_at,
)
from sb3_dai.compilation import CompiledUpdate, UpdateInputs
from sb3_dai.habits import HabitPrior, log_habit_prior
from sb3_dai.logs import means, summary
from sb3_dai.native_update import NativeUpdate
from sb3_dai.networks import averaging_rate, clipped
from sb3_dai.packing import PackedNets, Packing
from sb3_dai.policies import CnnPolicy, DAIPolicy, MlpPolicy, MultiInputPolicy
from sb3_dai.preferences import Preference, RewardPreference, check_preference
from sb3_dai.replay import end_returns, sample_transitions
from sb3_dai.saving import CrashSafeSaving
from sb3_dai.transitions import DirichletTransitions

SelfDAI = TypeVar("SelfDAI", bound="DAI")

LEARNING_RATE = LinearSchedule(2e-3, 2e-4, 1.0)
"""Fast at first, and a tenth of that by the end, so that the final checkpoint is not one of an oscillation."""

EPISTEMIC_WEIGHT = LinearSchedule(0.6, 0.0, 0.75)
"""Curious at first, and for the extrinsic value alone in the last quarter."""

PESSIMISM = LinearSchedule(0.0, 1.0, 1.0)
"""As curiosity goes, caution comes: a way that is little known is to be tried at first, and to be avoided in the end."""


class DAI(CrashSafeSaving):
    """
    Deep active inference.

    Three nets learn from a replay buffer: a transition ensemble (world model), a value net that bootstraps the expected
    free energy (EFE) ``G``, and a policy that minimises the variational free energy, its divergence from
    ``softmax(-precision G)``. The one-step EFE of an action is

    ``g(s,a) = -preference_weight log p~(o') - epistemic_weight IG(s,a) + prediction_error_weight PE(s,a)``

    with the prior preference log p~, by default the reward, the information gain IG about the transition model and its
    prediction error PE. Each part has its own head in
    the value net.

    Special cases: epistemic_weight = 0 is the agent of van der Himst & Lanillos 2020; with bootstrap_entropy = 1 as well it
    is discrete soft actor-critic; a precision towards infinity makes it double DQN.

    Papers: van der Himst & Lanillos 2020 (arXiv:2009.03622), Millidge 2019 (arXiv:1907.03876), Tschantz et al. 2020
    (arXiv:2002.12636).

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy)
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param learning_rate: The learning rate, it can be a function of the current progress remaining (from 1 to 0).
        By default it falls linearly from 2e-3 to 2e-4.
    :param buffer_size: size of the replay buffer
    :param learning_starts: how many steps of random actions to collect before learning starts
    :param batch_size: Minibatch size for each gradient update
    :param tau: the soft update coefficient of the target value net ("Polyak update", between 0 and 1)
    :param gamma: the discount factor
    :param train_freq: Update the model every ``train_freq`` steps. Alternatively pass a tuple of frequency and unit
        like ``(5, "step")`` or ``(2, "episode")``.
    :param gradient_steps: How many gradient steps to do after each rollout (see ``train_freq``).
        Set to ``-1`` to do as many gradient steps as steps in the environment during the rollout.
    :param replay_buffer_class: Replay buffer class to use. If ``None``, it will be automatically selected.
    :param replay_buffer_kwargs: Keyword arguments to pass to the replay buffer on creation
    :param optimize_memory_usage: Enable a memory efficient variant of the replay buffer
        at a cost of more complexity (it also needs ``replay_buffer_kwargs=dict(handle_timeout_termination=False)``).
    :param n_steps: Length of the returns that the extrinsic value learns from. The world model always learns from
        one-step pairs.
    :param target_update_interval: update the target value net every so many environment steps.
        ``None`` updates it after each gradient step.
    :param transition_delay: the transition net learns once every so many gradient steps, and with it the parts of the value
        net that are about what it knows, and an automatic ``epistemic_weight``. ``None`` is every fourth one for ``Box``
        actions and each one for others.
    :param policy_delay: the policy net and an automatic precision learn once every so many gradient steps, as in TD3. ``None``
        is every second one for ``Box`` actions and each one for others.
    :param precision: inverse temperature of the EFE in the policy's free energy: a positive number, a function of the
        current progress remaining (from 1 to 0) that returns one, or "auto" to learn it from a target of the policy's
        entropy, which is minus the number of dimensions for ``Box`` actions and follows the three ``exploration_``
        arguments for others.
    :param action_precision: alpha of pymdp, how decided the actions are: they are drawn from Q(a|s)^alpha, normalised, in
        training and by ``predict(deterministic=False)``. For ``Box`` actions it divides the standard deviation before
        squashing by sqrt(alpha). What is learned remains Q(a|s).
    :param habit_prior: E(a|s), what actions the agent is used to before it weighs their EFE: its policy is to be
        E(a|s) softmax(-precision G(s,.)), normalised. Probabilities of each action, shape (n_actions,), or a function
        (or ``nn.Module``, on the device of the model) from a batch of observations, as features extractors get them, to
        probabilities, shape (batch, n_actions). ``None`` is a uniform one. For ``Discrete`` actions and a precision that
        is not "auto".
    :param exploration_fraction: fraction of the training period over which the target of the policy's entropy falls
    :param exploration_initial_entropy: its initial value, as a fraction of the uniform policy's entropy
    :param exploration_final_entropy: its final value, as a fraction of the uniform policy's entropy
    :param preference: prior preference log p~(o') of the extrinsic term, an object of :mod:`sb3_dai.preferences`, of which the
        model keeps a copy. By default it is the reward; ``GaussianPreference`` needs none, ``LearnedPreference`` learns what
        the observations of good episodes are.
    :param preference_weight: weight of the extrinsic term
    :param epistemic_weight: weight of the epistemic term, it can be a function of the current progress remaining (from 1
        to 0), or "auto" to raise it while the policy gains less information than a slow copy of it would. By default it
        falls linearly from 0.6 to 0 at three quarters of training. The information gain is in units of the highest running
        mean it had, so that it fades as the world model learns. Its value goes on after the end of an episode, with the
        average of all states.
    :param epistemic_gamma: the discount factor of the epistemic term
    :param prediction_error_weight: weight of the prediction error: positive avoids surprise, negative seeks it
    :param pessimism: share of the worst of the value nets, the rest being that of their average, in what they make of the
        extrinsic value and the prediction error. It can be a function of the current progress remaining (from 1 to 0). By
        default it rises linearly from 0 to 1 over training, and is 1 for ``Box`` actions. The epistemic value is their
        average.
    :param bootstrap_entropy: share of the policy's entropy in the extrinsic target: 1 is a soft value, 0 a plain one.
        A soft value pays for lasting, which suits tasks that do so too.
    :param max_grad_norm: The maximum value for the gradient clipping, ``None`` for no clipping
    :param compile: whether to compile the update of the nets where the library that installation makes does not take the
        whole gradient step (docs/speed.md). It takes some seconds at the first update, or up to a minute if it was never
        compiled on this machine before, and a C++ compiler. Without one a warning says so.
    :param action_noise: the action noise type (None by default), for ``Box`` actions: added to the policy's own
    :param use_sde: generalized State Dependent Exploration is not supported: only False is accepted
    :param stats_window_size: Window size for the rollout logging, specifying the number of episodes to average
        the reported success rate, mean episode length, and mean reward over
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation, see
        :class:`sb3_dai.policies.DAIPolicy`
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used), 2 for
        debug messages
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) on which the code should be run.
        Setting it to auto, the code will be run on the GPU if possible.
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    :raises ValueError: if an argument or a space cannot be used, or the environment or a loss is not finite
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: DAIPolicy

    def __init__(
        self,
        policy: str | type[DAIPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = LEARNING_RATE,
        buffer_size: int = 1_000_000,  # 1e6
        learning_starts: int = 100,
        batch_size: int = 64,
        tau: float = 0.05,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 4,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int | None = None,
        transition_delay: int | None = None,
        policy_delay: int | None = None,
        precision: float | str | Schedule = "auto",
        action_precision: float = 1.0,
        habit_prior: HabitPrior = None,
        exploration_fraction: float = 0.5,
        exploration_initial_entropy: float = 0.7,
        exploration_final_entropy: float = 0.2,
        preference: Preference | None = None,
        preference_weight: float = 1.0,
        epistemic_weight: float | str | Schedule = EPISTEMIC_WEIGHT,
        epistemic_gamma: float = 0.99,
        prediction_error_weight: float = 0.0,
        pessimism: float | Schedule | None = None,
        bootstrap_entropy: float = 0.0,
        max_grad_norm: float | None = 10,
        compile: bool = False,
        action_noise: ActionNoise | None = None,
        use_sde: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde=True: gSDE is not supported, leave it out. action_noise adds noise to Box actions")
        env = maybe_make_env(env, verbose)
        if env is None and _init_setup_model:
            raise ValueError('env=None: give an environment, or the id of one, such as "CartPole-v1"')
        if env is not None:  # None while a model is loaded
            check_spaces(env.observation_space, env.action_space)
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            # Copies: SB3 writes into them, and the user's must stay as they were (GH#155)
            replay_buffer_kwargs=dict(replay_buffer_kwargs or {}),
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs=dict(policy_kwargs or {}),
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            sde_support=False,
            supported_action_spaces=SUPPORTED_ACTIONS,
            support_multi_env=True,
        )
        self.target_update_interval = target_update_interval
        self.transition_delay = transition_delay
        self.policy_delay = policy_delay
        self.precision = precision
        self.action_precision = action_precision
        self.habit_prior = habit_prior
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_entropy = exploration_initial_entropy
        self.exploration_final_entropy = exploration_final_entropy
        self.preference = RewardPreference() if preference is None else preference
        self.preference_weight = preference_weight
        self.epistemic_weight = epistemic_weight
        self.epistemic_gamma = epistemic_gamma
        self.prediction_error_weight = prediction_error_weight
        self.pessimism = pessimism
        self.bootstrap_entropy = bootstrap_entropy
        self.max_grad_norm = max_grad_norm
        self.compile = compile
        # For updating the target net every so many steps of the environment
        self._n_calls = 0

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if isinstance(self.learning_rate, np.number):  # SB3 takes no other number of numpy than float64
            self.learning_rate = float(self.learning_rate)
        check_arguments(self)
        check_preference(self.preference)
        self.preference = copy.deepcopy(self.preference)  # It may learn, and the user's must stay as it was
        # SB3 overwrites these. A loaded model must find what the user asked for: else its n_steps could not change
        asked = self.replay_buffer_class, self.replay_buffer_kwargs
        self.replay_buffer_kwargs = dict(self.replay_buffer_kwargs)
        super()._setup_model()
        self.replay_buffer_class, self.replay_buffer_kwargs = asked

        self.preference.setup(self)
        self.policy.action_precision = float(self.action_precision)
        if callable(self.habit_prior):  # May it fail here instead of in the midst of training
            self._log_habit_prior(self.policy.obs_to_tensor(copy.deepcopy(self.observation_space).sample())[0])
        self.entropy_schedule = LinearSchedule(
            self.exploration_initial_entropy, self.exploration_final_entropy, self.exploration_fraction
        )
        self._collect_tensors()
        self._packing = Packing(self)
        self._compiled_update = CompiledUpdate(self)
        self._native_update = NativeUpdate(self)

    def _collect_tensors(self) -> None:
        """
        List the tensors that gradient steps work on: a walk through the modules at each of them would cost more than the
        update of the target.
        """
        policy = self.policy
        self.n_moves = policy.n_moves
        self.learned_parameters = [*policy.dual_parameters(), *policy.net_parameters()]
        self.target_pairs, self.average_pairs = policy.target_pairs(), policy.average_pairs()
        # Such as the statistics of batch norm, see GH issue #996
        online = [*policy.features_extractor.buffers()]
        self.target_buffers = online, [*policy.features_extractor_target.buffers()]
        self.average_buffers = online, [*policy.features_extractor_average.buffers()]

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        As :meth:`OffPolicyAlgorithm.set_env`, and goals of hindsight are rewarded by the new environment as well.

        :param env: The environment for learning a policy
        :param force_reset: Force call to ``reset()`` before training
        """
        super().set_env(env, force_reset)
        if isinstance(self.replay_buffer, HerReplayBuffer):
            self.replay_buffer.env = self.env

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:  # The environment is about to be reset
            end_returns(self.replay_buffer)
            self.preference.reset()
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        check_finite("observation at reset", self._last_obs)
        return result

    def _store_transition(self, replay_buffer, buffer_action, new_obs, reward, dones, infos) -> None:
        check_finite("observation", new_obs)
        check_finite("reward", reward)
        for info in infos:
            check_finite("terminal observation", info.get("terminal_observation", 0.0))
        rewards = reward if self._vec_normalize_env is None else self._vec_normalize_env.get_original_reward()
        self.preference.observe(new_obs, rewards, dones, infos)
        if isinstance(self.policy.transition_model, DirichletTransitions):
            assert isinstance(self._last_obs, np.ndarray)
            ends = [info.get("terminal_observation", obs) for info, obs in zip(infos, new_obs, strict=True)]
            self.policy.transition_model.count(self._last_obs, buffer_action, np.ravel(ends))
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _on_step(self) -> None:
        """Update the target net where its interval counts steps of the environment, as in DQN."""
        self._n_calls += 1
        if self.target_update_interval is not None and self._n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:
            self._update_target()

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        policy = self.policy
        if policy.n_moves != self.n_moves:  # Buffers that were moved or converted are other objects
            self._collect_tensors()
        # Switch to train mode (this affects batch norm / dropout)
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        precision = self._precision()
        if precision != "auto":
            policy.log_precision.data.fill_(math.log(float(precision)))
        head_weights = self._head_weights()
        policy.head_weights.copy_(head_weights)
        policy.pessimism.fill_(self._pessimism())
        transition_delay, policy_delay = self._delays()
        assert self.replay_buffer is not None

        logged: dict[tuple[str, ...], list[th.Tensor]] = {}
        batches = sample_transitions(self.replay_buffer, batch_size, gradient_steps, self._vec_normalize_env)
        rates_of_steps = (averaging_rate(self._n_updates + i) for i in range(1, gradient_steps + 1))
        target_entropy, *rates = th.tensor([self._target_entropy(), *rates_of_steps], device=self.device).unbind()
        for i, (batch, rate) in enumerate(zip(batches, rates, strict=True), self._n_updates):
            log_preference = self.preference.log_prob(batch.n_step)
            check_log_prob(self.preference, log_preference, batch.n_step.rewards)
            log_habit_prior = self._log_habit_prior(batch.one_step.observations)
            learns = i % transition_delay == 0, i % policy_delay == 0
            inputs = UpdateInputs(batch, log_preference, log_habit_prior, head_weights, target_entropy, rate, *learns)
            names, terms = self._native_update(inputs, again=bool(logged))
            logged.setdefault(names, []).append(terms)

        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/target_entropy", float(target_entropy))
        for name, value in means(logged).items():
            self.logger.record(f"train/{name}", value)

    def _update(self, inputs: UpdateInputs) -> tuple[tuple[str, ...], th.Tensor]:
        """
        One gradient step, which ``CompiledUpdate`` and ``NativeUpdate`` do as well.

        :param inputs: all that it reads beside the nets
        :return: names of what is logged, and the values, shape (len(names),)
        :raises ValueError: if a loss is not finite, before it reaches the parameters
        """
        names, terms, gradients = self._gradients(self.learned_parameters, inputs)
        check_losses(names, terms)
        self._optimize(gradients, inputs.averaging_rate)
        return names, terms

    def _gradients(
        self, parameters: Sequence[th.Tensor], inputs: UpdateInputs
    ) -> tuple[tuple[str, ...], th.Tensor, list[th.Tensor | None]]:
        """
        :param parameters: all that is learned, the dual parameters first
        :param inputs: all that the losses depend on beside the nets
        :return: names of what is logged, the values, and the gradients of the sum of the losses, whose parameters meet in the
            features extractor alone
        """
        losses, samples = self._losses(inputs)
        loss = th.stack([term.reshape(()) for term in losses.values()]).sum()
        free = [parameter for parameter in parameters if parameter.requires_grad]
        found = iter(th.autograd.grad(loss, free, allow_unused=True))
        gradients = [next(found) if parameter.requires_grad else None for parameter in parameters]
        weight = inputs.head_weights[1]
        scalars = {"loss": loss, **losses, "precision": self.policy.precision, "epistemic_weight": weight}
        return *summary(scalars, samples), gradients

    def _losses(self, inputs: UpdateInputs) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
        """
        :param inputs: a batch of transitions and what goes with it
        :return: the losses, scalars by name, and what is logged of each sample, shapes (batch, 1) or (batch,)
        """
        policy, batch, head_weights = self.policy, inputs.batch, inputs.head_weights
        pairs = batch.one_step
        next_features, outcome = policy.observe(pairs.observations, pairs.next_observations, batch.has_successor)
        features, actions = policy.features(pairs.observations), policy.encode(pairs.actions)

        losses: dict[str, th.Tensor] = {}
        samples: dict[str, th.Tensor] = {}

        # World model: the likelihood of what happened, the surprise it was and what is not known about it. It reads the
        # features and does not shape them: what is easy to predict is not what tells good actions from bad ones
        if inputs.learns_transitions:
            prediction = policy.predict_outcome(features.detach(), actions)
            weights = batch.has_successor * policy.bootstrap_weights(len(actions))
            losses["transition_loss"] = (prediction.nll(outcome) * weights).mean()
            samples["prediction_error"] = prediction.error(outcome) * batch.has_successor
            samples["information_gain"] = policy.novelty_of(prediction)

        # Value net: bootstrap the EFE of the action taken, part by part, as far as it is known
        target = self._efe_target(inputs, next_features, samples.get("information_gain"), samples.get("prediction_error"))
        n_known = target.shape[1]
        efe = policy.efe(features)
        taken = efe(actions)[..., :n_known]
        # The EFE is an expectation, and that is where squares are least: a rare failure of a large error is no outlier
        errors = F.mse_loss(taken, target.expand_as(taken), reduction="none")
        losses["value_loss"] = (errors.mean(dim=1) * head_weights[:n_known]).sum()
        samples["extrinsic_value"] = -target[:, 0]
        if inputs.learns_transitions:
            samples["epistemic_value"] = -target[:, 1]

        # Policy: the variational free energy under what the value nets make of G
        if inputs.learns_policy:
            habit = policy.habit(features)
            divergence = habit.divergence(efe, head_weights, policy.precision, inputs.log_habit_prior)
            # In units of G if the precision moves: the policy's gradient would grow with it, and clipping shrink the others'
            losses["policy_loss"] = (divergence / policy.precision if self.precision == "auto" else divergence).mean()
            samples["entropy"] = habit.entropy()
            if self.precision == "auto":
                losses["precision_loss"] = fe.precision_loss(policy.log_precision, samples["entropy"], inputs.target_entropy)
            if inputs.learns_transitions:
                samples["vfe"] = samples["prediction_error"] + divergence
        if self.epistemic_weight == "auto" and inputs.learns_transitions:
            gains = policy.novelty_of_actions(features), policy.novelty_of_actions(features, target=True)
            scaled = [policy.novelty_scale.scaled(gain) for gain in gains]
            losses["epistemic_weight_loss"] = fe.epistemic_weight_loss(policy.log_epistemic_weight, *scaled)
        return losses, samples

    def _precision(self) -> float | str:
        """
        :return: the precision at present, or "auto"
        """
        if isinstance(self.precision, str):
            return self.precision
        return value_at(self._current_progress_remaining, "precision", self.precision, MIN_PRECISION)

    def _pessimism(self) -> float:
        """
        :return: share of the worst value net at present
        """
        pessimism = self.pessimism
        if pessimism is None:
            # The policy of Box actions goes where a net's gradient leads, and so to its errors
            pessimism = 1.0 if isinstance(self.policy.action_model, GaussianActions) else PESSIMISM
        return value_at(self._current_progress_remaining, "pessimism", pessimism, 0.0, 1.0)

    def _log_habit_prior(self, observations: PyTorchObs) -> th.Tensor | float:
        """
        :param observations: as the replay buffer returns them
        :return: log E(a|s), shape (1, n_actions) or (batch, 1, n_actions), or 0 where there is none
        """
        n_actions = int(getattr(self.action_space, "n", 0))
        images = self.policy.normalize_images
        return log_habit_prior(self.habit_prior, n_actions, observations, self.observation_space, images, self.device)

    def _delays(self) -> tuple[int, int]:
        """
        :return: the transition net learns once every so many gradient steps, 1 if there is none, and the policy once every so
            many
        """
        # With Box actions most of the arithmetic of a gradient step is theirs, and no task that was measured needed all of it
        by_default = (4, 2) if isinstance(self.policy.action_model, GaussianActions) else (1, 1)
        transition_delay = by_default[0] if self.transition_delay is None else self.transition_delay
        policy_delay = by_default[1] if self.policy_delay is None else self.policy_delay
        return transition_delay if self.policy.transition_net is not None else 1, policy_delay

    def _target_entropy(self) -> float:
        """
        :return: what an automatic precision aims at, in nats
        """
        actions = self.policy.action_model
        if isinstance(actions, GaussianActions):
            return -float(actions.code_dim)
        return self.entropy_schedule(self._current_progress_remaining) * actions.max_entropy

    def _head_weights(self) -> th.Tensor:
        """
        :return: weights in G of the value net's heads, at least 0, shape (len(VALUE_HEADS),). The preference weight is part of
            the extrinsic target, beside the policy's entropy, and the sign of the prediction error's part of its own. A head
            also learns in proportion to its weight, so that what does not act does not shape the shared layers.
        """
        learns = self.policy.can_gain_information
        automatic = learns and self.epistemic_weight == "auto"
        weight = 0.0
        if learns and not automatic:
            weight = value_at(self._current_progress_remaining, "epistemic_weight", self.epistemic_weight, 0.0)
        weights = th.tensor([1.0, weight, abs(self.prediction_error_weight)], device=self.device)
        if automatic:
            weights[1:2] = self.policy.log_epistemic_weight.detach().exp()
        return weights

    @th.no_grad()
    def _efe_target(
        self,
        inputs: UpdateInputs,
        next_features: th.Tensor,
        information_gain: th.Tensor | None,
        prediction_error: th.Tensor | None,
    ) -> th.Tensor:
        """
        Bellman targets of the value net's heads. The extrinsic part has n-step returns; the other two are known of the
        pair (s_t, a_t) alone and have one step.

        :param inputs: a batch of transitions and what goes with it
        :param next_features: features of s_{t+1}, shape (batch, features_dim)
        :param information_gain: of (s_t, a_t), shape (batch, 1), or None if the world model does not learn
        :param prediction_error: of (s_t, a_t, s_{t+1}), shape (batch, 1), or None
        :return: shape (batch, len(VALUE_HEADS)), or (batch, 1), of the extrinsic part, without these
        """
        one_step, n_step = inputs.batch.one_step, inputs.batch.n_step
        if n_step.rewards is one_step.rewards:
            next_efe, last_entropy = self._next_efe(next_features)
            last_efe = next_efe
        else:
            last_features = self.policy.features(n_step.next_observations, target=True)
            both_efe, both_entropy = self._next_efe(th.cat([next_features, last_features]))
            (next_efe, last_efe), (_, last_entropy) = both_efe.chunk(2), both_entropy.chunk(2)
        discount = n_step.discounts if n_step.discounts is not None else self.gamma
        soft_efe = last_efe[:, :1] - self.bootstrap_entropy / self.policy.precision * last_entropy
        extrinsic = fe.bootstrapped_efe(-self.preference_weight * inputs.log_preference, n_step.dones, discount, soft_efe)
        if information_gain is None or prediction_error is None:
            return extrinsic
        next_epistemic = next_efe[:, 1:2]
        elsewhere = self.policy.mean_epistemic_efe(next_epistemic)
        novelty = self.policy.novelty_scale(information_gain)
        # This head is a cost, of which the worst of the value nets is the highest: where surprise is sought, its negative
        surprise = prediction_error if self.prediction_error_weight >= 0.0 else -prediction_error
        return th.cat(
            [
                extrinsic,
                fe.continuing_efe(-novelty, one_step.dones, self.epistemic_gamma, next_epistemic, elsewhere),
                fe.bootstrapped_efe(surprise, one_step.dones, self.gamma, next_efe[:, 2:]),
            ],
            dim=1,
        )

    def _next_efe(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param features: of a next state, shape (batch, features_dim)
        :return: the EFE of following the policy from there, (batch, len(VALUE_HEADS)), and the policy's entropy, (batch, 1)
        """
        habit = self.policy.habit(features)
        return habit.expected_efe(self.policy.efe(features, target=True)), habit.entropy()

    def _optimize(self, gradients: list[th.Tensor | None], averaging_rate: th.Tensor) -> None:
        """
        :param gradients: of the learned parameters
        :param averaging_rate: share of the newest policy net in the average, shape ()
        """
        packed = self._packing.optimize(gradients, self.max_grad_norm)
        if packed is None:
            for parameter, gradient in zip(self.learned_parameters, self._clipped(gradients), strict=True):
                parameter.grad = gradient
            self.policy.optimizer.step()
        online, average = packed.average_pairs if packed else self.average_pairs
        with th.no_grad():
            th._foreach_lerp_(average, online, [averaging_rate] * len(average))
            for buffer, copied in zip(*self.average_buffers, strict=True):
                copied.copy_(buffer)
        if self.target_update_interval is None:
            self._update_target(packed)

    def _clipped(self, gradients: list[th.Tensor | None]) -> list[th.Tensor | None]:
        """
        :param gradients: of the learned parameters
        :return: the same, of which those of the nets have a Euclidean norm of at most ``max_grad_norm`` together
        """
        n_dual = len(self.policy.dual_parameters())
        dual, nets = gradients[:n_dual], gradients[n_dual:]
        return gradients if self.max_grad_norm is None else [*dual, *clipped(nets, self.max_grad_norm)]

    def _update_target(self, packed: PackedNets | None = None) -> None:
        """
        :param packed: the nets, if they are in one piece
        """
        online, target = packed.target_pairs if packed else self.target_pairs
        with th.no_grad():
            th._foreach_lerp_(target, online, self.tau)
            for buffer, copied in zip(*self.target_buffers, strict=True):
                copied.copy_(buffer)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        for group in self.policy.optimizer.param_groups:
            group["lr"] *= group.get("lr_multiplier", 1.0)  # An optimizer of the user's has none

    def learn(
        self: SelfDAI,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "DAI",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDAI:
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    def _excluded_save_params(self) -> list[str]:
        made_at_setup = ["learned_parameters", "target_pairs", "average_pairs", "target_buffers", "average_buffers", "n_moves"]
        return [*super()._excluded_save_params(), *made_at_setup, "_compiled_update", "_native_update", "_packing"]

    def get_parameters(self) -> dict[str, dict]:
        """
        :return: state of the policy and of its optimizer, by name
        """
        self.policy.unpack()  # A state would be pickled with all the memory that it is a part of
        return super().get_parameters()

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        As :meth:`sb3_dai.saving.CrashSafeSaving.load_replay_buffer`, and the preference must be able to read the buffer.

        :param path: Path to the pickled replay buffer.
        :param truncate_last_traj: With a ``HerReplayBuffer``, whether the last trajectory was finished
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if the file is damaged, or the buffer does not fit the model; it then keeps its own
        """
        before = self.replay_buffer
        super().load_replay_buffer(path, truncate_last_traj)
        try:
            self.preference.setup(self)
        except ValueError:
            self.replay_buffer = before
            raise

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
