"""The child process that asks a CUDA driver for its devices; prints JSON: the release, and what each device can.

Started by its path, so that nothing of the package is imported, torch least of all. It makes no context: that would
take memory of a device which others use, and all of one in exclusive mode. Asking does neither.
"""

import ctypes
import json
import sys
from typing import Any

DRIVER = "libcuda.so.1"
_NO_DEVICE = 100  # CUresult in cuda.h
_HOST_REGISTER_SUPPORTED = 99  # CUdevice_attribute in cuda.h
_READ_ONLY_HOST_REGISTER_SUPPORTED = 113


def _ask(driver: Any, name: str, *arguments: object) -> None:
    """Calls the driver; ends the process, saying so, unless it answers CUDA_SUCCESS."""
    if (code := getattr(driver, name)(*arguments)) != 0:
        sys.exit(f"{name} answered {code}")


def _integer(driver: Any, name: str, *arguments: object) -> int:
    number = ctypes.c_int()
    _ask(driver, name, ctypes.byref(number), *arguments)
    return number.value


def _length(driver: Any) -> int:
    """How many devices this process sees."""
    if driver.cuInit(0) == _NO_DEVICE:
        return 0
    _ask(driver, "cuInit", 0)
    return _integer(driver, "cuDeviceGetCount")


def main() -> None:
    """The process, from its start to its end."""
    driver = ctypes.CDLL(DRIVER)
    devices = []
    for ordinal in range(_length(driver)):
        device = _integer(driver, "cuDeviceGet", ordinal)
        name = ctypes.create_string_buffer(256)
        _ask(driver, "cuDeviceGetName", name, len(name), device)
        registers, read_only = (
            _integer(driver, "cuDeviceGetAttribute", attribute, device)
            for attribute in (_HOST_REGISTER_SUPPORTED, _READ_ONLY_HOST_REGISTER_SUPPORTED)
        )
        devices.append({"name": name.value.decode(), "registers": bool(registers), "read_only": bool(read_only)})
    sys.stdout.write(json.dumps({"release": _integer(driver, "cuDriverGetVersion"), "devices": devices}))


if __name__ == "__main__":
    main()
