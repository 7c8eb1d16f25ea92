"""Pictures: inspected by header and end, decoded in a limited process, read and encoded."""
