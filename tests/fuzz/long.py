"""Fuzz for as long as you like: ``python -m tests.fuzz.long --inputs 100000``.

With atheris (``pip install segdeploy[fuzz]``) inputs are chosen by the code they reach; without
it, or with ``--engine mutations``, they are made from the seeds at random. Each target runs in a
process of its own. An input that breaks the contract of ``targets`` is kept, for the corpus.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS_AN_INPUT = 10
MEMORY = 4 << 30
"""Bytes a target's process may use beyond what it has once it is loaded."""

PACKAGES = ["segdeploy"]
MOST_FAILURES = 20


@dataclass
class Tally:
    """What became of the inputs of one target."""

    target: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    failures: int = 0
    seconds: float = 0.0


def main() -> int:
    options = _options()
    if options.worker:
        return _work(options)
    from .targets import TARGETS

    engine = options.engine or ("atheris" if importlib.util.find_spec("atheris") else "mutations")
    failed = options.failures or Path(tempfile.mkdtemp(prefix="segdeploy-fuzz-failures-"))
    failed.mkdir(parents=True, exist_ok=True)
    chosen = options.target or list(TARGETS)
    print(f"engine {engine}; inputs that fail are kept in {failed}", flush=True)
    print(f"{'target':20}{'inputs':>9}{'accepted':>10}{'refused':>9}{'seconds':>9}{'failures':>10}")
    total = Tally(target="all")
    for name in chosen:
        tally = _spawn(name, engine, options, failed, TARGETS[name].share)
        _print(tally)
        for field in ("inputs", "accepted", "refused", "failures", "seconds"):
            setattr(total, field, getattr(total, field) + getattr(tally, field))
    _print(total)
    return 1 if total.failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="over all targets together")
    parser.add_argument("--target", nargs="+", help="default: every one")
    parser.add_argument("--engine", choices=("atheris", "mutations"), help="default: what is there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=Path, help="folder (default: a new temporary one)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _print(tally: Tally) -> None:
    print(
        f"{tally.target:20}{tally.inputs:9}{tally.accepted:10}{tally.refused:9}"
        f"{tally.seconds:9.1f}{tally.failures:10}",
        flush=True,
    )


def _spawn(
    name: str, engine: str, options: argparse.Namespace, failed: Path, share: float
) -> Tally:
    """One target in a process of its own; one that dies has failed."""
    count = max(1, int(options.inputs * share / (len(options.target or ()) or _targets())))
    with tempfile.TemporaryDirectory(prefix="segdeploy-fuzz-") as folder:
        said = Path(folder) / "tally.json"
        words = [
            *(sys.executable, "-m", "tests.fuzz.long", "--worker", str(said), "--target", name),
            *("--engine", engine, "--inputs", str(count), "--seed", str(options.seed)),
            *("--failures", str(failed / name)),
        ]
        started = time.monotonic()
        done = subprocess.run(
            words,
            env=os.environ | {"TMPDIR": folder, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=False,
        )
        found = json.loads(said.read_text()) if said.is_file() else asdict(Tally(target=name))
        tally = Tally(**found)
    tally.seconds = time.monotonic() - started
    kept = [p for p in (failed / name).iterdir() if not p.name.startswith(("said", "slow"))]
    tally.failures = len(kept) or int(done.returncode != 0)
    if tally.failures:
        (failed / name).mkdir(exist_ok=True)
        (failed / name / "said.txt").write_bytes(done.stdout + done.stderr)
    return tally


def _targets() -> int:
    from .targets import TARGETS

    return sum(target.share == 1 for target in TARGETS.values())


def _work(options: argparse.Namespace) -> int:
    (name,) = options.target
    options.failures.mkdir(parents=True, exist_ok=True)
    return (_atheris if options.engine == "atheris" else _mutations)(name, options)


def _mutations(name: str, options: argparse.Namespace) -> int:
    from .mutation import mutated
    from .targets import TARGETS

    target, tally = TARGETS[name], Tally(target=name)
    seeds = list(target.seeds().values())
    pool, rng = list(seeds), random.Random(f"{name}/{options.seed}")
    _limit_memory()
    signal.signal(signal.SIGALRM, _too_long)
    for number in range(options.inputs):
        data = (
            seeds[number]
            if number < len(seeds)
            else mutated(rng.choice(pool), rng.getrandbits(64), seeds)
        )
        signal.setitimer(signal.ITIMER_REAL, SECONDS_AN_INPUT)
        try:
            accepted = target(data)
        except BaseException:
            tally.failures += 1
            (options.failures / f"input-{number}").write_bytes(data)
            traceback.print_exc()
            if tally.failures >= MOST_FAILURES:
                break
            continue
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            tally.inputs += 1
        tally.accepted += accepted
        tally.refused += not accepted
        if accepted and len(pool) < 500 and len(data) < 4096:
            pool.append(data)
    options.worker.write_text(json.dumps(asdict(tally)))
    return int(tally.failures > 0)


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"more than {SECONDS_AN_INPUT} s for one input")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _atheris(name: str, options: argparse.Namespace) -> int:
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        from .targets import CORPUS, TARGETS
    from .mutation import mutated

    target, tally = TARGETS[name], Tally(target=name)
    seeds = list(target.seeds().values())

    def one(data: bytes) -> None:
        tally.inputs += 1
        accepted = target(data)
        tally.accepted += accepted
        tally.refused += not accepted
        if tally.inputs % 100 == 0 or tally.inputs >= options.inputs:
            options.worker.write_text(json.dumps(asdict(tally)))

    def change(data: bytes, most: int, seed: int) -> bytes:
        if seed % 2:
            return mutated(data, seed, seeds)[:most]
        return bytes(atheris.Mutate(data, most))

    found = options.worker.with_name("corpus")
    found.mkdir()
    atheris.Setup(
        [
            *(sys.argv[0], str(found), str(CORPUS / name), f"-runs={options.inputs}"),
            *(f"-timeout={SECONDS_AN_INPUT}", f"-rss_limit_mb={MEMORY >> 20}", "-max_len=65536"),
            *(f"-artifact_prefix={options.failures}/", f"-seed={options.seed + 1}"),
        ],
        one,
        custom_mutator=change,
    )
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
