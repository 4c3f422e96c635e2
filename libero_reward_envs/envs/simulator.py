"""One LIBERO task in MuJoCo: LIBERO's model and goal, stepped exactly as LIBERO steps it, faster.

LIBERO's `ControlEnv.step` runs the whole physics pipeline three times a substep (`sim.forward`, the
controller's own `sim.forward`, `mj_step`), and `reset` compiles the model again. Here position and
velocity are computed once (`mj_step1`), the constraint solver is run as often as LIBERO runs it,
because its warm start carries into the result, and a reset restores the compiled model. The states
are LIBERO's bit for bit (`tests/envs/test_exactness.py`).
"""

# MuJoCo's names come from a compiled module, which type checkers cannot see into.
# pyright: reportAttributeAccessIssue=false

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from libero_reward_envs.envs import libero_package, tasks
from libero_reward_envs.envs.assets import AssetSet
from libero_reward_envs.envs.contact_checker import ContactChecker
from libero_reward_envs.envs.scene import read_scene
from libero_reward_envs.envs.tasks import Task

CONTROL_FREQ_HZ = 20
_SAMPLING_PERIOD_S = 1.0 / CONTROL_FREQ_HZ
_PLACEMENT_ATTEMPTS = 100


class LiberoSimulator:
    """The physics, goal and observations of one task.

    Args:
        task: The task.
        assets: The object models to build it from.

    Raises:
        ImportError: If robosuite or hf-libero is not installed.
    """

    def __init__(self, task: Task, assets: AssetSet):
        env_class, controller_config = libero_package.import_problem(assets.path, task)
        with libero_package.quiet():
            self.libero_env = env_class(
                str(tasks.bddl_file(task)),
                robots=["Panda"],
                controller_configs=controller_config,
                gripper_types="default",
                initialization_noise=None,
                use_camera_obs=False,
                has_renderer=False,
                has_offscreen_renderer=False,
                control_freq=CONTROL_FREQ_HZ,
                ignore_done=True,
                hard_reset=False,
            )
        # Imported only now, after the GL backend was chosen.
        import mujoco

        from libero_reward_envs.envs.observation import ObservationReader
        from libero_reward_envs.envs.osc import ARM, OscController

        self._mujoco, self._arm = mujoco, ARM
        env = self.libero_env
        self.model, self.data = env.sim.model._model, env.sim.data._data
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR  # nothing reads them
        self._robot_qpos = np.array(env.robots[0].init_qpos, np.float64)
        self._substeps = int(env.control_timestep / env.model_timestep)
        self._clock = ObservationClock(env.model_timestep)
        self._goal = env.parsed_problem["goal_state"]
        env.check_contact = ContactChecker(self.model, self.data).check_contact
        _freeze_sizes(env)
        env.visualize(vis_settings=dict.fromkeys(env._visualizations, False))
        self._robot_start = np.concatenate([self._robot_qpos, env.robots[0].gripper.init_qpos])
        self._warm_start = self._warm_start_before_placement()
        self._controller = OscController(self.model, self.data, env.robots[0].controller)
        self.reader = ObservationReader(env, read_scene(tasks.bddl_file(task)))

    @property
    def state(self) -> np.ndarray:
        """LIBERO's flattened state: time, joint positions, joint velocities, (1 + nq + nv,)."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def reset(self, rng: np.random.Generator, init_state: np.ndarray | None = None) -> None:
        """Start an episode.

        Args:
            rng: Places the fixtures, and the objects where `init_state` does not.
            init_state: A flattened state as LIBERO stores it, or None for a sampled one.

        Raises:
            ValueError: If `init_state` has the wrong shape or is not finite.
            RuntimeError: If no placement without overlap was found.
        """
        if init_state is not None:
            init_state = self._checked_state(init_state)
        for _ in range(_PLACEMENT_ATTEMPTS):
            if self._place(int(rng.integers(2**32))):
                break
        else:
            raise RuntimeError(f"No placement without overlap in {_PLACEMENT_ATTEMPTS} attempts.")
        self._forward()
        self._controller.reset()
        self._clock.reset()
        if init_state is not None:
            nq = self.model.nq
            self.data.time = init_state[0]
            self.data.qpos[:] = init_state[1 : 1 + nq]
            self.data.qvel[:] = init_state[1 + nq :]
            self._forward()
            self._clock.force()
        self.goal_predicates()
        self.libero_env._post_process()
        self.reader.read()

    def step(self, action: np.ndarray, at_observation: Any = None) -> None:
        """Advance by one control step of 1/20 s.

        Args:
            action: Shape (7,): displacement of the gripper, its rotation vector, and the gripper's
                opening (-1) or closing (+1), each in [-1, 1].
            at_observation: Called without arguments at the moment whose images LIBERO shows, which
                is within the last two substeps.
        """
        mujoco, model, data = self._mujoco, self.model, self.data
        controller, clock = self._controller, self._clock
        action = np.asarray(action, np.float64)
        for substep in range(self._substeps):
            mujoco.mj_step1(model, data)
            # LIBERO's forward passes end in the solver, with the previous substep's controls. The
            # controller's own pass is missing from the first substep after a reset.
            mujoco.mj_fwdActuation(model, data)
            mujoco.mj_fwdAcceleration(model, data)
            mujoco.mj_fwdConstraint(model, data)
            if controller.has_run:
                mujoco.mj_fwdConstraint(model, data)
            if substep == 0:
                controller.set_goal(action)
            controller.run()
            mujoco.mj_step2(model, data)
            if clock.tick():
                self.reader.read()
                if at_observation is not None:
                    at_observation()
        self.libero_env._post_process()

    def goal_predicates(self) -> list[bool]:
        """Which of the predicates of the task's BDDL goal hold; all of them is success."""
        return [bool(self.libero_env._eval_predicate(predicate)) for predicate in self._goal]

    def _forward(self) -> None:
        self._mujoco.mj_forward(self.model, self.data)

    def _checked_state(self, state: np.ndarray) -> np.ndarray:
        state = np.asarray(state, np.float64)
        expected = (1 + self.model.nq + self.model.nv,)
        if state.shape != expected:
            raise ValueError(
                f"Expected an initial state of shape {expected} for this task (time, joint "
                f"positions, joint velocities), got {state.shape}."
            )
        if not np.isfinite(state).all():
            raise ValueError("Expected a finite initial state, got NaN or infinity in it.")
        return state

    def _warm_start_before_placement(self) -> np.ndarray:
        """What LIBERO's reset has left in the solver when it begins to place objects.

        It runs three forward passes by then, with all objects in one heap. They depend on nothing
        that a reset draws, so they are made once.
        """
        self._restore_compiled_places()
        self._mujoco.mj_resetData(self.model, self.data)
        self._forward()
        self.data.qpos[self._arm] = self._robot_qpos
        self._forward()
        self._forward()
        return self.data.qacc_warmstart.copy()

    def _restore_compiled_places(self) -> None:
        """Put the fixtures back where a newly compiled model has them."""
        for name, fixture in self.libero_env.fixtures_dict.items():
            if name in self.libero_env.obj_body_id:
                element = fixture.get_obj()
                body = self.libero_env.obj_body_id[name]
                self.model.body_pos[body] = np.fromstring(element.get("pos", "0 0 0"), sep=" ")
                self.model.body_quat[body] = np.fromstring(element.get("quat", "1 0 0 0"), sep=" ")

    def _place(self, seed: int) -> bool:
        """What LIBERO's hard reset does after compiling: False if objects could not be placed."""
        mujoco, model, data, env = self._mujoco, self.model, self.data, self.libero_env
        self._restore_compiled_places()
        mujoco.mj_resetData(model, data)
        data.qacc_warmstart[:] = self._warm_start
        data.qpos[: self._robot_start.size] = self._robot_start
        with _numpy_seed(seed) as placement_error:
            np.random.randn(self._robot_qpos.size)  # noqa: NPY002  robosuite's zero-scaled noise
            for initializer in env.object_property_initializers:
                env.object_states_dict[initializer.name].set_joint(initializer.sample())
            mujoco.mj_kinematics(model, data)  # samplers look at sites
            try:
                placements = env.placement_initializer.sample()
                placements = env.conditional_placement_initializer.sample(env.sim, placements)
                placements = env.conditional_placement_on_objects_initializer.sample(placements)
            except placement_error:
                return False
        for pos, quat, obj in placements.values():
            if obj.name in env.fixtures_dict:
                body = env.obj_body_id[obj.name]
                model.body_pos[body], model.body_quat[body] = pos, quat
            else:
                env.sim.data.set_joint_qpos(obj.joints[-1], np.concatenate([pos, quat]))
        return True


