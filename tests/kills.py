"""Kill commands at random moments, go on, and compare what came out: the long form.

    python tests/kills.py --kills 200
    python tests/kills.py --verb run train --kills 40 --seed 3
    python tests/kills.py --every-write --verb predict
    python tests/kills.py --interruptions 30

Prints a table; exit code 1 and the difference where a folder is not what an undisturbed command
makes of it. Timings do not count; ``kill_compare`` lists them.
"""

from __future__ import annotations

import argparse
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from kill_compare import difference
from kill_verbs import INPUTS, TERMINAL, VERBS, Verb, make_inputs
from kill_zygote import Command, Zygote

LEFT = re.compile(r"\.\d+\.partial$|^\.partial$|\.lock$|\.trial$")
FOUR = ("run", "calibrate", "train", "predict")
MOST_IN_A_ROW = 4


@dataclass(kw_only=True)
class Tally:
    """What became of one verb.

    Attributes:
        verb: its name.
        kills: that hit it at work.
        half: of them, with a file that was written and had not got its name.
        resumed: outputs that were killed at least once and went on to their end.
        identical: of them, with the bytes of an undisturbed command.
        stages: how far it had come when it was killed.
        differences: in words.
        seconds: in all.
    """

    verb: str
    kills: int = 0
    half: int = 0
    resumed: int = 0
    identical: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Bench:
    """Runs a verb in folders of their own, beside the inputs, and compares.

    Args:
        folder: empty; kept where something differs.
        zygote: that forks the commands.
        reuse: folder of exports that were made before; ``None`` exports each time.
    """

    def __init__(self, folder: Path, zygote: Zygote, *, reuse: Path | None = None) -> None:
        self.folder, self.zygote, self.reuse = folder, zygote, reuse
        self.inputs = make_inputs(folder / INPUTS)
        self._whole: dict[str, tuple[Path, float, int]] = {}
        self._number = 0

    def new_folder(self, verb: Verb) -> Path:
        """An empty folder that sees the inputs."""
        self._number += 1
        folder = self.folder / f"{verb.name.replace(' ', '-')}-{self._number}"
        folder.mkdir()
        (folder / INPUTS).symlink_to(self.inputs)
        return folder

    def command(self, verb: Verb, folder: Path, *more: str, **options: object) -> Command:
        return Command(
            argv=[*verb.argv, *more],
            folder=str(folder),
            terminal=str(folder / TERMINAL),
            patches=verb.patches,
            reuse=str(self.reuse) if self.reuse else None,
            **options,  # type: ignore[arg-type]  # keyword by keyword
        )

    def to_the_end(self, verb: Verb, folder: Path, *more: str) -> None:
        code = self.zygote.start(self.command(verb, folder, *more)).wait()
        said = (folder / TERMINAL).read_text()
        assert code == verb.code, f"{folder}: exit code {code}, not {verb.code}\n{said[-2000:]}"
        assert "Traceback" not in said, said[-3000:]

    def whole(self, verb: Verb) -> tuple[Path, float, int]:
        """An undisturbed run: its folder, its seconds, and how often it changes a name."""
        if verb.name not in self._whole:
            folder = self.new_folder(verb)
            before = time.monotonic()
            self.to_the_end(verb, folder)
            seconds = time.monotonic() - before
            operations = Path(f"{folder / TERMINAL}.operations")
            self._whole[verb.name] = folder, seconds, len(operations.read_text().splitlines())
        return self._whole[verb.name]

    def differs(self, verb: Verb, folder: Path) -> str | None:
        left_out = (INPUTS, TERMINAL, f"{TERMINAL}.operations")
        return difference(self.whole(verb)[0], folder, leave_out=left_out)


def killed_at(bench: Bench, verb: Verb, folder: Path, moment: float, tally: Tally) -> bool:
    """Start, kill after some seconds; whether it was still at work."""
    attempt = bench.zygote.start(bench.command(verb, folder))
    if not attempt.ended(moment):
        attempt.kill()
    return _noted(attempt.wait(), verb, folder, tally)


def killed_before(
    bench: Bench, verb: Verb, folder: Path, number: int, tally: Tally, *, torn: bool
) -> bool:
    """Start, let it die before it changes its n-th name; whether it came so far."""
    attempt = bench.zygote.start(bench.command(verb, folder, aim=number, torn=torn))
    return _noted(attempt.wait(), verb, folder, tally)


def _noted(code: int, verb: Verb, folder: Path, tally: Tally) -> bool:
    if code != -signal.SIGKILL:
        assert code == verb.code, f"{folder}: {(folder / TERMINAL).read_text()[-2000:]}"
        return False
    tally.kills += 1
    tally.stages[verb.progress(folder)] += 1
    tally.half += any(
        path.is_file()
        and ".partial" in path.relative_to(folder).as_posix()
        and path.suffix != ".npz"
        for path in folder.rglob("*")
    )
    return True


