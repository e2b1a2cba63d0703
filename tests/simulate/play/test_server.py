"""The server of `wfm play` by a client: drive, prompt, rewind, branch, record."""

import io

import numpy as np
import pytest
import tiny_world as tiny

pytest.importorskip("aiohttp")
pytest.importorskip("pyarrow")

from play_client import ARM, clips_folder, pixels, run, serving, tiny_world  # noqa: E402

from wfm_ar.data.check import check_data  # noqa: E402
from wfm_ar.data.formats import open_episodes  # noqa: E402
from wfm_ar.data.parquet import read_arrays  # noqa: E402
from wfm_ar.data.video import read_video, write_image, write_video  # noqa: E402

LEFT, RIGHT, REST = [-0.025, 0.0], [0.025, 0.0], [0.0, 0.0]


@pytest.fixture(scope="module", params=[False, True], ids=["two frames a latent", "one frame a latent"])
def world(request):
    return tiny_world(lookahead=request.param)


@pytest.fixture(scope="module")
def plain():
    return tiny_world()


def test_the_welcome_says_what_the_world_is(world, tmp_path):
    async def scenario():
        async with serving(world, tmp_path) as served, served.player() as player:
            about = player.welcome["world"]
            assert (about["width"], about["height"], about["rate"], about["fps"]) == (24, 16, world.rate, 10.0)
            assert [(one["name"], one["low"], one["high"]) for one in about["channels"]] == [("dx", -0.025, 0.025), ("dy", -0.025, 0.025)]
            assert player.welcome["can"] == {"text": True, "imagine": True, "refine": True}
            assert "red" in player.welcome["words"]

    run(scenario())


def test_what_is_shown_is_what_a_stream_of_these_keys_shows(world, tmp_path):
    async def scenario():
        async with serving(world, tmp_path) as served, served.player() as player:
            shown = [await player.start(text="push the red cube left", seed=4)]
            for seq, values in enumerate((LEFT, LEFT, RIGHT, REST), 1):
                shown.append(await player.step(values, seq))
            stream = world.start(text="push the red cube left", seed=4)
            frames = [stream.step()] + [stream.step(np.tile(np.float32(v), (world.rate, 1))) for v in (LEFT, LEFT, RIGHT, REST)]
            assert [one.seq for one in shown] == [0, 1, 2, 3, 4] and [one.step for one in shown] == [0, 1, 2, 3, 4]
            assert [one.frame for one in shown] == [i * world.rate for i in range(5)]
            for one, expected in zip(shown, frames, strict=True):
                assert np.array_equal(pixels(one.png), expected[-1])
            assert shown[1].waited_ms >= 0 and shown[1].made_ms > 0

    run(scenario())


def test_a_tapped_key_counts_once(plain, tmp_path):
    async def scenario():
        async with serving(plain, tmp_path) as served, served.player() as player:
            await player.start(seed=1)
            await player.send("act", seq=1, values=LEFT)
            first = await player.step(REST, 2)
            second = await player.step()
            stream = plain.start(seed=1)
            stream.step()
            tapped, still = (stream.step(np.tile(np.float32(values), (2, 1))) for values in (LEFT, REST))
            assert np.array_equal(pixels(first.png), tapped[-1]) and np.array_equal(pixels(second.png), still[-1])

    run(scenario())


def test_it_plays_until_it_is_paused(world, tmp_path):
    async def scenario():
        async with serving(world, tmp_path) as served, served.player() as player:
            await player.start()
            await player.send("play", on=True)
            while (await player.picture()).step < 8:
                pass
            await player.send("play", on=False)
            await player.news("play")
            told = await player.news("stats")
            assert told["steps"] >= 9 and told["made_ms"]["p50"] > 0
            before = len(player.pictures)
            await player.news("stats")
            assert len(player.pictures) == before, "it is paused"
            async with served.http.get(f"{served.address}/healthz") as response:
                health = await response.json()
            assert health["sessions"] == 1 and health["frames"] == before and health["memory_mib"] > 0
            assert health["step_ms"]["p95"] >= health["step_ms"]["p50"] > 0

    run(scenario())


