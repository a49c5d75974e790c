"""The report: three files from one record, the same bytes each time, and nothing left out."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz.mutation import mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from report_builders import (
    INT8_FILE,
    bare_report,
    failed_report,
    full_report,
    png,
    report_of,
    sample_report,
)

from segdeploy.benchmarks.literature.file import PUBLISHED
from segdeploy.benchmarks.literature.gflops import published_gflops
from segdeploy.benchmarks.report import html as report_html
from segdeploy.benchmarks.report.files import (
    pages_of,
    read_report,
    verdict_text,
    write_pages,
    write_report,
)
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.schema import FILE, schema_text
from segdeploy.benchmarks.report.tables import FIGURES, figure
from segdeploy.benchmarks.report.verdict import headline
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.json_record import json_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.system.errors import InputError, RunError

# jsonschema ships no type stubs.
jsonschema: Any = importlib.import_module("jsonschema")
OLDER = Path(__file__).with_name("older_report.json")
OLDER_MARKDOWN_SHA256 = "8da1f6542cfb9aa955e698b5dc4ab6bb49bfac92d51a02e6a27825400580edf9"
ADDED_TO_PARITY = (
    "collapsed_images",
    "failures",
    "image_scores",
    "mlperf_lines_reached_percent",
    "reference_iou_kept_percent",
    "verdict",
)
HOSTILE = '"><img src=x onerror=alert(1)>|`*[a](javascript:alert(2))_.png'


class Page(HTMLParser):
    """What a browser would see: the text, the tags, and every address."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.attributes: list[str] = []
        self._text: list[str] = []
        self.feed(source)
        self.text = " ".join("".join(self._text).replace("\u2212", "-").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "action", "srcset")]

    def handle_data(self, data: str) -> None:
        self._text.append(data)


def pages(report: dict[str, Any], folder: Path) -> tuple[Page, str]:
    write_report(report_of(report), folder)
    return Page((folder / "report.html").read_text("utf-8")), (folder / "report.md").read_text(
        "utf-8"
    )


def validator() -> Any:
    return jsonschema.Draft202012Validator(json.loads(FILE.read_text("utf-8")))


REPORTS = {
    "full": full_report,
    "passed": sample_report,
    "failed": failed_report,
    "bare": bare_report,
}


