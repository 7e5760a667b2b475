"""What kind of file one is by its first bytes, whatever it is called."""

from pathlib import Path

GGUF_MAGIC = b"GGUF"  # no safetensors file begins so: its header would be longer than allowed


def begins_as_gguf(path: Path) -> bool:
    """Whether there is a file with the first bytes of GGUF; false where it cannot be read."""
    try:
        if not path.is_file():  # a pipe would wait for its writer
            return False
        with path.open("rb", buffering=0) as file:
            return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    except (OSError, ValueError):  # no right to read it, a name too long or with a zero byte
        return False
