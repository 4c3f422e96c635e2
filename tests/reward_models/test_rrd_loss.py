import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from libero_reward_envs.reward_models.rrd import RRDRewardModel, randomized_return_loss
from libero_reward_envs.reward_models.rrd_data import SubsequenceSampler
from libero_reward_envs.reward_models.rrd_loss import compute_loss_terms, whole_episode_loss

FIXTURES = Path(__file__).parents[1] / "data" / "rrd"
PRECISION: Any = {torch.float64: {"rtol": 1e-9, "atol": 1e-12}, torch.float32: {"rtol": 1e-4}}


def load_fixture(name):
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file}


def loss_arguments(case, dtype):
    return (
        torch.tensor(case["returns"], dtype=dtype),
        torch.tensor(case["lengths"]),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("scale", "bias_correction", "value", "gradient"),
    [
        ("mean", False, "mean_L_RandRD", "g_mean_rand"),
        ("mean", True, "mean_L_RRD_bc", "g_mean_bc"),
        ("return", False, "ret_L_RandRD", "g_ret_rand"),
        ("return", True, "ret_L_RRD_bc", "g_ret_bc"),
    ],
)
@pytest.mark.parametrize("name", ["case_long", "case_short_episodes"])
def test_loss_and_gradient_are_the_golden_ones(
    name, scale, bias_correction, value, gradient, dtype
):
    case = load_fixture(name)
    rewards = torch.tensor(case["pred_rewards"], dtype=dtype, requires_grad=True)
    sampled = rewards.gather(1, torch.tensor(case["idx"]))
    loss = randomized_return_loss(
        sampled, *loss_arguments(case, dtype), scale=scale, bias_correction=bias_correction
    )
    loss.backward()
    precision: Any = PRECISION[dtype]
    np.testing.assert_allclose(loss.item(), case[value], **precision)
    assert rewards.grad is not None
    if dtype is torch.float32:
        precision = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(rewards.grad, case[gradient], **precision)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("scale", "prefix"), [("mean", "mean"), ("return", "ret")])
@pytest.mark.parametrize("name", ["case_long", "case_short_episodes"])
def test_loss_of_whole_episodes_and_its_gradient_are_the_golden_ones(name, scale, prefix, dtype):
    case = load_fixture(name)
    rewards = torch.tensor(case["pred_rewards"], dtype=dtype, requires_grad=True)
    loss = whole_episode_loss(rewards, *loss_arguments(case, dtype), scale=scale)
    loss.backward()
    precision: Any = PRECISION[dtype]
    np.testing.assert_allclose(loss.item(), case[f"{prefix}_L_RD"], **precision)
    assert rewards.grad is not None
    atol = 1e-12 if dtype is torch.float64 else 1e-6
    np.testing.assert_allclose(
        rewards.grad, case[f"g_{prefix}_rd"], rtol=precision["rtol"], atol=atol
    )


def test_data_and_variance_term_are_never_of_two_scales():
    case = load_fixture("case_long")
    sampled = torch.tensor(case["pred_rewards"]).gather(1, torch.tensor(case["idx"]))
    arguments = loss_arguments(case, torch.float64)
    loss = randomized_return_loss(sampled, *arguments, scale="return", bias_correction=True)
    assert loss.item() == pytest.approx(-1129.21, abs=0.01)
    assert abs(loss.item() - case["WRONG_mixed_scale"]) > 1000


