"""What is installed: pinned, explained, licensed, and looked up in the advisories."""

from __future__ import annotations

import doctest
import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PINS = [
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
NEWER = [line.partition(";")[0] for line in PINS if '< "3.11"' not in line]
OLDER = [line.partition(";")[0] for line in PINS if '< "3.11"' in line]

ADVISORY = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"], "description": ""}


@pytest.fixture(scope="module", autouse=True)
def _scripts() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / ".ci"))
        yield


def script(name: str) -> ModuleType:
    """A module of ``.ci``, which is no package."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / f".ci/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", name, maxsplit=1)[0]).lower()


def required() -> set[str]:
    return {key(line) for lines in script("requirements").requirements().values() for line in lines}


class TestConstraints:
    def test_every_requirement_is_pinned(self) -> None:
        assert required() - set(map(key, NEWER)) == set()

    def test_every_pin_is_exact_and_each_package_has_one(self) -> None:
        assert [line for line in NEWER + OLDER if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
        for lines in (NEWER, OLDER):
            names = list(map(key, lines))
            assert sorted(set(names)) == sorted(names)

    def test_a_package_with_a_line_for_3_10_has_none_that_says_nothing(self) -> None:
        plain = {key(line) for line in PINS if ";" not in line}
        assert plain & set(map(key, OLDER)) == set()

    def test_every_requirement_has_its_reason(self) -> None:
        table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Dependencies")[2]
        cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| ")]
        named = {key(word) for cell in cells for word in re.split(r"[,()` ]+", cell) if word}
        stubs = {name for name in required() if name.startswith("types-") or "stubs" in name}
        assert required() - stubs - named == set()
        assert "stubs" in named


class TestThirdParty:
    def test_the_table_holds_what_is_pinned(self) -> None:
        rows = re.findall(
            r"^\| ([\w.-]+) \| ([\w.]+) \| [^|]+ \| [^|]+ \| https?://\S+ \|$",
            (ROOT / "THIRD_PARTY.md").read_text(),
            re.MULTILINE,
        )
        found = {f"{key(name)}=={version}" for name, version in rows}
        pinned = {f"{key(line)}=={line.partition('==')[2]}" for line in NEWER}
        assert pinned - found == set(), "run .ci/third-party"
        assert found - pinned == set(), "pin these, or run .ci/third-party"

    def test_the_bill_of_materials_is_of_these_versions_and_of_no_machine(self) -> None:
        text = (ROOT / "sbom.cdx.json").read_text()
        parts = json.loads(text)["components"]
        assert {f"{part['name']}=={part['version']}" for part in parts} <= set(NEWER)
        assert {key(line) for line in script("requirements").requirements()[""]} <= {
            key(part["name"]) for part in parts
        }
        for private in ("timestamp", "serialNumber", "file:", "/home", "/tmp", str(ROOT)):
            assert private not in text

    def test_a_licence_that_needs_a_word_is_refused_without_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = script("third_party")
        tqdm = importlib.metadata.distribution("tqdm")
        assert "MPL-2.0 AND MIT" in module._row(tqdm, ["core"])
        monkeypatch.setattr(module, "NOTES", {})
        with pytest.raises(SystemExit, match=r"tqdm: .* is to be explained"):
            module._row(tqdm, ["core"])


class TestAudit:
    @pytest.fixture
    def audit(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
        module = script("audit")
        (tmp_path / "constraints.txt").write_text("a==1\n")
        monkeypatch.setattr(module, "CONSTRAINTS", tmp_path / "constraints.txt")
        return module

    @staticmethod
    def answering(module: ModuleType, patch: pytest.MonkeyPatch, answer: str) -> None:
        """Let pip-audit print an answer."""
        shown = f"print({answer!r})"
        real = module.subprocess.run

        def run(command: list[str], **options: Any) -> Any:
            return real([sys.executable, "-c", shown], **options)

        patch.setattr(module.subprocess, "run", run)

    @pytest.mark.parametrize(
        "answer",
        ["", json.dumps({"dependencies": [{"name": "a", "skip_reason": "not found"}]})],
        ids=["no service", "unknown package"],
    )
    def test_without_an_answer_it_fails_and_says_so(
        self,
        audit: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        answer: str,
    ) -> None:
        self.answering(audit, monkeypatch, answer)
        assert audit.main() == audit.NOT_RUN
        assert "NOT RUN" in capsys.readouterr().err

    def test_an_advisory_fails_unless_it_is_excepted(
        self,
        audit: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        found = {"name": "a", "version": "1", "vulns": [ADVISORY]}
        self.answering(audit, monkeypatch, json.dumps({"dependencies": [found]}))
        audit.pins = lambda text: (["a==1"], ["a==1"])
        assert audit.main() == audit.FOUND
        assert "a 1: PYSEC-1 = CVE-1, fixed in 2" in capsys.readouterr().out
        monkeypatch.setitem(audit.EXCEPTIONS, "CVE-1", "a test")
        assert audit.main() == 0
        monkeypatch.setitem(audit.EXCEPTIONS, "CVE-2", "a test")
        assert audit.main() == audit.FOUND
        assert "CVE-2 is excepted and no longer found" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["audit", "update_constraints"])
def test_the_examples_of_the_scripts_hold(name: str) -> None:
    result = doctest.testmod(script(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
