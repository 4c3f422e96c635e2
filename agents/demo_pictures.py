"""The picture stage of `libero-reward demo`: one held-out success and one failure, drawn."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.evaluation.replay import (
    Replay,
    ReplayedEpisode,
    encode_jpeg,
    replay_episode,
    write_video,
)
from libero_reward_envs.evaluation.run_folder import RunFolder
from libero_reward_envs.reward_models.base import RewardModel

PICTURES_FOLDER = "pictures"
_INDEX_FILE = "pictures.json"
_VIDEO_FRAMES = 70  # at most; software GL draws about 30 a second
_VIDEO_FPS = 15.0


def draw_episodes(
    run: RunFolder,
    holdout: EpisodeDataset,
    model: RewardModel,
    env_arguments: Mapping[str, Any],
    *,
    n_pictures: int,
) -> None:
    """Replay the typical held-out success and failure, and write their pictures and videos.

    Where there is no GL backend, the reason is written instead.
    """
    from libero_reward_envs.envs.libero_env import LiberoEnv

    with run.new_folder(PICTURES_FOLDER) as folder:
        partial = RunFolder(folder)
        index: dict[str, Any] = {"no_pictures": None, "episodes": []}
        env = LiberoEnv(**env_arguments, render_mode="rgb_array")
        try:
            for name, success in (("success", True), ("failure", False)):
                episode = choose_typical(model, holdout, success)
                if episode is None:
                    continue
                entry = {**_describe(name, episode, model), "n_pictures": 0, "video": False}
                index["episodes"].append(entry)
                if index["no_pictures"] is None and n_pictures > 0:
                    try:
                        entry.update(_draw(partial, name, episode, env, n_pictures))
                    except RuntimeError as error:  # no GL backend, or one that does not work
                        index["no_pictures"] = str(error)
        finally:
            env.close()
        partial.write_json(_INDEX_FILE, index)


def choose_typical(model: RewardModel, episodes: EpisodeDataset, success: bool) -> Episode | None:
    """Return the episode of an outcome with the median mean reward; None if there is none."""
    matching = episodes.filter(lambda summary: summary.success == success)
    if not len(matching):
        return None
    means = [float(model.compute_reward(episode.transitions()).mean()) for episode in matching]
    return matching[int(np.argsort(means)[len(means) // 2])]


def load_episodes_drawn(run: RunFolder) -> tuple[list[ReplayedEpisode], str | None]:
    """Return what `draw_episodes` wrote, and why there are no pictures if there are none."""
    folder = RunFolder(run / PICTURES_FOLDER)
    index = folder.read_json(_INDEX_FILE)
    replays = [
        ReplayedEpisode(
            name=entry["name"],
            rewards=np.array(entry["rewards"], np.float32),
            gripper_closes=np.array(entry["gripper_closes"], bool),
            pictures=[
                _picture_path(folder, entry["name"], number).read_bytes()
                for number in range(entry["n_pictures"])
            ],
            video=(folder / f"{entry['name']}.mp4").read_bytes() if entry["video"] else None,
            largest_difference=entry.get("largest_difference"),
        )
        for entry in index["episodes"]
    ]
    return replays, index["no_pictures"]


def _draw(
    folder: RunFolder, name: str, episode: Episode, env: Any, n_pictures: int
) -> dict[str, Any]:
    with tqdm(total=len(episode), desc=f"draw a {name}", unit="step") as bar:
        replay: Replay = replay_episode(
            episode,
            env,
            n_pictures=n_pictures,
            video_stride=math.ceil(len(episode) / _VIDEO_FRAMES),
            on_step=bar.update,
        )
    for number, picture in enumerate(replay.pictures):
        _picture_path(folder, name, number).write_bytes(encode_jpeg(picture))
    write_video(folder / f"{name}.mp4", replay.video, _VIDEO_FPS)
    return {
        "n_pictures": len(replay.pictures),
        "video": True,
        "largest_difference": replay.largest_difference,
    }


def _describe(name: str, episode: Episode, model: RewardModel) -> dict[str, Any]:
    rewards = model.compute_reward(episode.transitions())
    return {
        "name": name,
        "rewards": [float(reward) for reward in rewards],
        "gripper_closes": [bool(action > 0) for action in episode.actions[:, -1]],
    }


def _picture_path(folder: RunFolder, name: str, number: int) -> Path:
    return folder / f"{name}_{number}.jpg"
