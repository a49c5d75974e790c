"""Memory of parity does not grow with the number of images.

``python tests/benchmarks/parity/test_memory.py 100 10000`` measures it over as many as are wanted.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
import numpy as np
sys.path.insert(0, {tests!r})
from held_images import AS_IT_IS, Echo, Held
from segdeploy.benchmarks.parity.answers import ModelAnswers
from segdeploy.benchmarks.parity.evaluation import Evaluation
from segdeploy.benchmarks.parity.rows import candidate_row
from segdeploy.benchmarks.parity.tallies import compared
from segdeploy.benchmarks.speed.entries import RowIdentity
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.onnx_model.artifact import TensorSpec

side, classes = 64, {classes}
shape = ("n", 2 * classes, side, side)
Echo.inputs = (TensorSpec(name="image", shape=shape, dtype="float32"),)
Echo.outputs = (TensorSpec(name="probability", shape=shape, dtype="float32"),)
OUTPUT = OutputContract() if classes == 1 else OutputContract(
    activation=Activation.SOFTMAX, classes=("a", "b", "c")
)


class Drawn(Held):
    def image(self, preprocess=None):
        values = np.random.default_rng(int(self.name)).random((2 * classes, side, side))
        if classes > 1:
            for half in (values[:classes], values[classes:]):
                half /= half.sum(axis=0)
        object.__setattr__(self, "fed", values.astype(np.float32))
        return self

    def truth(self, preprocess, output):
        draw = np.random.default_rng(int(self.name) + 1)
        if classes == 1:
            return draw.random((side, side)) < 0.4
        return draw.integers(0, classes, (side, side)).astype(np.uint8)


class Once(Drawn):  # forgets what it drew, as a file does
    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        if name == "fed" and found is not None:
            object.__setattr__(self, "fed", None)
        return found


def run(count):
    samples = tuple(
        Once(name=str(i), image_path=i, mask_path=i, fed=None, shown=None) for i in range(count)
    )
    images = SegmentationSet(root=None, split="test", samples=samples)
    evaluation = Evaluation(
        images=images, preprocess=AS_IT_IS, output=OUTPUT, progress=lambda items, label: items
    )
    answers = [ModelAnswers.of(Echo(i * classes, classes), evaluation.contracts) for i in (0, 1)]
    expected = evaluation.reference(answers[0], "r")
    found = evaluation.candidate(answers[1], "c")
    report = compared(
        expected, found, names=("r", "c"), max_drop=1, max_drop_class=None, seed=0
    )
    row = candidate_row(RowIdentity(
        name="c", file=None, target=None, runtime="echo", precision_requested=None
    ), None, report, found, ranks=True)
    assert len(report.images) == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


few = run({few})
many = run({many})
print(few, many)
"""


def peaks(few: int, many: int, *, classes: int) -> tuple[int, int]:
    """Peak memory of a process over few images, and over many after them, KiB."""
    tests = str(Path(__file__).parents[2])
    script = SCRIPT.format(tests=tests, classes=classes, few=few, many=many)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = map(int, done.stdout.split())
    return first, second


@pytest.mark.parametrize("classes", [1, 3])
def test_peak_memory_is_flat_from_few_to_many_images(classes: int) -> None:
    """Held as they are, 440 more of these images would be 21 MB and more."""
    few, many = peaks(60, 500, classes=classes)
    assert many < 1.05 * few


if __name__ == "__main__":
    print(peaks(int(sys.argv[1]), int(sys.argv[2]), classes=1))
