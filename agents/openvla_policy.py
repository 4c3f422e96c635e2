"""OpenVLA as an agent: from observations to actions, for many environments at once."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libero_reward_envs.agents.openvla_loading import (
    LoadedPolicy,
    ProprioNormalizer,
    choose_settings,
    find_policy_folders,
    load_policy_parts,
)
from libero_reward_envs.openvla.libero_conventions import to_env_actions
from libero_reward_envs.openvla.oft import predict_chunk
from libero_reward_envs.openvla.policy_inputs import InputReader, PolicyInputs
from libero_reward_envs.openvla.prompt import make_prompt

GRIPPERS = ("libero", "none")


class OpenVLAPolicy:
    """Acts by an OpenVLA checkpoint, with Stable-Baselines3's `predict`.

    Pictures go the way of the published evaluation, see `prepare_policy_images`, actions are given
    their unit by the checkpoint's statistics, and the gripper is turned from OpenVLA's convention
    (1 open) to LIBERO's (-1 open). One forward pass serves all environments; each gets exactly what
    it would get alone. Where a checkpoint predicts chunks (OFT), the rest of a chunk waits for the
    next steps of its environment, until an episode begins anew.

    Args:
        loaded: Model, processor, statistics.
        inputs: What it takes of an observation.
        instruction: What to do where a call does not say it.
        gripper: "libero", or "none" for robots whose last number is no such gripper.
        normalization: How actions were normalised in training, see `NORMALIZATIONS`.
        prompt_version: "v02", or "v01" for the first checkpoints.

    Attributes:
        unnorm_key: Whose statistics give the actions their unit.
        fingerprint: SHA-256 of the checkpoint's files.

    Raises:
        ValueError: If an argument is none of those, or the state of the robot that the checkpoint
            asks for has no statistics.
    """

    def __init__(
        self,
        loaded: LoadedPolicy,
        inputs: InputReader,
        *,
        instruction: str | None = None,
        gripper: str = "libero",
        normalization: str = "q99",
        prompt_version: str = "v02",
    ) -> None:
        if gripper not in GRIPPERS:
            raise ValueError(f"`gripper` must be one of {', '.join(GRIPPERS)}, got {gripper!r}.")
        self.model, self.processor, self.parts = loaded.model, loaded.processor, loaded.parts
        self.unnorm_key, self.fingerprint = loaded.unnorm_key, loaded.fingerprint
        self.inputs = inputs
        self.instruction = instruction
        self.gripper, self.normalization = gripper, normalization
        self._prompt_version = prompt_version
        self._waiting: dict[int, deque[np.ndarray]] = {}
        has_proprio = self.parts is not None and self.parts.proprio_projector is not None
        self._normalize_proprio = ProprioNormalizer(loaded, normalization) if has_proprio else None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        unnorm_key: str | None = None,
        image_keys: Sequence[str] | None = None,
        orientation: str = "upright",
        center_crop: bool | None = None,
        jpeg: bool | None = None,
        gripper: str | None = None,
        normalization: str | None = None,
        prompt_version: str | None = None,
        adapter: str | Path | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        quantization: str | None = None,
        instruction: str | None = None,
        chunk_size: int | None = None,
        attn_implementation: str = "sdpa",
        check: bool = True,
        **hub_options: Any,
    ) -> "OpenVLAPolicy":
        """Load a checkpoint, and check that the model sees each image and the instruction.

        What is None of the first seven is as fine-tuning noted it beside the checkpoint, in
        `openvla_policy.json`, else as for the published ones.

        Args:
            name_or_path: A folder, a Hub id, "tiny-random-openvla", or the folder of an adapter
                that names its base, or of a run of fine-tuning.
            unnorm_key: Whose statistics give the actions their unit, such as "libero_object"; not
                needed if there is one data set.
            image_keys: The images, one of each camera, in the order of training.
            orientation: How the environment's images are turned: "upright", "raw" or "vla180".
            center_crop: Whether training cut random crops, as the released checkpoints' did.
            jpeg: Whether pictures go through a JPEG file, as the data of training did.
            gripper: See the class, also for the following two.
            normalization: See there.
            prompt_version: See there.
            adapter: Folder or Hub id of a PEFT adapter. It is merged unless weights are quantised;
                a `dataset_statistics.json` beside it takes the place of the base's.
            device: "auto" for a GPU if there is one.
            dtype: Of weights and computing; if None float32 on a CPU, else the checkpoint's.
            quantization: None, "4bit" or "8bit", by bitsandbytes.
            instruction: What to do where a call does not say it.
            chunk_size: Actions of a chunk, for checkpoints of OFT; None for 8 where there is an
                action head, and for one token after the other where there is none.
            attn_implementation: Of the language model: "sdpa", "eager" or "flash_attention_2".
            check: Whether to check that inputs make a difference.
            hub_options: `revision`, `local_files_only`, `token`, `cache_dir`.

        Raises:
            FileNotFoundError: If there is no checkpoint, or a file of it is missing.
            ImportError: If timm, peft or bitsandbytes is needed and not installed.
            MemoryError: If the device has no room.
            RuntimeError: If an image or the instruction makes no difference.
            ValueError: If a file is damaged, there are no statistics under `unnorm_key`, or an
                argument is none of those.
        """
        folders = find_policy_folders(name_or_path, adapter, **hub_options)
        given = {"image_keys": image_keys, "center_crop": center_crop, "unnorm_key": unnorm_key}
        given |= {"jpeg": jpeg, "gripper": gripper, "normalization": normalization}
        chosen = choose_settings(folders, {**given, "prompt_version": prompt_version})
        reader = InputReader(chosen["image_keys"], orientation, chosen["crop_area"], chosen["jpeg"])
        loaded = load_policy_parts(
            folders,
            unnorm_key=chosen["unnorm_key"],
            device=device,
            dtype=dtype,
            quantization=quantization,
            attn_implementation=attn_implementation,
            chunk_size=chunk_size,
            n_views=len(reader.image_keys),
            check=check,
        )
        if loaded.parts is not None and (projector := loaded.parts.proprio_projector) is not None:
            reader = dataclasses.replace(reader, n_proprio=projector.proprio_dim)
        used = {name: chosen[name] for name in ("gripper", "normalization", "prompt_version")}
        return cls(loaded, reader, instruction=instruction, **used)

    @property
    def chunk_size(self) -> int:
        """Actions that are predicted at a time."""
        return 1 if self.parts is None else self.parts.chunk_size

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the actions, as JSON would hold it; weights by their hash."""
        quantization = getattr(self.model.config, "quantization_config", None)
        bits = {name: getattr(quantization, f"load_in_{name}", False) for name in ("4bit", "8bit")}
        parts = self.parts
        return {
            "checkpoint_fingerprint": self.fingerprint,
            "precision": str(self.model.dtype).removeprefix("torch."),
            "quantization": next((name for name, is_on in bits.items() if is_on), None),
            "unnorm_key": self.unnorm_key,
            "normalization": self.normalization,
            "image_keys": list(self.inputs.image_keys),
            "crop_area": self.inputs.crop_area,
            "jpeg": self.inputs.jpeg,
            "n_proprio": self.inputs.n_proprio,
            "chunk_size": self.chunk_size,
            "action_head": None if parts is None else ("l1" if parts.action_head else "tokens"),
            "gripper": self.gripper,
            "prompt_version": self._prompt_version,
        }

    def reset(self, indices: Iterable[int] | None = None) -> None:
        """Drop what is left of action chunks.

        Args:
            indices: Of which environments; None for all.
        """
        if indices is None:
            self._waiting = {}
        else:
            for index in indices:
                self._waiting.pop(index, None)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        *,
        instruction: str | Sequence[str] | None = None,
    ) -> tuple[np.ndarray, None]:
        """Return the next action and None, which stands for SB3's recurrent state.

        Args:
            observation: Images by key, (H, W, 3) uint8 of one environment or (n, H, W, 3), and the
                robot's state where the checkpoint asks for it; or the image alone.
            state: Not used.
            episode_start: Shape (n,), bool; where True, what is left of a chunk is dropped.
            deterministic: Not used: the most probable action is always taken.
            instruction: What to do, for all or one for each environment; None for the one that was
                given when the policy was made.

        Returns:
            The action, (a,) or (n, a) float32, in [-1, 1], and None.

        Raises:
            MemoryError: If the device has no room for so many at once.
            ValueError: If an image or the instruction is missing or not valid.
        """
        prepared = self.inputs(observation)
        n = len(prepared.images[0])
        if episode_start is not None:
            self.reset(np.flatnonzero(episode_start).tolist())
        told = self.instruction if instruction is None else instruction
        instructions = [told] * n if told is None or isinstance(told, str) else list(told)
        actions = self.act(prepared, instructions, range(n))
        return (actions[0] if self.inputs.is_single(observation) else actions), None

    def act(
        self,
        prepared: PolicyInputs,
        instructions: Sequence[str | None],
        rows: Sequence[int],
    ) -> np.ndarray:
        """Return actions, (n, a) float32, of some environments, from what `inputs` prepared.

        Args:
            prepared: Pictures and robots' states, n of each.
            instructions: What each is to do.
            rows: Which environments they are, by numbers that stay the same: what is left of a
                chunk is kept under them.

        Raises:
            MemoryError: See `predict`.
            ValueError: Likewise.
        """
        n = len(prepared.images[0])
        if not len(instructions) == len(rows) == n:
            raise ValueError(
                f"Expected an instruction for each of {n} environments, got {len(instructions)}."
            )
        asking = [index for index, row in enumerate(rows) if not self._waiting.get(row)]
        if asking:
            told = [self._make_prompt(instructions[index]) for index in asking]
            chunks = self._predict_chunks(prepared.choose(asking), told)
            for index, chunk in zip(asking, chunks, strict=True):
                self._waiting[rows[index]] = deque(chunk)
        return np.stack([self._waiting[row].popleft() for row in rows])

    def _predict_chunks(self, inputs: PolicyInputs, prompts: list[str]) -> np.ndarray:
        """Return actions of the environment, (n, k, a) float32."""
        model = self.model
        dtype = model.vision_backbone.featurizer.patch_embed.proj.weight.dtype
        try:
            batch = self.processor(prompts, *inputs.images, dtype=dtype).to(model.device)
            told = (batch["input_ids"], batch["pixel_values"], self.unnorm_key)
            options: dict[str, Any] = {
                "attention_mask": batch["attention_mask"],
                "normalization": self.normalization,
            }
            if self.parts is None:
                actions = model.predict_action(*told, **options)[:, None]
            else:
                if self._normalize_proprio is not None and inputs.proprio is not None:
                    options["proprio"] = self._normalize_proprio(inputs.proprio)
                actions = predict_chunk(model, self.parts, *told, **options)
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"No room on {model.device} for {len(prompts)} environments at once. Take fewer, "
                "or load the checkpoint in bfloat16 or with `quantization='4bit'`."
            ) from error
        if self.gripper == "libero":
            actions = to_env_actions(actions)
        return np.clip(actions, -1.0, 1.0).astype(np.float32)

    def _make_prompt(self, instruction: str | None) -> str:
        if instruction is None:
            raise ValueError(
                "Expected an instruction, got none. Give `instruction` to `predict`, or when the "
                "policy is made; the env's info has it under 'instruction'."
            )
        return make_prompt(instruction, self._prompt_version)
