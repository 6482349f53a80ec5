"""The page in a real browser: columns sort, and nothing is wider than a phone's screen."""

import html
import json
import re
import shutil
import subprocess

import pytest

from evaluate import report
from evaluate.common import command

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    *("--virtual-time-budget=2000", "--allow-file-access-from-files"),
)
# what the test asks the page, written where --dump-dom shows it
QUESTION = """
const table = document.querySelectorAll("table")[1], found = {};
const names = () => [...table.tBodies[0].rows].map((row) => row.children[0].textContent);
const press = (i) => { table.querySelectorAll("th button")[i].click(); return names(); };
found.number = press(1); found.again = press(1); found.text = press(0); found.lacking = press(2);
found.marks = [...table.querySelectorAll("thead th")].map((th) => th.getAttribute("aria-sort"));
found.page = [document.documentElement.scrollWidth, innerWidth];
for (const details of document.querySelectorAll("details")) details.open = true;
found.opened = [document.documentElement.scrollWidth, innerWidth];
document.body.innerHTML = ""; document.body.dataset.found = JSON.stringify(found);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_chromium(width, tmp_path):
    accuracies = {
        "run-10": {"a": 9.5},
        "run-9": {"a": 10.25, "b": 1.0},
        "run-2": {"a": 100.0, "b": 2.0},
    }
    for name, accuracy in accuracies.items():
        (tmp_path / name).mkdir()
        accuracy |= {f"class {i}": 50.0 for i in range(30)}
        wide = {"evaluation": "odd", "accuracy": accuracy, "protocol": {"text": name * 60}}
        (tmp_path / name / "odd.json").write_text(json.dumps(wide))
        (tmp_path / name / "log.jsonl").write_text('{"epoch": 1, "loss": 2}\n')
    out = tmp_path / "report.html"
    runs = [str(tmp_path / name) for name in accuracies]
    command("report", report, [*runs, "--title", "long" * 80, "--out", str(out)])
    # the page's own policy would, rightly, not run the test's script
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", out.read_text())
    text = text.replace("</body>", f"<script>{QUESTION}</script></body>")
    (tmp_path / "inner.html").write_text(text)
    # a frame is as wide as asked; a window has a least width
    hand_over = "document.body.dataset.found = this.contentDocument.body.dataset.found"
    frame = f'<iframe src=inner.html width={width} height=800 onload="{hand_over}"></iframe>'
    outer = tmp_path / "outer.html"
    outer.write_text(frame)
    argv = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}/profile", "--dump-dom", outer.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    found = json.loads(html.unescape(done.stdout.split('data-found="')[1].split('"')[0]))
    falling = ["run-2", "run-9", "run-10"]
    assert found["number"] == falling and found["again"] == falling[::-1]
    assert found["text"] == found["lacking"] == falling  # run-10 has no b
    assert found["marks"][:3] == [None, None, "descending"]
    for shown, inner in (found["page"], found["opened"]):
        assert inner == width and shown <= width
