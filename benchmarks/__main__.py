"""`python -m benchmarks`: every benchmark on the embedded model, or on a tiny checkpoint."""

from benchmarks import checkpoint, extraction, generation, steering, tuning

if __name__ == "__main__":
    extraction.main([])
    steering.main([])
    generation.main([])
    tuning.main([])
    checkpoint.main([])