@pytest.fixture(autouse=True)
def _charts_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests show one report: its charts are drawn for the first of them."""
    monkeypatch.setattr(report_html, "charts_of", _charts_of)


def _charts_of(report: Report) -> dict[str, Any]:
    key = json.dumps(json_of(report), sort_keys=True)
    if key not in DRAWN:
        DRAWN[key] = charts_of(report)
    return DRAWN[key]


charts_of = report_html.charts_of
DRAWN: dict[str, dict[str, Any]] = {}


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS.keys())
def test_schema_accepts_what_is_written(make: Any, tmp_path: Path) -> None:
    write_report(report_of(make()), tmp_path)
    validator().check_schema(validator().schema)
    validator().validate(json.loads((tmp_path / "report.json").read_text("utf-8")))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("passed",), "yes"),
        (("unknown",), 1),
        (("model", "checkpoint_sha256"), "abc"),
        (("created_utc",), "yesterday"),
        (("stages", 0, "status"), "maybe"),
        (("parity", "rows", 1, "ci95_percentage_points"), [0.1]),
        (("parity", "rows", 1, "scores", "iou"), 101),
        (("parity", "rows", 1, "precision_requested"), "int4"),
        (("benchmark", "rows", 0, "p50_ms"), -1),
        (("benchmark", "rows", 0, "batch"), 0),
        (("benchmark", "rows", 0, "hint"), "both"),
        (("benchmark", "rows", 0, "int8_mac_share"), 98.8),
        (("benchmark", "rows", 0, "completions_s"), [[]]),
        (("cost", "macs"), 1.5),
        (("parity", "rows", 1, "scores"), None),
        (("parity", "rows", 4, "skipped"), None),
        (("benchmark", "rows", 1, "skipped"), "timed all the same"),
    ],
)
def test_schema_rejects_a_broken_report(path: tuple[Any, ...], value: Any) -> None:
    report = sample_report()
    inner: Any = report
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert list(validator().iter_errors(report))


@pytest.mark.parametrize("key", sorted(sample_report()))
def test_schema_needs_every_key(key: str) -> None:
    report = sample_report()
    del report[key]
    assert list(validator().iter_errors(report))


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS.keys())
def test_regenerated_pages_equal_the_first_ones(make: Any, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_report(report_of(make()), first)
    write_report(read_report(first), second)
    names = ["report.html", "report.json", "report.md"]
    assert sorted(path.name for path in second.iterdir()) == names, "no temporary file stays"
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS.keys())
def test_the_file_holds_what_was_measured_and_nothing_else(make: Any, tmp_path: Path) -> None:
    """A key that an older version did not write is not made up."""
    write_report(report_of(make()), tmp_path)
    assert parse_json((tmp_path / "report.json").read_text("utf-8")) == make()


def test_order_of_keys_says_nothing(tmp_path: Path) -> None:
    report = sample_report()
    reversed_keys = dict(reversed(list(report.items())))
    for key in ("environment", "definitions"):
        reversed_keys[key] = dict(reversed(list(report[key].items())))
    assert pages_of(report_of(report)) == pages_of(report_of(reversed_keys))


def test_the_pages_alone_leave_the_report_as_it_is(tmp_path: Path) -> None:
    write_report(report_of(sample_report()), tmp_path)
    pages = {name: (tmp_path / name).read_bytes() for name in ("report.md", "report.html")}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(sample_report()))
    before = path.read_bytes()
    for name in pages:
        (tmp_path / name).unlink()
    write_pages(read_report(tmp_path), tmp_path)
    assert path.read_bytes() == before
    assert {name: (tmp_path / name).read_bytes() for name in pages} == pages


def test_html_shows_every_figure(tmp_path: Path) -> None:
    report = sample_report()
    page, _ = pages(report, tmp_path)
    shown = [
        headline(report_of(report)),
        report["recommendation"]["reason"],
        report["command"],
        "12.00",
        "8.0 GiB",
    ]
    for row in report["parity"]["rows"]:
        shown += [row["name"], row["skipped"]]
        shown += [figure(v, "percent") for v in (row["scores"] or {}).values()]
        shown.append(figure(row["delta_iou_percentage_points"], "points"))
        shown += [figure(end, "points") for end in row["ci95_percentage_points"] or []]
        for image in row["worst_images"]:
            shown += [image["name"], figure(image["candidate_iou"], "percent")]
    for row in report["benchmark"]["rows"]:
        shown += [figure(row[key], "fixed") for key in ("p50_ms", "p90_ms", "p99_ms", "speedup")]
        shown += [figure(row["images_per_s"], "rate"), figure(row["file_bytes"], "mega")]
        shown += [row["precision_executed"], figure(row["int8_mac_share"], "of_all")]
    shown += ["98.77", "0.25", "62.5", "123", "65", "9 layers of int8 ort-x86 on ONNX Runtime run"]
    shown += ["layer<7> and 1 more"]
    for made in report["stages"]:
        shown += [made["name"], made["status"], made["note"]]
        shown += list((made["artifact"] or {"sha256": None}).values())[-1:]
    shown += ["4.000 GMACs", "8.000 GFLOPs", "Relu 123,456", "Resize", "3,000.00", "75.00"]
    shown += ["2.5e-06", "111.5", "84.164", "83.179", "83.052"]
    shown += [
        "10.897",
        "2,048 bins",
        "9,000,001",
        "openvino not installed",
        "torch 9.9.9",
    ]
    shown += ["0" * 64, "1" * 64, "2" * 64, *report["definitions"].values()]
    missing = [text for text in shown if text is not None and text not in page.text]
    assert not missing


def test_published_figures_are_those_of_the_same_network(tmp_path: Path) -> None:
    page, text = pages(sample_report(), tmp_path)
    assert "77.443" not in page.text + text
    foreign = sample_report()
    foreign["model"]["arch"] = "onnx"
    page, text = pages(foreign, tmp_path)
    assert "84.164" not in page.text + text
    assert "Published figures" not in page.text + text


def test_markdown_holds_the_same_facts_shorter(tmp_path: Path) -> None:
    report = sample_report()
    _, text = pages(report, tmp_path)
    assert text.startswith("# sample_net: deployment report\n\n**PASS.** 3 of 3 candidates")
    for part in (
        "-0.085 to +0.022",
        "| 16.00 |",
        "4.000 GMACs",
        "84.164",
        "10.897",
        "fake_1",
        "&lt;pip install&gt;",
        "| 98.77 | int8 |",
        "| latency | 1 | 2 | 1 | 0.25 | 62.5 | 123 |",
        "| 9 layers | layer&lt;0&gt;, ",
        "layer&lt;7&gt; and 1 more |",
    ):
        assert part in text
    assert f"\n    {report['command']}\n" in text
    assert len(text) < (tmp_path / "report.html").stat().st_size / 3


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS.keys())
def test_markdown_tables_are_well_formed(make: Any, tmp_path: Path) -> None:
    report = make()
    if report["parity"]:
        report["parity"]["rows"][1]["name"] = HOSTILE
    _, text = pages(report, tmp_path)
    tables = [block.split("\n") for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= (5 if report["parity"] else 1)
    for table in tables:
        assert re.fullmatch(r"\|( -{3}:? \|)+", table[1])
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(widths) == 1
        assert all(line.startswith("| ") and line.endswith(" |") for line in table)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    plain, _ = pages(sample_report(), tmp_path / "plain")
    report = sample_report()
    report["parity"]["rows"][3]["worst_images"][0]["name"] = HOSTILE
    report["parity"]["rows"][1]["name"] = HOSTILE
    report["model"]["name"] = HOSTILE
    page, text = pages(report, tmp_path / "hostile")
    assert HOSTILE in page.text
    assert page.tags == plain.tags
    assert page.attributes == plain.attributes
    assert "<img" not in text
    assert "[a](" not in text.replace("\\[a\\](", "")


def test_a_name_that_is_no_utf8_does_not_break_the_pages(tmp_path: Path) -> None:
    report = sample_report()
    report["parity"]["rows"][3]["worst_images"][0]["name"] = "broken_\udcff"
    page, _ = pages(report, tmp_path)
    assert "broken_\\udcff" in page.text
    assert read_report(tmp_path) == report_of(report)


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS.keys())
def test_html_asks_the_network_for_nothing(make: Any, tmp_path: Path) -> None:
    page, _ = pages(make(), tmp_path)
    source = (tmp_path / "report.html").read_text("utf-8")
    local = re.compile(r"#|data:,$|data:image/png;base64,")
    assert all(local.match(address) for address in page.addresses)
    pictures = re.compile(r"data:image/png;base64,[^\"]+")
    code = pictures.sub("", source)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|fetch\(|XMLHttp|WebSocket", code)
    assert "default-src 'none'" in source
    targets = set(re.findall(r'id="([^"]+)"', source))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= targets


def test_verdict_of_a_passed_run() -> None:
    assert verdict_text(report_of(sample_report())) == (
        "PASS. 3 of 3 candidates keep the budget of at most 0.1 percentage points of IoU below "
        "PyTorch fp32 on 64 images. "
        "Lowest change: int8 ort-x86 on ONNX Runtime, -0.031 (95 % interval -0.085 to +0.022). "
        "Not measured: int8 openvino-cpu on OpenVINO. "
        f"Deploy {INT8_FILE} with onnxruntime: fastest that keeps the budget. "
        "At batch 1 one call takes 16.00 ms (p50), 4.00 times the speed of PyTorch; "
        "the file has 9.00 MB."
    )


def test_verdict_of_a_failed_run(tmp_path: Path) -> None:
    report = failed_report()
    assert verdict_text(report_of(report)) == (
        "FAIL. 2 of 3 candidates keep the budget of at most 0.1 percentage points of IoU below "
        "PyTorch fp32 on 64 images. "
        "Not kept: int8 ort-x86 on ONNX Runtime, -1.250 (95 % interval -1.500 to -1.000). "
        "Not measured: int8 openvino-cpu on OpenVINO. "
        "No artefact is recommended."
    )
    page, text = pages(report, tmp_path)
    assert " FAIL " in page.text
    assert "| FAIL |" in text


def judged_report(**int8: Any) -> dict[str, Any]:
    """A report whose rows hold a verdict, as they do since the interval decides."""
    report = sample_report()
    for row in report["parity"]["rows"]:
        row |= {"verdict": "kept" if row["passed"] else None, "failures": []}
        row |= {"collapsed_images": [], "reference_iou_kept_percent": None}
        row["mlperf_lines_reached_percent"] = None
    report["parity"]["rows"][3] |= {
        "reference_iou_kept_percent": 99.96125,
        "mlperf_lines_reached_percent": [99.0, 99.9],
    } | int8
    return report | {"passed": not int8, "recommendation": None}


def test_the_share_of_the_reference_and_its_line_stand_in_the_table(tmp_path: Path) -> None:
    _, text = pages(judged_report(), tmp_path)
    assert "| kept | 79.97 | -0.031 | -0.085 to +0.022 | 99.96 | 99.9 % |" in text
    validator().validate(json_of(read_report(tmp_path)))


@pytest.mark.parametrize(
    ("verdict", "failure"),
    [
        ("not proven", "not proven: which leaves open whether it is more; about 300 images"),
        ("lost", "lost: IoU changed by -1.250 points"),
        ("collapsed", "foreground collapse on 1 of 64 images (only background): cells_03"),
    ],
)
def test_a_candidate_that_did_not_pass_is_named_with_its_reason(
    verdict: str, failure: str, tmp_path: Path
) -> None:
    gone = ["cells_03"] if verdict == "collapsed" else []
    changes = {"passed": False, "verdict": verdict, "failures": [failure]}
    report = judged_report(**changes, collapsed_images=gone)
    assert f"Not kept: int8 ort-x86 on ONNX Runtime, {failure}. " in verdict_text(report_of(report))
    page, text = pages(report, tmp_path)
    assert f"| {verdict.upper()} |" in text
    assert f" {verdict.upper()} " in page.text
    validator().validate(json_of(read_report(tmp_path)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("verdict", "fine"),
        ("collapsed_images", 1),
        ("mlperf_lines_reached_percent", [98]),
        ("reference_iou_kept_percent", -1),
        ("failures", "lost"),
    ],
)
def test_schema_rejects_a_broken_judgement(key: str, value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator().validate(judged_report(**{key: value}))


def test_verdict_without_a_comparison() -> None:
    assert verdict_text(report_of(bare_report())).startswith(
        "NOT JUDGED. No candidate was compared"
    )


def test_an_artefact_that_was_not_timed_is_recommended_without_figures() -> None:
    report = sample_report() | {"benchmark": None}
    assert verdict_text(report_of(report)).endswith("fastest that keeps the budget.")


@given(value=st.floats(-1e6, 1e6), kind=st.sampled_from(sorted(FIGURES)))
def test_a_figure_reads_back_to_its_digits(value: float, kind: str) -> None:
    factor, pattern = FIGURES[kind]
    shown = float(figure(value, kind).replace(",", ""))
    digits = int(re.findall(r"\.(\d)", pattern)[0])
    allowed = abs(value * factor) * 10.0**-digits if "e" in pattern else 10.0**-digits
    assert abs(shown - value * factor) <= 0.51 * allowed + 1e-12
    if shown == 0:
        assert figure(value, kind).startswith("+" if "+" in pattern else "0")


def test_published_gflops_are_those_the_count_reproduces() -> None:
    with torch.device("meta"):
        networks = {"r2u_net": R2UNet(), "unet_plus_plus": UNetPlusPlus(deep_supervision=False)}
    reproduced = {arch: round(published_gflops(net, arch), 3) for arch, net in networks.items()}
    assert reproduced == {arch: entry.gflops for arch, entry in PUBLISHED.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; expected the output folder of `segdeploy run`"),
        ('{"schema_version": 1', "is not readable as JSON"),
        ("\xff", "is not readable as JSON"),
        ("[]", "has schema_version None, expected 1"),
        ('{"schema_version": 2}', "has schema_version 2, expected 1"),
        ('{"schema_version": true}', "has schema_version True, expected 1"),
    ],
)
def test_read_report_says_what_is_wrong(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_report(path)
    assert str(path) in str(caught.value)


def test_read_report_takes_file_or_folder(tmp_path: Path) -> None:
    report = report_of(sample_report())
    write_report(report, tmp_path)
    assert read_report(tmp_path) == read_report(tmp_path / "report.json") == report


@pytest.mark.parametrize("key", sorted(set(sample_report()) - {"schema_version"}))
def test_a_report_with_a_hole_is_refused(key: str, tmp_path: Path) -> None:
    report = sample_report()
    del report[key]
    (tmp_path / "report.json").write_text(json.dumps(report))
    message = rf"the report lacks '{key}'; `segdeploy run` makes it again"
    with pytest.raises(InputError, match=message):
        read_report(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), -1.0])
def test_what_the_file_cannot_hold_is_refused(value: Any, tmp_path: Path) -> None:
    report = report_of(sample_report())
    assert report.benchmark is not None
    first, *rest = report.benchmark.rows
    rows = (replace(first, p50_ms=value), *rest)
    broken = replace(report, benchmark=replace(report.benchmark, rows=rows))
    with pytest.raises(RunError, match="cannot be written as JSON"):
        write_report(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_numbers_of_parameters_say_what_they_count() -> None:
    content = sample_report()
    page = pages_of(report_of(content))["report.html"].decode()
    assert "as trained" not in page
    content["model"]["parameters"] += 7395
    page = pages_of(report_of(content))["report.html"].decode()
    assert page.count("9,007,396 parameters as trained") == 2
    assert "9,000,001 in the exported file; 7,395 more are trained and not in it" in page


def test_a_report_of_before_there_were_records_is_read_and_written_back() -> None:
    """``segdeploy run`` wrote it, at the last version that kept a report as a dict."""
    report = read_report(OLDER)
    pages = pages_of(report)
    assert pages["report.json"] == OLDER.read_bytes()
    assert hashlib.sha256(pages["report.md"]).hexdigest() == OLDER_MARKDOWN_SHA256


def test_a_report_without_what_was_added_later_is_read() -> None:
    """The keys that versions of schema 1 added, all of them absent."""
    content = parse_json(OLDER.read_text("utf-8"))
    for key in ("debug", "layer_times", "worst_images"):
        del content[key]
    for key in ("image_names", "field_of_view_percent"):
        del content["parity"][key]
    del content["benchmark"]["conditions"]
    for row in content["benchmark"]["rows"]:
        del row["failed"]
    for row in content["parity"]["rows"]:
        for key in ADDED_TO_PARITY:
            del row[key]
        for image in row["worst_images"]:
            del image["disagreement_percent"], image["collapsed"]
    written = pages_of(report_of(content))["report.json"]
    assert json.loads(written) == content, "what was not there is not made up"
    validator().validate(content)


def test_the_schema_is_that_of_the_records() -> None:
    """``python -m segdeploy.benchmarks.report.schema`` writes it again."""
    assert FILE.read_text("utf-8") == schema_text()


def test_every_layer_is_shown_with_its_figures(tmp_path: Path) -> None:
    report = full_report()
    page, text = pages(report, tmp_path)
    for shown in (
        "/conv0/conv",
        "/only/rewritten",
        "--exclude /conv0/conv",
        "0.000 to 8.000",
        "7.5",
    ):
        assert shown in page.text
    assert re.search(r"Everything else\s*11\s*Together\s*413", page.text)  # 402 and 11 us
    assert "no profiler <here>" in page.text
    assert "| /conv0/conv | 30.0 | 0.031 | 25.0 | 0.0125 | 7.5 | 16.67 | input |" in text
    assert "/conv0\\_0/conv 97.3 %" in text or "/conv0_0/conv 97.3 %" in text
    assert "To keep the worst in float: --exclude /conv0/conv" in text


def test_a_bar_of_the_layer_chart_leads_to_the_histogram_of_its_layer(tmp_path: Path) -> None:
    pages(full_report(), tmp_path)
    source = (tmp_path / "report.html").read_text("utf-8")
    assert len(re.findall(r'<a href="#layer-\d+"', source)) >= 2 * 3
    assert source.count('<figure id="layer-') == 3


def test_ids_are_unique(tmp_path: Path) -> None:
    pages(full_report(), tmp_path)
    ids = re.findall(r'\sid="([^"]+)"', (tmp_path / "report.html").read_text("utf-8"))
    assert len(ids) == len(set(ids))


def test_pictures_stand_beside_their_scores(tmp_path: Path) -> None:
    report = full_report()
    page, _ = pages(report, tmp_path)
    pictures = [a for a in page.addresses if a.startswith("data:image/png")]
    assert len(pictures) == 2 * 5
    assert pictures[0] == f"data:image/png;base64,{png(0)}"
    assert "int8 ort-x86 on ONNX Runtime: 69.50 % IoU, -0.500 points" in page.text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("worst_images", 0, "truth_png_base64"), "data:image/png;base64,AAAA"),
        (("worst_images", 0, "candidate"), None),
        (("layer_times", 0, "layers", 0, "times_us"), []),
        (("layer_times", 0, "layers", 0, "times_us"), [-1.0]),
        (("layer_times", 0, "skipped"), "timed all the same"),
        (("layer_times", 1, "skipped"), None),
    ],
)
def test_schema_rejects_broken_pictures_and_times(path: tuple[Any, ...], value: Any) -> None:
    report = full_report()
    inner: Any = report
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert list(validator().iter_errors(report))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([sample_report, bare_report, failed_report, full_report]),
    st.integers(0, 2**64 - 1),
)
def test_a_report_has_a_fault_exactly_where_the_schema_is_broken(make: Any, number: int) -> None:
    """The reader's own check against the library that knows all of JSON Schema."""
    try:
        report = parse_json(mutated(json.dumps(make()).encode(), number).decode())
    except ValueError:
        return
    fault = fault_of(report)
    if validator().is_valid(report):
        # 3.0 is an integer there, and no count here; and a schema cannot look names up
        assert fault is None or re.search("expected (a whole number|images that)", fault)
    else:
        assert fault is not None