def test_rewinding_shows_the_old_picture_and_goes_on_from_there(world, tmp_path):
    async def scenario():
        async with serving(world, tmp_path, memory=16) as served, served.player() as player:
            old = [await player.start(seed=4)]
            for k in range(9):
                old.append(await player.step(LEFT if k % 2 else RIGHT, k))
            for at in (7, 0, 3):
                await player.send("go", node=old[at].node)
                shown = await player.last_of_step()
                assert shown.node == old[at].node and shown.png == old[at].png
            again = await player.step(LEFT if 3 % 2 else RIGHT)
            assert again.png == old[4].png and again.node != old[4].node and again.parent == old[3].node
            await player.send("go", node=old[3].node)
            await player.last_of_step()
            other = await player.step(RIGHT)
            for _ in range(3):
                other = await player.step(RIGHT)
            assert other.png != old[7].png and other.step == old[7].step
            async with served.http.get(
                f"{served.address}/picture", params={"session": player.welcome["session"], "node": old[5].node, "number": world.rate - 1}
            ) as response:
                assert await response.read() == old[5].png

    run(scenario())


def test_settings_change_on_the_way(plain, tmp_path):
    async def scenario():
        async with serving(plain, tmp_path) as served, served.player() as player:
            first = await player.start(text="push the red cube left", seed=1)
            await player.send("set", text="do nothing", temperature=0.0, seed=7)
            told = await player.news("settings")
            assert (told["text"], told["temperature"], told["seed"]) == ("do nothing", 0.0, 7)
            await player.send("set", temperature=-2.0)
            assert "temperature: got -2" in (await player.news("error"))["text"]
            await player.send("go", node=first.node)
            told = await player.news("went")
            assert (told["text"], told["temperature"], told["seed"]) == ("push the red cube left", 1.0, 1)

    run(scenario())


def test_autopilot_hands_back_when_a_key_is_pressed(plain, tmp_path):
    async def scenario():
        async with serving(plain, tmp_path) as served, served.player() as player:
            await player.start(text="push the red cube left", seed=1)
            await player.send("auto", on=True)
            assert (await player.news("auto"))["on"]
            imagined = await player.step()
            stream = plain.start(text="push the red cube left", seed=1)
            stream.step()
            assert np.array_equal(pixels(imagined.png), stream.step()[-1])
            await player.send("act", seq=1, values=REST)
            await player.send("act", seq=2, values=LEFT)
            assert not (await player.news("auto"))["on"]
            driven = await player.step()
            assert np.array_equal(pixels(driven.png), stream.step(np.tile(np.float32(LEFT), (2, 1)))[-1])

    run(scenario())


def test_eight_futures_are_branches_to_go_on_in(world, tmp_path):
    async def scenario():
        async with serving(world, tmp_path) as served, served.player() as player:
            here = await player.start(text="push the red cube left", seed=1)
            await player.step(LEFT)
            await player.send("futures", count=8, steps=2)
            await player.news("futures")
            made = [one for one in player.all_news if one["news"] == "future"]
            assert len(made) == 16 and sum(one["whole"] for one in made) == 8
            ends = [one["node"] for one in made if one["whole"]]
            shown = []
            for node in ends:
                await player.send("go", node=node)
                shown.append(await player.last_of_step())
            assert len({one.png for one in shown}) > 1 and {one.step for one in shown} == {here.step + 3}
            assert (await player.step(LEFT)).parent == ends[-1]

    run(scenario())


def test_a_recording_is_a_set_that_passes_the_check(world, tmp_path):
    async def scenario():
        async with serving(world, tmp_path) as served, served.player() as player:
            await player.start(text="push the red cube left", seed=1)
            await player.send("record", on=True)
            kept = [await player.step(values) for values in (LEFT, RIGHT, LEFT)]
            undone = await player.step(RIGHT)
            await player.send("go", node=kept[-1].node)
            await player.last_of_step()
            await player.send("auto", on=True)
            last = await player.step()
            await player.send("record", on=False)
            told = await player.news("recorded")
            await player.send("keep", node=undone.node)
            assert (await player.news("recorded"))["episodes"] == 2
            return told["path"], kept, last

    async def checked():
        path, kept, last = await scenario()
        assert not check_data(path, decode=True)
        episodes = open_episodes(path)
        frames = 1 + 4 * world.rate
        assert [episode.text for episode in episodes] == ["push the red cube left"] * 2 and len(episodes) == 2
        assert [episodes.num_frames(i) for i in (0, 1)] == [frames, frames]
        actions = episodes.load_actions(0)
        held = np.repeat(np.float32([LEFT, RIGHT, LEFT]), world.rate, 0)
        assert np.array_equal(actions[: len(held)], held)
        columns = read_arrays(next((tmp_path / "episodes/data").rglob("*.parquet")), ("provenance.frame", "provenance.action"))
        assert columns["provenance.frame"][:frames].tolist() == [1] * frames
        assert columns["provenance.action"][:frames].tolist() == [0] * (3 * world.rate) + [1] * world.rate + [2]
        luma, shown = (frame.mean(-1).ravel() for frame in (episodes.load_frames(0)[-1], pixels(last.png)))
        assert np.corrcoef(luma, shown)[0, 1] > 0.8, "noise, but coded from the picture that was shown"

    run(checked())