def interrupted_at(
    bench: Bench, verb: Verb, folder: Path, draw: random.Random, tally: Tally
) -> list[str] | None:
    """Start, send SIGINT or SIGTERM, often twice; the command to go on with, if it was at work."""
    number, seconds = draw.choice([signal.SIGINT, signal.SIGTERM]), bench.whole(verb)[1]
    attempt = bench.zygote.start(bench.command(verb, folder))
    if not attempt.ended(draw.uniform(0.02, 0.7 * seconds)):
        attempt.kill(number)
        if draw.random() < 0.5 and not attempt.ended(draw.uniform(0, 0.3)):
            attempt.kill(number)
    code = attempt.wait()
    said = (folder / TERMINAL).read_text()
    told = "interrupted;" in said
    if code == verb.code or (code == -number and not told):
        return None  # all was done; Python itself no longer listened
    ends = (128 + number, -number)  # the latter by a second signal, when all was said
    assert code in ends, f"{folder}: exit code {code} after signal {number}\n{said[-3000:]}"
    for unwanted in ("Traceback", "Exception ignored", "Error"):
        assert unwanted not in said, f"{folder}: {said[-3000:]}"
    found = re.findall(r"^interrupted; what was finished is kept. To go on: (.+)$", said, re.M)
    assert len(found) == 1, said
    left = [path.name for path in folder.rglob("*") if LEFT.search(path.name)]
    assert not left, f"{folder}: {left} left after signal {number}"
    tally.kills += 1
    tally.stages[verb.progress(folder)] += 1
    return shlex.split(found[0])[1:]


def interruptions(
    bench: Bench, verb: Verb, draw: random.Random, tally: Tally, count: int, deadline: float
) -> None:
    """One output for each interruption; it goes on by the command that was printed."""
    while tally.kills < count and time.monotonic() < deadline:
        folder = bench.new_folder(verb)
        command = interrupted_at(bench, verb, folder, draw, tally)
        if command is not None:
            assert command == list(verb.argv)
        finish(bench, verb, folder, tally)


def finish(bench: Bench, verb: Verb, folder: Path, tally: Tally) -> None:
    """Let it end, and compare."""
    (folder / TERMINAL).unlink()
    bench.to_the_end(verb, folder)
    tally.resumed += 1
    found = bench.differs(verb, folder)
    if found is None:
        tally.identical += 1
        shutil.rmtree(folder)
    else:
        tally.differences.append(f"{verb.name}, {folder}: {found}")


def random_kills(
    bench: Bench, verb: Verb, draw: random.Random, tally: Tally, kills: int, deadline: float
) -> None:
    """Chains of kills on one output each: most at random moments, a third aimed at a write."""
    _, seconds, operations = bench.whole(verb)
    while tally.kills < kills and time.monotonic() < deadline:
        folder = bench.new_folder(verb)
        for _ in range(draw.randint(1, MOST_IN_A_ROW)):
            if tally.kills == kills:
                break
            if draw.random() < 1 / 3:
                number, torn = draw.randint(1, operations), draw.random() < 0.5
                hit = killed_before(bench, verb, folder, number, tally, torn=torn)
            else:
                hit = killed_at(bench, verb, folder, draw.uniform(0.02, 0.7 * seconds), tally)
            if not hit:
                break
        finish(bench, verb, folder, tally)


def every_write(bench: Bench, verb: Verb, tally: Tally) -> None:
    """One output for each change of a name: killed before it, then let go on."""
    for number in range(1, bench.whole(verb)[2] + 1):
        folder = bench.new_folder(verb)
        assert killed_before(bench, verb, folder, number, tally, torn=bool(number % 2))
        finish(bench, verb, folder, tally)


def table(tallies: list[Tally]) -> str:
    rows = [("verb", "kills", "half-written", "resumed", "identical", "seconds")]
    rows += [
        (t.verb, str(t.kills), str(t.half), str(t.resumed), str(t.identical), f"{t.seconds:.0f}")
        for t in tallies
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    for t in tallies:
        shown = ", ".join(f"{stage} {count}" for stage, count in sorted(t.stages.items()))
        lines.append(f"{t.verb} was killed at: {shown}")
    return "\n".join(lines)


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--verb", nargs="+", choices=VERBS, default=FOUR)
    parser.add_argument("--kills", type=int, default=200, help="over all verbs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-write", action="store_true", help="before each rename and removal")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no output after that")
    parser.add_argument("--interruptions", type=int, help="SIGINT and SIGTERM instead of kills")
    parser.add_argument("--reuse", action="store_true", help="export once; time nothing")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    reuse = folder / "reuse" if options.reuse else None
    if reuse:
        reuse.mkdir()
    tallies = []
    with Zygote() as zygote:
        bench = Bench(folder, zygote, reuse=reuse)
        for name in options.verb:
            tally, before = Tally(verb=name), time.monotonic()
            deadline = before + 60 * options.minutes / len(options.verb)
            tallies.append(tally)
            if options.every_write:
                every_write(bench, VERBS[name], tally)
            else:
                draw, among = random.Random(f"{options.seed} {name}"), len(options.verb)
                if options.interruptions:
                    interruptions(
                        bench, VERBS[name], draw, tally, options.interruptions // among, deadline
                    )
                else:
                    random_kills(bench, VERBS[name], draw, tally, options.kills // among, deadline)
            tally.seconds = time.monotonic() - before
            print(table([tally]), flush=True)
    print(table(tallies))
    differences = [found for tally in tallies for found in tally.differences]
    print("\n".join(differences))
    if not differences:
        shutil.rmtree(folder)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