class ObservationClock:
    """When within a control step robosuite's observables are read.

    robosuite reads them once a period, at the first substep after its own clock has wrapped, and
    each forced update after a reset moves that clock on by a substep. After `reset` and
    `set_init_state` the readings are those of the last substep but one.
    """

    def __init__(self, timestep_s: float):
        self._timestep_s = timestep_s
        self.reset()

    def reset(self) -> None:
        """Back to LIBERO's `reset`, which forces one update."""
        self._elapsed_s, self._is_read = 0.0, True
        self.force()

    def force(self) -> None:
        """Count a forced update, as `set_init_state` makes one."""
        self._elapsed_s += self._timestep_s

    def tick(self) -> bool:
        """Advance by one substep; whether the observables are read in it."""
        self._elapsed_s += self._timestep_s
        reads = not self._is_read and self._elapsed_s <= _SAMPLING_PERIOD_S
        self._is_read = self._is_read or reads
        if self._elapsed_s >= _SAMPLING_PERIOD_S:
            self._elapsed_s %= _SAMPLING_PERIOD_S
            self._is_read = False
        return reads


def _freeze_sizes(env: Any) -> None:
    """Let LIBERO's samplers see objects whose sizes are numbers.

    The real ones parse their XML each time they are asked, hundreds of times a reset.
    """
    frozen: dict[str, SimpleNamespace] = {}
    for composite in (
        env.placement_initializer,
        env.conditional_placement_initializer,
        env.conditional_placement_on_objects_initializer,
    ):
        for sampler in composite.samplers.values():
            for index, obj in enumerate(sampler.mujoco_objects):
                if obj.name not in frozen:
                    sizes = ("horizontal_radius", "bottom_offset", "top_offset")
                    kept = ("name", "joints", "init_quat", *sizes)
                    frozen[obj.name] = SimpleNamespace(
                        **{key: getattr(obj, key) for key in kept if hasattr(obj, key)}
                    )
                sampler.mujoco_objects[index] = frozen[obj.name]


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[type[Exception]]:
    """Seed NumPy's global generator, from which LIBERO's samplers draw, and put it back."""
    from robosuite.utils.errors import RandomizationError

    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield RandomizationError
    finally:
        np.random.set_state(before)  # noqa: NPY002
