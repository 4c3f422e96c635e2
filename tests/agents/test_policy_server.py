"""A policy is served in every form of request, and nothing else is let in."""

import base64
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from libero_reward_envs.agents.policy_client import PolicyClient
from libero_reward_envs.agents.policy_server import PolicyServer
from libero_reward_envs.agents.policy_wire import (
    RequestLimits,
    decode_array,
    decode_image,
    decode_state,
    encode_array,
    read_request,
)
from tests.agents.two_arm_robot import ServedScript

TOKEN = "a token of some length"
IMAGE = np.full((4, 6, 3), 7, np.uint8)


class Running:
    """A server in a thread."""

    def __init__(self) -> None:
        self.servers: list[PolicyServer] = []

    def __call__(self, policy: Any = None, **options: Any) -> PolicyServer:
        server = PolicyServer(policy or ServedScript(), port=0, **options)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.servers.append(server)
        return server


@pytest.fixture
def start() -> Iterator[Running]:
    running = Running()
    yield running
    for server in running.servers:
        server.shutdown()
        server.server_close()


def ask(
    server: PolicyServer,
    fields: Any,
    path: str = "/act",
    method: str = "POST",
    **headers: str,
) -> tuple[int, Any]:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **named})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_every_form_of_request_gets_its_form_of_answer(start: Running) -> None:
    policy = ServedScript()
    server = start(policy)
    told = {"instruction": "lift", "unnorm_key": "robot"}
    status, answer = ask(server, {"image": encode_array(IMAGE), **told})
    assert status == 200
    np.testing.assert_array_equal(decode_array(answer, "action", max_numbers=9), [7, 0, 0])
    assert ask(server, {"image": IMAGE.tolist(), **told}) == (200, [7, 0, 0])
    status, answer = ask(server, {"encoded": json.dumps({"image": encode_array(IMAGE), **told})})
    assert status == 200
    assert isinstance(answer, str)
    action = decode_array(json.loads(answer), "action", max_numbers=9)
    np.testing.assert_array_equal(action, [7, 0, 0])
    fields = {"image": encode_array(IMAGE), "state": [1, 2.5], "action_form": "list", **told}
    assert ask(server, fields) == (200, [7, 3.5, 0])
    assert policy.told == ["lift"] * 4


def test_json_numpy_reads_and_is_read() -> None:
    """The form written out by hand, as the package has it."""
    written = {
        "__numpy__": base64.b64encode(IMAGE.tobytes()).decode(),
        "dtype": "|u1",
        "shape": [4, 6, 3],
    }
    assert encode_array(IMAGE) == written
    np.testing.assert_array_equal(decode_image(written, "image", 24), IMAGE)
    for dtype in ("<f4", "<f8", "<i4", "<i8"):
        array = np.arange(3).astype(dtype)
        found = decode_array(encode_array(array), "x", max_numbers=3)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(decode_image(IMAGE.tolist(), "image", 24), IMAGE)


def test_cameras_are_told_apart_by_name(start: Running) -> None:
    server = start(ServedScript(("cam_high_image", "cam_low_image")))
    high, low = IMAGE.tolist(), (IMAGE + 1).tolist()
    for names in (("cam_high_image", "cam_low_image"), ("cam_high", "cam_low")):
        images = dict(zip(reversed(names), (low, high), strict=True))
        assert ask(server, {"images": images, "instruction": "a"}) == (200, [7, 8, 0, 0])
    for images in ({"cam_high": high}, {"cam_high": high, "wrist": low}):
        status, answer = ask(server, {"images": images, "instruction": "a"})
        assert status == 400
        assert "cam_low" in answer["error"]
    status, answer = ask(server, {"image": high, "instruction": "a"})
    assert status == 400
    assert "cam_high_image, cam_low_image" in answer["error"]


