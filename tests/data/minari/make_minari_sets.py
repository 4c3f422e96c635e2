"""Make the small sets of `sets.zip` with Minari's own library.

Run in an environment of its own with `pip install "minari[hdf5]==0.5.4" pillow`:

    python tests/data/minari/make_minari_sets.py

Writes into the archive a folder for each set, and `expected.npz`, what Minari reads of them.
"""

import os
import shutil
import tempfile
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np

FOLDER = Path(tempfile.mkdtemp())
os.environ["MINARI_DATASETS_PATH"] = str(FOLDER)

import minari  # noqa: E402  # pyright: ignore[reportMissingImports]  not one of ours
from minari.data_collector.episode_buffer import EpisodeBuffer  # noqa: E402  # pyright: ignore[reportMissingImports]

warnings.filterwarnings("ignore")

BOX = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
COLOUR = gym.spaces.Box(0, 255, (32, 40, 3), np.uint8)
GREY = gym.spaces.Box(0, 255, (32, 40), np.uint8)
PIXELS = gym.spaces.Dict({"image": COLOUR, "grey": GREY, "robot": gym.spaces.Dict({"pos": BOX})})
WIDE = gym.spaces.Box(np.array([-2, 0], np.float32), np.array([2, 5], np.float32))
UNIT = gym.spaces.Box(-1, 1, (2,), np.float32)


def stack(space, steps):
    """Join what was sampled from a space, as an episode buffer holds it."""
    if isinstance(space, gym.spaces.Dict):
        return {key: stack(part, [step[key] for step in steps]) for key, part in space.items()}
    return np.stack(steps)


def make_image(rng):
    """Return smooth colours, which JPEG makes small."""
    corner = rng.integers(0, 200, 3)
    rows, columns = np.mgrid[0:32, 0:40]
    return (corner + (rows + columns)[:, :, None] // 2).astype(np.uint8)


def make_episode(seed, n_steps, observation_space, action_space, *, infos=True):
    """Return an episode that ends in a success if its seed is odd."""
    rng = np.random.default_rng(seed)
    for space in (observation_space, action_space):
        space.seed(seed)
    observations = [observation_space.sample() for _ in range(n_steps + 1)]
    for observation in observations:
        if isinstance(observation, dict):
            observation["image"] = make_image(rng)
            observation["grey"] = np.full((32, 40), 7, np.uint8)  # files of one size
    success = np.zeros(n_steps + 1, bool)
    success[-1] = seed % 2
    return EpisodeBuffer(
        seed=seed,
        observations=stack(observation_space, observations),
        actions=stack(action_space, [action_space.sample() for _ in range(n_steps)]),
        rewards=rng.normal(size=n_steps).tolist(),
        terminations=[False] * (n_steps - 1) + [bool(seed % 2)],
        truncations=[False] * (n_steps - 1) + [not seed % 2],
        infos={"success": success} if infos else None,
    )


def flatten(name, value):
    if isinstance(value, dict):
        return {k: v for part in value for k, v in flatten(f"{name}/{part}", value[part]).items()}
    return {name: np.asarray(value)}


def make_set(name, lengths, observation_space, action_space, **keywords):
    """Write a set, and return what Minari reads of it by `<set>/<episode>/<name>`."""
    infos = keywords.pop("infos", True)
    episodes = [
        make_episode(seed, length, observation_space, action_space, infos=infos)
        for seed, length in enumerate(lengths)
    ]
    made = minari.create_dataset_from_buffers(  # pyright: ignore[reportAttributeAccessIssue]
        name, episodes, observation_space=observation_space, action_space=action_space, **keywords
    )
    expected = {}
    for episode in made.iterate_episodes():
        for part in ("observations", "actions", "rewards", "terminations"):
            expected |= flatten(f"{name}/{episode.id}/{part}", getattr(episode, part))
    return expected


def main():
    """Make all sets."""
    expected = {
        **make_set("box-v0", [2, 5, 3], BOX, WIDE),
        **make_set("jpeg-v0", [2, 3], PIXELS, UNIT),
        **make_set("raw-v0", [2, 2], PIXELS, UNIT, jpeg_encoding=False),
        **make_set("silent-v0", [3], BOX, UNIT, infos=False),
    }
    make_set("discrete-v0", [2], BOX, gym.spaces.Discrete(4))
    np.savez_compressed(FOLDER / "expected.npz", **expected)
    shutil.make_archive(str(Path(__file__).with_name("sets")), "zip", FOLDER)
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
