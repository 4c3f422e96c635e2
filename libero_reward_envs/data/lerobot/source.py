"""LeRobotDataset, the format of the lerobot package, v2.0, v2.1 and v3.0, without that package.

A set is a folder with `meta/info.json`, tables in Parquet, and images as PNG in the tables or as
videos. It has T observations for T actions; what else an `Episode` has stands in files of our own,
see `records.py`, which sets of others lack: there the last observation is repeated, rewards
are 0 where there are none, and whether an episode succeeded must be in the set or be said. No file
says how the images are turned or which sign closes the gripper, so neither is known; the published
LIBERO sets descend from those of OpenVLA, whose images are turned by 180 degrees ("vla180").
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.data.action_scaling import (
    check_action_range,
    describe_range,
    rescale_actions,
)
from libero_reward_envs.data.episode_steps import EpisodeSteps, check_steps, make_steps
from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.lerobot.index import EpisodePlace
from libero_reward_envs.data.lerobot.info import INFO_FILE, Feature, read_info
from libero_reward_envs.data.lerobot.keys import map_features
from libero_reward_envs.data.lerobot.outcomes import Outcome, OutcomeRules
from libero_reward_envs.data.lerobot.parquet_rows import import_pyarrow
from libero_reward_envs.data.lerobot.records import Record, Records
from libero_reward_envs.data.lerobot.staging import pending_episodes
from libero_reward_envs.data.lerobot.tables import check_files, read_columns, read_steps, read_table
from libero_reward_envs.data.lerobot.v2 import index_v2
from libero_reward_envs.data.lerobot.v3 import index_v3
from libero_reward_envs.data.lerobot.writer import LerobotWriter
from libero_reward_envs.data.open_files import OpenFiles
from libero_reward_envs.data.provenance import PROVENANCE_KEY, Provenance
from libero_reward_envs.data.source_errors import SuccessUnknownError, check_on_error

__all__ = ["LerobotSource", "LerobotWriter", "is_lerobot"]


def is_lerobot(path: str | Path) -> bool:
    """Say whether a path is the folder of a LeRobotDataset, by names and first bytes."""
    folder = Path(path)
    try:
        with open(folder / INFO_FILE, "rb") as file:
            return b'"codebase_version"' in file.read(2**16)
    except OSError:
        return False


class LerobotSource:
    """The episodes of a LeRobotDataset, for `EpisodeDataset`.

    What is kept in memory is a few numbers an episode. A few files stay open between reads; each
    process opens its own. A video is decoded from the key frame before the step that is asked for,
    so a frame costs as many as lie between its key frames, two in sets of lerobot.

    Args:
        path: The set's folder.
        on_error: "raise", or "skip" to leave out episodes whose files are missing, cut short or
            not described. Damage within a file that only decoding shows is raised when it is read.
        key_map: What a feature is, see `map_features`, which names the defaults.
        assume_success: Whether the episodes succeeded, in a set that does not say.
        action_range: What of the stored actions becomes -1 and 1: (low, high), numbers or one a
            dimension. None if they are in [-1, 1].

    Attributes:
        skipped: What is wrong with each episode that was left out.
        observation_keys: The observations of an episode.

    Raises:
        FileNotFoundError: If there is no set.
        ValueError: If the set is damaged, of another version, or does not say what an argument
            must say.
        ImportError: If PyArrow, or for videos PyAV, is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        on_error: str = "raise",
        *,
        key_map: Mapping[str, str | None] | None = None,
        assume_success: bool | None = None,
        action_range: Sequence[float | Sequence[float]] | None = None,
    ) -> None:
        skips = check_on_error(on_error)
        import_pyarrow()
        self._folder = Path(path)
        self._files = OpenFiles()
        self._action_range = check_action_range(action_range)
        self._info = read_info(self._folder)
        waiting = pending_episodes(self._folder)
        if waiting and self._info.n_episodes == 0:
            raise ValueError(
                f"{len(waiting)} episodes wait in {str(self._folder)!r} to be put together. Close "
                "their writer; if it was killed, open a LerobotWriter there and close it."
            )
        self._records = Records(self._info)
        self._open_map(key_map, assume_success)
        self.skipped: list[str] = []
        build = index_v2 if self._info.major == 2 else index_v3
        self._index = build(self._info, self.skipped)
        if self.skipped and not skips:
            raise ValueError(self.skipped[0])
        if skips:
            self._index.keep([row for row in range(len(self._index)) if self._check(row)])
        all_recorded = bool((self._index.numbers < len(self._records)).all())
        if not all_recorded and not self._rules.are_complete:
            raise SuccessUnknownError(repr(str(self._folder)), "there is no column `next.success`")

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self._index)

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        """Read one episode, with all observations or only those named.

        Raises:
            ValueError: If an observation is not in the set, or a file is damaged.
        """
        place = self._place(index)
        chosen = self._choose(observation_keys)
        with_roles = [*chosen.values(), self._action, *self._rules.features.values()]
        features = list({feature.name: feature for feature in with_roles}.values())
        record = self._records.read(place.number, place.length)
        try:
            values = read_steps(self._files, place, features, 0, place.length, self._info.fps)
            final = self._read_final(record, chosen)
            outcome = self._judge(values, place.length)
            actions = values[self._action.name].reshape(place.length, -1)
            return Episode(
                observations={
                    key: self._join(feature, values[feature.name], final)
                    for key, feature in chosen.items()
                },
                actions=rescale_actions(actions, self._action_range),
                rewards=outcome.rewards,
                **self._describe(index, place, record, outcome),
            )
        except ValueError as error:
            raise ValueError(f"Episode {place.number} of {str(self._folder)!r}: {error}") from error

    def read_steps(
        self, index: int, start: int, stop: int, observation_keys: Sequence[str] | None = None
    ) -> EpisodeSteps:
        """Read steps of an episode, and of its observations no others.

        Raises:
            ValueError: If an observation or step is not there, or a file is damaged.
        """
        place, fps = self._place(index), self._info.fps
        check_steps(start, stop, place.length)
        chosen = self._choose(observation_keys)
        own = list({f.name: f for f in (self._action, *self._rules.features.values())}.values())
        record = self._records.read(place.number, place.length)
        last = min(stop + 1, place.length)
        try:
            told = read_steps(self._files, place, own, 0, place.length, fps)
            values = read_steps(self._files, place, list(chosen.values()), start, last, fps)
            final = self._read_final(record, chosen if stop == place.length else {})
            outcome = self._judge(told, place.length)
            stored = told[self._action.name].reshape(place.length, -1)
            known = outcome if record is None else record.summary
            return make_steps(
                start,
                {
                    key: self._join(f, values[f.name], final)[: stop - start + 1]
                    for key, f in chosen.items()
                },
                rescale_actions(stored, self._action_range)[start:stop],
                outcome.rewards,
                terminated=known.terminated,
                success=known.success,
            )
        except ValueError as error:
            raise ValueError(f"Episode {place.number} of {str(self._folder)!r}: {error}") from error

    def summaries(self) -> list[EpisodeSummary]:
        """Return what is known of the episodes without their observations."""
        numbers, lengths = self._index.numbers.tolist(), self._index.lengths.tolist()
        records = list(self._records.read_several(numbers, lengths))
        places = {i: self._place(i) for i, record in enumerate(records) if record is None}
        columns = read_columns(self._files, list(places.values()), self._rules.features)
        summaries = []
        for index, record in enumerate(records):
            if record is not None:
                summaries.append(record.summary)
                continue
            place = places[index]
            outcome = self._rules.judge(columns[place.number], place.length)
            summaries.append(
                EpisodeSummary(
                    length=place.length,
                    episode_return=float(outcome.rewards.sum(dtype=np.float64)),
                    **self._describe(index, place, None, outcome),
                )
            )
        return summaries

    def _open_map(
        self, key_map: Mapping[str, str | None] | None, assume_success: bool | None
    ) -> None:
        try:
            found = map_features(self._info.features, {**self._records.keys, **(key_map or {})})
        except ValueError as error:
            raise ValueError(f"Cannot read {str(self._folder)!r}: {error}") from None
        self._observations = found.observations
        self._action = found.roles["action"]
        self._rules = OutcomeRules(found.roles, assume_success)
        self.observation_keys = tuple(found.observations)

    def _place(self, index: int) -> EpisodePlace:
        if not 0 <= index < len(self):
            raise IndexError(f"Episode {index} of {len(self)}.")
        return self._index.place(index)

    def _check(self, row: int) -> bool:
        number = int(self._index.numbers[row])
        try:
            place = self._index.place(row)
            check_files(self._files, place, self._info.fps)
            record = self._records.read(number, place.length)
            self._read_final(record, {})
        except ValueError as error:
            self.skipped.append(f"Episode {number} of {str(self._folder)!r}: {error}")
            return False
        return True

    def _choose(self, observation_keys: Sequence[str] | None) -> dict[str, Feature]:
        keys = self.observation_keys if observation_keys is None else observation_keys
        if missing := [key for key in keys if key not in self._observations]:
            raise ValueError(
                f"No observation {', '.join(map(repr, missing))} in {str(self._folder)!r}. It has: "
                f"{', '.join(self.observation_keys)}."
            )
        return {key: self._observations[key] for key in keys}

    def _judge(self, values: Mapping[str, np.ndarray], length: int) -> Outcome:
        columns = {role: values[f.name] for role, f in self._rules.features.items()}
        return self._rules.judge(columns, length)

    def _read_final(
        self, record: Record | None, chosen: Mapping[str, Feature]
    ) -> dict[str, np.ndarray]:
        if record is None:
            return {}
        known = [feature for feature in chosen.values() if feature.name in self._records.keys]
        row = record.final_row
        return read_table(self._files, self._records.final_path(record), known, row, row + 1)

    def _join(
        self, feature: Feature, values: np.ndarray, final: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        last = final.get(feature.name, values[-1:])
        return self._shape(feature, np.concatenate([values, last]))

    def _shape(self, feature: Feature, values: np.ndarray) -> np.ndarray:
        return values.reshape(len(values), *self._records.shapes.get(feature.name, feature.shape))

    def _describe(
        self, index: int, place: EpisodePlace, record: Record | None, outcome: Outcome
    ) -> dict[str, Any]:
        """Return what `Episode` and `EpisodeSummary` have in common."""
        if record is not None:
            names = ("terminated", "success", "task", "instruction", "metadata")
            return {name: getattr(record.summary, name) for name in names}
        texts = self._index.tasks[index]
        return {
            "terminated": outcome.terminated,
            "success": outcome.success,
            "instruction": texts[0] if texts else "",
            "task": "",
            "metadata": {
                "episode_index": place.number,
                **({"tasks": list(texts)} if len(texts) > 1 else {}),
                PROVENANCE_KEY: self._make_provenance().as_json(),
            },
        }

    def _make_provenance(self) -> Provenance:
        images = [feature for feature in self._observations.values() if feature.is_image]
        sizes = {(feature.shape[0], feature.shape[1]) for feature in images}
        return Provenance(
            "lerobot",
            image_size=sizes.pop() if len(sizes) == 1 else None,
            control_freq_hz=float(self._info.fps),
            action_range=describe_range(self._action_range),
            reward_source=self._rules.reward_source,
            success_source=self._rules.success_source,
            final_observation="repeated",
        )