def test_what_is_being_recorded_is_whole_when_the_server_ends(plain, tmp_path):
    async def scenario():
        async with serving(plain, tmp_path) as served, served.player() as player:
            await player.start(seed=1)
            await player.send("record", on=True)
            for _ in range(3):
                await player.step(LEFT)
        episodes = open_episodes(tmp_path / "episodes")
        assert len(episodes) == 1 and episodes.num_frames(0) == 7 and not check_data(tmp_path / "episodes", decode=True)

    run(scenario())


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_a_branch_becomes_a_clip(plain, tmp_path, kind):
    async def scenario():
        async with serving(plain, tmp_path) as served, served.player() as player:
            await player.start(seed=1)
            for _ in range(2):
                last = await player.step(LEFT)
            await player.send("clip", node=last.node, kind=kind)
            told = await player.news("clip")
            async with served.http.get(f"{served.address}/clip", params={"name": told["name"]}) as response:
                content = await response.read()
        if kind == "mp4":
            assert read_video(told["path"]).shape == (5, 16, 24, 3)
        else:
            from PIL import Image

            image = Image.open(io.BytesIO(content))
            assert (image.n_frames, image.size) == (5, (24, 16))

    run(scenario())


def test_it_begins_from_episodes_and_uploads(plain, tmp_path):
    data = clips_folder(tmp_path / "clips")
    png, video, slow = tmp_path / "a.png", data / "clip1.mp4", tmp_path / "slow.mp4"
    write_video(slow, tiny.make_video(9), 4)
    write_image(png, np.full((40, 60, 3), 200, np.uint8))

    async def scenario():
        async with serving(plain, tmp_path / "out", data=data) as served, served.player() as player:
            assert [one["id"] for one in player.welcome["sources"]["episode"]] == ["clip0.mp4", "clip1.mp4"]
            shown = await player.start("episode", id="clip1.mp4")
            assert np.array_equal(pixels(shown.png), read_video(video, 0, 1)[0]), "given pictures are shown as they are"
            for path, frames in ((png, 1), (video, 5), (slow, 1)):
                query = {"session": player.welcome["session"], "name": path.name}
                async with served.http.post(f"{served.address}/upload", params=query, data=path.read_bytes()) as response:
                    name = (await response.json())["id"]
                await player.send("start", source="upload", id=name)
                told = await player.news("started")
                shown = await player.last_of_step()
                assert shown.count == frames, told
            for name, content, said in (
                ("a.txt", b"x", "ends in one of"),
                ("a.png", b"no picture", "upload"),
                ("a.mp4", b"0" * 999, "upload"),
            ):
                query = {"session": player.welcome["session"], "name": name}
                async with served.http.post(f"{served.address}/upload", params=query, data=content) as response:
                    assert response.status == 400 and said in (await response.json())["error"]
            await player.send("start", source="episode", id="clip7.mp4")
            assert 'did you mean "clip' in (await player.news("error"))["text"]

    run(scenario())


def test_an_arm_of_seven_channels(tmp_path):
    async def scenario():
        async with serving(tiny_world(schema=ARM), tmp_path) as served, served.player() as player:
            channels = player.welcome["world"]["channels"]
            assert len(channels) == 7 and channels[6]["discrete"]
            await player.start()
            first = await player.step([1, 0, 0, 0, 0, 0, 1])
            assert first.step == 1
            await player.send("act", seq=1, values=[0, 0])
            assert "got 2 values, expected 7" in (await player.news("error"))["text"]

    run(scenario())


