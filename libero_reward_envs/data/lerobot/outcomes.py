"""Rewards, ends and successes of LeRobotDatasets, whose columns are a matter of convention."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from libero_reward_envs.data.lerobot.info import Feature

_OWN_NAMES = "next."  # columns that lerobot fills with what the env returned


class Outcome(NamedTuple):
    """What came of an episode."""

    rewards: np.ndarray  # (T,) float32
    terminated: bool
    success: bool


class OutcomeRules:
    """How rewards, end and success follow from the columns that a set has.

    Rewards are those of the reward column, else 0. An episode succeeded if its success column is
    not 0 at some step; without the column, `assume_success` says. It was terminated if its done
    column is not 0 at the last step, and its truncated column is; without the column, if it
    succeeded.

    Args:
        roles: The feature of each role that the set has.
        assume_success: Whether all episodes succeeded, where there is no success column.
    """

    def __init__(self, roles: Mapping[str, Feature], assume_success: bool | None) -> None:
        self._assumed = assume_success
        self.features = {
            role: roles[role]
            for role in ("reward", "done", "truncated", "success")
            if role in roles and not roles[role].is_image
        }
        self.reward_source = "none" if "reward" not in self.features else self._source("reward")
        self.success_source = self._source("success") or (
            "demonstration" if assume_success and "success" not in self.features else None
        )

    @property
    def are_complete(self) -> bool:
        """Whether they say of every episode whether it succeeded."""
        return "success" in self.features or self._assumed is not None

    def judge(self, columns: Mapping[str, np.ndarray], length: int) -> Outcome:
        """Return the outcome of an episode.

        Args:
            columns: The columns of `features`, by role, each with T numbers.
            length: T.
        """
        flat = {
            role: np.asarray(values).reshape(length, -1)[:, 0] for role, values in columns.items()
        }
        rewards = flat.get("reward", np.zeros(length)).astype(np.float32)
        success = bool(flat["success"].any()) if "success" in flat else bool(self._assumed)
        done = bool(flat["done"][-1]) if "done" in flat else success
        truncated = "truncated" in flat and bool(flat["truncated"][-1])
        return Outcome(rewards, done and not truncated, success)

    def _source(self, role: str) -> str | None:
        feature = self.features.get(role)
        return "env" if feature is not None and feature.name.startswith(_OWN_NAMES) else None
