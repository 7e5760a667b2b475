"""What an edit is and how it is chosen: probe, region, coefficients. No model is loaded."""
