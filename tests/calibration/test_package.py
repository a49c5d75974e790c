import ast
import sys
from pathlib import Path

from segdeploy import calibration

ALLOWED = {"msgspec", "numpy", "scipy", "segdeploy"} | set(sys.stdlib_module_names)


def test_package_imports_three_libraries_and_the_standard_library_alone():
    for path in Path(calibration.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= ALLOWED, path
            ours = [name for name in names if name.startswith("segdeploy")]
            assert all(name.startswith("segdeploy.calibration") for name in ours), path
