"""`python -m benchmarks`: every benchmark on the demo model, or on a tiny checkpoint."""

from benchmarks import checkpoint, extraction, generation, memory, steering, tuning

if __name__ == "__main__":
    extraction.main([])
    steering.main([])
    generation.main([])
    tuning.main([])
    checkpoint.main([])
    memory.main(["--shape", "tiny"])
