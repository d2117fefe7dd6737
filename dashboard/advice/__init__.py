"""What an operator might do now, read off the calls of a span."""
