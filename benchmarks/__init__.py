"""Measurements of this project: what steers best, and what is fast. `make bench` runs them."""
