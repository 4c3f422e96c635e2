import json

import numpy as np
import pytest
import torch

from libero_reward_envs.reward_models import classifier as module
from libero_reward_envs.reward_models.base import Transitions, load_reward_model
from libero_reward_envs.reward_models.binary_classifier import BinaryRewardClassifier
from libero_reward_envs.reward_models.checks import check_reward_model
from libero_reward_envs.reward_models.classifier import ClassifierRewardModel

KEYS = ("front", "wrist")


def make_images(n=5, keys=KEYS, size=32, seed=0):
    rng = np.random.default_rng(seed)
    return {key: rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8) for key in keys}


def make_transitions(n=5, **changes):
    before, after = make_images(n, seed=1, **changes), make_images(n, **changes)
    return Transitions(before, np.zeros((n, 7), np.float32), after, np.zeros(n, bool))


@pytest.fixture(scope="module")
def network():
    network = BinaryRewardClassifier(
        KEYS, [3, 32, 32], 32, 2, use_pretrain=False, freeze_encoder=False
    ).eval()
    return network


@pytest.fixture(scope="module")
def spatial_network():
    """One that sees where features lie, on images that are not square."""
    network = BinaryRewardClassifier(["front"], [3, 64, 96], 32, 2, weights_follow=True)
    network.load_state_dict(network.state_dict())
    return network.eval()


def make_model(network, **arguments):
    return ClassifierRewardModel.from_classifier(network, **arguments)


@pytest.mark.parametrize("reward_type", ["binary", "continuous"])
def test_it_keeps_to_what_every_reward_model_must(network, reward_type, tmp_path):
    transitions = make_transitions()
    middle = float(
        np.median(make_model(network).compute_probability(transitions.next_observations))
    )
    model = make_model(network, reward_type=reward_type, threshold=middle, temperature=0.7)
    check_reward_model(model, transitions, tmp_path)


def test_images_that_are_not_square_are_rewarded(spatial_network):
    rng = np.random.default_rng(0)
    images = {"front": rng.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)}
    assert make_model(spatial_network).compute_probability(images).shape == (2,)
    turned = {"front": images["front"].swapaxes(1, 2)}
    with pytest.raises(
        ValueError, match=r"\('n', 64, 96, 3\) and type uint8, got \(2, 96, 64, 3\)"
    ):
        make_model(spatial_network).compute_probability(turned)


def test_rewards_are_the_networks_own_for_the_next_observations(network):
    transitions = make_transitions()
    tensors = {
        key: torch.from_numpy(value).permute(0, 3, 1, 2)
        for key, value in transitions.next_observations.items()
    }
    with torch.inference_mode():
        logits = network(tensors).numpy()
    expected = 1 / (1 + np.exp(-logits / 2))
    model = make_model(network, reward_type="continuous", temperature=2.0)
    rewards = model.compute_reward(transitions)
    np.testing.assert_allclose(rewards, expected, rtol=1e-5)
    np.testing.assert_array_equal(rewards, model.compute_probability(transitions.next_observations))
    threshold = float(np.sort(expected)[2:4].mean())
    binary = make_model(network, threshold=threshold, temperature=2.0).compute_reward(transitions)
    np.testing.assert_array_equal(binary, (expected > threshold).astype(np.float32))
    assert set(binary) == {0.0, 1.0}


def test_only_images_it_names_are_read(network):
    model = make_model(network, reward_type="continuous")
    transitions = make_transitions()
    more = transitions._replace(
        observations={}, next_observations={**transitions.next_observations, "state": np.ones(9)}
    )
    np.testing.assert_array_equal(model.compute_reward(more), model.compute_reward(transitions))


def test_a_binary_reward_at_the_very_threshold_is_that_of_the_row_alone(network, monkeypatch):
    transitions = make_transitions()
    model = make_model(network)
    alone = [
        float(model.compute_probability({k: v[row : row + 1] for k, v in images.items()})[0])
        for images in [transitions.next_observations]
        for row in range(5)
    ]
    compute = ClassifierRewardModel._compute_exact

    def compute_less_exactly(self, images):  # as a batch on another machine might
        logits = compute(self, images)
        return logits if len(logits) == 1 else logits + 5e-4

    monkeypatch.setattr(ClassifierRewardModel, "_compute_exact", compute_less_exactly)
    for row in range(5):
        rewards = make_model(network, threshold=alone[row]).compute_reward(transitions)
        assert rewards[row] == 0  # not above, though the batch says so


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_ends_of_the_threshold_pay_always_and_never(network, threshold, expected):
    rewards = make_model(network, threshold=threshold).compute_reward(make_transitions())
    np.testing.assert_array_equal(rewards, np.full(5, expected, np.float32))


def test_batches_are_bounded_and_bounds_change_nothing(network, monkeypatch):
    model = make_model(network, reward_type="continuous")
    images = make_images(7)
    whole = model.compute_probability(images)
    sizes = []
    monkeypatch.setattr(module, "_MAX_ROWS", 3)
    model.classifier.register_forward_pre_hook(lambda _, i: sizes.append(len(i[0]["front"])))
    np.testing.assert_allclose(model.compute_probability(images), whole, rtol=1e-5)
    assert sizes == [3, 3, 1]
    assert model.compute_probability(make_images(0)).shape == (0,)


