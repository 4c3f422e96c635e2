"""What the arms of bench_libero.py learn from: collected episodes, rewards, and the agent."""

import dataclasses
import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import libero_reward_envs  # noqa: F401  # isort: skip  # before torch, see envs/rendering.py
import gymnasium as gym
import numpy as np
import torch
from demonstration_sac import (
    HalfDemonstrationsBuffer,
    HalfDemonstrationsRelabelBuffer,
    LayerNormPolicy,
)
from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from libero_reward_envs.agents.collection import collect_episodes
from libero_reward_envs.agents.prefill import fill_replay_buffer
from libero_reward_envs.agents.relabel_replay_buffer import RelabelReplayBuffer
from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.envs.tasks import find_task
from libero_reward_envs.factory import make_vec_env
from libero_reward_envs.reward_models.base import RewardModel, Transitions
from libero_reward_envs.reward_models.episode_store import EpisodeStore
from libero_reward_envs.reward_models.joined_episodes import JoinedEpisodes
from libero_reward_envs.reward_models.rrd import RRDRewardModel, RRDTrainer, fit_rrd
from libero_reward_envs.reward_models.rrd_data import SubsequenceSource
from libero_reward_envs.wrappers.reward_mix import (
    ENV_REWARD_KEY,
    MODEL_REWARD_KEY,
    TOTAL_REWARD_KEY,
)

EPISODE_STEPS = 200
COLLECTED_EPISODES = 120
COLLECTION_SEED = 0
RRD_STEPS = 5_000
# Frozen, a reward is below -0.25 wherever it was seen to be. One that goes on learning follows the
# agent: an episode solved in half of the expert's steps is worth twice as much a step.
ONLINE_STEP_COST = 0.5
SAC_ARGUMENTS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "batch_size": 256,
    "gamma": 0.98,
    "tau": 0.005,
    "ent_coef": "auto_0.1",
    "learning_starts": 1_000,
    "buffer_size": 100_000,
}
# For a task that chance does not solve; the same in all arms.
DEMONSTRATION_ARGUMENTS: dict[str, Any] = {"gamma": 0.99, "n_steps": 3}
NETWORK: dict[str, Any] = {"net_arch": [128, 128], "optimizer_kwargs": {"fused": True}}
_STD_FLOOR, _CLIP = 0.05, 5.0


def make_env_arguments(suite: str, task: int) -> dict[str, Any]:
    """The same env for collection, training and evaluation."""
    return {
        "suite": suite,
        "task": task,
        "obs_type": "state",
        "max_episode_steps": EPISODE_STEPS,
        "assets": "official",
    }


def collect(suite: str, task: int, folder: Path) -> EpisodeDataset:
    """The collected successes and failures of a task; made now if they are not in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{suite}_{task}"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # runs that start together collect once
        return collect_episodes(
            find_task(suite, task),
            COLLECTED_EPISODES,
            folder / f"{name}.h5",
            seed=COLLECTION_SEED,
            assets="official",
            max_episode_steps=EPISODE_STEPS,
        )


class NormalizedState(BaseFeaturesExtractor):
    """The state by fixed means and deviations, clipped; the same for all arms of a task."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, space: gym.spaces.Box, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(space, len(mean))
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return ((observations - self.mean) / self.std).clamp(-_CLIP, _CLIP)


def make_policy_arguments(dataset: EpisodeDataset) -> dict[str, Any]:
    """The networks, with the normalisation of the collected states."""
    states = np.concatenate([episode.observations["state"] for episode in dataset])
    std = np.maximum(states.std(0), _STD_FLOOR)
    return {
        **NETWORK,
        "features_extractor_class": NormalizedState,
        "features_extractor_kwargs": {"mean": states.mean(0).tolist(), "std": std.tolist()},
    }


class ClockReward(VecEnvWrapper):
    """The control: a reward that sees how many steps have passed, and nothing else.

    Args:
        venv: The envs.
        model: Reads "state", the number of steps, shape (n, 1), and actions that are all zero.
    """

    def __init__(self, venv: VecEnv, model: RewardModel) -> None:
        super().__init__(venv)
        self._model = model
        self._steps = np.zeros((self.num_envs, 1), np.float32)

    def reset(self) -> VecEnvObs:
        self._steps[:] = 0
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, env_rewards, dones, infos = self.venv.step_wait()
        now, following = {"state": self._steps}, {"state": self._steps + 1}
        terminated = np.zeros(self.num_envs, bool)
        actions = np.zeros((self.num_envs, 1), np.float32)
        rewards = self._model.compute_reward(Transitions(now, actions, following, terminated))
        self._steps = np.where(np.asarray(dones)[:, None], 0, self._steps + 1).astype(np.float32)
        infos = [
            {
                **info,
                ENV_REWARD_KEY: float(env_reward),
                MODEL_REWARD_KEY: float(reward),
                TOTAL_REWARD_KEY: float(reward),
            }
            for info, env_reward, reward in zip(infos, env_rewards, rewards, strict=True)
        ]
        return observations, rewards, dones, infos


def leave_only_time(episode: Episode) -> Episode:
    """The episode of which only the number of the step can be seen."""
    steps = np.arange(len(episode) + 1, dtype=np.float32)
    return Episode(
        {"state": steps[:, None]},
        np.zeros((len(episode), 1), np.float32),
        episode.rewards,
        terminated=episode.terminated,
        success=episode.success,
        task=episode.task,
    )


