"""Compute learned rewards of recorded episodes: `libero-reward annotate DATA --reward-model M`.

Writes them into one file beside the data, which stays as it is; `apply_annotations` gives the
episodes with them. The same command goes on where a stopped run was.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class AnnotateArgs:
    """Compute a reward model's rewards of recorded episodes into a file beside them."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """File or folder of episodes of any known format."""
    reward_model: str
    """Folder, Hub id or .pt checkpoint of the reward model."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: DATA.rewards.safetensors)"),
    ] = None
    """The file to write."""
    mode: Literal["replace", "mix", "terminal", "success", "difference", "potential"] = "replace"
    """What becomes of the model's reward, see `RewardMix`."""
    env_weight: float = 1.0
    """Weight of the recorded reward, for mix and potential."""
    model_weight: float = 1.0
    """Weight of the model's reward."""
    step_cost: float = 0.0
    """What is subtracted at every step."""
    gamma: float = 0.99
    """Discount, for potential."""
    reward_type: Literal["binary", "continuous"] | None = None
    """For success classifiers; by default what was saved."""
    features: Annotated[
        str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: where it was)")
    ] = None
    """OpenVLA checkpoint of a reward on its features, if it lies elsewhere now."""
    feature_cache: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: DATA.features)")
    ] = None
    """Folder in which these features are kept."""
    option: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE [NAME=VALUE ...]")] = ()
    """Arguments of the reader of the data, such as assume_success=true."""


def main(args: AnnotateArgs) -> None:
    """Annotate with a progress bar, and compare returns."""
    import numpy as np
    from tqdm import tqdm

    from libero_reward_envs.cli.convert import parse_options
    from libero_reward_envs.cli.openvla_features import OpenVLAFeatureArgs, encode_with_cache
    from libero_reward_envs.data.formats import load_episodes
    from libero_reward_envs.encoders.openvla_record import find_record, load_recorded_encoders
    from libero_reward_envs.evaluation.annotation import annotate_episodes
    from libero_reward_envs.reward_models.base import load_reward_model
    from libero_reward_envs.wrappers.reward_mix import RewardMix

    model: Any = load_reward_model(args.reward_model)
    if args.reward_type is not None:
        if not hasattr(model, "with_reward_type"):
            raise ValueError(f"--reward-type is for classifiers, got {type(model).__name__}.")
        model = model.with_reward_type(args.reward_type)
    data = args.data.resolve()  # "." has no name to put the result beside
    dataset = load_episodes(data, **parse_options(args.option))
    record = find_record(args.reward_model)
    if record is not None:
        encoders = load_recorded_encoders(record, args.features)
        cache = OpenVLAFeatureArgs(feature_cache=args.feature_cache)
        dataset = encode_with_cache(dataset, data, encoders, cache)
    elif args.features is not None or args.feature_cache is not None:
        raise ValueError(
            "--features and --feature-cache are for a reward on OpenVLA's features, "
            f"{args.reward_model!r} reads none. Leave them out."
        )
    mix = RewardMix(args.mode, args.env_weight, args.model_weight, args.step_cost, args.gamma)
    out = args.out or data.with_name(data.name + ".rewards.safetensors")
    with tqdm(total=len(dataset), desc="annotate", unit="episode") as bar:
        annotations = annotate_episodes(
            dataset, model, out, reward_mix=mix, on_episode=lambda n: bar.update(n - bar.n)
        )
    returns = np.array([rewards.sum() for rewards in annotations.rewards])
    success = np.array([summary.success for summary in dataset.summaries()], bool)
    for name, rows in (("successes", success), ("failures", ~success)):
        if rows.any():
            mean, spread = returns[rows].mean(), returns[rows].std()
            print(f"{rows.sum()} {name}: learned return {mean:.4g}, deviation {spread:.3g}")
    print(f"Rewards: {out}")
