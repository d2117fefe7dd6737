"""The page of benchmarks: what was measured over months, and what has become worse."""
