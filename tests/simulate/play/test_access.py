"""Who is let in by the server of `wfm play`, and what nobody can do to it or to the others."""

import asyncio
import json

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("pyarrow")

import aiohttp  # noqa: E402
from play_client import run, serving, tiny_world  # noqa: E402

from wfm_ar.simulate.play.protocol import MESSAGE_BYTES  # noqa: E402

LEFT = [-0.025, 0.0]


@pytest.fixture(scope="module")
def plain():
    return tiny_world()


def test_other_sites_and_other_names_are_refused(plain, tmp_path):
    async def scenario():
        async with serving(plain, tmp_path) as served:
            own = served.address.removeprefix("http://")
            for headers, status in (
                ({}, 200),
                ({"Host": own, "Origin": f"http://{own}"}, 200),
                ({"Host": "localhost:1"}, 200),
                ({"Host": "evil.example"}, 403),
                ({"Host": "192.168.0.9:8765"}, 403),
                ({"Host": ""}, 403),
                ({"Origin": "http://evil.example"}, 403),
                ({"Origin": "null"}, 403),
                ({"Sec-Fetch-Site": "cross-site"}, 403),
            ):
                async with served.http.get(f"{served.address}/healthz", headers=headers) as response:
                    assert response.status == status, headers
                    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    async with served.player(**headers):
                        pass
            assert served.server.access.token is None

    run(scenario())


def test_beyond_this_machine_a_token_is_needed(plain, tmp_path):
    async def scenario():
        async with serving(plain, tmp_path, host="0.0.0.0") as served:
            token, served.address = served.server.access.token, served.address.replace("0.0.0.0", "127.0.0.1")
            assert len(token) >= 32 and f"?token={token}" in served.server.address
            for path, given, status in (("/", "", 200), ("/healthz", "", 403), ("/healthz", "wrong", 403), ("/healthz", token, 200)):
                async with served.http.get(f"{served.address}{path}", params={"token": given}) as response:
                    assert response.status == status, (path, given)
            for path in ("/picture", "/clip", "/ws"):
                async with served.http.get(f"{served.address}{path}") as response:
                    assert response.status == 403
            async with served.player() as player:
                await player.start()

    run(scenario())


def test_limits_of_messages_uploads_and_sessions(plain, tmp_path, monkeypatch):
    from wfm_ar.simulate.play import server

    monkeypatch.setattr(server, "UPLOAD_BYTES", 1000)

    async def scenario():
        async with serving(plain, tmp_path, sessions=2) as served, served.player() as player, served.player() as second:
            query = {"session": player.welcome["session"], "name": "a.png"}
            async with served.http.post(f"{served.address}/upload", params=query, data=b"0" * 1001) as response:
                assert response.status == 413
            async with served.http.post(f"{served.address}/upload", params={"session": "x"}, data=b"0") as response:
                assert response.status == 404
            async with served.http.ws_connect(f"{served.address}/ws") as third:
                assert "expected at most 2" in json.loads((await third.receive()).data)["text"]
                assert (await third.receive()).data == 1013
            await second.socket.send_str(" " * (MESSAGE_BYTES + 1))
            while (await second._next()) is not None:
                pass
            assert second.socket.close_code == 1009
            while len(served.server.sessions) > 1:
                await asyncio.sleep(0.01)
            async with served.player() as third:
                await third.start()
            for path in ("/page/../server.py", "/page/nothing.js", "/clip?name=../../etc/passwd", "/picture?session=x"):
                async with served.http.get(f"{served.address}{path}") as response:
                    assert response.status == 404, path

    run(scenario())


def test_a_slow_page_loses_pictures_and_the_others_go_on():
    from wfm_ar.simulate.play.connection import NEWS, PICTURES, Outbox

    async def scenario():
        outbox = Outbox(asyncio.get_running_loop())
        for i in range(PICTURES + 10):
            outbox._put(bytes([i]))
            outbox._put(str(i))
        assert outbox.lost == 10 and not outbox.flooded
        taken = [await outbox.take() for _ in range(2 * PICTURES + 10)]
        assert [one for one in taken if isinstance(one, bytes)] == [bytes([i]) for i in range(10, PICTURES + 10)]
        assert [one for one in taken if isinstance(one, str)] == [str(i) for i in range(PICTURES + 10)], "news are never lost"
        for _ in range(NEWS + 1):
            outbox._put("x")
        assert outbox.flooded

    run(scenario())


def test_a_session_that_goes_leaves_nothing(plain, tmp_path):
    import gc
    import weakref

    async def scenario():
        async with serving(plain, tmp_path) as served:
            async with served.player() as player:
                await player.start()
                for _ in range(3):
                    await player.step(LEFT)
                ((session, _, _),) = served.server.sessions.values()
                stream, ended = weakref.ref(session.stream), weakref.ref(session)
                del session
            while served.server.sessions or served.server.stepper.sessions:
                await asyncio.sleep(0.01)
            for _ in range(100):
                gc.collect()
                if stream() is None and ended() is None:
                    return
                await asyncio.sleep(0.02)
            raise AssertionError("the session is still held")

    run(scenario())


def test_a_mistake_of_ours_ends_one_session_alone(plain, tmp_path, capsys):
    async def scenario():
        async with serving(plain, tmp_path) as served, served.player() as player, served.player() as other:
            await player.start()
            await other.start()
            broken = served.server.stepper.sessions[0]
            broken.next_steps = lambda now: 1 / 0
            await player.send("step")
            assert "was closed" in (await player.news("ended"))["text"]
            assert (await other.step(LEFT)).step == 1

    run(scenario())
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_random_bytes_hurt_nobody(plain, tmp_path):
    rng = np.random.default_rng(0)

    async def scenario():
        async with serving(plain, tmp_path) as served, served.player() as player:
            await player.start()
            base = json.dumps({"do": "act", "seq": 1, "values": [0, 0]})
            for _ in range(200):
                letters = list(base)
                for place in rng.integers(len(letters), size=3):
                    letters[place] = chr(rng.integers(32, 1000))
                await player.socket.send_str("".join(letters))
            await player.send("ping", at=1)
            await player.news("pong")
            assert sum(one["news"] == "error" for one in player.all_news) > 100
            assert (await player.step(LEFT)).step == 1

    run(scenario())
