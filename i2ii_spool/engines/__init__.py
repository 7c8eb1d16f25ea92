"""What edits pictures. An engine is known to its worker alone."""
