"""The routing decision: pure functions over values. No I/O, no clock, no chance: `now` and `draw` are arguments."""
