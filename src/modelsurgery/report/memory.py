"""Memory that this process holds."""

import sys
from pathlib import Path

STATUS_FILE = Path("/proc/self/status")
RESIDENT = "VmRSS:"


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system does not tell."""
    try:
        lines = STATUS_FILE.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith(RESIDENT)]
    return int(kilobytes[0]) * 1024 if kilobytes else None


def gpu_bytes() -> int:
    """Memory of all GPUs that torch holds for this process; 0 before it uses one.

    Torch is asked only if something else has imported it: this is called in verbs that never do,
    and from a thread while the import is under way, when the module is there and still empty.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)
    reserved = getattr(cuda, "memory_reserved", None)
    if cuda is None or is_initialized is None or reserved is None or not is_initialized():
        return 0
    return sum(reserved(device) for device in range(cuda.device_count()))