def test_network_loss_and_weight_gradients_are_the_golden_ones():
    case = load_fixture("mlp_reward_net")
    model = RRDRewardModel({"state": (3,)}, 2, hidden_sizes=(8, 8), normalize=False)
    network: Any = model.network.double()
    for layer, index in ((0, 1), (2, 2), (4, 3)):
        with torch.no_grad():
            network.layers[layer].weight.copy_(torch.tensor(case[f"param__W{index}"].T))
            network.layers[layer].bias.copy_(torch.tensor(case[f"param__b{index}"]))
    states = torch.tensor(case["obs"])
    rewards = network(
        {"state": states[:, :-1].flatten(0, 1)},
        torch.tensor(case["act"]).flatten(0, 1),
        {"state": states[:, 1:].flatten(0, 1)},
    ).view(len(states), -1)
    mask = torch.tensor(case["mask"])
    np.testing.assert_allclose(
        (rewards * mask).detach(), case["pred_rewards"] * case["mask"], rtol=1e-9, atol=1e-12
    )
    sampled = rewards.gather(1, torch.tensor(case["idx"]))
    scale: Any
    for name, scale in (("mean", "mean"), ("ret", "return")):
        for kind, bias_correction in (("rand", False), ("bc", True)):
            network.zero_grad()
            randomized_return_loss(
                sampled,
                *loss_arguments(case, torch.float64),
                scale=scale,
                bias_correction=bias_correction,
            ).backward(retain_graph=True)
            for layer, index in ((0, 1), (2, 2), (4, 3)):
                expected = case[f"g_{name}_{kind}__W{index}"].T
                found = network.layers[layer].weight.grad
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def all_subsets(case, prefix, n_sampled, *, replacement):
    rewards = case[f"{prefix}_r"]
    steps = range(len(rewards))
    if replacement:
        rows = itertools.product(steps, repeat=n_sampled)
    else:
        rows = itertools.combinations(steps, n_sampled)
    sampled = torch.tensor(rewards[np.array(list(rows))])
    n = len(sampled)
    returns = torch.full((n,), float(case[f"{prefix}_R"]), dtype=torch.float64)
    return sampled, returns, torch.full((n,), len(rewards))


def test_expectation_without_replacement_is_the_paper_identity():
    case = load_fixture("exhaustive_identities")
    for n_sampled, _, expected, least_squares, _, corrected in case["wor_table"]:
        subsets = all_subsets(case, "wor", int(n_sampled), replacement=False)
        loss = randomized_return_loss(*subsets, scale="return", replacement=False)
        assert loss.item() == pytest.approx(expected, rel=1e-10)
        if n_sampled == len(case["wor_r"]):
            assert loss.item() == pytest.approx(least_squares, rel=1e-10)
        if n_sampled > 1:
            unbiased = randomized_return_loss(*subsets, scale="return", bias_correction=True)
            assert unbiased.item() == pytest.approx(corrected, rel=1e-10)
            assert unbiased.item() == pytest.approx(least_squares, rel=1e-10)


def test_expectation_with_replacement_is_unbiased_too():
    case = load_fixture("exhaustive_identities")
    for n_sampled, _, expected, least_squares, *_ in case["wr_table"]:
        subsets = all_subsets(case, "wr", int(n_sampled), replacement=True)
        loss = randomized_return_loss(*subsets, scale="return", replacement=True)
        assert loss.item() == pytest.approx(expected, rel=1e-10)
        if n_sampled > 1:
            unbiased = randomized_return_loss(
                *subsets, scale="return", bias_correction=True, replacement=True
            )
            assert unbiased.item() == pytest.approx(least_squares, rel=1e-10)


def test_variance_weight_replaces_the_penalty_of_sampling():
    case = load_fixture("exhaustive_identities")
    n_steps = len(case["wor_r"])
    losses = []
    for n_sampled in (2, 3, 5):  # the same λ for every K
        subsets = all_subsets(case, "wor", n_sampled, replacement=False)
        losses.append(randomized_return_loss(*subsets, variance_weight=0.2).item())
        paper = randomized_return_loss(*subsets)
        natural = 1 / n_sampled - 1 / n_steps
        same = randomized_return_loss(*subsets, variance_weight=natural)
        assert same.item() == pytest.approx(paper.item(), rel=1e-12)
    least_squares = case["wor_table"][-1][3] / n_steps**2
    assert losses == pytest.approx([least_squares + 0.2 * float(case["wor_S2"])] * 3, rel=1e-10)


