"""Which commit of the suite this process runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 2.0  # timeout of git: on a slow file system a run does not wait for it


def checkout(root: Path = ROOT) -> dict[str, Any]:
    """Returns {"commit", "changed"} of the suite's files; both are None if `root` is no checkout or git fails.

    "commit" is the full hash. "changed" says whether tracked files differ from it, or a package holds untracked code.
    """
    unknown: dict[str, Any] = {"commit": None, "changed": None}
    if not (root / ".git").exists():  # a repository of a parent folder merely holds a copy
        return unknown
    status = _git(root, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    packages = sorted(file.parent.name for file in root.glob("*/__init__.py"))
    new = _git(root, "ls-files", "--others", "--exclude-standard", "--", *packages)
    if status is None or new is None:
        return unknown
    commit = next((line.split()[-1] for line in status if line.startswith("# branch.oid ")), "(initial)")
    if commit == "(initial)":
        return unknown
    changed = any(not line.startswith("#") for line in status) or any(name.endswith(".py") for name in new)
    return {"commit": commit, "changed": changed}


def _git(root: Path, *words: str) -> list[str] | None:
    """The lines that git prints, or None if it fails. git takes no lock and starts no other program."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *words]
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS,
                              check=True)  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").splitlines()