def test_views_and_read_only_arrays_are_rewarded_alike(network):
    model, images = make_model(network), make_images()
    expected = model.compute_probability(images)
    turned = {key: value[:, ::-1].copy()[:, ::-1] for key, value in images.items()}
    for value in images.values():
        value.flags.writeable = False
    np.testing.assert_array_equal(model.compute_probability(images), expected)
    np.testing.assert_array_equal(model.compute_probability(turned), expected)


def test_the_configuration_alone_tells_all(network, tmp_path):
    model = make_model(
        network,
        reward_type="continuous",
        threshold=0.8,
        temperature=1.5,
        class_prior=0.2,
        training={"n_episodes": 12, "average_precision": 0.97},
    )
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["observation_keys"] == list(KEYS)
    assert config["training"]["n_episodes"] == 12
    assert config["training"]["encoder_hash"] == network.encoder_hash
    loaded = load_reward_model(tmp_path)
    assert isinstance(loaded, ClassifierRewardModel)
    assert loaded.arguments == model.arguments == config["arguments"]
    assert config["arguments"]["image_size"] == [3, 32, 32]
    assert config["arguments"]["normalization"] == "imagenet"
    images = make_images()
    np.testing.assert_array_equal(
        loaded.compute_probability(images), model.compute_probability(images)
    )


def test_the_model_keeps_its_weights_when_the_network_learns_on(network):
    learner = BinaryRewardClassifier(**network.arguments)
    model = make_model(learner)
    before = model.compute_probability(make_images())
    with torch.no_grad():
        for value in learner.parameters():
            value += 3
    np.testing.assert_array_equal(model.compute_probability(make_images()), before)


def test_a_model_without_weights_gives_no_reward(network):
    model = ClassifierRewardModel(**make_model(network).arguments)
    with pytest.raises(RuntimeError, match="Expected weights"):
        model.compute_reward(make_transitions())
    model.set_weights(make_model(network).get_weights())
    assert model.compute_reward(make_transitions()).shape == (5,)


def test_the_global_generator_is_left_alone(network):
    before = torch.random.get_rng_state()
    make_model(network).compute_reward(make_transitions())
    assert torch.equal(torch.random.get_rng_state(), before)


IMAGES = make_images(2)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda x: np.moveaxis(x, -1, 1), "Move the channels last"),
        (lambda x: np.repeat(np.repeat(x, 2, 1), 2, 2), "Render at 32 x 32 pixels"),
        (lambda x: x[0], "Add the axis of rows"),
        (lambda x: x[..., :1], r"Images are \(H, W, C\)"),
        (lambda x: x.reshape(2, -1), r"Images are \(H, W, C\)"),
        (lambda x: (x / 255).astype(np.float32), r"np.round\(255 \* images\).astype"),
        (lambda x: x.astype(np.float32), r"np.round\(images\).astype\(np.uint8\)"),
        (lambda x: x.astype(np.int64), r"type uint8, got .* and int64"),
    ],
)
def test_images_of_another_form_are_refused_with_what_to_do(network, change, hint):
    images = {**IMAGES, "wrist": change(IMAGES["wrist"])}
    with pytest.raises(ValueError, match="Expected images 'wrist' of shape") as caught:
        make_model(network).compute_probability(images)
    caught.match(hint)


def test_missing_images_and_unequal_numbers_are_refused(network):
    model = make_model(network)
    with pytest.raises(ValueError, match="Expected images 'wrist', got only: front"):
        model.compute_probability(make_images(keys=["front"]))
    with pytest.raises(ValueError, match=r"as many images of each key, got \{'front': 2, 'wrist'"):
        model.compute_probability({**make_images(2), "wrist": make_images(3)["wrist"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward_type": "dense"}, "Unknown `reward_type` 'dense'"),
        ({"threshold": 1.5}, r"`threshold` must be in \[0, 1\], got 1.5"),
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"class_prior": -0.1}, "`class_prior` must be in"),
    ],
)
def test_arguments_out_of_range_are_refused(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model(network, **arguments)


def test_a_damaged_configuration_is_refused(network, tmp_path):
    make_model(network).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["arguments"]["image_size"] = [3, 128, 128]
    path.write_text(json.dumps(config))  # fits the weights: features are averaged
    assert load_reward_model(tmp_path).observation_keys == KEYS
    config["arguments"]["hidden_dim"] = 16
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="Expected tensor"):
        load_reward_model(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rewards_on_a_gpu_are_those_of_the_cpu(network):
    images = make_images()
    model = make_model(network)
    expected = model.compute_probability(images)
    np.testing.assert_allclose(model.to("cuda").compute_probability(images), expected, atol=1e-5)


def test_another_reward_type_is_another_model_of_the_same_network(network):
    model = make_model(network, reward_type="continuous", threshold=0.5)
    binary = model.with_reward_type("binary")
    transitions = make_transitions()
    assert (model.reward_type, binary.reward_type) == ("continuous", "binary")
    assert binary.classifier is model.classifier
    expected = (model.compute_reward(transitions) > 0.5).astype(np.float32)
    np.testing.assert_array_equal(binary.compute_reward(transitions), expected)
    with pytest.raises(ValueError, match="reward_type"):
        model.with_reward_type("float")
