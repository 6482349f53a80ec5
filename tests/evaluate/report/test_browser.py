"""The page in a real browser: columns sort, and nothing is wider than a phone's screen."""

import html
import json
import re
import shutil
import subprocess

import pytest

from evaluate import report
from evaluate.common import command

WIDTHS = (390, 1280)  # pixels, a phone's and a screen's
CHROMIUM = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
FLAGS += " --disable-sync --disable-component-update --virtual-time-budget=2000"
# what the test asks the page, written where --dump-dom shows it
QUESTION = """
const table = document.querySelectorAll("table")[1], found = {};
const names = () => [...table.tBodies[0].rows].map((row) => row.children[0].textContent);
const press = (i) => { table.querySelectorAll("th button")[i].click(); return names(); };
found.number = press(1); found.again = press(1); found.text = press(0);
press(2); found.lacking = press(2);
found.marks = [...table.querySelectorAll("thead th")].map((th) => th.getAttribute("aria-sort"));
for (const details of document.querySelectorAll("details")) details.open = true;
found.opened = [document.documentElement.scrollWidth, innerWidth];
document.body.innerHTML = ""; document.body.dataset.found = JSON.stringify(found);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
def test_in_chromium(tmp_path):
    out, runs = tmp_path / "report.html", []
    for name, b in (("run-9", {"b": 1}), ("run-2", {"b": 2}), ("run-10", {})):
        accuracy = {"a": 100 / int(name[4:])} | b | {f"class {i}": 50.0 for i in range(30)}
        wide = {"evaluation": "odd", "accuracy": accuracy, "protocol": {"text": name * 60}}
        runs.append(str(tmp_path / f"{name}.json"))
        (tmp_path / f"{name}.json").write_text(json.dumps(wide))
    command("report", report, [*runs, "--title", "long" * 80, "--out", str(out)])
    # the page's own policy would, rightly, not run the test's script
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", out.read_text())
    text = text.replace("</body>", f"<script>{QUESTION}</script></body>")
    (tmp_path / "inner.html").write_text(text)
    # a frame is as wide as asked; a window has a least width
    hand_over = "document.body.dataset['x' + this.width] = this.contentDocument.body.dataset.found"
    frame = '<iframe src=inner.html width={} height=800 onload="{}"></iframe>'
    outer = tmp_path / "outer.html"
    outer.write_text("".join(frame.format(width, hand_over) for width in WIDTHS))
    more = ("--allow-file-access-from-files", f"--user-data-dir={tmp_path}/profile", "--dump-dom")
    argv = [CHROMIUM, *FLAGS.split(), *more, outer.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    falling = ["run-2", "run-9", "run-10"]
    for width in WIDTHS:
        (answer,) = re.findall(f'data-x{width}="(.*?)"', done.stdout)
        found = json.loads(html.unescape(answer))
        assert found["number"] == falling and found["again"] == falling[::-1]
        assert found["text"] == falling and found["lacking"] == ["run-9", "run-2", "run-10"]
        assert found["marks"][:3] == [None, None, "ascending"]
        assert found["opened"][1] == width >= found["opened"][0]
