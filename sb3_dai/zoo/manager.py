"""The Zoo's manager of experiments, with what it trips over mended for DAI."""

import functools
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
from gymnasium import spaces
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_dai.dai import DAI
from sb3_dai.zoo.entries import entry_name, evaluated, hyperparams_module, load_entries
from sb3_dai.zoo.search import sample_dai_params
from sb3_dai.zoo.training_time import TrainingTime


def checkpoint_buffer(agent: Path) -> Path:
    """
    :param agent: path of a checkpoint, or of another saved agent
    :return: where the replay buffer is that was saved with it
    """
    numbered = re.fullmatch(r"(.+)_(\d+_steps)", agent.stem)
    name = f"{numbered[1]}_replay_buffer_{numbered[2]}.pkl" if numbered else "replay_buffer.pkl"
    return agent.with_name(name)


class DAIExperimentManager(ExperimentManager):
    """
    The Zoo's manager for ``--algo dai``. Arguments are those of the Zoo's.
    """

    action_space: spaces.Space

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        As the Zoo's, but expressions are evaluated whatever the file, other versions of an environment share its entry,
        MiniGrid has one as Atari has, which fall back on ``default``, and the first trial of a study has its number.

        :return: hyperparameters, and the same as they are written
        """
        entries, env_id = load_entries(self.config), self.env_name.gym_id
        family = "atari" if self._is_atari else "minigrid" if self.is_minigrid(env_id) else None
        name = entry_name(env_id, entries, family)
        # A name that begins with a dot is relative to some package
        where = str(Path(self.config).resolve()) if self.config.startswith(".") else self.config
        # A copy: the Zoo writes into the entry
        self.config = hyperparams_module(f"{where}, entry {name}", {env_id: dict(entries[name])})
        if self.trial_id == 0 and self.storage and self.study_name:  # The Zoo takes 0 for none
            self.custom_hyperparams = {
                **self.load_trial(self.storage, self.study_name, 0),
                **(self.custom_hyperparams or {}),
            }
        hyperparams, saved = super().read_hyperparameters()
        hyperparams.update(evaluated(hyperparams))
        return hyperparams, saved

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """
        :param n_envs: number of environments
        :param eval_env: whether it is for evaluation
        :param no_log: whether to leave out the log of episodes
        :return: as the Zoo's
        """
        env = super().create_envs(n_envs, eval_env, no_log)
        self.action_space = env.action_space
        return env

    def create_callbacks(self) -> None:
        """
        As the Zoo's, but checkpoints carry the replay buffer if ``--save-replay-buffer`` asks for it, and training says
        how long it will take.
        """
        super().create_callbacks()
        for callback in self.callbacks:
            if isinstance(callback, CheckpointCallback):
                callback.save_replay_buffer = self.save_replay_buffer
        if self.verbose > 0:
            self.callbacks.append(TrainingTime())

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        """
        As the Zoo's, but with the buffer of the checkpoint, and a line that says what starts again.

        :param hyperparams: of the command
        :param env: to train in
        :return: the agent
        """
        agent = Path(self.trained_agent)
        places = checkpoint_buffer(agent), agent.with_name("replay_buffer.pkl")
        found = next((file for file in places if file.is_file()), None)
        # The Zoo knows the second name alone, and would read a large file twice
        with patch.object(DAI, "load_replay_buffer"):
            model = super()._load_pretrained_agent(hyperparams, env)
        assert isinstance(model, DAI)
        if found is not None:
            model.load_replay_buffer(found, truncate_last_traj=self.truncate_last_trajectory)
        assert model.replay_buffer is not None
        rows = model.replay_buffer.size() * model.n_envs
        buffer = f"has {rows:,} transitions of {found.name}" if found else "is empty (--save-replay-buffer saves it)"
        print(
            f"Going on from {agent.name}, trained for {model.num_timesteps:,} steps: nets and optimizer go on, the count of "
            f"steps and all schedules start again, with {model.learning_starts} random steps. The replay buffer {buffer}"
        )
        return model

    def hyperparameters_optimization(self) -> None:
        """
        As the Zoo's, which does not tell the sampler what actions there are.

        :raises ValueError: if the policy has exact beliefs
        """
        if self._hyperparams["policy"] == "HiddenStatesPolicy":
            raise ValueError("--optimize: nets are drawn in the place of policy_kwargs, which HiddenStatesPolicy needs")
        sampler = functools.partial(sample_dai_params, action_space=self.action_space)
        with patch.dict(HYPERPARAMS_SAMPLER, {self.algo: sampler}):
            super().hyperparameters_optimization()

    def objective(self, trial: optuna.Trial) -> float:
        """
        The Zoo prunes a trial whose training fails, but one that draws hyperparameters which do not go with the entry of
        the environment (an automatic precision with a ``habit_prior``) would end the search. Such a trial is pruned.
        If the entry alone makes no agent, its error ends the search.

        :param trial: the trial
        :return: its score
        """
        try:
            return super().objective(trial)
        except (AssertionError, NotImplementedError, ValueError) as error:
            env = self.create_envs(1, no_log=True)
            try:
                DAI(env=env, device=self.device, **self._hyperparams)
            finally:
                env.close()
            print(f"Pruned: {error}")
            raise optuna.TrialPruned(str(error)) from error
