"""A hundred thousand damaged and hostile GGUF files: read alike or refused in one line, never else.

    PYTHONPATH=tests python -m benchmarks.hostile_gguf [--files 100000] [--seed 1]

Files are those of the tests: bits flipped, parts cut, repeated and moved, and numbers of the header
replaced by strange ones (0, 2^31, 2^63 and their neighbors). All headers are read, and of one file
in ten the gate rows too. Anything but an answer or an error of ours ends the program.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hostile_gguf import fuzz, sound_file


def main(arguments: Sequence[str] | None = None) -> None:
    """Try them and print a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        sound = sound_file(Path(place))
        fuzz(sound, Path(place) / "hostile.gguf", 100, 0)  # imports what is imported late
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        path = Path(place) / "hostile.gguf"
        read, refused = fuzz(sound, path, options.files, options.seed)
        seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{options.files:,} files: {read:,} read, {refused:,} refused in one line, "
        f"{options.files - read - refused} otherwise; {seconds:.0f} s of one core, "
        f"peak memory {grown / 1024:.0f} MB above that of the start"
    )


if __name__ == "__main__":
    main()
