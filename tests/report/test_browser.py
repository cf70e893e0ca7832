# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: it renders, in light and dark and on a narrow screen, and the console stays silent."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from fastreid_ops.report import write_report

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--enable-logging=stderr", "--v=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or os.environ.get("CHROME")
    if path is None:
        reason = "no chromium on PATH and CHROME is not set (Debian: apt-get install chromium)"
        if os.environ.get("FASTREID_REQUIRE_BROWSER") == "1":
            pytest.fail(f"FASTREID_REQUIRE_BROWSER=1 but {reason}")
        pytest.skip(reason)
    return path


def browse(chromium, profile, page, *flags):
    """Open a page; returns standard output and what the page itself wrote to the console."""
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    # Lines of the page's console carry this word; the others are about the browser's own surroundings (D-Bus, GPU).
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def screenshot(chromium, tmp_path, page, width, height, *flags):
    path = tmp_path / "shot.png"
    _, console = browse(
        chromium,
        tmp_path / "profile",
        page,
        f"--screenshot={path}",
        f"--window-size={width},{height}",
        *flags,
    )
    assert console == []
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_dom_holds_the_headline(chromium, run_folder, tmp_path):
    page = write_report(run_folder)
    dom, console = browse(chromium, tmp_path / "profile", page, "--dump-dom")
    assert console == []
    assert "<h1>people-run</h1>" in dom
    assert len(re.findall(r'<table class="headline">', dom)) == 2
    assert "eleven people" in dom
    assert dom.count("<img ") == 11 * 16


def test_renders_light_and_dark(chromium, run_folder, tmp_path):
    page = write_report(run_folder)
    light = screenshot(chromium, tmp_path, page, 1400, 1800)
    dark = screenshot(chromium, tmp_path, page, 1400, 1800, "--force-dark-mode")
    for shot in (light, dark):
        assert shot.shape == (1800, 1400, 3)
        assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 50, "not blank"
    assert np.median(light) > 200
    assert np.median(dark) < 60
    blue = (light[..., 2] - light[..., 0] > 100).mean()
    assert blue > 0.001, "lines and bars are drawn"


@pytest.mark.parametrize("width", [400, 1400])
def test_page_is_no_wider_than_the_screen(chromium, run_folder, tmp_path, width):
    """A copy of the page measures itself inside a frame (a window cannot be narrower than 500 px)."""
    text = write_report(run_folder).read_text(encoding="utf-8")
    measure = "parent.postMessage(document.documentElement.scrollWidth, '*')"
    script = f"<script>addEventListener('load', () => {measure})</script>"
    text, changed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', script, text)
    assert changed == 1
    (tmp_path / "copy.html").write_text(text, encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<!DOCTYPE html><script>addEventListener('message', e => "
        "document.body.insertAdjacentHTML('beforeend', `<p>width ${e.data}</p>`))</script>"
        f'<iframe src="copy.html" style="border:0;width:{width}px;height:3000px"></iframe>'
    )
    dom, console = browse(chromium, tmp_path / "profile", frame, "--dump-dom", "--virtual-time-budget=5000")
    assert console == []
    assert f"<p>width {width}</p>" in dom, re.findall(r"<p>width.*?</p>", dom)


def test_a_console_message_would_be_seen(chromium, tmp_path):
    """The check above can fail: a page that breaks its own policy is heard."""
    page = tmp_path / "bad.html"
    page.write_text("<!DOCTYPE html><title>x</title><script>nothing.here()</script>")
    _, console = browse(chromium, tmp_path / "profile", page, "--dump-dom")
    assert any("ReferenceError" in line for line in console)
