"""The policy, edited and tried out: text, mistakes, differences, explained calls, replays, versions."""