def test_a_world_without_text_and_actions_is_watched(tmp_path):
    async def scenario():
        async with serving(tiny_world(text=False, actions=False, refine=False), tmp_path) as served, served.player() as player:
            assert player.welcome["can"] == {"text": False, "imagine": False, "refine": False} and not player.welcome["world"]["channels"]
            await player.start()
            await player.step()
            await player.send("record", on=True)
            await player.step()
            await player.send("record", on=False)
            assert not check_data((await player.news("recorded"))["path"])
            await player.send("auto", on=True)
            assert "imagines no actions" in (await player.news("error"))["text"]

    run(scenario())


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("no json", "is not JSON"),
        ("[]", 'got no "do"'),
        ('{"do": "stpe"}', 'did you mean "step"'),
        ('{"do": "go"}', "'node' is missing"),
        ('{"do": "go", "node": "1"}', "expected int"),
        ('{"do": "go", "node": true}', "expected int"),
        ('{"do": "go", "node": -1}', "whole number from 0"),
        ('{"do": "go", "node": 5}', "expected one of this session's steps"),
        ('{"do": "step", "node": 5}', "unknown key 'node'"),
        ('{"do": "act", "seq": 1, "values": [1e999, 0]}', "larger than any number"),
        ('{"do": "act", "seq": 1, "values": ["a", 0]}', "finite numbers"),
        ('{"do": "speed", "times": 1000}', "expected 0.1 to 16"),
        ('{"do": "futures", "count": 900, "steps": 1}', "expected 1 to 8"),
        ('{"do": "clip", "node": 0, "kind": "exe"}', "expected mp4 or gif"),
        ('{"do": "start", "source": "../etc"}', "expected one of"),
        ('{"do": "start", "source": "upload", "id": "x"}', "not there any more"),
        ('{"do": "set", "text": "' + "a" * 2001 + '"}', "at most 2000"),
        ('{"do": "keep", "node": 0}', "got one frame"),
    ],
)
def test_a_bad_command_is_one_line_and_changes_nothing(plain, tmp_path, message, said):
    async def scenario():
        async with serving(plain, tmp_path) as served, served.player() as player:
            first = await player.start()
            await player.socket.send_str(message)
            assert said in (await player.news("error"))["text"]
            assert (await player.step()).parent == first.node

    run(scenario())


def test_commands_before_a_start_are_refused(plain, tmp_path):
    async def scenario():
        async with serving(plain, tmp_path) as served, served.player() as player:
            for do, keys in (("play", {"on": True}), ("step", {}), ("go", {"node": 0}), ("set", {"seed": 1}), ("record", {"on": True})):
                await player.send(do, **keys)
                assert "nothing was started" in (await player.news("error"))["text"]

    run(scenario())


def test_several_sessions_show_what_each_shows_alone(world, tmp_path, monkeypatch):
    from wfm_ar.rollout import engine

    joined = []
    stack = engine.Batch.stack
    monkeypatch.setattr(engine.Batch, "stack", staticmethod(lambda batches: joined.append(len(batches)) or stack(batches)))
    monkeypatch.setattr(engine.Batch, "fewest_together", 2)

    async def scenario():
        async with serving(world, tmp_path) as served, served.player() as a, served.player() as b, served.player() as c:
            players, steps = (a, b, c), 6
            for i, player in enumerate(players):
                await player.start(text="push the red cube left", seed=i)
                await player.send("act", seq=1, values=[LEFT, RIGHT, REST][i])
                await player.send("play", on=True)
            shown = [[] for _ in players]
            for i, player in enumerate(players):
                while len(shown[i]) < steps:
                    shown[i].append(await player.last_of_step())
            for i in range(3):
                stream = world.start(text="push the red cube left", seed=i)
                stream.step()
                held = np.tile(np.float32([LEFT, RIGHT, REST][i]), (world.rate, 1))
                for one in shown[i]:
                    assert np.array_equal(pixels(one.png), stream.step(held)[-1]), (i, one.step)

    run(scenario())
    assert max(joined) >= 2, "some steps were made in one pass"
