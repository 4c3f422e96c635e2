"""A replay buffer whose rewards are computed when transitions are sampled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecNormalize

from libero_reward_envs.agents.episode_replay_buffer import EpisodeReplayBuffer
from libero_reward_envs.agents.relabel_modes import (
    COUNTS,
    RULE_OF_OLD_STATES,
    RelabelMode,
    check_mode,
    check_relabel,
)
from libero_reward_envs.reward_models.base import (
    EPISODE_LENGTH_KEY,
    EPISODE_RETURN_KEY,
    RewardModel,
    Transitions,
    check_rewards,
)
from libero_reward_envs.wrappers.lazy_reward_model import LazyRewardModel, check_action_space
from libero_reward_envs.wrappers.reward_mix import (
    MODEL_REWARD_KEY,
    RewardMix,
    check_scores_observations,
    score_observations,
)

EPISODE_KEYS = (EPISODE_RETURN_KEY, EPISODE_LENGTH_KEY)

_NO_VERSION = -1  # the reward of this transition was not computed yet


class RelabelReplayBuffer(EpisodeReplayBuffer):
    """Stores the env's own rewards and samples those of a reward model that may still be learning.

    For Stable-Baselines3's off-policy algorithms, as `replay_buffer_class` with
    `replay_buffer_kwargs={"reward_model": model}`, for Box and Dict observations alike. The rewards
    are those of `VecLearnedReward`; use one of the two.

    What the model sees of a transition: the observations it names, raw also under `VecNormalize`
    (which needs `norm_reward=False`); the episode's own next observation; `terminated`, which a
    time-out is not; images as (H, W, C). SB3 turns images into (C, H, W) before they get here; they
    are turned back unless the model's `observation_shapes` say that it reads (C, H, W).

    A model that names "episode/return" or "episode/length" is given them, (n,) float32, for the
    episode of each transition. Then only transitions of finished episodes are sampled.

    Args:
        buffer_size: Transitions, of all envs together.
        observation_space: Box or Dict.
        action_space: Vectors in [-1, 1].
        device: Of the samples.
        n_envs: Number of envs.
        optimize_memory_usage: Must be False; it cannot live with time-outs.
        handle_timeout_termination: Whether the agent bootstraps at time-outs, as in SB3.
        reward_model: The model, or the folder or Hub id of a saved one.
        relabel: "always" computes rewards from the current weights at each sample, as Ren et al.
            (2022); "if_older_than" computes one when first sampled and again when it is older than
            `max_age`; "never" computes it once, when the transition is added.
        max_age: Reward steps, for "if_older_than".
        n_steps: Steps whose rewards are relabelled, discounted and summed, up to the end of the
            episode.
        gamma: Discount in that sum and of mode "potential": give the agent's for either.
        mix: The other arguments of `RewardMix`. Its "success" depends on the steps before, so it is
            not for a buffer; "difference" and "potential" need relabel="always".

    Attributes:
        reward_mix: The rule, with `n_rewards`, `n_changed` and `check_used()`.
        model_version: Reward steps of the model so far; set by who trains it.

    Raises:
        ValueError: If an argument is not valid, or an observation that the model reads is missing.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        reward_model: RewardModel | str | Path,
        relabel: RelabelMode = "always",
        max_age: int | None = None,
        n_steps: int = 1,
        gamma: float = 0.99,
        **mix: Any,
    ) -> None:
        check_relabel(relabel, max_age)
        check_action_space(action_space)
        self.reward_mix = RewardMix(gamma=gamma, **mix)
        check_mode(self.reward_mix, relabel)
        self.relabel = relabel
        self.max_age = max_age
        self.model_version = 0
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
            n_steps=n_steps,
            gamma=gamma,
        )
        if relabel != "always":
            self.model_rewards = np.zeros((self.buffer_size, n_envs), np.float32)
            self.model_versions = np.full((self.buffer_size, n_envs), _NO_VERSION, np.int64)
        self.reward_model = reward_model

    @property
    def reward_model(self) -> RewardModel:
        """The model; may be set to another one, as after loading a pickled buffer."""
        return self._reward_model

    @reward_model.setter
    def reward_model(self, reward_model: RewardModel | str | Path) -> None:
        model = LazyRewardModel(reward_model, self.observation_space, EPISODE_KEYS).get()
        keys = model.observation_keys
        self._wants_episodes = any(key in EPISODE_KEYS for key in keys)
        if self._wants_episodes and self.relabel == "never":
            raise ValueError(
                "relabel='never' computes a reward when a transition is added, but the model reads "
                "what is known only when its episode has ended. Use 'always' or 'if_older_than'."
            )
        shapes = getattr(model, "observation_shapes", {})
        self._images_to_turn = {
            key
            for key, space in self.observation_space.spaces.items()
            if isinstance(space, spaces.Box)
            and is_image_space(space)
            and is_image_space_channels_first(space)
            and tuple(shapes.get(key, ())) != space.shape
        }
        self._reward_model = model
        self._is_checked = False  # whether the model scores observations, for modes that ask it to
        self._keys_to_read = tuple(keys)
        if self.relabel == "if_older_than":
            self.model_versions.fill(_NO_VERSION)  # what another model computed is of no use

    def add(
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        next_obs: np.ndarray | dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Add one transition of each env, with the env's own reward.

        Raises:
            ValueError: If the reward is already a model's, as the infos tell.
        """
        if any(MODEL_REWARD_KEY in info for info in infos):
            raise ValueError(
                "Expected the env's own rewards, got those of a reward model. Take one of the two "
                "routes: a learned-reward wrapper around the env, or RelabelReplayBuffer."
            )
        row = self.pos
        super().add(obs, next_obs, action, reward, done, infos)
        if self.relabel != "always":
            self.model_versions[row] = _NO_VERSION
        if self.relabel == "never":
            self._store_model_rewards(np.full(self.n_envs, row), np.arange(self.n_envs), None)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Draw transitions, uniformly over all or, if the model needs it, over finished episodes.

        Returns:
            `ReplayBufferSamples` or `DictReplayBufferSamples`, as the observation space demands;
            with `discounts` if `n_steps` is not 1.

        Raises:
            RuntimeError: If the model needs a finished episode and there is none.
            ValueError: If `env` normalises rewards, or the model returns anything but one finite
                float32 number a transition.
        """
        if env is not None and env.norm_reward:
            raise ValueError(
                "Expected VecNormalize with norm_reward=False, got True: it knows the scale of the "
                "env's own reward, not of the model's."
            )
        if not self._wants_episodes:
            return super().sample(batch_size, env)
        if not len(self.lengths):
            raise RuntimeError(
                f"The reward model reads {' or '.join(EPISODE_KEYS)}, and no episode has ended "
                "yet. Set `learning_starts` beyond the steps of one episode in each env."
            )
        # Of NumPy's global generator, as all that SB3's buffers draw.
        numbers = np.random.randint(0, self.episodes.n_steps, size=batch_size)  # noqa: NPY002
        episodes, steps = self.episodes.find(numbers)
        return self._make_samples(*self.episodes.locate(episodes, steps), episodes, env)

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return all but the model for a checkpoint: arrays, which are views, and JSON values."""
        arrays, values = super().get_state()
        counts = {name: getattr(self.reward_mix, name) for name in COUNTS}
        return arrays, {**values, **counts, "model_version": self.model_version}

    def set_state(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Hold what the buffer held that gave this state.

        Raises:
            ValueError: If that buffer was of another size, had other envs or settings, or a part
                is missing; this one is then as before.
        """
        values = {**RULE_OF_OLD_STATES, **values}
        names = ("model_version", *COUNTS)
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"Expected {', '.join(missing)} in the state of a buffer, got none.")
        super().set_state(arrays, values)
        self.model_version = int(values["model_version"])
        for name in COUNTS:
            setattr(self.reward_mix, name, int(values[name]))

    def _settings(self) -> dict[str, Any]:
        return {
            **super()._settings(),
            "relabel": self.relabel,
            "max_age": self.max_age,
            **self.reward_mix.settings,
        }

    def _ring_arrays(self) -> dict[str, np.ndarray]:
        arrays = super()._ring_arrays()
        if self.relabel != "always":
            arrays |= {"model_rewards": self.model_rewards, "model_versions": self.model_versions}
        return arrays

    def _compute_rewards(
        self, rows: np.ndarray, columns: np.ndarray, episodes: np.ndarray | None
    ) -> np.ndarray:
        before = None
        if self.relabel == "always":
            transitions = self._read(rows, columns, episodes)
            rewards = self.reward_model.compute_reward(transitions)
            before = self._find_scores_before(transitions, rewards)
        else:
            if self.relabel == "if_older_than":
                self._renew_model_rewards(rows, columns, episodes)
            rewards = self.model_rewards[rows, columns]
        return self.reward_mix.combine(
            self.rewards[rows, columns],
            rewards,
            self.reward_model,
            scores_before=before,
            terminated=self.terminated[rows, columns],
            ended=self.dones[rows, columns] > 0,
        )

    def _find_scores_before(
        self, transitions: Transitions, rewards: np.ndarray
    ) -> np.ndarray | None:
        if not self.reward_mix.compares_observations:
            return None
        if not self._is_checked:
            check_scores_observations(self.reward_model, transitions, rewards)
            self._is_checked = True
        first = transitions.observations
        return score_observations(self.reward_model, first, transitions.actions)

    def _renew_model_rewards(
        self, rows: np.ndarray, columns: np.ndarray, episodes: np.ndarray | None
    ) -> None:
        assert self.max_age is not None
        versions = self.model_versions[rows, columns]
        old = (versions == _NO_VERSION) | (self.model_version - versions > self.max_age)
        if old.any():
            of_old = None if episodes is None else episodes[old]
            self._store_model_rewards(rows[old], columns[old], of_old)

    def _store_model_rewards(
        self, rows: np.ndarray, columns: np.ndarray, episodes: np.ndarray | None
    ) -> None:
        rewards = self.reward_model.compute_reward(self._read(rows, columns, episodes))
        self.model_rewards[rows, columns] = check_rewards(rewards, len(rows), self.reward_model)
        self.model_versions[rows, columns] = self.model_version

    def _read(
        self, rows: np.ndarray, columns: np.ndarray, episodes: np.ndarray | None
    ) -> Transitions:
        transitions = super()._read(rows, columns, episodes)
        if not self._images_to_turn:
            return transitions
        first, second = (
            {
                key: np.moveaxis(value, 1, -1) if key in self._images_to_turn else value
                for key, value in side.items()
            }
            for side in (transitions.observations, transitions.next_observations)
        )
        return transitions._replace(observations=first, next_observations=second)
