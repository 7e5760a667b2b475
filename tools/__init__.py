"""Scripts of the maintainers: what makes the files that ship with the package. Not in the wheel."""
