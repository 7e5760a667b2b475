"""Files that are whole or absent, and what every file of ours says of itself."""
