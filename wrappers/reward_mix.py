"""How the env's own reward and the model's become the reward an agent sees."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from typing_extensions import TypedDict

from libero_reward_envs.reward_models.base import RewardModel, Transitions, check_rewards
from libero_reward_envs.reward_models.success_window import check_window

ENV_REWARD_KEY = "reward/env"
MODEL_REWARD_KEY = "reward/model"
TOTAL_REWARD_KEY = "reward/total"
REWARD_MODES = ("replace", "mix", "terminal", "success", "difference", "potential")

RewardMode = Literal["replace", "mix", "terminal", "success", "difference", "potential"]

_WITH_ENV_REWARD = ("mix", "potential")
_COMPARING = ("difference", "potential")
_DEFAULT_THRESHOLD = 0.5


class RewardMixArguments(TypedDict, total=False):
    """The arguments of `RewardMix`, which whatever holds one takes and hands on."""

    mode: RewardMode
    env_weight: float
    model_weight: float
    step_cost: float
    gamma: float
    success_window: Sequence[int]
    success_threshold: float | None


class RewardMix:
    """Computes the reward an agent sees, and counts how often it is not the env's own.

    With r_env and r_m the rewards of env and model, weights w_e and w_m, and a step cost c:

    | mode | reward |
    | --- | --- |
    | replace | w_m r_m - c |
    | mix | w_e r_env + w_m r_m - c |
    | terminal | w_m r_m - c at the last step of an episode, time-outs too; -c before it |
    | success | w_m - c at the first debounced success of an episode; -c at any other step |
    | difference | w_m (r_m(o_{t+1}) - r_m(o_t)) - c |
    | potential | w_e r_env + w_m (gamma r_m(o_{t+1}) - r_m(o_t)) - c |

    The last two take the model's reward for a score of the observation that a step leads to, and
    compare it with that of the observation before; they are refused for models that read more.
    "potential" is the shaping of Ng et al. (1999), which changes no optimal policy if `gamma` is
    the agent's: where an episode terminates r_m(o_{t+1}) counts as 0, after a time-out it stands,
    because the agent bootstraps there. "difference" is that without discount and at any end: an
    episode sums to last minus first score. "success" is an event, k of the last n steps whose r_m
    is above a threshold, see `SuccessWindow`; an env that ends at true success at once leaves it no
    time unless k is 1 (`terminate_on_success=False` of `LiberoEnv` does).

    One rule for the Gymnasium wrapper, the vector wrapper and relabelling: a transition has the
    same reward in all of them.

    A reward that is positive at every step makes an agent linger rather than finish a task that
    ends on success. `step_cost` puts the reward below zero; `fit_rrd` already does so through its
    `offset_margin`, and then `step_cost` stays 0.

    Args:
        mode: One of the table.
        env_weight: w_e, for "mix" and "potential".
        model_weight: w_m.
        step_cost: c, subtracted at every step, the last one too.
        gamma: Discount of "potential", in [0, 1]: the agent's.
        success_window: (k, n) of "success".
        success_threshold: What r_m must be above to count as success; None for the threshold of the
            model if it is a classifier that returns probabilities, else 0.5.

    Attributes:
        n_rewards: How many rewards were computed.
        n_changed: How many of them were not the env's own.
        n_from_model: In how many of them the model's part was not 0.

    Raises:
        ValueError: If `mode` is unknown, a number is not finite or out of range.
    """

    def __init__(
        self,
        mode: RewardMode = "replace",
        env_weight: float = 1.0,
        model_weight: float = 1.0,
        step_cost: float = 0.0,
        gamma: float = 0.99,
        success_window: Sequence[int] = (2, 3),
        success_threshold: float | None = None,
    ) -> None:
        if mode not in REWARD_MODES:
            raise ValueError(f"Unknown mode {mode!r}. Choose one of: {', '.join(REWARD_MODES)}.")
        numbers = {"env_weight": env_weight, "model_weight": model_weight, "step_cost": step_cost}
        if success_threshold is not None:
            numbers["success_threshold"] = success_threshold
        for name, number in numbers.items():
            if not np.isfinite(number):
                raise ValueError(f"`{name}` must be finite, got {number}.")
        if not 0 <= gamma <= 1:
            raise ValueError(f"`gamma` must be in [0, 1], got {gamma}.")
        if len(success_window) != 2:
            raise ValueError(f"`success_window` must be (k, n), got {tuple(success_window)}.")
        check_window(*success_window)
        self.mode: RewardMode = mode
        self.env_weight = env_weight
        self.model_weight = model_weight
        self.step_cost = step_cost
        self.gamma = gamma
        self.success_window = (success_window[0], success_window[1])
        self.success_threshold = success_threshold
        self.n_rewards = 0
        self.n_changed = 0
        self.n_from_model = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a pickled rule, of before it had all of today's arguments too."""
        self.__init__()
        vars(self).update(state)

    @property
    def compares_observations(self) -> bool:
        """Whether the rule reads the score of the observation before a step, too."""
        return self.mode in _COMPARING

    @property
    def settings(self) -> dict[str, Any]:
        """All arguments, as JSON would hold them."""
        return {
            "mode": self.mode,
            "env_weight": self.env_weight,
            "model_weight": self.model_weight,
            "step_cost": self.step_cost,
            "gamma": self.gamma,
            "success_window": list(self.success_window),
            "success_threshold": self.success_threshold,
        }

    def find_threshold(self, model: object) -> float:
        """Return what the rewards of `model` must be above to count as success."""
        if self.success_threshold is not None:
            return self.success_threshold
        if getattr(model, "reward_type", None) == "continuous":
            return float(getattr(model, "threshold", _DEFAULT_THRESHOLD))
        return _DEFAULT_THRESHOLD

    def combine(
        self,
        env_rewards: Any,
        model_rewards: Any,
        model: object,
        *,
        scores_before: np.ndarray | None = None,
        terminated: np.ndarray | None = None,
        ended: np.ndarray | None = None,
        is_event: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the total rewards, shape (n,), float32.

        Args:
            env_rewards: The env's own, shape (n,).
            model_rewards: What `model` computed, checked here.
            model: Named when its rewards are not n finite float32 numbers.
            scores_before: What it computes of o_t, see `score_observations`; for "difference" and
                "potential".
            terminated: Whether a step ended its episode other than by a time-out, (n,), bool; for
                "potential".
            ended: Whether it ended it in any way, (n,), bool; for "terminal".
            is_event: Whether success was seen at this step, and first at this one, (n,), bool; for
                "success".

        Raises:
            ValueError: If the model's rewards are not such numbers.
        """
        env = np.asarray(env_rewards, np.float32)
        scores = check_rewards(model_rewards, len(env), model).astype(float)
        if self.mode == "terminal":
            assert ended is not None
            scores = np.where(ended, scores, 0.0)
        elif self.mode == "success":
            assert is_event is not None
            scores = is_event.astype(float)
        elif self.mode == "difference":
            assert scores_before is not None
            scores = scores - scores_before
        elif self.mode == "potential":
            assert scores_before is not None
            assert terminated is not None
            scores = self.gamma * np.where(terminated, 0.0, scores) - scores_before
        total = self.model_weight * scores
        self.n_from_model += int(np.count_nonzero(total))
        if self.mode in _WITH_ENV_REWARD:
            total = self.env_weight * env.astype(float) + total
        total = (total - self.step_cost).astype(np.float32)
        self.n_rewards += len(total)
        self.n_changed += int(np.count_nonzero(total != env))
        return total

    def check_used(self) -> None:
        """Raise RuntimeError if the model had no part in any reward, as after a run it should have.

        A step cost is none of its, and a success that it sees where the env does is one.
        """
        if self.n_from_model == 0:
            raise RuntimeError(
                f"The reward model changed none of {self.n_rewards} rewards: its part was 0 in "
                "each. Check the weights of the mix, and that the model is a trained one."
            )


def score_observations(model: RewardModel, observations: Any, actions: np.ndarray) -> np.ndarray:
    """Return the model's reward for a step that leads to each observation, shape (n,), float32.

    Args:
        model: One that reads nothing but the observation that a step leads to.
        observations: By key, each (n, ...).
        actions: Any (n, a); only their shape is used.
    """
    n = len(actions)
    arrivals = Transitions(observations, np.zeros_like(actions), observations, np.zeros(n, bool))
    return check_rewards(model.compute_reward(arrivals), n, model)


def check_scores_observations(
    model: RewardModel, transitions: Transitions, rewards: np.ndarray
) -> None:
    """Raise ValueError if the model's rewards depend on more than the observations led to.

    Args:
        model: The model; an attribute `scores_observations` that is False says it at once.
        transitions: A few transitions; a dependence that does not show in them is not found.
        rewards: What it computed of them.
    """
    if not getattr(model, "scores_observations", True):
        raise ValueError(
            "Expected a model that scores the observation a step leads to, as modes 'difference' "
            f"and 'potential' compare two of them. {type(model).__name__} reads the action or the "
            "observation before too. Use mode 'replace' or 'mix'."
        )
    led_to = transitions.next_observations
    probes = [score_observations(model, led_to, transitions.actions)]
    other = transitions._replace(observations=led_to, actions=0.5 - 0.5 * transitions.actions)
    probes.append(check_rewards(model.compute_reward(other), len(rewards), model))
    for alone in probes:
        if np.allclose(alone, rewards, rtol=1e-3, atol=1e-5):
            continue
        worst = int(np.argmax(np.abs(alone - rewards)))
        raise ValueError(
            "Expected a model that scores the observation a step leads to, as modes 'difference' "
            f"and 'potential' compare two of them. {type(model).__name__} gives {rewards[worst]:g} "
            f"for a step and {alone[worst]:g} for its last observation alone: it reads the action "
            "or the observation before too. Use mode 'replace' or 'mix'."
        )
