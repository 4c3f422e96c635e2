"""When a relabelling replay buffer computes rewards, and by which rules it can."""

from typing import Literal

from libero_reward_envs.wrappers.reward_mix import RewardMix

RELABEL_MODES = ("always", "if_older_than", "never")

COUNTS = ("n_rewards", "n_changed", "n_from_model")  # of a rule, which a state keeps
# What states do not say that were taken before the rule had these arguments.
RULE_OF_OLD_STATES = {
    name: RewardMix().settings[name] for name in ("success_window", "success_threshold")
} | {"n_from_model": 0}

RelabelMode = Literal["always", "if_older_than", "never"]


def check_mode(mix: RewardMix, relabel: str) -> None:
    """Raise ValueError if the rule needs more of a step than a buffer holds."""
    if mix.mode == "success":
        raise ValueError(
            "Mode 'success' depends on the steps before, which a sampled transition does not have. "
            "Use a VecLearnedReward around the envs and the agent's own replay buffer."
        )
    if mix.compares_observations and relabel != "always":
        raise ValueError(
            f"Mode {mix.mode!r} computes two scores a transition and needs relabel='always', got "
            f"{relabel!r}."
        )


def check_relabel(relabel: str, max_age: int | None) -> None:
    """Raise ValueError unless the two are valid and go together."""
    if relabel not in RELABEL_MODES:
        raise ValueError(
            f"Unknown `relabel` {relabel!r}. Choose one of: {', '.join(RELABEL_MODES)}."
        )
    if (relabel == "if_older_than") != (max_age is not None):
        raise ValueError(
            "Give `max_age`, in reward steps, with relabel='if_older_than' and only there; "
            f"got max_age={max_age} with relabel={relabel!r}."
        )
    if max_age is not None and max_age < 0:
        raise ValueError(f"`max_age` must not be negative, got {max_age}.")
