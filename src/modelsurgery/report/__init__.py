"""Showing results to people. Reads plain values (`results.json`), measures nothing."""
