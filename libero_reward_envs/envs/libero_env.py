"""One LIBERO task as a Gymnasium environment."""

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from libero_reward_envs.data.orientations import ORIENTATIONS, turn_images
from libero_reward_envs.envs import assets as asset_sets
from libero_reward_envs.envs import tasks
from libero_reward_envs.envs.scene import StatePart, read_scene

OBS_TYPES = ("state", "pixels", "pixels_state")
INIT_STATES = ("benchmark", "sampled")
RESET_OPTIONS = ("init_state_id", "init_state")
ACTION_DIM = 7
CONTROL_FREQ_HZ = 20
NO_OP = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)  # stay, gripper open
_RENDER_CAMERA, _RENDER_SIZE = "agentview", 256


class LiberoEnv(gym.Env[Any, np.ndarray]):
    """A LIBERO task: a Panda arm, a scene and an instruction.

    Action: `Box(-1, 1, (7,), float32)`, at 20 Hz.

    | index | meaning | at 1 |
    | --- | --- | --- |
    | 0-2 | displacement of the gripper in x, y, z of the world | 0.05 m |
    | 3-5 | rotation vector of the gripper, about the world's axes | 0.5 rad |
    | 6 | gripper | closes; -1 opens |

    Observation: "state" is a flat `Box(float32)` whose parts `state_layout` names; "pixels" is a
    `Dict` of `<camera>_image`, (H, W, 3) uint8; "pixels_state" is that `Dict` with the state under
    "state". Values are LIBERO's own, its lag of one substep included.

    Reward: 1 when the task's goal holds, else 0. `terminated` is success. There is no time limit
    inside: it is `TimeLimit`'s, by the suite. `info` has `is_success`, `success`, `task`,
    `instruction`, `init_state_id`, `assets`, `reward/env` and `progress`, the share of the goal's
    predicates that hold.

    `reset(seed=...)` decides the initial state and where the fixtures stand. Resets without a seed
    go through the stored states in a drawn order. `options` may name the initial state:
    `{"init_state_id": k}` or `{"init_state": array}`.

    Args:
        suite: "libero_spatial", "libero_object", "libero_goal", "libero_10" or "libero_90". Not
            needed when `task` says it; "libero_object" when `task` is an index.
        task: Index in the suite, LIBERO's name of the task, or the path of a BDDL file.
        obs_type: "state", "pixels" or "pixels_state". Nothing is drawn that is not asked for.
        cameras: Cameras of the pixel observation.
        image_size: Height and width of the images, in pixels.
        orientation: "upright" (the true view), "raw" (upside down, LIBERO's own files) or "vla180"
            (turned by 180 degrees, the data of OpenVLA and its relatives).
        init_states: "benchmark" for LIBERO's stored states, "sampled" for new ones of its sampler.
        settle_steps: Control steps with the gripper open and still after each reset, during which
            objects come to rest. 10 in the OpenVLA protocol.
        terminate_on_success: If False, an episode goes on after success.
        assets: "auto", "official", "builtin", or a folder; see `envs.assets.resolve_assets`.
        render_mode: None or "rgb_array". `gym.make(..., render_mode="human")` opens a window
            through Gymnasium's `HumanRendering`, which needs pygame.

    Raises:
        ValueError: For an unknown suite, task or keyword value, or missing assets.

    Example:
        >>> env = LiberoEnv("libero_object", 0)
        >>> env.task.instruction
        'pick up the alphabet soup and place it in the basket'
        >>> env.action_space.shape
        (7,)
    """

    metadata: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "render_modes": ["rgb_array"],
        "render_fps": CONTROL_FREQ_HZ,
    }

    def __init__(
        self,
        suite: str | None = None,
        task: int | str = 0,
        *,
        obs_type: str = "state",
        cameras: Sequence[str] = ("agentview", "robot0_eye_in_hand"),
        image_size: int = 128,
        orientation: str = "upright",
        init_states: str = "benchmark",
        settle_steps: int = 10,
        terminate_on_success: bool = True,
        assets: str | os.PathLike[str] = "auto",
        render_mode: str | None = None,
    ):
        _check_choice("obs_type", obs_type, OBS_TYPES)
        _check_choice("orientation", orientation, ORIENTATIONS)
        _check_choice("init_states", init_states, INIT_STATES)
        _check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        _check_count("image_size", image_size, 1)
        _check_count("settle_steps", settle_steps, 0)
        if isinstance(cameras, str) or (obs_type != "state" and not cameras):
            raise ValueError(f"`cameras` must be a list of camera names, got {cameras!r}.")
        self.task = tasks.find_task(suite, task)
        if init_states == "benchmark" and self.task.bddl_path is not None:
            raise ValueError(
                f"Custom task {self.task.name!r} has no stored initial states. "
                "Pass `init_states='sampled'`."
            )
        self.obs_type = obs_type
        self.cameras = tuple(cameras)
        self.image_size = image_size
        self.orientation = orientation
        self.init_states = init_states
        self.settle_steps = settle_steps
        self.terminate_on_success = terminate_on_success
        self.render_mode = render_mode
        self.state_layout: tuple[StatePart, ...] = read_scene(
            tasks.bddl_file(self.task)
        ).state_layout()
        self.action_space = gym.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        self.observation_space = self._make_observation_space()
        self._instruction = self.task.instruction
        self._assets = assets
        self._asset_set: asset_sets.AssetSet | None = None
        self._simulator: Any = None
        self._renderer: Any = None
        self._images: dict[str, np.ndarray] = {}
        self._init_state_id: int | None = None
        self._init_state_queue: list[int] = []

    @property
    def simulator(self) -> Any:
        """The running `LiberoSimulator`; started at the first reset, in the process that resets."""
        if self._simulator is None:
            from libero_reward_envs.envs.simulator import LiberoSimulator

            self._asset_set = asset_sets.resolve_assets(self._assets)
            self._simulator = LiberoSimulator(self.task, self._asset_set)
            self._check_gl()
        return self._simulator

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see the class for what `seed` and `options` decide.

        Raises:
            ValueError: For an unknown option, or an initial state that does not fit.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._init_state_queue = []
        init_state = self._choose_init_state(dict(options or {}))
        simulator = self.simulator
        simulator.reset(self.np_random, init_state)
        for _ in range(self.settle_steps):
            simulator.step(NO_OP)
        self._read_images()
        return self._observation(), self._info(simulator.goal_predicates())

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one control step of 1/20 s.

        Raises:
            ValueError: If the action has the wrong shape or is not finite.
            RuntimeError: If the environment was not reset.
        """
        action = np.asarray(action)
        if action.shape != (ACTION_DIM,):
            raise ValueError(f"Expected an action of shape ({ACTION_DIM},), got {action.shape}.")
        if not np.isfinite(action).all():
            raise ValueError(f"Expected a finite action, got {action}.")
        if self._simulator is None:
            raise RuntimeError("Expected `reset()` before the first `step()`.")
        drawing = self._read_images if self.obs_type != "state" else None
        self._simulator.step(action, at_observation=drawing)
        info = self._info(self._simulator.goal_predicates())
        terminated = info["is_success"] and self.terminate_on_success
        return self._observation(), info["reward/env"], terminated, False, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The scene from the front, (256, 256, 3) uint8, upright; None without a render mode."""
        if self.render_mode is None:
            gym.logger.warn("`render()` was called without a `render_mode`: pass 'rgb_array'.")
            return None
        if self._simulator is None:
            raise RuntimeError("Expected `reset()` before the first `render()`.")
        return self._draw(_RENDER_CAMERA, _RENDER_SIZE, "upright")

    def close(self) -> None:
        """Free the simulator and its GL context."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = self._simulator = None

    def _make_observation_space(self) -> gym.Space[Any]:
        last = self.state_layout[-1]
        state = gym.spaces.Box(-np.inf, np.inf, (last.start + last.size,), np.float32)
        if self.obs_type == "state":
            return state
        shape = (self.image_size, self.image_size, 3)
        spaces: dict[str, gym.Space[Any]] = {
            f"{camera}_image": gym.spaces.Box(0, 255, shape, np.uint8) for camera in self.cameras
        }
        if self.obs_type == "pixels_state":
            spaces["state"] = state
        return gym.spaces.Dict(spaces)

    def _choose_init_state(self, options: dict[str, Any]) -> np.ndarray | None:
        unknown = sorted(options.keys() - set(RESET_OPTIONS))
        if unknown:
            raise ValueError(f"Unknown reset options {unknown}. Known: {', '.join(RESET_OPTIONS)}.")
        if len(options) > 1:
            raise ValueError("Pass `init_state_id` or `init_state` in `options`, not both.")
        self._init_state_id = None
        if "init_state" in options:
            return np.asarray(options["init_state"], np.float64)
        if self.init_states == "sampled" and not options:
            return None
        states = tasks.load_init_states(self.task)
        if "init_state_id" in options:
            chosen = int(options["init_state_id"])
            if not 0 <= chosen < len(states):
                raise ValueError(f"`init_state_id` must be in 0..{len(states) - 1}, got {chosen}.")
        else:
            if not self._init_state_queue:
                self._init_state_queue = self.np_random.permutation(len(states)).tolist()
            chosen = self._init_state_queue.pop()
        self._init_state_id = chosen
        return states[chosen]

    def _observation(self) -> Any:
        state = self._simulator.reader.values.astype(np.float32)
        if self.obs_type == "state":
            return state
        observation = {f"{name}_image": image for name, image in self._images.items()}
        if self.obs_type == "pixels_state":
            observation["state"] = state
        return observation

    def _info(self, predicates: list[bool]) -> dict[str, Any]:
        success = all(predicates)
        return {
            "is_success": success,
            "success": success,
            "progress": sum(predicates) / len(predicates),
            "reward/env": float(success),
            "task": self.task.id,
            "instruction": self._instruction,
            "init_state_id": self._init_state_id,
            "assets": self._asset_set.name if self._asset_set else None,
        }

    def _read_images(self) -> None:
        if self.obs_type != "state":
            self._images = {
                name: self._draw(name, self.image_size, self.orientation) for name in self.cameras
            }

    def _draw(self, camera: str, size: int, orientation: str) -> np.ndarray:
        from libero_reward_envs.envs.cameras import CameraRenderer

        if self._renderer is None:
            self._renderer = CameraRenderer(self._simulator.model, self._simulator.data)
        return turn_images(self._renderer.render(camera, size, size), "raw", orientation)

    def _check_gl(self) -> None:
        from libero_reward_envs.envs import libero_package, rendering

        needs_gl = self.obs_type != "state" or self.render_mode is not None
        if needs_gl and libero_package.gl_backend is None:
            self._simulator = None
            raise RuntimeError(rendering.no_gl_message())


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {known}, got {value!r}.")


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
