"""Measures a folder of LIBERO object models, and compares two of them.

    python tests/benchmarks/measure_assets.py figures OFFICIAL
    python tests/benchmarks/measure_assets.py compare OFFICIAL --states 50
    python tests/benchmarks/measure_assets.py reference OFFICIAL

`figures` prints, per category and body, what the built-in models were made from: mass, centre of
mass, inertia, and the bounding box of the collision shapes. `compare` settles every stored initial
state for ten steps with both sets and prints how far apart the objects come to rest. `reference`
writes the resting places that `tests/envs/test_builtin_assets.py` checks against. FOLDER may be
`builtin` everywhere.

Some stored states begin with objects inside each other, and some drop them from a height: they
fly apart or roll, and where to is decided by less than any model states. Such a state is called
restless when the *official* objects end over 1 cm elsewhere after a nudge of 0.1 mm at the start.
"""

import argparse
import collections
import gc
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libero_reward_envs.envs.assets import AssetSet, resolve_assets
from libero_reward_envs.envs.simulator import LiberoSimulator
from libero_reward_envs.envs.tasks import Task, all_tasks, load_init_states

REFERENCE = Path(__file__).parents[1] / "data" / "builtin_settle_reference.npz"
REFERENCE_STATES = (0, 17, 42)
SETTLING_STEPS = 10
TOLERANCE_M = 0.01
NUDGE_M = 1e-4
NUDGES = 4


class Rest(NamedTuple):
    """Where things are after settling."""

    positions: dict[str, np.ndarray]  # of the objects, each (3,)
    joints: dict[str, float]  # of drawers, doors and knobs
    success: bool


def settle(simulator: LiberoSimulator, state: np.ndarray) -> Rest:
    """Sets a stored state, holds still for ten control steps and returns where things are."""
    simulator.reset(np.random.default_rng(0), state)
    for _ in range(SETTLING_STEPS):
        simulator.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    env, model, data = simulator.libero_env, simulator.model, simulator.data
    positions = {name: data.xpos[env.obj_body_id[name]].copy() for name in env.objects_dict}
    joints = {
        model.joint(i).name: float(data.qpos[model.jnt_qposadr[i]])
        for i in range(model.njnt)
        if model.jnt_type[i] != 0 and not model.joint(i).name.startswith(("robot", "gripper"))
    }
    return Rest(positions, joints, all(simulator.goal_predicates()))


def nudged(simulator: LiberoSimulator, state: np.ndarray, seed: int) -> np.ndarray:
    """Returns the state with every object moved by 0.1 mm."""
    rng, state = np.random.default_rng(seed), state.copy()
    model = simulator.model
    for i in np.flatnonzero(model.jnt_type == 0):
        start = 1 + model.jnt_qposadr[i]
        direction = rng.normal(size=3)
        state[start : start + 3] += NUDGE_M * direction / np.linalg.norm(direction)
    return state


def restless_objects(simulator: LiberoSimulator, state: np.ndarray) -> set[str]:
    """Returns the objects whose resting place a nudge changes by more than the tolerance."""
    calm = settle(simulator, state).positions
    found: set[str] = set()
    for seed in range(NUDGES):
        moved = settle(simulator, nudged(simulator, state, seed)).positions
        found |= {n for n in calm if np.linalg.norm(moved[n] - calm[n]) > TOLERANCE_M}
    return found


def print_figures(assets: AssetSet) -> None:
    """Prints mass, centre of mass, inertia and extent of every body of every model."""
    import mujoco

    for path in sorted(assets.path.glob("*_objects/**/*.xml")):
        spec = mujoco.MjSpec.from_file(str(path))  # pyright: ignore[reportAttributeAccessIssue]
        spec.compiler.inertiagrouprange = [0, 0]  # as robosuite compiles it
        try:
            model = spec.compile()
        except ValueError as error:
            print(f"{path.stem}: {error}")
            continue
        data = mujoco.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
        mujoco.mj_kinematics(model, data)  # pyright: ignore[reportAttributeAccessIssue]
        for i in range(1, model.nbody):
            solids = np.flatnonzero((model.geom_bodyid == i) & (model.geom_group == 0))
            if len(solids):
                low, high = bounding_box(model, data, i, solids)
                print(
                    f"{path.stem:30s} {model.body(i).name:20s} {len(solids):3d} shapes "
                    f"{model.body_mass[i]:.4g} kg, centre {np.round(model.body_ipos[i], 4)}, "
                    f"inertia {model.body_inertia[i]}, box {low.round(4)} to {high.round(4)}"
                )