def test_random_subsets_agree_with_the_identities():
    case = load_fixture("case_long")
    row = 2
    n_steps, n_sampled = int(case["lengths"][row]), 8
    rewards = case["pred_rewards"][row, :n_steps]
    sampler = SubsequenceSampler(n_sampled, "length", seed=0)
    _, steps = sampler.draw(np.array([n_steps]), 20_000)
    errors = (rewards[steps].mean(1) - case["target_mean"][row]) ** 2
    expected = case["mean_rd_per"][row] + (1 / n_sampled - 1 / n_steps) * rewards.var(ddof=1)
    assert abs(errors.mean() - expected) < 4 * errors.std() / np.sqrt(len(errors))


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((3, 1), {"bias_correction": True}, "at least 2 sampled steps"),
        ((3, 1), {"variance_weight": 0.5}, "at least 2 sampled steps"),
        ((0, 4), {}, r"\(episodes, K\), got \(0, 4\)"),
        ((3,), {}, r"\(episodes, K\), got \(3,\)"),
        ((2, 4), {}, r"`returns` of shape \(2,\), got \(3,\)"),
        ((3, 4), {"scale": "sum"}, "'mean' or 'return', got 'sum'"),
        ((3, 4), {"variance_weight": "ours"}, "'paper' or a number"),
        ((3, 4), {"bias_correction": True, "variance_weight": 0.1}, "give one of the two"),
    ],
)
def test_loss_refuses_what_makes_no_sense(shape, changes, message):
    with pytest.raises(ValueError, match=message):
        randomized_return_loss(torch.zeros(shape), torch.zeros(3), torch.full((3,), 9), **changes)


def test_linear_fit_recovers_rewards_and_the_penalty_shrinks_them_as_predicted():
    # Episodes of 6 steps with 4 features; L_Rand-RD over all subsets of 3 steps is ridge regression
    # on episode means, with the within-episode covariance times 1 / K - 1 / T as penalty.
    rng = np.random.default_rng(0)
    features = torch.tensor(rng.normal(size=(60, 6, 4)))
    truth = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    returns = (features @ truth).sum(1)
    subsets = torch.tensor(list(itertools.combinations(range(6), 3)))
    means = features.mean(1)
    covariance = torch.stack([torch.cov(part.T) for part in features]).mean(0)
    penalty = (1 / 3 - 1 / 6) * covariance
    gram = means.T @ means / len(means)
    ridge = torch.linalg.solve(gram + penalty, means.T @ (returns / 6) / len(means))
    for bias_correction, expected in ((True, truth), (False, ridge)):
        weights = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-12)

        def closure(weights=weights, optimizer=optimizer, bias_correction=bias_correction):
            optimizer.zero_grad()
            sampled = (features @ weights)[:, subsets].flatten(0, 1)
            loss = randomized_return_loss(
                sampled,
                returns.repeat_interleave(len(subsets)),
                torch.full((len(sampled),), 6),
                bias_correction=bias_correction,
            )
            loss.backward()
            return loss

        optimizer.step(closure)
        np.testing.assert_allclose(weights.detach(), expected, rtol=1e-5)
    assert ridge.norm() < 0.6 * truth.norm()


@pytest.mark.parametrize("limit", ["full", "evict"])
def test_targets_and_correction_of_the_released_buffer_are_ours(limit):
    case = load_fixture("original_buffer_samples")
    source = case[f"rrd_{limit}_subsequence_source"]
    episodes, n_sampled = source[:, 0, 0], source.shape[1]
    assert (source[:, :, 0] == episodes[:, None]).all()
    lengths = torch.tensor(case["lengths"][episodes])
    returns = torch.tensor([case[f"ep{index}_rew"].sum() for index in episodes])
    sampled = torch.zeros(len(episodes), n_sampled, dtype=torch.float64)
    errors, _, weights = compute_loss_terms(sampled, returns, lengths)
    targets = case[f"rrd_{limit}_rrd_rews"][:, 0]  # return / length
    np.testing.assert_allclose(errors, targets**2, rtol=1e-12)
    np.testing.assert_allclose(weights * n_sampled, case[f"rrd_{limit}_rrd_var_coef"][:, 0])
