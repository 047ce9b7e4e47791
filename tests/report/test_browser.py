"""The page in a browser, as wide as a phone's and a desktop's."""

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import pytest

from mae_ast_fairseq.report.page import write_report
from mae_ast_fairseq.report.runs import read_run
from tests.report.folders import COLLAPSED, EVALUATION, PROBE, png, write_json, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = """<script>
const scrolled = [...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth);
const loaded = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:"));
const broken = [...document.images].filter(image => !image.naturalWidth);
const widths = [innerWidth, document.documentElement.scrollWidth];
parent.postMessage([...widths, scrolled.length, loaded.length, broken.length].join(" "), "*");
</script></body>"""
# Headless windows are no narrower than 500 pixels, frames are.
FRAME = """<body><script>onmessage = event => { document.body.dataset.measured = event.data }</script>
<iframe src="measured.html" width="WIDTH" height="800" style="border: 0"></iframe></body>"""


def browse(page: Path, width: int, *options: str) -> str:
    assert CHROMIUM is not None
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
        *(f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},3000", *options, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window_but_what_scrolls(tmp_path: Path, width: int) -> None:
    folders = [write_run(tmp_path / name) for name in ("a", "b" * 200, "c")]
    folders.append(write_run(tmp_path / "d", last=35, health=COLLAPSED, task={"data": "/a/folder" * 20}))
    write_json(folders[0] / "probe.json", PROBE)
    write_json(folders[0] / "evaluate.json", EVALUATION)
    (folders[0] / "pictures").mkdir()
    (folders[0] / "pictures" / "1.png").write_bytes(png(2000, 20))
    write_report(tmp_path, [read_run(folder) for folder in folders], ["x" * 300])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    measured = re.sub("<meta http-equiv[^>]*>", "", page).replace("</body>", MEASURE)
    (tmp_path / "measured.html").write_text(measured, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    dom = browse(tmp_path / "frame.html", 1500, "--virtual-time-budget=5000", "--dump-dom")
    found = re.search(r'data-measured="([^"]*)"', dom)
    assert found is not None
    inner, scrolled, num_scrolling, num_loaded, num_broken = map(int, found[1].split())
    assert (inner, scrolled) == (width, width)
    assert num_scrolling >= 1
    assert (num_loaded, num_broken) == (0, 0)

    picture = tmp_path / f"{width}.png"
    browse(tmp_path / "report.html", width, f"--screenshot={picture}")
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[1] == width
    assert pixels.std() > 0.05
