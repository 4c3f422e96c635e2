"""Agents that an evaluation names: scripted experts, Stable-Baselines3's files, OpenVLA."""

import dataclasses
import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from libero_reward_envs.agents.evaluated_sb3 import AGENT_FILE, find_shapes, load_sb3_agent
from libero_reward_envs.agents.experts import ScriptedExpert, make_expert
from libero_reward_envs.envs.tasks import Task
from libero_reward_envs.evaluation.protocols import Protocol

if TYPE_CHECKING:
    from libero_reward_envs.agents.openvla_policy import OpenVLAPolicy
    from libero_reward_envs.openvla.policy_inputs import PolicyInputs

EXPERT = "expert"
_IMAGE_SUFFIX = "_image"


@dataclasses.dataclass(frozen=True)
class EvaluatedAgent:
    """An agent, and what it asks of the environment.

    Args:
        agent: What acts, see `evaluation.parallel.BatchAgent`.
        description: What it is, as JSON holds it; weights by their hash.
        env_arguments: Of `LiberoEnv`: observations, cameras, orientation.
    """

    agent: Any
    description: dict[str, Any]
    env_arguments: dict[str, Any]


class ExpertAgent:
    """The scripted expert of each task."""

    prepare = None

    def __init__(self) -> None:
        self._experts: dict[int, ScriptedExpert] = {}

    def begin(self, row: int, task: str, instruction: str | None) -> None:
        """Take the expert of the task."""
        self._experts[row] = make_expert(task)

    def act(self, rows: Sequence[int], prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Return an action for each state."""
        return np.stack(
            [
                self._experts[row].predict(state)[0]
                for row, state in zip(rows, prepared, strict=True)
            ]
        )


class PolicyAgent:
    """OpenVLA for all environments, whose processes prepare the pictures.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: "OpenVLAPolicy") -> None:
        self._policy = policy
        self._told: dict[int, str | None] = {}
        self.prepare = policy.inputs

    def begin(self, row: int, task: str, instruction: str | None) -> None:
        """Drop what is left of an action chunk."""
        given = self._policy.instruction
        self._told[row] = instruction if given is None else given
        self._policy.reset([row])

    def act(self, rows: Sequence[int], prepared: "Sequence[PolicyInputs]") -> np.ndarray:
        """Return an action for each environment, from one batch."""
        from libero_reward_envs.openvla.policy_inputs import PolicyInputs

        told = [self._told[row] for row in rows]
        return self._policy.act(PolicyInputs.join(prepared), told, rows)


def load_agent(
    name_or_path: str, suite: str, protocol: Protocol, **policy_options: Any
) -> EvaluatedAgent:
    """Return the agent of a name or path.

    Args:
        name_or_path: "expert"; an SB3 `.zip`, or the folder of `train-agent` that holds one; or an
            OpenVLA checkpoint: a folder, a Hub id, "tiny-random-openvla".
        suite: Where it is to act. OpenVLA takes the statistics of that name, unless it is given an
            `unnorm_key`, was fine-tuned for another, or has but one.
        protocol: How pictures reach OpenVLA, unless an option says otherwise.
        policy_options: Of `OpenVLAPolicy.from_pretrained`.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If it cannot be evaluated, or options are given to what takes none.
    """
    path = Path(name_or_path)
    if path.is_dir() and (path / AGENT_FILE).is_file():
        path /= AGENT_FILE
    if name_or_path != EXPERT and path.suffix != ".zip":
        return _load_openvla(name_or_path, suite, {"jpeg": protocol.jpeg, **policy_options})
    if policy_options:
        raise ValueError(
            f"Expected no options of OpenVLA for the agent {name_or_path!r}, got "
            f"{', '.join(sorted(policy_options))}."
        )
    if name_or_path == EXPERT:
        return EvaluatedAgent(ExpertAgent(), {"kind": EXPERT}, {"obs_type": "state"})
    return EvaluatedAgent(*load_sb3_agent(path))


def check_agent(agent: EvaluatedAgent, env: gym.Env[Any, Any], task: Task) -> None:
    """Raise ValueError unless an agent can act in the env of a task, which need not run."""
    if isinstance(agent.agent, ExpertAgent):
        make_expert(task)
    elif isinstance(agent.agent, PolicyAgent):
        space: Any = env.observation_space
        agent.agent.prepare.check_keys(space.spaces)
    else:
        found, expected = find_shapes(env.observation_space), agent.description["observations"]
        if found != expected:
            raise ValueError(
                f"Expected observations {expected} as the agent was trained on, got {found} of "
                f"{task.id}. Choose the task that it was trained on."
            )


def _load_openvla(name_or_path: str, suite: str, options: dict[str, Any]) -> EvaluatedAgent:
    from libero_reward_envs.agents.openvla_loading import find_policy_folders
    from libero_reward_envs.agents.openvla_policy import OpenVLAPolicy

    hub_options = {name: options[name] for name in ("adapter", "revision") if name in options}
    try:
        folders = find_policy_folders(name_or_path, **hub_options)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(name_or_path, (EXPERT,), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FileNotFoundError(
            f"No agent {name_or_path!r}.{hint} An agent is 'expert', a .zip of Stable-Baselines3, "
            f"a folder of train-agent, or an OpenVLA checkpoint. ({error})"
        ) from error
    if options.get("unnorm_key") is None:
        options = {**options, "unnorm_key": _find_unnorm_key(folders, suite)}
    policy = OpenVLAPolicy.from_pretrained(name_or_path, **options)
    keys = policy.inputs.image_keys
    foreign = [key for key in keys if not key.endswith(_IMAGE_SUFFIX)]
    if foreign:
        raise ValueError(
            f"Expected images of LIBERO's cameras, '<camera>{_IMAGE_SUFFIX}', got {foreign[0]!r}. "
            "Name them by --cameras."
        )
    arguments = {
        "obs_type": "pixels_state" if policy.inputs.n_proprio else "pixels",
        "cameras": [key.removesuffix(_IMAGE_SUFFIX) for key in keys],
        "orientation": policy.inputs.orientation,
    }
    return EvaluatedAgent(PolicyAgent(policy), {"kind": "openvla", **policy.settings}, arguments)


def _find_unnorm_key(folders: tuple[Path, ...], suite: str) -> str | None:
    """Return whose statistics are meant: as fine-tuning noted, of the suite, or the only ones."""
    from libero_reward_envs.agents.openvla_loading import choose_settings, read_policy_config

    noted = choose_settings(folders, {})["unnorm_key"]
    norm_stats = read_policy_config(folders).norm_stats or {}
    key = noted or (suite if len(norm_stats) > 1 else next(iter(norm_stats), None))
    if key is not None and key.removesuffix("_no_noops") != suite:
        warnings.warn(
            f"Actions in {suite!r} get their unit from the statistics of {key!r}: those that the "
            "checkpoint has. Give --unnorm-key if others are meant.",
            stacklevel=4,
        )
    return key
