"""Pictures: judged by header and end, judged in a limited process, read and encoded."""
