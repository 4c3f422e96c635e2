"""What an evaluation by protocol is made of: its episodes and its environments."""

import contextlib
import dataclasses
import difflib
from typing import Any

import gymnasium as gym

from libero_reward_envs.agents.evaluated_agents import EvaluatedAgent
from libero_reward_envs.envs.assets import AssetSet
from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.envs.tasks import Task, load_init_states
from libero_reward_envs.evaluation.parallel import EpisodeJob
from libero_reward_envs.evaluation.protocols import Protocol, choose_tasks


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """What is evaluated, and how.

    Args:
        protocol: How episodes are begun, seen, limited and counted.
        suite: Suite of LIBERO.
        tasks: Names or indices of its tasks; None for all.
        trials: Episodes of each task; None for as many as the protocol has.
        seed: Of the first trial of each task.
        assets: Object models, see `envs.assets.resolve_assets`.
        n_envs: Environments, each in a process of its own; no result depends on it.
        n_videos: Failures of which videos are drawn at the end, at most.

    Raises:
        ValueError: If a number is out of range, or there is no such suite or task.
    """

    protocol: Protocol
    suite: str
    tasks: tuple[str, ...] | None = None
    trials: int | None = None
    seed: int = 0
    assets: str = "auto"
    n_envs: int = 1
    n_videos: int = 10

    def __post_init__(self) -> None:
        self.protocol.step_limit(self.suite)
        choose_tasks(self.suite, self.tasks)
        for name, least in (("trials", 1), ("seed", 0), ("n_envs", 1), ("n_videos", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")

    @property
    def chosen_tasks(self) -> list[Task]:
        """The tasks."""
        return choose_tasks(self.suite, self.tasks)

    @property
    def n_trials(self) -> int:
        """Episodes of each task."""
        return self.protocol.trials if self.trials is None else self.trials


@dataclasses.dataclass(frozen=True)
class MakeLibero:
    """Makes the env of a task as a protocol and an agent ask for; picklable.

    Args:
        arguments: Of `gym.make`.
    """

    arguments: dict[str, Any]

    def __call__(self, task: str) -> gym.Env[Any, Any]:
        """Return the env of a task, `suite/name`."""
        import libero_reward_envs

        libero_reward_envs.register_envs()
        return gym.make("Libero-v0", task=task, disable_env_checker=True, **self.arguments)


def list_jobs(plan: EvaluationPlan) -> list[EpisodeJob]:
    """Return all episodes of an evaluation, task by task."""
    jobs = []
    for task in plan.chosen_tasks:
        states = load_init_states(task)
        for trial in range(plan.n_trials):
            jobs.append(
                EpisodeJob(
                    task.id,
                    trial,
                    seed=plan.protocol.seed(plan.seed, trial),
                    init_state_id=trial % len(states),
                    options={"init_state": states[trial % len(states)]},
                    instruction=task.instruction,
                )
            )
    return jobs


def make_maker(agent: EvaluatedAgent, plan: EvaluationPlan, assets: AssetSet) -> MakeLibero:
    """Return what makes the envs of an evaluation."""
    arguments = dict(agent.env_arguments)
    if arguments["obs_type"] != "state":
        arguments.setdefault("image_size", plan.protocol.image_size)
    named = assets.name if assets.name in ("official", "builtin") else str(assets.path)
    return MakeLibero(
        {
            **arguments,
            "settle_steps": plan.protocol.settle_steps,
            "max_episode_steps": plan.protocol.step_limit(plan.suite),
            "assets": named,
        }
    )


def check_cameras(agent: EvaluatedAgent, plan: EvaluationPlan, assets: AssetSet) -> None:
    """Raise ValueError unless the scene of the first task has the cameras that an agent asks for.

    A scene is built for that, as it alone knows its cameras.
    """
    cameras = agent.env_arguments.get("cameras")
    if not cameras:
        return
    task = plan.chosen_tasks[0]
    env = LiberoEnv(task=task.id, assets=assets.path)
    with contextlib.closing(env):
        model = env.simulator.model
        known = [model.camera(index).name for index in range(model.ncam)]
    missing = [camera for camera in cameras if camera not in known]
    if missing:
        near = difflib.get_close_matches(missing[0], known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Expected a camera of {task.id}, got {missing[0]!r}.{hint} Choose among: "
            f"{', '.join(known)}."
        )
