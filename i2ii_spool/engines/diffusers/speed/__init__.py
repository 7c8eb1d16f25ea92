"""What makes an edit faster: exact optimizations, and lossy ones, which change the result."""
