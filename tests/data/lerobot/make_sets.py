"""Makes the sets of this folder with the lerobot package, and what that package reads from them.

    python tests/data/lerobot/make_sets.py <folder>

Run with lerobot 0.3.3 it makes v21_image and v21_video, with lerobot 0.4.4 v30_image and v30_video,
each beside an `expected` file: the numbers as they were written, and the images as lerobot decodes
them (videos by torchcodec). Used were Python 3.11, numpy 2.2.6 and torchcodec 0.17.0.
"""

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]  # in an environment of its own

LENGTHS = (4, 2, 5)
TASKS = ("open the drawer", "close the drawer", "open the drawer")
IMAGE = "observation.images.image"
# The sets with images in the tables lack these, like the published ones of LIBERO.
OUTCOME = {
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
}
IS_V3 = not version("lerobot").startswith("0.3")


def make_frames():
    """Yield the frames of each episode."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:64, :64] // 16 * 16
    for episode, length in enumerate(LENGTHS):
        yield [
            {
                IMAGE: np.stack(
                    [rows * 3 + 10 * step, columns * 3 + 30, 40 * episode + rows + columns], -1
                ).astype(np.uint8),
                "observation.state": rng.normal(size=2).astype(np.float32),
                "action": rng.uniform(-1, 1, 2).astype(np.float32),
                "next.reward": np.array([step / 8], np.float32),
                "next.success": np.array([step == length - 1 and episode != 1]),
            }
            for step in range(length)
        ]


def make_set(root, video):
    """Write a set."""
    image = {
        "dtype": "video" if video else "image",
        "shape": (64, 64, 3),
        "names": ["height", "width", "channels"],
    }
    features = {
        IMAGE: image,
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        **(OUTCOME if video else {}),
    }
    dataset = LeRobotDataset.create("a/b", fps=10, features=features, root=root, use_videos=video)
    for frames, task in zip(make_frames(), TASKS, strict=True):
        for frame in frames:
            frame = {key: value for key, value in frame.items() if key in features}
            if IS_V3:
                dataset.add_frame({**frame, "task": task})
            else:
                dataset.add_frame(frame, task=task)
        dataset.save_episode()
    if IS_V3:
        dataset.finalize()


def main(folder):
    """Write the sets and what is expected of them."""
    for kind in ("image", "video"):
        name = f"v{'30' if IS_V3 else '21'}_{kind}"
        make_set(folder / name, kind == "video")
        dataset = LeRobotDataset("a/b", root=folder / name)
        frames = [frame for episode in make_frames() for frame in episode]
        numbers = [key for key in frames[0] if key != IMAGE]
        expected = {key: np.stack([frame[key] for frame in frames]) for key in numbers}
        decoded = np.stack([dataset[i][IMAGE].numpy() for i in range(len(dataset))])
        expected[IMAGE] = np.round(decoded.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        # Left out here: pictures that are in the tables too, and what no test reads.
        shutil.rmtree(folder / name / "images", ignore_errors=True)
        (folder / name / "meta/stats.json").unlink(missing_ok=True)
        np.savez_compressed(folder / f"expected_{name}.npz", **expected)  # pyright: ignore[reportArgumentType]  # its stub takes no names but its own


if __name__ == "__main__":
    main(Path(sys.argv[1]))
