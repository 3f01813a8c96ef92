"""A served policy is the policy; what does not fit is one line to who sent it, and the server goes on."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moto_pl
from moto_pl.cli import main
from moto_pl.deploy import serve
from moto_pl.deploy.serve import PolicyServer, decoded, listen
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError
from moto_pl.rollout.policy import ArraySpec, Policy
from small_agents import make, save

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
PAGE = Path(__file__).parents[2] / "docs/policy.md"
Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make("MOTO"), tmp_path_factory.mktemp("serve") / "a.ckpt")


@pytest.fixture()
def port(path: Path) -> Iterator[int]:
    with serving(path) as port:
        yield port


@contextmanager
def serving(path: Path) -> Iterator[int]:
    """The port of a server, in a thread of its own with an event loop of its own."""
    listening, loop = listen("127.0.0.1", 0), asyncio.new_event_loop()
    task = loop.create_task(serve._serve(PolicyServer(moto_pl.load_policy(path, seed=5)), listening))

    def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("builtins.print", lambda *_, **__: None)
            try:
                loop.run_until_complete(task)
            except asyncio.CancelledError:
                pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    loop.call_soon_threadsafe(task.cancel)
    thread.join(20)
    assert not thread.is_alive()
    loop.close()


@pytest.fixture()
def ask(port: int) -> Iterator[Ask]:
    with asking(port) as ask:
        yield ask


@contextmanager
def asking(port: int) -> Iterator[Ask]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)

    def asked(body: Any, method: str = "POST", at: str = "/act", **headers: str) -> tuple[int, dict[str, Any]]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, at, content, headers)
        answer = connection.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
        return answer.status, found

    yield asked
    connection.close()


def array(frame: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(frame.tobytes()).decode()
    return {"dtype": str(frame.dtype), "shape": list(frame.shape), "data": data}


def seen(frame: np.ndarray, **further: Any) -> dict[str, Any]:
    return {"observation": {"image": array(frame)}, **further}


def test_each_robot_has_a_policy_of_its_own(ask: Ask, path: Path) -> None:
    agent = moto_pl.load_policy(path)
    key = moto_pl.load_policy(path, seed=5).key
    left, right = Policy(agent.agent, "mode", key.fold(1)), Policy(agent.agent, "mode", key.fold(2))
    for t, frame in enumerate(FRAMES[:4]):
        for name, policy, image in (("left", left, frame), ("right", right, FRAMES[5 - t])):
            status, answer = ask(seen(image, robot=name, first=t == 0))
            assert status == 200, answer
            np.testing.assert_array_equal(np.float32(answer["action"]), policy.act(image))
    left.executed(np.float32([0.5, -0.5]))
    status, answer = ask(seen(FRAMES[4], robot="left", executed=[0.5, -0.5]))
    np.testing.assert_array_equal(np.float32(answer["action"]), left.act(FRAMES[4]))
    left.reset()
    status, answer = ask(seen(FRAMES[4], robot="left", first=True))
    np.testing.assert_array_equal(np.float32(answer["action"]), left.act(FRAMES[4]))
    status, about = ask(b"", "GET", "/")
    assert about["observation"] == {"image": {"dtype": "uint8", "shape": [64, 64, 3]}} and about["gradient_steps"] == 7


def test_cameras_vectors_and_what_actions_stand_for(tmp_path: Path) -> None:
    both = Observation(("front", "wrist"), {"qpos": 3}, (0.5, 0.0, -1.0), (1.0, 2.0, 0.5), 96)
    agent = make("MOTO", observation=both)
    agent.action_scale = ActionScale((-5.0, 0.0), (5.0, 90.0))
    path, rng = save(agent, tmp_path / "a.ckpt"), np.random.default_rng(0)
    key = moto_pl.load_policy(path, seed=5).key
    policy = Policy(moto_pl.load_policy(path).agent, "mode", key.fold(1))
    with serving(path) as port, asking(port) as ask:
        status, about = ask(b"", "GET", "/")
        assert {name: part["shape"] for name, part in about["observation"].items()} == {
            "front": [96, 96, 3], "wrist": [96, 96, 3], "qpos": [3],
        }  # fmt: skip
        assert about["action"]["stands_for"] == {"low": [-5, 0], "high": [5, 90]}
        for t in range(3):
            now = {name: rng.integers(0, 256, (96, 96, 3), np.uint8) for name in both.cameras}
            now["qpos"] = rng.standard_normal(3).astype(np.float32)
            given = {"observation": {name: array(part) for name, part in now.items()}, "first": t == 0}
            status, answer = ask(given)
            assert status == 200, answer
            np.testing.assert_array_equal(np.float32(answer["action"]), policy.act(now))
        without = {"observation": {name: array(now[name]) for name in ("front", "qpos")}}
        status, answer = ask(without)
        assert status == 400 and "observation: found no 'wrist'" in answer["error"]


def test_what_does_not_fit_is_one_line_and_the_server_lives_on(ask: Ask) -> None:
    good = seen(FRAMES[0])
    image = good["observation"]["image"]

    def wrong(**change: Any) -> dict[str, Any]:
        return {"observation": {"image": {**image, **change}}, "first": True}

    assert ask({**good, "first": True})[0] == 200
    for body, status, said in (
        (b"", 400, "request: found what cannot be read"),
        (b"{", 400, "request"),
        (b"\xff\xfe", 400, "request"),
        (b"[" * 5000, 400, "request"),
        ([], 400, "request"),
        ({}, 400, "has no observation"),
        ({"observation": {}}, 400, "no 'image'"),
        ({"observation": {"image": [1]}}, 400, "request"),
        (wrong(dtype="float32"), 400, "'image' as float32 [64, 64, 3]"),
        (wrong(shape=[84, 84, 3]), 400, "'image' as uint8 [84, 84, 3]"),
        (wrong(shape=[1e9]), 400, "'image', whose form is another"),
        (wrong(data="&" * 100), 400, "no base64"),
        (wrong(data="AAAA"), 400, "'image' of 3 bytes, where 12,288"),
        ({"observation": {"image": {"dtype": "uint8"}}}, 400, "'image', whose form is another"),
        ({**good, "robot": "other"}, 400, "no episode of a robot 'other'"),
        ({**good, "robot": 3}, 400, "robot"),
        ({**good, "executed": [1.0]}, 400, "executed: found [1.0]. Give 2"),
        ({**good, "executed": [1.0, float("nan")]}, 400, "executed"),
        ({**good, "executed": [1.0, 2.0]}, 400, "executed"),
        ({**good, "first": True, "executed": [1.0, 1.0]}, 400, "before an episode's first action"),
        ({"observation": {"image": image}, "padding": "x" * 40_000}, 413, "request: found more than"),
    ):
        found, answer = ask(body)
        assert found == status and said in answer["error"] and "\n" not in answer["error"], (body, answer)
    assert ask(good, Origin="http://example.org")[0] == 403
    assert ask(good, **{"Content-Encoding": "gzip"})[0] in (400, 500)
    assert ask(good, "GET", "/act")[0] == 405 and ask(good, at="/none")[0] == 404
    assert ask({**good, "first": True})[0] == 200  # and it lives on


def test_no_more_robots_than_it_keeps(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MOST_ROBOTS", 2)
    for name in ("a", "b", "c"):
        assert ask(seen(FRAMES[0], robot=name, first=True))[0] == 200
    assert ask(seen(FRAMES[1], robot="b"))[0] == 200 and ask(seen(FRAMES[1], robot="c"))[0] == 200
    assert "robot 'a'" in ask(seen(FRAMES[1], robot="a"))[1]["error"]


def test_a_body_that_does_not_come_is_given_up(ask: Ask, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "READ_TIMEOUT_S", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
        slow.sendall(b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert ask(b"", "GET", "/")[0] == 200  # another is answered meanwhile
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_the_pages_client(ask: Ask, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ten lines of docs/policy.md, as they stand there, with the environment of a run."""
    (code,) = re.findall(r"^```python\n(import base64.*?)^```", PAGE.read_text(), re.S | re.M)
    assert len(code.splitlines()) <= 16 and "8765" in code
    names: dict[str, Any] = {}
    exec(compile(code.replace("8765", str(port)), str(PAGE), "exec"), names)
    action = names["act"](FRAMES[0], first=True)
    assert len(action) == 2 and names["act"](FRAMES[1]) != action
    with pytest.raises(RuntimeError, match="observation"):
        names["act"](FRAMES[0][:32])


def test_arrays_of_other_kinds() -> None:
    """What a state of joints would be."""
    spec, state = ArraySpec((3,), "float32"), np.float32([1, 2, np.inf])
    np.testing.assert_array_equal(decoded("state", array(state[:2].repeat(2)[:3]), spec), [1, 1, 2])
    with pytest.raises(SettingError, match="NaN or infinity"):
        decoded("state", array(state), spec)


def test_what_is_no_server_is_one_line(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        in_use = str(taken.getsockname()[1])
        for words, said in (
            ([path, "--port", in_use], f"--port: found {in_use} on 127.0.0.1 (address already in use)"),
            ([path, "--port", "70000"], "--port: found 70000"),
            ([path, "--port", "0", "--host", "192.0.2.1"], "--host: found 192.0.2.1"),
            ([tmp_path / "none.ckpt", "--port", "0"], "checkpoint: found no file"),
            ([path, "--port", "0", "--device", "gpu"], "device: found 'gpu'"),
        ):
            assert main(["serve", *map(str, words)]) == 2
            error = capsys.readouterr().err
            assert said in error and error.count("\n") == 1, error
