"""Our environment beside LIBERO's own, in one process, as ratios.

    python tests/benchmarks/bench_env.py [--assets FOLDER] [--suite SUITE --task INDEX] [--steps N]

For each task: control steps without pixels against `ControlEnv`, resets to a stored initial state
against `ControlEnv.reset` + `set_init_state`, and steps with two 128 x 128 cameras against
`OffScreenRenderEnv` and against the bare sum of a step and two pictures. The two sides take turns,
step by step or in small blocks, so that both see the same load of the machine; the median of each
is compared. Writes `results/bench_env.csv` beside this file.
"""

# MuJoCo's names come from a compiled module, which type checkers cannot see into.
# pyright: reportAttributeAccessIssue=false

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.envs import tasks
from libero_reward_envs.envs.assets import resolve_assets
from libero_reward_envs.envs.libero_env import LiberoEnv

DEFAULT_TASKS = [
    ("libero_object", 0),
    ("libero_spatial", 0),
    ("libero_goal", 7),
    ("libero_10", 9),
    ("libero_90", 28),
]
IMAGE_SIZE = 128


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", default="auto", help="asset set or folder")
    parser.add_argument("--suite", help="one suite only")
    parser.add_argument("--task", type=int, default=0, help="index in that suite")
    parser.add_argument("--steps", type=int, default=200, help="control steps a side")
    parser.add_argument("--resets", type=int, default=10, help="resets a side")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "bench_env.csv"
    )
    return parser.parse_args()


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def take_turns(sides: dict[str, Callable[[], Any]], n: int) -> dict[str, float]:
    """Median seconds of each side, which are called one after the other, n times."""
    times = {name: [seconds(call) for call in ()] for name in sides}
    for _ in range(n):
        for name, call in sides.items():
            times[name].append(seconds(call))
    return {name: float(np.median(measured)) for name, measured in times.items()}


def make_libero(env_class: str, task: tasks.Task, **keywords: Any) -> Any:
    import libero.libero.envs.env_wrapper as libero_envs

    return getattr(libero_envs, env_class)(bddl_file_name=str(tasks.bddl_file(task)), **keywords)


def bench_steps(env: LiberoEnv, libero: Any, state: np.ndarray, n: int) -> dict[str, float]:
    """Both sides with their observation, reward and success; and the physics alone."""
    import mujoco

    rng = np.random.default_rng(0)
    env.reset(seed=0, options={"init_state": state})
    libero.reset()
    libero.set_init_state(state)
    bare = mujoco.MjData(env.simulator.model)
    bare.qpos[:] = env.simulator.data.qpos
    actions = iter(rng.uniform(-1, 1, (n, 7)))
    held: dict[str, np.ndarray] = {}

    def draw_action() -> None:
        held["action"] = next(actions)

    def bare_physics() -> None:
        for _ in range(25):
            mujoco.mj_step(env.simulator.model, bare)

    medians = take_turns(
        {
            "draw": draw_action,
            "ours": lambda: env.step(held["action"]),
            "libero": lambda: libero.step(held["action"]),
            "bare": bare_physics,
        },
        n,
    )
    return {
        "libero_steps_per_s": 1 / medians["libero"],
        "our_steps_per_s": 1 / medians["ours"],
        "bare_mj_step_limit_per_s": 1 / medians["bare"],
        "step_ratio": medians["libero"] / medians["ours"],
    }


def bench_resets(env: LiberoEnv, libero: Any, states: np.ndarray, n: int) -> dict[str, float]:
    """To a stored initial state, without settling on either side."""

    def libero_reset() -> None:
        libero.reset()
        libero.set_init_state(states[0])

    medians = take_turns(
        {"ours": lambda: env.reset(options={"init_state_id": 0}), "libero": libero_reset}, n
    )
    return {
        "libero_reset_ms": 1e3 * medians["libero"],
        "our_reset_ms": 1e3 * medians["ours"],
        "reset_ratio": medians["libero"] / medians["ours"],
    }


def bench_pixels(env: LiberoEnv, libero: Any, state: np.ndarray, n: int) -> dict[str, float]:
    """A step with two cameras, against LIBERO's, and against its own physics and two pictures."""
    env.simulator  # noqa: B018  started first, so that its assets are the ones LIBERO finds
    libero.reset()
    libero.set_init_state(state)
    env.reset(seed=0, options={"init_state": state})
    renderer, simulator = env._renderer, env.simulator
    actions = np.random.default_rng(1).uniform(-1, 1, (n, 7))
    steps = iter(np.repeat(actions, 4, axis=0))
    libero_gl = libero.sim._render_context_offscreen.gl_ctx

    def libero_step() -> None:
        libero_gl.make_current()  # robosuite does not, and would draw into our context
        libero.step(next(steps))

    def bare_renders() -> None:
        for camera in env.cameras:
            renderer.render(camera, IMAGE_SIZE, IMAGE_SIZE)

    medians = take_turns(
        {
            "ours": lambda: env.step(next(steps)),
            "physics": lambda: (simulator.step(next(steps)), simulator.goal_predicates()),
            "renders": bare_renders,
            "libero": libero_step,
        },
        n,
    )
    bare = medians["physics"] + medians["renders"]
    return {
        "libero_pixel_steps_per_s": 1 / medians["libero"],
        "our_pixel_steps_per_s": 1 / medians["ours"],
        "pixel_ratio": medians["libero"] / medians["ours"],
        "pixel_cost_over_bare": medians["ours"] / bare,
    }


def bench_task(task: tasks.Task, args: argparse.Namespace) -> dict[str, Any]:
    assets = resolve_assets(args.assets)
    keywords = {"assets": str(assets.path), "settle_steps": 0}
    states = tasks.load_init_states(task)
    env = LiberoEnv(task.suite, task.index, **keywords)
    env.reset(seed=0)
    libero = make_libero("ControlEnv", task, has_offscreen_renderer=False, use_camera_obs=False)
    row = bench_steps(env, libero, states[0], args.steps)
    row |= bench_resets(env, libero, states, args.resets)
    libero.close()
    env.close()
    env = LiberoEnv(task.suite, task.index, obs_type="pixels", image_size=IMAGE_SIZE, **keywords)
    libero = make_libero(
        "OffScreenRenderEnv", task, camera_heights=IMAGE_SIZE, camera_widths=IMAGE_SIZE
    )
    row |= bench_pixels(env, libero, states[0], max(10, args.steps // 10))
    libero.close()
    env.close()
    return {"suite": task.suite, "task": task.index, "assets": assets.name, **row}


def main(args: argparse.Namespace) -> None:
    chosen = [(args.suite, args.task)] if args.suite else DEFAULT_TASKS
    rows = []
    for suite, index in chosen:
        rows.append(bench_task(tasks.find_task(suite, index), args))
        for name, value in rows[-1].items():
            print(f"  {name:28} {value:.3g}" if isinstance(value, float) else f"{name}: {value}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()}
            )
    print(f"Written: {args.out}")


if __name__ == "__main__":
    main(parse_args())
