"""The pages in a real browser, as somebody meets them who clicks: headless Chromium, driven by Selenium.
Skipped where there is no browser; on Debian `apt install chromium chromium-driver` brings one."""
import contextlib, os, shutil, signal, socket, subprocess, time
import nbformat, pytest
from conftest import BIN, ROOT
from animrepro.data.puppets import render, sample_identity, sample_motion
from animrepro.data.video import probe, write_video
from animrepro.study import Study, read_votes
from PIL import Image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with chromedriver here")
SECONDS = 60


def until(condition, what: str, seconds: float = SECONDS):
    "Waits for a true value and gives it."
    from selenium.common.exceptions import StaleElementReferenceException
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(StaleElementReferenceException):  # the page was drawn anew while it was read
            if found := condition(): return found
        time.sleep(0.2)
    pytest.fail(f"waited {seconds} s for {what}")


@pytest.fixture(scope="module")
def serve():
    "Serves a notebook as a page, as `make app` does, and gives its address."
    running = []
    def start(notebook) -> str:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        command = [BIN / "voila", str(notebook), "--no-browser", f"--port={port}"]
        quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True, **quiet))
        def answers():
            try: return socket.create_connection(("127.0.0.1", port), 1).close() is None
            except OSError: return False
        until(answers, "the server")
        return f"http://127.0.0.1:{port}/"
    yield start
    for process in running:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1000"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    # The upload button keeps its <input> out of the page, where nobody but itself can reach it; so inputs are noted
    # when they are made.
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": """
        const make = Document.prototype.createElement; window.made = [];
        Document.prototype.createElement = function(...names) { const e = make.apply(this, names);
                                                         window.made.push(e); return e; }"""})
    yield driver
    driver.quit()


def find(browser, path: str): return browser.find_elements("xpath", path)


def upload_to(browser, several: bool):
    "The input of the upload button that takes `several` files, or of the one that takes one."
    return browser.execute_script("""
        const found = window.made.filter(e => e.type == 'file' && e.multiple == arguments[0])[0];
        if (found) document.body.appendChild(found);
        return found;""", several)


def status(browser) -> str: return " ".join(e.text for e in find(browser, "//*[@role='status']"))


def test_the_studio_animates_what_was_uploaded(serve, browser, tmp_path):
    "Upload, animate, watch, download, look inside; a file that is no picture is told in one line."
    film = render(sample_identity(7), sample_motion(7, 9), 80).frames
    Image.fromarray(film[0]).save(tmp_path / "me.png")
    write_video(tmp_path / "talk.mp4", film, 12)
    (tmp_path / "letter.png").write_text("no picture")
    browser.get(serve(ROOT / "nbs" / "apps" / "animate.ipynb"))
    until(lambda: find(browser, "//button[contains(., 'Animate')]"), "the page")
    pictures, video = (until(lambda: upload_to(browser, several), "the upload buttons") for several in (True, False))
    pictures.send_keys(str(tmp_path / "letter.png"))
    until(lambda: "letter.png: not a picture" in status(browser), "the line about a bad picture")
    browser.execute_script("arguments[0].value = ''", pictures)  # else the driver adds to what was chosen before
    pictures.send_keys(str(tmp_path / "me.png"))
    until(lambda: not status(browser), "the good picture")
    video.send_keys(str(tmp_path / "talk.mp4"))
    until(lambda: find(browser, "//button[contains(., 'Your video (1)')]"), "the video")
    find(browser, "//button[contains(., 'Animate')]")[0].click()
    until(lambda: "9 frames" in status(browser), "nine frames")
    assert len([v for v in find(browser, "//video") if v.is_displayed()]) == 2
    link, = find(browser, "//a[@download]")
    link.click()
    made = tmp_path / "downloads" / "animation.mp4"
    until(made.is_file, "the download")
    assert probe(made).frames == 9 and probe(made).fps == 12
    find(browser, "//*[text()='Look inside']")[0].click()
    for name in ("keypoints", "taken from", "flow"):
        until(lambda: find(browser, f"//*[text()='{name}']"), f"the picture of {name}")
    assert not find(browser, "//*[contains(text(), 'Traceback')]")


def test_a_study_is_voted_in_and_names_no_method(serve, browser, tmp_path):
    for method in ("first_method", "second_method"):
        for i in range(3):
            write_video(tmp_path / method / f"{i}.mp4", render(sample_identity(i), sample_motion(i, 3), 32).frames, 10)
    study = Study({m: tmp_path / m for m in ("first_method", "second_method")}, tmp_path / "votes")
    source = (f"from pathlib import Path\nfrom animrepro.study import Entrance, Study\nhome = Path({str(tmp_path)!r})\n"
              "Entrance(Study({m: home / m for m in ('first_method', 'second_method')}, home / 'votes'))")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / "study.ipynb")
    browser.get(serve(tmp_path / "study.ipynb"))
    code, = until(lambda: find(browser, "//input[@placeholder='your code']"), "the entrance")
    code.send_keys("anna\t")
    find(browser, "//button[text()='Begin']")[0].click()
    for n in range(1, 4):
        until(lambda: find(browser, f"//*[contains(text(), '{n} of 3')]"), f"question {n}")
        assert not find(browser, "//body//*[contains(text(), '_method')]")
        time.sleep(1.5)  # a click sooner than one second after a pair appeared is no vote
        find(browser, "//button[text()='A']")[0].click()
    until(lambda: find(browser, "//*[contains(text(), 'Thank you')]"), "thanks")
    assert len(read_votes(study, "anna")) == 3
