"""Checkpoint and resume of Stable-Baselines3 training, with or without a reward that learns."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from libero_reward_envs.agents.agent_state import describe_agent, get_agent_state, set_agent_state
from libero_reward_envs.agents.relabel_replay_buffer import RelabelReplayBuffer
from libero_reward_envs.agents.replay_state import (
    check_replay_buffer,
    get_replay_state,
    set_replay_state,
)
from libero_reward_envs.agents.train_reward_model import TrainRewardModel, check_same_model
from libero_reward_envs.checkpoints import (
    check_no_later_checkpoint,
    read_newest_checkpoint,
    write_checkpoint,
)
from libero_reward_envs.random_states import get_global_random_state, set_global_random_state
from libero_reward_envs.reward_models.training import RewardTrainer

_MOST_NAMED = 5  # differences in an error message


class SaveCheckpoints(BaseCallback):
    """Writes all that training depends on into one file, again and again; see `resume_training`.

    That is: networks, optimisers, entropy coefficient, counters, the window of finished episodes,
    replay buffer, reward trainer, `VecNormalize` statistics, and the random states of Python,
    NumPy, torch and the action space. Not the envs, and not what other callbacks keep.

    It saves when an agent has just trained and is about to collect, the one moment at which
    counters, weights and buffer belong together; an on-policy agent's rollouts are empty then.
    So a checkpoint follows each multiple of `save_freq` by up to one rollout, and one is written at
    the end of training. A step that another callback stopped at is not counted, because SB3 does
    not store it; stopped in the middle of a longer rollout, the last checkpoint stands.

    Args:
        folder: Where to, one run a folder.
        save_freq: Env steps from one checkpoint to the next, of all envs together.
        trainer: What trains the reward: that of `TrainRewardModel`, before which this callback must
            not stand, or a wrapper's `online_training`.
        keep: How many checkpoints to keep; each holds the replay buffer.
        identity: What else must be the same to resume, as JSON holds it, for example the task.

    Raises:
        ValueError: If `save_freq` or `keep` is below 1, or `identity` is not JSON. When training
            begins, if the folder holds a later checkpoint, if callbacks stand in a wrong order, or
            if `TrainRewardModel` has another trainer.
        TypeError: When training begins, if the replay buffer's state cannot be taken.
    """

    def __init__(
        self,
        folder: str | Path,
        save_freq: int,
        trainer: RewardTrainer | None = None,
        keep: int = 2,
        *,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if save_freq < 1 or keep < 1:
            raise ValueError(
                f"`save_freq` and `keep` must be at least 1, got {save_freq} and {keep}."
            )
        self._folder = Path(folder)
        self._save_freq = save_freq
        self._trainer = trainer
        self._keep = keep
        self._identity = _check_identity(identity)
        self._last_saved = 0
        self._n_rollout_steps = 0

    def _on_training_start(self) -> None:
        if isinstance(self.model, OffPolicyAlgorithm):
            check_replay_buffer(self.model.replay_buffer)
        siblings = _flatten(self.locals.get("callback"))
        for callback in siblings:
            if isinstance(callback, TrainRewardModel) and callback.trainer is not self._trainer:
                raise ValueError(
                    "TrainRewardModel trains a reward that SaveCheckpoints does not keep. Give "
                    "SaveCheckpoints the same `trainer`."
                )
        later = siblings[siblings.index(self) + 1 :] if self in siblings else []
        if any(isinstance(callback, TrainRewardModel) for callback in later):
            raise ValueError(
                "Expected SaveCheckpoints after TrainRewardModel among the callbacks, or it misses "
                "the last reward steps. Swap them."
            )
        check_no_later_checkpoint(self._folder, self.model.num_timesteps)
        self._last_saved = self.model.num_timesteps
        self._n_rollout_steps = 0

    def _on_rollout_start(self) -> None:
        self._n_rollout_steps = 0
        done = self.model.num_timesteps
        if done // self._save_freq > self._last_saved // self._save_freq:
            self._save(done)

    def _on_step(self) -> bool:
        self._n_rollout_steps += 1
        return True

    def _on_rollout_end(self) -> None:
        self._n_rollout_steps = 0

    def _on_training_end(self) -> None:
        done = self.model.num_timesteps
        if self._n_rollout_steps == 1 and isinstance(self.model, OffPolicyAlgorithm):
            done -= self.model.n_envs  # taken, but neither stored nor learned from
        elif self._n_rollout_steps:
            return
        if done > self._last_saved:
            self._save(done)

    def _save(self, step: int) -> None:
        parts = {
            "agent": get_agent_state(self.model),
            "random": get_global_random_state(),
        }
        parts["agent"][1]["counters"]["num_timesteps"] = step
        if isinstance(self.model, OffPolicyAlgorithm):
            parts["replay_buffer"] = get_replay_state(self.model.replay_buffer)
        if self._trainer is not None:
            parts["trainer"] = self._trainer.get_state()
        arrays = {
            f"{part}/{name}": array for part in parts for name, array in parts[part][0].items()
        }
        values = {part: parts[part][1] for part in parts}
        values["description"] = _describe(self.model, self._trainer, self._identity)
        write_checkpoint(self._folder, step, arrays, values, self._keep)
        self._last_saved = step


def resume_training(
    agent: BaseAlgorithm,
    folder: str | Path,
    trainer: RewardTrainer | None = None,
    *,
    identity: Mapping[str, Any] | None = None,
) -> int:
    """Bring a new agent to the newest intact checkpoint that `SaveCheckpoints` wrote.

    The agent, its envs and the trainer are made as they were made for the first start. Counters go
    on where they stood, and what is lost are the steps since the checkpoint. The envs are reset: an
    episode that was running is never finished, and is neither offered as one nor joined to the next
    one. If the agent has a seed, the envs get seeds of their own, so that they do not begin with
    the same episodes again; so a resumed run is not the unbroken one number by number.

    Args:
        agent: A new agent, with its envs.
        folder: Of `SaveCheckpoints`.
        trainer: A new trainer, if the run has one.
        identity: As given to `SaveCheckpoints`.

    Returns:
        Env steps done so far, 0 if there is no checkpoint.

    Raises:
        ValueError: If the checkpoint is of another algorithm, other networks, spaces, buffer,
            trainer or identity; the agent's networks are then as they were.

    Example:
        Start and restart are one script::

            done = resume_training(agent, folder, trainer)
            callbacks = [TrainRewardModel(trainer), SaveCheckpoints(folder, 10_000, trainer)]
            agent.learn(total - done, callbacks, reset_num_timesteps=done == 0)
    """
    checkpoint = read_newest_checkpoint(folder)
    if checkpoint is None:
        return 0
    expected = _describe(agent, trainer, _check_identity(identity))
    _check_description(checkpoint.values.get("description"), expected, checkpoint.path)
    arrays, values = checkpoint.arrays, checkpoint.values
    buffer = getattr(agent, "replay_buffer", None)
    if trainer is not None and isinstance(buffer, RelabelReplayBuffer):
        check_same_model(buffer, trainer)
    if trainer is not None:  # the first, because it may yet refuse
        trainer.set_state(_select(arrays, "trainer"), values["trainer"])
    if isinstance(agent, OffPolicyAlgorithm):
        set_replay_state(
            agent.replay_buffer, _select(arrays, "replay_buffer"), values["replay_buffer"]
        )
    set_agent_state(agent, _select(arrays, "agent"), values["agent"])
    set_global_random_state(_select(arrays, "random"), values["random"])
    agent._last_obs = None  # so that `learn` resets the envs
    if agent.seed is not None and agent.env is not None:
        sequence = np.random.SeedSequence([agent.seed, checkpoint.step])
        agent.env.seed(int(sequence.generate_state(1)[0] >> 1))  # below 2**31, for any env
    return checkpoint.step


def _describe(
    agent: BaseAlgorithm, trainer: RewardTrainer | None, identity: Mapping[str, Any]
) -> dict[str, Any]:
    name = None if trainer is None else type(trainer).__name__
    return {**describe_agent(agent), "trainer": name, "identity": dict(identity)}


def _check_description(found: Any, expected: Mapping[str, Any], path: Path) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"Expected a checkpoint of SaveCheckpoints, {str(path)!r} is of others.")
    before, now = _flatten_values(found), _flatten_values(expected)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return
    told = [f"{n} was {before.get(n)!r} and is now {now.get(n)!r}" for n in names[:_MOST_NAMED]]
    more = f", and {len(names) - len(told)} more" if len(names) > len(told) else ""
    raise ValueError(
        f"{str(path)!r} is of another training: {', '.join(told)}{more}. Make agent and trainer as "
        "they were made then, or choose another folder."
    )


def _check_identity(identity: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(identity or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected an `identity` that JSON holds: {error}.") from error


def _flatten(callback: Any) -> list[Any]:
    """Return callbacks in the order in which they are called, those in lists included."""
    inner = getattr(callback, "callbacks", None)
    if not isinstance(inner, Iterable):
        return [callback]
    return [found for part in inner for found in _flatten(part)]


def _flatten_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those of inner mappings as "<name>: <inner name>"."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}: {key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return found


def _select(arrays: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    start = part + "/"
    return {n.removeprefix(start): array for n, array in arrays.items() if n.startswith(start)}