def test_chunks_wait_under_the_name_of_a_session(start: Running) -> None:
    server = start()

    def step(**fields: Any) -> float:
        return ask(server, {"image": IMAGE.tolist(), "instruction": "a", **fields})[1][-1]

    assert [step(), step()] == [0, 0]
    assert [step(session="a"), step(session="a"), step(session="b"), step(session="a")] == [
        *(0, 1, 0, 2)
    ]
    assert [step(session="a", episode_start=True), step(session="b")] == [0, 1]
    for index in range(64):  # more than are kept: the oldest go
        assert step(session=f"c{index}") == 0
    assert step(session="a") == 0
    assert step(session="c63") == 1


def test_the_client_acts_as_the_policy(start: Running) -> None:
    server = start(ServedScript(("high_image", "low_image")), token=TOKEN)
    client = PolicyClient(server.url + "/act", TOKEN)
    observation = {
        "high_image": IMAGE,
        "low_image": IMAGE + 1,
        "proprio": np.array([1, 2], np.float32),
        "unused": np.zeros(3),
    }
    assert client.settings["n_proprio"] == 2
    for step in range(2):
        action, state = client.predict(observation, instruction="lift")
        assert action.dtype == np.float32
        assert state is None
        np.testing.assert_array_equal(action, [7, 8, 3, step])
    client.reset()
    assert client.predict(observation, instruction="lift")[0][-1] == 0
    with pytest.raises(ValueError, match="answered 400: Expected an `instruction`"):
        client.predict(observation)
    with pytest.raises(ValueError, match="Expected the images high_image, low_image"):
        client.predict({"high_image": IMAGE}, instruction="lift")
    with pytest.raises(PermissionError, match="401"):
        _ = PolicyClient(server.url, "another").settings
    client.close()


def test_a_server_that_is_gone_or_slow_is_told(start: Running) -> None:
    server = start(ServedScript(delay_s=0.6))
    client = PolicyClient(server.url, timeout_s=0.2)
    observation = {"agentview_image": IMAGE, "proprio": np.zeros(2)}
    with pytest.raises(TimeoutError, match=r"within 0\.2 s"):
        client.predict(observation, instruction="a")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match="Cannot ask"):
        _ = PolicyClient(f"http://127.0.0.1:{port}").settings
    with pytest.raises(ValueError, match="`url` must be"):
        PolicyClient("127.0.0.1:8000")


def test_the_model_is_asked_by_one_at_a_time(start: Running) -> None:
    policy = ServedScript(delay_s=0.02)
    server = start(policy)

    def act(index: int) -> list[float]:
        image = np.full((2, 2, 3), index, np.uint8).tolist()
        return ask(server, {"image": image, "instruction": str(index)})[1]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(act, range(24)))
    assert answers == [[index, 0, 0] for index in range(24)]
    assert policy.most_at_once == 1
    assert sorted(policy.told, key=int) == [str(index) for index in range(24)]


def test_who_waits_too_long_for_the_model_is_told(start: Running) -> None:
    server = start(ServedScript(delay_s=1.0), timeout_s=0.2)
    with ThreadPoolExecutor(2) as pool:
        fields = {"image": IMAGE.tolist(), "instruction": "a"}
        statuses = sorted(each[0] for each in pool.map(ask, [server] * 2, [fields] * 2))
    assert statuses == [200, 503]