def fault_of(report: Any) -> str | None:
    try:
        report_of(report)
    except CalibrationError as fault:
        return str(fault)
    return None


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("model", "parameters"), "9", "model.parameters is '9'; expected a whole number"),
        (("model", "head"), 5, "model.head is 5; expected a whole number from 1 to 4"),
        (("created_utc",), "today", "created_utc is 'today'; expected text matching"),
        (("stages",), [1], r"stages\[0\] is 1; expected keys and values"),
        (("passed",), 1, "passed is 1; expected true or false or null"),
        (("schema_version",), [1], r"schema_version is \[1\]; expected 1"),
        (("notes",), 1, "the report has the unknown key 'notes'"),
        (("definitions", "iou"), 5, r"definitions\['iou'\] is 5; expected text"),
        (
            ("cost", "elementwise", "Relu"),
            -1,
            r"cost.elementwise\['Relu'\] is -1; expected a whole",
        ),
        (("data", "evaluation", "sha256"), "0", "data.evaluation.sha256 is '0'; expected text m"),
    ],
)
def test_a_fault_is_said_with_its_place(path: tuple[str, ...], value: Any, fault: str) -> None:
    report = sample_report()
    inner = report
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    found = fault_of(report)
    assert found is not None
    assert re.match(fault, found), found


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"scores": None}, "parity.rows[1]: scores is null in a measured row; expected figures"),
        ({"skipped": "gone"}, "parity.rows[1]: scores is given in a skipped row; expected null"),
        ({"mlperf_lines_reached_percent": [98]}, "parity.rows[1]: mlperf_lines_reached_percent is"),
        ({"mlperf_lines_reached_percent": [99, 99]}, "[99.0, 99.0]; expected each of [99.0, 99.9]"),
    ],
)
def test_what_must_hold_between_the_fields_of_a_row(change: dict[str, Any], fault: str) -> None:
    report = sample_report()
    report["parity"]["rows"][1] |= change
    found = fault_of(report)
    assert found is not None
    assert fault in found
    assert not validator().is_valid(report)


def test_a_picture_of_an_image_that_no_row_names_is_refused() -> None:
    report = full_report()
    report["worst_images"][0]["name"] = "elsewhere"
    assert "worst_images has 'elsewhere' of 'int8 ort-x86" in (fault_of(report) or "")
