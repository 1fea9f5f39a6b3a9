"""Saves that survive a crash, and loads that name what is wrong with a file before anything in it is unpickled."""

import copy
import io
import json
import pathlib
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file, open_path
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from stable_baselines3.common.utils import get_device

from sb3_dai import legacy
from sb3_dai.files import atomic_write, write_json

__all__ = ["CrashSafePolicy", "CrashSafeSaving", "atomic_write", "write_json"]

SelfCrashSafeSaving = TypeVar("SelfCrashSafeSaving", bound="CrashSafeSaving")
SelfCrashSafePolicy = TypeVar("SelfCrashSafePolicy", bound="CrashSafePolicy")


def _saved_by(data: Any) -> str:
    """
    Tell which algorithm saved a zip from the clear text that SB3 writes beside the pickled policy class.

    :param data: the parsed ``data`` member of the zip
    :return: "DAI", or a phrase for an error message
    """
    policy = data.get("policy_class") if isinstance(data, dict) else None
    if not isinstance(policy, dict):
        return "something other than Stable-Baselines3"
    module = str(policy.get("__module__"))
    # The argument, for a policy class of the user's; the module, for a save that excludes the argument
    if "epistemic_weight" in data or module.startswith("sb3_dai."):
        return "DAI"
    name = re.match(r"<function (\w+)\.", str(policy.get("__init__")))
    policy_class = f"{module}.{name[1]}" if name else module
    package = re.match(r"(?:stable_baselines3|sb3_contrib)\.(\w+)\.", module)
    if not package:
        return f"another algorithm (its policy class is {policy_class})"
    # The policies of `common` belong to all on-policy algorithms
    algorithm = "PPO, A2C or another on-policy algorithm" if package[1] == "common" else package[1].upper()
    return f"{algorithm}, probably (its policy class is {policy_class})"


@contextmanager
def _open_model(path: str | pathlib.Path | io.BufferedIOBase) -> Iterator[io.BufferedIOBase]:
    """
    Open a zip-file for loading, once its checksums and its origin have been found good. Nothing is unpickled.

    :param path: path to the file, or a file-like
    :return: the open file, so that what is loaded is what was checked
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file is damaged or is not a model saved by DAI
    """
    file = open_path(path, "r", suffix="zip")
    name = getattr(file, "name", file)
    try:
        try:
            with zipfile.ZipFile(file) as archive:
                corrupt = archive.testzip()
                if corrupt is not None:
                    raise zipfile.BadZipFile(f"the member {corrupt!r} does not match its checksum")
                data = json.loads(archive.read("data")) if "data" in archive.namelist() else None
                # The .pth members are zip-files, too: one of them is what zipfile finds in a truncated model
                if data is None and min((info.header_offset for info in archive.infolist()), default=0) > 0:
                    raise zipfile.BadZipFile("its end is missing")
        # zipfile and json answer damaged bytes with half a dozen types, none of which names the file
        except Exception as error:
            raise ValueError(
                f"{name} is not a zip-file or is damaged ({error}): copy it again from where it was saved, "
                "or load an earlier checkpoint."
            ) from error
        origin = _saved_by(data)
        if origin != "DAI":
            raise ValueError(
                f"{name} is not a DAI model: it was saved by {origin}. Load it with the class that saved it, "
                "or give the zip-file that DAI.save wrote (a file of policy.save is for the load of the policy's class)."
            )
        yield file
    finally:
        if file is not path:
            file.close()


def read_parameters(path: str | pathlib.Path | io.BufferedIOBase, device: th.device | str = "auto") -> TensorDict:
    """
    Read the parameters of a saved model, and nothing but tensors.

    :param path: path to the file, or a file-like
    :param device: where they are to be
    :return: states of the policy and its optimizer, by name
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file is damaged or is not a model saved by DAI
    """
    with _open_model(path) as file:
        return load_from_zip_file(file, device=device, load_data=False)[1]


def _check_same(file: str, key: str, theirs: Any, ours: Any, remedy: str) -> None:
    """
    :param file: of a replay buffer
    :param key: a property
    :param theirs: of the buffer in the file
    :param ours: of the model, or of its buffer
    :param remedy: how to load a model with the buffer's
    :raises ValueError: if they differ
    """
    if theirs != ours:
        raise ValueError(
            f"The replay buffer in {file} does not fit the model: {key} is {theirs} in the file and {ours} in the model. Load "
            f"the model {remedy}, or train without it."
        )