def test_the_token_is_asked_for(start: Running) -> None:
    server = start(token=TOKEN)
    fields = {"image": IMAGE.tolist(), "instruction": "a"}
    for given in (None, "Bearer wrong", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xfc"):
        headers = {} if given is None else {"Authorization": given}
        assert ask(server, fields, **headers)[0] == 401
    assert ask(server, fields, Authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask(server, b"", "/health", "GET") == (200, {"status": "ok"})
    assert ask(server, b"", "/health", "GET", Authorization="Bearer wrong")[0] == 401
    found = ask(server, b"", "/health", "GET", Authorization=f"Bearer {TOKEN}")[1]
    assert found["policy"]["image_keys"] == ["agentview_image"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "some.host", "192.168.0.7"])
def test_other_machines_are_let_in_with_a_token_only(host: str) -> None:
    with pytest.raises(ValueError, match="--token TOKEN, or --no-token"):
        PolicyServer(ServedScript(), host=host, port=0)
    with pytest.raises(ValueError, match="at least 16 characters"):
        PolicyServer(ServedScript(), host=host, port=0, token="short")
    if host == "0.0.0.0":
        PolicyServer(ServedScript(), host=host, port=0, allow_without_token=True).server_close()
        PolicyServer(ServedScript(), host=host, port=0, token=TOKEN).server_close()


def test_http_that_is_not_meant_is_refused(start: Running) -> None:
    server = start(limits=RequestLimits(body_bytes=1000))
    fields = {"image": IMAGE.tolist(), "instruction": "a"}
    assert ask(server, fields)[0] == 200
    assert ask(server, fields, "/other")[0] == 404
    assert ask(server, b"", "/", "GET")[0] == 404
    assert ask(server, fields, Content_Type="text/plain")[0] == 415
    assert ask(server, b"x" * 1001)[0] == 413
    assert ask(server, b"", Content_Length="9" * 30)[0] == 413
    assert ask(server, b"", Content_Length="-1")[0] == 411
    assert ask(server, b"", Transfer_Encoding="chunked", Content_Length="0")[0] == 411
    assert ask(server, fields)[0] == 200


def test_a_client_that_sends_slowly_does_not_stop_the_others(start: Running) -> None:
    server = start(timeout_s=0.3)
    with socket.create_connection(("127.0.0.1", server.server_port)) as slow:
        head = "POST /act HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        slow.sendall(head.encode())
        assert ask(server, {"image": IMAGE.tolist(), "instruction": "a"})[0] == 200
        time.sleep(0.4)
        slow.sendall(b"{")
        assert b" 408 " in slow.recv(1000)


def test_an_error_of_the_model_is_an_answer_and_tells_nothing(start: Running) -> None:
    policy = ServedScript()
    server = start(policy)
    fields = {"image": IMAGE.tolist(), "instruction": "a"}
    policy.fails = KeyError("secret")
    status, answer = ask(server, fields)
    assert status == 500
    assert "secret" not in answer["error"]
    policy.fails = MemoryError("no room for it")
    assert ask(server, fields) == (503, {"error": "no room for it"})
    policy.fails = None
    assert ask(server, fields)[0] == 200


ENCODED = encode_array(IMAGE)
GOOD = {"image": ENCODED, "instruction": "a"}
WRONG = {
    "no image": {"instruction": "a"},
    "two": {**GOOD, "images": {"a": ENCODED}},
    "unknown": {**GOOD, "imagee": 1},
    "no object": [1],
    "no instruction": {"image": ENCODED},
    "other statistics": {**GOOD, "unnorm_key": "bridge_orig"},
    "empty instruction": {**GOOD, "instruction": " "},
    "long instruction": {**GOOD, "instruction": "a" * 2001},
    "instruction type": {**GOOD, "instruction": ["a"]},
    "session": {**GOOD, "session": "../a"},
    "start": {**GOOD, "episode_start": 1},
    "form": {**GOOD, "action_form": "pickle"},
    "object dtype": {**GOOD, "image": {**ENCODED, "dtype": "|O"}},
    "structured dtype": {**GOOD, "image": {**ENCODED, "dtype": [["a", "<f4"]]}},
    "float image": {**GOOD, "image": encode_array(IMAGE.astype(np.float32))},
    "too few bytes": {**GOOD, "image": {**ENCODED, "shape": [40, 60, 3]}},
    "too many bytes": {**GOOD, "image": {**ENCODED, "shape": [1, 1, 3]}},
    "huge shape": {**GOOD, "image": {**ENCODED, "shape": [10**9, 10**9, 3]}},
    "negative shape": {**GOOD, "image": {**ENCODED, "shape": [-4, -6, 3]}},
    "bool shape": {**GOOD, "image": {**ENCODED, "shape": [True, 24, 3]}},
    "empty": {**GOOD, "image": {"__numpy__": "", "dtype": "|u1", "shape": [0, 6, 3]}},
    "grey": {**GOOD, "image": encode_array(IMAGE[..., 0])},
    "batch": {**GOOD, "image": encode_array(IMAGE[None])},
    "no base64": {**GOOD, "image": {**ENCODED, "__numpy__": "!" * 96}},
    "more keys": {**GOOD, "image": {**ENCODED, "fortran": True}},
    "ragged": {**GOOD, "image": [[[1, 2, 3]], [[1, 2, 3], [1, 2, 3]]]},
    "short pixel": {**GOOD, "image": [[[1, 2]]]},
    "text pixel": {**GOOD, "image": [[["a" * 999, 2, 3]]]},
    "fraction": {**GOOD, "image": [[[0.5, 2, 3]]]},
    "above 255": {**GOOD, "image": [[[256, 2, 3]]]},
    "null image": {**GOOD, "image": None},
    "no images": {"images": {}, "instruction": "a"},
    "many images": {"images": {str(n): ENCODED for n in range(9)}, "instruction": "a"},
    "state text": {**GOOD, "state": ["1"]},
    "state nested": {**GOOD, "state": [[1]]},
    "state huge": {**GOOD, "state": [10**400]},
    "state beyond float32": {**GOOD, "state": [1e300]},
    "state long": {**GOOD, "state": [0] * 1025},
    "encoded twice": {"encoded": json.dumps({"encoded": json.dumps(GOOD)})},
    "encoded and more": {"encoded": json.dumps(GOOD), "instruction": "a"},
    "encoded object": {"encoded": GOOD},
}


def test_wrong_input_is_answered_with_what_is_wrong(start: Running) -> None:
    server = start()
    bodies = {name: json.dumps(fields).encode() for name, fields in WRONG.items()}
    bodies |= {
        "no json": b"{",
        "nothing": b"",
        "no utf-8": b'{"instruction": "\xff"}',
        "nan": b'{"image": [[[NaN, 1, 2]]]}',
        "deep": b"[" * 100_000,
        "many digits": b'{"state": [' + b"9" * 10_000 + b"]}",
    }
    for name, body in bodies.items():
        status, answer = ask(server, body)
        assert status == 400, (name, answer)
        assert 0 < len(answer["error"]) < 1000, name
    assert ask(server, GOOD)[0] == 200


def test_limits_hold_before_anything_is_decoded() -> None:
    limits = RequestLimits(image_pixels=23, state_numbers=2)
    for image in (ENCODED, IMAGE.tolist()):
        body = json.dumps({"image": image, "instruction": "a"}).encode()
        with pytest.raises(ValueError, match="at most"):
            read_request(body, limits)
    with pytest.raises(ValueError, match="holds another number of them"):
        decode_array({**ENCODED, "shape": [1, 24, 3], "__numpy__": "!"}, "image", max_numbers=99)
    with pytest.raises(ValueError, match="at most 2 numbers"):
        decode_state([1, 2, 3], 2)
    with pytest.raises(ValueError, match="2 numbers"):
        decode_state(encode_array(np.zeros(3)), 2)


def test_damaged_requests_never_break_the_server(start: Running) -> None:
    server = start()
    rng = np.random.default_rng(0)
    whole = json.dumps({**GOOD, "state": [0.5, 1], "session": "a"}).encode()
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 6)):
            damaged[place] = rng.integers(0, 256)
        if rng.random() < 0.3:
            del damaged[rng.integers(0, len(damaged)) :]
        status, _ = ask(server, bytes(damaged))
        assert status in (200, 400)
    assert ask(server, GOOD)[0] == 200


def test_closing_waits_for_the_action_that_is_computed() -> None:
    server = PolicyServer(ServedScript(delay_s=0.5), port=0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, server, GOOD)
        time.sleep(0.2)
        server.shutdown()
        server.server_close()
        assert answer.result()[0] == 200
    server.server_close()
    with pytest.raises(OSError):  # noqa: PT011  (which one depends on the system)
        ask(server, GOOD)
