"""What makes an edit faster: without a change of the result (exact), or with one (lossy)."""
