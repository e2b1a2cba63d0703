"""The page of `wfm play` in a headless browser: its keys, its timeline, its recordings, and that it has nothing to complain about."""

import asyncio
import contextlib
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("pyarrow")
sync_api = pytest.importorskip("playwright.sync_api")

from play_client import ARM, serving, tiny_world  # noqa: E402

from wfm_ar.data.check import check_data  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium (Debian: apt install chromium)")
SECONDS = 30_000  # milliseconds that the page may take, on a machine that is very busy


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@contextlib.contextmanager
def served(world, out: Path, **config):
    """A server on a thread of its own -> its address."""
    ready, address, loop, stop = threading.Event(), [], asyncio.new_event_loop(), asyncio.Event()

    async def serve():
        async with serving(world, out, **config) as server:
            address.append(server.server.address)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(30)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@contextlib.contextmanager
def opened(browser, address: str, **context):
    """The page, started; in the end it must not have complained of anything."""
    complaints = []
    with browser.new_context(**context) as one:
        page = one.new_page()
        page.set_default_timeout(SECONDS)
        page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        until(page, "document.getElementById('where').textContent.startsWith('step 0')")
        yield page
    assert not complaints, complaints


def until(page, wanted: str) -> None:
    """Asked from outside: the page itself may evaluate nothing, by its own policy."""
    end = time.monotonic() + SECONDS / 1000
    while not page.evaluate(wanted):
        assert time.monotonic() < end, (wanted, page.locator("#status").text_content())
        page.wait_for_timeout(30)


def until_step(page, number: int) -> None:
    until(page, f"document.getElementById('where').textContent.startsWith('step {number},')")


def pixels(page, canvas: str = "screen") -> str:
    return page.evaluate(f"document.getElementById('{canvas}').toDataURL()")


@pytest.fixture(params=[False, True], ids=["two frames a latent", "one frame a latent"])
def world(request):
    return tiny_world(lookahead=request.param)


def test_drive_rewind_branch_record(browser, world, tmp_path):
    with served(world, tmp_path) as address, opened(browser, address) as page:
        first = pixels(page)
        page.locator("#record").click()
        until(page, "document.getElementById('record').getAttribute('aria-pressed') === 'true'")
        page.locator("#screen").focus()
        page.keyboard.down("ArrowLeft")
        page.keyboard.press("Period")
        until_step(page, 1)
        page.wait_for_timeout(300)  # the last picture of the step
        left = pixels(page)
        assert left != first, "a key changes the picture"
        page.keyboard.press("Period")
        until_step(page, 2)
        page.keyboard.up("ArrowLeft")
        page.locator("#record").click()
        page.wait_for_selector("#made-files li")
        assert "1 episode in" in page.locator("#made-files").text_content()

        page.locator("#strip button[aria-label='Go back to step 1']").click()
        until(page, "document.getElementById('status').textContent === 'back at step 1'")
        page.wait_for_timeout(300)
        assert pixels(page) == left, "going back shows the old picture"
        page.locator("#screen").focus()
        page.keyboard.down("KeyW")
        page.keyboard.press("Period")
        until_step(page, 2)
        page.keyboard.up("KeyW")
        page.wait_for_selector("#tree circle")
        assert page.locator("#tree circle").count() == 2, "another way from there is a branch"

        page.keyboard.press("Space")
        until(page, "parseInt(document.getElementById('where').textContent.split(' ')[1]) > 9")
        page.keyboard.press("Space")
        until(page, "document.getElementById('play').textContent === 'Play'")
        page.keyboard.press("Backspace")
        until(page, "document.getElementById('status').textContent.startsWith('back at step')")
        page.locator("#compare").select_option(index=1)
        page.wait_for_selector("#second:not([hidden])")
    assert not check_data(tmp_path / "episodes", decode=True)


def test_held_keys_are_what_the_server_is_sent_and_latency_is_shown(browser, tmp_path):
    with served(tiny_world(), tmp_path) as address, opened(browser, address) as page:
        page.evaluate(
            "() => { const send = WebSocket.prototype.send; window.sent = [];"
            " WebSocket.prototype.send = function (x) { window.sent.push(x); send.call(this, x); }; }"
        )
        page.keyboard.press("Space")
        until(page, "document.getElementById('play').textContent === 'Pause'")
        page.keyboard.down("ArrowRight")
        page.keyboard.down("KeyS")
        until(page, "document.getElementById('p95').textContent !== '-'")
        page.keyboard.up("KeyS")
        page.keyboard.up("ArrowRight")
        sent = [json.loads(one)["values"] for one in page.evaluate("window.sent") if '"act"' in one]
        assert sent[:4] == [[0.025, 0], [0.025, -0.025], [0.025, 0], [0, 0]]
        assert float(page.locator("#fps").text_content()) > 0
        button = page.locator("#pad [data-way=left]")
        button.hover()
        page.mouse.down()
        until(page, "window.sent.some((one) => one.includes('[-0.025,0]'))")
        page.mouse.up()


def test_eight_futures_and_a_clip(browser, tmp_path):
    with served(tiny_world(), tmp_path) as address, opened(browser, address) as page:
        page.keyboard.press("KeyC")
        page.wait_for_selector("#sheet button:nth-of-type(8)")
        page.locator("#sheet button").nth(2).click()
        until_step(page, 6)
        page.locator("#gif").click()
        page.wait_for_selector("#made-files a")
        with page.expect_download() as download:
            page.locator("#made-files a").click()
        assert download.value.suggested_filename.endswith(".gif")


def test_an_arm_of_seven_channels_has_seven_controls(browser, tmp_path):
    with served(tiny_world(schema=ARM), tmp_path) as address, opened(browser, address) as page:
        assert page.locator("#channels .channel").count() == 7
        assert page.locator("#channels input[type=range]").count() == 6 and page.locator("#channels .choices button").count() == 2
        assert page.locator("#channels .range span").first.text_content() == "-1 to 1 rad"
        page.get_by_label("gripper 1").click()
        assert page.get_by_label("gripper 1").get_attribute("aria-pressed") == "true"
        page.get_by_label("Keys of joint_3").select_option("5")


def test_everything_has_a_name_and_nothing_is_wider_than_a_phone(browser, tmp_path):
    with served(tiny_world(), tmp_path) as address, opened(browser, address, viewport={"width": 360, "height": 740}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        nameless = page.evaluate(
            "() => [...document.querySelectorAll('button, select, input, [role=button]')].filter((one) => one.offsetParent !== null &&"
            " !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length)).map((one) => one.outerHTML)"
        )
        assert not nameless, nameless
        assert page.locator("#hint").is_visible()
        page.locator("#hint-done").click()
        assert not page.locator("#hint").is_visible()
        grounds = set()
        for _ in range(2):
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.locator("#theme").click()
        assert len(grounds) == 2, "dark and light"


def test_a_page_too_many_says_so(browser, tmp_path):
    with served(tiny_world(), tmp_path, sessions=1) as address, opened(browser, address), browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        until(page, "document.getElementById('status').textContent.includes('expected at most 1')")
