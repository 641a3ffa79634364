"""Gather what the GPU machine lacks: one archive for each table of packs.toml.

    python benchmarks/gpu/pack.py [PACK ...]

Packages come ready to import, so that nothing has to be installed there; `run.sh` unpacks them.
An archive above the limit is an error: it could not be carried beside the working tree.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKS = ROOT / ".gpu" / "packs"
LIST = HERE / "packs.toml"
LIMIT = 60 * 2**20
"""Bytes that one call may carry, the working tree and the packs that it names together."""
TOGETHER = (("base", "loaders"), ("sapien", "maniskill", "loaders"))
"""Packs that one call carries."""


def main(arguments: list[str] | None = None) -> None:
    packs = read_packs()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packs", nargs="*", choices=[[], *packs], help="all if none is named")
    for name in parser.parse_args(arguments).packs or packs:
        with tempfile.TemporaryDirectory() as folder:
            gather(packs[name], Path(folder))
            write_archive(Path(folder), PACKS / f"{name}.tar.xz")
    print(sizes())
    if too_large := [" and ".join(call) for call in TOGETHER if carried(call) > LIMIT]:
        sys.exit(f"too large for one call: {', '.join(too_large)}")


def read_packs() -> dict[str, dict[str, Any]]:
    """Pack -> packages, imports, drop, keep, debian; see packs.toml."""
    return tomllib.loads(LIST.read_text())


def gather(pack: dict[str, Any], folder: Path) -> None:
    """Fill a folder with the packages of a pack, without what it drops."""
    if "packages" in pack:
        gather_packages(pack["packages"], folder)
    if "debian" in pack:
        gather_libraries(pack["debian"], folder)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        dropped = any(fnmatch(name, pattern) for pattern in pack.get("drop", ()))
        kept = any(fnmatch(name, pattern) for pattern in pack.get("keep", ()))
        if not path.is_dir() and dropped and not kept:
            path.unlink()


def gather_packages(packages: list[str], folder: Path) -> None:
    """Python packages, without what they require, for the machine's Python and Linux."""
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    command += ["--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_28"]
    command += ["--only-binary", ":all:", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*command, *packages], check=True)


def gather_libraries(packages: list[str], folder: Path) -> None:
    """Shared libraries of Debian packages, laid flat. Without apt the pack stays empty, and the
    machine's own libraries have to do."""
    if shutil.which("apt-get") is None:
        print("no apt-get here: the pack of loaders is empty", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as name:
        lists = Path(name) / "lists" / "partial"
        lists.mkdir(parents=True)
        options = [f"-oDir::State::Lists={lists.parent}", "-oAPT::Architecture=amd64"]
        options += ["-oAPT::Architectures=amd64", "-oAPT::Sandbox::User=root"]
        subprocess.run(["apt-get", *options, "-qq", "update"], check=True)
        subprocess.run(["apt-get", *options, "-qq", "download", *packages], check=True, cwd=name)
        for archive in Path(name).glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(archive), name], check=True)
        for library in Path(name).glob("usr/lib/*/*.so*"):
            target = folder / "libraries" / library.name
            target.parent.mkdir(exist_ok=True)
            shutil.copy(library, target, follow_symlinks=False)


def write_archive(folder: Path, path: Path) -> None:
    """Everything in the folder as a tar.xz, the same for the same content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with tarfile.open(draft, "w:xz", preset=6) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_dir() or "__pycache__" in file.parts:
                continue
            archive.add(file, file.relative_to(folder).as_posix(), filter=_without_owner)
    draft.replace(path)


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def tree_size() -> int:
    """Bytes of the working tree, which every call carries."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {ROOT / name for name in listed.split("\0") if name}
    return sum(file.stat().st_size for file in files if file.is_file())


def pack_sizes() -> dict[str, int]:
    """Bytes of the packs that are there."""
    return {
        name: path.stat().st_size for name in read_packs() if (path := archive_of(name)).exists()
    }


def carried(packs: Sequence[str]) -> int:
    """Bytes that a call with these packs carries."""
    found = pack_sizes()
    return tree_size() + sum(found.get(name, 0) for name in packs)


def archive_of(pack: str) -> Path:
    """Where a pack lies."""
    return PACKS / f"{pack}.tar.xz"


def sizes() -> str:
    """The packs' sizes, and those of what is carried together beside the limit."""
    found = {"working tree": tree_size()} | pack_sizes()
    lines = [f"{name}: {size / 2**20:.1f} MiB" for name, size in found.items()]
    lines += [
        f"a call with {', '.join(call)}: {carried(call) / 2**20:.1f} of {LIMIT / 2**20:.0f} MiB"
        for call in TOGETHER
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
