"""What is released: one wheel, the source distribution it can be built from, and no need of a compiler."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import msgspec
import pytest
from packaging.utils import parse_wheel_filename

import shmtransport
from tests.support import ROOT

FOLDERS = ("shmtransport", "csrc", "tests", "bench", "examples", "docs")
FILES = ("Makefile", "LICENSE", ".ci/run", "*.py", "*.toml", "*.txt", "*.md", "*.yml", "MANIFEST.in")
MADE = {".so", ".pyc"}
INSTALL_TIMEOUT_S = 240.0
NOWHERE = Path("/nowhere/cc")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def run(*command: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> str:
    """What it prints; the test fails, showing all of it, if it exits with an error."""
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"exit status {done.returncode}: {done.args}\n{done.stdout}{done.stderr}"
    return done.stdout


def sources() -> set[str]:
    """Every file of the project that a person wrote."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    paths += [path for pattern in FILES for path in ROOT.glob(pattern)]
    return {str(path.relative_to(ROOT)) for path in paths if path.is_file() and path.suffix not in MADE}


def test_one_wheel_serves_every_python_since_3_11(wheel: Path) -> None:
    name, version, build, tags = parse_wheel_filename(wheel.name)
    assert (name, str(version), build) == ("shmtransport", shmtransport.__version__, ())
    assert {(tag.interpreter, tag.abi) for tag in tags} == {("cp311", "abi3")}
    assert all(tag.platform.startswith("manylinux_") for tag in tags)  # and not linux, which no index takes


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    package = {name for name in sources() if name.startswith("shmtransport/")} | {"shmtransport/_core.abi3.so"}
    information = f"shmtransport-{shmtransport.__version__}.dist-info/"
    assert {name for name in contents(wheel) if not name.startswith(information)} == package
    assert information + "licenses/LICENSE" in contents(wheel)


def test_the_source_distribution_has_every_file_to_build_test_and_read(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert sources() - names == set()
    assert {name for name in names - sources() if not name.startswith("shmtransport.egg-info/")} == {
        "PKG-INFO",
        "setup.cfg",
    }


@pytest.mark.timeout(INSTALL_TIMEOUT_S)
def test_the_wheel_built_from_the_source_distribution_is_the_one_built_from_the_tree(
    sdist: Path, tmp_path: Path
) -> None:
    (of_tree,) = (ROOT / "build" / "wheel").glob("*.whl")  # before auditwheel gave it another tag
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    run(sys.executable, "-m", "build", "--quiet", "--no-isolation", "--wheel", "--outdir", tmp_path, cwd=folder)
    (of_sdist,) = tmp_path.glob("*.whl")
    ours, theirs = contents(of_sdist), contents(of_tree)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.timeout(INSTALL_TIMEOUT_S)
def test_the_wheel_installs_and_sends_photographs_where_no_compiler_is(wheel: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    run(sys.executable, "-m", "venv", fresh, cwd=tmp_path)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SHMTRANSPORT"))}
    environment |= {"PATH": str(fresh / "bin"), "CC": str(NOWHERE)}
    pins = ("--constraint", ROOT / "constraints.txt")
    install = ("install", "--quiet", "--disable-pip-version-check", "--no-compile", "--only-binary=:all:")
    run(fresh / "bin" / "pip", *install, *pins, f"{wheel}[demo]", cwd=tmp_path, environment=environment)

    where = "import shmtransport; print(shmtransport.__file__)"
    assert Path(run(fresh / "bin" / "python", "-c", where, cwd=tmp_path, environment=environment)).is_relative_to(fresh)
    demo = (fresh / "bin" / "shmtransport", "demo", "--images", "1", "--requests", "1", "--json")
    # Its exit status is that of an error unless every byte was right.
    assert msgspec.json.decode(run(*demo, cwd=tmp_path, environment=environment))
