"""The page of `biggan serve` in a real browser: its controls change the images."""

import io
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from runs import command, environment

from biggan import load_generator

pytestmark = pytest.mark.deploy
LOCAL = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_it_listens(port: int, server: subprocess.Popen) -> None:
    for _ in range(600):
        assert server.poll() is None, server.stdout.read()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("biggan serve does not listen")


@pytest.fixture(scope="module")
def address(exported):
    port = free_port()
    server = subprocess.Popen(
        command(["serve", str(exported), "--port", str(port)]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    wait_until_it_listens(port, server)
    yield f"http://127.0.0.1:{port}"
    server.send_signal(signal.SIGTERM)
    server.wait(20)


@pytest.fixture(scope="module")
def browser():
    chromium = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    assert chromium, "no chromium: `apt-get install chromium` (tests/deploy/install.sh does, as root)"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


def opened(browser, address: str, width: int) -> tuple[Page, list[str]]:
    """Return the loaded page, and the list of all addresses it has requested."""
    page, requested = browser.new_page(viewport={"width": width, "height": 1000}), []
    page.on("request", lambda request: requested.append(request.url))
    page.on("websocket", lambda socket: requested.append(socket.url))
    page.goto(address)
    expect(pictures(page)).to_have_count(2, timeout=60_000)
    return page, requested


def pictures(page: Page):
    return page.get_by_test_id("stImage").locator("img")


def changed(page: Page, act) -> np.ndarray:
    """Return the pixels of the grid of images after `act()`, once they have changed."""
    before = pictures(page).first.get_attribute("src")
    act()
    expect(pictures(page).first).not_to_have_attribute("src", before, timeout=30_000)
    return pixels(page)


def pixels(page: Page) -> np.ndarray:
    body = page.request.get(pictures(page).first.get_attribute("src")).body()
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))


def test_every_control_changes_the_images(browser, address, exported, tmp_path):
    page, requested = opened(browser, address, 1400)
    start = pixels(page)
    share, truncation = page.get_by_role("slider").all()

    stronger = changed(page, lambda: truncation.press("Home"))  # to the smallest truncation
    assert not np.array_equal(stronger, start)
    mixed = changed(page, lambda: share.press("End"))
    assert not np.array_equal(mixed, stronger)
    seeded = changed(page, lambda: page.get_by_test_id("stNumberInputStepUp").click())
    assert not np.array_equal(seeded, mixed)

    # The page and the download show the images that Python draws: the second class alone, at seed 1.
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").first.click()
    saved = tmp_path / "images.png"
    download.value.save_as(saved)
    shown = np.asarray(Image.open(saved).convert("RGB"))
    assert np.array_equal(shown, seeded)
    G = load_generator(exported, truncation=0.1, device="cpu")
    first = Image.fromarray(draw_as_the_page(G)).resize((64, 64), Image.Resampling.NEAREST)
    left = shown.shape[1] - 6 * 66
    assert np.array_equal(shown[:64, left : left + 64], np.asarray(first))
    assert not [url for url in requested if not url.startswith(LOCAL)]


def draw_as_the_page(G) -> np.ndarray:
    """Return image 0 of seed 1 and class b, with the stored statistics nearest to truncation 0.1."""
    nearest = G.at(0.5)
    nearest.truncation = 0.1
    return nearest.sample("b", seed=1)[0]


@pytest.mark.parametrize("width", [1400, 390])
def test_page_fits_the_width_of_the_window(browser, address, width):
    page, _ = opened(browser, address, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert all(box["x"] + box["width"] <= width for box in (p.bounding_box() for p in pictures(page).all()))
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_other_machines_cannot_reach_the_page(address):
    port = int(address.rpartition(":")[2])
    other = socket.gethostbyname(socket.gethostname())
    with socket.socket() as probe:
        assert other.startswith("127.0.0.1") or probe.connect_ex((other, port)) != 0


def test_bad_arguments_are_refused_in_one_line(address, exported, run, tmp_path, run_command):
    port = address.rpartition(":")[2]
    for arguments, message in (
        ([str(run)], f"biggan export {run} OUT"),
        ([str(tmp_path / "none")], f"{tmp_path / 'none'}: "),
        ([str(exported), "--port", port], f"--host, --port: 127.0.0.1:{port}: Address already in use"),
        ([str(exported), "--host", "999.1.1.1"], "--host, --port: 999.1.1.1:8501: "),
    ):
        code, output = run_command("serve", *arguments)
        assert (code, output.count("\n")) == (2, 1)
        assert message in output


def handshake(port: int, host: str, origin: str) -> int:
    """Return the status with which the server answers the request for the page's WebSocket."""
    lines = [
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host}",
        f"Origin: {origin}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(1024).split()[1])


def test_page_answers_only_to_the_names_of_its_host(address):
    port = int(address.rpartition(":")[2])
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert handshake(port, host, f"http://{host}") == 101
    rebound = f"evil.example:{port}"  # a name of another site that resolves to 127.0.0.1
    assert handshake(port, rebound, f"http://{rebound}") == 403
    assert handshake(port, f"127.0.0.1:{port}", "http://evil.example") == 403
