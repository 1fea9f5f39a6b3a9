"""Deep active inference as an off-policy algorithm of Stable-Baselines3."""

import copy
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule, TensorDict

from sb3_dai import legacy
from sb3_dai.acceleration import ChosenStep, one_thread
from sb3_dai.checks import SUPPORTED_ACTIONS, check_arguments, check_log_prob, check_spaces
from sb3_dai.efe import EpistemicTerm, PredictionErrorTerm, PreferenceTerm, Term, check_terms
from sb3_dai.learning.batch import Batch
from sb3_dai.learning.coefficients import Coefficients, Hyperparameters, coefficients_at
from sb3_dai.learning.schedules import EPISTEMIC_WEIGHT, LEARNING_RATE
from sb3_dai.learning.sequences import check_sequences, sampled
from sb3_dai.learning.step import EagerStep, UpdateStep, means, polyak
from sb3_dai.policy import CnnPolicy, DAIPolicy, MlpPolicy, MultiInputPolicy
from sb3_dai.policy_hidden_states import HiddenStatesPolicy
from sb3_dai.policy_recurrent import CnnLstmPolicy, MlpLstmPolicy, MultiInputLstmPolicy, RecurrentPolicy
from sb3_dai.preferences.base import Preference, PreferenceContext, RewardPreference, check_preference
from sb3_dai.preferences.habit import HabitPrior, check_habit_prior, log_habit_prior
from sb3_dai.rollouts import Rollouts
from sb3_dai.world_model.given_tables import with_tables_of

DEFAULTS: dict[str, Any] = dict(
    learning_rate=LEARNING_RATE, batch_size=64, tau=0.05, train_freq=1, gradient_steps=4, pessimism=None
)
"""Of arguments that are ``None``, unless the policy has others."""

SelfDAI = TypeVar("SelfDAI", bound="DAI")