class CrashSafeSaving(OffPolicyAlgorithm):
    """
    Off-policy algorithm whose files are written atomically and checked before they are loaded.
    Arguments are those of ``OffPolicyAlgorithm``.
    """

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save all the attributes of the object and the model parameters in a zip-file, atomically.

        :param path: path to the file (or a file-like) where the rl agent should be saved
        :param exclude: name of parameters that should be excluded in addition to the default ones
        :param include: name of parameters that might be excluded but should be included anyway
        """
        with atomic_write(path, "zip") as file:
            super().save(file, exclude, include)

    @classmethod
    def load(
        cls: type[SelfCrashSafeSaving],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs,
    ) -> SelfCrashSafeSaving:
        """
        Create a new model from a zip-file. It holds pickled objects: load only files you trust.

        :param path: path to the file (or a file-like) where to load the agent from
        :param env: the new environment to run the loaded model on, or its id (None if it is only to predict)
        :param device: Device on which the code should run.
        :param custom_objects: Dictionary of objects that replace those of the file, which are then not unpickled
        :param print_system_info: Whether to print system info from the saved model and the current system info
        :param force_reset: Force call to ``reset()`` before training
        :param kwargs: extra arguments to change the model when loading
        :return: new model instance with loaded parameters
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if the file is damaged, is not a model saved by DAI, or does not fit the environment
        """
        if isinstance(env, str):
            env = maybe_make_env(env, verbose=0)
        with _open_model(path) as file, legacy.old_modules():
            return super().load(file, env, device, custom_objects, print_system_info, force_reset, **kwargs)

    def set_parameters(
        self,
        load_path_or_dict: str | pathlib.Path | io.BufferedIOBase | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        Load parameters, of the nets and the optimizer, into this model. Nothing but tensors is read from a zip-file.

        :param load_path_or_dict: path to a saved model (or a file-like), or what ``get_parameters`` returned
        :param exact_match: Whether all parameters must be given
        :param device: Device on which the code should run.
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if the file is damaged, is not a model saved by DAI, or does not match the model
        """
        is_dict = isinstance(load_path_or_dict, dict)
        # A copy: torch takes over the optimizer's tensors, which may be those of another model
        given = copy.deepcopy(load_path_or_dict) if is_dict else read_parameters(load_path_or_dict, device)  # type: ignore[arg-type]
        super().set_parameters(self._converted(given), exact_match, device)  # type: ignore[arg-type]

    def _converted(self, parameters: TensorDict) -> TensorDict:
        """
        :param parameters: of a saved model
        :return: the same under the names of this version
        """
        return parameters

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the replay buffer as a pickle file, atomically.

        :param path: Path to the file (or a file-like) where the replay buffer should be saved.
        """
        with atomic_write(path, "pkl") as file:
            super().save_replay_buffer(file)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer from a pickle file: load only files you trust.

        :param path: Path to the pickled replay buffer.
        :param truncate_last_traj: With a ``HerReplayBuffer``, whether the last trajectory was finished (and is
            truncated) instead of being continued.
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if the file is damaged, holds no replay buffer, or one that does not fit the model
        """
        # SB3 puts what it unpickles into the model unseen: let it do so in a copy, and a bad file costs nothing
        loader = copy.copy(self)
        loader.replay_buffer = None
        file = open_path(path, "r", self.verbose, suffix="pkl")
        name = getattr(file, "name", file)
        try:
            super(CrashSafeSaving, loader).load_replay_buffer(file, truncate_last_traj)
        # Unpickling damaged bytes can raise anything
        except Exception as error:
            if isinstance(error, MemoryError) or isinstance(loader.replay_buffer, ReplayBuffer):
                raise
            found = "no complete pickle" if loader.replay_buffer is None else f"a {type(loader.replay_buffer).__name__}"
            raise ValueError(
                f"{name} holds {found} instead of a replay buffer ({error!r}): give a file that save_replay_buffer "
                "wrote, copied whole (rewind a file object first)."
            ) from error
        finally:
            if file is not path:
                file.close()
        ours, loaded = self._own_buffer(), loader.replay_buffer
        assert loaded is not None
        # How long returns are, and their discount, is for the model to say
        if {type(ours), type(loaded)} <= {ReplayBuffer, NStepReplayBuffer} and not loaded.optimize_memory_usage:
            rows = {key: value for key, value in vars(loaded).items() if key not in ("n_steps", "gamma")}
            loaded = copy.copy(ours)
            vars(loaded).update(rows)
        for key in ("observation_space", "action_space", "n_envs"):
            _check_same(name, key, getattr(loaded, key), getattr(self, key), "with the environments that filled the buffer")
        n_steps = getattr(loaded, "n_steps", 1)
        asked = self.replay_buffer_kwargs.get("n_steps", n_steps) if ours is None else getattr(ours, "n_steps", 1)
        _check_same(name, "n_steps", n_steps, asked, f"with n_steps={n_steps}")
        before, self.replay_buffer = self.replay_buffer, loaded
        try:
            self._check_buffer()
        except ValueError:
            self.replay_buffer = before
            raise

    def _check_buffer(self) -> None:
        """
        :raises ValueError: if the model cannot use its replay buffer, and is to keep the one before
        """

    def _own_buffer(self) -> ReplayBuffer | None:
        """
        :return: the model's buffer or, if it has none, an empty one of the kind that it would be given, None if that is for
            a class of the user's to say
        """
        buffer_class, kwargs = self.replay_buffer_class, self.replay_buffer_kwargs
        if self.replay_buffer is not None:
            return self.replay_buffer
        if buffer_class is None and isinstance(self.observation_space, spaces.Dict):
            buffer_class = DictReplayBuffer
        elif buffer_class is None and self.n_steps > 1:
            buffer_class, kwargs = NStepReplayBuffer, {**kwargs, "n_steps": self.n_steps, "gamma": self.gamma}
        elif buffer_class is None:
            buffer_class = ReplayBuffer
        if buffer_class not in (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer):
            return None
        setting = dict(n_envs=self.n_envs, optimize_memory_usage=self.optimize_memory_usage, **kwargs)
        return buffer_class(1, self.observation_space, self.action_space, self.device, **setting)


class CrashSafePolicy(BasePolicy):
    """
    Policy whose file is written atomically. Arguments are those of ``BasePolicy``.
    """

    @classmethod
    def load(cls: type[SelfCrashSafePolicy], path: str, device: th.device | str = "auto") -> SelfCrashSafePolicy:
        """
        Load a policy that was saved alone, also by version 0.1.

        :param path: path to the file (or a file-like)
        :param device: Device on which the policy should be loaded.
        :return: the policy
        """
        device = get_device(device)
        with legacy.old_modules():
            saved = th.load(path, map_location=device, weights_only=False)
        policy = cls(**legacy.upgrade_policy(saved["data"]))
        policy.load_state_dict(saved["state_dict"])
        return policy.to(device)

    def save(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the policy alone to a given location, atomically.

        :param path: where to write; no suffix is added
        """
        with atomic_write(path) as file:
            super().save(file)  # type: ignore[arg-type]
