"""The parts of `shmtransport doctor` that read how a host is set up, from a folder in its place, and what it prints."""

import re
from pathlib import Path

import pytest

from shmtransport.adapters.settings import Settings
from shmtransport.config import BackingChoice
from shmtransport.doctor import Finding, Report, Situation, cuda, examination, kernel
from shmtransport.doctor.child import ChildError, answer_of
from shmtransport.doctor.cuda import _Device, _Driver
from shmtransport.doctor.examination import examine
from shmtransport.doctor.findings import Level
from shmtransport.doctor.remedies import enlarged
from shmtransport.doctor.settings import KNOWN
from shmtransport.doctor.text import rendered, verdict
from tests.support import ROOT

GIB = 1 << 30
NOBODY = 12345
DROP_IN = "systemd/logind.conf.d"


def written(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that systemd has started, seen by an ordinary user."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    monkeypatch.setattr("os.geteuid", lambda: NOBODY)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "level"),
    [
        ({}, "warning"),
        ({"etc/systemd/logind.conf": "[Login]\nRemoveIPC=yes\n"}, "warning"),
        ({"etc/systemd/logind.conf": "[Login]\n#RemoveIPC=no\n"}, "ok"),
        ({"etc/systemd/logind.conf": "[Login]\n#RemoveIPC=yes\nRemoveIPC=no\n"}, "ok"),
        ({"etc/systemd/logind.conf": "RemoveIPC=no", "usr/lib/systemd/logind.conf": "RemoveIPC=yes"}, "ok"),
        ({"usr/lib/systemd/logind.conf": "RemoveIPC=no"}, "ok"),
        ({f"usr/lib/{DROP_IN}/50.conf": "RemoveIPC=no", "etc/systemd/logind.conf": "#RemoveIPC=yes"}, "ok"),
        ({f"run/{DROP_IN}/a.conf": "RemoveIPC=no", f"etc/{DROP_IN}/b.conf": "RemoveIPC=1"}, "warning"),
        ({f"usr/lib/{DROP_IN}/a.conf": "RemoveIPC=1", f"etc/{DROP_IN}/a.conf": "RemoveIPC=no"}, "ok"),
        ({f"var/lib/systemd/linger/{NOBODY}": ""}, "ok"),
        ({"etc/login.defs": f"SYS_UID_MAX {NOBODY}\n"}, "ok"),
        ({"etc/login.defs": "#SYS_UID_MAX 99999\n"}, "warning"),
    ],
)  # fmt: skip
def test_remove_ipc_is_named_where_it_would_remove_this_users_rings(
    systemd: Path, files: dict[str, str], level: str
) -> None:
    for path, text in files.items():
        written(systemd, path, text)
    (found,) = kernel.remove_ipc(Situation(root=systemd))
    assert found.level == level, found
    assert ("RemoveIPC=no in /etc/systemd/logind.conf" in found.remedy) == (level == "warning")


def test_without_systemd_nothing_removes_them(tmp_path: Path) -> None:
    (found,) = kernel.remove_ipc(Situation(root=tmp_path))
    assert found.level == "ok"


@pytest.mark.parametrize(
    ("chosen", "levels"),
    [("never", {"memfd": "note"}), ("within_size", {"memfd": "ok"}), ("force", {"memfd": "ok", "/dev/shm": "ok"})],
)
def test_huge_pages_are_looked_for(tmp_path: Path, chosen: str, levels: dict[str, Level]) -> None:
    text = "always within_size advise never deny force".replace(chosen, f"[{chosen}]")
    written(tmp_path, "sys/kernel/mm/transparent_hugepage/shmem_enabled", f"{text}\n")
    found = {finding.text.split()[0]: finding for finding in kernel.huge_pages(Situation(root=tmp_path))}
    assert set(found) == {"/dev/shm", "memfd"}
    assert {place: found[place].level for place in levels} == levels
    assert all(bool(finding.remedy) == (finding.level == "note") for finding in found.values())


def test_a_kernel_without_huge_pages_is_no_failure_and_costs_no_other_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = {"huge pages": kernel.huge_pages, "RemoveIPC": kernel.remove_ipc}
    monkeypatch.setattr(examination, "CHECKS", checks)
    unseen, seen = examine(Situation(root=tmp_path))
    assert (unseen.check, unseen.level) == ("huge pages", "note")
    assert unseen.text.startswith("could not be looked at: [Errno 2]")
    assert seen.check == "RemoveIPC"


