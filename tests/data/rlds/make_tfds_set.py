"""Makes `tfds_features/`: a set that tensorflow-datasets itself writes, and what it reads from it.

    pip install tensorflow-cpu==2.21.0 tensorflow-datasets==4.9.10
    python tests/data/rlds/make_tfds_set.py

The set has three episodes in two shards with every kind of feature that `RldsSource` reads, and two
that it does not. `expected.npz` holds what `tfds.builder_from_directory(...)` gives, under
`<episode>/<path>`.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf  # pyright: ignore[reportMissingImports]
import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).parent
FOLDER = HERE / "tfds_features"
LENGTHS = (3, 1, 5)


class TfdsFeatures(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self) -> Any:
        feature = tfds.features
        observation = {
            "jpeg": feature.Image(shape=(24, 32, 3), encoding_format="jpeg"),
            "any_size": feature.Image(shape=(None, None, 3), encoding_format="png"),
            "grey": feature.Image(shape=(8, 8, 1), encoding_format="png"),
            "wide": feature.Image(shape=(4, 6, 1), dtype=np.uint16, encoding_format="png"),
            "depth": feature.Image(shape=(4, 6, 1), dtype=np.float32, encoding_format="png"),
            "arm": {"joints": feature.Tensor(shape=(7,), dtype=np.float32)},
            "float64": feature.Tensor(shape=(2, 3), dtype=np.float64),
            "as_bytes": feature.Tensor(shape=(2, 3), dtype=np.float64, encoding="bytes"),
            "as_zlib": feature.Tensor(shape=(5,), dtype=np.int16, encoding="zlib"),
            "int8": feature.Tensor(shape=(3,), dtype=np.int8),
            "uint64": feature.Tensor(shape=(2,), dtype=np.uint64),
            "contact": feature.Scalar(dtype=np.bool_),
            "mode": feature.ClassLabel(names=["rest", "move"]),
            "sequence": feature.Sequence(feature.Scalar(dtype=np.float32)),
            "note": feature.Text(),
        }
        steps = {
            "observation": observation,
            "action": feature.Tensor(shape=(3,), dtype=np.float32),
            "reward": feature.Scalar(dtype=np.float32),
            "discount": feature.Scalar(dtype=np.float32),
            "is_first": feature.Scalar(dtype=np.bool_),
            "is_last": feature.Scalar(dtype=np.bool_),
            "is_terminal": feature.Scalar(dtype=np.bool_),
            "language_instruction": feature.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Every kind of feature.",
            features=feature.FeaturesDict(
                {
                    "steps": feature.Dataset(steps),
                    "episode_metadata": {
                        "file_path": feature.Text(),
                        "seed": feature.Scalar(dtype=np.int32),
                        "ragged": feature.Sequence(feature.Scalar(dtype=np.int64)),
                    },
                }
            ),
        )

    def _split_generators(self, manager: Any) -> Any:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        for episode, n_steps in enumerate(LENGTHS):
            rng = np.random.default_rng(episode)
            steps = [make_step(rng, step, n_steps) for step in range(n_steps)]
            about = {"file_path": f"/data/{episode}.h5", "seed": -episode, "ragged": [1, 300, -1]}
            yield str(episode), {"steps": steps, "episode_metadata": about}


def make_step(rng: np.random.Generator, step: int, n_steps: int) -> dict[str, Any]:
    smooth = np.clip(np.add.outer(np.arange(24) * 4, np.arange(32) * 5) + 20 * step, 0, 255)
    image = np.stack([smooth, 255 - smooth, rng.integers(0, 255, (24, 32))], axis=-1)
    observation = {
        "jpeg": image.astype(np.uint8),
        "any_size": rng.integers(0, 256, (5, 7, 3), dtype=np.uint8),
        "grey": rng.integers(0, 256, (8, 8, 1), dtype=np.uint8),
        "wide": rng.integers(0, 2**16, (4, 6, 1), dtype=np.uint16),
        "depth": rng.normal(size=(4, 6, 1)).astype(np.float32),
        "arm": {"joints": rng.normal(size=7).astype(np.float32)},
        "float64": rng.normal(size=(2, 3)),
        "as_bytes": rng.normal(size=(2, 3)),
        "as_zlib": rng.integers(-(2**15), 2**15, 5, dtype=np.int16),
        "int8": rng.integers(-128, 128, 3, dtype=np.int8),
        "uint64": rng.integers(0, 2**64, 2, dtype=np.uint64),
        "contact": bool(rng.integers(2)),
        "mode": int(rng.integers(2)),
        "sequence": rng.normal(size=4).astype(np.float32),
        "note": f"step {step}",
    }
    return {
        "observation": observation,
        "action": rng.uniform(-1, 1, 3).astype(np.float32),
        "reward": float(step == n_steps - 1),
        "discount": 1.0,
        "is_first": step == 0,
        "is_last": step == n_steps - 1,
        "is_terminal": step == n_steps - 1,
        "language_instruction": "turn the knob, höher",
    }


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        name: value
        for key, child in tree.items()
        for name, value in flatten(child, f"{path}/{key}".lstrip("/")).items()
    }


def read(folder: Path) -> dict[str, np.ndarray]:
    """What tensorflow-datasets reads, in the order of the files."""
    config = tfds.ReadConfig(interleave_cycle_length=1)
    dataset = tfds.builder_from_directory(str(folder)).as_dataset(
        split="train", shuffle_files=False, read_config=config
    )
    found = {}
    for number, episode in enumerate(dataset):
        steps = [flatten(tfds.as_numpy(step)) for step in episode.pop("steps")]
        values = {f"steps/{name}": np.stack([step[name] for step in steps]) for name in steps[0]}
        values |= flatten(tfds.as_numpy(episode))
        for name, value in values.items():
            array = np.asarray(value)
            found[f"{number}/{name}"] = array.astype("S") if array.dtype == object else array
    return found


def main() -> None:
    tf.random.set_seed(0)
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        builder = TfdsFeatures(data_dir=folder)
        options = tfds.download.DownloadConfig(num_shards=2)
        builder.download_and_prepare(download_config=options)
        shutil.copytree(builder.data_path, FOLDER / "1.2.0")
    expected: dict[str, Any] = read(FOLDER / "1.2.0")
    np.savez_compressed(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
