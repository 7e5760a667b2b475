"""`python -m benchmarks`: every benchmark on the embedded model."""

from benchmarks import extraction, steering

if __name__ == "__main__":
    extraction.main([])
    steering.main([])
