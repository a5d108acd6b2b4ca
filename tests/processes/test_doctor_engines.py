"""What `shmtransport doctor` says of engines and of CUDA, where the test plays them."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from shmtransport.adapters import sglang
from shmtransport.adapters.seams import Seam
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.vllm import modules
from tests.doctoring import ORPHAN, Examined, examined, run_doctor
from tests.support import ROOT, compile_c, with_shared_memory

pytestmark = pytest.mark.posix

SEAMS = [(module.name, seam) for module in modules(Settings.from_environment({})) for seam in module.seams]


def play(package: str, seams: Sequence[tuple[str, Seam]], folder: Path, body: str = "") -> None:
    """A package with these seams, by module, and nothing else; its modules begin by ``body``."""
    for name in {name for name, _ in seams}:
        path = folder.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        owners: dict[str, str] = {}
        for seam in (seam for module, seam in seams if module == name):
            indent = "    " if seam.owner else ""
            function = (
                f"{indent}def {seam.name}({', '.join(seam.parameters)}):\n{indent}    {seam.mentions or 'None'}\n"
            )
            owners[seam.owner] = owners.get(seam.owner, f"class {seam.owner}:\n" if seam.owner else "") + function
        path.write_text(body + "".join(owners.values()))
    for path in (folder / package, *(path for path in (folder / package).rglob("*") if path.is_dir())):
        (path / "__init__.py").touch()


def play_vllm(folder: Path, *without: str, body: str = "") -> None:
    """A package ``vllm`` with every seam of the plugin but the methods ``without``; its modules begin by ``body``."""
    play("vllm", [(name, seam) for name, seam in SEAMS if seam.name not in without], folder, body)


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Examined]:
    """Examines with what is in ``tmp_path`` to be imported."""
    return lambda **environment: examined(environment={"PYTHONPATH": str(tmp_path), **environment})


def test_a_vllm_with_every_seam_is_fine(tmp_path: Path, ask: Callable[..., Examined]) -> None:
    play_vllm(tmp_path)
    found = ask()
    assert found.of("vllm", "ok").text == "vLLM of an unknown version, which loads the plugin"
    assert found.of("vllm seams", "ok").text.startswith(f"{len(SEAMS)} of {len(SEAMS)} found")
    assert found.status == 0


def test_looking_changes_nothing_not_even_an_orphan(tmp_path: Path) -> None:
    """The plugin's own modules are loaded for that, which sweep when a process ends."""
    play_vllm(tmp_path)
    count = "import atexit; atexit.register(lambda: sys.stderr.write(str(len(os.listdir('/dev/shm')))))"
    ran = run_doctor(
        prefix=with_shared_memory("size=64m"),
        before=f"{ORPHAN}\n{count}",
        environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert "left by processes that are dead" in " ".join(ran.stdout.split())
    assert f"{len(SEAMS)} of {len(SEAMS)} found" in ran.stdout
    assert ran.stderr == "2", "the names of its two segments"


def test_a_seam_that_is_missing_is_named_with_its_remedy(tmp_path: Path, ask: Callable[..., Examined]) -> None:
    play_vllm(tmp_path, "preprocess_add_request", "_process_singleton")
    found = ask()
    missing = found.of("vllm seams", "failure")
    assert "vllm.v1.engine.core.EngineCore.preprocess_add_request is not there" in missing.text
    assert missing.remedy.startswith("install a vLLM")
    assert "BaseRenderer._process_singleton is not there" in found.of("vllm seams", "note").text
    assert found.of("vllm seams", "ok").text.startswith(f"{len(SEAMS) - 2} of {len(SEAMS)} found")
    assert found.status == 1


def test_a_whole_module_that_is_missing_is_as_many_seams(tmp_path: Path, ask: Callable[..., Examined]) -> None:
    play_vllm(tmp_path)
    (tmp_path / "vllm" / "v1" / "serial_utils.py").unlink()
    assert "vllm.v1.serial_utils.MsgpackEncoder.__init__ is not there" in ask().of("vllm seams", "failure").text


def test_what_vllm_prints_is_no_answer_and_a_failing_import_is_named(
    tmp_path: Path, ask: Callable[..., Examined]
) -> None:
    play_vllm(tmp_path, body="print('hello')\n")
    (tmp_path / "vllm" / "v1" / "serial_utils.py").write_text("import libcudart_of_no_release")
    found = ask()
    assert "libcudart_of_no_release" in found.of("vllm seams", "warning").text
    assert found.of("vllm seams", "warning").remedy == "python -c 'import vllm'"
    assert found.status == 0


def test_a_vllm_that_ends_its_process_is_named(tmp_path: Path, ask: Callable[..., Examined]) -> None:
    play_vllm(tmp_path, body="import os, sys; sys.stderr.write('no such instruction\\n'); os._exit(3)\n")
    assert "importing vLLM failed: no such instruction" in ask().of("vllm seams", "warning").text


def test_a_vllm_that_is_told_to_load_other_plugins_only_is_named(tmp_path: Path, ask: Callable[..., Examined]) -> None:
    play_vllm(tmp_path)
    named = ask(VLLM_PLUGINS="lora_filesystem_resolver").of("vllm", "warning")
    assert named.remedy == "VLLM_PLUGINS=lora_filesystem_resolver,shmtransport"


def test_a_folder_that_is_called_vllm_is_none(tmp_path: Path, ask: Callable[..., Examined]) -> None:
    (tmp_path / "vllm").mkdir()
    assert ask().of("vllm", "ok").text.startswith("not installed")


def play_sglang(folder: Path, *without: str) -> int:
    """A package ``sglang`` with every seam of its plugin but those ``without``; how many there are."""
    seams = [(module.name, seam) for module in sglang.modules(Settings.from_environment({})) for seam in module.seams]
    play("sglang", [(name, seam) for name, seam in seams if seam.name not in without], folder)
    return len(seams)


def test_an_sglang_with_every_seam_is_fine(tmp_path: Path, ask: Callable[..., Examined]) -> None:
    seams = play_sglang(tmp_path)
    found = ask()
    assert found.of("sglang", "ok").text == "SGLang of an unknown version, which loads the plugin"
    assert found.of("sglang seams", "ok").text.startswith(f"{seams} of {seams} found")


def test_a_seam_that_sglang_lacks_is_named(tmp_path: Path, ask: Callable[..., Examined]) -> None:
    play_sglang(tmp_path, "_wrap_shm_or_inline")
    missing = ask().of("sglang seams", "failure")
    assert "sglang.srt.managers.mm_utils._wrap_shm_or_inline is not there" in missing.text
    assert "docs/sglang.md" in missing.remedy


def test_an_sglang_that_is_told_to_load_other_plugins_only_is_named(
    tmp_path: Path, ask: Callable[..., Examined]
) -> None:
    play_sglang(tmp_path)
    assert ask(SGLANG_PLUGINS="mine").of("sglang", "warning").remedy == "SGLANG_PLUGINS=mine,shmtransport"
    assert ask(SGLANG_PLUGINS="").of("sglang", "ok").text.endswith("which loads the plugin")


OLD_DRIVER = "int cuDeviceGetCount(int *n) { return *n = 1, 0; }"
NEEDED = (
    "cuDeviceGet cuDevicePrimaryCtxGetState cuDevicePrimaryCtxRetain cuCtxPushCurrent_v2 cuCtxPopCurrent_v2 "
    "cuMemHostRegister_v2 cuMemHostUnregister cuEventCreate cuEventQuery cuCtxRecordEvent "
    "cuThreadExchangeStreamCaptureMode"
).split()
DRIVER = f"""
#include <stdlib.h>
#include <string.h>
{OLD_DRIVER}
int cuInit(unsigned none) {{ return (void)none, atoi(getenv("INIT")); }}
int cuDeviceGetName(char *name, int n, int device) {{ return (void)device, strncpy(name, "A card", n), 0; }}
int cuDeviceGetAttribute(int *value, int which, int device) {{ return (void)device, *value = which != 113, 0; }}
int cuDriverGetVersion(int *version) {{ return *version = 13020, 0; }}
int cuDeviceGet(int *device, int ordinal) {{ return *device = ordinal, 0; }}
{"".join(f"int {name}(void) {{ abort(); }}" for name in NEEDED if name != "cuDeviceGet")}
"""


@pytest.mark.parametrize(
    ("source", "init", "level", "text", "remedy"),
    [
        (OLD_DRIVER, "0", "warning", "expected a driver of CUDA 12.5 or newer, this one has no cu", "release 555"),
        (DRIVER, "999", "warning", "got: cuInit answered 999", "nvidia-smi"),
        (DRIVER, "100", "note", "CUDA 13.2, but this process sees no device", "docker run --gpus all"),
        (DRIVER, "0", "note", "1 x A card, CUDA 13.2, but this torch", "install a torch with CUDA"),
    ],
)
def test_a_driver_that_cannot_register_is_named(
    tmp_path: Path, source: str, init: str, level: str, text: str, remedy: str
) -> None:
    """torch has no CUDA here: what it has is for the machine with a GPU. No context is made: that would abort."""
    (tmp_path / "driver.c").write_text(source)
    compile_c("-shared", "-fPIC", tmp_path / "driver.c", "-o", tmp_path / "libcuda.so.1")
    search = ":".join(filter(None, [str(tmp_path), os.environ.get("LD_LIBRARY_PATH")]))
    found = examined(environment={"LD_LIBRARY_PATH": search, "INIT": init}).of("cuda", level)
    assert re.search(re.escape(text), found.text)
    assert remedy in found.remedy
