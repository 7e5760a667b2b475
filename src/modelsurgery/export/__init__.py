"""Delivering edits to the places where people run models: adapters, llama.cpp, the Hub.

An edit is a sum of rank-one updates, so an adapter of it is exact: ΔW = coefficients · directions.
No model is loaded; the checkpoint's headers and the edited rows are read.
"""