class TrainerWithCollected:
    """An `RRDTrainer` to which the collected episodes count as much as the agent's own.

    The critic never sees them: they are not in the replay buffer.

    Args:
        trainer: Does the reward steps.
        collected: Episodes to learn from besides those of the source that `train` is given.
    """

    def __init__(self, trainer: RRDTrainer, collected: EpisodeStore) -> None:
        self._trainer, self._collected = trainer, collected
        self._sources: tuple[SubsequenceSource, JoinedEpisodes] | None = None
        self.model = trainer.model
        self.get_state, self.set_state = trainer.get_state, trainer.set_state

    @property
    def n_steps(self) -> int:
        return self._trainer.n_steps

    def train(self, source: SubsequenceSource, n_steps: int = 1) -> dict[str, float]:
        if self._sources is None or self._sources[0] is not source:
            self._sources = source, JoinedEpisodes([self._collected, source])
        return self._trainer.train(self._sources[1], n_steps)


def fit_reward(dataset: EpisodeDataset, seed: int, folder: Path, only_time: bool) -> RRDRewardModel:
    """The reward of a seed, from a folder if it is there.

    So the frozen one and the one that goes on learning begin alike, and a run that is taken up
    again has the reward it had.
    """
    if not (folder / "config.json").is_file():
        episodes = [leave_only_time(episode) for episode in dataset] if only_time else dataset
        fit_rrd(episodes, n_steps=RRD_STEPS, seed=seed).save_pretrained(folder)
    return cast("RRDRewardModel", RRDRewardModel.from_pretrained(folder))


def get_sac_arguments(suite: str) -> dict[str, Any]:
    """Those of `SAC`, and "n_steps" where it learns from demonstrations as well."""
    return SAC_ARGUMENTS | (DEMONSTRATION_ARGUMENTS if suite == "libero_object" else {})


def make_agent(
    arm: str, suite: str, task: int, seed: int, folder: Path, learning_starts: int
) -> tuple[SAC, RRDRewardModel | None, TrainerWithCollected | None]:
    """The agent of an arm, its reward model, and what trains that while the agent learns.

    Args:
        arm: "sparse", "clock", "rrd_frozen" or "rrd_online".
        suite: Of the task; on LIBERO-Object the agent has the collected successes in its buffer.
        task: Its index.
        seed: Of the agent, its env and its reward.
        folder: Where collected episodes and fitted rewards lie, or are put.
        learning_starts: Steps of random actions before the first gradient step.
    """
    dataset = collect(suite, task, folder)
    model, trainer, buffer_arguments = None, None, {}
    if arm != "sparse":
        kind = "clock" if arm == "clock" else "rrd"
        rewards = folder / f"{suite}_{task}__{kind}_s{seed}"
        model = fit_reward(dataset, seed, rewards, only_time=arm == "clock")
    frozen = model if arm == "rrd_frozen" else None
    env_arguments = make_env_arguments(suite, task)
    venv = make_vec_env("Libero-v0", seed=seed, reward_model=frozen, **env_arguments)
    if model is not None and arm == "clock":
        venv = ClockReward(venv, model)
    if model is not None and arm == "rrd_online":
        trainer = TrainerWithCollected(
            RRDTrainer(model, return_scale=model.training["return_scale"], seed=seed),
            EpisodeStore.from_dataset(dataset, model.observation_keys),
        )
        buffer_arguments = {"reward_model": model, "step_cost": ONLINE_STEP_COST}
    arguments = {
        **get_sac_arguments(suite),
        "learning_starts": learning_starts,
        "policy_kwargs": make_policy_arguments(dataset),
        "replay_buffer_class": None if trainer is None else RelabelReplayBuffer,
        "replay_buffer_kwargs": buffer_arguments,
        "seed": seed,
        "device": "cpu",
    }
    n_steps = arguments.pop("n_steps", None)
    if n_steps is None:
        return SAC("MlpPolicy", venv, **arguments), model, trainer
    buffer_arguments |= {"n_steps": n_steps, "gamma": arguments["gamma"]}
    arguments["replay_buffer_class"] = (
        HalfDemonstrationsBuffer if trainer is None else HalfDemonstrationsRelabelBuffer
    )
    agent = SAC(LayerNormPolicy, venv, **arguments)
    successes = [episode for episode in dataset if episode.success]
    if model is not None and trainer is None:
        successes = [pay(episode, model, only_time=arm == "clock") for episode in successes]
    add_demonstrations(agent.replay_buffer, successes, buffer_arguments)
    return agent, model, trainer


def pay(episode: Episode, model: RRDRewardModel, only_time: bool) -> Episode:
    """The episode with the rewards that the agent would have been given."""
    seen = leave_only_time(episode) if only_time else episode
    return dataclasses.replace(episode, rewards=model.compute_reward(seen.transitions()))


def add_demonstrations(
    buffer: Any, episodes: Sequence[Episode], buffer_arguments: dict[str, Any]
) -> None:
    """Give an agent's buffer the demonstrations that half of each batch are drawn from."""
    n_rows = sum(len(episode) for episode in episodes)
    buffer.demonstrations = type(buffer)(
        n_rows, buffer.observation_space["state"], buffer.action_space, "cpu", **buffer_arguments
    )
    fill_replay_buffer(buffer.demonstrations, episodes)
