"""RLDS sets: episodes in TFRecord shards, as TensorFlow Datasets writes them, without TensorFlow.

A set is a folder with `dataset_info.json`, `features.json` and shards; each record is one episode,
a `tf.train.Example` in which the values of all steps stand one after the other.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from libero_reward_envs.data.episodes import Episode, EpisodeSummary
from libero_reward_envs.data.rlds.episode import NO_SUCCESS, EpisodeLayout
from libero_reward_envs.data.rlds.features import parse_features
from libero_reward_envs.data.rlds.files import (
    FEATURES_FILE,
    INFO_FILE,
    find_folder,
    is_rlds,
    read_info,
    read_json,
)
from libero_reward_envs.data.rlds.records import Place, RecordTable
from libero_reward_envs.data.rlds.tf_example import index_example
from libero_reward_envs.data.rlds.tf_example_places import locate_features
from libero_reward_envs.data.rlds.tfrecord import read_record
from libero_reward_envs.data.rlds.writer import RldsWriter
from libero_reward_envs.data.source_errors import SuccessUnknownError, check_on_error

__all__ = ["RldsSource", "RldsWriter", "is_rlds"]

logger = logging.getLogger(__name__)


class RldsSource:
    """The episodes of one split of an RLDS set.

    Each numeric `steps/observation/<key>` becomes the observation `<key>`; texts are left out. The
    layout has T observations for T actions, so the last one stands twice, unless `RldsWriter` wrote
    the set. JPEG is decoded to what TensorFlow decodes it to, bit for bit. `success` is what
    `episode_metadata/success` says, else whether a reward is 1; without `reward` all rewards are 0,
    and without `is_terminal` no episode is terminated.

    Sets that a name of theirs calls a LIBERO suite get the package's names of the two cameras and,
    from the file that an episode was made of, its task. If their features are those of
    `openvla/modified_libero_rlds`, the provenance says what is known of these: images turned by 180
    degrees, 20 Hz, displacements as actions, gripper closed at 1, without no-ops where the folder's
    name ends in `_no_noops`. Of other sets nothing is supposed.

    Where `RldsWriter` has not finished a set, or was killed, what it wrote so far is read.

    Opening reads the two JSON files. Of a shard the places of its records are looked up when one of
    them is read first; 16 bytes an episode stay in memory.

    Args:
        path: The folder with the two files, or the one above with one folder named by a version.
        split: Name of the split.
        on_error: "raise"; or "skip" to leave damaged episodes out. The first use then reads the set
            once from end to end and checks everything but the pixels.
        key_map: Our name of an observation by the set's; others keep theirs. None for `image` ->
            `agentview_image` and `wrist_image` -> `robot0_eye_in_hand_image` in LIBERO's sets.
        action_key: Path of the actions below `steps`.
        action_range: Least and greatest values (low, high) of the actions, numbers or arrays of
            shape (a,), which are mapped to -1 and 1. Needed where actions leave [-1, 1].
        instruction_key: Path of the instruction; None to look in the usual places, "" for none.
        assume_success: Whether episodes succeeded that have no reward of 1; not for LIBERO's sets,
            and not where `episode_metadata/success` says it.
        last_step_is_observation: Whether the last step holds the last observation only and its
            action and reward mean nothing, as RLDS's own definition has it. LIBERO's sets, and
            most others of robots, hold a whole step there.

    Attributes:
        observation_keys: The names of the observations.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a file is damaged, or the features are not those of episodes.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        on_error: str = "raise",
        *,
        key_map: Mapping[str, str] | None = None,
        action_key: str = "action",
        action_range: tuple[Any, Any] | None = None,
        instruction_key: str | None = None,
        assume_success: bool | None = None,
        last_step_is_observation: bool = False,
    ) -> None:
        self._skips = check_on_error(on_error)
        folder = find_folder(path)
        if folder is None:
            files = f"{INFO_FILE} and {FEATURES_FILE}"
            raise FileNotFoundError(
                f"No RLDS set at {str(path)!r}: expected a folder with {files}."
            )
        with _name_errors(str(folder)):
            info = read_info(folder, split)
            self._layout = EpisodeLayout(
                parse_features(read_json(folder, FEATURES_FILE)),
                folder,
                info.name,
                key_map=key_map,
                action_key=action_key,
                action_range=action_range,
                instruction_key=instruction_key,
                assume_success=assume_success,
                last_step_is_observation=last_step_is_observation,
            )
        self.observation_keys = tuple(self._layout.observations)
        self._records = RecordTable(info.shards)
        self._kept: np.ndarray | None = None
        self._skipped: list[str] = []

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self._positions())

    @property
    def skipped(self) -> list[str]:
        """File, episode, key and reason of what was left out by `on_error="skip"`."""
        self._positions()
        return list(self._skipped)

    def read(self, index: int, observation_keys: Sequence[str] | None = None) -> Episode:
        """Read an episode, with all observations or those named; its checksum is checked.

        Raises:
            IndexError: If there is no episode `index`.
            ValueError: If it is damaged, or has no such observation.
        """
        position = int(self._positions()[index])
        with self._name_episode(position):
            return self._layout.decode(self._read_features(position), observation_keys)

    def read_image(self, index: int, key: str, step: int) -> np.ndarray:
        """Read one image, shape (H, W, C), and nothing else of the episode.

        The checksum covers the whole episode and is not checked here.

        Args:
            index: The episode.
            key: The observation.
            step: 0 to T - 1, the images before each action.

        Raises:
            IndexError: If there is no such episode.
            ValueError: If there is no such image, or it is damaged.
        """
        position = int(self._positions()[index])
        with self._name_episode(position):
            place = self._records.find(position)
            with open(place.path, "rb", buffering=0) as file:
                return self._layout.decode_image(_make_reader(file, place), place.length, key, step)

    def summaries(self) -> list[EpisodeSummary]:
        """Return what is known without observations, of which none is read from the disk.

        Checksums of episodes cover observations and are not checked here.
        """
        summaries = []
        path, file = None, None
        with contextlib.ExitStack() as stack:
            for position in map(int, self._positions()):
                with self._name_episode(position):
                    place = self._find(position)
                    if file is None or path != place.path:
                        stack.close()
                        path, file = place.path, stack.enter_context(open(place.path, "rb", 0))
                    features = _read_few_features(file, place, self._layout.summary_paths)
                    if features is None:  # not laid out as usual
                        features = self._read_features(position)
                    summaries.append(self._layout.summarize(features))
        return summaries

    def _read_features(self, position: int) -> dict[str, memoryview]:
        return index_example(read_record(*self._find(position)))

    def _find(self, position: int) -> Place:
        if not self._skips:
            self._records.check_surplus(self._records.shard_number(position))
        return self._records.find(position)

    def _positions(self) -> Sequence[int] | np.ndarray:
        """Return the position in the set of each episode that is not left out."""
        if not self._skips:
            return range(len(self._records))
        if self._kept is None:
            self._skipped = []
            shards = range(self._records.n_shards)
            self._kept = np.fromiter((i for shard in shards for i in self._scan(shard)), np.int64)
            for reason in self._skipped:
                logger.warning("Episodes are skipped. %s", reason)
        return self._kept

    def _scan(self, shard: int) -> Iterator[int]:
        """Yield the positions of a shard's sound episodes, and note what is wrong with others."""
        sound, lost = self._records.find_sound(shard)
        for position in sound:
            if self._note(
                lambda at=position: self._layout.check(self._read_features(at)), position
            ):
                yield position
        if lost:
            self._note(lambda: self._records.find(lost[0]), lost[0], lost[-1])
        if sound:
            self._note(lambda: self._records.check_surplus(shard), sound[0], sound[-1])

    def _note(self, check: Callable[[], object], *positions: int) -> bool:
        try:
            with self._name_episode(*positions):
                check()
        except SuccessUnknownError:
            raise
        except ValueError as error:
            self._skipped.append(str(error))
            return False
        return True

    @contextlib.contextmanager
    def _name_episode(self, position: int, last: int | None = None) -> Iterator[None]:
        through = "" if last in (None, position) else f" to {last}"
        path = str(self._records.shard_path(position))
        try:
            with _name_errors(path, f", episode {position}{through}"):
                yield
        except SuccessUnknownError:
            raise SuccessUnknownError(f"episode {position} of {path!r}", NO_SUCCESS) from None


def _make_reader(file: IO[bytes], place: Place) -> Callable[[int, int], bytes]:
    """Return what reads bytes of a record's payload by their place there."""

    def read(start: int, size: int) -> bytes:
        size = min(size, place.length - start)
        file.seek(place.offset + start)
        content = file.read(size)
        if len(content) < size:
            raise ValueError("the file has become shorter since it was indexed")
        return content

    return read


def _read_few_features(
    file: IO[bytes], place: Place, paths: Sequence[str]
) -> dict[str, memoryview] | None:
    read = _make_reader(file, place)
    places = locate_features(read, place.length)
    if places is None:
        return None
    # Sequences inside a step have two features, whose names go on behind the path.
    found = [key for key in places if key in paths or key.rpartition("/")[0] in paths]
    return {key: memoryview(read(*places[key])) for key in found}


@contextlib.contextmanager
def _name_errors(path: str, part: str = "") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"Cannot read {path!r}{part}: the file is missing.") from error
    except SuccessUnknownError:
        raise
    except (OSError, ValueError) as error:
        message = str(error).rstrip(".")
        raise ValueError(f"Cannot read {path!r}{part}: {message}.") from error
