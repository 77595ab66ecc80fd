"""The report of a run's folder: whole, self-contained, and no way in for a stranger's words."""

from __future__ import annotations

import base64
import io
import json
import re
import sqlite3
from pathlib import Path

import pytest
from PIL import Image

from blackbox_ti.budget import Caps
from blackbox_ti.cli import main
from blackbox_ti.concept import load_concept
from blackbox_ti.errors import InputError, OutputError
from blackbox_ti.inversion import invert
from blackbox_ti.report import write_report
from blackbox_ti.run_folder import run_endpoint, save_result
from blackbox_ti.settings import InversionSettings
from tests.fake_host import FakeHost, fake_endpoint
from tests.reports import HOSTILE, Page

REFERENCES = [Image.new("RGB", (8, 8), (200, 30, 30))]


def _run(directory: Path, word: str = "<sks>", host: FakeHost | None = None) -> FakeHost:
    host = host or FakeHost()
    settings = InversionSettings(
        placeholder_token=word, max_forwards=700, dimension=4, sigma=1.0, initializer_token="dog", seed=2
    )
    concept, caps = load_concept(REFERENCES, 8), Caps(forwards=700)
    with run_endpoint(directory, lambda h: fake_endpoint(host, on_attempt=h), settings, concept, caps) as endpoint:
        save_result(directory, invert(endpoint, REFERENCES, settings))
    return host


@pytest.fixture(scope="module", name="run")
def _finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    _run(directory)
    return directory


def _report(directory: Path) -> Page:
    return Page(write_report(directory).read_text(encoding="utf-8"))


def test_the_report_tells_word_costs_settings_and_host(run: Path) -> None:
    """What the record and the book say stands in the page."""
    record = json.loads((run / "result.json").read_text())
    page = _report(run)
    for told in (
        "<sks>",
        f"{record['heldout_loss_after']:.4f}",
        f"{record['forwards']:,} of 700",
        f"{record['queries']:,}",
        record["model"]["fingerprint"],
        "http://127.0.0.1:9",
        "search",
        "dimension",
        "sks.safetensors",
        "chosen by the plan",
    ):
        assert told in page.text, told
    assert page.text.count("learned_embeds.safetensors") == 1


def test_the_curves_are_the_histories(run: Path) -> None:
    """One line a series, one point a generation, later points further right."""
    record = json.loads((run / "result.json").read_text())
    paths = [a["d"] for tag, a in _report(run).elements if tag == "path"]
    assert [(d or "").count(",") for d in paths] == [len(record["history"])] * 2
    xs = [float(x) for x in re.findall(r"([\d.]+),", paths[0] or "")]
    assert xs == sorted(xs)


def test_costs_add_up_to_the_books(run: Path) -> None:
    """The groups' forwards are the total's, and the total is what the run spent."""
    html = write_report(run).read_text(encoding="utf-8")
    rows = re.findall(r"<tr[^>]*><td>([\w ]+)</td>((?:<td class=\"number\">[\d,.]+</td>)+)</tr>", html)
    forwards = {name: int(re.findall(r">([\d,.]+)<", cells)[2].replace(",", "")) for name, cells in rows}
    total = forwards.pop("total")
    assert total == sum(forwards.values()) == json.loads((run / "result.json").read_text())["forwards"]


def test_hostile_words_and_names_stay_text(tmp_path: Path) -> None:
    """A word, a model's name, a scorer and a picture's name that are markup are shown, not obeyed."""
    _run(tmp_path, word=HOSTILE)
    path = tmp_path / "result.json"
    record = json.loads(path.read_text())
    record["model"]["name"] = f"</p><script>alert(2)</script>{HOSTILE}\x00\x1b]0;x\x07"
    record["start"] = record["stop_reason"] = HOSTILE
    record["settings"][HOSTILE] = [HOSTILE]
    path.write_text(json.dumps(record))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / '"><img src=x onerror=alert(3)>.png')
    plain = tmp_path / "plain"
    _run(plain)
    (plain / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(plain / "pictures" / "a.png")
    page, usual = _report(tmp_path), _report(plain)
    assert page.text.count(HOSTILE) >= 5
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in usual.elements}
    assert sum(tag == "img" for tag, _ in page.elements) == 1
    assert not {"\x00", "\x1b", "\x07"} & set(page.text)


