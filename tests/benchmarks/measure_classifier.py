"""How well does a success classifier find success on a LIBERO task?

    python tests/benchmarks/measure_classifier.py --image-size 64
    python tests/benchmarks/measure_classifier.py --image-size 128

LIBERO-Object task 0 (pick up the alphabet soup and place it in the basket), seen by the camera in
front of the robot, with LIBERO's own object models (README, "Object models"). Collected are
successes of the scripted expert with noise on its movements, and failures of five kinds:

- train/outcomes: 54 successes and 66 failures from the 50 stored initial states, of up to 120
  steps; successes go on for 10 steps.
- train/after: 40 successes that go on for 30 steps, in which the gripper goes away.
- test_seeds: 50 successes and 100 failures as in train/outcomes, from other seeds.
- test_states: as many, from initial states that the sampler draws anew.

A fifth of the training episodes is held out by episode; on it the epoch, the temperature and the
threshold are chosen. No test episode is used for that. An event is 2 of the last 3 frames above
the threshold, as in the wrappers' mode "success"; other windows are measured beside it.

Each stage goes on where it was stopped: collecting (most of the time; 60 ms a frame on one core),
training, measuring. Episodes, checkpoints and the model go into `--work-dir`. Writes into
`results/classifier/`: `measured_<size>.json` with everything, `summary.csv` with a row for each
size, test set and window, `curves_<size>.png`, and `frames_<size>.png` with the frames of the
episodes that were judged worst.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import libero_reward_envs  # noqa: F401  # isort: skip  # before torch, see envs/rendering.py
from run_log import write_rows

from libero_reward_envs.agents.collection import collect_episodes
from libero_reward_envs.atomic_files import write_atomically
from libero_reward_envs.data import EpisodeDataset, load_episodes
from libero_reward_envs.data.frames import RewardDataset, split_trajectories
from libero_reward_envs.envs.assets import cache_folder
from libero_reward_envs.evaluation.detection import (
    JudgedEpisode,
    judge_episodes,
    measure_detection,
)
from libero_reward_envs.evaluation.detection_figure import (
    FilmStrip,
    cut_strip,
    draw_detection,
    draw_film_strips,
)
from libero_reward_envs.evaluation.run_folder import installed_versions
from libero_reward_envs.reward_models.base import load_reward_model
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.classifier_fit import fit_classifier

TASK = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
RESULTS = Path(__file__).parent / "results" / "classifier"
CAMERA = "agentview"
SETS: Mapping[str, dict[str, Any]] = {
    "train/outcomes": {"n_episodes": 120, "success_fraction": 0.45, "seed": 100},
    "train/after": {
        "n_episodes": 40, "success_fraction": 1.0, "seed": 400,
        "steps_after_success": 30, "max_episode_steps": 150,
    },
    "test_seeds": {"n_episodes": 150, "success_fraction": 1 / 3, "seed": 200},
    "test_states": {
        "n_episodes": 150, "success_fraction": 1 / 3, "seed": 300, "init_states": "sampled",
    },
}  # fmt: skip
COLLECTION: Mapping[str, Any] = {
    "obs_type": "pixels_state",
    "steps_after_success": 10,
    "expert_noise": 0.12,
    "max_episode_steps": 120,
    "cameras": (CAMERA,),
}
TRAINING: Mapping[str, Any] = {
    "use_pretrain": False,
    "freeze_encoder": False,
    "n_epochs": 30,
    "frames_per_epoch": 2000,
    "batch_size": 32,
    "learning_rate": 3e-4,
    "lr_schedule": "cosine",
    "weight_decay": 1e-3,
    "target_false_positive_rate": 0.005,
    "seed": 0,
}
SHIFT = 16  # training images are shifted by up to a sixteenth of their height
WINDOWS = ((2, 3), (1, 1), (3, 5))  # the first one is the wrappers'
WITHIN_STEPS = 5
# Detection counts within 5 steps of true success; `early_share` says how often it came before.
GOALS = {"average_precision": 0.95, "false_trigger_share": 0.01, "near_share": 0.95}
N_STRIPS = 6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image-size", type=int, choices=(64, 128), default=64, help="pixels")
    parser.add_argument("--work-dir", type=Path, default=None, help="default: the cache folder")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--assets", default="auto", help="asset set or folder")
    return parser.parse_args()


def collect(name: str, size: int, work: Path, assets: str) -> Path:
    """Collect a file of episodes, or go on with it."""
    path = work / str(size) / f"{name}.hdf5"
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = {"init_states": "benchmark", "image_size": size, **COLLECTION, **SETS[name]}
    collect_episodes(TASK, out=path, assets=assets, **arguments)
    return path


def train(size: int, work: Path) -> ClassifierRewardModel:
    """Fit the classifier, or load it if that was done."""
    folder = work / str(size) / "model"
    if (folder / "config.json").exists():
        model = load_reward_model(folder)
        assert isinstance(model, ClassifierRewardModel)
        return model
    key, image_size = f"{CAMERA}_image", [3, size, size]
    dataset = RewardDataset.from_episodes(
        work / str(size) / "train", image_keys=key, image_size=image_size
    )
    print(dataset.describe())
    model = fit_classifier(
        *split_trajectories(dataset, 0.2, seed=0),
        image_keys=[key],
        image_size=image_size,
        max_shift_px=size // SHIFT,
        checkpoint_folder=work / str(size) / "checkpoints",
        on_progress=lambda report: print({k: round(v, 4) for k, v in report.items()}, flush=True),
        **TRAINING,
    )
    model.save_pretrained(folder)
    return model


def measure(
    model: ClassifierRewardModel, name: str, judged: Sequence[JudgedEpisode]
) -> list[dict[str, Any]]:
    """Return what each window detects on a test set."""
    rows = []
    for k, n in WINDOWS:
        measured = measure_detection(judged, model.threshold, k, n, within_steps=WITHIN_STEPS)
        is_reached = {
            "average_precision": measured["average_precision"] >= GOALS["average_precision"],
            "false_trigger_share": measured["false_trigger_share"] <= GOALS["false_trigger_share"],
            "near_share": measured["near_share"] >= GOALS["near_share"],
        }
        false = [judged[number].kind for number in measured["false_triggers"]]
        measured["false_trigger_kinds"] = {kind: false.count(kind) for kind in sorted(set(false))}
        measured["failed_kinds"] = count_kinds(judged)
        rows.append({"set": name, "window": f"{k} of {n}", "goals": is_reached, **measured})
    return rows


def count_kinds(judged: Sequence[JudgedEpisode]) -> dict[str, int]:
    kinds = [episode.kind for episode in judged if not episode.success]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def cut_worst(
    judged: Sequence[JudgedEpisode], dataset: EpisodeDataset, name: str, threshold: float
) -> list[FilmStrip]:
    """The false triggers and the late and missed detections; then the nearest to them."""
    worst: list[tuple[float, int, int]] = []  # how bad, episode, step
    for number, episode in enumerate(judged):
        trigger, first = episode.find_trigger(threshold, *WINDOWS[0]), episode.first_success
        if first is None or (trigger is not None and trigger < first):
            highest = int(episode.probabilities[:first].argmax())
            step = highest if trigger is None else trigger
            worst.append(((trigger is not None) + episode.probabilities[step], number, step))
        else:
            delay = len(episode.labels) if trigger is None else trigger - first
            worst.append((delay / WITHIN_STEPS, number, first + min(delay, 4)))
    strips = []
    for _, number, step in sorted(worst, reverse=True)[: N_STRIPS // 2]:
        images = dataset.read(number, (f"{CAMERA}_image",)).observations[f"{CAMERA}_image"][1:]
        title = f"{name}, episode {number}: {judged[number].kind}"
        strips.append(cut_strip(title, judged[number], images, step))
    return strips


def write_results(
    out: Path,
    size: int,
    assets: str,
    model: ClassifierRewardModel,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Write the JSON of this size, and the table of all sizes there are."""
    names = ("quality", "best_epoch", "train", "holdout", "settings", "orientation")
    content = {
        "task": TASK,
        "image_size": size,
        "assets": assets,
        "threshold": model.threshold,
        "temperature": model.temperature,
        "encoder_hash": model.training["encoder_hash"],
        "training": {name: model.training[name] for name in names},
        "collection": {**COLLECTION, "sets": dict(SETS)},
        "goals": GOALS,
        "measured": list(rows),
        "versions": installed_versions(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / f"measured_{size}.json", [json.dumps(content, indent=1).encode()])
    table = []
    for path in sorted(out.glob("measured_*.json"), key=lambda path: int(path.stem[9:])):
        stored = json.loads(path.read_text(encoding="utf-8"))
        for row in stored["measured"]:
            plain = {k: v for k, v in row.items() if not isinstance(v, list | dict)}
            plain = {k: round(v, 5) if isinstance(v, float) else v for k, v in plain.items()}
            table.append({"image_size": stored["image_size"], **plain})
    write_rows(out / "summary.csv", table)


def main() -> None:
    args = parse_args()
    size = args.image_size
    work = args.work_dir or cache_folder() / "classifier_benchmark"
    paths = {name: collect(name, size, work, args.assets) for name in SETS}
    model = train(size, work)
    print(model.training["quality"])
    rows: list[dict[str, Any]] = []
    strips: list[FilmStrip] = []
    judged: list[JudgedEpisode] = []
    for name in ("test_seeds", "test_states"):
        dataset = load_episodes(paths[name])
        found = judge_episodes(model, dataset)
        rows += measure(model, name, found)
        strips += cut_worst(found, dataset, name, model.threshold)
        judged += found
    assets = load_episodes(paths["test_seeds"]).summaries()[0].metadata["assets"]
    write_results(args.out, size, assets, model, rows)
    draw_detection(
        args.out / f"curves_{size}.png", judged, model.threshold, *WINDOWS[0],
        title=f"Success classifier at {size} x {size} pixels, both test sets",
    )  # fmt: skip
    draw_film_strips(args.out / f"frames_{size}.png", strips)
    for row in rows:
        print({k: v for k, v in row.items() if not isinstance(v, list)})


if __name__ == "__main__":
    main()