@pytest.mark.parametrize(
    ("device", "pinned", "expected"),
    [
        (_Device("A", True, True), "8GiB", ["ok"]),
        (_Device("A", True, True), "1GiB", ["ok", "warning"]),
        (_Device("A", True, False), "8GiB", ["warning"]),
        (_Device("A", False, True), "8GiB", ["warning"]),
    ],
)
def test_a_ring_has_to_be_registrable_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, device: _Device, pinned: str, expected: list[str]
) -> None:
    monkeypatch.setattr("torch.version.cuda", "13.0")
    situation = Situation(environment={"SHMTRANSPORT_PINNED": pinned})
    found = list(cuda._registration(situation, _Driver(13000, [device])))
    assert [finding.level for finding in found] == expected
    assert found[-1].remedy == ("SHMTRANSPORT_PINNED=5368709120" if len(found) == 2 else "")


def test_a_gpu_without_a_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmtransport._core.cuda_load", lambda path: path)
    assert [finding.level for finding in cuda.cuda(Situation(root=tmp_path))] == ["ok"]
    written(tmp_path, "dev/nvidiactl", "")
    (found,) = cuda.cuda(Situation(root=tmp_path))
    assert "docker run --gpus all" in found.remedy


def test_a_look_that_takes_too_long_is_ended() -> None:
    with pytest.raises(ChildError, match=r"no answer within 0.2 s"):
        answer_of(["-c", "import time; time.sleep(100)"], timeout_s=0.2, environment={})


@pytest.mark.parametrize(
    ("limit", "remedy"),
    [
        ("/dev/shm", "docker run --shm-size=3g"),
        ("the cgroup's memory limit", "a memory limit higher by 2 GiB: docker run --memory"),
        ("the host's available memory", "lower SHMTRANSPORT_CAPACITY"),
    ],
)
def test_each_limit_has_a_remedy_of_its_own(limit: str, remedy: str) -> None:
    assert enlarged(limit, 5 * GIB // 2, GIB).startswith(remedy)


@pytest.mark.parametrize("backing", ["posix", "memfd", "auto"])
def test_what_a_ring_should_have_is_what_was_asked_for_or_vllms_cache_and_a_gib(backing: BackingChoice) -> None:
    environment = {"SHMTRANSPORT_BACKING": backing}
    assert Situation(2.5, 3, environment).wanted_nbytes() == 7 * GIB // 2
    assert Situation(2.5, 3, environment).roomy_nbytes() == 21 * GIB
    assert Situation(2.5, 3, environment | {"SHMTRANSPORT_CAPACITY": "64MiB"}).wanted_nbytes() == 64 << 20
    assert Situation(2.5, 3, environment | {"SHMTRANSPORT_CAPACITY": "lots"}).settings() is None


def test_all_settings_that_are_documented_or_read_are_known() -> None:
    documents = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    read = "".join(path.read_text() for path in (ROOT / "shmtransport").rglob("*.py"))
    of_demo = {"SHMTRANSPORT_RECORD", "SHMTRANSPORT_RECORD_DIGESTS"}
    named = set(re.findall(r"\bSHMTRANSPORT_[A-Z]+(?:_[A-Z]+)*\b", documents + read))
    assert {name for name in named if "TEST" not in name} - of_demo == set(KNOWN)
    assert Settings.from_environment(dict.fromkeys(KNOWN, "0") | {"SHMTRANSPORT_ENABLE": "0"}).enabled is False


LONG = "/a/path/that/is/longer/than/any/column/of/eighty/has/room/for/so/that/it/has/to/be/broken/somewhere"


@pytest.mark.parametrize("text", ["short", "many words " * 30, LONG])
def test_a_finding_has_lines_of_80_columns_and_its_remedy_below(text: str) -> None:
    lines = rendered(Finding("a check", "warning", text, f"mend {LONG}")).plain.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("warning  a check        ")
    assert sum("->" in line for line in lines) == 1
    assert "".join(line[24:] for line in lines[1:]).replace(" ", "").endswith(LONG)
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        ([], "nothing will fail: all is well\n"),
        (["ok", "warning", "note", "warning"], "nothing will fail: 2 warnings, 1 note\n"),
        (["failure", "ok"], "something will fail: 1 failure\n"),
    ],
)
def test_the_verdict_is_what_the_findings_say(levels: list[Level], text: str) -> None:
    report = Report.of([Finding("a", level, "b") for level in levels])
    assert verdict(report).plain == text
    assert report.ok == ("failure" not in levels)