def test_pictures_lose_their_metadata_and_keep_their_look(tmp_path: Path) -> None:
    """Pictures are small PNG files without what a camera wrote; those of one prompt stand together, others apart."""
    _run(tmp_path / "run")
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    for folder, name in (("references", "cat.jpg"), ("pictures", "a-seed0.png"), ("pictures", "a-seed1.png")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (600, 300), (10, 200, 30)).save(tmp_path / folder / name, exif=exif)
    (tmp_path / "pictures" / "b-seed0.png").write_bytes(b"no picture")
    (tmp_path / "pictures" / "notes.txt").write_text("not shown")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    files = [base64.b64decode((a["src"] or "").partition(",")[2]) for tag, a in page.elements if tag == "img"]
    assert [a["alt"] for tag, a in page.elements if tag == "img"] == ["cat.jpg", "a-seed0.png", "a-seed1.png"]
    assert sum(tag == "figure" for tag, _ in page.elements) == 2
    for file in files:
        assert b"taken at home" not in file
        with Image.open(io.BytesIO(file)) as tile:
            assert tile.size == (256, 128)
            assert tile.getpixel((5, 5)) in {(10, 200, 30), (10, 200, 29), (9, 200, 30), (10, 199, 29)}


def test_a_run_worth_doubting_says_so(tmp_path: Path) -> None:
    """Interruption, no gain, a changed host and a broken book each have their warning; a good run has none."""
    _run(tmp_path)
    assert "ul" not in {tag for tag, _ in _report(tmp_path).elements}
    path = tmp_path / "result.json"
    record = json.loads(path.read_text())
    record |= {"stop_reason": "interrupted", "host_changed": 1, "heldout_loss_after": record["heldout_loss_before"] + 1}
    path.write_text(json.dumps(record))
    text = _report(tmp_path).text
    assert "--resume" in text
    assert "swapped" in text
    assert "no better than its start" in text
    record |= {"heldout_loss_after": None, "stop_reason": "budget_spent"}
    path.write_text(json.dumps(record))
    text = _report(tmp_path).text
    assert "not measured on held-out samples" in text
    assert "before the plan was finished" in text


def test_a_book_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    """The page names the broken row and shows no sums of that book."""
    _run(tmp_path)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as book:
        book.execute("UPDATE states SET forwards = forwards + 1 WHERE entry = (SELECT min(entry) FROM states)")
    text = _report(tmp_path).text
    assert "does not verify: states row" in text
    assert "http://127.0.0.1:9" not in text


@pytest.mark.parametrize("record", [None, "", "[]", "{}", '{"placeholder_token": 3}', '{"forwards": NaN}', "[" * 9999])
def test_what_is_no_run_is_refused(tmp_path: Path, record: str | None) -> None:
    """A folder without a record, or with a broken one, is an input error, and no page is written."""
    if record is not None:
        (tmp_path / "result.json").write_text(record)
    with pytest.raises(InputError):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_an_output_error(run: Path) -> None:
    """The message says which file."""
    (run / "report.html").unlink(missing_ok=True)
    (run / "report.html").mkdir()
    with pytest.raises(OutputError, match=re.escape("report.html")):
        write_report(run)
    (run / "report.html").rmdir()


def test_the_command_prints_where_the_page_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`blackbox-ti report DIR` writes the page anew."""
    assert main(["report", str(run)]) == 0
    assert Path(capsys.readouterr().out.strip()) == run / "report.html"
    assert main(["report", str(run / "elsewhere")]) == 2
