"""Rules: from texts to the rows of an edit, their coefficients and directions."""