def bounding_box(model: Any, data: Any, body: int, geoms: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns the extent of boxes, cylinders and capsules in their body's frame."""
    corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3)
    points = []
    for geom in geoms:
        size, kind = model.geom_size[geom], model.geom_type[geom]
        half = {2: size[[0, 0, 0]], 3: size[[0, 0, 1]] + [0, 0, size[0]], 5: size[[0, 0, 1]]}
        world = corners * half.get(int(kind), size) @ data.geom_xmat[geom].reshape(3, 3).T
        world = world + data.geom_xpos[geom] - data.xpos[body]
        points.append(world @ data.xmat[body].reshape(3, 3))
    stacked = np.concatenate(points)
    return stacked.min(0), stacked.max(0)


def compare(official: AssetSet, other: AssetSet, n_states: int, match: str) -> None:
    """Prints per task how far apart the two sets settle, then the worst of every category."""
    worst: dict[str, float] = collections.defaultdict(float)
    total = apart = restless = 0
    for task in [task for task in all_tasks() if match in task.id]:
        gc.collect()  # simulators are in reference cycles, and Python does not see their size
        first, second = LiberoSimulator(task, official), LiberoSimulator(task, other)
        check_layout(task, first, second)
        states, largest, notes = load_init_states(task), 0.0, []
        for k in np.linspace(0, len(states) - 1, n_states).astype(int):
            a, b = settle(first, states[k]), settle(second, states[k])
            off = {n: float(np.linalg.norm(a.positions[n] - b.positions[n])) for n in a.positions}
            total += 1
            if a.success != b.success:
                notes.append(f"state {k}: success {a.success} and {b.success}")
            if any(abs(a.joints[n] - b.joints[n]) > 1e-3 for n in a.joints):
                notes.append(f"state {k}: joints differ")
            if max(off.values()) > TOLERANCE_M:
                apart += 1
                loose = restless_objects(first, states[k])
                restless += bool(loose)
                if loose:
                    continue
                notes.append(f"state {k}: {max(off, key=lambda n: off[n])}")
            largest = max(largest, *off.values())
            for name, distance in off.items():
                category = re.sub(r"_\d+$", "", name)
                worst[category] = max(worst[category], distance)
        print(f"{1000 * largest:7.1f} mm  {task.id}  {'; '.join(notes)}", flush=True)
    print(f"{total} states, {apart} over {1000 * TOLERANCE_M:.0f} mm, {restless} of them restless")
    for category, distance in sorted(worst.items(), key=lambda item: -item[1]):
        print(f"{1000 * distance:7.1f} mm  {category}")


def check_layout(task: Task, first: LiberoSimulator, second: LiberoSimulator) -> None:
    """Raises ValueError unless both models have the same joints in the same order."""
    names = [[s.model.joint(i).name for i in range(s.model.njnt)] for s in (first, second)]
    if names[0] != names[1]:
        raise ValueError(f"Expected the joints {names[0]} in {task.id}, got {names[1]}.")


def write_reference(official: AssetSet) -> None:
    """Writes where the official objects rest, for the tests."""
    rows: list[tuple[str, str]] = []
    positions, restless = [], []
    for task in all_tasks():
        gc.collect()
        simulator, states = LiberoSimulator(task, official), load_init_states(task)
        rests = [settle(simulator, states[k]).positions for k in REFERENCE_STATES]
        loose = [restless_objects(simulator, states[k]) for k in REFERENCE_STATES]
        for name in rests[0]:
            rows.append((task.id, name))
            positions.append([rest[name] for rest in rests])
            restless.append([bool(names) for names in loose])
        print(task.id, [sorted(names) for names in loose], flush=True)
    np.savez_compressed(
        REFERENCE,
        tasks=np.array([row[0] for row in rows]),
        objects=np.array([row[1] for row in rows]),
        states=np.array(REFERENCE_STATES),
        positions=np.array(positions, np.float32),
        restless=np.array(restless),
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("action", choices=("figures", "compare", "reference"))
    parser.add_argument("folder", help="the official models; `builtin` for ours")
    parser.add_argument("--other", default="builtin", help="what to compare with (builtin)")
    parser.add_argument("--states", type=int, default=5, help="initial states per task (5)")
    parser.add_argument("--match", default="", help="only tasks whose id has this in it")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    assets = resolve_assets(args.folder)
    if args.action == "figures":
        print_figures(assets)
    elif args.action == "compare":
        compare(assets, resolve_assets(args.other), args.states, args.match)
    else:
        write_reference(assets)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(parse_args())
