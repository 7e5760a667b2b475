"""Train the classifiers that ship with the package, and write what they are worth."""