class DAI(Rollouts):
    """
    Deep active inference.

    Three nets learn from a replay buffer: a world model (an ensemble), critics that bootstrap the expected free energy (EFE)
    ``G``, and a policy that minimises the variational free energy, its divergence from ``softmax(-precision G)``. The one-step
    EFE of an action is

    ``g(s,a) = -preference_weight log p~(o') - epistemic_weight IG(s,a) + prediction_error_weight PE(s,a)``

    with the prior preference log p~, by default the reward, the information gain IG about the world model and its prediction
    error PE. Each term that is not off has its own head in the critics (:mod:`sb3_dai.efe`).

    Papers: van der Himst & Lanillos 2020 (arXiv:2009.03622), Millidge 2019 (arXiv:1907.03876), Tschantz et al. 2020
    (arXiv:2002.12636). docs/algorithm.md has the equations and the special cases.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, and with a memory for worlds whose state is
        hidden MlpLstmPolicy, CnnLstmPolicy, MultiInputLstmPolicy)
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param learning_rate: The learning rate, it can be a function of the current progress remaining (from 1 to 0).
        By default it falls linearly from 2e-3 to 2e-4, and with a memory to 0.
    :param buffer_size: size of the replay buffer
    :param learning_starts: how many steps of random actions to collect before learning starts
    :param batch_size: Minibatch size for each gradient update, 64 by default. With a memory it is the number of sequences, 4
        by default, and 16 with exact beliefs.
    :param tau: the soft update coefficient of the targets ("Polyak update", between 0 and 1), 0.05 by default, and 0.1 with
        exact beliefs
    :param gamma: the discount factor
    :param train_freq: Update the model every ``train_freq`` steps. Alternatively pass a tuple of frequency and unit
        like ``(5, "step")`` or ``(2, "episode")``. 1 by default, and 2 with exact beliefs.
    :param gradient_steps: How many gradient steps to do after each rollout (see ``train_freq``).
        Set to ``-1`` to do as many gradient steps as steps in the environment during the rollout. 4 by default, 2 with a
        memory, and 1 with exact beliefs.
    :param action_noise: the action noise type (None by default), for ``Box`` actions: added to the policy's own
    :param replay_buffer_class: Replay buffer class to use. If ``None``, it will be automatically selected. A class of your own
        is asked for each batch as by DQN: its samples need observations, actions, next_observations, dones and rewards. n-step
        returns must come from a class derived from ``NStepReplayBuffer``.
    :param replay_buffer_kwargs: Keyword arguments to pass to the replay buffer on creation
    :param optimize_memory_usage: Enable a memory efficient variant of the replay buffer
        at a cost of more complexity (it also needs ``replay_buffer_kwargs=dict(handle_timeout_termination=False)``).
    :param n_steps: Length of the returns that the extrinsic head learns from. The world model always learns from
        one-step pairs.
    :param target_update_interval: update the targets every so many environment steps.
        ``None`` updates them after each gradient step.
    :param policy_delay: the policy net and an automatic precision learn once every so many gradient steps, as in TD3. ``None``
        is every second one for ``Box`` actions without a memory, and each one for others.
    :param max_grad_norm: The maximum value for the gradient clipping, ``None`` for no clipping
    :param preference: prior preference log p~(o') of the extrinsic term, an object of :mod:`sb3_dai.preferences`, of which the
        model keeps a copy. By default it is the reward; ``GaussianPreference`` needs none, ``LearnedPreference`` learns what
        the observations of good episodes are.
    :param preference_weight: weight of the extrinsic term
    :param epistemic_weight: weight of the epistemic term, it can be a function of the current progress remaining (from 1
        to 0), or "auto" to raise it while the policy gains less information than a slow copy of it would. By default it
        falls linearly from 0.6 to 0 at three quarters of training. The information gain is in units of the highest running
        mean it had, so that it fades as the world model learns.
    :param prediction_error_weight: weight of the prediction error: positive avoids surprise, negative seeks it
    :param precision: inverse temperature of the EFE in the policy's free energy: a positive number, a function of the
        current progress remaining (from 1 to 0) that returns one, or "auto" to learn it from ``target_entropy``
    :param target_entropy: the policy's entropy that an automatic precision aims at, in nats: a number, a function of the
        current progress remaining (from 1 to 0), or "auto", which is minus the number of dimensions for ``Box`` actions and
        falls from 0.7 to 0.2 of the uniform policy's over the first half of training for others
    :param pessimism: share of the worst critic, the rest being that of their average, in all terms but the epistemic one, for
        which they are averaged. It can be a function of the current progress remaining (from 1 to 0). By default it rises
        linearly from 0 to 1 over training, and is 1 for ``Box`` actions and with a memory.
    :param bootstrap_entropy: share of the policy's entropy in the extrinsic target: 1 is a soft value, 0 a plain one.
        A soft value pays for lasting, which suits tasks that do so too.
    :param habit_prior: E(a|s), what actions the agent is used to before it weighs their EFE: its policy is to be
        E(a|s) softmax(-precision G(s,.)), normalised. Probabilities of each action, shape (n_actions,), or a function
        (or ``nn.Module``, on the device of the model) from a batch of observations, as features extractors get them, to
        probabilities, shape (batch, n_actions). ``None`` is a uniform one. For ``Discrete`` actions and a precision that
        is not "auto".
    :param backend: what takes the gradient steps: "eager" (torch, operation by operation), "native" (a library that
        installation makes), "compile" (``torch.compile``), or "auto" for the fastest that this agent allows in this training
    :param stats_window_size: Window size for the rollout logging, specifying the number of episodes to average
        the reported success rate, mean episode length, and mean reward over
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation, see
        :class:`sb3_dai.policy.DAIPolicy`
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used), 2 for
        debug messages
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) on which the code should be run.
        Setting it to auto, the code will be run on the GPU if possible.
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    :param renamed: arguments of earlier versions, for which an error says what has taken their place
    :raises ValueError: if an argument or a space cannot be used, or the environment or a loss is not finite
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
        "MlpLstmPolicy": MlpLstmPolicy,
        "CnnLstmPolicy": CnnLstmPolicy,
        "MultiInputLstmPolicy": MultiInputLstmPolicy,
        "HiddenStatesPolicy": HiddenStatesPolicy,
    }
    update_step_class: ClassVar[type[EagerStep]] = EagerStep
    """The definition of a gradient step, which a subclass may exchange."""

    def __init__(
        self,
        policy: str | type[DAIPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule | None = None,
        buffer_size: int = 1_000_000,  # 1e6
        learning_starts: int = 100,
        batch_size: int | None = None,
        tau: float | None = None,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] | None = None,
        gradient_steps: int | None = None,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int | None = None,
        policy_delay: int | None = None,
        max_grad_norm: float | None = 10,
        preference: Preference | None = None,
        preference_weight: float = 1.0,
        epistemic_weight: float | str | Schedule = EPISTEMIC_WEIGHT,
        prediction_error_weight: float = 0.0,
        precision: float | str | Schedule = "auto",
        target_entropy: float | str | Schedule = "auto",
        pessimism: float | Schedule | None = None,
        bootstrap_entropy: float = 0.0,
        habit_prior: HabitPrior = None,
        backend: str = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        **renamed: Any,
    ) -> None:
        legacy.check_renamed(renamed)
        env = maybe_make_env(env, verbose)
        if env is None and _init_setup_model:
            raise ValueError('env=None: give an environment, or the id of one, such as "CartPole-v1"')
        if env is not None:  # None while a model is loaded
            check_spaces(env.observation_space, env.action_space)
        policy_class = self.policy_aliases.get(policy, DAIPolicy) if isinstance(policy, str) else policy
        asked = dict(
            learning_rate=learning_rate,
            batch_size=batch_size,
            tau=tau,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            pessimism=pessimism,
        )
        given = {name: value for name, value in asked.items() if value is not None}
        settings = {**DEFAULTS, **getattr(policy_class, "learning_defaults", {}), **given}
        self.pessimism = settings.pop("pessimism")
        super().__init__(
            policy,
            env,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            gamma=gamma,
            **settings,
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
        self.policy_delay = policy_delay
        self.max_grad_norm = max_grad_norm
        self.preference = RewardPreference() if preference is None else preference
        self.preference_weight = preference_weight
        self.epistemic_weight = epistemic_weight
        self.prediction_error_weight = prediction_error_weight
        self.precision = precision
        self.target_entropy = target_entropy
        self.bootstrap_entropy = bootstrap_entropy
        self.habit_prior = habit_prior
        self.backend = backend
        # For updating the target net every so many steps of the environment
        self._n_calls = 0

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._saved_terms = legacy.upgrade(vars(self))
        if isinstance(self.learning_rate, np.number):  # SB3 takes no other number of numpy than float64
            self.learning_rate = float(self.learning_rate)
        check_arguments(self)
        check_habit_prior(self.habit_prior, self.action_space, self.precision)
        check_preference(self.preference)
        self.preference = copy.deepcopy(self.preference)  # It may learn, and the user's must stay as it was
        if issubclass(self.policy_class, HiddenStatesPolicy):
            self.policy_kwargs = with_tables_of(self.env, self.policy_kwargs)
        # SB3 overwrites these, and the terms are not the user's. A loaded model must find what the user asked for
        asked = self.replay_buffer_class, self.replay_buffer_kwargs, self.policy_kwargs
        self.replay_buffer_kwargs = dict(self.replay_buffer_kwargs)
        self.policy_kwargs = {**self.policy_kwargs, "terms": self._terms()}
        super()._setup_model()
        self.replay_buffer_class, self.replay_buffer_kwargs, self.policy_kwargs = asked
        self.term_names = [*self.policy.term_names]
        if isinstance(self.policy, HiddenStatesPolicy):
            self.policy.gamma.fill_(self.gamma)
            if self.policy.plans and not isinstance(self.preference, RewardPreference):
                raise ValueError(f"preference={self.preference!r}: plans see rewards alone. Give plans=False in policy_kwargs")
        self._check_buffer()
        if callable(self.habit_prior):  # May it fail here instead of in the midst of training
            self._log_habit_prior(self.policy.obs_to_tensor(copy.deepcopy(self.observation_space).sample())[0])
        self._step = ChosenStep(self.update_step_class(self.policy))

    def _terms(self) -> list[Term]:
        """Make the terms of the EFE that are not off, the user's last."""
        novelty = self.policy_kwargs.get("novelty", "information_gain")
        own = PreferenceTerm(self.preference_weight), EpistemicTerm(self.epistemic_weight, novelty=novelty)
        given = check_terms(self.policy_kwargs.get("terms") or [])
        # The user's may not have the name of one of DAI's own, even of one that is off
        terms = check_terms([*own, PredictionErrorTerm(self.prediction_error_weight), *given])
        return [term for term in terms if not term.is_off]

    @property
    def backend(self) -> str:
        """What takes the gradient steps: the argument, and once "auto" has chosen, its choice."""
        step = vars(self).get("_step")
        return vars(self)["backend"] if step is None or step.name is None else step.name

    @backend.setter
    def backend(self, backend: str) -> None:
        vars(self)["backend"] = backend
        if "_step" in vars(self):
            self._step = ChosenStep(self.update_step_class(self.policy))

    def _on_step(self) -> None:
        """Update the target where its interval counts steps of the environment, as in DQN."""
        self._n_calls += 1
        if self.target_update_interval is not None and self._n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:
            polyak(self.policy.target_pairs(), self.tau)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        # Switch to train mode (this affects batch norm / dropout)
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        with one_thread(self._step.is_small(batch_size)):
            step = self._update_step(gradient_steps)
            batches, coefficients = self._batches(gradient_steps, batch_size), [*self._coefficients(gradient_steps)]
            metrics = [step(batch, numbers) for batch, numbers in zip(batches, coefficients, strict=True)]

        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for numbers in coefficients[-1:]:
            self.logger.record("train/target_entropy", float(numbers.target_entropy))
        for name, value in means(metrics).items():
            self.logger.record(f"train/{name}", value)

    def _update_step(self, gradient_steps: int) -> UpdateStep:
        """
        :param gradient_steps: of this call of ``train``
        :return: what takes them
        """
        # Calls of train so far have taken as many steps of the environment each as those to come will
        per_step = (self._n_updates + gradient_steps) / max(self.num_timesteps - self.learning_starts, 1)
        n_left = per_step * max(self._total_timesteps - self.num_timesteps, 0)
        return self._step.chosen(vars(self)["backend"], n_left, self.verbose)

    def _batches(self, gradient_steps: int, batch_size: int) -> Iterator[Batch]:
        """
        :param gradient_steps: number of batches
        :param batch_size: number of transitions in each
        :return: what each gradient step learns from
        :raises ValueError: if there is no replay buffer
        """
        if self.replay_buffer is None:
            raise ValueError("replay_buffer=None: load one with load_replay_buffer, or load the model anew, before it trains")
        sampling = sampled(self.policy, self.replay_buffer, batch_size, gradient_steps, self._vec_normalize_env)
        for batch, windows in sampling:
            log_preference = self.preference.log_prob(batch.n_step)
            check_log_prob(self.preference, log_preference, batch.n_step.rewards)
            yield Batch(*batch, log_preference, self._log_habit_prior(batch.one_step.observations), windows)

    def _coefficients(self, gradient_steps: int) -> Iterator[Coefficients]:
        """
        :param gradient_steps: of this call of ``train``
        :return: the numbers of each
        """
        given = Hyperparameters(**{field.name: getattr(self, field.name) for field in fields(Hyperparameters)})
        return coefficients_at(self._current_progress_remaining, given, self.policy, self._n_updates, gradient_steps)

    def _log_habit_prior(self, observations: PyTorchObs) -> th.Tensor | float:
        """
        :param observations: as the replay buffer returns them
        :return: log E(a|s), shape (1, n_actions) or (batch, 1, n_actions), or 0 where there is none
        """
        n_actions = int(getattr(self.action_space, "n", 0))
        images = self.policy.normalize_images
        return log_habit_prior(self.habit_prior, n_actions, observations, self.observation_space, images, self.device)

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

    def _converted(self, parameters: TensorDict) -> TensorDict:
        return legacy.convert_parameters(parameters, self.policy, self._saved_terms)

    def _check_buffer(self) -> None:
        if isinstance(self.policy, RecurrentPolicy):
            size = self.policy.flattened(self.policy.belief_filter.initial(1)).shape[1]
            check_sequences(self.replay_buffer, self.n_steps, size)
        self.preference.setup(PreferenceContext(self.observation_space, self.gamma, self.replay_buffer, self.device))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_step", "_saved_terms"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
