import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from libero_reward_envs.reward_models import classifier as module
from libero_reward_envs.reward_models.base import Transitions, load_reward_model
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel
from libero_reward_envs.reward_models.classifier_screen import ClassifierScreen, can_screen
from libero_reward_envs.reward_models.int8_trunk import has_exact_int8

pytestmark = pytest.mark.skipif(not has_exact_int8(), reason="needs a processor with VNNI")

N = 40


@pytest.fixture(scope="module")
def network():
    """Two cameras; the little that random weights tell images apart by is made large."""
    network = BinaryRewardClassifier(["a", "b"], [3, 32, 32], 32, 2, weights_follow=True)
    network.load_state_dict(network.state_dict())
    head: Any = network.classifier[-1]
    with torch.no_grad():
        logits = network.eval().forward(make_tensors())
        scale = 1.5 / logits.std()
        head.weight *= scale
        head.bias.copy_((head.bias - logits.mean()) * scale)
    return network


def make_images(n=N):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (n, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    noise = rng.integers(0, 56, (2, n, 32, 32, 3), dtype=np.uint8)
    return {"a": coarse + noise[0], "b": coarse[::-1] + noise[1]}


def make_tensors(n=N):
    return {key: torch.from_numpy(x).permute(0, 3, 1, 2) for key, x in make_images(n).items()}


def compute_reward(model, n=N):
    return model.compute_reward(
        Transitions({}, np.zeros((n, 7), np.float32), make_images(n), np.zeros(n, bool))
    )


def make_model(network, **arguments):
    return ClassifierRewardModel.from_classifier(network, **arguments)


def turn_some(model):
    for trunk in model.classifier.trunks:
        trunk.layer1[0].conv1.weight[::2] *= -1


def count_rows(model):
    """The numbers of rows that go through the whole network in single precision."""
    sizes = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0]["a"])))
    return sizes


def test_binary_rewards_are_those_without_a_screen(network, monkeypatch):
    plain, screened = make_model(network), make_model(network)
    compute_reward(screened)  # learns how large errors are
    probabilities = plain.compute_probability(make_images())
    for threshold in [*np.sort(probabilities)[::4], 0.0, 0.5, 1.0]:
        plain.threshold = screened.threshold = float(threshold)
        found = compute_reward(screened)
        with monkeypatch.context() as patch:
            patch.setattr(module, "can_screen", lambda _: False)
            np.testing.assert_array_equal(found, compute_reward(plain))
        assert screened._screen is not None
        assert plain._screen is None


def test_only_rows_near_the_threshold_are_looked_at_again(network):
    model = make_model(network, temperature=2.0, threshold=0.7)
    sizes = count_rows(model)
    compute_reward(model)
    assert sizes == [N]  # none is believed yet
    assert model._screen is not None
    margin = model._screen.margin
    sizes.clear()
    compute_reward(model)
    logits = network.eval()(make_tensors()).detach().numpy()
    distance = np.abs(logits - 2 * np.log(0.7 / 0.3))
    assert (distance < margin / 2).sum() <= sum(sizes) <= (distance < 2 * margin).sum() < N


def test_the_margin_is_ten_times_the_largest_error_and_infinite_at_first(network):
    screen = ClassifierScreen(network)
    assert screen.margin == np.inf
    screen.compare(np.zeros(31), np.full(31, -0.01))
    assert screen.margin == np.inf
    screen.compare(np.zeros(1), np.full(1, 0.01))
    assert screen.margin == 0.5
    screen.compare(np.array([2.0]), np.array([1.9]))
    assert screen.margin == pytest.approx(1.0)
    screen.compare(np.zeros(1), np.zeros(1))
    assert screen.margin == pytest.approx(1.0)


def test_its_logits_are_nearly_the_networks(network):
    with torch.inference_mode():
        exact = network.eval()(make_tensors())
        found = ClassifierScreen(network).compute_logits(make_tensors())
    assert 1e-6 < (found - exact).abs().max() < 0.15 * exact.std()


@pytest.mark.parametrize("change", ["in place", "set", "loaded"])
def test_weights_that_change_are_noticed(network, change):
    model, other = make_model(network, precision="int8"), make_model(network)
    before = model.compute_probability(make_images())
    with torch.no_grad():
        turn_some(other)
    if change == "set":
        model.set_weights(other.get_weights())
    elif change == "loaded":
        model.classifier.load_state_dict(other.classifier.state_dict())
    else:
        with torch.no_grad():
            turn_some(model)
    expected = other.compute_probability(make_images())
    assert np.abs(before - expected).max() > 0.2
    np.testing.assert_allclose(model.compute_probability(make_images()), expected, atol=0.1)


def test_a_model_that_has_scored_can_be_copied_and_pickled(network):
    model = make_model(network)
    expected = compute_reward(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(compute_reward(twin), expected)
    turned = model.with_reward_type("continuous")
    np.testing.assert_array_equal(compute_reward(turned) > 0.5, expected == 1)


def test_probabilities_in_8_bits_are_close_and_only_on_request(network, tmp_path):
    exact = make_model(network, reward_type="continuous")
    quick = make_model(network, reward_type="continuous", precision="int8")
    quick.save_pretrained(tmp_path)
    loaded = load_reward_model(tmp_path)
    assert isinstance(loaded, ClassifierRewardModel)
    assert loaded.precision == "int8"
    differences = np.abs(compute_reward(quick) - compute_reward(exact))
    assert 1e-6 < differences.max() < 0.06
    np.testing.assert_array_equal(compute_reward(loaded), compute_reward(quick))
    sizes = count_rows(quick)
    compute_reward(quick)
    assert not sizes
    with pytest.raises(ValueError, match="Unknown `precision` 'int4'"):
        make_model(network, precision="int4")


def test_where_bytes_are_slow_all_is_in_single_precision(network, monkeypatch):
    exact = compute_reward(make_model(network, reward_type="continuous"))
    monkeypatch.setattr(module, "can_screen", lambda _: False)
    model = make_model(network, reward_type="continuous", precision="int8")
    np.testing.assert_array_equal(compute_reward(model), exact)


def test_only_resnet10_in_single_precision_on_the_cpu_is_screened(network):
    assert can_screen(network)
    assert not can_screen(copy.deepcopy(network).double())
    pytest.importorskip("torchvision")
    other = BinaryRewardClassifier(["a"], [3, 32, 32], backbone="resnet18", weights_follow=True)
    assert not can_screen(other)
