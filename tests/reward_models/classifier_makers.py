"""Frames of a square that is bright after success, and a small classifier fitted to them."""

import numpy as np

from libero_reward_envs.data.trajectory_files import write_trajectory
from libero_reward_envs.reward_models.classifier_fit import fit_classifier

N_FRAMES = 12
SIZE = 32


def make_trajectory(seed, success):
    """Noise with a dark square that wanders; in the last third of a success, it is bright."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 140, (N_FRAMES, 3, SIZE, SIZE), dtype=np.uint8)
    labels = np.zeros(N_FRAMES, np.float32)
    labels[-N_FRAMES // 3 :] = success
    for image, label in zip(images, labels, strict=True):
        y, x = rng.integers(0, SIZE - 12, 2)
        image[:, y : y + 12, x : x + 12] = 255 if label else 0
    return images, labels


def write_folders(folder, n_positive=8, n_negative=10):
    for success, name, n in ((1, "positive", n_positive), (0, "negative", n_negative)):
        for number in range(n):
            images, labels = make_trajectory([number, success], success)
            write_trajectory(folder / name, {"camera": images}, labels)
    return folder


def fit(sides, weights_path=None, **changes):
    arguments = {
        "image_keys": ["camera"],
        "image_size": [3, SIZE, SIZE],
        "hidden_dim": 32,
        "num_spatial_blocks": 2,
        "n_epochs": 8,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "pretrained_encoder_path": weights_path,
        "use_pretrain": weights_path is not None,
        "freeze_encoder": weights_path is not None,
        **changes,
    }
    return fit_classifier(*sides, **arguments)


def read_all(dataset):
    rows = [dataset[i] for i in range(len(dataset))]
    images = np.stack([images["camera"].permute(1, 2, 0).numpy() for images, _ in rows])
    return {"camera": images}, np.array([label.item() for _, label in rows]) == 1
