"""The dataset layouts, by name and by what a folder holds."""

from __future__ import annotations

from pathlib import Path

from segdeploy.deploy.data.image_files import some_names
from segdeploy.deploy.data.layouts import drive, dsb2018, isic2018, paired, split_folders
from segdeploy.deploy.data.layouts.base import Layout
from segdeploy.deploy.system.errors import InputError, UsageError

AUTO = "auto"
LAYOUTS = {
    layout.name: layout
    for layout in (
        dsb2018.LAYOUT,
        isic2018.LAYOUT,
        split_folders.LAYOUT,
        drive.LAYOUT,
        paired.LAYOUT,
    )
}
LAYOUT_NAMES = (AUTO, *LAYOUTS)
"""What ``--layout`` takes."""


def layout_of(raw: Path, name: str = AUTO) -> Layout:
    """The layout of a folder, by name, or for "auto" the one that recognises it.

    Raises:
        InputError: the folder has not that layout, none, or several; the message says what was
            looked for and what is there.
        UsageError: no layout has that name.
    """
    if name not in LAYOUT_NAMES:
        raise UsageError(f"layout {name!r} is not one of {', '.join(LAYOUT_NAMES)}")
    fitting = [layout for layout in LAYOUTS.values() if layout.recognises(raw)]
    fitting = [layout for layout in fitting if not layout.fallback] or fitting
    asked = [layout for layout in fitting if name in (AUTO, layout.name)]
    if len(asked) == 1:
        return asked[0]
    if asked:
        names = ", ".join(layout.name for layout in asked)
        raise InputError(f"{raw} fits several layouts ({names}); say which with --layout")
    if fitting:
        hint = f"it looks like {fitting[0].name}: leave --layout out, or give that"
        raise InputError(f"{raw} holds no {LAYOUTS[name].expected} ({name}); {hint}")
    wanted = [layout for layout in LAYOUTS.values() if name in (AUTO, layout.name)]
    looked_for = "; no ".join(f"{layout.expected} ({layout.name})" for layout in wanted)
    raise InputError(f"{raw} holds no {looked_for}. {_content(raw)}")


def _content(raw: Path) -> str:
    if not raw.is_dir():
        return "It is no folder"
    names = sorted(path.name for path in raw.iterdir())
    if not names:
        return "It is empty"
    return f"It holds {some_names(names)}"
